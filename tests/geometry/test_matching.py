import math
from fractions import Fraction
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from objectness.config import AnchorOptions, LabelOptions
from objectness.geometry import matching
from objectness.geometry.anchors import make_anchors
from objectness.geometry.boxes import compute_iou
from objectness.geometry.matching import NEGATIVE, POSITIVE, UNUSED, Matches, match_anchors, match_grid, sample_anchors
from objectness.kernels.cpu.library import ENVIRONMENT, OFF
from objectness.structures import AnchorGrid, Targets

NO_BOXES = torch.zeros(0, 4)


def match(anchors: list[list[float]], boxes: list[list[float]], crowds: Any = (), **options: float) -> Matches:
    targets = Targets(torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(crowds).reshape(-1, 4).float())
    return match_anchors(torch.tensor(anchors).reshape(-1, 4).float(), targets, LabelOptions(**options))


# Published cases


def test_detectron2_case() -> None:
    """Source: detectron2, test_matcher.py: IoUs of 3 boxes with 4 anchors, thresholds 0.3 and 0.7."""
    ious = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
    with mock.patch.object(matching, "compute_iou_plain", return_value=ious):
        matches = match([[0, 0, 1, 1]] * 4, [[0, 0, 1, 1]] * 3)
    assert matches.boxes.tolist() == [1, 1, 2, 0]
    # 0.3 is no longer negative; 0.65 and 0.6 are the best of their boxes, 0.4 the best of the third twice
    assert matches.labels.tolist() == [UNUSED, POSITIVE, NEGATIVE, POSITIVE]
    torch.testing.assert_close(matches.ious, torch.tensor([0.3, 0.65, 0.25, 0.6]))


PRIORS = [[0, 0, 10, 10], [10, 10, 20, 20], [5, 5, 15, 15], [32, 32, 38, 42]]
BOXES = [[0, 0, 10, 9], [0, 10, 10, 19]]


def test_mmdetection_case() -> None:
    """Source: mmdetection, test_max_iou_assigner.py; both thresholds 0.5."""
    matches = match(PRIORS, BOXES, positive_iou=0.5, negative_iou=0.5)
    # IoUs 90 / 100; 0, only a corner is shared; 25 / (100 + 90 - 25), the best that box 1 has; 0
    torch.testing.assert_close(matches.ious, torch.tensor([0.9, 0, 25 / 165, 0]))
    assert matches.labels.tolist() == [POSITIVE, NEGATIVE, POSITIVE, NEGATIVE]
    assert matches.boxes[[0, 2]].tolist() == [0, 1]


def test_mmdetection_cases_of_ignored_and_missing_boxes() -> None:
    """Source: the same file; the ignored region covers 10 * 8 of the last anchor's 100 px."""
    anchors = [*PRIORS[:3], [30, 32, 40, 42]]
    matches = match(anchors, BOXES, crowds=[[30, 30, 40, 40]], positive_iou=0.5, negative_iou=0.5)
    assert matches.labels.tolist() == [POSITIVE, NEGATIVE, POSITIVE, UNUSED]
    assert match(PRIORS, []).labels.tolist() == [NEGATIVE] * 4
    assert match([], BOXES).labels.shape == (0,)
    assert match([], BOXES, crowds=[[30, 30, 40, 40]]).labels.shape == (0,)
    assert match([], []).labels.shape == (0,)


LUMINOTH_BOX = [200, 0, 400, 400]
LUMINOTH_ANCHORS = [[200, 100, 400, 400], [300, 300, 400, 400], [200, 380, 300, 500]]


def test_luminoth_case() -> None:
    """Source: luminoth, rpn_target_test.py, testBaseCase; a batch of 2 keeps the positive and one negative."""
    matches = match(LUMINOTH_ANCHORS, [LUMINOTH_BOX])
    # 60,000 / 80,000; 10,000 / 80,000; 2,000 / (80,000 + 12,000 - 2,000)
    torch.testing.assert_close(matches.ious, torch.tensor([0.75, 0.125, 2 / 90]))
    assert matches.labels.tolist() == [POSITIVE, NEGATIVE, NEGATIVE]
    sample = draw_sample(matches.labels, anchors_per_image=2)
    assert sample[0] == [0]
    assert sample[1] in ([1], [2])


