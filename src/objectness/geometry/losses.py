"""The losses of a region proposal network, as sums: objectness and boxes, of sampled anchors or of all.

They see predictions, anchors and labels, never the network. To try another loss, add it to `OBJECTNESS_LOSSES` or to
`BOX_LOSSES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import BoxCoding, BoxLoss, ObjectnessLoss, ObjectnessTarget
from ..structures import Output, Targets, flatten_maps
from .assignment import Assignment
from .boxes import BOX_CODERS, compute_giou, compute_paired_iou
from .matching import Matches, Sample

SMOOTH_L1_BETA = 1 / 9  # where the square turns into the absolute value; Detectron's, and torchvision's
GIOU_WEIGHT = 2.0  # beside objectness: NanoDet-Plus, PicoDet


class LossSums(NamedTuple):
    """Sums over a batch, not yet divided, so that several processes can divide by their joint normaliser."""

    objectness: Tensor  # () over the anchors that are used
    box: Tensor  # () over the positive ones
    normaliser: Tensor  # () what both are to be divided by: the sampled anchors, or the sum of the scores' targets
    num_positive: Tensor  # () int64

    def divide(self) -> tuple[Tensor, Tensor]:
        """Both losses () of this batch on its own."""
        normaliser = self.normaliser.clamp(min=1)
        return self.objectness / normaliser, self.box / normaliser


class _Labels(NamedTuple):
    """What S anchors of each image should predict."""

    anchors: Tensor  # (N, S, 4), or (K, 4) where all take part
    positive: Tensor  # (N, S) bool
    used: Tensor  # (N, S) bool; every positive is used
    boxes: Tensor  # (N, S, 4) the object; something harmless where there is none
    scores: Tensor  # (N, S) in [0, 1]
    box_weights: Tensor  # (N, S); 0 where not positive


def sum_losses(
    output: Output,
    anchors: Tensor,
    matches: Sequence[Matches],
    samples: Sequence[Sample],
    targets: Sequence[Targets],
    *,
    objectness_loss: ObjectnessLoss = "cross_entropy",
    objectness_target: ObjectnessTarget = "label",
    box_loss: BoxLoss = "smooth_l1",
    box_coding: BoxCoding = "deltas",
) -> LossSums:
    """Add up the losses of sampled anchors over a batch of N images; the normaliser is their number.

    Args:
        output: the network's predictions.
        anchors: (K, 4) xyxy, px in the input frame.
        matches: N, from `match_anchors`.
        samples: N, from `sample_anchors`, all of the same size S.
        targets: N; an image without boxes has only negatives, and adds nothing to `box`.
        objectness_loss: a name in `OBJECTNESS_LOSSES`.
        objectness_target: what a positive's score should be: 1, or the IoU of its predicted box with its object.
        box_loss: a name in `BOX_LOSSES`.
        box_coding: what the box predictions mean; see `boxes.BOX_CODERS`.
    """
    sampled = torch.stack([sample.anchors for sample in samples])  # (N, S)
    positive = torch.stack([sample.positive for sample in samples])
    used = torch.stack([sample.used for sample in samples])
    margins = compute_margins(_take(flatten_maps(output.logits, 2), sampled))  # (N, S)
    codes = _take(flatten_maps(output.deltas, 4), sampled)  # (N, S, 4)
    sampled_anchors = anchors[sampled]  # (N, S, 4)
    gt_boxes = torch.stack(
        [_take_matched(*each) for each in zip(sampled, matches, targets, sampled_anchors, strict=True)]
    )
    gt_boxes = torch.where(positive[..., None], gt_boxes, sampled_anchors)  # a harmless target where there is none
    scores = positive.float()
    if objectness_target == "quality":
        predicted = BOX_CODERS[box_coding].decode(codes.detach(), sampled_anchors, "above")
        scores = scores * compute_paired_iou(predicted, gt_boxes)
    labels = _Labels(sampled_anchors, positive, used, gt_boxes, scores, positive.float())
    sums = _add_up(margins, codes, labels, objectness_loss, box_loss, box_coding)
    return LossSums(*sums, normaliser=used.sum(), num_positive=positive.sum())


def sum_aligned_losses(
    output: Output,
    anchors: Tensor,
    assignments: Sequence[Assignment],
    targets: Sequence[Targets],
    *,
    objectness_loss: ObjectnessLoss = "focal",
    objectness_target: ObjectnessTarget = "quality",
    box_loss: BoxLoss = "giou",
    box_coding: BoxCoding = "deltas",
) -> LossSums:
    """Add up the losses of all anchors over a batch of N images; the normaliser is the sum of the scores' targets.

    Args:
        output: the network's predictions.
        anchors: (K, 4) xyxy, px in the input frame.
        assignments: N, from `assign_aligned`.
        targets: N.
        objectness_loss: a name in `OBJECTNESS_LOSSES`.
        objectness_target: what the score of an anchor that owns an object should be: 1, or what the assignment says.
        box_loss: a name in `BOX_LOSSES`; each box counts as much as its target.
        box_coding: what the box predictions mean; see `boxes.BOX_CODERS`.
    """
    positive = torch.stack([each.positive for each in assignments])  # (N, K)
    used = torch.stack([each.used for each in assignments])
    qualities = torch.stack([each.targets for each in assignments])
    gt_boxes = torch.stack(
        [
            truth.boxes[each.boxes] if len(truth.boxes) else anchors
            for each, truth in zip(assignments, targets, strict=True)
        ]
    )
    margins = compute_margins(flatten_maps(output.logits, 2).float())  # (N, K)
    codes = flatten_maps(output.deltas, 4).float()  # (N, K, 4)
    scores = qualities if objectness_target == "quality" else positive.float()
    labels = _Labels(anchors, positive, used, gt_boxes, scores, qualities)
    sums = _add_up(margins, codes, labels, objectness_loss, box_loss, box_coding)
    return LossSums(*sums, normaliser=scores.sum(), num_positive=positive.sum())


def _add_up(
    margins: Tensor, codes: Tensor, labels: _Labels, objectness_loss: str, box_loss: BoxLoss, box_coding: BoxCoding
) -> tuple[Tensor, Tensor]:
    """The sums of both losses over (N, S) anchors with margins (N, S) and box predictions (N, S, 4)."""
    objectness = (OBJECTNESS_LOSSES[objectness_loss](margins, labels.scores) * labels.used).sum()
    coder = BOX_CODERS[box_coding]
    if box_loss == "giou":
        kept = labels.positive  # boxes of the others are not even decoded
        places = labels.anchors.expand_as(codes)[kept]
        losses = GIOU_WEIGHT * (1 - compute_giou(coder.decode(codes[kept], places, "above"), labels.boxes[kept]))
        return objectness, (losses * labels.box_weights[kept]).sum()
    wanted = coder.encode(torch.where(labels.positive[..., None], labels.boxes, labels.anchors), labels.anchors)
    losses = F.smooth_l1_loss(codes, wanted, beta=SMOOTH_L1_BETA, reduction="none").sum(dim=-1)
    return objectness, (losses * labels.box_weights).sum()


def compute_margins(pairs: Tensor) -> Tensor:
    """Object minus no object (...) of logits (..., 2); its sigmoid is the pair's softmax."""
    return pairs[..., 0] - pairs[..., 1]


