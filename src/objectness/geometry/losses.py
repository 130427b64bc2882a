"""The loss of a region proposal network: objectness on sampled anchors, smooth L1 on the positive ones.

The loss sees predictions, anchors and labels, never the network. To try another loss, change this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import BoxCoding, ObjectnessLoss
from ..structures import Output, Targets, flatten_maps
from .boxes import BOX_CODERS
from .matching import Matches, Sample

SMOOTH_L1_BETA = 1 / 9  # where the square turns into the absolute value; Detectron's, and torchvision's


class LossSums(NamedTuple):
    """Sums over a batch, not yet divided, so that several processes can divide by their joint count."""

    objectness: Tensor  # () over the sampled anchors
    box: Tensor  # () over the positive ones
    num_sampled: Tensor  # () int64
    num_positive: Tensor  # () int64


def sum_losses(
    output: Output,
    anchors: Tensor,
    matches: Sequence[Matches],
    samples: Sequence[Sample],
    targets: Sequence[Targets],
    *,
    objectness_loss: ObjectnessLoss = "cross_entropy",
    box_coding: BoxCoding = "deltas",
) -> LossSums:
    """Add up the losses of a batch of N images; divide both by `num_sampled` for the usual means.

    Args:
        output: the network's predictions.
        anchors: (K, 4) xyxy, px in the input frame.
        matches: N, from `match_anchors`.
        samples: N, from `sample_anchors`, all of the same size S.
        targets: N; an image without boxes has negatives alone, and adds nothing to `box`.
        objectness_loss: "cross_entropy" (Faster R-CNN, equation 1) or the article's "squared".
        box_coding: what the box predictions mean; see `boxes.BOX_CODERS`.
    """
    sampled = torch.stack([sample.anchors for sample in samples])  # (N, S)
    positive = torch.stack([sample.positive for sample in samples])
    used = torch.stack([sample.used for sample in samples])
    logits = _take(flatten_maps(output.logits, 2), sampled)  # (N, S, 2)
    codes = _take(flatten_maps(output.deltas, 4), sampled)  # (N, S, 4)

    sampled_anchors = anchors[sampled]  # (N, S, 4)
    gt_boxes = torch.stack(
        [_take_matched(*each) for each in zip(sampled, matches, targets, sampled_anchors, strict=True)]
    )
    gt_boxes = torch.where(positive[..., None], gt_boxes, sampled_anchors)  # a harmless target where there is none
    gt_codes = BOX_CODERS[box_coding].encode(gt_boxes, sampled_anchors)

    box_losses = F.smooth_l1_loss(codes, gt_codes, beta=SMOOTH_L1_BETA, reduction="none").sum(dim=-1)
    return LossSums(
        objectness=(OBJECTNESS_LOSSES[objectness_loss](logits, positive) * used).sum(),
        box=(box_losses * positive).sum(),
        num_sampled=used.sum(),
        num_positive=positive.sum(),
    )


def compute_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross entropy (...) of logits (..., 2) = (object, no object) against labels (...) bool."""
    margin = logits[..., 0] - logits[..., 1]
    return F.binary_cross_entropy_with_logits(margin, positive.float(), reduction="none")  # softmax over a pair


def compute_squared_error(logits: Tensor, positive: Tensor) -> Tensor:
    """The article's loss: (p_obj - 1)^2 + p_noobj^2 for positives and mirrored for negatives; shapes as above."""
    wanted = torch.stack([positive, ~positive], dim=-1).float()  # (..., 2)
    return (logits.softmax(dim=-1) - wanted).square().sum(dim=-1)


OBJECTNESS_LOSSES = {"cross_entropy": compute_cross_entropy, "squared": compute_squared_error}


def _take(predictions: Tensor, sampled: Tensor) -> Tensor:
    """Float32 predictions (N, S, values) at positions (N, S), out of (N, K, values)."""
    positions = sampled[..., None].expand(-1, -1, predictions.shape[-1])  # (N, S, values)
    return predictions.gather(1, positions).float()


def _take_matched(sampled: Tensor, matches: Matches, targets: Targets, default: Tensor) -> Tensor:
    """Ground-truth boxes (S, 4) of one image's sampled anchors; `default` where the image has no boxes at all."""
    return targets.boxes[matches.boxes[sampled]] if len(targets.boxes) else default