def test_luminoth_cases_of_weak_and_several_boxes() -> None:
    """Source: the same file, testWithNoClearMatch and testWithMultipleGTBoxes."""
    assert match(LUMINOTH_ANCHORS[1:], [LUMINOTH_BOX]).labels.tolist() == [POSITIVE, NEGATIVE]  # the best of a weak lot
    anchors = [[300, 300, 400, 390], [300, 300, 400, 400], [100, 310, 120, 380]]
    matches = match(anchors, [LUMINOTH_BOX, [100, 300, 120, 375]])
    # box 0: 9,000 / 80,000 and 10,000 / 80,000; box 1: 20 * 65 / (20 * 75 + 20 * 70 - 20 * 65) = 13 / 16
    torch.testing.assert_close(matches.ious, torch.tensor([0.1125, 0.125, 0.8125]))
    assert matches.labels.tolist() == [NEGATIVE, POSITIVE, POSITIVE]
    positives, negatives = draw_sample(matches.labels, anchors_per_image=3)  # half of 3 is one positive
    assert positives in ([1], [2])
    assert negatives == [0]


# Labels


def test_thresholds_count_their_edges_in() -> None:
    # IoUs 1, 2 / 4 and 1 / 4, exact in binary
    matches = match([[0, 0, 4, 1], [0, 0, 2, 1], [0, 0, 1, 1]], [[0, 0, 4, 1]], positive_iou=0.5, negative_iou=0.25)
    assert matches.labels.tolist() == [POSITIVE, POSITIVE, UNUSED]


def test_all_tied_best_anchors_are_positive() -> None:
    # the box lies between two anchors: 2 / (4 + 4 - 2) = 1 / 3 with each
    matches = match([[0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 2]], [[1, 0, 3, 2]])
    assert matches.labels.tolist() == [POSITIVE, POSITIVE, NEGATIVE]


def test_box_that_touches_no_anchor_makes_none_positive() -> None:
    # its best IoU is 0, which it has with every anchor
    far = [100, 100, 110, 110]
    assert match([[0, 0, 2, 2], [2, 0, 4, 2]], [far]).labels.tolist() == [NEGATIVE] * 2
    matches = match([[0, 0, 2, 2], [2, 0, 4, 2]], [far, [0, 0, 2, 2]])
    assert matches.labels.tolist() == [POSITIVE, NEGATIVE]
    assert matches.boxes[0] == 1


def test_target_is_the_box_of_highest_iou_whoever_made_it_positive() -> None:
    # The anchor is the best of box 0 (2 / 4, its only one), but overlaps box 1 more (3 / 4).
    anchors, boxes = [[0, 0, 4, 1], [10, 0, 14, 1]], [[0, 0, 2, 1], [0, 0, 3, 1]]
    matches = match(anchors, boxes)
    assert matches.labels.tolist() == [POSITIVE, NEGATIVE]
    assert matches.boxes[0] == 1


def test_first_of_equal_boxes_is_the_target() -> None:
    anchors, boxes = [[0, 0, 2, 2], [0, 0, 2, 1]], [[5, 5, 6, 6], [0, 0, 2, 2], [0, 0, 2, 2]]
    assert match(anchors, boxes).boxes.tolist() == [1, 1]
    with mock.patch.object(matching, "OVERLAPS_AT_ONCE", 1):  # a box at a time
        assert match(anchors, boxes).boxes.tolist() == [1, 1]


def test_crowds_make_unused_not_positive() -> None:
    anchors = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    crowds = [[0, 0, 30, 7], [40, 0, 50, 8]]  # 0.7, 0.7 and 0.8 of the first three
    assert match(anchors, [], crowds).labels.tolist() == [NEGATIVE, NEGATIVE, UNUSED, NEGATIVE]  # more than 0.7
    assert match(anchors, [], crowds, crowd_share=0.5).labels.tolist() == [UNUSED, UNUSED, UNUSED, NEGATIVE]
    # an object inside a crowd stays an object
    assert match(anchors, [[40, 0, 50, 10]], crowds).labels.tolist() == [NEGATIVE, NEGATIVE, POSITIVE, NEGATIVE]
    # two crowds, each with 0.6 of the anchor, are each not enough
    halves = [[0, 0, 6, 10], [4, 0, 10, 10]]
    assert match(anchors[:1], [], halves, negative_iou=0.65).labels.tolist() == [NEGATIVE]


