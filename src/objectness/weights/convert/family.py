"""What every family of weights shares: a file as names and tensors, a body recognised, names changed, logits paired.

A family is a module with what `Family` says. A file that cannot be converted exactly is refused
with the reason; nothing in it is ignored but what a table of the family says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...config import Config
from ...errors import CheckpointError
from ...model.resnet import DESIGNS, BasicBlock, Bottleneck, ResNetDesign
from ...pickles import Inert
from ..checkpoint import COUNTER, read_torch_file

STEM_SHAPE = (64, 3, 7, 7)
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", COUNTER)
STEM_NAMES = {"conv1.weight", *(f"bn1.{leaf}" for leaf in NORM_LEAVES)}
BLOCK_LEAVES = {  # all that a plain block of torchvision's names has
    *(f"conv{i}.weight" for i in (1, 2, 3)),
    *(f"bn{i}.{leaf}" for i in (1, 2, 3) for leaf in NORM_LEAVES),
    "downsample.0.weight",
    *(f"downsample.1.{leaf}" for leaf in NORM_LEAVES),
}
GLOBAL = re.compile(r"(?:Unsupported global: GLOBAL|Trying to load unsupported GLOBAL) ([\w.]+)")  # torch's words
BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
FOREIGN_PARTS = (  # how names betray another architecture, the surest first, and what it is
    (re.compile(r"patch_embed|\.attn\.|relative_position"), "a transformer"),
    (re.compile(r"dwconv|conv_dw\.|stages\.\d+\.(blocks\.)?\d+\.gamma"), "depthwise convolutions"),
    (re.compile(r"^\d+\.(\d|block)\."), "MobileNet's blocks"),
    (re.compile(r"(^|\.)(features|inverted_residual)\."), "the layers of a MobileNet, EfficientNet, DenseNet or VGG"),
    (re.compile(r"\.conv2\.(fc\d|bn\d|conv\.|radix|rsoftmax)"), "split attention (ResNeSt)"),
    (re.compile(r"\.(convs|bns)\.\d"), "Res2Net's convolutions"),
    (re.compile(r"\.(se|eca|cbam)\.|\.se_"), "squeeze and excitation"),
    (re.compile(r"conv\d?_offset"), "deformable convolutions"),
    (re.compile(r"\.gn\d?\."), "group norm"),
    (re.compile(r"(^|\.)(stem|conv1)\.\d"), "a deep stem (ResNet-C or D)"),
    (re.compile(r"downsample\.2\."), "shortcuts behind average pooling (ResNet-D)"),
    (re.compile(r"(conv\d|downsample\.0)\.bias$"), "convolutions with bias"),
)


class WeightsFile(NamedTuple):
    """What was read from one file, before anyone knows what it is."""

    origin: str  # the file or name, for messages
    state: Mapping[str, Tensor]  # flat names, as they lie in the file
    extra: Mapping[str, Any] = {}  # what lay beside the state dict
    path: Path | None = None  # the file itself, whose hash may say which published one it is


class Converted(NamedTuple):
    """A network in our terms."""

    config: Config
    state: Mapping[str, Tensor]  # our names, float32, without counters
    notes: tuple[str, ...] = ()  # what was assumed, one sentence each


class Family(Protocol):
    """A module that knows the weights of one program."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """As people call it."""

    @property
    def INERT(self) -> Collection[str]:  # noqa: N802
        """Full names of the classes that its training files hold beside tensors, and that are not needed."""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether tensors of these names are its own, convertible or not."""

    def convert(self, file: WeightsFile) -> Converted:
        """The network in our terms; CheckpointError where that is not exactly possible."""


def read_torch_contents(path: Path, inert: Collection[str] = ()) -> Any:
    """Tensors and plain values of a torch file; objects of known names become `Inert` ones.

    Args:
        path: the file.
        inert: full names ("package.module.Class") of the classes and functions that may stand in the file; nothing of
            that name is imported or called.

    Raises:
        CheckpointError: missing, cut short, damaged, or holding anything else.
    """
    with torch.serialization.safe_globals([(Inert, name) for name in inert]):
        try:
            return read_torch_file(path)
        except CheckpointError as error:
            refused = GLOBAL.search(str(error.__cause__))
            if refused is None:
                raise
            raise CheckpointError(
                f"{path}: holds a {refused[1]} where only tensors are read, since to make one is to run its code; save "
                f"the model's state_dict() with torch.save and pass that"
            ) from error


def rename(file: WeightsFile, table: Mapping[str, str], ignored: Collection[str] = ()) -> dict[str, Tensor]:
    """A file's tensors under our names, float32; counters of batch norm are left out.

    Args:
        file: what was read.
        table: beginnings of names there, and what replaces each; the longest that fits is taken.
        ignored: beginnings of names that are no part of a proposal network, such as those of a second stage.

    Raises:
        CheckpointError: a name that neither has.
    """
    longest_first = sorted(table, key=len, reverse=True)
    renamed, unknown = {}, []
    for name, tensor in file.state.items():
        start = next((each for each in longest_first if name.startswith(each)), None)
        if name.endswith(COUNTER) or (start is None and name.startswith(tuple(ignored))):
            continue
        if start is None:
            unknown.append(name)
        else:
            renamed[table[start] + name.removeprefix(start)] = tensor.detach().float()
    if unknown:
        found = find_foreign_part(unknown)
        raise CheckpointError(
            f"{file.origin}: cannot be converted exactly, since {len(unknown)} of its tensors have no place in a "
            f"proposal network (the first is {min(unknown)}{f', which means {found}' if found else ''})"
        )
    return renamed


