"""Reading proposals back from JSON Lines, and giving each annotated image its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import AnnotationError

if TYPE_CHECKING:
    from .data.records import ImageRecord

Found = tuple[np.ndarray, np.ndarray]  # boxes (n, 4) xyxy, px in the original image; scores (n,)


def read_proposals(path: Path) -> dict[str, Found]:
    """The proposals of every file that a run of `objectness propose` could read.

    Args:
        path: JSON Lines; a line with `error` counts as an image without proposals.

    Returns:
        boxes and scores by the lines' `file`.

    Raises:
        AnnotationError: the file cannot be read, or a line is no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            boxes = np.array(values.get("boxes", []), dtype=np.float64).reshape(-1, 4)
            scores = np.array(values.get("scores", []), dtype=np.float64)
            if len(boxes) != len(scores):
                raise ValueError(f"{len(boxes)} boxes and {len(scores)} scores")
            found[str(values["file"])] = (boxes, scores)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnnotationError(
                f"{path}: line {number} is no line of proposals ({error}); make the file again"
            ) from error
    return found


def match_proposals(found: dict[str, Found], records: Sequence[ImageRecord], origin: str) -> list[Found]:
    """For every annotated image the proposals whose file has its name.

    Args:
        found: as `read_proposals` gives them; files match by their path, else by their bare name.
        records: the annotated images.
        origin: what the proposals were read from, for messages.

    Raises:
        AnnotationError: an annotated image has no line, so that recall would count it as missed by mistake.
    """
    by_path = {Path(file).resolve(): pair for file, pair in found.items()}
    by_name = {Path(file).name: pair for file, pair in found.items()}
    matched, missing = [], []
    for record in records:
        pair = by_path.get(record.path.resolve(), by_name.get(record.path.name))
        matched.append(pair if pair is not None else (np.zeros((0, 4)), np.zeros(0)))
        if pair is None:
            missing.append(record.file)
    if missing:
        raise AnnotationError(
            f"{origin}: has no line for {len(missing)} of {len(records)} annotated images (the first is {missing[0]}); "
            f"propose on all of them first"
        )
    return matched
