import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import AnchorOptions, SelectionOptions
from objectness.geometry import selection as selecting
from objectness.geometry.anchors import find_nearest_anchors, make_anchors
from objectness.geometry.boxes import compute_iou, decode_deltas, encode_deltas
from objectness.geometry.selection import correct_border, decay_scores, fold_logits, select_proposals, suppress
from objectness.structures import AnchorGrid, Output, Selection

LEVELS = (2, 3, 4, 5, 6)
SMALL = AnchorOptions(sizes=(8, 16, 32, 64, 128), ratios=(0.5, 1, 2))  # so that small images hold whole anchors


def make_grid(size: int = 64, options: AnchorOptions = SMALL) -> AnchorGrid:
    """The anchors of a square input; for 64 px 3 * (256 + 64 + 16 + 4 + 1) = 1,023 of them."""
    return make_anchors(options, [(max(1, size >> level),) * 2 for level in LEVELS], (size, size))


def make_output(grid: AnchorGrid, logits: Tensor, deltas: Tensor | None = None) -> Output:
    """Maps that say `logits` (N, K) and `deltas` (N, K, 4) at the anchors; the logits as (z + 3, 3)."""
    deltas = torch.zeros(*logits.shape, 4) if deltas is None else deltas
    pairs = torch.stack([logits + 3, torch.full_like(logits, 3)], dim=-1)  # (N, K, 2)
    counts = [len(level) for level in grid.levels]

    def to_maps(values: Tensor) -> tuple[Tensor, ...]:
        per_level = zip(values.split(counts, dim=1), grid.map_sizes, strict=True)
        return tuple(
            level.reshape(len(level), height, width, -1).permute(0, 3, 1, 2) for level, (height, width) in per_level
        )

    return Output((), to_maps(pairs), to_maps(deltas))


