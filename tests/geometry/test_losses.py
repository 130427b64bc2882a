import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import LabelOptions
from objectness.geometry.assignment import Assignment
from objectness.geometry.boxes import decode_deltas, encode_absolute, encode_deltas
from objectness.geometry.losses import (
    OBJECTNESS_LOSSES,
    LossSums,
    compute_cross_entropy,
    compute_focal,
    compute_margins,
    compute_squared_error,
    sum_aligned_losses,
    sum_losses,
)
from objectness.geometry.matching import Matches, Sample, match_anchors, sample_anchors
from objectness.structures import Output, Targets, flatten_maps

ANCHOR = torch.tensor([[0.0, 0, 10, 20]])
NO_BOXES = torch.zeros(0, 4)


def make_one(
    logits: list[float], deltas: list[float], gt_box: Tensor, *, positive: bool = True, **options: str
) -> LossSums:
    """The losses of one image of one cell and one anchor, sampled as positive or negative."""
    output = Output((), (torch.tensor(logits).reshape(1, 2, 1, 1),), (torch.tensor(deltas).reshape(1, 4, 1, 1),))
    matches = Matches(torch.tensor([int(positive)]), torch.tensor([0]), torch.tensor([1.0]))
    sample = Sample(torch.tensor([0]), torch.tensor([positive]), torch.tensor([True]))
    return sum_losses(output, ANCHOR, [matches], [sample], [Targets(gt_box, NO_BOXES)], **options)


