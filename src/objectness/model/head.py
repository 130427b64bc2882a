"""The head that scans every level of the pyramid, with the same weights or with each level's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ClassOrder, Convolution, DeltaOrder
from .convolution import list_convs, make_conv3x3

# Where each weight of an anchor stands among those that it was stored with.
CLASS_ORDERS: dict[ClassOrder, tuple[int, ...]] = {"object_first": (0, 1), "object_last": (1, 0)}
DELTA_ORDERS: dict[DeltaOrder, tuple[int, ...]] = {"xywh": (0, 1, 2, 3), "yxhw": (1, 0, 3, 2)}

MAX_EXPONENT = 60.0  # of a distribution's logits, either way: of more, exp() would overflow, or all of them be 0
MIN_SIZE = 1e-3  # of a box, in anchors: its logarithm stays a number


class Head(nn.Module):
    """3x3 convolutions, then for each of A anchors two logits (object, no object) and four deltas (dx, dy, dw, dh).

    Source: Faster R-CNN, section 3.1; initialised from N(0, 0.01) with biases 0, as stated there.

    Args:
        channels: channels of the pyramid's maps, and of all convolutions but the last.
        num_anchors: A, per cell.
        depth: 3x3 convolutions, each with a ReLU; with 0 the pyramid's maps are read as they are.
        class_order: in which order the weights of `cls` lie; what `forward` returns is always (object, no object).
        delta_order: in which order the weights of `reg` lie; what `forward` returns is always (dx, dy, dw, dh).
        convolution: kind of the 3x3 convolutions.
        initial_logit: what object minus no object is at the start, near enough.
        distances: turns the outputs of `reg` into deltas; None: they are deltas.
    """

    def __init__(
        self,
        channels: int = 256,
        num_anchors: int = 3,
        depth: int = 1,
        *,
        class_order: ClassOrder = "object_first",
        delta_order: DeltaOrder = "xywh",
        convolution: Convolution = "dense",
        initial_logit: float = 0.0,
        distances: Distances | None = None,
    ):
        super().__init__()
        self.class_order, self.delta_order = CLASS_ORDERS[class_order], DELTA_ORDERS[delta_order]
        self.convs = nn.ModuleList(make_conv3x3(channels, convolution) for _ in range(depth))
        self.cls = nn.Conv2d(channels, 2 * num_anchors, 1)
        self.reg = nn.Conv2d(channels, 4 * num_anchors * (1 if distances is None else distances.num_values), 1)
        self.distances = distances
        for conv in list_convs(self):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        if convolution == "separable":  # from N(0, 0.01) two in a row would give nothing
            for conv in list_convs(self.convs):
                nn.init.kaiming_uniform_(conv.weight, a=1)
        with torch.no_grad():
            assert self.cls.bias is not None
            self.cls.bias[self.class_order.index(0) :: 2] = initial_logit

    def forward(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per level (N, channels, H, W) -> per level logits (N, 2 A, H, W) and deltas (N, 4 A, H, W)."""
        logits, deltas = [], []
        for level in levels:
            hidden = self.scan(level)
            logits.append(convolve_in_order(self.cls, self.class_order, hidden))
            predicted = convolve_in_order(self.reg, self.delta_order, hidden)
            deltas.append(predicted if self.distances is None else self.distances(predicted))
        return tuple(logits), tuple(deltas)

    def fold_pairs(self) -> None:
        """Put one logit in place of each pair, object minus no object, in place; for inference.

        `forward` then gives logits (N, A, H, W), whose sigmoid is the pair's softmax.
        """
        weight, bias = order_channels(self.cls, self.class_order)
        self.cls = make_conv(weight[0::2] - weight[1::2], bias[0::2] - bias[1::2])
        self.reg = make_conv(*order_channels(self.reg, self.delta_order))
        self.class_order, self.delta_order = (0,), DELTA_ORDERS["xywh"]

    def scan(self, level: Tensor) -> Tensor:
        """The 3x3 convolutions: (N, channels, H, W) in and out."""
        for conv in self.convs:
            level = F.relu_(conv(level))
        return level


