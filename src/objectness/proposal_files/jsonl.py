"""JSON Lines: a line for each image, with its proposals or what went wrong.

    {"file": "a.jpg", "image_id": 17, "width": 640, "height": 427, "boxes": [[x1, y1, x2, y2], ...], "scores": [...],
     "logits": [...], "levels": [...]}
    {"file": "b.jpg", "error": "b.jpg: ends early"}

`objectness propose` writes lines without ids and logits, its numbers rounded; `image_id`, `width` and `height`,
`levels`, and one of `scores` and `logits` may be missing in what is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import AnnotationError
from ..lines import make_line
from .record import ImageProposals, make_image


def read_proposals(path: Path) -> dict[str, ImageProposals]:
    """The proposals of every file that a run of `objectness propose` was given.

    Args:
        path: JSON Lines; a line with `error` counts as an image without proposals.

    Returns:
        What is known of each by the lines' `file`.

    Raises:
        AnnotationError: as `read_lines` does.
    """
    return {str(image.file): image for image in read_lines(path)}


def read_lines(path: Path) -> Iterator[ImageProposals]:
    """Read JSON Lines one by one.

    Raises:
        AnnotationError: the file cannot be read, a line is no such line, or two are about the same file.
    """
    files = set()
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                image = _parse(line, f"{path}: line {number}")
                if image.file in files:
                    raise AnnotationError(
                        f"{path}: line {number} is a second one about {image.file}; remove one of them"
                    )
                files.add(image.file)
                yield image
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error


def write_lines(path: Path, images: Iterable[ImageProposals]) -> None:
    """Write JSON Lines one by one, every number in full; logits and levels where they are known."""
    with path.open("w", encoding="ascii", newline="\n") as lines:
        for image in images:
            lines.write(_to_line(image) + "\n")


def _parse(line: bytes, where: str) -> ImageProposals:
    try:
        values = json.loads(line)
        size = (values["height"], values["width"]) if "height" in values else None
        lists = [values.get(name) for name in ("scores", "logits", "levels")]
        error = values.get("error")
        return make_image(
            values.get("boxes", []),
            *lists,
            file=str(values["file"]),
            image_id=values.get("image_id"),
            size=size,
            error=None if error is None else str(error),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise AnnotationError(f"{where} is no line of proposals ({reason}); make the file again") from error


def _to_line(image: ImageProposals) -> str:
    values: dict[str, object] = {}
    if image.image_id is not None:
        values["image_id"] = image.image_id
    if image.size is not None:
        values |= {"width": image.size[1], "height": image.size[0]}
    if image.error is not None:
        values["error"] = image.error
    if image.error is None or len(image):
        values["boxes"], values["scores"] = image.boxes.tolist(), image.to_scores().tolist()
        values |= {name: known.tolist() for name in ("logits", "levels") if (known := getattr(image, name)) is not None}
    return make_line(image.file, values)