def make_output(num_images: int, seed: int = 0) -> tuple[Output, Tensor]:
    """Predictions at random on two levels of 4 x 5 and 2 x 3 cells with 3 anchors each, and those 78 anchors."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((4, 5), (2, 3))
    logits = tuple(torch.randn(num_images, 6, *size, generator=generator) for size in sizes)
    deltas = tuple(torch.randn(num_images, 12, *size, generator=generator) for size in sizes)
    corners = torch.rand(78, 2, generator=generator) * 50
    anchors = torch.cat([corners, corners + 5 + torch.rand(78, 2, generator=generator) * 30], dim=1)
    return Output((), logits, deltas), anchors


def sum_all(output: Output, anchors: Tensor, boxes: list[Tensor], seed: int = 0, **options: str) -> LossSums:
    """Match, sample and add up, 16 anchors an image."""
    labels = LabelOptions(anchors_per_image=16)
    targets = [Targets(each, NO_BOXES) for each in boxes]
    matches = [match_anchors(anchors, each, labels) for each in targets]
    generator = torch.Generator()
    samples = [sample_anchors(each.labels, labels, generator.manual_seed(seed)) for each in matches]
    return sum_losses(output, anchors, matches, samples, targets, **options)


def test_box_loss_by_hand() -> None:
    # errors 0.1, 0.2, 0.3, 0: below 1/9 the loss is 9/2 e^2, above it is e - 1/18
    losses = make_one([0, 0], [0.1, -0.2, 0.3, 0], ANCHOR)
    expected = 4.5 * 0.01 + (0.2 - 1 / 18) + (0.3 - 1 / 18) + 0
    assert losses.box.item() == pytest.approx(expected)
    assert (losses.normaliser.item(), losses.num_positive.item()) == (1, 1)


def test_tensorflow_garden_huber() -> None:
    """Source: TensorFlow Model Garden, maskrcnn_losses_test.py: 0.027093 for (.2, .2, 1.4, 1.4) against (0, 0, 1, 1).

    Its Huber loss of delta 1/9 is ours times 1/9, and it divides by 4 numbers of one positive, + 0.01.
    """
    gt_box = decode_deltas(torch.tensor([[0.0, 0, 1, 1]]), ANCHOR)
    losses = make_one([0, 0], [0.2, 0.2, 1.4, 1.4], gt_box)
    assert losses.box.item() / 9 / 4.01 == pytest.approx(0.027093, abs=1e-6)
    assert make_one([0, 0], [0, 0, 1, 1], gt_box).box.item() == pytest.approx(0, abs=1e-9)


def test_cross_entropy_by_hand() -> None:
    pairs = torch.tensor([[0.0, 0], [math.log(4), 0], [5, 5 - math.log(4)]])  # p(object) = 1/2, 4/5, 4/5
    margins = compute_margins(pairs)
    torch.testing.assert_close(compute_cross_entropy(margins, torch.ones(3)), -torch.tensor([0.5, 0.8, 0.8]).log())
    torch.testing.assert_close(compute_cross_entropy(margins, torch.zeros(3)), -torch.tensor([0.5, 0.2, 0.2]).log())


def test_squared_error_by_hand() -> None:
    pairs = torch.tensor([[0.0, 0], [math.log(4), 0], [0, math.log(4)]])  # p(object) = 1/2, 4/5, 1/5
    # (p - 1)^2 + (1 - p)^2 = 2 (1 - p)^2 for a positive, 2 p^2 for a negative
    margins = compute_margins(pairs)
    torch.testing.assert_close(compute_squared_error(margins, torch.ones(3)), torch.tensor([0.5, 0.08, 1.28]))
    torch.testing.assert_close(compute_squared_error(margins, torch.zeros(3)), torch.tensor([0.5, 1.28, 0.08]))


def test_focal_by_hand() -> None:
    # p = 4/5: against 1 it is (1/5)^2 ln(5/4), against 3/10 (1/2)^2 (-0.3 ln(4/5) - 0.7 ln(1/5)), against 4/5 nothing
    margin = torch.tensor([math.log(4)])
    for target, expected in (
        (1.0, 0.04 * math.log(1.25)),
        (0.3, 0.25 * (0.3 * math.log(1.25) + 0.7 * math.log(5))),
        (0.8, 0.0),
    ):
        assert compute_focal(margin, torch.tensor([target])).item() == pytest.approx(expected, abs=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.floats(-80, 80, width=32), st.floats(-80, 80, width=32), st.booleans())
def test_cross_entropy_is_that_of_a_softmax_over_the_pair(wanted: float, other: float, positive: bool) -> None:
    pair = torch.tensor([[wanted, other]])
    ours = compute_cross_entropy(compute_margins(pair), torch.tensor([float(positive)]))
    torch.testing.assert_close(ours, F.cross_entropy(pair, torch.tensor([0 if positive else 1]), reduction="none"))


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    for name, loss in OBJECTNESS_LOSSES.items():
        pairs = torch.tensor([[500.0, -500], [-500, 500]], requires_grad=True)
        total = loss(compute_margins(pairs), torch.zeros(2)).sum()
        total.backward()
        assert total.isfinite(), name
        assert pairs.grad is not None
        assert pairs.grad.isfinite().all(), name


def test_negative_anchor_has_no_box_loss() -> None:
    losses = make_one([1, 0], [9, 9, 9, 9], ANCHOR, positive=False)
    assert losses.box == 0
    assert losses.objectness.item() == pytest.approx(math.log(1 + math.e))  # -log(1 - sigmoid(1))
    assert (losses.normaliser.item(), losses.num_positive.item()) == (1, 0)


def test_absolute_coding() -> None:
    gt_box = torch.tensor([[100.0, 100, 200, 300]])  # centre (150, 200), 100 x 200
    code = torch.tensor([150.0, 200, 100, 200]) / 512
    assert make_one([0, 0], code.tolist(), gt_box, box_coding="absolute").box.item() == pytest.approx(0, abs=1e-9)
    assert make_one([0, 0], code.tolist(), gt_box).box > 1


@pytest.mark.parametrize("objectness_loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("box_coding", ["deltas", "absolute"])
def test_empty_ground_truth(objectness_loss: str, box_coding: str) -> None:
    """Sources: mmdetection, test_rpn_head.py; torchvision, test_models_detection_negative_samples.py."""
    output, anchors = make_output(2)
    for level in (*output.logits, *output.deltas):
        level.requires_grad_()
    empty = sum_all(output, anchors, [NO_BOXES, NO_BOXES], objectness_loss=objectness_loss, box_coding=box_coding)
    assert empty.objectness > 0
    assert empty.box == 0
    assert (empty.normaliser.item(), empty.num_positive.item()) == (32, 0)
    (empty.objectness + empty.box).backward()
    assert all(level.grad is not None and not level.grad.any() for level in output.deltas)

    # a batch in which one image has boxes: only it has a box loss
    boxes = anchors[[3]] + 1
    half = sum_all(output, anchors, [NO_BOXES, boxes], objectness_loss=objectness_loss, box_coding=box_coding)
    alone = sum_all(pick(output, 1), anchors, [boxes], objectness_loss=objectness_loss, box_coding=box_coding)
    torch.testing.assert_close(half.box, alone.box)
    assert half.box > 0


def pick(output: Output, image: int) -> Output:
    """One image's predictions."""
    return Output(
        (),
        tuple(level[image : image + 1] for level in output.logits),
        tuple(level[image : image + 1] for level in output.deltas),
    )