def test_an_anchor_that_fits_an_ignored_object_is_not_negative() -> None:
    """It may hold the object, though less than `crowd_share` of it lies inside."""
    region = [[0, 0, 10, 10]]
    anchors = [[-2, -1, 12, 9], [-5, -5, 15, 15], [0, 0, 20, 20], [0, 0, 10, 34], [20, 0, 30, 10]]
    # 90 of 140 + 100 - 90: IoU 0.6 (and 0.64 of its area). 100 of 400: 0.25, twice. 100 of 340: 0.294. Nothing.
    assert match(anchors, [], region).labels.tolist() == [UNUSED, NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE]
    assert match(anchors, [], region, negative_iou=0.25).labels.tolist() == [UNUSED] * 4 + [NEGATIVE]  # at least
    # an object on the same anchor stays positive
    assert match(anchors[:1], anchors[:1], region).labels.tolist() == [POSITIVE]


def test_no_boxes_give_zeros() -> None:
    matches = match(PRIORS, [])
    assert matches.ious.tolist() == [0] * 4
    assert matches.boxes.tolist() == [0] * 4
    assert matches.labels.dtype == torch.int8


@pytest.mark.parametrize("bad", [[math.nan, 0, 9, 9], [0, 0, math.inf, 9], [0, 0, 9, math.nan], [-3e38, 0, 3e38, 0]])
def test_boxes_and_crowds_that_are_no_numbers_match_nothing(bad: list[float]) -> None:
    expected = match(PRIORS, [[50, 50, 60, 60], *BOXES])
    found = match(PRIORS, [bad, *BOXES], crowds=[[math.nan, 0, 99, 99], [0, 0, 99, math.nan]])
    for ours, same in zip(found, expected, strict=True):
        assert torch.equal(ours, same)


# Grids


def make_small_grid() -> AnchorGrid:
    return make_anchors(AnchorOptions(), [(56, 80), (28, 40), (14, 20), (7, 10), (4, 5)], (224, 320))


