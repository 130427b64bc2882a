"""How many of the objects the proposals find: class-agnostic average recall, AR@k.

The protocol is COCO's with `useCats=0`, and the numbers are pycocotools' own. They come some hundred times faster for
three reasons:

1.  Recall never sees what COCO ignores. A proposal takes an ignored box (a crowd, or a box outside the area range) only
    where no other box is left to it; so these boxes are dropped before anything is matched.
2.  COCO goes through the proposals from the best score down, each taking the box it overlaps most among those left.
    That is the one stable matching between boxes that prefer the better score and proposals that prefer the larger
    IoU, so it may as well be found from the boxes' side, of all images at once (Gale and Shapley's deferred
    acceptance): boxes are few, and nearly all of them get their first wish.
3.  A box that the r-th best proposal finds is found at every k >= r and at every lower score threshold: one matching
    for each area range and IoU threshold answers for every k and for the whole score curve.

Letters beside those of `structures.py`: T IoU thresholds, R area ranges, M values of k, P pairs of a box and a proposal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import AnnotationError, ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # (T,), bit for bit pycocotools'
AREA_RANGES = {  # px^2 of the annotation, both ends counted in, as in COCO
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
SCORE_THRESHOLDS: Floats = np.arange(20) / 20  # 0, 0.05, ... 0.95
TOPS = (10, 100, 300, 1000)

DEFINITION = (
    "AR@k: the share of the annotated boxes that the k best-scored proposals of each image find, each proposal at most "
    "one box, averaged over IoU 0.50:0.05:0.95. Class-agnostic (COCOeval with useCats=0). Crowd regions are left out; "
    "the boxes of an image without proposals are missed. By annotated area: small to 32 x 32 px, medium to 96 x 96 px."
)


class GroundTruth(Protocol):
    """The annotated boxes of one image; `ImageRecord` is one, and so is anything else with these attributes."""

    @property
    def boxes(self) -> NDArray[Any]:
        """(G, 4) float64 xyxy, px in the original image."""

    @property
    def areas(self) -> NDArray[Any]:
        """(G,) px^2, as annotated: the area of the object's outline, or of its box where there is none."""

    @property
    def crowd(self) -> NDArray[Any]:
        """(G,) bool: a region of many objects, neither to be found nor to be counted against a proposal."""


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """What a score threshold costs and saves, boxes of every size; only the best max(k) of an image are looked at.

    Attributes:
        thresholds: (S,) a proposal stays if its score is at least this.
        proposals_per_image: (S,) how many stay, mean over the images.
        recall_50: (S,) share of the boxes found at IoU 0.5; NaN without boxes.
        average_recall: (S,) mean recall over IoU 0.50:0.05:0.95; NaN without boxes.
    """

    thresholds: Floats
    proposals_per_image: Floats
    recall_50: Floats
    average_recall: Floats


