"""ResNet and ResNeXt, with torchvision's state-dict names, so that its weights and timm's load as they are.

Source: arXiv 1512.03385 (ResNet), 1611.05431 (ResNeXt). The stride of a bottleneck sits in its 3x3 convolution, as in
torchvision, or in its first 1x1, as in the paper and Caffe's weights; there is no classifier, since nothing here says
what an object is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .norm import FrozenBatchNorm2d, NormFactory, convolve

STAGE_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, design: ResNetDesign, norm: NormFactory):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.downsample = make_shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / stride, W / stride)."""
        y = F.relu_(convolve(self.conv1, self.bn1, x))
        y = convolve(self.conv2, self.bn2, y)
        return F.relu_(y.add_(apply_shortcut(self.downsample, x)))

    def calm(self, num_blocks: int) -> None:
        """See `calm_residual`."""
        calm_residual(self.bn2, num_blocks)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, design: ResNetDesign, norm: NormFactory):
        super().__init__()
        inner = width * design.width_per_group // 64 * design.groups
        out_channels = width * self.expansion
        strides = (stride, 1) if design.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, strides[0], bias=False)
        self.bn1 = norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, strides[1], padding=1, groups=design.groups, bias=False)
        self.bn2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 width, H / stride, W / stride)."""
        y = F.relu_(convolve(self.conv1, self.bn1, x))
        y = F.relu_(convolve(self.conv2, self.bn2, y))
        y = convolve(self.conv3, self.bn3, y)
        return F.relu_(y.add_(apply_shortcut(self.downsample, x)))

    def calm(self, num_blocks: int) -> None:
        """See `calm_residual`."""
        calm_residual(self.bn3, num_blocks)


class ResNetDesign(NamedTuple):
    """What tells one ResNet from another."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks_per_stage: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = False  # a bottleneck's


DESIGNS = {
    "resnet18": ResNetDesign(BasicBlock, (2, 2, 2, 2)),
    "resnet34": ResNetDesign(BasicBlock, (3, 4, 6, 3)),
    "resnet50": ResNetDesign(Bottleneck, (3, 4, 6, 3)),
    "resnet101": ResNetDesign(Bottleneck, (3, 4, 23, 3)),
    "resnet152": ResNetDesign(Bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": ResNetDesign(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetDesign(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": ResNetDesign(Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4),
}


class ResNet(nn.Module):
    """The four stages; their outputs are C2..C5, at strides 4, 8, 16 and 32."""

    def __init__(self, design: ResNetDesign, norm: NormFactory, stride_in_1x1: bool = False):
        super().__init__()
        design = design._replace(stride_in_1x1=stride_in_1x1)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        strides, channels = (1, 2, 2, 2), 64
        stages = []
        for width, num_blocks, stride in zip(STAGE_WIDTHS, design.blocks_per_stage, strides, strict=True):
            stages.append(make_stage(channels, width, num_blocks, stride, design, norm))
            channels = width * design.block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck)):
                module.calm(sum(design.blocks_per_stage))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> C5 (N, 512 or 2048, H / 32, W / 32), sizes rounded up."""
        x = F.relu_(convolve(self.conv1, self.bn1, x))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x


def calm_residual(last_norm: nn.Module, num_blocks: int) -> None:
    """Start a frozen norm at 1 / sqrt(blocks), so that at random weights the maps stay of order 1.

    Every block adds its branch to its input. Trained norms keep the branches in bounds; frozen ones pass them as they
    are, and each of ResNet-101's 33 blocks would double the variance. Pretrained weights replace this.
    """
    if isinstance(last_norm, FrozenBatchNorm2d):
        last_norm.weight.fill_(num_blocks**-0.5)


def make_stage(
    in_channels: int, width: int, num_blocks: int, stride: int, design: ResNetDesign, norm: NormFactory
) -> nn.Sequential:
    """The blocks between two changes of resolution; the first of them has the stride."""
    first = design.block(in_channels, width, stride, design, norm)
    channels = width * design.block.expansion
    return nn.Sequential(first, *(design.block(channels, width, 1, design, norm) for _ in range(num_blocks - 1)))


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """A 1x1 convolution where the shape changes, nothing where it does not."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


def apply_shortcut(shortcut: nn.Sequential | None, x: Tensor) -> Tensor:
    """The input of a block in the shape of its output."""
    if shortcut is None:
        return x
    conv, norm = shortcut
    return convolve(conv, norm, x)
