"""From the head's maps to proposals: score, decode, correct at the border, suppress, keep the best.

`select_proposals_plain` defines what comes out; `select_proposals` takes the kernel instead where one applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import BoxCoding, SelectionOptions
from ..kernels.cpu.selection import select
from ..kernels.dispatch import take
from ..structures import AnchorGrid, Output, Selection, flatten_map
from .anchors import find_nearest_anchors
from .boxes import BOX_CODERS, MAX_LOG_SCALE, clip_boxes, compute_iou, compute_iou_plain, compute_visible_shares
from .nms import keep_greedily

SUPPRESSION_BLOCK = 256  # boxes decided at a time; memory is this times the boxes kept


def fold_logits(pairs: Tensor) -> Tensor:
    """One logit (...) from pairs (..., 2) = (object, no object), its sigmoid their softmax; NaN becomes -inf.

    Where a network says one logit an anchor (..., 1), this is it.
    """
    values = pairs.float()
    logits = values[..., 0] - values[..., 1] if values.shape[-1] == 2 else values[..., 0]
    return logits.masked_fill(logits.isnan(), -torch.inf)


def select_proposals(
    output: Output,
    grid: AnchorGrid,
    sizes: Tensor,
    options: SelectionOptions,
    *,
    keep: int | None = None,
    box_coding: BoxCoding = "deltas",
) -> list[Selection]:
    """Choose the proposals of every image: step 6 of the system.

    The best `per_level` of each level; regions over the border removed or clipped; suppression within each level, or
    of all levels together; the best `keep` of what is left. Where a logit or a box is not a number there is no
    proposal.

    On the CPU a kernel does this (`kernels.cpu.selection`), unless gradients are wanted, boxes are absolute or none was
    built; everywhere else `select_proposals_plain`.

    Args:
        output: the network's predictions for N images; the logits in pairs or folded.
        grid: the anchors of this input size.
        sizes: (N, 2) height and width of each image within the padding, px; boxes are clipped to these.
        options: counts, thresholds and which score a region carries.
        keep: proposals per image, in place of `options.keep`; `options.keep_training` feeds a second stage in training.
        box_coding: what the box predictions mean.

    Returns:
        N selections, best first, in the input frame; equal logits in the order of their anchors.

    Raises:
        ConfigError: OBJECTNESS_KERNELS cannot be followed (`kernels.cpu.library`).
    Source: Faster R-CNN, section 3.3; FPN, section 4.1; the article, steps 5 and 6.
    """
    if box_coding != "deltas" or not take(*output.logits, *output.deltas, sizes):
        return select_proposals_plain(output, grid, sizes, options, keep=keep, box_coding=box_coding)
    selections = select(
        output,
        [anchors[: deltas.shape[1] // 4] for anchors, deltas in zip(grid.levels, output.deltas, strict=True)],
        grid.strides,
        sizes,
        options,
        keep=options.keep if keep is None else keep,
        max_log_scale=MAX_LOG_SCALE,
        anchors=grid.options,
    )
    return [decay_scores(each, options) for each in selections]


def select_proposals_plain(
    output: Output,
    grid: AnchorGrid,
    sizes: Tensor,
    options: SelectionOptions,
    *,
    keep: int | None = None,
    box_coding: BoxCoding = "deltas",
) -> list[Selection]:
    """`select_proposals` in torch alone, on any device: what a kernel must return."""
    num_shapes = [level.shape[1] // 4 for level in output.deltas]
    logits_per_level = [  # (N, K_l)
        fold_logits(flatten_map(level, level.shape[1] // count))
        for level, count in zip(output.logits, num_shapes, strict=True)
    ]
    codes_per_level = [flatten_map(level, 4) for level in output.deltas]  # (N, K_l, 4)
    selections = []
    for image, size in enumerate(sizes):
        logits = [level[image] for level in logits_per_level]
        codes = [level[image] for level in codes_per_level]
        if options.score_from == "nearest":
            logits = score_by_nearest(logits, codes, grid, options, box_coding)
        regions = _take_best_per_level(logits, codes, grid, options, box_coding)
        candidates = _sort_by_logit(correct_border(regions, size, options))
        most = options.keep if keep is None else keep
        kept = suppress(candidates, options.nms_iou, most, across_levels=options.across_levels)
        selections.append(decay_scores(kept, options, compute_iou_plain))
    return selections


def score_by_nearest(
    logits: Sequence[Tensor],
    codes: Sequence[Tensor],
    grid: AnchorGrid,
    options: SelectionOptions,
    box_coding: BoxCoding,
) -> list[Tensor]:
    """The article's score, that of the anchor most like the refined region: per level (K_l,) in and out."""
    regions = BOX_CODERS[box_coding].decode(torch.cat(list(codes)), grid.join(), options.clamp)
    nearest = torch.cat(list(logits))[find_nearest_anchors(regions, grid)]
    return list(torch.split(nearest, [len(level) for level in logits]))