def compute_cross_entropy(margins: Tensor, scores: Tensor) -> Tensor:
    """Cross entropy (...) of margins (...) against scores (...) in [0, 1]. Source: Faster R-CNN, equation 1."""
    return F.binary_cross_entropy_with_logits(margins, scores, reduction="none")  # softmax over a pair


def compute_squared_error(margins: Tensor, scores: Tensor) -> Tensor:
    """The article's loss: (p_obj - 1)^2 + p_noobj^2 for positives and mirrored for negatives (Brier score)."""
    return 2 * (margins.sigmoid() - scores).square()  # both terms of a pair are the same


def compute_focal(margins: Tensor, scores: Tensor) -> Tensor:
    """Cross entropy times the squared distance of score and target. Source: GFL (arXiv 2006.04388), equation 2."""
    return compute_cross_entropy(margins, scores) * (margins.sigmoid() - scores).square()


OBJECTNESS_LOSSES = {
    "cross_entropy": compute_cross_entropy,
    "squared": compute_squared_error,
    "focal": compute_focal,
}


def _take(predictions: Tensor, sampled: Tensor) -> Tensor:
    """Float32 predictions (N, S, values) at positions (N, S), out of (N, K, values)."""
    positions = sampled[..., None].expand(-1, -1, predictions.shape[-1])  # (N, S, values)
    return predictions.gather(1, positions).float()


def _take_matched(sampled: Tensor, matches: Matches, targets: Targets, default: Tensor) -> Tensor:
    """Ground-truth boxes (S, 4) of one image's sampled anchors; `default` where the image has no boxes at all."""
    return targets.boxes[matches.boxes[sampled]] if len(targets.boxes) else default
