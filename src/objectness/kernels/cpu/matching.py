"""Labels of a grid's anchors without looking at most of them: hands grid and boxes to matching.c."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...config import LabelOptions
from ...structures import Targets
from .library import check_result, choose_variant, get_function, get_pointer

if TYPE_CHECKING:
    from ...structures import AnchorGrid

MOST_CELLS = 2**31 - 1  # along one side of a map


class _Level(ctypes.Structure):
    """Level of matching.c."""

    _fields_ = (
        ("shapes", ctypes.c_void_p),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stride_y", ctypes.c_float),
        ("stride_x", ctypes.c_float),
    )


class _Options(ctypes.Structure):
    """Options of matching.c."""

    _fields_ = (
        ("num_levels", ctypes.c_int64),
        ("num_shapes", ctypes.c_int64),
        ("positive_iou", ctypes.c_float),
        ("negative_iou", ctypes.c_float),
        ("crowd_share", ctypes.c_float),
    )


ARGUMENTS = (  # of objectness_match
    ctypes.c_int,
    ctypes.POINTER(_Options),
    ctypes.POINTER(_Level),
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


def match(grid: AnchorGrid, targets: Targets, options: LabelOptions) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `matching.Matches`, equal to the last bit to those of `matching.match_grid_plain`.

    Args:
        grid: anchors on the CPU, as `anchors.make_anchors` places them: of each level only the first cell's are read.
        targets: boxes and ignored regions on the CPU.
        options: the thresholds.

    Raises:
        ConfigError: of OBJECTNESS_KERNELS, as `library.choose_variant`.
        TypeError: a tensor that is not of numbers, or not dense.
        ValueError: shapes that do not belong together, or another device than the CPU.
        MemoryError: there is no room for the boxes.
        RuntimeError: no kernel was built, or they are switched off.
    """
    fill = get_function("objectness_match", ARGUMENTS)
    num_shapes = len(grid.options.ratios)
    levels = (_Level * len(grid.levels))(*(_describe_level(grid, i, num_shapes) for i in range(len(grid.levels))))
    boxes, ignored = (each.detach().float().contiguous() for each in targets)
    box_pointer = get_pointer("targets.boxes", boxes, (None, 4))
    ignored_pointer = get_pointer("targets.ignored", ignored, (None, 4))
    num_anchors = sum(len(anchors) for anchors in grid.levels)
    labels = torch.empty(num_anchors, dtype=torch.int8)
    matched, ious = torch.zeros(num_anchors, dtype=torch.int64), torch.zeros(num_anchors)
    packed = _Options(len(levels), num_shapes, options.positive_iou, options.negative_iou, options.crowd_share)
    check_result(
        fill(
            choose_variant(),
            packed,
            levels,
            box_pointer,
            len(boxes),
            ignored_pointer,
            len(ignored),
            labels.data_ptr(),
            matched.data_ptr(),
            ious.data_ptr(),
        )
    )
    return labels, matched, ious


def _describe_level(grid: AnchorGrid, index: int, num_shapes: int) -> _Level:
    """One level, once its tensor is known to have the anchors that its map needs.

    Raises:
        TypeError, ValueError: as `match`.
    """
    (height, width), (stride_y, stride_x) = grid.map_sizes[index], grid.strides[index]
    if max(height, width) > MOST_CELLS:
        raise ValueError(f"level {index} has {height} x {width} cells; a kernel can count {MOST_CELLS} along a side")
    shapes = get_pointer(f"grid.levels[{index}]", grid.levels[index], (height * width * num_shapes, 4))
    return _Level(shapes, height, width, stride_y, stride_x)
