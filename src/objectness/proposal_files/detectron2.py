"""detectron2's box_proposals.pkl: a dict of `ids`, `boxes`, `objectness_logits` and `bbox_mode`.

Its loader looks images up by their ids as strings, so that they may stand in any order, and needs every image of the
data set. It takes Detectron's names `indexes` and `scores` as well. Arrays are float32.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..pickles import Inert, write_arrays
from .decimals import add, widen
from .notes import Notes
from .record import CLOSEST_TO_SURE, ImageProposals, make_image

BOX_MODE = "detectron2.structures.boxes.BoxMode"
XYXY_ABS, XYWH_ABS = 0, 1


def is_detectron2(content: Any) -> bool:
    """Whether a pickle's content has the keys that only detectron2 writes."""
    return (
        isinstance(content, dict) and "boxes" in content and not {"objectness_logits", "bbox_mode"}.isdisjoint(content)
    )


def read_detectron2(path: Path, content: Any) -> Iterator[ImageProposals]:
    """The images of a file's content, in its order.

    Raises:
        AnnotationError: it is none of detectron2's, boxes have an unknown mode, or an image is bad.
    """
    mode = _read_mode(path, content)
    for image_id, boxes, logits, scores in iterate_images(path, content, ("objectness_logits", "scores")):
        try:
            corners = widen(np.asarray(boxes))
            if mode == XYWH_ABS and corners.size:
                corners[:, 2:] = add(corners[:, :2], corners[:, 2:])
            widened = [None if values is None else widen(np.asarray(values)) for values in (scores, logits)]
            yield make_image(corners, *widened, image_id=image_id)
        except (ValueError, TypeError, OverflowError, LookupError) as error:
            raise AnnotationError(f"{path}: image {image_id}: {error}; make the file again") from error


def write_detectron2(path: Path, images: Iterable[ImageProposals], origin: str, notes: Notes) -> None:
    """Write a file for detectron2, images in their order.

    Args:
        path: of the new file.
        images: with ids.
        origin: where they come from, for messages.
        notes: told of scores whose logits would not be finite.

    Raises:
        AnnotationError: a score is no probability, so that it has no logit.
    """
    ids, boxes, logits = [], [], []
    for image in images:
        try:
            logits.append(image.to_logits().astype(np.float32))
        except ValueError as error:
            raise AnnotationError(f"{origin}: image {image.image_id}: {error}, which detectron2 needs") from error
        if image.logits is None and np.isin(image.to_scores(), (0, 1)).any():
            bound = -np.log(CLOSEST_TO_SURE)
            notes.add(f"scores of exactly 0 or 1 in {{images}} written as logits of -{bound:.1f} and {bound:.1f}")
        ids.append(image.image_id)
        boxes.append(image.boxes.astype(np.float32))
    write_arrays(path, {"ids": ids, "boxes": boxes, "objectness_logits": logits, "bbox_mode": XYXY_ABS})


def iterate_images(path: Path, content: Any, keys: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """For every image of detectron2's or Detectron's dict its id, its boxes and what else is asked for, or None.

    Args:
        path: for messages.
        content: of the pickle.
        keys: of lists with an entry for each image; at least one must be there.

    Raises:
        AnnotationError: lists are missing or of different lengths.
    """
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: holds a {type(content).__name__}, not the dict that Detectron writes")
    ids = content.get("ids", content.get("indexes"))
    lists: dict[str, Any] = {"ids": ids, "boxes": content.get("boxes")}
    lists |= {key: content[key] for key in keys if key in content}
    for name, values in lists.items():
        if not isinstance(values, list | tuple | np.ndarray):
            raise AnnotationError(f"{path}: has no list of {name}; name its format if it is another one's")
    if len(lists) == 2:
        raise AnnotationError(f"{path}: has no list of {' or '.join(keys)}; boxes without either have no order")
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise AnnotationError(f"{path}: its lists are of different lengths ({shown}); make the file again")
    columns = [lists.get(key, [None] * lengths["ids"]) for key in ("ids", "boxes", *keys)]
    yield from zip(*columns, strict=True)


def _read_mode(path: Path, content: Any) -> int:
    mode = content.get("bbox_mode", XYXY_ABS) if isinstance(content, dict) else XYXY_ABS
    if isinstance(mode, Inert) and len(mode.args) == 1:
        (mode,) = mode.args
    if not isinstance(mode, int | np.integer) or mode not in (XYXY_ABS, XYWH_ABS):
        shown = reprlib.repr(mode)
        raise AnnotationError(f"{path}: has boxes in the mode {shown}; only XYXY_ABS (0) and XYWH_ABS (1) can be read")
    return int(mode)