def test_batch_of_two_is_two_of_one() -> None:
    output, anchors = make_output(2)
    boxes = [anchors[[3, 40]] + 1, anchors[[77]] - 2]
    together = sum_all(output, anchors, boxes)
    apart = [sum_all(pick(output, i), anchors, [boxes[i]]) for i in range(2)]
    for both, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, first + second)


def test_losses_agree_with_a_loop_over_the_samples() -> None:
    output, anchors = make_output(1, seed=5)
    boxes = anchors[[0, 30, 60]] + torch.tensor([1.0, -1, 2, 1])
    labels = LabelOptions(anchors_per_image=40)
    targets = Targets(boxes, NO_BOXES)
    matches = match_anchors(anchors, targets, labels)
    sample = sample_anchors(matches.labels, labels, torch.Generator().manual_seed(1))
    losses = sum_losses(output, anchors, [matches], [sample], [targets])

    logits, codes = flatten_maps(output.logits, 2)[0], flatten_maps(output.deltas, 4)[0]
    objectness = box = 0.0
    for position, positive, used in zip(*(each.tolist() for each in sample), strict=True):
        if used:
            objectness -= logits[position].log_softmax(dim=0)[0 if positive else 1].item()
        if positive:
            target = encode_deltas(boxes[matches.boxes[position]], anchors[position])
            for error in (codes[position] - target).abs().tolist():
                box += 4.5 * error**2 if error < 1 / 9 else error - 1 / 18
    assert losses.num_positive >= 3
    assert losses.objectness.item() == pytest.approx(objectness, rel=1e-5)
    assert losses.box.item() == pytest.approx(box, rel=1e-5)


def test_only_sampled_anchors_learn() -> None:
    output, anchors = make_output(1)
    for level in (*output.logits, *output.deltas):
        level.requires_grad_()
    losses = sum_all(output, anchors, [anchors[[3]] + 1])
    (losses.objectness + losses.box).backward()
    logit_grads = flatten_maps([level.grad for level in output.logits if level.grad is not None], 2)[0]
    code_grads = flatten_maps([level.grad for level in output.deltas if level.grad is not None], 4)[0]
    assert logit_grads.any(dim=1).sum() == losses.normaliser == 16
    assert code_grads.any(dim=1).sum() == losses.num_positive


def test_maps_are_read_in_the_order_of_the_anchors() -> None:
    # level 1 (second), row 1, column 2, shape 1 of maps (4, 5) and (2, 3): 60 + (1 * 3 + 2) * 3 + 1 = 76
    output, _ = make_output(2)
    logits, codes = flatten_maps(output.logits, 2), flatten_maps(output.deltas, 4)
    assert logits.shape == (2, 78, 2)
    assert codes.shape == (2, 78, 4)
    assert torch.equal(logits[1, 76], output.logits[1][1, 2:4, 1, 2])  # channels of shape 1: 2, 3 of 6
    assert torch.equal(codes[1, 76], output.deltas[1][1, 4:8, 1, 2])  # and 4..7 of 12


def test_losses_are_float32_whatever_the_network() -> None:
    output, anchors = make_output(1)
    half = Output((), tuple(e.bfloat16() for e in output.logits), tuple(e.bfloat16() for e in output.deltas))
    boxes = [anchors[[3]] + 1]
    losses, reference = sum_all(half, anchors, boxes), sum_all(output, anchors, boxes)
    assert losses.objectness.dtype == losses.box.dtype == torch.float32
    torch.testing.assert_close(losses.objectness, reference.objectness, rtol=0.02, atol=0)
    torch.testing.assert_close(losses.box, reference.box, rtol=0.02, atol=0)


