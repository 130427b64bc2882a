"""How many of the objects the proposals find: class-agnostic average recall, AR@k.

The protocol is COCO's with `useCats=0`, and the numbers are pycocotools' own. They come much faster for three reasons:

1.  Recall never sees what COCO ignores. A proposal takes an ignored box (a crowd, or a box outside the area range) only
    where no other box is left to it; so these boxes are dropped before anything is matched.
2.  COCO goes through the proposals from the best score down, each taking the box it overlaps most among those left.
    That is the one stable matching between boxes that prefer the better score and proposals that prefer the larger
    IoU, so it may as well be found from the boxes' side, for all images at once (Gale and Shapley's deferred
    acceptance, 1962): boxes are few, and nearly all of them get their first wish.
3.  A box that the r-th best proposal finds is found for every k >= r and at every lower score threshold: one matching
    for each area range and IoU threshold answers for every k and for the whole score curve.

Letters beside those of `structures.py`: T IoU thresholds, R area ranges, M values of k, S score thresholds, P pairs of
a box and a proposal that overlap enough to match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import AnnotationError, ConfigError
from .report import AREA_RANGES, IOU_THRESHOLDS, Floats, RecallReport, ScoreCurve

__all__ = [
    "AREA_RANGES",
    "IOU_THRESHOLDS",
    "GroundTruth",
    "RecallReport",
    "ScoreCurve",
    "compute_iou",
    "measure_recall",
]

Ints = NDArray[np.int64]

TOPS = (10, 100, 300, 1000)
SCORE_THRESHOLDS: Floats = np.arange(20) / 20  # 0, 0.05, ... 0.95


class GroundTruth(Protocol):
    """The annotated boxes of one image: an `ImageRecord`, or anything else with these attributes."""

    @property
    def boxes(self) -> NDArray[Any]:
        """(G, 4) float64 xyxy, px in the original image."""

    @property
    def areas(self) -> NDArray[Any]:
        """(G,) px^2 as annotated: of the object's outline, or of its box where there is none."""

    @property
    def ignore(self) -> NDArray[Any]:
        """(G,) bool: a region in which nothing is known, such as a crowd; nothing has to find it."""


def measure_recall(
    ground_truth: Sequence[GroundTruth],
    proposals: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    top: Iterable[int] = TOPS,
    score_thresholds: ArrayLike = SCORE_THRESHOLDS,
) -> RecallReport:
    """Measure how many of the annotated boxes the proposals find.

    Args:
        ground_truth: one for each image; no boxes, only ignored ones, and boxes without area are allowed.
        proposals: for each image, in the same order, boxes (n, 4) xyxy, px in the original image, and scores (n,), in
            any order; n = 0 is allowed. Proposals of equal score keep the order in which they are given.
        top: the values of k: how many proposals of each image may be used.
        score_thresholds: (S,) where to measure the score curve, in the unit of the scores.
    Raises:
        AnnotationError: lengths or shapes that do not fit, or a number that is not finite; it names the image by index.
        ConfigError: a `top` below 1.
    Source:
        COCOeval of pycocotools, iouType "bbox", useCats 0, whose recall this equals on (x1, y1, x2 - x1, y2 - y1).
        Where a proposal overlaps two boxes exactly alike it takes the later one, as there; but there the boxes of an
        image stand in order of category, here in the order given.
    """
    tops = tuple(sorted(set(top)))
    if not tops or tops[0] < 1:
        raise ConfigError(f"top = {tops}: give the numbers of proposals at which to measure, each at least 1.")
    if len(ground_truth) != len(proposals):
        raise AnnotationError(f"{len(ground_truth)} images have ground truth but {len(proposals)} have proposals.")
    gt = [_read_ground_truth(f"image {index}", truth) for index, truth in enumerate(ground_truth)]
    given = [_read_proposals(f"image {index}", *pair) for index, pair in enumerate(proposals)]
    kept = [_keep_best(boxes, scores, tops[-1]) for boxes, scores in given]
    pairs = _find_pairs([boxes for boxes, _ in gt], kept)
    areas = np.concatenate([np.zeros(0), *(areas for _, areas in gt)])  # (G,) of all images
    in_range = {name: (areas >= low) & (areas <= high) for name, (low, high) in AREA_RANGES.items()}
    num_boxes = {name: int(chosen.sum()) for name, chosen in in_range.items()}
    found = {name: _match(pairs, chosen) for name, chosen in in_range.items()}
    in_top = pairs.rank[:, None] < np.array(tops)  # (P, M)
    return RecallReport(
        recall=np.stack([_compute_recall(found[name], in_top, num_boxes[name]) for name in AREA_RANGES], axis=1),
        tops=tops,
        num_boxes=num_boxes,
        proposals_per_image=np.array([len(scores) for _, scores in given], dtype=np.int64),
        score_curve=_measure_score_curve(kept, pairs, found["all"], num_boxes["all"], score_thresholds),
        num_ignored=sum(len(truth.boxes) for truth in ground_truth) - len(areas),
    )


