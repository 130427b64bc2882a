"""Intersection over union of all pairs: hands two sets of boxes to iou.c."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .library import choose_variant, get_function, get_pointer

ARGUMENTS = (  # of objectness_iou
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
)


def measure_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """The matrix of `boxes.compute_iou_plain`, equal to the last bit, NaN included.

    Args:
        boxes: (n, 4) xyxy on the CPU, of any strides; what is not float32 is copied.
        others: (m, 4), likewise.

    Raises:
        ConfigError: of OBJECTNESS_KERNELS, as `library.choose_variant`.
        TypeError: a tensor that is not of numbers, or not dense.
        ValueError: another shape, or another device than the CPU.
        RuntimeError: no kernel was built, or they are switched off.
    """
    compute = get_function("objectness_iou", ARGUMENTS, None)
    boxes, others = boxes.float().contiguous(), others.float().contiguous()
    pointers = get_pointer("boxes", boxes, (None, 4)), get_pointer("others", others, (None, 4))
    ious = torch.empty(len(boxes), len(others))
    compute(choose_variant(), pointers[0], len(boxes), pointers[1], len(others), ious.data_ptr())
    return ious
