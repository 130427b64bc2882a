"""The IoU kernel returns the matrix of `compute_iou_plain`, to the last bit, on every input and in every variant."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.geometry.boxes import compute_iou, compute_iou_plain
from objectness.kernels.cpu.iou import measure_iou
from objectness.kernels.cpu.library import ENVIRONMENT, OFF, VARIANTS, choose_variant, describe, find_library

pytestmark = pytest.mark.skipif(find_library() is None, reason=describe())

RUNS = [name for i, name in enumerate(VARIANTS) if find_library() is not None and i <= choose_variant()]
every_variant = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(params=RUNS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each variant that this processor can run."""
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return str(request.param)


def assert_equal(boxes: Tensor, others: Tensor) -> None:
    ours, plain = measure_iou(boxes, others), compute_iou_plain(boxes, others)
    assert ours.dtype == torch.float32
    assert ours.shape == plain.shape
    assert torch.equal(ours.isnan(), plain.isnan())
    assert torch.equal(ours.nan_to_num(), plain.nan_to_num())


numbers = st.one_of(
    st.floats(-50, 50, width=32),
    st.integers(-9, 9).map(float),
    st.floats(width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 1e-20, -0.0, 1e19]),
)
boxes_of_anything = st.lists(st.lists(numbers, min_size=4, max_size=4), max_size=20).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
)


@every_variant
@given(boxes_of_anything, boxes_of_anything)
def test_any_boxes(variant: str, boxes: Tensor, others: Tensor) -> None:
    assert_equal(boxes, others)
    assert_equal(boxes, boxes)


@pytest.mark.parametrize("counts", [(1, 1), (3, 1023), (2, 1024), (3, 1025), (2, 3000), (3000, 2), (0, 5), (5, 0)])
def test_more_than_one_block(variant: str, counts: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, others = (torch.rand(count, 4, generator=generator) for count in counts)
    boxes[:, 2:] += boxes[:, :2]
    others[:, 2:] += others[:, :2]
    assert_equal(boxes, others)


def test_any_strides_and_types(variant: str) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [1, 0, 3, 2], [2, 2, 2, 2]])
    expected = measure_iou(boxes, boxes)
    assert expected.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]]
    for other in (boxes.T.contiguous().T, boxes.repeat_interleave(2, dim=0)[::2], boxes.half(), boxes.long()):
        assert torch.equal(measure_iou(boxes, other), expected)
        assert torch.equal(measure_iou(other, boxes), expected)


def test_gradients_take_the_plain_way(variant: str) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2]], requires_grad=True)
    others = torch.tensor([[1.0, -1, 3, 3]])
    compute_iou(boxes, others).sum().backward()
    # I / U = 4 / 12; moving x2: dI = 0, dU = 2: -4 * 2 / 12^2; moving y2: dI = 2, dU = 4 - 2: (2 * 12 - 4 * 2) / 12^2
    assert boxes.grad is not None
    torch.testing.assert_close(boxes.grad, torch.tensor([[1.0, -2, -1, 2]]) / 18)
    with torch.no_grad():
        assert not compute_iou(boxes, others).requires_grad


def test_wrong_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.rand(3, 4)
    with pytest.raises(ValueError, match=r"boxes has the shape \(3, 5\); a kernel needs \(any, 4\)"):
        measure_iou(torch.rand(3, 5), boxes)
    with pytest.raises(ValueError, match=r"others has the shape \(4,\)"):
        measure_iou(boxes, boxes[0])
    with pytest.raises(ValueError, match="others is on meta"):
        measure_iou(boxes, boxes.to("meta"))
    monkeypatch.setenv(ENVIRONMENT, OFF)
    with pytest.raises(RuntimeError, match="there is no objectness_iou: kernels are switched off"):
        measure_iou(boxes, boxes)
