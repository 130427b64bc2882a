import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.geometry.boxes import (
    BOX_CODERS,
    MAX_LOG_SCALE,
    clip_boxes,
    compute_areas,
    compute_intersections,
    compute_iou,
    compute_visible_shares,
    decode_absolute,
    decode_deltas,
    encode_absolute,
    encode_deltas,
)

few = settings(deadline=None, max_examples=50)


@st.composite
def draw_boxes(draw: st.DrawFn, count: int) -> Tensor:
    """(count, 4) boxes of 1 to 500 px somewhere within 1,000 px of the origin."""
    places = st.tuples(st.floats(-1000, 1000, width=32), st.floats(-1000, 1000, width=32))
    sizes = st.tuples(st.floats(1, 500, width=32), st.floats(1, 500, width=32))
    rows = draw(st.lists(st.tuples(places, sizes), min_size=count, max_size=count))
    return torch.tensor([[x, y, x + w, y + h] for (x, y), (w, h) in rows])


def test_areas() -> None:
    boxes = torch.tensor([[0, 0, 2, 3], [-1, -1, 1, 1], [5, 5, 5, 9], [2, 0, 0, 3], [2, 3, 0, 0]])
    # the last two are inverted, once and twice: (-2) * (-3) must not count as 6
    assert compute_areas(boxes.float()).tolist() == [6, 4, 0, 0, 0]


def test_iou_by_hand() -> None:
    box = torch.tensor([[0.0, 0, 2, 2]])
    others = torch.tensor(
        [
            [0.0, 0, 2, 2],  # the same: 4 / 4
            [1, 1, 3, 3],  # 1 / (4 + 4 - 1)
            [0, 0, 1, 1],  # inside: 1 / 4
            [2, 0, 4, 2],  # an edge shared: 0
            [5, 5, 6, 6],  # apart, and (2 - 5) * (2 - 5) = 9 must not count
            [1, 1, 1, 1],  # no area, inside
        ]
    )
    assert compute_intersections(box, others).tolist() == [[4, 1, 1, 0, 0, 0]]
    torch.testing.assert_close(compute_iou(box, others), torch.tensor([[1, 1 / 7, 1 / 4, 0, 0, 0]]))
    torch.testing.assert_close(compute_iou(others, box), compute_iou(box, others).T)


def test_iou_of_boxes_without_area_is_zero() -> None:
    points = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 5], [3, 3, 1, 1]])
    assert torch.equal(compute_iou(points, points), torch.zeros(3, 3))  # 0 / 0 would be NaN