def test_scaling_anchors_and_boxes_together_changes_nothing() -> None:
    output, anchors = make_output(1)
    boxes = anchors[[3, 9]] + 1
    for before, after in zip(sum_all(output, anchors, [boxes]), sum_all(output, anchors * 4, [boxes * 4]), strict=True):
        torch.testing.assert_close(before, after)


def test_absolute_codes_are_of_order_one() -> None:
    codes = encode_absolute(torch.tensor([[0.0, 0, 1333, 800], [0, 0, 8, 8]]), ANCHOR.repeat(2, 1))
    assert ((codes > 0) & (codes < 3)).all()


def test_quality_is_the_iou_of_the_predicted_box() -> None:
    # the anchor (0, 0, 10, 20) as it is, against (0, 0, 10, 10): IoU 1/2. Score 1/2: cross entropy against 1/2 is ln 2,
    # the focal loss 0. GIoU = IoU here, since the anchor covers the box: the loss is 2 (1 - 1/2).
    box = torch.tensor([[0.0, 0, 10, 10]])
    losses = make_one([0, 0], [0, 0, 0, 0], box, objectness_target="quality", box_loss="giou")
    assert losses.objectness.item() == pytest.approx(math.log(2))
    assert losses.box.item() == pytest.approx(1.0)
    assert make_one(
        [0, 0], [0, 0, 0, 0], box, objectness_target="quality", objectness_loss="focal"
    ).objectness.item() == pytest.approx(0, abs=1e-7)


def test_aligned_losses_by_hand() -> None:
    # Three anchors (0, 0, 10, 20) side by side: the first owns (0, 0, 10, 10) with target 0.4, the second nothing, the
    # third nothing and unused. All margins are ln 4, p = 0.8; boxes are the anchors.
    # Focal: first 0.4^2 (0.4 ln(5/4) + 0.6 ln 5), second 0.8^2 ln 5. Box: 2 (1 - 1/2) x 0.4. Normaliser 0.4.
    anchors = ANCHOR.repeat(3, 1)
    logits = torch.tensor([math.log(4), 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3).clone()
    output = Output((), (logits,), (torch.zeros(1, 4, 1, 3),))
    assignment = Assignment(
        positive=torch.tensor([True, False, False]),
        boxes=torch.tensor([0, 0, 0]),
        targets=torch.tensor([0.4, 0, 0]),
        used=torch.tensor([True, True, False]),
    )
    targets = [Targets(torch.tensor([[0.0, 0, 10, 10]]), NO_BOXES)]
    losses = sum_aligned_losses(output, anchors, [assignment], targets)
    expected = 0.16 * (0.4 * math.log(1.25) + 0.6 * math.log(5)) + 0.64 * math.log(5)
    assert losses.objectness.item() == pytest.approx(expected)
    assert losses.box.item() == pytest.approx(0.4)
    assert (losses.normaliser.item(), losses.num_positive.item()) == (pytest.approx(0.4), 1)
    labels = sum_aligned_losses(output, anchors, [assignment], targets, objectness_target="label", box_loss="smooth_l1")
    assert labels.objectness.item() == pytest.approx(0.04 * math.log(1.25) + 0.64 * math.log(5))
    assert labels.normaliser.item() == 1  # one label; the box counts 0.4: |ln(1/2)| - 1/18 and the shift of a quarter
    assert labels.box.item() == pytest.approx(0.4 * (math.log(2) - 1 / 18 + 0.25 - 1 / 18))


def test_aligned_losses_without_objects_are_finite_and_have_gradients() -> None:
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    deltas = torch.zeros(1, 4, 1, 3, requires_grad=True)
    nothing = Assignment(torch.zeros(3, dtype=torch.bool), torch.zeros(3).long(), torch.zeros(3), torch.ones(3).bool())
    losses = sum_aligned_losses(
        Output((), (logits,), (deltas,)), ANCHOR.repeat(3, 1), [nothing], [Targets(NO_BOXES, NO_BOXES)]
    )
    objectness, box = losses.divide()
    (objectness + box).backward()
    assert box == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