def compute_iou(boxes: Floats, others: Floats) -> Floats:
    """Pairwise intersection over union in float64.

    In the order of operations of pycocotools' C code on (x, y, width, height), so that a pair exactly on a threshold
    falls on the same side of it; `boxes.compute_iou` is the one for tensors.

    Args:
        boxes: (n, 4) float64 xyxy.
        others: (m, 4) float64 xyxy, in the same frame.
    Returns:
        (n, m) in [0, 1]; 0 for boxes without area.
    """
    x, y, width, height = (part[:, None] for part in _xyxy_to_xywh(boxes))  # each (n, 1)
    other_x, other_y, other_width, other_height = _xyxy_to_xywh(others)  # each (m,)
    overlap_width = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)  # (n, m)
    overlap_height = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    intersection = np.maximum(overlap_width, 0) * np.maximum(overlap_height, 0)
    union: Floats = width * height + other_width * other_height - intersection
    iou = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=intersection > 0)
    return iou


def _xyxy_to_xywh(boxes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    x1, y1, x2, y2 = boxes.T
    return x1, y1, x2 - x1, y2 - y1


class _Pairs(NamedTuple):
    """The boxes and proposals that could match, of all images, in order of box, then of rank."""

    gt: Ints  # (P,) the box, counted through all images
    proposal: Ints  # (P,) the proposal, counted through all that are in some pair
    rank: Ints  # (P,) place of the proposal in its image, 0 the best
    score: Floats  # (P,)
    iou: Floats  # (P,) at least IOU_THRESHOLDS[0]
    preference: Ints  # (P,) distinct: of the pairs it is in, a proposal wants that with the largest


def _find_pairs(gt_boxes: list[Floats], proposals: list[tuple[Floats, Floats]]) -> _Pairs:
    columns: list[tuple[NDArray[Any], ...]] = [(*np.zeros((3, 0), dtype=np.int64), *np.zeros((2, 0)))]
    num_gt = num_proposals = 0
    for boxes, (proposal_boxes, scores) in zip(gt_boxes, proposals, strict=True):
        overlaps = compute_iou(boxes, proposal_boxes)  # (G, n)
        gt, rank = np.nonzero(overlaps >= IOU_THRESHOLDS[0])
        columns.append((gt + num_gt, rank + num_proposals, rank, scores[rank], overlaps[gt, rank]))
        num_gt, num_proposals = num_gt + len(boxes), num_proposals + len(scores)
    gt, proposal, rank, score, iou = map(np.concatenate, zip(*columns, strict=True))
    proposal = np.unique(proposal, return_inverse=True)[1]
    preference = np.argsort(np.argsort(iou, kind="stable"))  # place of each pair; equal IoU: the later box, as COCOeval
    return _Pairs(gt, proposal, rank, score, iou, preference)


def _match(pairs: _Pairs, chosen: NDArray[np.bool_]) -> list[Ints]:
    """Match the `chosen` (G,) boxes; for each of T IoU thresholds, the pairs that come together."""
    eligible = chosen[pairs.gt]  # (P,)
    return [_match_eligible(pairs, np.flatnonzero(eligible & (pairs.iou >= iou))) for iou in IOU_THRESHOLDS]


def _match_eligible(pairs: _Pairs, eligible: Ints) -> Ints:
    """Match by deferred acceptance: boxes ask proposals from the best down, a proposal keeps whom it prefers.

    Args:
        pairs: P pairs.
        eligible: rising indices of those that may come together.
    Returns:
        The indices of those that do: no box and no proposal twice.
    """
    gt, proposal, preference = pairs.gt[eligible], pairs.proposal[eligible], pairs.preference[eligible]
    asked = np.flatnonzero(np.diff(gt, prepend=-1))  # the pair each box asks for: its first, thus its best by rank
    ends = np.append(asked[1:], len(gt))
    best = np.full(proposal.max(initial=-1) + 1, -1)  # the largest preference for whoever has asked
    while True:
        np.maximum.at(best, proposal[asked], preference[asked])
        refused = preference[asked] < best[proposal[asked]]
        if not refused.any():
            return eligible[asked]
        asked = asked + refused
        asked, ends = asked[asked < ends], ends[asked < ends]


def _compute_recall(found: list[Ints], passes: NDArray[np.bool_], num_boxes: int) -> Floats:
    """Share (T, X) of the boxes whose pair passes each of X limits, `passes` (P, X); NaN without boxes."""
    return np.array([passes[pairs].sum(axis=0) for pairs in found]) / (num_boxes or np.nan)


def _measure_score_curve(
    kept: list[tuple[Floats, Floats]], pairs: _Pairs, found: list[Ints], num_boxes: int, score_thresholds: ArrayLike
) -> ScoreCurve:
    thresholds = np.asarray(score_thresholds, dtype=np.float64)
    scores = np.sort(np.concatenate([np.zeros(0), *(scores for _, scores in kept)]))
    staying = len(scores) - np.searchsorted(scores, thresholds)  # (S,)
    recall = _compute_recall(found, pairs.score[:, None] >= thresholds, num_boxes)  # (T, S)
    return ScoreCurve(thresholds, staying / (len(kept) or np.nan), recall[0], recall.mean(axis=0))


def _keep_best(boxes: Floats, scores: Floats, top: int) -> tuple[Floats, Floats]:
    order = np.argsort(-scores, kind="stable")[:top]
    return boxes[order], scores[order]


def _read_ground_truth(where: str, truth: GroundTruth) -> tuple[Floats, Floats]:
    """Boxes (G, 4) and areas (G,) of what is to be found: all but the ignored."""
    boxes, areas = _read_boxes(f"{where}, ground truth", truth.boxes), _read_floats(f"{where}, areas", truth.areas)
    name = "ignore" if hasattr(truth, "ignore") else "crowd"  # what it was called first
    ignore = np.asarray(getattr(truth, name), dtype=bool)
    if not areas.shape == ignore.shape == (len(boxes),):
        raise AnnotationError(
            f"{where}: {len(boxes)} ground-truth boxes, but areas of shape {areas.shape} and ignore of shape "
            f"{ignore.shape}; give one of each for every box."
        )
    return boxes[~ignore], areas[~ignore]


def _read_proposals(where: str, boxes: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    read, floats = _read_boxes(f"{where}, proposals", boxes), _read_floats(f"{where}, scores", scores)
    if floats.shape != (len(read),):
        raise AnnotationError(
            f"{where}: {len(read)} proposals, but scores of shape {floats.shape}; give one for every box."
        )
    return read, floats


def _read_boxes(where: str, values: ArrayLike) -> Floats:
    boxes = _read_floats(where, values)
    if boxes.shape == (0,):  # an empty list
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise AnnotationError(f"{where}: boxes of shape {boxes.shape}; give (n, 4), as x1, y1, x2, y2.")
    return boxes


def _read_floats(where: str, values: ArrayLike) -> Floats:
    try:
        floats = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{where}: not an array of numbers ({error}).") from error
    if not np.isfinite(floats).all():
        raise AnnotationError(f"{where}: {(~np.isfinite(floats)).sum()} numbers are NaN or infinite; leave them out.")
    return floats