@dataclass(frozen=True, eq=False)
class RecallReport:
    """Everything measured in one go.

    Attributes:
        recall: (T, R, M) in [0, 1], over IOU_THRESHOLDS, AREA_RANGES and `tops`; NaN where a range holds no box.
        tops: the M values of k, rising.
        num_boxes: boxes to be found in each area range, crowds left out.
        proposals_per_image: (N,) as many as were given, also beyond the largest k.
        score_curve: proposals and recall against the score threshold.
    """

    recall: Floats
    tops: tuple[int, ...]
    num_boxes: dict[str, int]
    proposals_per_image: Ints
    score_curve: ScoreCurve

    @property
    def num_images(self) -> int:
        """N, the images without boxes or without proposals included."""
        return len(self.proposals_per_image)

    def average_recall(self, top: int, area: str = "all") -> float:
        """AR@top of one area range; NaN if it holds no box."""
        return float(self.recall_by_iou(top, area).mean())

    def recall_by_iou(self, top: int, area: str = "all") -> Floats:
        """(T,) recall at each of IOU_THRESHOLDS.

        Raises:
            ConfigError: `top` or `area` was not measured.
        """
        if top not in self.tops or area not in AREA_RANGES:
            raise ConfigError(f"AR@{top} of {area} was not measured, only k in {self.tops} of {', '.join(AREA_RANGES)}.")
        return self.recall[:, list(AREA_RANGES).index(area), self.tops.index(top)]

    def count_short_images(self, top: int) -> int:
        """Images with fewer than `top` proposals, for which AR@top asks for more than there are."""
        return int((self.proposals_per_image < top).sum())

    def describe_kept(self, top: int) -> str | None:
        """A sentence for AR@top if some image has fewer than `top` proposals, else None."""
        short = self.count_short_images(top)
        if not short:
            return None
        fewest, most = int(self.proposals_per_image.min()), int(self.proposals_per_image.max())
        if most == 0:
            return f"AR@{top}: no image has a proposal."
        if most < top:
            return f"AR@{top}: no image has more than {most} proposals, so this is AR@{most}."
        have = "has" if short == 1 else "have"
        return f"AR@{top}: {short} of {self.num_images} images {have} fewer than {top} proposals (fewest: {fewest})."

    def notes(self) -> list[str]:
        """What must stand beside the numbers: their definition, and each k that asks for more than was kept."""
        return [DEFINITION, *filter(None, map(self.describe_kept, self.tops))]

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types; None where there is no box to be found."""
        curve = self.score_curve
        return {
            "definition": DEFINITION,
            "images": self.num_images,
            "boxes": dict(self.num_boxes),
            "average_recall": {
                area: {str(top): _to_json([self.average_recall(top, area)])[0] for top in self.tops}
                for area in AREA_RANGES
            },
            "iou_thresholds": _to_json(IOU_THRESHOLDS),
            "recall_by_iou": {
                area: {str(top): _to_json(self.recall_by_iou(top, area)) for top in self.tops} for area in AREA_RANGES
            },
            "kept": {
                str(top): {"images_with_fewer": self.count_short_images(top), "note": self.describe_kept(top)}
                for top in self.tops
            },
            "score_curve": {name: _to_json(values) for name, values in vars(curve).items()},
        }

    def table(self) -> str:
        """The report as plain text: AR by size, recall by IoU, the score curve, and the notes."""
        at_k = [f"@{top}" for top in self.tops]
        curve = self.score_curve
        by_area = [
            [area, str(self.num_boxes[area]), *(_show(self.average_recall(top, area)) for top in self.tops)]
            for area in AREA_RANGES
        ]
        by_iou = [[f"{iou:.2f}", *map(_show, row)] for iou, row in zip(IOU_THRESHOLDS, self.recall[:, 0], strict=True)]
        by_score = [
            [f"{score:.2f}", f"{count:.1f}", _show(recall_50), _show(average)]
            for score, count, recall_50, average in zip(*vars(curve).values(), strict=True)
        ]
        blocks = [
            f"Average recall by size, {self.num_images} images",
            _align(["size", "boxes", *at_k], by_area),
            "Recall by IoU, every size",
            _align(["IoU", *at_k], by_iou),
            "Proposals per image by score, every size",
            _align(["score", "proposals", "recall at 0.50", "AR"], by_score),
            "\n".join(self.notes()),
        ]
        return "\n\n".join(blocks)


def measure_recall(
    ground_truth: Sequence[GroundTruth],
    proposals: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    top: Iterable[int] = TOPS,
    score_thresholds: ArrayLike = SCORE_THRESHOLDS,
) -> RecallReport:
    """Measure how many annotated boxes the proposals find.

    Args:
        ground_truth: one per image. Boxes without area and images without boxes are allowed.
        proposals: for each image, in the same order, boxes (n, 4) xyxy, px in the original image, and scores (n,), of
            which only the order matters here; n = 0 is allowed. Equal scores keep the order in which they are given.
        top: the values of k.
        score_thresholds: where to measure the score curve, in the unit of the scores.
    Raises:
        AnnotationError: shapes or lengths that do not fit, or numbers that are not finite; it names the image.
        ConfigError: a `top` that is not positive.
    Source:
        COCOeval of pycocotools, iouType "bbox", useCats 0, whose recall this equals. Where a proposal overlaps two
        boxes exactly alike it takes the later one, as there; COCOeval has put boxes in order of category before.
    """
    tops = tuple(sorted(set(top)))
    if not tops or tops[0] < 1:
        raise ConfigError(f"top = {tops}: give the numbers of proposals at which to measure, each at least 1.")
    if len(ground_truth) != len(proposals):
        raise AnnotationError(f"{len(ground_truth)} images have ground truth but {len(proposals)} have proposals.")
    gt = [_read_ground_truth(f"image {index}", truth) for index, truth in enumerate(ground_truth)]
    given = [_read_proposals(f"image {index}", *one) for index, one in enumerate(proposals)]
    kept = [_keep_best(boxes, scores, tops[-1]) for boxes, scores in given]
    areas = np.concatenate([np.zeros(0), *(areas for _, areas in gt)])  # (G,) of all images
    in_range = {name: (areas >= low) & (areas <= high) for name, (low, high) in AREA_RANGES.items()}
    num_boxes = {name: int(chosen.sum()) for name, chosen in in_range.items()}
    pairs = _find_pairs([boxes for boxes, _ in gt], kept)
    found = {name: _match(pairs, chosen) for name, chosen in in_range.items()}
    in_top = pairs.rank[:, None] < np.array(tops)  # (P, M)
    return RecallReport(
        recall=np.stack([_compute_shares(found[name], in_top, num_boxes[name]) for name in AREA_RANGES], axis=1),
        tops=tops,
        num_boxes=num_boxes,
        proposals_per_image=np.array([len(scores) for _, scores in given], dtype=np.int64),
        score_curve=_measure_score_curve(kept, pairs, found["all"], num_boxes["all"], score_thresholds),
    )


# ------------------------------------------------------------------------------------------------------------ matching


class _Pairs(NamedTuple):
    """Every box and proposal that could match at all, of all images, in order of box, then of rank."""

    gt: Ints  # (P,) the box, counted through all images
    proposal: Ints  # (P,) the proposal, counted through all that are in some pair
    rank: Ints  # (P,) place of the proposal in its image, 0 the best
    score: Floats  # (P,)
    iou: Floats  # (P,) at least IOU_THRESHOLDS[0]
    preference: Ints  # (P,) distinct; of two pairs with the same proposal, the larger is the one it takes


def compute_iou(boxes: Floats, others: Floats) -> Floats:
    """Pairwise IoU (n, m) of boxes (n, 4) and others (m, 4), float64 xyxy; 0 for boxes without area.

    In the order of operations of pycocotools' C code on (x, y, width, height), so that a pair that lies exactly on a
    threshold falls on the same side of it.
    """
    x, y, width, height = (part[:, None] for part in _xyxy_to_xywh(boxes))  # each (n, 1)
    other_x, other_y, other_width, other_height = _xyxy_to_xywh(others)  # each (m,)
    overlap_width = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)  # (n, m)
    overlap_height = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    intersection = np.maximum(overlap_width, 0) * np.maximum(overlap_height, 0)
    union = width * height + other_width * other_height - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _xyxy_to_xywh(boxes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    x1, y1, x2, y2 = boxes.T
    return x1, y1, x2 - x1, y2 - y1


def _find_pairs(gt_boxes: list[Floats], proposals: list[tuple[Floats, Floats]]) -> _Pairs:
    columns: list[tuple[NDArray[Any], ...]] = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))]
    first_gt = first_proposal = 0
    for truth, (boxes, scores) in zip(gt_boxes, proposals, strict=True):
        iou = compute_iou(truth, boxes)  # (G, n)
        gt, rank = np.nonzero(iou >= IOU_THRESHOLDS[0])
        columns.append((gt + first_gt, rank + first_proposal, rank, scores[rank], iou[gt, rank]))
        first_gt, first_proposal = first_gt + len(truth), first_proposal + len(scores)
    gt, proposal, rank, score, overlap = map(np.concatenate, zip(*columns, strict=True))
    preference = np.empty(len(gt), dtype=np.int64)
    preference[np.argsort(overlap, kind="stable")] = np.arange(len(gt))  # equal IoU: the later box, as pycocotools
    return _Pairs(gt, np.unique(proposal, return_inverse=True)[1], rank, score, overlap, preference)


def _match(pairs: _Pairs, in_range: NDArray[np.bool_]) -> list[Ints]:
    """Match the boxes of `in_range` (G,) at each of T IoU thresholds; T lists of the pairs that come together."""
    eligible = in_range[pairs.gt]
    return [_match_at(pairs, np.flatnonzero(eligible & (pairs.iou >= threshold))) for threshold in IOU_THRESHOLDS]


def _match_at(pairs: _Pairs, eligible: Ints) -> Ints:
    """Match by deferred acceptance, among the pairs `eligible` (p,), rising; returns those that come together.

    Each box asks its best-scored proposal; a proposal keeps the box it prefers; the refused ask their next one.
    """
    gt, proposal, preference = pairs.gt[eligible], pairs.proposal[eligible], pairs.preference[eligible]
    ends = np.flatnonzero(np.diff(gt, append=-1)) + 1  # after the last wish of each box
    asks = np.concatenate([ends[:0], [0], ends[:-1]]) if len(ends) else ends  # the wish each box is at
    best = np.full(proposal.max(initial=-1) + 1, -1)  # preference for whoever asked so far
    while True:
        np.maximum.at(best, proposal[asks], preference[asks])
        refused = preference[asks] < best[proposal[asks]]
        if not refused.any():
            return eligible[asks]
        asks = asks + refused
        asks, ends = asks[asks < ends], ends[asks < ends]


# ------------------------------------------------------------------------------------------------------------- counting


def _compute_shares(found: list[Ints], passes: NDArray[np.bool_], num_boxes: int) -> Floats:
    """Share (T, X) of the boxes found by a pair that `passes` (P, X) each of X limits; NaN without boxes."""
    return np.array([passes[matched].sum(axis=0) for matched in found]) / (num_boxes or np.nan)


def _measure_score_curve(
    kept: list[tuple[Floats, Floats]], pairs: _Pairs, found: list[Ints], num_boxes: int, score_thresholds: ArrayLike
) -> ScoreCurve:
    thresholds = np.asarray(score_thresholds, dtype=np.float64)
    shares = _compute_shares(found, pairs.score[:, None] >= thresholds, num_boxes)  # (T, S)
    scores = np.sort(np.concatenate([np.zeros(0), *(scores for _, scores in kept)]))
    staying = len(scores) - np.searchsorted(scores, thresholds)  # (S,)
    return ScoreCurve(thresholds, staying / (len(kept) or np.nan), shares[0], shares.mean(axis=0))


# -------------------------------------------------------------------------------------------------- reading and writing


def _read_ground_truth(where: str, truth: GroundTruth) -> tuple[Floats, Floats]:
    """Boxes (G, 4) and areas (G,) of all that is to be found: crowds left out."""
    boxes, areas = _read_boxes(f"{where}, ground truth", truth.boxes), _read_floats(f"{where}, areas", truth.areas)
    crowd = np.asarray(truth.crowd, dtype=bool)
    if not areas.shape == crowd.shape == (len(boxes),):
        raise AnnotationError(
            f"{where}: {len(boxes)} ground-truth boxes with areas {areas.shape} and crowd {crowd.shape}; "
            "give one of each for every box."
        )
    return boxes[~crowd], areas[~crowd]


def _read_proposals(where: str, boxes: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    boxes, scores = _read_boxes(f"{where}, proposals", boxes), _read_floats(f"{where}, scores", scores)
    if scores.shape != (len(boxes),):
        raise AnnotationError(f"{where}: {len(boxes)} proposals with scores {scores.shape}; give one for every box.")
    return boxes, scores


def _read_boxes(where: str, boxes: ArrayLike) -> Floats:
    boxes = _read_floats(where, boxes)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise AnnotationError(f"{where}: boxes {boxes.shape}, but they must be (n, 4): x1, y1, x2, y2.")
    return boxes


def _read_floats(where: str, values: ArrayLike) -> Floats:
    floats = np.asarray(values, dtype=np.float64)
    if not np.isfinite(floats).all():
        raise AnnotationError(f"{where}: a number that is not finite; remove the box.")
    return floats


def _keep_best(boxes: Floats, scores: Floats, top: int) -> tuple[Floats, Floats]:
    order = np.argsort(-scores, kind="stable")[:top]
    return boxes[order], scores[order]


def _to_json(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _show(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.3f}"


def _align(header: list[str], rows: list[list[str]]) -> str:
    """Columns flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in [header, *rows])
