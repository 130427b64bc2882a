"""What travels between the parts, and the letters used for its shapes.

    N   images in a batch                     K   anchors of one image, all levels together
    A   anchors per cell (3)                  H, W   height and width of a map or an image
    G   ground-truth boxes of one image       S   sampled anchors of one image
    n   proposals of one image

Boxes are xyxy, px, x right and y down, at edges rather than pixel centres (width = x2 - x1). There are two frames only:
the *original image* and the *network input*; boxes enter the input frame once and leave it once. Sizes are
(height, width). A `logit` is unbounded; a `score` is its sigmoid, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .config import AnchorOptions
from .errors import ObjectnessError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import supervision
    from PIL import Image

FIRST_LEVEL = 2  # P2: stride 4; level l has stride 2**l
MapSize = tuple[int, int]  # (height, width) of a level's map, cells


class Batch(NamedTuple):
    """Images as the network takes them."""

    images: Tensor  # (N, 3, H, W) float32, normalised, padded with 0 at the bottom and right
    sizes: Tensor  # (N, 2) float32: height and width of each image within the padding, px


class Output(NamedTuple):
    """What the network says, finest level first; the only thing that `forward` ever returns."""

    features: tuple[Tensor, ...]  # (N, C, H_l, W_l): the pyramid P2..P6
    logits: tuple[Tensor, ...]  # (N, 2 A, H_l, W_l): for each anchor of a cell (object, no object)
    deltas: tuple[Tensor, ...]  # (N, 4 A, H_l, W_l): for each anchor of a cell (dx, dy, dw, dh)


class Targets(NamedTuple):
    """Ground truth of one image, in the input frame."""

    boxes: Tensor  # (G, 4) float32 xyxy, px, with positive width and height
    crowds: Tensor  # (any, 4) float32 xyxy, px: regions of many objects, neither positive nor negative


class Selection(NamedTuple):
    """Proposals of one image, best first, in the input frame."""

    boxes: Tensor  # (n, 4) float32 xyxy, px
    logits: Tensor  # (n,) float32, object minus no object
    levels: Tensor  # (n,) int64: the pyramid level of each proposal's anchor, 2..6


class AnchorGrid(NamedTuple):
    """All anchors of one input size, and where each of them is to be found."""

    levels: tuple[Tensor, ...]  # per level (H * W * A, 4) float32 xyxy, px in the input frame, finest level first
    map_sizes: tuple[MapSize, ...]
    strides: tuple[tuple[int, int], ...]  # (vertical, horizontal), px
    options: AnchorOptions

    def join(self) -> Tensor:
        """The anchors of all levels, (K, 4)."""
        return torch.cat(self.levels)


def flatten_maps(maps: Sequence[Tensor], values: int) -> Tensor:
    """Every level's (N, A * values, H_l, W_l) as one (N, K, values), in the order of the anchors."""
    return torch.cat([flatten_map(level, values) for level in maps], dim=1)


def flatten_map(level: Tensor, values: int) -> Tensor:
    """One level's (N, A * values, H, W) as (N, H * W * A, values): row by row, cell by cell, shape by shape."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, values)  # (N, H, W, A * values) first


@dataclass(frozen=True, eq=False)
class Proposals:
    """Where the objects of one image are, best first, in the original image's own pixels.

    Attributes:
        boxes: (n, 4) float32 xyxy, px in the original image, on the CPU.
        logits: (n,) float32, unbounded, falling.
        levels: (n,) int64, the pyramid level that each proposal comes from, 2..6.
        image_size: (height, width) of the original image, px.
        image: what the proposals were made from, kept for drawing: a path, a PIL image or a (H, W, 3) uint8 array.
        features: (n, C, size, size) float32, on the CPU: what the pyramid saw in each box, where that was asked for.
    """

    boxes: Tensor
    logits: Tensor
    levels: Tensor
    image_size: tuple[int, int]
    image: Path | Image.Image | np.ndarray | None = field(default=None, repr=False)
    features: Tensor | None = field(default=None, repr=False)

    @property
    def scores(self) -> Tensor:
        """(n,) float32 in [0, 1]: the probability that an object is there."""
        return torch.sigmoid(self.logits)

    def __len__(self) -> int:
        return len(self.boxes)

    def top(self, count: int) -> Proposals:
        """The best `count` of them, or all where there are fewer."""
        return self._take(slice(max(count, 0)))

    def above(self, min_score: float) -> Proposals:
        """Those whose score is at least `min_score`."""
        return self._take(slice(int((self.scores >= min_score).sum())))  # scores fall, so they are a prefix

    def draw(self, **style: object) -> Image.Image:
        """The image with its boxes on it; the keywords are those of `objectness.draw.draw_boxes`.

        Raises:
            ImageError: the proposals carry no image, or it cannot be read again.
        """
        from .draw import draw_proposals  # here, since only this method needs Pillow's drawing

        return draw_proposals(self, **style)

    def to_detectron2(self) -> dict[str, Any]:
        """Copies under the names that detectron2's `Instances` of proposals have; docs/second-stage.md makes one.

        Returns:
            `proposal_boxes` (n, 4) and `objectness_logits` (n,) tensors; `image_size` (height, width), px.
        """
        return {
            "proposal_boxes": self.boxes.clone(),  # its Boxes.scale() works in place
            "objectness_logits": self.logits.clone(),
            "image_size": self.image_size,
        }

    def to_supervision(self) -> supervision.Detections:
        """Copies as `supervision.Detections`, all of class 0, each one's pyramid level in `data["level"]`.

        Raises:
            ObjectnessError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ObjectnessError(
                "to_supervision() needs supervision: pip install 'objectness[supervision]'"
            ) from error
        return Detections(
            xyxy=self.boxes.numpy().copy(),
            confidence=self.scores.numpy(),
            class_id=torch.zeros_like(self.levels).numpy(),
            data={"level": self.levels.numpy().copy()},
        )

    def _take(self, part: slice) -> Proposals:
        features = None if self.features is None else self.features[part]
        return replace(
            self, boxes=self.boxes[part], logits=self.logits[part], levels=self.levels[part], features=features
        )
