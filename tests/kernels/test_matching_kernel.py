"""The matching kernel returns what `match_grid_plain` returns, to the last bit, on every input and in every variant."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import AnchorOptions, LabelOptions
from objectness.geometry.anchors import make_anchors
from objectness.geometry.matching import NEGATIVE, POSITIVE, UNUSED, match_anchors, match_grid, match_grid_plain
from objectness.kernels.cpu.library import ENVIRONMENT, OFF, VARIANTS, choose_variant, describe, find_library
from objectness.kernels.cpu.matching import match
from objectness.structures import AnchorGrid, Targets

pytestmark = pytest.mark.skipif(find_library() is None, reason=describe())

RUNS = [name for i, name in enumerate(VARIANTS) if find_library() is not None and i <= choose_variant()]
SMALL = AnchorOptions(sizes=(8, 16, 32, 64, 128))
SQUARES = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))  # of 64 x 96 px
NO_BOXES = torch.zeros(0, 4)
every_variant = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(params=RUNS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each variant that this processor can run."""
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return str(request.param)


def make_grid(options: AnchorOptions = SMALL) -> AnchorGrid:
    return make_anchors(options, SQUARES, (64, 96))


def assert_equal(grid: AnchorGrid, targets: Targets, options: LabelOptions) -> None:
    for ours, plain in zip(match(grid, targets, options), match_grid_plain(grid, targets, options), strict=True):
        assert ours.dtype == plain.dtype
        assert torch.equal(ours, plain)


# Any input


class Case(NamedTuple):
    """What is matched."""

    grid: AnchorGrid
    targets: Targets
    options: LabelOptions


coordinates = st.one_of(
    st.floats(-150, 250, width=32),
    st.integers(-40, 140).map(float),
    st.integers(-10, 40).map(lambda x: 4.0 * x),  # on anchors' centres, so that ties are common
)
hostile_numbers = st.one_of(
    coordinates,
    st.floats(width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 1e-20, -0.0, 1e9, 1e18]),
)


@st.composite
def draw_boxes(draw: st.DrawFn, most: int) -> Tensor:
    """Ordinary boxes, tiny and huge ones, hostile ones, anchors' doubles, and some of these twice."""
    scale = st.sampled_from([1e-22, 1e-18, 1e-10, 1e-3, 0.1, 1.0, 1.0, 10.0, 1e4])
    sides = st.one_of(st.floats(0, 60, width=32), st.integers(0, 60).map(float))
    ordinary = st.builds(
        lambda x, y, w, h, s: [x, y, x + w * s, y + h * s], coordinates, coordinates, sides, sides, scale
    )
    at_origin = st.builds(lambda w, h, s: [0.0, 0.0, w * s, h * s], sides, sides, scale)  # the smallest sides survive
    hostile = st.lists(hostile_numbers, min_size=4, max_size=4)
    rows = draw(st.lists(st.one_of(ordinary, ordinary, ordinary, at_origin, hostile), max_size=most))
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@st.composite
def draw_cases(draw: st.DrawFn) -> Case:
    sizes = st.one_of(
        st.sampled_from([8.0, 16.0, 32.0, 64.0]), st.floats(1e-3, 300), st.sampled_from([1e-6, 1e5, 1e22])
    )
    strides = st.integers(1, 40)
    anchors = AnchorOptions(
        sizes=tuple(draw(st.lists(sizes, min_size=5, max_size=5))),
        ratios=tuple(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 1 / 3, 7.0, 0.01]), min_size=1, max_size=3))),
        strides=tuple(draw(st.lists(strides, min_size=5, max_size=5))),
        rounded=draw(st.booleans()),
        strides_from_shape=draw(st.booleans()),
    )
    map_sizes = draw(st.lists(st.tuples(st.integers(0, 18), st.integers(0, 18)), min_size=5, max_size=5))
    if anchors.strides_from_shape:
        map_sizes = [(max(height, 1), max(width, 1)) for height, width in map_sizes]
    grid = make_anchors(anchors, map_sizes, (draw(st.integers(1, 200)), draw(st.integers(1, 200))))
    shares = st.one_of(st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0]), st.floats(0, 1))
    negative_iou, positive_iou = sorted([draw(shares), draw(shares)])
    options = LabelOptions(positive_iou=positive_iou, negative_iou=negative_iou, crowd_share=draw(shares))
    return Case(grid, Targets(draw(draw_boxes(20)), draw(draw_boxes(3))), options)


@every_variant
@given(draw_cases())
def test_any_case(variant: str, case: Case) -> None:
    assert_equal(*case)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("kind", ["mixed", "small", "large", "sub-pixel", "whole pixels", "equal"])