def make_random(grid: AnchorGrid, num_images: int = 1, seed: int = 0, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits (N, K) without ties, and deltas (N, K, 4)."""
    generator = torch.Generator().manual_seed(seed)
    count = len(grid.join())
    logits = torch.stack([torch.randperm(count, generator=generator) for _ in range(num_images)]) / 128 - 4
    return logits, torch.randn(num_images, count, 4, generator=generator) * spread


def select(
    grid: AnchorGrid, logits: Tensor, deltas: Tensor | None = None, size: tuple[int, int] = (64, 64), **options: object
) -> Selection:
    """The proposals of one image, from logits (K,) and deltas (K, 4)."""
    output = make_output(grid, logits[None], None if deltas is None else deltas[None])
    (selection,) = select_proposals(output, grid, torch.tensor([size]).float(), SelectionOptions(**options))
    return selection


def make_selection(boxes: list[list[float]], scores: list[float], levels: list[int] | None = None) -> Selection:
    """Candidates sorted by score."""
    logits = torch.tensor(scores).logit()
    order = logits.argsort(descending=True)
    return Selection(torch.tensor(boxes)[order], logits[order], torch.tensor(levels or [2] * len(boxes))[order])


def assert_same(ours: Selection, theirs: Selection) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


# Suppression


@pytest.mark.parametrize(
    ("nms_iou", "kept"), [(0.1, {1, 3}), (0.3, {1, 3}), (0.5, {1, 3}), (0.8, {1, 2, 3, 4}), (0.9, {0, 1, 2, 3, 4})]
)
def test_caffe2_suppression(nms_iou: float, kept: set[int]) -> None:
    """Source: maskrcnn-benchmark, test_nms.py, itself from caffe2."""
    boxes = [[10.0, 10, 50, 60], [11, 12, 48, 60], [8, 9, 40, 50], [100, 100, 150, 140], [99, 110, 155, 139]]
    selection = suppress(make_selection(boxes, [0.5, 0.7, 0.6, 0.9, 0.8]), nms_iou, keep=10)
    assert {boxes.index(box) for box in selection.boxes.tolist()} == kept
    assert (selection.logits.diff() < 0).all()


@pytest.mark.parametrize(
    ("nms_iou", "scores"),
    [
        (0, [0.9, 0.8]),
        (0.3, [0.9, 0.8, 0.2]),  # widths of x2 - x1 + 1 would give 0.9, 0.8 alone
        (0.6, [0.9, 0.8, 0.2]),
        (0.8, [0.9, 0.8, 0.2]),
        (1, [0.9, 0.8, 0.6, 0.2]),
    ],
)
def test_luminoth_suppression(nms_iou: float, scores: list[float]) -> None:
    """Source: luminoth, rpn_proposal_test.py, testNMSThreshold.

    Its list of IoUs names 0.3115 and 0.2636 for the first box, which are those of inclusive boxes; with edges they are
    120 / 416 = 0.288 and 100 / 416 = 0.240, so at 0.3 the box stays, as it says too.
    """
    boxes = [[10.0, 10, 26, 36], [10, 10, 20, 22], [10, 11, 20, 21], [19, 30, 33, 38]]
    selection = suppress(make_selection(boxes, [0.2, 0.9, 0.6, 0.8]), nms_iou, keep=10)
    torch.testing.assert_close(selection.logits.sigmoid(), torch.tensor(scores))


def test_half_precision_suppression() -> None:
    """Source: torchvision, test_ops.py, TestNMS: areas of 600,000 px^2, which half precision cannot hold."""
    boxes = [
        [285.3538, 185.5758, 1193.5110, 851.4551],
        [285.1472, 188.7374, 1192.4984, 851.0669],
        [279.2440, 197.9812, 1189.4746, 849.2019],
    ]
    candidates = make_selection(boxes, [0.6370, 0.7569, 0.3966])
    selection = suppress(candidates._replace(boxes=candidates.boxes.half()), 0.2, keep=10)
    torch.testing.assert_close(selection.logits.sigmoid(), torch.tensor([0.7569]))


def test_iou_of_exactly_the_threshold_stays() -> None:
    halves = make_selection([[0.0, 0, 4, 1], [0, 0, 2, 1]], [0.9, 0.8])
    assert len(suppress(halves, 0.5, keep=10).boxes) == 2
    assert len(suppress(halves, 0.49, keep=10).boxes) == 1


def test_suppressed_boxes_suppress_nobody() -> None:
    # IoU of neighbours 2 / 4, of the outer two 1 / 5: the first removes the second, which spares the third
    chain = make_selection([[0.0, 0, 3, 1], [1, 0, 4, 1], [2, 0, 5, 1]], [0.9, 0.8, 0.7])
    assert suppress(chain, 0.4, keep=10).boxes[:, 0].tolist() == [0, 2]


def test_levels_do_not_suppress_each_other() -> None:
    boxes = [[0.0, 0, 10, 10]] * 4
    selection = suppress(make_selection(boxes, [0.9, 0.8, 0.7, 0.6], [2, 3, 2, 3]), 0.5, keep=10)
    assert selection.levels.tolist() == [2, 3]
    torch.testing.assert_close(selection.logits.sigmoid(), torch.tensor([0.9, 0.8]))


def test_nothing_to_suppress() -> None:
    nothing = Selection(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert_same(suppress(nothing, 0.7, keep=10), nothing)


def suppress_slowly(candidates: Selection, nms_iou: float, keep: int) -> Selection:
    """One candidate at a time."""
    ious = compute_iou(candidates.boxes, candidates.boxes)
    kept: list[int] = []
    for i, level in enumerate(candidates.levels):
        if all(candidates.levels[j] != level or ious[j, i] <= nms_iou for j in kept):
            kept.append(i)
    return Selection(*(tensor[kept[:keep]] for tensor in candidates))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6), st.integers(2, 3)),
        max_size=40,
    ),
    st.sampled_from([0, 1 / 3, 0.5, 0.7, 1]),
    st.integers(1, 45),
    st.sampled_from([1, 3, 7, 256]),
)
def test_suppression_agrees_with_a_slow_loop(
    rows: list[tuple[int, int, int, int, int]], nms_iou: float, keep: int, block: int
) -> None:
    """On a small grid, so that duplicates and IoUs of exactly the threshold are common."""
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).reshape(-1, 4).float()
    levels = torch.tensor([level for *_, level in rows], dtype=torch.int64)
    candidates = Selection(boxes, -(torch.arange(len(rows)) // 3).float(), levels)  # logits in ties of three
    with mock.patch.object(selecting, "SUPPRESSION_BLOCK", block):
        assert_same(suppress(candidates, nms_iou, keep), suppress_slowly(candidates, nms_iou, keep))


def test_long_chain_is_suppressed_link_by_link() -> None:
    # each overlaps the next by 2 / 4; every second stays, which takes as many rounds as there are links
    count = 300  # more than one block
    left = torch.arange(count).float()
    boxes = torch.stack([left, torch.zeros(count), left + 3, torch.ones(count)], dim=1)
    chain = Selection(boxes, -left, torch.full((count,), 2))
    assert suppress(chain, 0.4, keep=1000).boxes[:, 0].tolist() == list(range(0, count, 2))


# Scores


def test_fold_logits() -> None:
    nan, inf = math.nan, math.inf
    pairs = torch.tensor([[2.0, -1], [0, 0], [nan, 0], [0, nan], [inf, inf], [-inf, 0], [0, -inf]])
    assert fold_logits(pairs).tolist() == [3, 0, -inf, -inf, -inf, -inf, inf]
    some = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fold_logits(some).sigmoid(), some.softmax(dim=1)[:, 0])
    assert fold_logits(some.half()).dtype == torch.float32


def test_best_come_first_even_where_scores_tie() -> None:
    grid = make_grid()
    logits = torch.full((1023,), -100.0)
    places = [0, 400, 900, 1000, 1020]  # one or more a level, far apart
    logits[places] = torch.tensor([20.0, 40, 30, 60, 50])  # the sigmoid of each is 1.0 in float32
    selection = select(grid, logits, keep=5)
    assert selection.logits.tolist() == [60, 50, 40, 30, 20]
    assert (selection.logits.sigmoid() == 1).all()


def test_equal_logits_keep_the_order_of_their_anchors() -> None:
    grid = make_grid()
    selection = select(grid, torch.zeros(1023), nms_iou=1)
    assert len(selection.boxes) == 1023
    torch.testing.assert_close(selection.boxes, grid.join().clamp(0, 64))


@pytest.mark.parametrize("score_from", ["own", "nearest"])
def test_levels_are_those_of_the_anchors(score_from: str) -> None:
    grid = make_grid()
    selection = select(grid, torch.zeros(1023), nms_iou=1, score_from=score_from)
    assert selection.levels.tolist() == [2] * 768 + [3] * 192 + [4] * 48 + [5] * 12 + [6] * 3


def test_score_of_the_nearest_anchor() -> None:
    """The region of one anchor lands on another: it brings its own score, or takes the other's."""
    grid = make_grid()
    anchors = grid.join()
    source, target = 768 + (4 * 8 + 4) * 3 + 1, 960 + (1 * 4 + 2) * 3 + 0  # a square of P3, a lying one of P4
    logits, deltas = torch.full((1023,), -9.0), torch.zeros(1023, 4)
    logits[source], logits[target] = 2, 5
    deltas[source] = encode_deltas(anchors[target] + 0.5, anchors[source])
    own = select(grid, logits, deltas, keep=2)
    nearest = select(grid, logits, deltas, keep=2, score_from="nearest")
    assert own.logits.tolist() == [5, 2]
    assert nearest.logits.tolist() == [5, 5]
    assert own.levels.tolist() == [4, 3]
    assert nearest.levels.tolist() == [3, 4]  # in the order of the anchors, each on its own level
    torch.testing.assert_close(nearest.boxes[0], anchors[target] + 0.5, rtol=0, atol=1e-3)


def test_nearest_scores_agree_with_a_loop() -> None:
    grid = make_grid()
    logits, deltas = make_random(grid, seed=3)
    selection = select(grid, logits[0], deltas[0], nms_iou=1, score_from="nearest", min_size=0)
    regions = decode_deltas(deltas[0], grid.join())
    expected = logits[0][find_nearest_anchors(regions, grid)]
    order = expected.sort(descending=True, stable=True)
    assert torch.equal(selection.logits, order.values)
    torch.testing.assert_close(selection.boxes, regions[order.indices].clamp(0, 64))


@pytest.mark.parametrize("score_from", ["own", "nearest"])
@pytest.mark.parametrize("box_coding", ["deltas", "absolute"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_proposal(bad: float, box_coding: str, score_from: str) -> None:
    grid = make_grid()
    logits, deltas = make_random(grid)
    generator = torch.Generator().manual_seed(1)
    deltas[torch.rand(deltas.shape, generator=generator) < 0.2] = bad
    if bad != math.inf:  # an infinite logit is a sure object
        logits[torch.rand(logits.shape, generator=generator) < 0.3] = bad
    options = SelectionOptions(score_from=score_from, min_visible=0.05)
    output = make_output(grid, logits, deltas)
    (selection,) = select_proposals(output, grid, torch.tensor([[50.0, 60]]), options, box_coding=box_coding)
    assert 0 < len(selection.boxes) < 1023
    assert all(tensor.isfinite().all() for tensor in selection)
    width_height = selection.boxes[:, 2:] - selection.boxes[:, :2]
    assert (width_height > 0).all()
    assert (selection.boxes >= 0).all()
    assert (selection.boxes <= torch.tensor([60.0, 50, 60, 50])).all()


def test_nothing_but_nan() -> None:
    grid = make_grid()
    for score_from in ("own", "nearest"):
        assert len(select(grid, torch.full((1023,), math.nan), score_from=score_from).boxes) == 0
        broken = select(grid, torch.zeros(1023), torch.full((1023, 4), math.nan), score_from=score_from)
        assert len(broken.boxes) == 0
        assert broken.boxes.shape == (0, 4)
        assert broken.levels.dtype == torch.int64


# Border


def test_border_by_hand() -> None:
    boxes = torch.tensor(
        [
            [10.0, 10, 30, 20],  # inside
            [-10, 0, 10, 10],  # half
            [-1, 0, 9, 10],  # nine tenths
            [35, 20, 45, 30],  # half, on the right
            [50, 10, 60, 20],  # outside
            [-40, -30, 80, 60],  # around: 40 * 30 / (120 * 90) = 1 / 9
        ]
    )
    regions = Selection(boxes, torch.zeros(6), torch.arange(6))
    size = torch.tensor([30.0, 40.0])  # 30 high, 40 wide

    def corrected(min_visible: float) -> dict[int, list[float]]:
        result = correct_border(regions, size, SelectionOptions(min_visible=min_visible))
        return dict(zip(result.levels.tolist(), result.boxes.tolist(), strict=True))

    clipped = {
        0: [10, 10, 30, 20],
        1: [0, 0, 10, 10],
        2: [0, 0, 9, 10],
        3: [35, 20, 40, 30],
        5: [0, 0, 40, 30],
    }
    assert corrected(0) == clipped
    assert corrected(0.4) == {i: clipped[i] for i in (0, 1, 2, 3)}
    assert corrected(0.89) == {i: clipped[i] for i in (0, 2)}
    assert corrected(1) == {0: clipped[0]}


def test_thin_regions_are_dropped() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 9], [0, 0, 1.9, 9], [0, 0, 9, 1.9], [9, 9, 5, 5]])
    regions = Selection(boxes, torch.zeros(4), torch.arange(4))
    kept = correct_border(regions, torch.tensor([30.0, 40.0]), SelectionOptions(min_size=2))
    assert kept.levels.tolist() == [0]  # 2 px is wide enough