def correct_border(regions: Selection, size: Tensor, options: SelectionOptions) -> Selection:
    """Clip regions to the image of `size` (2,) = (height, width); drop the thin, and those with too little inside."""
    boxes = clip_boxes(regions.boxes, size)
    width_height = boxes[:, 2:] - boxes[:, :2]
    stays = (width_height >= options.min_size).all(dim=1) & (regions.logits > -torch.inf)  # false for NaN
    if options.min_visible > 0:
        stays &= compute_visible_shares(regions.boxes, size) >= options.min_visible
    return _take_rows(regions._replace(boxes=boxes), stays)


def suppress(candidates: Selection, nms_iou: float, keep: int, *, across_levels: bool = False) -> Selection:
    """Greedy non-maximum suppression within each level, best first over all levels, until `keep` are kept.

    A candidate goes if its IoU with a better kept one of its own level, or of any, exceeds `nms_iou`. Candidates are
    decided a block at a time: against what is kept, then among themselves; most are never looked at, since `keep` is
    reached.

    Args:
        candidates: sorted by falling logit.
        nms_iou: threshold in [0, 1].
        keep: most boxes to return.
        across_levels: levels suppress each other.
    """
    groups = torch.zeros_like(candidates.levels) if across_levels else candidates.levels
    kept = torch.zeros(0, dtype=torch.int64, device=candidates.boxes.device)
    for block in torch.split(torch.arange(len(candidates.boxes), device=kept.device), SUPPRESSION_BLOCK):
        alive = block[~_find_overlaps(candidates.boxes, groups, kept, block, nms_iou).any(dim=0)]
        overlaps = _find_overlaps(candidates.boxes, groups, alive, alive, nms_iou).triu(
            diagonal=1
        )  # row suppresses column
        kept = torch.cat([kept, alive[keep_greedily(overlaps)]])
        if len(kept) >= keep:
            break
    return _take_rows(candidates, kept[:keep])


def decay_scores(
    kept: Selection, options: SelectionOptions, measure: Callable[[Tensor, Tensor], Tensor] = compute_iou
) -> Selection:
    """Lower the score of each proposal by its largest IoU with a better one, and sort anew.

    The score is multiplied by exp(-IoU^2 / `decay_sigma`). Levels count as in suppression. Source: the Gaussian of
    Soft-NMS (arXiv 1704.04503), equation 2, for the largest IoU only, and for all proposals at once as in SOLOv2's
    Matrix NMS (arXiv 2003.10152).

    Args:
        kept: sorted by falling logit.
        options: `decay_sigma`, 0 for none, and `across_levels`.
        measure: computes all IoUs of two lists of boxes.
    """
    if options.decay_sigma == 0:
        return kept
    ious = measure(kept.boxes, kept.boxes)  # (n, n), the better in rows
    if not options.across_levels:
        ious = ious * (kept.levels[:, None] == kept.levels)
    largest = F.pad(ious, (0, 0, 1, 0)).triu(diagonal=0).amax(dim=0)  # (n,), the first row of zeros for the best
    decay = largest.square() / options.decay_sigma
    likely, unlikely = F.logsigmoid(kept.logits), F.logsigmoid(-kept.logits)
    # of p = score x exp(-decay), log(p) - log(1 - p), where 1 - p = (1 - score) + score x (1 - exp(-decay))
    lowered = likely - decay - torch.logaddexp(unlikely, likely + torch.log(-torch.expm1(-decay)))
    return _sort_by_logit(kept._replace(logits=torch.where(decay > 0, lowered, kept.logits)))


def _find_overlaps(boxes: Tensor, groups: Tensor, rows: Tensor, columns: Tensor, nms_iou: float) -> Tensor:
    """Mask (r, c) of the pairs of one group whose IoU exceeds the threshold."""
    same_group = groups[rows][:, None] == groups[columns][None, :]
    return same_group & (compute_iou_plain(boxes[rows], boxes[columns]) > nms_iou)


def _take_best_per_level(
    logits: Sequence[Tensor],
    codes: Sequence[Tensor],
    grid: AnchorGrid,
    options: SelectionOptions,
    box_coding: BoxCoding,
) -> Selection:
    """The best regions of each level of one image; only these are ever decoded."""
    parts = []
    for i, (level_logits, level_codes, anchors) in enumerate(zip(logits, codes, grid.levels, strict=True)):
        best = _find_best(level_logits, options.per_level)
        boxes = BOX_CODERS[box_coding].decode(level_codes[best], anchors[best], options.clamp)
        parts.append(Selection(boxes, level_logits[best], torch.full_like(best, grid.options.finest_level + i)))
    return Selection(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _find_best(logits: Tensor, count: int) -> Tensor:
    """Rising positions of the `count` largest logits (K,), of equal ones the first; topk alone would take any."""
    if len(logits) <= count:
        return torch.arange(len(logits), device=logits.device)
    worst = logits.topk(count).values[-1]
    above, equal = logits > worst, logits == worst
    return (above | (equal & (equal.cumsum(0) <= count - above.sum()))).nonzero()[:, 0]


def _sort_by_logit(regions: Selection) -> Selection:
    """Best first; by logit rather than score, whose ties at 1.0 would shuffle the best."""
    return _take_rows(regions, regions.logits.sort(descending=True, stable=True).indices)


def _take_rows(selection: Selection, rows: Tensor) -> Selection:
    return Selection(*(tensor[rows] for tensor in selection))
