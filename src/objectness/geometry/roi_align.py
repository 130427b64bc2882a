"""The pyramid's features of each box, as a second stage takes them: RoIAlign without torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..structures import FIRST_LEVEL
from .boxes import compute_areas

CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224  # a box of 224 x 224 px, ImageNet's, is pooled from P4: FPN, equation 1
LAST_POOLED_LEVEL = 5  # P6 is there for anchors only


def pool_features(
    features: Sequence[Tensor],
    boxes_per_image: Sequence[Tensor],
    size: int = 7,
    *,
    samples: int = 2,
    first_level: int = FIRST_LEVEL,
) -> Tensor:
    """RoIAlign: each box as a grid of bins, each bin the mean of bilinear samples of the level that fits the box.

    Args:
        features: the pyramid, finest level first, (N, C, H_l, W_l) each; none beyond P5 is used, so `Output.features`
            will do.
        boxes_per_image: N of (n, 4) xyxy, px in the input frame; a side below one cell of its level counts as one.
        size: bins along each side of a box.
        samples: along each side of a bin.
        first_level: the finest level of `features`.

    Returns:
        (n_1 + ... + n_N, C, size, size) float32, image after image.

    Raises:
        ConfigError: the lists of boxes are not as many as the images.
    Source: Mask R-CNN, section 3, and FPN, equation 1. As torchvision's MultiScaleRoIAlign: a cell's value lies at its
    upper left corner, as the anchors here do; detectron2's pooler puts it half a cell further (aligned = True).
    """
    if len(boxes_per_image) != len(features[0]):
        raise ConfigError(
            f"{len(boxes_per_image)} lists of boxes for {len(features[0])} images; pass one for each image"
        )
    levels = features[: LAST_POOLED_LEVEL + 1 - first_level]
    channels = levels[0].shape[1]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in levels]).float()  # a row a cell
    boxes = torch.cat([each.float() for each in boxes_per_image])
    images = torch.cat([torch.full_like(each[:, 0], i, dtype=torch.int64) for i, each in enumerate(boxes_per_image)])
    chosen = choose_levels(boxes, first_level) - first_level  # (n,)

    starts = torch.tensor([0, *(level[:, 0].numel() for level in levels[:-1])], device=boxes.device).cumsum(0)
    map_sizes = torch.tensor([level.shape[-2:] for level in levels], device=boxes.device)[chosen]  # (n, 2) H, W
    corners = boxes / 2.0 ** (first_level + chosen)[:, None]  # (n, 4) in cells
    rows, row_weights = _place_samples(corners[:, 1], corners[:, 3], map_sizes[:, 0], size, samples)
    columns, column_weights = _place_samples(corners[:, 0], corners[:, 2], map_sizes[:, 1], size, samples)

    first_rows = starts[chosen] + images * map_sizes.prod(dim=1)  # (n,) of each box's map in the table
    rows = first_rows[:, None, None] + rows * map_sizes[:, 1, None, None]
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # (n, size, size, 2 samples, 2 samples)
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    pooled = F.embedding_bag(
        cells.flatten(0, 2).flatten(1), table, per_sample_weights=weights.flatten(0, 2).flatten(1), mode="sum"
    )  # the weighted mean of each bin's cells in one pass: what is gathered is never held
    return pooled.reshape(-1, size, size, channels).permute(0, 3, 1, 2).contiguous()


def choose_levels(boxes: Tensor, first_level: int = FIRST_LEVEL) -> Tensor:
    """The level (n,) int64, up to 5, that each box (n, 4) is pooled from: 4 + log2(sqrt(area) / 224), rounded down."""
    sides = compute_areas(boxes).sqrt()
    levels = (CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIZE) + 1e-6).floor()  # a hair, so that 224 is 224
    return levels.clamp(first_level, LAST_POOLED_LEVEL).long()


def _place_samples(low: Tensor, high: Tensor, length: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis: which cells the samples of each bin lie between, and how much each counts.

    Args:
        low, high: (n,) the boxes' two edges, in cells.
        length: (n,) cells of their maps.
        size: bins of a box.
        samples: of a bin.

    Returns:
        Cells (n, size, 2 samples) int64 and their weights, which add up to 1 for each bin; a sample more than a cell
        beyond the map counts nothing.
    """
    bins = ((high - low).clamp(min=1) / size)[:, None, None]  # (n, 1, 1)
    firsts = low[:, None, None] + torch.arange(size, device=low.device)[:, None] * bins  # (n, size, 1)
    places = (firsts + (torch.arange(samples, device=low.device) + 0.5) * bins / samples).flatten(1)
    last = length[:, None] - 1
    inside = (places >= -1) & (places <= length[:, None])
    places = places.clamp(min=0).minimum(last)
    below = places.long()
    above = (below + 1).minimum(last)
    share = places - below
    cells = torch.stack([below, above], dim=-1)  # (n, size * samples, 2)
    weights = torch.stack([1 - share, share], dim=-1) * inside[..., None] / samples
    return cells.reshape(-1, size, 2 * samples), weights.reshape(-1, size, 2 * samples)
