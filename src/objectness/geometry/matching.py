"""Which anchors are positive, which negative, which unused; and which of them a training step looks at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import LabelOptions
from ..kernels.cpu.matching import match
from ..kernels.dispatch import take
from ..structures import AnchorGrid, Targets
from .boxes import compute_areas, compute_intersections, compute_iou_plain

POSITIVE, NEGATIVE, UNUSED = 1, 0, -1
OVERLAPS_AT_ONCE = 1 << 20  # IoUs held at a time (4 MiB), whatever the number of boxes


class Matches(NamedTuple):
    """What each anchor of one image stands for.

    `boxes` and `ious` mean something where the anchor is positive, or its IoU is at least `negative_iou`. Elsewhere
    `match_anchors` gives them all the same, and `match_grid`, which does not even look at most anchors, gives zeros.
    """

    labels: Tensor  # (K,) int8: POSITIVE, NEGATIVE or UNUSED
    boxes: Tensor  # (K,) int64: the ground-truth box of highest IoU, the first of equals; 0 where there is none
    ious: Tensor  # (K,) float32: the IoU with it


class Sample(NamedTuple):
    """The anchors of one image that a step looks at, in a shape that does not depend on the image.

    The first places are for positives, the rest for negatives; places without an anchor are marked unused, so that
    nothing has to wait for a count that lies on the device.
    """

    anchors: Tensor  # (S,) int64 positions among the K anchors
    positive: Tensor  # (S,) bool
    used: Tensor  # (S,) bool; every positive is used


def match_grid(grid: AnchorGrid, targets: Targets, options: LabelOptions) -> Matches:
    """Label every anchor of a grid by its overlap with the ground truth, as `match_anchors` does.

    On the CPU a kernel does this (`kernels.cpu.matching`), unless none was built: an anchor's place says which boxes it
    can overlap, so that few pairs are looked at. Everywhere else `match_grid_plain`, whose results are the same to the
    last bit.

    Args:
        grid: where the anchors are, as `make_anchors` places them.
        targets: boxes of objects and of ignored regions, in the same frame and on the same device; either may be empty.
        options: the thresholds.

    Returns:
        What `match_anchors` returns for `grid.join()`, but zeros for the boxes and IoUs of the anchors that are neither
        positive nor reach `negative_iou`.
    """
    if take(*grid.levels, *targets):
        return Matches(*match(grid, targets, options))
    return match_grid_plain(grid, targets, options)


def match_grid_plain(grid: AnchorGrid, targets: Targets, options: LabelOptions) -> Matches:
    """`match_grid` in torch alone, on any device: what a kernel must return."""
    matches = match_anchors(grid.join(), targets, options)
    counts = (matches.labels == POSITIVE) | (matches.ious >= options.negative_iou)
    return matches._replace(boxes=matches.boxes * counts, ious=matches.ious * counts)


def match_anchors(anchors: Tensor, targets: Targets, options: LabelOptions) -> Matches:
    """Label every anchor by its overlap with the ground truth.

    Positive: IoU >= `positive_iou` with any box, or the best anchor of a box (ties included, never at IoU 0).
    Negative: IoU < `negative_iou` with every box and every ignored region, and at most `crowd_share` of its area in any
    of these regions. All others are unused. A positive's regression target is the box of its own highest IoU, also
    where another box made it positive (as in the peers).

    Args:
        anchors: (K, 4) xyxy, px in the input frame.
        targets: boxes of objects and of ignored regions, in the same frame; either may be empty. A box or region with a
            coordinate that is not a number overlaps nothing.
        options: the thresholds.

    Returns:
        Labels and matched boxes. Memory is O(K), whatever the number of boxes.
    Source: Faster R-CNN, section 3.1.2. Differs: ignored regions and the guard at IoU 0 are not in the paper.
    """
    num_anchors = len(anchors)
    ious = anchors.new_zeros(num_anchors)
    boxes = torch.zeros(num_anchors, dtype=torch.int64, device=anchors.device)
    is_best = torch.zeros(num_anchors, dtype=torch.bool, device=anchors.device)
    step = max(1, OVERLAPS_AT_ONCE // max(1, num_anchors))
    has_iou = compute_areas(targets.boxes).isfinite()[:, None]  # (G, 1); others would make NaN of everything
    gt_boxes = torch.where(has_iou, targets.boxes, 0)
    for start in range(0, len(gt_boxes) if num_anchors else 0, step):
        overlaps = compute_iou_plain(gt_boxes[start : start + step], anchors)  # (step, K)
        highest, index = overlaps.max(dim=0)
        better = highest > ious  # strictly, so that the first of equal boxes stays
        ious, boxes = torch.where(better, highest, ious), torch.where(better, index + start, boxes)
        best_of_box = overlaps.amax(dim=1, keepdim=True)
        is_best |= ((overlaps == best_of_box) & (best_of_box > 0)).any(dim=0)

    positive = (ious >= options.positive_iou) | is_best
    negative = (ious < options.negative_iou) & ~positive & ~_find_ignored(anchors, targets.ignored, options)
    return Matches(positive.to(torch.int8) - (~positive & ~negative).to(torch.int8), boxes, ious)


def _find_ignored(anchors: Tensor, regions: Tensor, options: LabelOptions) -> Tensor:
    """Mask (K,) of the anchors that an ignored region (any, 4) keeps from being negative.

    Those inside it, by the share of their own area (IoF), which is what a crowd of many objects asks for; and those
    that fit it, by IoU: around a single object of which nothing is known, most of an anchor may lie outside.
    """
    ignored = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    areas = compute_areas(anchors)
    for region in regions:
        ignored |= compute_intersections(region[None], anchors)[0] > options.crowd_share * areas
        ignored |= compute_iou_plain(region[None], anchors)[0] >= options.negative_iou
    return ignored


def sample_anchors(labels: Tensor, options: LabelOptions, generator: torch.Generator) -> Sample:
    """Draw the anchors that a step looks at: half positive at most, negatives filling up, surplus dropped at random.

    Args:
        labels: (K,) int8 from `match_anchors`.
        options: how many, and the share of positives.
        generator: the source of chance, on the labels' device; the same state draws the same anchors.

    Returns:
        At most `anchors_per_image` used anchors, none of them twice.
    Source: Faster R-CNN, section 3.1.3.
    """
    places = min(options.anchors_per_image, len(labels))
    positive_places = int(places * options.positive_share)
    keys = torch.rand(len(labels), generator=generator, device=labels.device)
    positives, is_positive = _draw(keys, labels == POSITIVE, positive_places)
    negatives, is_negative = _draw(keys, labels == NEGATIVE, places)
    is_negative &= torch.arange(places, device=labels.device) < places - is_positive.sum()
    return Sample(
        anchors=torch.cat([positives, negatives]),
        positive=torch.cat([is_positive, torch.zeros_like(is_negative)]),
        used=torch.cat([is_positive, is_negative]),
    )


def _draw(keys: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions (count,) of the largest keys among the allowed, and a mask (count,) of those that are allowed."""
    best, positions = torch.where(allowed, keys, -1.0).topk(count)
    return positions, best >= 0
