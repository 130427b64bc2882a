"""Greedy non-maximum suppression: hands boxes, scores and groups to nms.c."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .library import check_result, choose_variant, get_function, get_pointer

MOST_BOXES = 2**31 - 1  # a candidate's position has 32 bits
HALVES = (torch.float16, torch.bfloat16)  # float32 holds all of their values

ARGUMENTS = (  # of objectness_nms
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_void_p,
)


def suppress_boxes(boxes: Tensor, scores: Tensor | None, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """The positions that `nms.nms_plain` keeps, in its order.

    Args:
        boxes: (n, 4) xyxy on the CPU, of any strides; what is not float32 is copied.
        scores: (n,) float32 or of less precision; None where the boxes come best first.
        iou_threshold: in [0, 1].
        groups: (n,) int64; without them all boxes are one group.

    Raises:
        ConfigError: of OBJECTNESS_KERNELS, as `library.choose_variant`.
        TypeError: a tensor that is not of such numbers, or not dense.
        ValueError: another shape, another device than the CPU, or more than `MOST_BOXES` boxes.
        MemoryError: there is no room for the boxes.
        RuntimeError: no kernel was built, or they are switched off.
    """
    suppress = get_function("objectness_nms", ARGUMENTS)
    count = len(boxes)
    if count > MOST_BOXES:
        raise ValueError(f"{count} boxes; a kernel can count {MOST_BOXES}")
    boxes = boxes.float().contiguous()
    box_pointer = get_pointer("boxes", boxes, (count, 4))
    score_pointer = group_pointer = None
    if scores is not None:
        scores = (scores.float() if scores.dtype in HALVES else scores).contiguous()
        score_pointer = get_pointer("scores", scores, (count,))
    if groups is not None:
        groups = groups.contiguous()
        group_pointer = get_pointer("groups", groups, (count,), torch.int64)
    kept = torch.empty(count, dtype=torch.int64)
    if count == 0:
        return kept
    number = suppress(
        choose_variant(), box_pointer, score_pointer, group_pointer, count, iou_threshold, kept.data_ptr()
    )
    return kept[: check_result(number)]
