"""A backbone: any module whose stages are named, tapped for C2..C5 with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import BatchNorm
from ..errors import ConfigError
from .cspnet import CspNet
from .efficientnet import EfficientNetLite
from .norm import NormFactory, make_norm
from .resnet import DESIGNS, Bottleneck, ResNet

# What the taps of the forward pass in progress have seen. It belongs to the calling thread, and the taps know their
# stage only, so several threads and copies of a network never see each other's maps.
_TAPPED: ContextVar[dict[str, Tensor] | None] = ContextVar("tapped", default=None)


class _Tap:
    """A forward hook that hands its module's output to whoever is listening in this thread."""

    def __init__(self, stage: str):
        self.stage = stage

    def __call__(self, module: nn.Module, args: object, output: Tensor) -> None:
        tapped = _TAPPED.get()
        if tapped is not None:
            tapped[self.stage] = output


class BackboneKind(NamedTuple):
    """How to make a body, and where its parts are."""

    build: Callable[[NormFactory, bool], nn.Module]  # from a maker of norms and whether the stride is in the 1x1
    stem: tuple[str, ...]  # modules before C2's stage
    stages: tuple[str, str, str, str]  # modules whose outputs are C2..C5
    between: tuple[tuple[str, ...], ...] = ((), (), (), ())  # modules before each stage that freeze with it
    norm_eps: float = 1e-5
    has_bottlenecks: bool = True  # with a 1x1 that a stride could be in


def _resnet(name: str) -> BackboneKind:
    return BackboneKind(
        build=lambda norm, stride_in_1x1: ResNet(DESIGNS[name], norm, stride_in_1x1),
        stem=("conv1", "bn1"),
        stages=("layer1", "layer2", "layer3", "layer4"),
        has_bottlenecks=DESIGNS[name].block is Bottleneck,
    )


BACKBONES = {name: _resnet(name) for name in DESIGNS} | {
    "efficientnet_lite0": BackboneKind(
        build=lambda norm, _: EfficientNetLite(norm),
        stem=("conv_stem", "bn1", "blocks.0"),
        stages=("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
        between=((), (), ("blocks.3",), ("blocks.5",)),
        norm_eps=1e-3,  # TensorFlow's
        has_bottlenecks=False,
    ),
    "cspnet": BackboneKind(
        build=lambda norm, _: CspNet(),  # it has no norm
        stem=("stem",),
        stages=("stages.0", "stages.1", "stages.2", "stages.3"),
        has_bottlenecks=False,
    ),
}


FOLDABLE = (ResNet, EfficientNetLite)  # bodies whose norms `fold_norms` may fold


class Backbone(nn.Module):
    """C2..C5 of a body, taken with forward hooks; C1 is not used, since its maps are large and help little.

    Args:
        body: any module that maps (N, 3, H, W) to anything.
        stages: names of the four modules inside it whose outputs are C2..C5.

    Raises:
        ConfigError: the body has no module of that name.
    """

    def __init__(self, body: nn.Module, stages: Sequence[str]):
        super().__init__()
        self.body = body
        self.stages = tuple(stages)
        for stage in self.stages:
            find_module(body, stage).register_forward_hook(_Tap(stage))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> C2..C5, (N, C_l, H / 2^l, W / 2^l) each, sizes rounded up."""
        tapped: dict[str, Tensor] = {}
        token = _TAPPED.set(tapped)
        try:
            self.body(images)
        finally:
            _TAPPED.reset(token)
        return tuple(tapped[stage] for stage in self.stages)

    @torch.no_grad()
    def count_channels(self) -> list[int]:
        """Channels of C2..C5, read off a small forward pass."""
        modes = {module: module.training for module in self.modules()}
        self.eval()  # batch statistics of one black image must not enter the running ones
        channels = [stage.shape[1] for stage in self(torch.zeros(1, 3, 64, 64))]
        for module, mode in modes.items():
            module.training = mode
        return channels


def make_backbone(
    name: str,
    batch_norm: BatchNorm = "frozen",
    frozen_stages: int = 0,
    *,
    norm_eps: float | None = None,
    stride_in_1x1: bool = False,
) -> Backbone:
    """A backbone by name, initialised at random.

    Args:
        name: one of `BACKBONES`.
        batch_norm: "frozen" keeps the statistics that the weights come with, "trained" lets them learn.
        frozen_stages: 0 none, 1 the stem, 2 the stem and C2's stage, ... 5 everything. Freezing pays only where
            pretrained weights are loaded.
        norm_eps: of batch norm; by default that of the backbone's published weights.
        stride_in_1x1: a bottleneck's stride sits in its first convolution, as in Caffe's ResNets.

    Raises:
        ConfigError: no such backbone, or one without bottlenecks whose stride is asked to move.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone {name!r} is unknown; known are {', '.join(BACKBONES)}")
    kind = BACKBONES[name]
    if stride_in_1x1 and not kind.has_bottlenecks:
        raise ConfigError(f"stride_in_1x1: {name} has no bottlenecks; leave it out")
    norm = make_norm(batch_norm, kind.norm_eps if norm_eps is None else norm_eps)
    backbone = Backbone(kind.build(norm, stride_in_1x1), kind.stages)
    parts = [kind.stem, *(((*before, stage)) for before, stage in zip(kind.between, kind.stages, strict=True))]
    for part in parts[:frozen_stages]:
        for module_name in part:
            freeze(find_module(backbone.body, module_name))
    return backbone


def freeze(module: nn.Module) -> None:
    """Keep a module's parameters, and its batch statistics, as they are."""
    module.requires_grad_(False)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(_keep_in_eval)


def _keep_in_eval(module: nn.Module, args: object) -> None:
    module.eval()  # network.train() would otherwise set it back to learning its statistics


def find_module(body: nn.Module, name: str) -> nn.Module:
    """The module `name` (dotted) inside `body`.

    Raises:
        ConfigError: there is none; the message names those that are there.
    """
    try:
        return body.get_submodule(name)
    except AttributeError:
        known = ", ".join(child for child, _ in body.named_children())
        raise ConfigError(
            f"{type(body).__name__} has no module {name!r} to take features from; it has {known}"
        ) from None
