import math

import pytest
import torch

from objectness.config import ClassOrder
from objectness.model.head import Distances, Head, LevelHeads


def test_initial_statistics() -> None:
    """Source: Faster R-CNN, section 3.1.3: N(0, 0.01), and biases 0."""
    torch.manual_seed(0)
    head = Head()
    for conv in (head.convs[0], head.cls, head.reg):
        count = conv.weight.numel()  # 589,824, 1,536 and 3,072; errors of mean and deviation fall with its root
        assert conv.weight.mean().item() == pytest.approx(0, abs=0.04 / count**0.5)
        assert conv.weight.std().item() == pytest.approx(0.01, rel=3 / count**0.5)
        assert not conv.bias.any()


def test_number_of_parameters() -> None:
    # 256 * 256 * 9 + 256, then 257 for each of 6 logits and 12 deltas
    assert sum(p.numel() for p in Head().parameters()) == 590_080 + 257 * 18


def test_shapes() -> None:
    levels = [torch.zeros(2, 8, 5, 7), torch.zeros(2, 8, 1, 1)]
    logits, deltas = Head(channels=8, num_anchors=4)(levels)
    assert [tuple(level.shape) for level in logits] == [(2, 8, 5, 7), (2, 8, 1, 1)]
    assert [tuple(level.shape) for level in deltas] == [(2, 16, 5, 7), (2, 16, 1, 1)]


def test_levels_share_the_weights() -> None:
    level = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    logits, deltas = Head(channels=8)([level, level])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(deltas[0], deltas[1])


def test_head_by_hand() -> None:
    head = Head(channels=1, num_anchors=1)
    with torch.no_grad():
        head.convs[0].weight.fill_(1)
        head.cls.weight.copy_(torch.tensor([2.0, -1]).reshape(2, 1, 1, 1))
        head.cls.bias.copy_(torch.tensor([0.0, 5]))
        head.reg.weight.copy_(torch.arange(4.0).reshape(4, 1, 1, 1))
    image = torch.zeros(1, 1, 3, 3)
    image[..., 0, 0], image[..., 2, 2] = 3, -100
    (logits,), (deltas,) = head([image])
    # sums of 3 x 3 neighbours, then ReLU: 3 around the first corner, 0 where -100 reaches and where nothing is
    assert logits[0, 0].tolist() == [[6, 6, 0], [6, 0, 0], [0, 0, 0]]
    assert logits[0, 1].tolist() == [[2, 2, 5], [2, 5, 5], [5, 5, 5]]
    assert deltas[0, :, 0, 0].tolist() == [0, 3, 6, 9]


def test_depth() -> None:
    """Two 3x3 convolutions, each with its ReLU, as in torchvision's second COCO weights."""
    head = Head(channels=1, num_anchors=1, depth=2)
    with torch.no_grad():
        for conv, centre in zip(head.convs, (-1.0, 1.0), strict=True):
            conv.weight.zero_()
            conv.weight[0, 0, 1, 1] = centre
        head.cls.weight.copy_(torch.tensor([1.0, 0]).reshape(2, 1, 1, 1))
    (logits,), _ = head([torch.tensor([[[[-2.0, 3.0]]]])])
    assert logits[0, 0].tolist() == [[2, 0]]  # -(-2), and the first ReLU takes -(3)


def test_orders_by_hand() -> None:
    """However the weights lie, what comes out is (object, no object) and (dx, dy, dw, dh)."""
    head = Head(channels=1, num_anchors=2, class_order="object_last", delta_order="yxhw")
    with torch.no_grad():
        for conv in (head.cls, head.reg):
            conv.weight.zero_()
            conv.bias.copy_(torch.arange(float(conv.out_channels)))
    (logits,), (deltas,) = head([torch.zeros(1, 1, 1, 1)])
    assert logits.flatten().tolist() == [1, 0, 3, 2]
    assert deltas.flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


