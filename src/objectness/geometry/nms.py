"""What people do with boxes of their own: overlap, and non-maximum suppression of any boxes by any scores.

Both are kernels on the CPU and torch elsewhere; `nms_plain` defines what suppression returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..kernels.cpu.nms import suppress_boxes
from ..kernels.dispatch import take
from .boxes import compute_iou, compute_iou_plain

BLOCK = 256  # boxes decided at a time
EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)  # of the scores' types; the others would be rounded
OVERLAPS_AT_ONCE = 1 << 22  # IoUs held at a time (16 MiB), whatever the number of boxes


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of all pairs.

    Args:
        boxes: (n, 4) xyxy, of any type of real numbers, any strides, any device; n may be 0.
        others: (m, 4), likewise, on the same device.

    Returns:
        (n, m) float32 in [0, 1]; 0 where both boxes are without area, and NaN where a coordinate is not a number.
        Areas and quotients are float32, whatever the type: half precision would overflow. Differentiable.

    Raises:
        ConfigError: tensors that are no such boxes.
    """
    _check_boxes("boxes", boxes)
    _check_boxes("others", others)
    if boxes.device != others.device:
        raise ConfigError(f"boxes are on {boxes.device}, others on {others.device}; move one of them")
    return compute_iou(boxes, others)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression: a box goes if its IoU with a better one that stays exceeds the threshold.

    Args:
        boxes: (n, 4) xyxy, of any type of real numbers, any strides, any device; n may be 0. A box without area, of
            infinite area or with a coordinate that is not a number overlaps nothing, so it stays.
        scores: (n,) on the same device, of any type of real numbers; one that is not a number counts as -inf.
        iou_threshold: in [0, 1]; an IoU of exactly the threshold suppresses nothing.
        groups: (n,) integers on the same device: only boxes of one group (a class, a level, an image) suppress each
            other. Without them all do.

    Returns:
        Positions (n_kept,) int64 of what stays, by falling score, equal scores in the order of their positions.

    Raises:
        ConfigError: tensors that do not belong together, or a threshold beyond [0, 1].
    Differs: torchvision takes boxes of float64 as they are, and compares IoUs with a threshold of float64, so that an
    IoU equal to 0.1 in float32 is more than 0.1; here IoUs and threshold are float32. Its NaN scores come first.
    """
    _check(boxes, scores, iou_threshold, groups)
    boxes, scores = boxes.detach(), scores.detach()  # positions have no gradient
    groups = None if groups is None else groups.long()
    if not take(boxes, scores, groups):
        return nms_plain(boxes, scores, iou_threshold, groups)
    if scores.dtype in EXACT_IN_FLOAT32:
        return suppress_boxes(boxes, scores, iou_threshold, groups)
    order = sort_scores(scores)
    return order[suppress_boxes(boxes[order], None, iou_threshold, None if groups is None else groups[order])]


@torch.no_grad()
def nms_plain(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """`nms` in torch alone, on any device: what a kernel must return.

    Candidates are decided a block at a time: against what is kept, then among themselves.
    """
    order = sort_scores(scores)
    boxes = boxes[order].float()
    groups = torch.zeros_like(order) if groups is None else groups[order]

    def find_overlaps(rows: Tensor, columns: Tensor) -> Tensor:
        """Mask (r, c) of the pairs of one group whose IoU exceeds the threshold."""
        ious = compute_iou_plain(boxes[rows], boxes[columns])
        return (groups[rows][:, None] == groups[columns]) & (ious > iou_threshold)

    kept = order[:0]
    for block in torch.split(torch.arange(len(boxes), device=boxes.device), BLOCK):
        for rows in torch.split(kept, OVERLAPS_AT_ONCE // BLOCK):
            block = block[~find_overlaps(rows, block).any(dim=0)]
        kept = torch.cat([kept, block[keep_greedily(find_overlaps(block, block).triu(diagonal=1))]])
    return order[kept]


def sort_scores(scores: Tensor) -> Tensor:
    """Positions (n,) int64 by falling score, equal ones in their order, NaN as -inf."""
    if scores.is_floating_point():
        scores = scores.masked_fill(scores.isnan(), -torch.inf)
    return scores.sort(descending=True, stable=True).indices


def keep_greedily(overlaps: Tensor) -> Tensor:
    """Mask (n,) of what greedy suppression keeps, where row i of (n, n), upper triangular, says whom i would suppress.

    Whether box j stays depends on earlier boxes alone, so repeating "stays if nobody who stays suppresses it" settles
    at least one more box a round, and nearly all within a few.
    """
    keep = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:
        settled = ~(overlaps & keep[:, None]).any(dim=0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None) -> None:
    """Raises `ConfigError` where `nms` does."""
    _check_boxes("boxes", boxes)
    if not 0 <= iou_threshold <= 1:  # false for NaN
        raise ConfigError(f"iou_threshold = {iou_threshold} is not in [0, 1]")
    for name, values in (("scores", scores), ("groups", groups)):
        if values is None:
            continue
        if values.shape != boxes.shape[:1]:
            raise ConfigError(f"{name} have the shape {tuple(values.shape)}; need one for each of {len(boxes)} boxes")
        if values.device != boxes.device:
            raise ConfigError(f"boxes are on {boxes.device}, {name} on {values.device}; move one of them")
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ConfigError(f"scores are {scores.dtype}; need real numbers")
    if groups is not None and (groups.is_floating_point() or groups.is_complex()):
        raise ConfigError(f"groups are {groups.dtype}; need integers")


def _check_boxes(name: str, boxes: Tensor) -> None:
    """Raises `ConfigError` unless the tensor is (n, 4) real numbers, one box after the other."""
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ConfigError(f"{name} have the shape {tuple(boxes.shape)}; need (n, 4): x1, y1, x2, y2 of each box")
    if boxes.is_complex() or boxes.dtype == torch.bool or boxes.layout != torch.strided:
        raise ConfigError(f"{name} are {boxes.dtype} ({boxes.layout}); need dense real numbers")