def make_many_boxes(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    sides = 4 * 60 ** torch.rand(count, 2, generator=generator)  # 4 to 240 px, the small as common as the large
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([320.0, 224.0])
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel where it is built, and without it."""
    if request.param == "torch":
        monkeypatch.setenv(ENVIRONMENT, OFF)
    return str(request.param)


@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize("negative_iou", [0.0, 0.3, 0.7])
def test_grid_is_matched_as_its_anchors_are(way: str, count: int, negative_iou: float) -> None:
    grid, options = make_small_grid(), LabelOptions(negative_iou=negative_iou)
    targets = Targets(make_many_boxes(count), make_many_boxes(2))
    ours, plain = match_grid(grid, targets, options), match_anchors(grid.join(), targets, options)
    assert torch.equal(ours.labels, plain.labels)
    told = (plain.labels == POSITIVE) | (plain.ious >= negative_iou)
    assert torch.equal(ours.boxes, torch.where(told, plain.boxes, 0))
    assert torch.equal(ours.ious, torch.where(told, plain.ious, 0))
    if count:
        assert told.any()


@pytest.mark.parametrize("count", [1, 20, 60])
def test_grid_is_matched_as_torchvision_matches(way: str, torchvision: ModuleType, count: int) -> None:
    """Labels, and the boxes of positive anchors: what its RPN makes its losses of."""
    from torchvision.models.detection._utils import Matcher

    grid, boxes = make_small_grid(), make_many_boxes(count)
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(torchvision.ops.box_iou(boxes, grid.join()))
    ours = match_grid(grid, Targets(boxes, NO_BOXES), LabelOptions())
    labels = torch.where(theirs >= 0, POSITIVE, torch.where(theirs == Matcher.BELOW_LOW_THRESHOLD, NEGATIVE, UNUSED))
    assert torch.equal(ours.labels.long(), labels)
    positive = ours.labels == POSITIVE
    assert positive.sum() >= count
    assert torch.equal(ours.boxes[positive], theirs[positive])


# Agreement with a slow loop over exact fractions


@st.composite
def draw_small_boxes(draw: st.DrawFn, most: int) -> list[list[int]]:
    """Boxes with corners on a grid of 12 x 12, so that ties and duplicates are common; possibly none."""
    corner = st.tuples(st.integers(0, 11), st.integers(0, 11))
    size = st.tuples(st.integers(1, 8), st.integers(1, 8))
    rows = draw(st.lists(st.tuples(corner, size), max_size=most))
    boxes = [[x, y, x + w, y + h] for (x, y), (w, h) in rows]
    return boxes + draw(st.lists(st.sampled_from(boxes), max_size=3)) if boxes else []


def overlap(box: list[int], other: list[int]) -> int:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0)


def area(box: list[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def match_slowly(anchors: list[list[int]], boxes: list[list[int]], crowds: list[list[int]]) -> list[tuple[int, int]]:
    """(label, box) of every anchor."""

    def iou(box: list[int], anchor: list[int]) -> Fraction:
        shared = overlap(box, anchor)
        return Fraction(shared, area(box) + area(anchor) - shared)

    best_of_box = [max((iou(box, anchor) for anchor in anchors), default=0) for box in boxes]
    results = []
    for anchor in anchors:
        ious = [iou(box, anchor) for box in boxes]
        highest = max(ious, default=Fraction(0))
        is_best = any(mine == best > 0 for mine, best in zip(ious, best_of_box, strict=True))
        crowded = any(
            overlap(crowd, anchor) > Fraction(7, 10) * area(anchor) or iou(crowd, anchor) >= Fraction(3, 10)
            for crowd in crowds
        )
        if highest >= Fraction(7, 10) or is_best:
            label = POSITIVE
        elif highest < Fraction(3, 10) and not crowded:
            label = NEGATIVE
        else:
            label = UNUSED
        results.append((label, ious.index(highest) if ious else 0))
    return results


@settings(deadline=None, max_examples=150)
@given(draw_small_boxes(30), draw_small_boxes(8), draw_small_boxes(2), st.sampled_from([1, 40, 1 << 20]))
def test_matches_agree_with_a_slow_loop(
    anchors: list[list[int]], boxes: list[list[int]], crowds: list[list[int]], at_once: int
) -> None:
    with mock.patch.object(matching, "OVERLAPS_AT_ONCE", at_once):  # a box at a time, a few, all together
        matches = match(anchors, boxes, crowds)
    found = list(zip(matches.labels.tolist(), matches.boxes.tolist(), strict=True))
    assert found == match_slowly(anchors, boxes, crowds)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return result


def test_500_boxes_take_no_matrix_of_all_pairs() -> None:
    grid = make_anchors(AnchorOptions(), [(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)], (320, 320))
    anchors = grid.join()  # K = 3 * 8,525
    corners = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 300
    boxes = torch.cat([corners, corners + torch.linspace(4, 200, 500)[:, None]], dim=1)
    with mock.patch.object(matching, "OVERLAPS_AT_ONCE", 1 << 17), LargestTensor() as largest:
        matches = match_anchors(anchors, Targets(boxes, NO_BOXES), LabelOptions())
    # corners of 2^17 pairs are 2^18 numbers; all pairs would be 500 * 25,575 = 12.8 million
    assert largest.numel <= 1 << 18

    ious = compute_iou(boxes, anchors)  # (G, K), all pairs after all
    assert torch.equal(matches.ious, ious.amax(dim=0))
    assert torch.equal(ious[matches.boxes, torch.arange(len(anchors))], matches.ious)
    is_best = (ious == ious.amax(dim=1, keepdim=True)).any(dim=0)
    assert torch.equal(matches.labels == POSITIVE, is_best | (matches.ious >= 0.7))
    assert torch.equal(matches.labels == NEGATIVE, ~is_best & (matches.ious < 0.3))


def test_more_anchors_than_overlaps_at_once() -> None:
    anchors = torch.tensor([[0.0, 0, 2, 2]]).repeat(1000, 1)
    with mock.patch.object(matching, "OVERLAPS_AT_ONCE", 10), LargestTensor() as largest:
        match_anchors(anchors, Targets(anchors[:7], anchors[:3]), LabelOptions())
    assert largest.numel <= 4 * len(anchors)


# Sampling


def draw_sample(labels: Tensor, seed: int = 0, **options: Any) -> tuple[list[int], list[int]]:
    """Sorted positions of the used positives and negatives."""
    sample = sample_anchors(labels, LabelOptions(**options), torch.Generator().manual_seed(seed))
    assert len(sample.anchors) == len(sample.positive) == len(sample.used)
    assert not (sample.positive & ~sample.used).any()
    positives = sample.anchors[sample.positive].tolist()
    negatives = sample.anchors[sample.used & ~sample.positive].tolist()
    assert all(labels[i] == POSITIVE for i in positives)
    assert all(labels[i] == NEGATIVE for i in negatives)
    return sorted(positives), sorted(negatives)


def make_labels(positive: int, negative: int, unused: int = 0) -> Tensor:
    labels = torch.tensor([POSITIVE] * positive + [NEGATIVE] * negative + [UNUSED] * unused, dtype=torch.int8)
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))]


def test_torchvision_sampler_case() -> None:
    """Source: torchvision, test_models_detection_utils.py: 4 anchors, a quarter positive, of 6 x 0, 3 x 1, 2 x -1."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [-1] * 2, dtype=torch.int8)
    positives, negatives = draw_sample(labels, anchors_per_image=4, positive_share=0.25)
    assert (len(positives), len(negatives)) == (1, 3)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((300, 1000, 50), (128, 128)),
        ((10, 1000, 50), (10, 246)),  # negatives fill up
        ((300, 20, 0), (128, 20)),  # positives do not
        ((0, 1000, 0), (0, 256)),
        ((10, 0, 500), (10, 0)),
        ((0, 0, 300), (0, 0)),
        ((3, 4, 2), (3, 4)),  # fewer anchors than places; half of 9 is 4 positives at most
        ((9, 0, 0), (4, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_sampled_counts(labels: tuple[int, int, int], expected: tuple[int, int]) -> None:
    positives, negatives = draw_sample(make_labels(*labels))
    assert (len(positives), len(negatives)) == expected
    assert len({*positives, *negatives}) == sum(expected)  # none twice


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.integers(0, 20)] * 3), st.integers(1, 16), st.floats(0, 1), st.integers(0, 2**62))
def test_any_sample_is_as_large_as_it_can_be(counts: tuple[int, int, int], count: int, share: float, seed: int) -> None:
    labels = make_labels(*counts)
    positives, negatives = draw_sample(labels, seed, anchors_per_image=count, positive_share=share)
    places = min(count, len(labels))
    assert len(positives) == min(counts[0], int(places * share))
    assert len(negatives) == min(counts[1], places - len(positives))
    assert len({*positives, *negatives}) == len(positives) + len(negatives)


def test_seed_decides_the_sample() -> None:
    labels = make_labels(300, 1000)
    assert draw_sample(labels, seed=3) == draw_sample(labels, seed=3)
    assert draw_sample(labels, seed=3) != draw_sample(labels, seed=4)


def test_samples_are_uniform() -> None:
    labels = make_labels(12, 30, 8)
    counts = torch.zeros(len(labels))
    rounds = 1500
    for seed in range(rounds):
        positives, negatives = draw_sample(labels, seed, anchors_per_image=12)
        counts[positives] += 1
        counts[negatives] += 1
    # 6 of 12 positives, 6 of 30 negatives: counts are binomial, within 5 standard deviations
    for label, share in ((POSITIVE, 6 / 12), (NEGATIVE, 6 / 30), (UNUSED, 0)):
        drawn = counts[labels == label]
        spread = 5 * (rounds * share * (1 - share)) ** 0.5
        assert (drawn - rounds * share).abs().max() <= spread
