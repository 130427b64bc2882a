"""Which anchors own an object, decided by how well their own predictions do: any number of anchors, no sampling.

An anchor's claim on an object is its score and its box's overlap at once, so that training agrees with selection about
which anchor should speak for an object. Source: TOOD (arXiv 2108.07755), section 3.2, with the exponents 0.5 and 6 of
YOLOv8, and a small part of the anchor's own overlap, which decides while the boxes still mean nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import LabelOptions
from ..structures import AnchorGrid, Targets
from .boxes import compute_areas, compute_intersections, compute_iou

SCORE_EXPONENT, IOU_EXPONENT = 0.5, 6.0
PRIOR_SHARE = 0.1  # of the anchor's own IoU in an anchor's claim


class Assignment(NamedTuple):
    """What each anchor of one image stands for."""

    positive: Tensor  # (K,) bool: it owns an object
    boxes: Tensor  # (K,) int64: which; 0 where it owns none
    targets: Tensor  # (K,) float32: what its score should be, in [0, 1]; 0 where it owns none
    used: Tensor  # (K,) bool: false where nothing is known


@torch.no_grad()
def assign_aligned(
    grid: AnchorGrid, logits: Tensor, boxes: Tensor, targets: Targets, options: LabelOptions
) -> Assignment:
    """Give each object the anchors that serve it best.

    An anchor is a candidate for an object if its centre lies inside the object or at most a stride from the object's
    centre. Its claim is score^0.5 x (0.9 IoU of its predicted box + 0.1 IoU of the anchor itself)^6; the best
    `anchors_per_object` candidates own the object, one that several objects want going to the largest IoU. Its target
    is its claim, scaled so that the best claim on an object becomes the best IoU with it.

    Args:
        grid: where the anchors are.
        logits: (K,) as predicted, object minus no object.
        boxes: (K, 4) as predicted, xyxy, px in the input frame.
        targets: the objects, G >= 0 of them, and regions in which nothing is known: an anchor that owns nothing is
            unused if its predicted box lies in one of these, or fits it (`find_unknown`).
        options: `anchors_per_object`, `crowd_share` and `negative_iou`.
    """
    anchors = grid.join()
    positive = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    owned = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    wanted = torch.zeros(len(anchors), device=anchors.device)
    if len(targets.boxes):
        ious = compute_iou(targets.boxes, boxes)  # (G, K)
        overlaps = (1 - PRIOR_SHARE) * ious + PRIOR_SHARE * compute_iou(targets.boxes, anchors)
        claims = logits.float().sigmoid() ** SCORE_EXPONENT * overlaps**IOU_EXPONENT
        claims = claims * find_candidates(grid, targets.boxes)
        best, places = claims.topk(min(options.anchors_per_object, len(anchors)), dim=1)  # (G, k)
        chosen = torch.zeros_like(claims, dtype=torch.bool).scatter_(1, places, best > 0)
        highest, owned = torch.where(chosen, ious, -1.0).max(dim=0)  # (K,)
        positive = highest >= 0
        owners = torch.zeros_like(chosen).scatter_(0, owned[None], positive[None])  # at most one object an anchor
        claims, ious = claims * owners, ious * owners
        scales = ious.amax(dim=1) / claims.amax(dim=1).clamp(min=torch.finfo(claims.dtype).tiny)  # (G,)
        wanted = (claims * scales[:, None]).amax(dim=0)
        owned = owned * positive
    used = positive | ~find_unknown(boxes, targets.ignored, options)
    return Assignment(positive, owned, wanted, used)


def find_candidates(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Mask (G, K) of the anchors whose centre lies inside a box (G, 4), or at most a stride from its centre."""
    anchors = grid.join()
    x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(1)  # (K,) each
    reach_y, reach_x = (
        torch.cat(
            [x.new_full((len(level),), stride[axis]) for level, stride in zip(grid.levels, grid.strides, strict=True)]
        )
        for axis in (0, 1)
    )
    left, top, right, bottom = boxes[:, :, None].unbind(1)  # (G, 1) each
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    near = ((x - (left + right) / 2).abs() <= reach_x) & ((y - (top + bottom) / 2).abs() <= reach_y)
    return inside | near


def find_unknown(boxes: Tensor, regions: Tensor, options: LabelOptions) -> Tensor:
    """Mask (n,) of the boxes (n, 4) that lie in one of the regions (any, 4), or fit one, as `match_anchors` decides.

    That is, with more than `crowd_share` of their area inside it, or with an IoU of at least `negative_iou`.
    """
    if not len(regions):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    inside = compute_intersections(regions, boxes) > options.crowd_share * compute_areas(boxes)
    return (inside | (compute_iou(regions, boxes) >= options.negative_iou)).any(dim=0)
