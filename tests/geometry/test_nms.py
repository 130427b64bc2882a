import math
from types import ModuleType
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.errors import ConfigError
from objectness.geometry import nms as suppression
from objectness.geometry.nms import iou, nms, nms_plain
from objectness.kernels.cpu.library import ENVIRONMENT, OFF

few = settings(deadline=None, max_examples=60)


def make_boxes(count: int, seed: int = 0, spread: float = 200) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4) of 10 to 60 px, and scores (count,) without ties."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * spread
    sides = 10 + 50 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1), torch.randperm(count, generator=generator) / 7


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel where it is built, and without it."""
    if request.param == "torch":
        monkeypatch.setenv(ENVIRONMENT, OFF)
    return str(request.param)


# Published cases


@pytest.mark.parametrize(
    ("threshold", "kept"), [(0.1, {1, 3}), (0.3, {1, 3}), (0.5, {1, 3}), (0.8, {1, 2, 3, 4}), (0.9, {0, 1, 2, 3, 4})]
)
def test_caffe2_case(way: str, threshold: float, kept: set[int]) -> None:
    """Source: maskrcnn-benchmark, test_nms.py, itself from caffe2."""
    boxes = torch.tensor(
        [[10.0, 10, 50, 60], [11, 12, 48, 60], [8, 9, 40, 50], [100, 100, 150, 140], [99, 110, 155, 139]]
    )
    scores = torch.tensor([0.5, 0.7, 0.6, 0.9, 0.8])
    found = nms(boxes, scores, threshold)
    assert set(found.tolist()) == kept
    assert (scores[found].diff() < 0).all()


@pytest.mark.parametrize(
    ("threshold", "scores"),
    [
        (0, [0.9, 0.8]),
        (0.3, [0.9, 0.8, 0.2]),
        (0.6, [0.9, 0.8, 0.2]),
        (0.8, [0.9, 0.8, 0.2]),
        (1, [0.9, 0.8, 0.6, 0.2]),
    ],
)
def test_luminoth_case(way: str, threshold: float, scores: list[float]) -> None:
    """Source: luminoth, rpn_proposal_test.py, testNMSThreshold; widths of x2 - x1 + 1 would keep two at 0.3."""
    boxes = torch.tensor([[10.0, 10, 26, 36], [10, 10, 20, 22], [10, 11, 20, 21], [19, 30, 33, 38]])
    values = torch.tensor([0.2, 0.9, 0.6, 0.8])
    assert torch.equal(values[nms(boxes, values, threshold)], torch.tensor(scores))


def test_torchvision_case_of_half_precision(way: str) -> None:
    """Source: torchvision, test_ops.py, TestNMS: areas of 600,000 px^2, which half precision cannot hold."""
    boxes = torch.tensor(
        [
            [285.3538, 185.5758, 1193.5110, 851.4551],
            [285.1472, 188.7374, 1192.4984, 851.0669],
            [279.2440, 197.9812, 1189.4746, 849.2019],
        ]
    )
    scores = torch.tensor([0.6370, 0.7569, 0.3966])
    assert nms(boxes, scores, 0.2).tolist() == [1]
    assert nms(boxes.half(), scores.half(), 0.2).tolist() == [1]
    assert nms(boxes.bfloat16(), scores.bfloat16(), 0.2).tolist() == [1]


# By hand


def test_chain_by_hand(way: str) -> None:
    # IoU of neighbours 2 / 4, of the outer two 1 / 5: the first removes the second, which spares the third
    chain = torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1], [2, 0, 5, 1]])
    assert nms(chain, torch.tensor([3.0, 2, 1]), 0.4).tolist() == [0, 2]
    assert nms(chain, torch.tensor([1.0, 3, 2]), 0.4).tolist() == [1]
    assert nms(chain, torch.tensor([1.0, 2, 3]), 0.5).tolist() == [2, 1, 0]  # exactly the threshold stays


def test_equal_scores_keep_their_order(way: str) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 50, 59, 59], [0, 0, 9, 9], [90, 0, 99, 9]])
    assert nms(boxes, torch.zeros(4), 0.5).tolist() == [0, 1, 3]
    assert nms(boxes, torch.tensor([0, -0.0, 0, -0.0]), 0.5).tolist() == [0, 1, 3]
    assert nms(boxes, torch.tensor([1, 1, 2, 2]), 0.5).tolist() == [2, 3, 1]  # integers, too


def test_long_chain(way: str) -> None:
    # each overlaps the next by 2 / 4; every second stays, which takes torch as many rounds as there are links
    left = torch.arange(600.0)
    chain = torch.stack([left, torch.zeros(600), left + 3, torch.ones(600)], dim=1)
    assert nms(chain, -left, 0.4).tolist() == list(range(0, 600, 2))


def test_groups_leave_each_other_alone(way: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 4)
    scores = torch.tensor([0.6, 0.9, 0.8, 0.7])
    assert nms(boxes, scores, 0.5).tolist() == [1]
    assert nms(boxes, scores, 0.5, torch.tensor([5, -3, 5, -3])).tolist() == [1, 2]
    assert nms(boxes, scores, 0.5, torch.tensor([0, 1, 2, 2], dtype=torch.int32)).tolist() == [1, 2, 0]
    assert nms(boxes, scores, 0.5, torch.tensor([True, False, True, False])).tolist() == [1, 2]


def test_boxes_that_overlap_nothing_stay(way: str) -> None:
    nan, inf = math.nan, math.inf
    idle = [[5.0, 5, 5, 9], [9, 9, 1, 1], [nan, 0, 10, 10], [0, 0, inf, 10], [-3e38, 0, 3e38, 10], [inf, 0, inf, 10]]
    boxes = torch.tensor([[0.0, 0, 10, 10], *idle, *idle])
    kept = nms(boxes, torch.zeros(len(boxes)), 0)
    assert kept.tolist() == list(range(len(boxes)))


def test_scores_that_are_no_numbers_come_last(way: str) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]])
    for dtype in (torch.float32, torch.float64, torch.float16):
        scores = torch.tensor([math.nan, 1, -math.inf, math.nan, math.inf], dtype=dtype)
        assert nms(boxes, scores, 0.5).tolist() == [4, 1, 2, 3]


def test_scores_are_compared_in_their_own_precision(way: str) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
    assert nms(boxes, torch.tensor([1.0, 1 + 1e-12], dtype=torch.float64), 0.5).tolist() == [1]
    assert nms(boxes, torch.tensor([2**53, 2**53 + 1]), 0.5).tolist() == [1]


def test_no_boxes(way: str) -> None:
    for groups in (None, torch.zeros(0, dtype=torch.int64)):
        kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5, groups)
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64
    assert iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert iou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)


def test_nothing_is_written_into(way: str) -> None:
    boxes, scores = make_boxes(600)
    groups = torch.arange(600) % 3
    before = [each.clone() for each in (boxes, scores, groups)]
    nms(boxes.requires_grad_(), scores, 0.5, groups)
    for each, same in zip((boxes, scores, groups), before, strict=True):
        assert torch.equal(each, same)


def test_iou_by_hand(way: str) -> None:
    boxes = torch.tensor([[0, 0, 4, 2], [2, 0, 6, 2]])
    assert iou(boxes, boxes).tolist() == [[1, pytest.approx(1 / 3)], [pytest.approx(1 / 3), 1]]
    assert iou(boxes.half(), boxes.double()).dtype == torch.float32


# Properties and agreement


def nms_slowly(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor) -> list[int]:
    """Box after box, with Python's numbers."""

    def overlap(a: list[float], b: list[float]) -> float:
        shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        joined = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / joined if joined else 0

    rows, kept = boxes.tolist(), []
    for i in sorted(range(len(rows)), key=lambda i: -scores[i].item()):
        if all(overlap(rows[i], rows[j]) <= threshold for j in kept if groups[i] == groups[j]):
            kept.append(i)
    return kept


