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
from typing import NamedTuple

import torch
from torch import Tensor

from .config import AnchorOptions

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
    ignored: Tensor  # (any, 4) float32 xyxy, px: regions in which nothing is known, neither positive nor negative

    @property
    def crowds(self) -> Tensor:
        """`ignored`, under its first name: crowds were all that was ignored."""
        return self.ignored


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
    num_images, channels, height, width = level.shape
    rows = level.permute(0, 2, 3, 1)  # (N, H, W, A * values)
    return rows.reshape(num_images, height * width * channels // values, values)  # N may be 0, so that -1 is no answer
