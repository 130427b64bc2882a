"""Proposals in files: what is known of one image, and JSON Lines, a line for each image.

    {"file": "a.jpg", "image_id": 17, "width": 640, "height": 427, "boxes": [[x1, y1, x2, y2], ...], "scores": [...],
     "logits": [...], "levels": [...]}
    {"file": "b.jpg", "error": "b.jpg: ends early"}

`objectness propose` writes lines without ids and logits, its numbers rounded; `image_id`, `width` and `height`,
`levels`, and one of `scores` and `logits` may be missing in what is read.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import AnnotationError

if TYPE_CHECKING:
    from .data.records import ImageRecord

CLOSEST_TO_SURE = 2.0**-53  # what scores of exactly 0 and 1 are kept away from them, so that their logits are finite


@dataclass(frozen=True, eq=False)
class ImageProposals:
    """What a file says about one image.

    Attributes:
        boxes: (n, 4) float64 xyxy, px in the original image, at edges; n = 0 is ordinary.
        scores: (n,) float64, in [0, 1] unless somebody else's are not; None where only logits are known.
        logits: (n,) float64; None where only scores are known.
        levels: (n,) int64, the pyramid level that each comes from; None where unknown.
        file: the image's path as the file names it; None where it goes by ids alone.
        image_id: COCO's; None where the file goes by paths alone.
        size: (height, width) of the original image, px; None where unknown.
        error: why there are no proposals; None where nothing failed.
    """

    boxes: np.ndarray
    scores: np.ndarray | None
    logits: np.ndarray | None = None
    levels: np.ndarray | None = None
    file: str | None = None
    image_id: int | str | None = None
    size: tuple[int, int] | None = None
    error: str | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to_scores(self) -> np.ndarray:
        """(n,) float64: the scores, or where there are none the logits' sigmoid."""
        if self.scores is not None:
            return self.scores
        assert self.logits is not None
        scores: np.ndarray = np.exp(-np.logaddexp(0, -self.logits))
        return scores

    def to_logits(self) -> np.ndarray:
        """(n,) float64: the logits, or where there are none the inverse of the scores' sigmoid, within -36.7..36.7.

        Raises:
            ValueError: a score is no probability.
        """
        if self.logits is not None:
            return self.logits
        assert self.scores is not None
        beyond = np.flatnonzero((self.scores < 0) | (self.scores > 1))
        if len(beyond):
            raise ValueError(f"the score {self.scores[beyond[0]]:g} is not in [0, 1], so that it has no logit")
        scores = self.scores.clip(CLOSEST_TO_SURE, 1 - CLOSEST_TO_SURE)
        logits: np.ndarray = np.log(scores) - np.log1p(-scores)
        return logits


def make_image(
    boxes: Any,
    scores: Any = None,
    logits: Any = None,
    levels: Any = None,
    *,
    file: str | None = None,
    image_id: Any = None,
    size: tuple[int, int] | None = None,
    error: str | None = None,
) -> ImageProposals:
    """Check what some file says about one image.

    Args:
        boxes: (n, 4) numbers, xyxy, or anything empty.
        scores: (n,) numbers.
        logits: (n,) numbers; one of the two may be None, both where there are no boxes.
        levels: (n,) integers or None.
        file: the rest as in `ImageProposals`.
        image_id: an integer, a string or None.
        size: of the image.
        error: what failed.

    Raises:
        ValueError, TypeError, OverflowError: it cannot be so; the message is half a sentence.
    """
    known = _take_boxes(boxes)
    lists = {"scores": scores, "logits": logits, "levels": levels}
    if scores is None and logits is None:
        lists["scores"] = ()
    taken = {name: _take_list(values, name, len(known)) for name, values in lists.items()}
    if isinstance(image_id, np.integer):
        image_id = int(image_id)
    if isinstance(image_id, bool) or not isinstance(image_id, int | str | None):
        raise ValueError(f"the image id {reprlib.repr(image_id)} is no integer and no string")
    if size is not None:
        size = (int(size[0]), int(size[1]))
        if min(size) < 1:
            raise ValueError(f"an image of {size[1]} x {size[0]} px")
    return ImageProposals(known, **taken, file=file, image_id=image_id, size=size, error=error)


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