@pytest.mark.parametrize("class_order", ["object_first", "object_last"])
def test_folded_pairs_are_their_difference(class_order: ClassOrder) -> None:
    head = Head(4, 3, class_order=class_order, delta_order="yxhw")
    level = torch.randn(2, 4, 3, 5)
    (pairs,), (deltas,) = head([level])
    head.fold_pairs()
    (folded,), (same_deltas,) = head([level])
    torch.testing.assert_close(folded, pairs[:, 0::2] - pairs[:, 1::2])
    torch.testing.assert_close(same_deltas, deltas)


def test_a_head_for_each_level() -> None:
    torch.manual_seed(0)
    heads = LevelHeads([Head(channels=8, num_anchors=1) for _ in range(2)])
    level = torch.randn(1, 8, 4, 4)
    logits, deltas = heads([level, level])
    assert not torch.equal(logits[0], logits[1])
    for i in range(2):
        alone = heads.levels[i]([level])
        assert torch.equal(logits[i], alone[0][0])
        assert torch.equal(deltas[i], alone[1][0])
    heads.fold_pairs()
    torch.testing.assert_close(heads([level, level])[0][1], logits[1][:, :1] - logits[1][:, 1:])


def test_no_convolution_at_all() -> None:
    head = Head(channels=8, depth=0)
    level = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(head([level])[0][0], head.cls(level))


@pytest.mark.parametrize("class_order", ["object_first", "object_last"])
def test_initial_logit(class_order: ClassOrder) -> None:
    logits, _ = Head(channels=8, class_order=class_order, initial_logit=-4.0)([torch.zeros(1, 8, 1, 1)])
    assert logits[0].flatten().tolist() == [-4, 0] * 3


def test_distances_by_hand() -> None:
    """One anchor of 5 x 5 strides; each side's distribution has all its weight in one place: 1, 2, 4 and 8 strides.

    From the middle of the cell, half a stride beyond the anchor's centre, the box reaches from -1 to 4 across and from
    -2 to 8 down: 5 strides wide and 10 high, its centre 1.5 + 0.5 and 3 + 0.5 strides from the anchor's.
    """
    logits = torch.full((1, 4, 11), -1000.0)
    for side, place in enumerate((1, 2, 4, 8)):
        logits[0, side, place] = 3.0
    deltas = Distances(10, torch.tensor([[5.0, 5.0]]))(logits.reshape(1, 44, 1, 1)).flatten()
    torch.testing.assert_close(deltas, torch.tensor([2.0 / 5, 3.5 / 5, 0.0, math.log(2)]))


def test_distances_are_the_mean_of_a_softmax() -> None:
    """Two anchors of other shapes, against torch's softmax and plain geometry."""
    shapes = torch.tensor([[4.0, 8.0], [6.0, 3.0]])
    logits = 5 * torch.randn(2, 2, 4, 9, 3, 5, generator=torch.Generator().manual_seed(0))
    left, top, right, bottom = (logits.softmax(dim=3) * torch.arange(9.0)[:, None, None]).sum(dim=3).unbind(2)
    width, height = shapes.T[..., None, None]
    expected = torch.stack(
        [
            ((right - left) / 2 + 0.5) / width,
            ((bottom - top) / 2 + 0.5) / height,
            ((left + right) / width).log(),
            ((top + bottom) / height).log(),
        ],
        dim=2,
    )
    found = Distances(8, shapes)(logits.reshape(2, 72, 3, 5))
    torch.testing.assert_close(found, expected.reshape(2, 8, 3, 5), rtol=1e-5, atol=1e-5)


def test_extreme_distances_are_numbers() -> None:
    distances = Distances(10, torch.tensor([[5.0, 5.0]]))
    for value in (1e30, -50.0, -1e30, 0.0):
        logits = torch.full((1, 44, 1, 1), value, requires_grad=True)
        deltas = distances(logits)
        deltas.sum().backward()
        assert deltas.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
    nowhere = torch.full((1, 4, 11), -60.0)
    nowhere[..., 0] = 0  # every side at the middle: no size, but a number
    assert distances(nowhere.reshape(1, 44, 1, 1)).isfinite().all()
