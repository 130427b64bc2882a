"""The head that scans every level of the pyramid with the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ClassOrder, DeltaOrder

# Where each weight of an anchor stands among those that it was stored with.
CLASS_ORDERS: dict[ClassOrder, tuple[int, ...]] = {"object_first": (0, 1), "object_last": (1, 0)}
DELTA_ORDERS: dict[DeltaOrder, tuple[int, ...]] = {"xywh": (0, 1, 2, 3), "yxhw": (1, 0, 3, 2)}


class Head(nn.Module):
    """3x3 convolutions, then for each of A anchors two logits (object, no object) and four deltas (dx, dy, dw, dh).

    Source: Faster R-CNN, section 3.1; initialised from N(0, 0.01) with biases 0, as stated there.

    Args:
        channels: of the pyramid's maps, and of all convolutions but the last.
        num_anchors: A, per cell.
        depth: 3x3 convolutions, each with a ReLU.
        class_order: in which order the weights of `cls` lie; what `forward` returns is always (object, no object).
        delta_order: in which order the weights of `reg` lie; what `forward` returns is always (dx, dy, dw, dh).
    """

    def __init__(
        self,
        channels: int = 256,
        num_anchors: int = 3,
        depth: int = 1,
        *,
        class_order: ClassOrder = "object_first",
        delta_order: DeltaOrder = "xywh",
    ):
        super().__init__()
        self.class_order, self.delta_order = CLASS_ORDERS[class_order], DELTA_ORDERS[delta_order]
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.cls = nn.Conv2d(channels, 2 * num_anchors, 1)
        self.reg = nn.Conv2d(channels, 4 * num_anchors, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per level (N, channels, H, W) -> per level logits (N, 2 A, H, W) and deltas (N, 4 A, H, W)."""
        logits, deltas = [], []
        for level in levels:
            hidden = self.scan(level)
            logits.append(convolve_in_order(self.cls, self.class_order, hidden))
            deltas.append(convolve_in_order(self.reg, self.delta_order, hidden))
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
