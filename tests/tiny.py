"""A network of a few thousand weights, with everything that a converter may stumble over."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.model.backbone import Backbone
from objectness.model.head import Head
from objectness.network import RegionProposalNetwork

CHANNELS = (6, 8, 10, 12)
SMALL = Config.cspnet(backbone="a body of its own", pyramid_channels=8, input=InputOptions(64, 96, order="BGR"))
OPTIONS: dict[str, dict[str, object]] = {  # of `make_tiny`, for what converters and runtimes may stumble over
    "cspnet": {each.name: getattr(SMALL, each.name) for each in dataclasses.fields(Config)},
    "P3 to P7": {  # and distances of anchors of three shapes, levels that share a separable head
        "anchors": AnchorOptions(sizes=(16, 32, 64, 128, 256), strides=(8, 16, 32, 64, 128), finest_level=3),
        "box_bins": 7,
        "head_convolution": "separable",
        "separable_levels": (3, 5),
    },
}


class TinyBody(nn.Module):
    """Four stages of one convolution each, one of them grouped, at strides 4, 8, 16 and 32; its norms stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        previous = (4, *CHANNELS)
        for i, channels in enumerate(CHANNELS):
            stride, groups = (1 if i == 0 else 2), (2 if i == 1 else 1)
            conv = nn.Conv2d(previous[i], channels, 3, stride, padding=1, groups=groups, bias=False)
            setattr(self, f"stage{i + 2}", nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> C5."""
        x = self.stem(x)
        for level in range(2, 6):
            x = getattr(self, f"stage{level}")(x)
        return x


def make_tiny(**fields: object) -> RegionProposalNetwork:
    """A tiny network whose scores and boxes spread as a trained one's do; `fields` are those of its `Config`."""
    defaults = {
        "backbone": "a body of its own",
        "pyramid_channels": 8,
        "input": InputOptions(64, 96),
        "anchors": AnchorOptions(sizes=(8, 16, 32, 64, 128)),
        "selection": SelectionOptions(per_level=100, keep=100),
    }
    torch.manual_seed(0)
    stages = tuple(f"stage{level}" for level in range(2, 6))
    network = RegionProposalNetwork(Config(**{**defaults, **fields}), Backbone(TinyBody(), stages))  # type: ignore[arg-type]
    with torch.no_grad():
        for norm in (each for each in network.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        for head in (each for each in network.head.modules() if isinstance(each, Head)):
            head.cls.weight *= 100
            head.reg.weight *= 20
    return network.eval()