@few
@given(
    st.lists(st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(0, 8)] * 2, *[st.integers(0, 2)] * 2), max_size=30),
    st.sampled_from([0, 0.25, 0.5, 0.75, 1]),  # exact in binary, so that ties are ties
    st.integers(1, 300),
)
def test_nms_agrees_with_a_slow_loop(rows: list[tuple[int, ...]], threshold: float, block: int) -> None:
    """On a small grid, so that duplicates and IoUs of exactly the threshold are common."""
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _, _ in rows]).reshape(-1, 4).float()
    scores, groups = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in (4, 5))
    expected = nms_slowly(boxes, scores, threshold, groups)
    assert nms(boxes, scores.float(), threshold, groups).tolist() == expected
    assert nms(boxes, scores, threshold, groups).tolist() == expected
    with mock.patch.object(suppression, "BLOCK", block):
        assert nms_plain(boxes, scores, threshold, groups).tolist() == expected


@pytest.mark.parametrize("at_once", [256 * 3, 1 << 22])
def test_blocks_of_kept_boxes(at_once: int) -> None:
    boxes, scores = make_boxes(700)
    with mock.patch.object(suppression, "OVERLAPS_AT_ONCE", at_once):
        assert torch.equal(nms_plain(boxes, scores, 0.5), nms(boxes, scores, 0.5))