@pytest.mark.parametrize("min_visible", [0, 0.5, 1])
def test_boxes_lie_in_the_image_not_in_its_padding(min_visible: float) -> None:
    grid = make_grid()
    logits, deltas = make_random(grid, num_images=2)
    sizes = torch.tensor([[64.0, 40], [33, 64]])
    selections = select_proposals(
        make_output(grid, logits, deltas), grid, sizes, SelectionOptions(min_visible=min_visible)
    )
    for selection, (height, width) in zip(selections, sizes.tolist(), strict=True):
        assert len(selection.boxes) > 10
        assert (selection.boxes >= 0).all()
        assert (selection.boxes <= torch.tensor([width, height, width, height])).all()
        touching = (selection.boxes == torch.tensor([0, 0, width, height])).any(dim=1)
        assert touching.any() == (min_visible < 1)


@pytest.mark.parametrize("score_from", ["own", "nearest"])
def test_image_smaller_than_every_anchor(score_from: str) -> None:
    """mmdetection raises here; one box around everything is the right answer, from each level."""
    # squares whose half is at least 32 px, around centres up to (28, 28): each holds the whole image
    grid = make_grid(32, AnchorOptions(sizes=(64, 128, 256, 512, 1024), ratios=(1.0,)))
    selection = select(grid, torch.zeros(len(grid.join())), size=(8, 10), score_from=score_from)
    assert selection.levels.tolist() == [2, 3, 4, 5, 6]
    assert selection.boxes.tolist() == [[0, 0, 10, 8]] * 5


