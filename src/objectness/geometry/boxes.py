"""Boxes as tensors: area, overlap, clipping, and their coding against anchors.

Every box is xyxy at edges, width = x2 - x1; every result is float32, whatever the precision of the network, since
half precision overflows areas beyond 255 x 255 px and loses whole pixels in coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import Clamp
from ..kernels.cpu.iou import measure_iou
from ..kernels.dispatch import take

MAX_LOG_SCALE = math.log(1000 / 16)  # a 16 px anchor may reach 1000 px; Detectron's cap, kept by all its successors
ABSOLUTE_UNIT_PX = 512.0  # "absolute" boxes are coded in units of the largest anchor, so that numbers are of order 1


def compute_areas(boxes: Tensor) -> Tensor:
    """Areas (..., 4) -> (...) of xyxy boxes; 0 for inverted ones."""
    width_height = (boxes[..., 2:].float() - boxes[..., :2].float()).clamp(min=0)
    return width_height[..., 0] * width_height[..., 1]


def compute_intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Pairwise intersection areas: boxes (n, 4), others (m, 4) -> (n, m), px^2."""
    x1, y1, x2, y2 = others.float().T.contiguous()  # (m,) each, so that every pass below reads memory in order
    left, top, right, bottom = boxes.float()[:, :, None].unbind(1)  # (n, 1) each
    widths = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    heights = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    return widths.mul_(heights)


def compute_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Pairwise intersection over union.

    On the CPU a kernel does this (`kernels.cpu.iou`), unless gradients are wanted or none was built; everywhere else
    `compute_iou_plain`, whose results are the same to the last bit.

    Args:
        boxes: (n, 4) xyxy.
        others: (m, 4) xyxy, in the same frame.

    Returns:
        (n, m) float32 in [0, 1]; 0, not NaN, where both boxes are without area.
    """
    return measure_iou(boxes, others) if take(boxes, others) else compute_iou_plain(boxes, others)


def compute_iou_plain(boxes: Tensor, others: Tensor) -> Tensor:
    """`compute_iou` in torch alone, on any device and with gradients: what a kernel must return."""
    intersections = compute_intersections(boxes, others)
    unions = compute_areas(boxes)[:, None] + compute_areas(others)[None, :]
    unions.sub_(intersections).clamp_(min=torch.finfo(unions.dtype).tiny)  # 0 / 0 becomes 0 / tiny
    return intersections.div_(unions)


def compute_paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (...) of each box (..., 4) with the one in its place among the others (..., 4)."""
    intersections = _compute_paired_intersections(boxes, others)
    unions = compute_areas(boxes) + compute_areas(others) - intersections
    return intersections / unions.clamp(min=torch.finfo(torch.float32).tiny)


def compute_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized IoU (...), in (-1, 1], of each box (..., 4) with the one in its place among the others (..., 4).

    Differentiable. IoU minus the share of the smallest box around both that neither covers. Source: arXiv 1902.09630,
    algorithm 1.
    """
    intersections = _compute_paired_intersections(boxes, others)
    unions = (compute_areas(boxes) + compute_areas(others) - intersections).clamp(min=torch.finfo(torch.float32).tiny)
    around = torch.cat(
        [torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])], dim=-1
    )
    hulls = compute_areas(around).clamp(min=torch.finfo(torch.float32).tiny)
    return intersections / unions - (hulls - unions) / hulls


def _compute_paired_intersections(boxes: Tensor, others: Tensor) -> Tensor:
    top_left = torch.maximum(boxes[..., :2].float(), others[..., :2].float())
    bottom_right = torch.minimum(boxes[..., 2:].float(), others[..., 2:].float())
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (..., 4) moved onto an image of `size` (2,) = (height, width), px: its own size, not the padded one."""
    height, width = size.unbind(-1)
    limits = torch.stack([width, height, width, height], dim=-1)  # (4,)
    return boxes.float().clamp(min=0).minimum(limits)


def compute_visible_shares(boxes: Tensor, size: Tensor) -> Tensor:
    """Share (...) of each box (..., 4) that lies inside an image of `size` (2,) = (height, width); 0 without area."""
    areas = compute_areas(boxes)
    inside = compute_areas(clip_boxes(boxes, size))
    return torch.where(areas > 0, inside / areas, torch.zeros_like(areas))


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What the network should predict at `anchors` for `boxes`.

    Args:
        boxes: (..., 4) xyxy with positive width and height, px in the input frame.
        anchors: (..., 4) xyxy, likewise, one for each box.
    Returns:
        (..., 4) float32, as (dx, dy, dw, dh): dx, dy in anchor widths and heights, dw, dh the log of the stretch.
    Source: Faster R-CNN, section 3.1.2, equation 2.
    """
    centres, sizes = _to_centres_and_sizes(boxes)
    anchor_centres, anchor_sizes = _to_centres_and_sizes(anchors)
    return torch.cat([(centres - anchor_centres) / anchor_sizes, torch.log(sizes / anchor_sizes)], dim=-1)


def decode_deltas(deltas: Tensor, anchors: Tensor, clamp: Clamp = "above") -> Tensor:
    """Move and stretch anchors by predicted deltas.

    Args:
        deltas: (..., 4) float, as (dx, dy, dw, dh); unitless.
        anchors: (..., 4) xyxy, px in the input frame, with positive width and height.
        clamp: cap on dw, dh at log(1000/16), so that exp() cannot overflow; "both" also keeps them above its negative.

    Returns:
        (..., 4) float32 xyxy boxes, px, not yet clipped.
    Source: Faster R-CNN, section 3.1.2, equation 2 (inverse). Differs: the cap is not in the paper.
    """
    deltas = deltas.float()
    anchor_centres, anchor_sizes = _to_centres_and_sizes(anchors)
    centres = anchor_centres + deltas[..., :2] * anchor_sizes
    log_scales = deltas[..., 2:].clamp(min=-MAX_LOG_SCALE if clamp == "both" else None, max=MAX_LOG_SCALE)
    half_sizes = 0.5 * anchor_sizes * log_scales.exp()
    return torch.cat([centres - half_sizes, centres + half_sizes], dim=-1)


def encode_absolute(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The article's failed experiment: (x, y, w, h) of the box itself, in units of 512 px; `anchors` go unused."""
    centres, sizes = _to_centres_and_sizes(boxes)
    return torch.cat([centres, sizes], dim=-1) / ABSOLUTE_UNIT_PX


def decode_absolute(codes: Tensor, anchors: Tensor, clamp: Clamp = "above") -> Tensor:
    """The inverse of `encode_absolute`; a negative size gives a box without area; there is nothing to clamp."""
    codes = codes.float() * ABSOLUTE_UNIT_PX
    half_sizes = 0.5 * codes[..., 2:].clamp(min=0)
    return torch.cat([codes[..., :2] - half_sizes, codes[..., :2] + half_sizes], dim=-1)


class BoxCoder(NamedTuple):
    """A pair of inverse functions (boxes, anchors) -> codes and (codes, anchors, clamp) -> boxes."""

    encode: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Tensor, Clamp], Tensor]


BOX_CODERS = {
    "deltas": BoxCoder(encode_deltas, decode_deltas),
    "absolute": BoxCoder(encode_absolute, decode_absolute),
}


def _to_centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Xyxy (..., 4) -> centres (..., 2) and sizes (..., 2), each (x, y), float32."""
    boxes = boxes.float()
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes
