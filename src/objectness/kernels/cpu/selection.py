"""From the head's maps to proposals in one pass over the logits: hands the maps of a batch to selection.c."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...config import AnchorOptions, SelectionOptions
from ...structures import Output, Selection
from .library import check_result, check_tensor, choose_variant, get_function, get_pointer

MOST_ANCHORS = 2**32  # of one level: a position has 32 bits beside its logit


class _Map(ctypes.Structure):
    """Map of selection.c."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("column", ctypes.c_int64),
    )


class _Level(ctypes.Structure):
    """Level of selection.c."""

    _fields_ = (
        ("logits", _Map),
        ("deltas", _Map),
        ("shapes", ctypes.c_void_p),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stride_y", ctypes.c_float),
        ("stride_x", ctypes.c_float),
    )


class _Options(ctypes.Structure):
    """Options of selection.c."""

    _fields_ = (
        ("num_levels", ctypes.c_int64),
        ("num_shapes", ctypes.c_int64),
        ("logits_per_anchor", ctypes.c_int64),
        ("first_level", ctypes.c_int64),
        ("per_level", ctypes.c_int64),
        ("keep", ctypes.c_int64),
        ("across_levels", ctypes.c_int64),
        ("nms_iou", ctypes.c_float),
        ("min_visible", ctypes.c_float),
        ("min_size", ctypes.c_float),
        ("min_log_scale", ctypes.c_float),
        ("max_log_scale", ctypes.c_float),
        ("log_sizes", ctypes.c_void_p),
        ("log_ratios", ctypes.c_void_p),
    )