def test_one_pixel() -> None:
    grid = make_grid(32)
    selection = select(grid, torch.zeros(len(grid.join())), size=(1, 1))
    assert set(map(tuple, selection.boxes.tolist())) == {(0, 0, 1, 1)}
    assert selection.levels.tolist() == [2, 3, 4, 5, 6]


# Counts


def test_best_of_each_level_go_into_suppression() -> None:
    grid = make_grid()
    logits, _ = make_random(grid)
    selection = select(grid, logits[0], nms_iou=1, per_level=7)
    assert torch.bincount(selection.levels).tolist() == [0, 0, 7, 7, 7, 7, 3]  # P6 has no more
    best_of_p2 = logits[0, :768].sort(descending=True).values[:7]
    assert torch.equal(selection.logits[selection.levels == 2], best_of_p2)


def test_keep_is_over_all_levels() -> None:
    grid = make_grid()
    logits, deltas = make_random(grid)
    everything = select(grid, logits[0], deltas[0])
    assert len(everything.boxes) > 100
    best = select(grid, logits[0], deltas[0], keep=100)
    assert_same(best, Selection(*(tensor[:100] for tensor in everything)))

    output = make_output(grid, logits, deltas)
    for keep in (0, 1, 9, 100_000):
        (counted,) = select_proposals(output, grid, torch.tensor([[64.0, 64]]), SelectionOptions(), keep=keep)
        assert len(counted.boxes) == min(keep, len(everything.boxes))


