"""The small CSP network of the detector NanoDet-g: dense 3x3 convolutions, no norm, C2..C5 of 64 to 512 channels.

Source: NanoDet (RangiLyu/nanodet, Apache-2.0), after CSPNet (arXiv 1911.11929). Its published weights have batch norm
folded into the convolutions, so there is none here; `experiments/convert_nanodet.py` writes them under these names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 32
NEGATIVE_SLOPE = 0.1  # of every LeakyReLU


class StageDesign(NamedTuple):
    """One stage; it gives twice its `channels`."""

    channels: int
    stride: int
    num_blocks: int


NANODET_G = (
    StageDesign(32, 1, 1),  # C2, at stride 4 behind the stem
    StageDesign(64, 2, 2),
    StageDesign(128, 2, 2),
    StageDesign(256, 2, 3),
)


class Block(nn.Module):
    """Two convolutions in a row, of which both outputs are kept: half the channels each."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = make_conv(channels, channels // 2)
        self.second = make_conv(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        first = activate(self.first(x))
        return torch.cat([activate(self.second(first)), first], dim=1)


class Stage(nn.Module):
    """A convolution that may halve the map, blocks, a convolution; joined with what went past the blocks."""

    def __init__(self, in_channels: int, design: StageDesign):
        super().__init__()
        self.down = make_conv(in_channels, design.channels, design.stride)
        self.blocks = nn.Sequential(*(Block(design.channels) for _ in range(design.num_blocks)))
        self.out = make_conv(design.channels, design.channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 2 * channels, H / stride, W / stride)."""
        past = activate(self.down(x))
        return torch.cat([activate(self.out(self.blocks(past))), past], dim=1)


class CspNet(nn.Module):
    """The stem and four stages, whose outputs are C2..C5."""

    def __init__(self, designs: tuple[StageDesign, ...] = NANODET_G):
        super().__init__()
        self.stem = make_conv(3, STEM_CHANNELS, stride=2)
        channels = STEM_CHANNELS
        self.stages = nn.Sequential()
        for design in designs:
            self.stages.append(Stage(channels, design))
            channels = 2 * design.channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> C5 (N, 512, H / 32, W / 32), sizes rounded up."""
        x = F.max_pool2d(activate(self.stem(x)), kernel_size=3, stride=2, padding=1)
        y: Tensor = self.stages(x)
        return y


def make_conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A dense 3x3 convolution with bias that pads by itself."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


def activate(x: Tensor) -> Tensor:
    """LeakyReLU, in place: outputs of convolutions are needed for nothing else."""
    return F.leaky_relu_(x, NEGATIVE_SLOPE)
