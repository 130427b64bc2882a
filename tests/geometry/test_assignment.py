"""Assignment against a slow loop that shares nothing with it, and on cases worked by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from objectness.config import AnchorOptions, LabelOptions
from objectness.geometry.anchors import make_anchors
from objectness.geometry.assignment import assign_aligned, find_candidates, find_unknown
from objectness.structures import AnchorGrid, Targets

NO_BOXES = torch.zeros(0, 4)
OPTIONS = LabelOptions(assignment="aligned")


def make_grid(ratios: tuple[float, ...] = (1.0,)) -> AnchorGrid:
    """Five levels of an input of 128 x 192 px; anchors of five strides."""
    options = AnchorOptions(sizes=(20, 40, 80, 160, 320), ratios=ratios)
    return make_anchors(options, [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)], (128, 192))


def make_case(seed: int, num_objects: int, grid: AnchorGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, predicted boxes near their anchors, and objects, at random."""
    generator = torch.Generator().manual_seed(seed)
    anchors = grid.join()
    logits = torch.randn(len(anchors), generator=generator)
    sides = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    boxes = anchors + torch.randn(len(anchors), 4, generator=generator) * 0.1 * sides
    corners = torch.rand(num_objects, 2, generator=generator) * torch.tensor([150.0, 90.0])
    return (
        logits,
        boxes,
        torch.cat([corners, corners + 4 + torch.rand(num_objects, 2, generator=generator) * 60], dim=1),
    )


def measure_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def assign_slowly(
    grid: AnchorGrid, logits: Tensor, boxes: Tensor, objects: Tensor
) -> tuple[dict[int, int], dict[int, float]]:
    """Owners and targets by anchor, one pair at a time in double precision."""
    anchors = grid.join().tolist()
    strides = [s[0] for level, s in zip(grid.levels, grid.strides, strict=True) for _ in range(len(level))]
    claims: dict[tuple[int, int], tuple[float, float]] = {}
    for g, box in enumerate(objects.tolist()):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        found = []
        for k, anchor in enumerate(anchors):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            near = abs(x - middle[0]) <= strides[k] and abs(y - middle[1]) <= strides[k]
            if inside or near:
                iou = measure_iou(boxes[k].tolist(), box)
                overlap = 0.9 * iou + 0.1 * measure_iou(anchor, box)
                score = 1 / (1 + 2.718281828459045 ** -logits[k].item())
                found.append((score**0.5 * overlap**6, iou, k))
        for claim, iou, k in sorted(found, reverse=True)[:13]:
            claims[g, k] = (claim, iou)
    owners: dict[int, int] = {}
    for (g, k), (_, iou) in sorted(claims.items()):
        if k not in owners or iou > claims[owners[k], k][1]:
            owners[k] = g
    targets = {}
    for k, g in owners.items():
        own = [claims[g, other] for other, owner in owners.items() if owner == g]
        targets[k] = claims[g, k][0] / max(claim for claim, _ in own) * max(iou for _, iou in own)
    return owners, targets


@pytest.mark.parametrize(("seed", "num_objects", "ratios"), [(0, 1, (1.0,)), (1, 7, (1.0,)), (2, 40, (0.5, 1.0, 2.0))])
def test_agrees_with_a_loop_over_pairs(seed: int, num_objects: int, ratios: tuple[float, ...]) -> None:
    grid = make_grid(ratios)
    logits, boxes, objects = make_case(seed, num_objects, grid)
    owners, targets = assign_slowly(grid, logits, boxes, objects)
    found = assign_aligned(grid, logits, boxes, Targets(objects, NO_BOXES), OPTIONS)
    assert {k: int(found.boxes[k]) for k in found.positive.nonzero()[:, 0].tolist()} == owners
    for k, target in targets.items():
        assert found.targets[k].item() == pytest.approx(target, abs=1e-5)
    assert found.targets[~found.positive].eq(0).all()
    assert found.used.all()


def test_the_best_anchor_of_an_object_is_to_score_its_iou() -> None:
    grid = make_grid()
    logits, boxes, objects = make_case(3, 1, grid)
    found = assign_aligned(grid, logits, boxes, Targets(objects, NO_BOXES), OPTIONS)
    ious = [measure_iou(boxes[k].tolist(), objects[0].tolist()) for k in found.positive.nonzero()[:, 0].tolist()]
    assert 1 <= found.positive.sum() <= 13
    assert found.targets.max().item() == pytest.approx(max(ious), abs=1e-5)


def test_an_image_without_objects_has_negatives_only() -> None:
    grid = make_grid()
    logits, boxes, _ = make_case(0, 1, grid)
    found = assign_aligned(grid, logits, boxes, Targets(NO_BOXES, NO_BOXES), OPTIONS)
    assert not found.positive.any()
    assert found.used.all()
    assert found.targets.eq(0).all()


def test_nothing_is_known_inside_a_crowd_except_of_objects_in_it() -> None:
    grid = make_grid()
    logits, boxes, _ = make_case(0, 1, grid)
    objects, crowd = torch.tensor([[40.0, 40, 70, 70]]), torch.tensor([[0.0, 0, 96, 128]])
    found = assign_aligned(grid, logits, boxes, Targets(objects, crowd), OPTIONS)
    assert found.positive.any()
    assert found.used[found.positive].all()
    inside = find_unknown(boxes, crowd, OPTIONS)
    assert inside.any()
    assert torch.equal(found.used, ~inside | found.positive)


def test_candidates_lie_inside_or_a_stride_from_the_middle() -> None:
    grid = make_grid()
    tiny = torch.tensor([[81.0, 61, 83, 63]])  # around (82, 62)
    found = find_candidates(grid, tiny)[0].nonzero()[:, 0].tolist()
    # P2, stride 4: x in 80, 84 and y in 60, 64; P3, stride 8: 80, 88 and 56, 64; P4: 80, 96 and 48, 64; ...
    starts = [0, 32 * 48, 32 * 48 + 16 * 24]
    expected = [row * 48 + column for row in (15, 16) for column in (20, 21)]
    assert [k for k in found if k < starts[1]] == expected
    assert [k - starts[1] for k in found if starts[1] <= k < starts[2]] == [
        r * 24 + c for r in (7, 8) for c in (10, 11)
    ]


def test_share_of_a_region() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [-4, 0, 16, 10]])
    regions = torch.tensor([[0.0, 0, 8, 10]])  # covers 0.8, 0.3, nothing and 0.4; IoUs 0.8, 0.2, 0 and 0.4
    assert find_unknown(boxes, regions, OPTIONS).tolist() == [True, False, False, True]
    assert find_unknown(boxes, regions, replace(OPTIONS, negative_iou=0.5)).tolist() == [True, False, False, False]
    assert find_unknown(boxes, regions, replace(OPTIONS, crowd_share=0.2)).tolist() == [True, True, False, True]
    assert find_unknown(boxes, NO_BOXES, OPTIONS).tolist() == [False, False, False, False]