# Properties


def test_batch_of_two_is_two_of_one() -> None:
    grid = make_grid()
    logits, deltas = make_random(grid, num_images=2)
    sizes = torch.tensor([[64.0, 40], [33, 64]])
    for options in (SelectionOptions(), SelectionOptions(min_visible=0.9, score_from="nearest")):
        both = select_proposals(make_output(grid, logits, deltas), grid, sizes, options)
        for i, selection in enumerate(both):
            one = make_output(grid, logits[i : i + 1], deltas[i : i + 1])
            assert_same(selection, select_proposals(one, grid, sizes[i : i + 1], options)[0])


@pytest.mark.parametrize("score_from", ["own", "nearest"])
def test_scaling_everything_scales_the_boxes(score_from: str) -> None:
    double = AnchorOptions(sizes=tuple(2 * s for s in SMALL.sizes), strides=tuple(2 * s for s in SMALL.strides))
    grid = make_grid()
    larger = make_anchors(double, grid.map_sizes, (128, 128))
    logits, deltas = make_random(grid)
    before = select(grid, logits[0], deltas[0], size=(50, 60), score_from=score_from)
    after = select(larger, logits[0], deltas[0], size=(100, 120), score_from=score_from)
    assert_same(after, before._replace(boxes=before.boxes * 2))  # a factor of two is exact in binary


def test_proposals_are_float32_whatever_the_network() -> None:
    grid = make_grid()
    logits, deltas = make_random(grid)
    output = make_output(grid, logits, deltas)
    half = Output((), tuple(e.bfloat16() for e in output.logits), tuple(e.bfloat16() for e in output.deltas))
    (selection,) = select_proposals(half, grid, torch.tensor([[64.0, 64]]), SelectionOptions())
    assert selection.boxes.dtype == selection.logits.dtype == torch.float32
    again = Output((), tuple(e.float() for e in half.logits), tuple(e.float() for e in half.deltas))
    assert_same(selection, select_proposals(again, grid, torch.tensor([[64.0, 64]]), SelectionOptions())[0])