def test_many_boxes(variant: str, kind: str, rounded: bool) -> None:
    grid = make_anchors(AnchorOptions(rounded=rounded), [(50, 76), (25, 38), (13, 19), (7, 10), (4, 5)], (200, 304))
    generator = torch.Generator().manual_seed(1)
    low, high = {"small": (4, 16), "large": (150, 600), "sub-pixel": (1e-3, 1)}.get(kind, (4, 300))
    sides = low * (high / low) ** torch.rand(70, 2, generator=generator)
    centres = torch.rand(70, 2, generator=generator) * torch.tensor([304.0, 200.0])
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    if kind == "whole pixels":
        boxes = boxes.round()
    if kind == "equal":
        boxes = boxes[:1].expand(70, 4)
    assert_equal(grid, Targets(boxes, boxes[:2] * 1.5), LabelOptions())


@pytest.mark.parametrize("stride", [4, 7, 5003])
def test_boxes_that_are_anchors(variant: str, stride: int) -> None:
    """At IoU 1 a window has no width at all but what rounding needs; the corners here are not exact in float32."""
    grid = make_anchors(AnchorOptions(strides=(stride,) * 5), [(20, 90)] * 5, (0, 0))
    anchors = grid.join()
    boxes = anchors[torch.randperm(len(anchors), generator=torch.Generator().manual_seed(0))[:60]]
    assert_equal(grid, Targets(boxes, boxes[:3]), LabelOptions())
    assert_equal(grid, Targets(boxes, boxes[:3]), LabelOptions(positive_iou=1, negative_iou=1, crowd_share=1))


def test_more_columns_than_a_window_takes_at_once(variant: str) -> None:
    options = AnchorOptions(sizes=(2, 700, 64, 128, 256), strides=(1, 1, 16, 32, 64))
    grid = make_anchors(options, [(3, 700), (4, 600), (1, 1), (1, 1), (1, 1)], (4, 700))
    boxes = torch.tensor([[0.0, 0, 700, 4], [3, 1, 690, 3], [0, -300, 600, 300]])
    for negative_iou in (0, 1e-4, 0.3):
        assert_equal(grid, Targets(boxes, boxes[1:]), LabelOptions(negative_iou=negative_iou))


# By hand


def test_labels_by_hand(variant: str) -> None:
    """Square anchors of 8 px on cells of 4 px; a box that is one of them, and one between two of them."""
    grid = make_anchors(
        AnchorOptions(sizes=(8,) * 5, ratios=(1.0,), strides=(4,) * 5), [(1, 6)] + [(0, 0)] * 4, (4, 24)
    )
    first = torch.tensor([[-4.0, -4, 4, 4]])
    labels, boxes, ious = match(grid, Targets(first, NO_BOXES), LabelOptions())
    # the next anchor shares 4 * 8 of 2 * 64 - 32: a third
    assert labels.tolist() == [POSITIVE, UNUSED] + [NEGATIVE] * 4
    torch.testing.assert_close(ious, torch.tensor([1, 1 / 3, 0, 0, 0, 0]))
    between = torch.tensor([[10.0, -4, 18, 4]])  # 6 * 8 of 128 - 48: 0.6 with two, 16 of 112 with the next
    labels, boxes, ious = match(grid, Targets(torch.cat([first, between]), NO_BOXES), LabelOptions())
    assert labels.tolist() == [POSITIVE, UNUSED, NEGATIVE, POSITIVE, POSITIVE, NEGATIVE]
    assert boxes.tolist() == [0, 0, 0, 1, 1, 0]
    torch.testing.assert_close(ious, torch.tensor([1, 1 / 3, 0, 0.6, 0.6, 0]))  # 1 / 7 is not worth a note


@pytest.mark.parametrize(("more", "label"), [(0.0, NEGATIVE), (1e-4, UNUSED), (-1e-4, NEGATIVE)])
def test_crowd_with_a_hair_more_than_its_share(variant: str, more: float, label: int) -> None:
    """Anchors of 8 px on cells of 8 px, and crowds that hold about 4 px of their width or height."""
    shapes = AnchorOptions(sizes=(8,) * 5, ratios=(1.0,), strides=(8,) * 5)
    grid = make_anchors(shapes, [(1, 3)] + [(0, 0)] * 4, (8, 24))
    options = LabelOptions(crowd_share=0.5, negative_iou=0.7)
    of_width = Targets(NO_BOXES, torch.tensor([[4, -4, 8 + more, 4]]))
    of_height = Targets(NO_BOXES, torch.tensor([[-4, -4, 20, more]]))
    assert match(grid, of_width, options)[0].tolist() == [NEGATIVE, label, NEGATIVE]
    assert match(grid, of_height, options)[0].tolist() == [label] * 3
    assert_equal(grid, of_width, options)
    assert_equal(grid, of_height, options)


@pytest.mark.parametrize(("more", "label"), [(0.0, UNUSED), (1e-4, UNUSED), (-1e-4, NEGATIVE)])
def test_ignored_region_with_a_hair_more_than_the_iou(variant: str, more: float, label: int) -> None:
    """Anchors of 8 px on cells of 8 px, and a region of 8 x 4 px in one of them: an IoU of a half."""
    shapes = AnchorOptions(sizes=(8,) * 5, ratios=(1.0,), strides=(8,) * 5)
    grid = make_anchors(shapes, [(1, 3)] + [(0, 0)] * 4, (8, 24))
    options = LabelOptions(crowd_share=1, negative_iou=0.5)
    targets = Targets(NO_BOXES, torch.tensor([[4, -4, 8 + more, 4]]))
    assert match(grid, targets, options)[0].tolist() == [NEGATIVE, label, NEGATIVE]
    assert_equal(grid, targets, options)