def test_no_boxes() -> None:
    assert compute_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert compute_iou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)
    assert decode_deltas(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert encode_deltas(torch.zeros(2, 0, 4), torch.zeros(2, 0, 4)).shape == (2, 0, 4)


def test_results_are_float32_where_half_would_overflow() -> None:
    box = torch.tensor([[0.0, 0, 512, 512]], dtype=torch.float16)  # 512^2 = 262,144 > 65,504
    other = torch.tensor([[0.0, 0, 512, 256]], dtype=torch.float16)
    assert compute_areas(box).item() == 262_144
    assert compute_iou(box, other).item() == 0.5
    assert compute_visible_shares(box, torch.tensor([256.0, 512.0])).item() == 0.5
    for code in (BOX_CODERS["deltas"], BOX_CODERS["absolute"]):
        assert code.encode(box, other).dtype == code.decode(box, other).dtype == torch.float32
        low = torch.tensor([[0.3, -0.7, 0.11, 0.9]], dtype=torch.bfloat16)  # exp() must not be rounded to three digits
        assert torch.equal(code.decode(low, other), code.decode(low.float(), other.float()))


def test_clip() -> None:
    boxes = torch.tensor([[-5.0, -5, 5, 5], [15, 5, 25, 35], [30, 40, 50, 60], [1, 2, 3, 4]])
    clipped = clip_boxes(boxes, torch.tensor([30.0, 20.0]))  # 30 high, 20 wide
    assert clipped.tolist() == [[0, 0, 5, 5], [15, 5, 20, 30], [20, 30, 20, 30], [1, 2, 3, 4]]


def test_visible_shares() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 20, 10],  # inside, up to the edge
            [-5, 0, 5, 10],  # half
            [-5, -5, 5, 5],  # a corner: a quarter
            [-10, -10, 30, 20],  # around the image: 20 * 10 / (40 * 30) = 1 / 6
            [20, 0, 30, 10],  # beside
            [5, 5, 5, 5],  # no area
        ]
    )
    shares = compute_visible_shares(boxes, torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(shares, torch.tensor([1, 0.5, 0.25, 1 / 6, 0, 0]))


def test_deltas_by_hand() -> None:
    anchor = torch.tensor([0.0, 0, 10, 20])  # centre (5, 10)
    box = torch.tensor([5.0, 10, 25, 20])  # centre (15, 15), 20 x 10
    # dx = (15 - 5) / 10, dy = (15 - 10) / 20, dw = log(20 / 10), dh = log(10 / 20)
    deltas = torch.tensor([1, 0.25, math.log(2), -math.log(2)])
    torch.testing.assert_close(encode_deltas(box, anchor), deltas)
    torch.testing.assert_close(decode_deltas(deltas, anchor), box)
    assert torch.equal(decode_deltas(torch.zeros(4), anchor), anchor)


def test_stretch_is_capped_above_alone() -> None:
    anchor = torch.tensor([0.0, 0, 16, 16])
    wide = decode_deltas(torch.tensor([0, 0, 100.0, torch.inf]), anchor)
    # 16 px * 1000 / 16 = 1000 px around the centre (8, 8)
    torch.testing.assert_close(wide, torch.tensor([-492.0, -492, 508, 508]))
    thin = decode_deltas(torch.tensor([0, 0, -10.0, -torch.inf]), anchor)
    # 16 * exp(-10) = 0.000726 wide, half of it to each side; without height
    torch.testing.assert_close(thin, torch.tensor([8 - 0.000363, 8, 8 + 0.000363, 8]), rtol=0, atol=1e-5)
    assert pytest.approx(4.135167) == MAX_LOG_SCALE


def test_decode_published_boxes() -> None:
    """Source: maskrcnn-benchmark, tests/test_box_coder.py, itself from caffe2's UtilsBoxesTest.TestBboxTransformRandom.

    Its widths are x2 - x1 + 1, so 1 is added to x2 and y2 before and taken away after; without that the results are
    1 px off.
    """
    boxes = torch.tensor(
        [
            [175.62031555, 20.91103172, 253.352005, 155.0145874],
            [169.24636841, 4.85241556, 228.8605957, 105.02092743],
            [181.77426147, 199.82876587, 192.88427734, 214.0255127],
            [174.36262512, 186.75761414, 296.19091797, 231.27906799],
            [22.73153877, 92.02596283, 135.5695343, 208.80291748],
        ]
    )
    deltas = torch.tensor(
        [
            [0.47861834, 0.13992102, 0.14961673, 0.71495209],
            [0.29915856, -0.35664671, 0.89018666, 0.70815367],
            [-0.03852064, 0.44466892, 0.49492538, 0.71409376],
            [0.28052918, 0.02184832, 0.65289006, 1.05060139],
            [-0.38172557, -0.08533806, -0.60335309, 0.79052375],
        ]
    )
    expected = torch.tensor(
        [
            [206.949539, -30.715202, 297.387665, 244.448486],
            [143.871216, -83.342888, 290.502289, 121.053398],
            [177.430283, 198.666245, 196.295273, 228.703079],
            [152.251892, 145.431564, 387.215454, 274.594238],
            [5.062420, 11.040955, 66.328903, 269.686218],
        ]
    )
    one = torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(decode_deltas(deltas, boxes + one) - one, expected, rtol=0, atol=1e-4)


def test_absolute_by_hand() -> None:
    box = torch.tensor([0.0, 128, 256, 640])  # centre (128, 384), 256 x 512
    code = torch.tensor([0.25, 0.75, 0.5, 1.0])  # in units of 512 px
    anchor = torch.tensor([7.0, 7, 9, 9])  # without a say
    torch.testing.assert_close(encode_absolute(box, anchor), code)
    torch.testing.assert_close(decode_absolute(code, anchor), box)
    assert compute_areas(decode_absolute(torch.tensor([0.5, 0.5, -1.0, 1.0]), anchor)) == 0


@few
@given(draw_boxes(6), draw_boxes(6), st.sampled_from(sorted(BOX_CODERS)))
def test_decode_inverts_encode(boxes: Tensor, anchors: Tensor, coding: str) -> None:
    coder = BOX_CODERS[coding]
    # 500 / 1 px is beyond the cap of 62.5, which no round trip survives
    stretch = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    within = (stretch < 62).all(dim=1) | (coding == "absolute")
    back = coder.decode(coder.encode(boxes, anchors), anchors)
    torch.testing.assert_close(back[within], boxes[within], rtol=1e-5, atol=2e-3)


@few
@given(draw_boxes(4), draw_boxes(4), st.floats(0.1, 10))
def test_scaling_boxes_and_anchors_together_changes_nothing(boxes: Tensor, anchors: Tensor, scale: float) -> None:
    torch.testing.assert_close(
        encode_deltas(boxes * scale, anchors * scale), encode_deltas(boxes, anchors), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        compute_iou(boxes * scale, anchors * scale), compute_iou(boxes, anchors), rtol=1e-3, atol=1e-4
    )


@few
@given(draw_boxes(5), draw_boxes(7))
def test_iou_is_a_share_and_one_only_with_itself(boxes: Tensor, others: Tensor) -> None:
    ious = compute_iou(boxes, others)
    assert ious.shape == (5, 7)
    assert ((ious >= 0) & (ious <= 1)).all()
    torch.testing.assert_close(compute_iou(boxes, boxes).diagonal(), torch.ones(5))
    shifted = boxes + torch.tensor([1000.0, 0, 1000, 0])  # boxes are at most 500 px wide
    assert (compute_iou(boxes, shifted).diagonal() == 0).all()