def test_selection_agrees_with_a_slow_pipeline() -> None:
    """Steps 5 and 6 in their plain order: decode all, take the best of each level, clip, drop, sort, suppress, cut."""
    grid = make_grid()
    logits, deltas = make_random(grid, seed=11)
    size, options = torch.tensor([50.0, 61]), SelectionOptions(per_level=60, keep=80, min_visible=0.6, nms_iou=0.5)
    (selection,) = select_proposals(make_output(grid, logits, deltas), grid, size[None], options)

    rows = []  # (logit, position, level, box)
    start = 0
    for level, anchors in zip(LEVELS, grid.levels, strict=True):
        level_logits = logits[0, start : start + len(anchors)]
        for i in level_logits.argsort(descending=True)[:60].tolist():
            box = decode_deltas(deltas[0, start + i], anchors[i])
            clipped = torch.stack([box[0].clamp(0, 61), box[1].clamp(0, 50), box[2].clamp(0, 61), box[3].clamp(0, 50)])
            share = (clipped[2:] - clipped[:2]).prod() / (box[2:] - box[:2]).prod()
            if share >= 0.6 and (clipped[2:] - clipped[:2]).min() >= 1e-3:
                rows.append((level_logits[i].item(), start + i, level, clipped))
        start += len(anchors)
    rows.sort(key=lambda row: (-row[0], row[1]))
    row_logits, _, row_levels, row_boxes = zip(*rows, strict=True)
    candidates = Selection(torch.stack(row_boxes), torch.tensor(row_logits), torch.tensor(row_levels))
    slow = suppress_slowly(candidates, 0.5, 80)
    assert torch.equal(selection.logits, slow.logits)
    assert torch.equal(selection.levels, slow.levels)
    torch.testing.assert_close(selection.boxes, slow.boxes)
    assert len(selection.boxes) == 80


def test_decay_by_hand() -> None:
    # (0, 0, 10, 10) is best; (0, 0, 10, 5) has IoU 1/2 with it: 0.8 exp(-1/4 / 0.5) = 0.485; (50, 50, 60, 60) none
    kept = make_selection([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]], [0.9, 0.8, 0.6])
    options = SelectionOptions(decay_sigma=0.5, across_levels=True)
    found = decay_scores(kept, options)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 5]]
    torch.testing.assert_close(found.logits.sigmoid(), torch.tensor([0.9, 0.6, 0.8 * math.exp(-0.5)]))
    assert_same(decay_scores(kept, SelectionOptions()), kept)


def test_decay_is_within_a_level_unless_levels_suppress_each_other() -> None:
    kept = make_selection([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], [2, 3])
    assert_same(decay_scores(kept, SelectionOptions(decay_sigma=0.5)), kept)
    assert decay_scores(kept, SelectionOptions(decay_sigma=0.5, across_levels=True)).logits[1] < kept.logits[1]


@pytest.mark.parametrize("count", [0, 1, 40])
def test_decay_agrees_with_a_loop(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    logits = (torch.randn(count, generator=generator) * 4).sort(descending=True).values
    kept = Selection(boxes, logits, torch.full((count,), 3))
    expected = []
    for i in range(count):
        largest = max((compute_iou(boxes[j : j + 1], boxes[i : i + 1]).item() for j in range(i)), default=0.0)
        expected.append(torch.sigmoid(logits[i].double()).item() * math.exp(-(largest**2) / 0.7))
    found = decay_scores(kept, SelectionOptions(decay_sigma=0.7))
    assert found.logits.sigmoid().tolist() == pytest.approx(sorted(expected, reverse=True), rel=1e-4)


def test_decay_of_extreme_logits_gives_numbers() -> None:
    kept = Selection(
        torch.tensor([[0.0, 0, 10, 10]] * 4), torch.tensor([500.0, 90.0, 0.0, -500.0]), torch.full((4,), 2)
    )
    found = decay_scores(kept, SelectionOptions(decay_sigma=1.0)).logits
    assert found.isfinite().all()
    assert found.tolist() == pytest.approx([500, -math.log(math.e - 1), -math.log(2 * math.e - 1), -501])
