"""Anchors: virtual boxes around the centre of the head's kernel, on every cell of every level.

Anchor a of cell (i, j) (row, column) on a level of stride s is shape a moved to (x, y) = (j s, i s). One area per
level and the same shapes on every level, so that an anchor covers 8 x 8 cells wherever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..config import AnchorOptions
from ..structures import AnchorGrid, MapSize


def make_shapes(size: float, ratios: Sequence[float], *, rounded: bool = False) -> Tensor:
    """Boxes of area size^2 around the origin, one for each ratio.

    Args:
        size: square root of the area, px.
        ratios: height / width of each shape.
        rounded: round the corners to whole pixels (torchvision's and Detectron's habit).
    Returns:
        (A, 4) float32 xyxy, px.
    """
    heights_over_size = torch.tensor(ratios, dtype=torch.float32).sqrt()
    heights, widths = size * heights_over_size, size * (1 / heights_over_size)
    shapes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return shapes.round() if rounded else shapes


def place_shapes(shapes: Tensor, stride: tuple[int, int], map_size: MapSize) -> Tensor:
    """A copy of `shapes` on every cell of a map.

    Args:
        shapes: (A, 4) xyxy around the origin, px.
        stride: (vertical, horizontal) distance of neighbouring cells, px.
        map_size: (H, W) in cells.
    Returns:
        (H * W * A, 4) float32 xyxy, px; row by row, cell by cell, shape by shape.
    """
    ys = torch.arange(map_size[0], dtype=torch.float32) * stride[0]
    xs = torch.arange(map_size[1], dtype=torch.float32) * stride[1]
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1)  # (H, W, 4)
    return (centres[:, :, None, :] + shapes).reshape(-1, 4)  # (H, W, 1, 4) + (A, 4)


def make_anchors(
    options: AnchorOptions,
    map_sizes: Sequence[MapSize],
    input_size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> AnchorGrid:
    """The anchors of every level, kept for the next image of the same size.

    Args:
        options: sizes, shapes and strides.
        map_sizes: (H, W) of each level's map, cells.
        input_size: (height, width) of the padded input, px; needed by `strides_from_shape` alone.
        device: where the anchors shall lie.

    Returns:
        A grid that is shared between callers: its tensors must not be changed in place.
    """
    return _make_anchors(options, tuple(map_sizes), input_size, torch.device(device))


@lru_cache(maxsize=32)
def _make_anchors(
    options: AnchorOptions, map_sizes: tuple[MapSize, ...], input_size: tuple[int, int], device: torch.device
) -> AnchorGrid:
    strides = compute_strides(options, map_sizes, input_size)
    with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not serve a later training step
        levels = tuple(
            place_shapes(make_shapes(size, options.ratios, rounded=options.rounded), stride, map_size).to(device)
            for size, stride, map_size in zip(options.sizes, strides, map_sizes, strict=True)
        )
    return AnchorGrid(levels, map_sizes, strides, options)


def compute_strides(
    options: AnchorOptions, map_sizes: Sequence[MapSize], input_size: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """(vertical, horizontal) stride of each level, px: as declared, or as torchvision derives them.

    With `strides_from_shape` they drift where a map's size was rounded up: 800 px -> 13 cells -> 61 instead of 64.
    """
    if not options.strides_from_shape:
        return tuple((stride, stride) for stride in options.strides)
    return tuple((input_size[0] // height, input_size[1] // width) for height, width in map_sizes)


def find_nearest_anchors(boxes: Tensor, grid: AnchorGrid) -> Tensor:
    """For each box the anchor most like it in area (its level), shape and place, without looking at any other.

    The level and the shape are the nearest ones in log scale, the cell is the one whose centre is nearest; a box
    beyond the border takes the border's cell. Logarithms are compared since a box twice an anchor and one half of it
    are equally unlike it.

    Args:
        boxes: (n, 4) xyxy, px in the input frame; one without area counts as one of a hundredth of a pixel. Where a
            coordinate is not a number the answer means nothing, but it is a position.
        grid: where the anchors are.

    Returns:
        (n,) int64 positions in `grid.join()`.
    """
    options, device = grid.options, boxes.device
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.01)  # (n, 2) width, height
    log_area = sizes.log().sum(dim=1)
    log_ratio = (sizes[:, 1] / sizes[:, 0]).log()
    level = _find_nearest(log_area / 2, torch.tensor(options.sizes, device=device).log())
    shape = _find_nearest(log_ratio, torch.tensor(options.ratios, device=device).log())

    strides = torch.tensor(grid.strides, dtype=torch.float32, device=device)[level]  # (n, 2) vertical, horizontal
    limits = torch.tensor(grid.map_sizes, dtype=torch.float32, device=device)[level] - 1
    centres = (boxes[:, :2] + boxes[:, 2:]).flip(1) / 2  # (n, 2) y, x
    cells = (centres / strides).nan_to_num(nan=0.0).round().clamp(min=0).minimum(limits).long()

    starts = torch.tensor([0, *(len(anchors) for anchors in grid.levels[:-1])], device=device).cumsum(0)
    widths = torch.tensor([width for _, width in grid.map_sizes], device=device)
    return starts[level] + (cells[:, 0] * widths[level] + cells[:, 1]) * len(options.ratios) + shape


def _find_nearest(values: Tensor, choices: Tensor) -> Tensor:
    """Index (n,) of the choice (m,) nearest to each value (n,), the first of equals."""
    return (values[:, None] - choices[None, :]).abs().argmin(dim=1)
