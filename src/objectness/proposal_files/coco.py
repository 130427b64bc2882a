"""COCO results: one JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}, a box each.

pycocotools' `loadRes` reads it. It names an image by having a box in it, and so does not tell an image without
proposals from one that nobody looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import read_bytes
from ..errors import AnnotationError
from .decimals import add
from .image_index import ImageIndex
from .notes import Notes
from .record import ImageProposals, make_image

CATEGORY = 1  # of every box: ours have no class


def read_coco(path: Path, index: ImageIndex | None, notes: Notes) -> Iterator[ImageProposals]:
    """Read COCO results, images in the order in which they come first.

    Args:
        path: of the file.
        index: its images without results come last, as images without proposals.
        notes: told of these, and of categories.

    Raises:
        AnnotationError: no JSON, no results, or an image with a bad box.
    """
    boxes: dict[Any, list[Any]] = {}
    scores: dict[Any, list[Any]] = {}
    categories = set()
    for number, entry in enumerate(_load(path)):
        try:
            image_id, category = entry["image_id"], entry.get("category_id")
            boxes.setdefault(image_id, []).append(entry["bbox"])
            scores.setdefault(image_id, []).append(entry["score"])
            categories.add(category)
        except (LookupError, TypeError, AttributeError) as error:
            raise AnnotationError(
                f"{path}: entry {number} is no result with image_id, bbox and score ({error}); write the file again"
            ) from error
    for image_id, corners in boxes.items():
        if len(categories) > 1:
            notes.add(f"the {len(categories)} categories of boxes in {{images}} left out: proposals have none")
        try:
            yield make_image(_to_xyxy(corners), scores[image_id], image_id=image_id)
        except (ValueError, TypeError, OverflowError) as error:
            raise AnnotationError(f"{path}: image {image_id}: {error}; write the file again") from error
    found = {str(image_id) for image_id in boxes}
    if index is None:
        return
    for known in index.images:
        if str(known.image_id) not in found:
            notes.add(f"{{images}} of {index.source} without a result taken as images without proposals")
            yield make_image([], image_id=known.image_id)


def write_coco(path: Path, images: Iterable[ImageProposals]) -> None:
    """Write COCO results, a line for each box."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        separator = "[\n"
        for image in images:
            start = f'{{"image_id": {json.dumps(image.image_id)}, "category_id": {CATEGORY}, "bbox": '
            for box, score in zip(_to_xywh(image.boxes).tolist(), image.to_scores().tolist(), strict=True):
                file.write(f'{separator}{start}{box}, "score": {score}}}')  # finite floats are the same in JSON
                separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _load(path: Path) -> list[Any]:
    try:
        document = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: is not valid JSON ({error}); write the file again") from error
    if isinstance(document, dict) and "annotations" in document:
        raise AnnotationError(f"{path}: holds COCO annotations, not results; pass these as --annotations")
    if not isinstance(document, list):
        raise AnnotationError(f"{path}: holds no COCO results, which are a list of boxes with scores")
    return document


def _to_xyxy(boxes: list[Any]) -> np.ndarray:
    corners = np.array(boxes, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError("a bbox that is not four numbers")
    return np.hstack([corners[:, :2], add(corners[:, :2], corners[:, 2:])])


def _to_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], add(boxes[:, 2:], -boxes[:, :2])])
