"""Reading proposals back from JSON Lines, and giving each annotated image its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import AnnotationError

if TYPE_CHECKING:
    from .data.records import ImageRecord


class Found(NamedTuple):
    """One line."""

    boxes: np.ndarray  # (n, 4) float64 xyxy, px in the original image
    scores: np.ndarray  # (n,) float64
    size: tuple[int, int] | None  # (height, width) of the original image, px; None where the line does not say


def read_proposals(path: Path) -> dict[str, Found]:
    """The proposals of every file that a run of `objectness propose` was given.

    Args:
        path: JSON Lines; a line with `error` counts as an image without proposals.

    Returns:
        Boxes and scores by the lines' `file`.

    Raises:
        AnnotationError: the file cannot be read, a line is no such line, or two are about the same file.
    """
    found: dict[str, Found] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                file, each = _parse(line, f"{path}: line {number}")
                if file in found:
                    raise AnnotationError(f"{path}: line {number} is a second one about {file}; remove one of them")
                found[file] = each
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    return found


def match_proposals(
    found: Mapping[str, Found], records: Sequence[ImageRecord], origin: str
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
    files: dict[str, list[str]] = {}  # by their bare names
    for file in found:
        files.setdefault(Path(file).name, []).append(file)
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


def _parse(line: bytes, where: str) -> tuple[str, Found]:
    try:
        values = json.loads(line)
        boxes = np.array(values.get("boxes", []), dtype=np.float64).reshape(-1, 4)
        scores = np.array(values.get("scores", []), dtype=np.float64).reshape(-1)
        if len(boxes) != len(scores):
            raise ValueError(f"{len(boxes)} boxes and {len(scores)} scores")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("a number that is not finite")
        size = (int(values["height"]), int(values["width"])) if "height" in values else None
        return str(values["file"]), Found(boxes, scores, size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise AnnotationError(f"{where} is no line of proposals ({reason}); make the file again") from error


def _match(image: Path, files: Sequence[str], origin: str) -> str | None:
    """The file, out of some with the image's name, that is the image; None where there is none."""

    def count_alike(file: str) -> int:
        pairs = zip(reversed(_split(image)), reversed(_split(Path(file))), strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    best = sorted(files, key=count_alike, reverse=True)[:2]
    if len(best) == 2 and count_alike(best[0]) == count_alike(best[1]):
        raise AnnotationError(f"{origin}: {best[0]} and {best[1]} may both be {image}; propose on one of them only")
    return best[0] if best else None


def _split(path: Path) -> tuple[str, ...]:
    return Path(os.path.normpath(path.absolute())).parts  # links stay what they are called


def _take(found: Found, record: ImageRecord, origin: str) -> tuple[np.ndarray, np.ndarray]:
    size = (record.height, record.width)
    if found.size not in (None, size):
        raise AnnotationError(
            f"{origin}: the proposals of {record.file} are for {found.size[1]} x {found.size[0]} px, its annotations "
            f"for {size[1]} x {size[0]}; propose on the annotated images"
        )
    return found.boxes, found.scores
