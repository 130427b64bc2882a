"""A line of JSON about one image file, as everything here writes it.

`file` comes first, so that a line can be told by how it starts. ASCII, so that any name survives any encoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping


def start_line(file: str) -> str:
    """How a file's line starts: `{"file": "photos/a.jpg"`."""
    return json.dumps({"file": file})[:-1]


def make_line(file: str | None, values: Mapping[str, object]) -> str:
    """A file's line, without its end.

    Args:
        file: as the line shall name it, folders apart by "/"; None leaves it out.
        values: everything else, in order.

    Raises:
        ValueError: a number that is not finite, for which JSON has no word.
    """
    named = {} if file is None else {"file": file}
    return json.dumps({**named, **values}, allow_nan=False)