def match_proposals(
    found: Mapping[str, ImageProposals], records: Sequence[ImageRecord], origin: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every annotated image the proposals that are about its file.

    That is the line whose path is the image's or, since files are often moved, the one with the same name and the most
    folders above it alike.

    Args:
        found: as `read_proposals` gives them.
        records: the annotated images.
        origin: what the proposals were read from, for messages.

    Returns:
        Boxes (n, 4) and scores (n,) for each record.

    Raises:
        AnnotationError: an annotated image has no line, so that recall would count it as missed by mistake; it may
            have one of several; or its line is about an image of another size.
    """
    files = group_by_name(found)
    matches = [_match(record.path, files.get(record.path.name, []), origin) for record in records]
    missing = [record.file for record, file in zip(records, matches, strict=True) if file is None]
    if missing:
        raise AnnotationError(
            f"{origin}: has no line for {len(missing)} of {len(records)} annotated images (the first is {missing[0]}); "
            f"propose on all of them first"
        )
    owners: dict[str, Path] = {}
    matched = []
    for match, record in zip(matches, records, strict=True):
        file = str(match)  # never None here
        if owners.setdefault(file, record.path) != record.path:
            raise AnnotationError(
                f"{origin}: {file} may be {owners[file]} or {record.path}; propose on the annotated images themselves"
            )
        matched.append(_take(found[file], record, origin))
    return matched


def group_by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """Paths by their bare names."""
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(Path(file).name, []).append(file)
    return groups


def find_alike(path: Path, files: Sequence[str]) -> list[str]:
    """Those of some paths with a name in common that have the most folders above it alike; several where they tie."""
    if len(files) < 2:
        return list(files)

    def count_alike(file: str) -> int:
        pairs = zip(reversed(_split(path)), reversed(_split(Path(file))), strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    counts = [count_alike(file) for file in files]
    return [file for file, count in zip(files, counts, strict=True) if count == max(counts)]


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
    values: dict[str, object] = {"file": image.file}
    if image.image_id is not None:
        values["image_id"] = image.image_id
    if image.size is not None:
        values |= {"width": image.size[1], "height": image.size[0]}
    if image.error is not None:
        values["error"] = image.error
    if image.error is None or len(image):
        values["boxes"], values["scores"] = image.boxes.tolist(), image.to_scores().tolist()
        values |= {name: known.tolist() for name in ("logits", "levels") if (known := getattr(image, name)) is not None}
    return json.dumps(values, allow_nan=False)


def _take_boxes(values: Any) -> np.ndarray:
    boxes = np.asarray(values, dtype=np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes of the shape {boxes.shape}, not (n, 4)")
    if not np.isfinite(boxes).all():
        raise ValueError("a number that is not finite")
    inverted = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(inverted):
        raise ValueError(f"box {inverted[0]}, {boxes[inverted[0]].tolist()}, ends before it begins")
    return boxes


def _take_list(values: Any, name: str, count: int) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values)
    if name == "levels" and array.size and array.dtype.kind not in "iu":
        raise ValueError("levels that are no integers")
    array = array.astype(np.int64 if name == "levels" else np.float64).reshape(-1)
    if len(array) != count:
        raise ValueError(f"{count} boxes and {len(array)} {name}")
    if not np.isfinite(array).all():
        raise ValueError("a number that is not finite")
    return array


def _match(image: Path, files: Sequence[str], origin: str) -> str | None:
    """The file, out of some with the image's name, that is the image; None where there is none."""
    best = find_alike(image, files)
    if len(best) > 1:
        raise AnnotationError(f"{origin}: {best[0]} and {best[1]} may both be {image}; propose on one of them only")
    return best[0] if best else None


def _split(path: Path) -> tuple[str, ...]:
    return Path(os.path.normpath(path.absolute())).parts  # links stay what they are called


def _take(found: ImageProposals, record: ImageRecord, origin: str) -> tuple[np.ndarray, np.ndarray]:
    size = (record.height, record.width)
    if found.size not in (None, size):
        raise AnnotationError(
            f"{origin}: the proposals of {record.file} are for {found.size[1]} x {found.size[0]} px, its annotations "
            f"for {size[1]} x {size[0]}; propose on the annotated images"
        )
    return found.boxes, found.to_scores()