def test_a_second_time_changes_nothing(way: str) -> None:
    boxes, scores = make_boxes(1500, spread=400)
    kept = nms(boxes, scores, 0.5)
    assert 600 < len(kept) < 1400
    assert torch.equal(nms(boxes[kept], scores[kept], 0.5), torch.arange(len(kept)))
    assert iou(boxes[kept], boxes[kept]).fill_diagonal_(0).max() <= 0.5
    gone = torch.ones(1500, dtype=torch.bool)
    gone[kept] = False
    better = scores[kept][:, None] > scores[gone]
    assert ((iou(boxes[kept], boxes[gone]) > 0.5) & better).any(dim=0).all()  # each by a better one


def test_scaling_and_moving_changes_nothing(way: str) -> None:
    boxes, scores = make_boxes(900, spread=400)
    boxes = boxes.round()
    expected = nms(boxes, scores, 0.5)
    assert 520 < len(expected) < 880  # enough for the kernel's bins
    for factor in (2.0**-20, 2.0**20):
        assert torch.equal(nms(boxes * factor, scores, 0.5), expected)
    for offset in (-1000.0, 2.0**20):
        assert torch.equal(nms(boxes + offset, scores, 0.5), expected)
    assert torch.equal(nms(boxes[:, [1, 0, 3, 2]], scores, 0.5), expected)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(2))
    assert torch.equal(order[nms(boxes[order], scores[order], 0.5)], expected)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("count", [1, 50, 1000, 3000])
def test_nms_agrees_with_torchvision(way: str, torchvision: ModuleType, count: int, threshold: float) -> None:
    """As torchvision's own test: 1,000 random boxes, thresholds 0.2, 0.5 and 0.8; and in groups."""
    boxes, scores = make_boxes(count, seed=count, spread=500)
    assert torch.equal(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    groups = torch.arange(count) % 50
    expected = torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, groups, threshold)
    assert torch.equal(nms(boxes, scores, threshold, groups), expected)


def test_iou_agrees_with_torchvision(way: str, torchvision: ModuleType) -> None:
    boxes, _ = make_boxes(300)
    others, _ = make_boxes(2000, seed=1)
    assert torch.equal(iou(boxes, others), torchvision.ops.box_iou(boxes, others))


# What cannot be


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "groups", "message"),
    [
        (torch.zeros(4), torch.zeros(1), 0.5, None, r"boxes have the shape \(4,\); need \(n, 4\)"),
        (torch.zeros(2, 5), torch.zeros(2), 0.5, None, r"boxes have the shape \(2, 5\); need \(n, 4\)"),
        (torch.zeros(1, 2, 4), torch.zeros(1), 0.5, None, r"boxes have the shape \(1, 2, 4\)"),
        (torch.zeros(2, 4, dtype=torch.complex64), torch.zeros(2), 0.5, None, "boxes are torch.complex64"),
        (torch.zeros(2, 4).to_sparse(), torch.zeros(2), 0.5, None, "boxes are torch.float32 .torch.sparse_coo."),
        (torch.zeros(2, 4), torch.zeros(3), 0.5, None, r"scores have the shape \(3,\); need one for each of 2 boxes"),
        (torch.zeros(2, 4), torch.zeros(2, 1), 0.5, None, r"scores have the shape \(2, 1\)"),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.bool), 0.5, None, "scores are torch.bool; need real numbers"),
        (torch.zeros(2, 4), torch.zeros(2, device="meta"), 0.5, None, "boxes are on cpu, scores on meta; move one"),
        (torch.zeros(2, 4), torch.zeros(2), 1.5, None, r"iou_threshold = 1.5 is not in \[0, 1\]"),
        (torch.zeros(2, 4), torch.zeros(2), -0.1, None, r"iou_threshold = -0.1 is not in \[0, 1\]"),
        (torch.zeros(2, 4), torch.zeros(2), math.nan, None, r"iou_threshold = nan is not in \[0, 1\]"),
        (torch.zeros(2, 4), torch.zeros(2), 0.5, torch.zeros(3, dtype=torch.int64), r"groups have the shape \(3,\)"),
        (torch.zeros(2, 4), torch.zeros(2), 0.5, torch.zeros(2), "groups are torch.float32; need integers"),
    ],
)
def test_errors_of_nms(
    way: str, boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        nms(boxes, scores, threshold, groups)


def test_errors_of_iou(way: str) -> None:
    with pytest.raises(ConfigError, match=r"others have the shape \(3,\); need \(n, 4\)"):
        iou(torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ConfigError, match=r"boxes are torch.bool"):
        iou(torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="boxes are on cpu, others on meta; move one of them"):
        iou(torch.zeros(2, 4), torch.zeros(2, 4, device="meta"))
