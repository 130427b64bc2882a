"""EfficientNet-Lite0, the small backbone of the network that ships, with timm's state-dict names.

Source: arXiv 1905.11946, and its Lite variant without squeeze-and-excitation and with ReLU6. Its published weights
come from TensorFlow, whose "same" padding is lopsided where the stride is 2: one pixel more at the bottom and right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .norm import NormFactory, convolve

STEM_CHANNELS = 32


class StageDesign(NamedTuple):
    """One row of the paper's table 1."""

    num_blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int


LITE0 = (
    StageDesign(1, 16, 3, 1, 1),
    StageDesign(2, 24, 3, 2, 6),  # C2
    StageDesign(2, 40, 5, 2, 6),  # C3
    StageDesign(3, 80, 3, 2, 6),
    StageDesign(3, 112, 5, 1, 6),  # C4
    StageDesign(4, 192, 5, 2, 6),
    StageDesign(1, 320, 3, 1, 6),  # C5
)


class DepthwiseBlock(nn.Module):
    """A depthwise and a 1x1 convolution: the first stage, which does not expand."""

    def __init__(self, in_channels: int, design: StageDesign, norm: NormFactory):
        super().__init__()
        self.conv_dw = make_depthwise(in_channels, design.kernel, design.stride)
        self.bn1 = norm(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, design.channels, 1, bias=False)
        self.bn2 = norm(design.channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H, W)."""
        y = relu6(convolve(self.conv_dw, self.bn1, x))
        return convolve(self.conv_pw, self.bn2, y)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, 1x1 to fewer, and a shortcut where the shape stays."""

    def __init__(self, in_channels: int, design: StageDesign, norm: NormFactory):
        super().__init__()
        inner = in_channels * design.expansion
        self.conv_pw = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = norm(inner)
        self.conv_dw = make_depthwise(inner, design.kernel, design.stride)
        self.bn2 = norm(inner)
        self.conv_pwl = nn.Conv2d(inner, design.channels, 1, bias=False)
        self.bn3 = norm(design.channels)
        self.has_shortcut = design.stride == 1 and in_channels == design.channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""
        y = relu6(convolve(self.conv_pw, self.bn1, x))
        y = relu6(convolve(self.conv_dw, self.bn2, pad_same(self.conv_dw, y)))
        y = convolve(self.conv_pwl, self.bn3, y)
        return y.add_(x) if self.has_shortcut else y


class EfficientNetLite(nn.Module):
    """The stem and seven stages; C2..C5 are the outputs of stages 1, 2, 4 and 6."""

    def __init__(self, norm: NormFactory, stages: tuple[StageDesign, ...] = LITE0):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, bias=False)
        self.bn1 = norm(STEM_CHANNELS)
        self.blocks = nn.Sequential()
        channels = STEM_CHANNELS
        for design in stages:
            stage = nn.Sequential()
            for i in range(design.num_blocks):
                block = DepthwiseBlock if design.expansion == 1 else InvertedResidual
                stage.append(block(channels, design if i == 0 else design._replace(stride=1), norm))
                channels = design.channels
            self.blocks.append(stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> C5 (N, 320, H / 32, W / 32), sizes rounded up."""
        x = relu6(convolve(self.conv_stem, self.bn1, pad_same(self.conv_stem, x)))
        y: Tensor = self.blocks(x)
        return y

    def absorb_padding(self) -> None:
        """Let the convolutions of stride 2 pad by themselves, in place; for inference, and maps of even sides alone.

        There "same" padding has one pixel more at the bottom and right. A kernel with a row and a column of zeros
        before its first does the same with as much padding on all sides, and spares a copy of the largest maps.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.stride[0] == 2 and module.padding == (0, 0):
                module.padding = (module.kernel_size[0] // 2,) * 2
                module.kernel_size = (module.kernel_size[0] + 1,) * 2
                module.weight = nn.Parameter(F.pad(module.weight.detach(), (1, 0, 1, 0)), requires_grad=False)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), in place: the outputs of convolutions and norms are needed for nothing else."""
    return F.relu6(x, inplace=True)


def make_depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """One filter a channel; padded here where the stride is 1, by `pad_same` where it is 2."""
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2 if stride == 1 else 0, groups=channels, bias=False)


def pad_same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Zeros around x so that a convolution of stride 2 gives half its size, rounded up; x where it pads by itself."""
    if conv.stride[0] == 1 or conv.padding != (0, 0):
        return x
    height, width = x.shape[-2:]
    down, right = (max(0, conv.kernel_size[0] - (2 if side % 2 == 0 else 1)) for side in (height, width))
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
