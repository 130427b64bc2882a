"""Which lines of a file are about which annotated images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import AnnotationError
from .record import ImageProposals

if TYPE_CHECKING:
    from ..data.records import ImageRecord


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
