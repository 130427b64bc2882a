"""Detectron's rpn_proposals.pkl: a dict of `boxes`, `scores`, `ids` and `cfg`.

Its boxes end with the last pixel that they hold, so that a width is x2 - x1 + 1; here they end at that pixel's far
edge, one further. Its loader sorts images by id, needs every image of the data set, and cuts each list from the front.
Arrays are float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..pickles import write_arrays
from .decimals import shorten, widen
from .detectron2 import iterate_images
from .record import ImageProposals, make_image

LAST_PIXEL = np.array([0.0, 0, 1, 1])  # from a box's edges to its first and last pixels, px


def is_detectron(content: Any) -> bool:
    """Whether a pickle's content has Detectron's keys."""
    return isinstance(content, dict) and {"boxes", "scores"} <= content.keys()


def read_detectron(path: Path, content: Any) -> Iterator[ImageProposals]:
    """The images of a file's content, in its order.

    Raises:
        AnnotationError: it is none of Detectron's, or an image is bad.
    """
    for image_id, pixels, scores in iterate_images(path, content, ("scores",)):
        try:
            yield make_image(_to_edges(np.asarray(pixels)), widen(np.asarray(scores)), image_id=image_id)
        except (ValueError, TypeError, OverflowError) as error:
            raise AnnotationError(f"{path}: image {image_id}: {error}; make the file again") from error


def write_detectron(path: Path, images: Iterable[ImageProposals]) -> None:
    """Write a file for Detectron, each image's best boxes first."""
    content: dict[str, Any] = {"boxes": [], "scores": [], "ids": [], "cfg": ""}
    for image in images:
        scores = image.to_scores()
        order = np.argsort(-scores, kind="stable")
        content["boxes"].append((image.boxes - LAST_PIXEL)[order].astype(np.float32))
        content["scores"].append(scores[order].astype(np.float32))
        content["ids"].append(image.image_id)
    write_arrays(path, content)


def _to_edges(pixels: np.ndarray) -> np.ndarray:
    if pixels.size == 0:
        return np.zeros((0, 4))
    edges = pixels + LAST_PIXEL
    return shorten(edges, lambda rounded: (rounded - LAST_PIXEL).astype(pixels.dtype) == pixels)