ARGUMENTS = (  # of objectness_select
    ctypes.c_int,
    ctypes.POINTER(_Options),
    ctypes.POINTER(_Level),
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_float,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


def select(
    output: Output,
    shapes: Sequence[Tensor],
    strides: Sequence[tuple[int, int]],
    sizes: Tensor,
    options: SelectionOptions,
    *,
    keep: int,
    max_log_scale: float,
    anchors: AnchorOptions,
) -> list[Selection]:
    """The proposals of every image of a batch, as `selection.select_proposals_plain` chooses them.

    The same boxes in the same order, ties included, with one reservation: exp() and log() are the C library's, and
    differ from torch's by a unit in the last place now and then. So do the boxes; and where an overlap lies as close
    as that to its threshold, or a region as close to the middle between two anchors, the choice may.

    Args:
        output: maps on the CPU, of any strides, the logits in pairs or folded; half precision is copied.
        shapes: per level (A, 4) float32 xyxy, px, around the origin; of an empty map they are not looked at.
        strides: per level (vertical, horizontal), px.
        sizes: (N, 2) height and width of each image within the padding, px.
        options: counts, thresholds and which score a region carries.
        keep: proposals per image, in place of `options.keep`.
        max_log_scale: cap on dw, dh; its negative is the other cap where `options.clamp` is "both".
        anchors: the sizes and ratios that "nearest" compares with, one for each level and one for each shape.

    Raises:
        ConfigError: of OBJECTNESS_KERNELS, as `library.choose_variant`.
        TypeError: a tensor that is not of numbers, or not dense.
        ValueError: shapes that do not belong together, or another device than the CPU.
        MemoryError: there is no room for the candidates.
        RuntimeError: no kernel was built, or they are switched off.
    """
    choose, variant = get_function("objectness_select", ARGUMENTS), choose_variant()
    if len(output.logits) != len(output.deltas):
        raise ValueError(f"{len(output.logits)} levels of logits and {len(output.deltas)} of deltas: need as many")
    maps = [(logits.float(), deltas.float()) for logits, deltas in zip(output.logits, output.deltas, strict=True)]
    sizes = check_tensor("sizes", sizes.float(), (None, 2))
    num_shapes, logits_per_anchor = _check(maps, shapes, strides, len(sizes))
    levels = (_Level * len(maps))(*map(_describe_level, maps, shapes, strides))
    most_per_level = [min(options.per_level, level.height * level.width * num_shapes) for level in levels]
    most = min(keep, sum(most_per_level))
    logs = _take_logs(anchors, len(levels), num_shapes) if options.score_from == "nearest" else None
    packed = _Options(
        num_levels=len(levels),
        num_shapes=num_shapes,
        logits_per_anchor=logits_per_anchor,
        first_level=anchors.finest_level,
        per_level=max(most_per_level),
        keep=most,
        across_levels=options.across_levels,
        nms_iou=options.nms_iou,
        min_visible=options.min_visible,
        min_size=options.min_size,
        min_log_scale=-max_log_scale if options.clamp == "both" else -math.inf,
        max_log_scale=max_log_scale,
        log_sizes=logs and logs[0].data_ptr(),
        log_ratios=logs and logs[1].data_ptr(),
    )
    selections = []
    for image, (height, width) in enumerate(sizes.tolist()):
        room = Selection(torch.empty(most, 4), torch.empty(most), torch.empty(most, dtype=torch.int64))
        pointers = [tensor.data_ptr() for tensor in room]
        count = check_result(choose(variant, packed, levels, image, height, width, *pointers))
        selections.append(Selection(*(tensor[:count] for tensor in room)))
    return selections


def _check(
    maps: Sequence[tuple[Tensor, Tensor]],
    shapes: Sequence[Tensor],
    strides: Sequence[tuple[int, int]],
    num_images: int,
) -> tuple[int, int]:
    """A, and how many logits each anchor has, once every tensor is known to agree with these.

    Raises:
        TypeError, ValueError: as `select`.
    """
    if not len(maps) == len(shapes) == len(strides) > 0:
        raise ValueError(f"{len(maps)} maps, {len(shapes)} shapes and {len(strides)} strides: need one a level of each")
    logits, deltas = maps[0]
    channels = check_tensor("logits[0]", logits, (num_images, None, None, None)).shape[1]
    values = check_tensor("deltas[0]", deltas, (num_images, None, *logits.shape[2:])).shape[1]
    num_shapes = values // 4
    if num_shapes == 0 or channels not in (num_shapes, 2 * num_shapes):
        raise ValueError(f"{channels} channels of logits, {values} of deltas: need 2 A or A, and 4 A")
    for i, ((logits, deltas), level_shapes) in enumerate(zip(maps, shapes, strict=True)):
        height, width = logits.shape[-2:]
        check_tensor(f"logits[{i}]", logits, (num_images, channels, height, width))
        check_tensor(f"deltas[{i}]", deltas, (num_images, 4 * num_shapes, height, width))
        get_pointer(f"shapes[{i}]", level_shapes, (num_shapes if height * width else None, 4))
        if height * width * num_shapes >= MOST_ANCHORS:
            raise ValueError(f"logits[{i}] has {height} x {width} cells; a kernel can number {MOST_ANCHORS} anchors")
    return num_shapes, channels // num_shapes


def _describe_map(level: Tensor) -> _Map:
    return _Map(level.data_ptr(), *level.stride())


def _describe_level(maps: tuple[Tensor, Tensor], shapes: Tensor, stride: tuple[int, int]) -> _Level:
    logits, deltas = maps
    return _Level(
        _describe_map(logits), _describe_map(deltas), shapes.data_ptr(), *logits.shape[-2:], *map(float, stride)
    )


def _take_logs(anchors: AnchorOptions, num_levels: int, num_shapes: int) -> tuple[Tensor, Tensor]:
    """Logarithms of the levels' sizes and the shapes' ratios, float32.

    Raises:
        ValueError: there are not as many of them.
    """
    sizes, ratios = torch.tensor(anchors.sizes), torch.tensor(anchors.ratios)
    if (len(sizes), len(ratios)) != (num_levels, num_shapes):
        raise ValueError(
            f"{len(sizes)} anchor sizes and {len(ratios)} ratios for {num_levels} levels and {num_shapes} shapes"
        )
    return sizes.log(), ratios.log()