def take(file: WeightsFile, name: str) -> Tensor:
    """One tensor that must be there, float32.

    Raises:
        CheckpointError: it is not.
    """
    if name not in file.state:
        raise CheckpointError(f"{file.origin}: {name} is missing; the file is cut short or of another network")
    return file.state[name].detach().float()


def cut_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What lies under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def recognise_resnet(body: Mapping[str, Tensor], origin: str) -> str:
    """Which of `resnet.DESIGNS` a body is, by the names and shapes of its tensors.

    Args:
        body: tensors under torchvision's names: conv1, bn1, layer1.0.conv1, ... downsample.0, downsample.1.
        origin: where they come from, for messages.

    Raises:
        CheckpointError: another architecture; the message says what was found. Parts without weights, such as
            blurred pooling, leave no trace and cannot be told.
    """
    foreign = [name for name in body if name not in STEM_NAMES and not _is_plain(name)]
    if foreign:
        raise _refuse(origin, find_foreign_part(foreign) or f"a tensor named {foreign[0]}")
    for name in ("conv1.weight", "bn1.running_mean", "layer1.0.conv2.weight"):  # the second: group norm has none
        if name not in body:
            raise _refuse(origin, f"no {name}")
    if tuple(body["conv1.weight"].shape) != STEM_SHAPE:
        raise _refuse(origin, f"a first convolution of shape {tuple(body['conv1.weight'].shape)}, not {STEM_SHAPE}")

    indices: dict[int, set[int]] = {1: {-1}, 2: {-1}, 3: {-1}, 4: {-1}}
    for match in filter(None, map(BLOCK.fullmatch, body)):
        indices[int(match[1])].add(int(match[2]))
    one, two, three, four = (max(each) + 1 for each in indices.values())
    inner, per_group = body["layer1.0.conv2.weight"].shape[:2]
    if "layer1.0.conv3.weight" in body:
        design = ResNetDesign(Bottleneck, (one, two, three, four), inner // per_group, per_group)
    else:
        design = ResNetDesign(BasicBlock, (one, two, three, four))
    for name, known in DESIGNS.items():
        if known == design:
            return name
    kind = "bottlenecks" if design.block is Bottleneck else "basic blocks"
    shape = f"{design.groups} x {design.width_per_group} channels" if design.block is Bottleneck else "64 channels"
    raise _refuse(origin, f"a ResNet with {design.blocks_per_stage} {kind} of {shape}")


def _is_plain(name: str) -> bool:
    match = BLOCK.fullmatch(name)
    return match is not None and match[3] in BLOCK_LEAVES


def find_foreign_part(names: Collection[str]) -> str | None:
    """What other architecture some names speak of, in words."""
    return next((meaning for pattern, meaning in FOREIGN_PARTS if any(map(pattern.search, names))), None)


def _refuse(origin: str, found: str) -> CheckpointError:
    return CheckpointError(f"{origin}: the backbone has {found}; known are {', '.join(DESIGNS)}")


def count_anchors(cls_weight: Tensor, reg_weight: Tensor, origin: str) -> tuple[int, bool]:
    """Anchors per cell, and whether the logits are pairs under a softmax (else single ones under a sigmoid).

    Args:
        cls_weight: (A or 2 A, channels, 1, 1).
        reg_weight: (4 A, channels, 1, 1).
        origin: for messages.

    Raises:
        CheckpointError: the two do not fit each other.
    """
    num_anchors, rest = divmod(reg_weight.shape[0], 4)
    num_logits = cls_weight.shape[0]
    if rest or num_anchors == 0 or num_logits not in (num_anchors, 2 * num_anchors):
        raise CheckpointError(
            f"{origin}: the head has {num_logits} logits and {reg_weight.shape[0]} box weights a cell; a proposal head "
            f"of A anchors has A or 2 A logits and 4 A box weights"
        )
    return num_anchors, num_logits == 2 * num_anchors


def pair_logits(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A sigmoid head's logits z as pairs (object = z, no object = 0), whose difference is z bit for bit.

    Args:
        weight: (A, channels, 1, 1).
        bias: (A,).

    Returns:
        (2 A, channels, 1, 1) and (2 A,); for each anchor object first.
    """
    paired_weight = torch.stack([weight, torch.zeros_like(weight)], dim=1).flatten(0, 1)  # (A, 2, ...) -> (2 A, ...)
    paired_bias = torch.stack([bias, torch.zeros_like(bias)], dim=1).flatten(0, 1)
    return paired_weight, paired_bias
