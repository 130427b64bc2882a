import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import AnchorOptions
from objectness.geometry.anchors import compute_strides, find_nearest_anchors, make_anchors, make_shapes, place_shapes
from objectness.structures import AnchorGrid

SIZES = (32, 64, 128, 256, 512)


def make_grid(height: int, width: int, options: AnchorOptions | None = None) -> AnchorGrid:
    """The anchors of an input of that size, whose maps are rounded up as convolutions do."""
    map_sizes = [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(2, 7)]
    return make_anchors(options or AnchorOptions(), map_sizes, (height, width))


def test_shapes_by_hand() -> None:
    # area 32^2 and h / w = 0.5: h = 32 sqrt(0.5) = 22.627, w = 32 / sqrt(0.5) = 45.255
    shapes = make_shapes(32, (0.5, 1.0, 2.0))
    expected = [[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16], [-11.3137, -22.6274, 11.3137, 22.6274]]
    torch.testing.assert_close(shapes, torch.tensor(expected), rtol=0, atol=1e-4)


def test_retinanet_base_anchors() -> None:
    """Source: mmdetection, test_anchor_generator.py, stride 8: sizes 32 * 2^(k / 3) in ratio 0.5."""
    expected = [[-22.6274, -11.3137], [-28.5088, -14.2544], [-35.9188, -17.9594]]
    for k, corner in enumerate(expected):
        shape = make_shapes(32 * 2 ** (k / 3), (0.5,))[0]
        torch.testing.assert_close(shape[:2], torch.tensor(corner), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_have_their_area_and_ratio(size: float) -> None:
    widths, heights = (make_shapes(size, (0.25, 0.5, 1.0, 3.0))[:, 2:] * 2).T
    torch.testing.assert_close(widths * heights, torch.full((4,), float(size**2)))
    torch.testing.assert_close(heights / widths, torch.tensor([0.25, 0.5, 1.0, 3.0]))


def test_rounded_shapes() -> None:
    """Source: torchvision's AnchorGenerator; exactly P2 would be 22.63 x 11.31, P4 90.51 x 45.25."""
    expected = [[23, 11], [45, 23], [91, 45], [181, 91], [362, 181]]
    for size, (x, y) in zip(SIZES, expected, strict=True):
        shapes = make_shapes(size, (0.5, 1.0, 2.0), rounded=True)
        half = size // 2
        assert shapes.tolist() == [[-x, -y, x, y], [-half, -half, half, half], [-y, -x, y, x]]


def test_torchvision_case() -> None:
    """Source: torchvision, test_models_detection_anchor_utils.py: size 10, a 15 x 15 image, 3 x 3 cells, stride 5."""
    anchors = place_shapes(make_shapes(10, (1.0,)), (5, 5), (3, 3))
    assert anchors.tolist() == [
        [-5, -5, 5, 5], [0, -5, 10, 5], [5, -5, 15, 5],
        [-5, 0, 5, 10], [0, 0, 10, 10], [5, 0, 15, 10],
        [-5, 5, 5, 15], [0, 5, 10, 15], [5, 5, 15, 15],
    ]  # fmt: skip


def test_mmdetection_cases() -> None:
    """Source: mmdetection, test_anchor_generator.py; strides there are (horizontal, vertical) = (10, 20)."""
    shapes = make_shapes(10, (1.0,))
    assert place_shapes(shapes, (10, 10), (2, 2)).tolist() == [
        [-5, -5, 5, 5], [5, -5, 15, 5], [-5, 5, 5, 15], [5, 5, 15, 15],
    ]  # fmt: skip
    assert place_shapes(shapes, (20, 10), (2, 2)).tolist() == [
        [-5, -5, 5, 5], [5, -5, 15, 5], [-5, 15, 5, 25], [5, 15, 15, 25],
    ]  # fmt: skip


def test_tensorflow_garden_shapes() -> None:
    """Source: TensorFlow Model Garden, anchor_test.py, level 6, anchor size 2, ratios 1, 4, 0.25 (width / height).

    Its boxes are (y0, x0, y1, x1) around half a stride, (32, 32); ours are (x0, y0, x1, y1) around 0.
    """
    theirs = torch.tensor([[-32.0, -32, 96, 96], [0, -96, 64, 160], [-96, 0, 160, 64]])
    ours = make_shapes(2 * 64, (1.0, 1 / 4, 4.0))
    assert torch.equal(ours + 32, theirs[:, [1, 0, 3, 2]])


def test_order_is_row_cell_shape() -> None:
    anchors = place_shapes(make_shapes(8, (0.5, 1.0, 2.0)), (4, 4), (2, 3)).reshape(2, 3, 3, 4)  # row, column, shape
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    assert centres[1, 2].tolist() == [[8, 4]] * 3  # (x, y) = (column, row) * stride
    sizes = anchors[..., 2:] - anchors[..., :2]
    assert (sizes[..., 0, 0] > sizes[..., 0, 1]).all()  # ratio 0.5 lies
    assert torch.equal(sizes[..., 1, 0], sizes[..., 1, 1])
    assert (sizes[..., 2, 0] < sizes[..., 2, 1]).all()  # ratio 2 stands


def test_one_area_per_level_eight_cells_wide() -> None:
    grid = make_grid(800, 1344)
    # 3 * (200 * 336 + 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21) = 3 * 89,523
    assert len(grid.join()) == 268_569
    for anchors, (height, width), stride in zip(grid.levels, grid.map_sizes, (4, 8, 16, 32, 64), strict=True):
        assert anchors.shape == (3 * height * width, 4)
        sizes = anchors[:, 2:] - anchors[:, :2]
        assert (sizes.prod(dim=1) / (8 * stride) ** 2 - 1).abs().max() < 1e-5
    assert torch.equal(grid.join()[:3], grid.levels[0][:3])
    assert torch.equal(grid.join()[-3:], grid.levels[-1][-3:])


def test_strides_drift_when_taken_from_the_shape() -> None:
    map_sizes = [(200, 168), (100, 84), (50, 42), (25, 21), (13, 11)]
    declared = compute_strides(AnchorOptions(), map_sizes, (800, 672))
    assert declared == ((4, 4), (8, 8), (16, 16), (32, 32), (64, 64))
    drifted = compute_strides(AnchorOptions(strides_from_shape=True), map_sizes, (800, 672))
    assert drifted == ((4, 4), (8, 8), (16, 16), (32, 32), (61, 61))  # 800 // 13, 672 // 11


def test_grid_is_made_once_and_serves_training() -> None:
    with torch.inference_mode():
        first = make_grid(96, 64)
    again = make_grid(96, 64)
    assert again is first
    assert not any(level.is_inference() for level in first.levels)  # autograd refuses inference tensors
    assert make_grid(64, 96) is not first
    assert make_grid(96, 64, AnchorOptions(rounded=True)) is not first


@pytest.mark.parametrize("options", [AnchorOptions(), AnchorOptions(rounded=True, strides_from_shape=True)])
def test_every_anchor_is_nearest_to_itself(options: AnchorOptions) -> None:
    grid = make_grid(160, 224, options)
    anchors = grid.join()
    assert torch.equal(find_nearest_anchors(anchors, grid), torch.arange(len(anchors)))


@st.composite
def draw_regions(draw: st.DrawFn) -> Tensor:
    """(10, 4) boxes inside, across and beyond the border of a 160 x 224 px image, from specks to giants."""
    rows = draw(
        st.lists(
            st.tuples(st.floats(-60, 290), st.floats(-60, 220), st.floats(1, 7.5), st.floats(1, 7.5)),
            min_size=10,
            max_size=10,
        )
    )
    return torch.tensor([[x - 2**w, y - 2**h, x + 2**w, y + 2**h] for x, y, w, h in rows])


@settings(deadline=None, max_examples=30)
@given(draw_regions(), st.booleans())
def test_nearest_agrees_with_a_look_at_every_anchor(boxes: Tensor, from_shape: bool) -> None:
    """The documented measure: first the level nearest in area, then the shape nearest in ratio, then the place."""
    grid = make_grid(160, 224, AnchorOptions(strides_from_shape=from_shape))
    anchors = grid.join().double()
    found = find_nearest_anchors(boxes, grid)
    for box, position in zip(boxes.double(), found, strict=True):
        areas, ratios, distances = compare(box, anchors)
        candidates = torch.arange(len(anchors))
        for measure in (areas, ratios, distances):
            best = measure[candidates].min()
            candidates = candidates[measure[candidates] < best + 1e-4]  # within rounding, either may be taken
        assert position in candidates


def compare(box: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How unlike a box (4,) is to anchors (K, 4): in log size (K,), in log ratio (K,), and in place (K,) px."""
    size, sizes = box[2:] - box[:2], anchors[:, 2:] - anchors[:, :2]
    areas = (sizes.prod(dim=1) / size.prod()).log().abs() / 2
    ratios = ((sizes[:, 1] / sizes[:, 0]) / (size[1] / size[0])).log().abs()
    distances = ((anchors[:, :2] + anchors[:, 2:] - box[:2] - box[2:]) / 2).norm(dim=1)
    return areas, ratios, distances


def test_nearest_to_boxes_that_are_hardly_boxes() -> None:
    grid = make_grid(64, 64)
    nan, inf = torch.nan, torch.inf
    boxes = torch.tensor(
        [
            [20.0, 12, 20, 12],  # no area: the smallest level, the cell at (20, 12) / 4 = column 5, row 3
            [-900, -900, -880, -880],  # beyond the corner: its cell
            [900, 900, 920, 920],
            [30, 10, 10, 30],  # inverted
            [nan, nan, nan, nan],
            [0, 0, nan, 9],
            [inf, inf, inf, inf],
            [-inf, -inf, inf, inf],
        ]
    )
    found = find_nearest_anchors(boxes, grid)
    assert found[0] == (3 * 16 + 5) * 3 + 1  # P2 is 16 cells wide; a point is as wide as high
    assert found[1] == 1  # a square of 20 px belongs to P2
    assert found[2] == 16 * 16 * 3 - 2
    assert ((found >= 0) & (found < len(grid.join()))).all()  # all can be looked up
