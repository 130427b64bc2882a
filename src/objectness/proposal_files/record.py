"""What is known of the proposals of one image, whatever file they are in."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np

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