class LevelHeads(nn.Module):
    """A head of its own for every level.

    Args:
        heads: one a level, finest first.
    """

    def __init__(self, heads: Sequence[Head]):
        super().__init__()
        self.levels = nn.ModuleList(heads)

    def forward(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """As `Head.forward`."""
        found = [head([level]) for head, level in zip(self.levels, levels, strict=True)]
        return tuple(logits for (logits,), _ in found), tuple(deltas for _, (deltas,) in found)

    def fold_pairs(self) -> None:
        """As `Head.fold_pairs`, of every level."""
        for head in self.levels:
            assert isinstance(head, Head)
            head.fold_pairs()


class Distances(nn.Module):
    """Deltas of a box from four distributions: how far its sides are from the middle of the cell, in strides.

    The mean of a softmax over the distances 0, 1, ... `bins`, written as a quotient of two sums, which every runtime
    has; one 1x1 convolution computes all of them. Source: Generalized Focal Loss (arXiv 2006.04388), section 3.2, as in
    the detector NanoDet, whose cells' middles lie half a stride beyond the anchors' centres here.

    Args:
        bins: the largest distance, in strides.
        shapes: (A, 2) width and height of each anchor of a cell, in strides.
    """

    def __init__(self, bins: int, shapes: Tensor):
        super().__init__()
        self.num_values = bins + 1
        sides = torch.eye(4 * len(shapes))
        places = torch.arange(bins + 1.0)
        sums = torch.cat([torch.kron(sides, row) for row in (places, torch.ones_like(places))])
        self.register_buffer("sums", sums[:, :, None, None], persistent=False)  # (2 * 4 A, 4 A (bins + 1), 1, 1)
        width, height = shapes[:, 0], shapes[:, 1]
        mix = torch.zeros(len(shapes), 4, 4)  # from (left, top, right, bottom) to (dx, dy, width, height)
        mix[:, 0, 0], mix[:, 0, 2] = -0.5 / width, 0.5 / width
        mix[:, 1, 1], mix[:, 1, 3] = -0.5 / height, 0.5 / height
        mix[:, 2, 0] = mix[:, 2, 2] = 1 / width
        mix[:, 3, 1] = mix[:, 3, 3] = 1 / height
        half_cell = torch.stack([0.5 / width, 0.5 / height, 0 * width, 0 * height], dim=1)
        self.register_buffer("mix", mix.reshape(-1, 4, 1, 1), persistent=False)
        self.register_buffer("half_cell", half_cell.flatten(), persistent=False)
        is_size = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(shapes))[:, None, None]
        self.register_buffer("is_size", is_size, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """(N, 4 A (bins + 1), H, W), side by side for each of left, top, right, bottom -> deltas (N, 4 A, H, W)."""
        weights = logits.clamp(-MAX_EXPONENT, MAX_EXPONENT).exp_()
        weighted, totals = F.conv2d(weights, self.sums).chunk(2, dim=1)  # type: ignore[arg-type]  # (N, 4 A, H, W) each
        mixed = F.conv2d(weighted / totals, self.mix, self.half_cell, groups=len(self.mix) // 4)  # type: ignore[arg-type]
        sizes = mixed.clamp(min=MIN_SIZE).log()
        return mixed + self.is_size * (sizes - mixed)  # type: ignore[operator]


def convolve_in_order(conv: nn.Conv2d, order: Sequence[int], x: Tensor) -> Tensor:
    """conv(x) with the channels of each anchor in another order, which costs nothing where that is their own."""
    weight, bias = order_channels(conv, order)
    return F.conv2d(x, weight, bias)


def make_conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1x1 convolution with these (out, in, 1, 1) and (out,)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return conv


def order_channels(conv: nn.Conv2d, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a 1x1 convolution, the channels of each anchor taken in `order`."""
    assert conv.bias is not None
    if list(order) == sorted(order):
        return conv.weight, conv.bias
    firsts = torch.arange(0, conv.out_channels, len(order), device=conv.weight.device)
    rows = (firsts[:, None] + torch.tensor(order, device=firsts.device)).flatten()  # (A, 1) + (values,)
    return conv.weight[rows], conv.bias[rows]
