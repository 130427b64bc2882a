"""When a kernel is taken, and that the plain functions never take one."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from objectness.config import AnchorOptions, LabelOptions, SelectionOptions
from objectness.geometry import boxes as boxes_module
from objectness.geometry.anchors import make_anchors
from objectness.geometry.boxes import compute_iou, compute_iou_plain
from objectness.geometry.matching import match_grid_plain
from objectness.geometry.nms import nms, nms_plain
from objectness.geometry.selection import select_proposals_plain
from objectness.kernels.cpu.library import ENVIRONMENT, OFF, describe, find_library
from objectness.kernels.dispatch import take
from objectness.structures import Output, Targets

needs_kernels = pytest.mark.skipif(find_library() is None, reason=describe())


class Odd(Tensor):
    """A kind of tensor that may have no memory of its own, like those of a compiler's trace."""


@needs_kernels
def test_ordinary_tensors_on_the_cpu_take_it() -> None:
    tensor = torch.zeros(2, 4)
    assert take()
    assert take(tensor, None, tensor.half(), tensor.long()[:, 0], tensor.T)


@needs_kernels
def test_whatever_else_is_left_to_the_plain_function(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(2, 4)
    assert not take(tensor, tensor.to("meta"))
    assert not take(tensor.as_subclass(Odd), tensor)
    wanted = torch.zeros(2, 4, requires_grad=True)
    assert not take(tensor, None, wanted)
    with torch.no_grad():
        assert take(wanted)
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        assert not take(tensor)
    monkeypatch.setenv(ENVIRONMENT, OFF)
    assert not take(tensor)


@needs_kernels
def test_suppression_of_boxes_with_gradients_takes_it() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]], requires_grad=True)
    with mock.patch("objectness.geometry.nms.nms_plain", side_effect=AssertionError("plain ran")):
        assert nms(boxes, torch.tensor([0.1, 0.3, 0.2], requires_grad=True), 0.5).tolist() == [1, 2]


def test_plain_functions_take_none() -> None:
    """Otherwise a kernel would be compared with torch and another kernel."""
    grid = make_anchors(AnchorOptions(sizes=(8.0, 16.0, 32.0, 64.0, 128.0)), [(4, 4)] * 5, (64, 64))
    boxes = torch.tensor([[0.0, 0, 30, 30], [0, 0, 30, 31], [20, 20, 60, 60]])
    maps = torch.linspace(-1, 1, 96).reshape(1, 6, 4, 4), torch.zeros(1, 12, 4, 4)
    output = Output((), (maps[0],) * 5, (maps[1],) * 5)
    ran = AssertionError("a kernel ran")
    with mock.patch.object(boxes_module, "take", side_effect=ran):
        assert nms_plain(boxes, torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist() == [1, 2]
        assert (match_grid_plain(grid, Targets(boxes, torch.zeros(0, 4)), LabelOptions()).labels == 1).any()
        assert len(select_proposals_plain(output, grid, torch.tensor([[64.0, 64]]), SelectionOptions())[0].boxes)
        with pytest.raises(AssertionError, match="a kernel ran"):
            compute_iou(boxes, boxes)
    assert compute_iou_plain(boxes[:1], boxes[1:2]).item() == pytest.approx(30 / 31)