def test_weak_best_anchor_takes_the_box_that_it_has_most_of(variant: str) -> None:
    """A box of 2 x 2 px makes anchors positive by 4 / 64 that have more of another box, which has better ones."""
    grid = make_anchors(
        AnchorOptions(sizes=(8,) * 5, ratios=(1.0,), strides=(8,) * 5), [(1, 2)] + [(0, 0)] * 4, (8, 16)
    )
    boxes = torch.tensor([[5.0, 0, 7, 2], [-4, -1, 7, 1]])
    # box 1: 16 of 64 + 22 - 16 with the first anchor; 6 of 64 + 22 - 6 with the second, more than box 0's 4 of 64
    labels, matched, ious = match(grid, Targets(boxes, NO_BOXES), LabelOptions())
    assert labels.tolist() == [POSITIVE, POSITIVE]
    assert matched.tolist() == [1, 1]
    torch.testing.assert_close(ious, torch.tensor([16 / 70, 6 / 80]))


def test_nothing_to_match(variant: str) -> None:
    nothing = Targets(NO_BOXES, NO_BOXES)
    assert_equal(make_grid(), nothing, LabelOptions())
    assert match(make_grid(), nothing, LabelOptions())[0].unique().tolist() == [NEGATIVE]
    empty = make_anchors(SMALL, [(0, 0)] * 5, (64, 96))
    assert [len(each) for each in match(empty, nothing, LabelOptions())] == [0, 0, 0]
    assert_equal(empty, Targets(torch.rand(3, 4), torch.rand(2, 4)), LabelOptions())


# Other memory, other types, other ways


def test_any_strides_and_types(variant: str) -> None:
    grid = make_grid()
    boxes = torch.tensor([[3.0, 4, 30, 20], [10, 8, 26, 44], [40, 0, 90, 60]])
    expected = match(grid, Targets(boxes, NO_BOXES), LabelOptions())
    columns = boxes.T.contiguous().T  # the same values, other strides
    sliced = torch.cat([boxes, boxes], dim=1)[:, 2:6].roll(2, dims=1)
    for other in (columns, sliced, boxes.double(), boxes.half(), boxes.long(), boxes.clone().requires_grad_()):
        for ours, same in zip(match(grid, Targets(other, NO_BOXES), LabelOptions()), expected, strict=True):
            assert torch.equal(ours, same)


def test_what_is_public_takes_the_kernel_where_it_may(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = Targets(torch.tensor([[3.0, 4, 30, 20]]), NO_BOXES)
    with_kernel = match_grid(make_grid(), targets, LabelOptions())
    plain = match_anchors(make_grid().join(), targets, LabelOptions())
    assert (with_kernel.ious == 0).sum() > (plain.ious == 0).sum()  # the IoUs below 0.3 that nobody needs
    monkeypatch.setenv(ENVIRONMENT, OFF)
    for ours, other in zip(with_kernel, match_grid(make_grid(), targets, LabelOptions()), strict=True):
        assert torch.equal(ours, other)
    with pytest.raises(RuntimeError, match="there is no objectness_match: kernels are switched off"):
        match(make_grid(), targets, LabelOptions())


def test_wrong_tensors_are_refused() -> None:
    grid, boxes = make_grid(), torch.rand(3, 4)
    with pytest.raises(ValueError, match=r"targets.boxes has the shape \(3, 5\); a kernel needs \(any, 4\)"):
        match(grid, Targets(torch.rand(3, 5), NO_BOXES), LabelOptions())
    with pytest.raises(ValueError, match=r"targets.ignored has the shape \(4,\)"):
        match(grid, Targets(boxes, boxes[0]), LabelOptions())
    with pytest.raises(ValueError, match=r"targets.boxes is on meta"):
        match(grid, Targets(boxes.to("meta"), NO_BOXES), LabelOptions())
    short = grid._replace(levels=(grid.levels[0][:-1], *grid.levels[1:]))
    with pytest.raises(ValueError, match=r"grid.levels\[0\] has the shape \(1151, 4\); a kernel needs \(1152, 4\)"):
        match(short, Targets(boxes, NO_BOXES), LabelOptions())
    columns = grid._replace(levels=tuple(level.T.contiguous().T for level in grid.levels))
    with pytest.raises(ValueError, match=r"grid.levels\[0\] is not contiguous"):
        match(columns, Targets(boxes, NO_BOXES), LabelOptions())
    double = grid._replace(levels=tuple(level.double() for level in grid.levels))
    with pytest.raises(TypeError, match=r"grid.levels\[0\] is a torch.float64 tensor"):
        match(double, Targets(boxes, NO_BOXES), LabelOptions())
