"""The two kinds of 3x3 convolution that pyramid and head are made of."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import Convolution


class SeparableConv2d(nn.Module):
    """A 3x3 convolution channel by channel, then a 1x1: at 128 channels an eighth of a dense one's multiplications.

    Source: MobileNets (arXiv 1704.04861), section 3.1; without the norm and the activation in between.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


def make_conv3x3(channels: int, kind: Convolution = "dense", *, bias: bool = True) -> nn.Module:
    """A 3x3 convolution that keeps channels and size; a separable one always has biases."""
    if kind == "separable":
        return SeparableConv2d(channels)
    return nn.Conv2d(channels, channels, 3, padding=1, bias=bias)


def list_convs(module: nn.Module) -> list[nn.Conv2d]:
    """Every convolution of a module, in order; the module itself if it is one."""
    return [each for each in module.modules() if isinstance(each, nn.Conv2d)]
