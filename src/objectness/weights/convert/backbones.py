"""Backbones of torchvision and timm, to train on: a file, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...config import IMAGENET_MEAN, IMAGENET_STD
from ...errors import CheckpointError
from ...model.backbone import BACKBONES, make_backbone
from .. import hub
from ..checkpoint import (
    BACKBONE_FILE,
    CONFIG_FILE,
    COUNTER,
    load_start_state,
    load_state,
    read_safetensors,
    write_weights,
)
from .family import WeightsFile, recognise_resnet

HUB_OWNER, HUB_FILE = "timm/", "model.safetensors"
CLASSIFIER = ("fc.", "classifier.", "conv_head.", "bn2.")  # what follows C5
LITE0 = "efficientnet_lite0"
PIXELS_ASSUMED = (
    "the file does not say how its images were normalised, so ImageNet's mean and standard deviation are assumed; "
    "--set input.mean=... and input.std=... (RGB in [0, 1]) change them"
)
CHANGEABLE = ("input.mean", "input.std")  # all that a backbone decides beside its name


class BackboneWeights(NamedTuple):
    """A backbone in our terms."""

    name: str  # in `BACKBONES`
    state: Mapping[str, Tensor]  # of its body, float32, without counters
    mean: tuple[float, ...]  # of the pixels, RGB in [0, 1]
    std: tuple[float, ...]
    notes: tuple[str, ...]


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are a classifier's that might be one of our backbones."""
    return "layer1.0.conv1.weight" in names or {"conv_stem.weight", "bn1.weight"} <= set(names)


def convert_backbone(file: WeightsFile) -> BackboneWeights:
    """A backbone's weights under our names, ImageNet's mean and standard deviation assumed.

    Raises:
        CheckpointError: none of `BACKBONES`.
    """
    body = {
        name: tensor.detach().float()
        for name, tensor in file.state.items()
        if not name.startswith(CLASSIFIER) and not name.endswith(COUNTER)
    }
    name = LITE0 if "conv_stem.weight" in body else recognise_resnet(body, file.origin)
    _check_fit(name, body, file.origin)
    notes = [PIXELS_ASSUMED]
    if name == LITE0:
        notes.append("tf_efficientnet_lite0 has the same names and shapes but pads in another way; it is not this one")
    return BackboneWeights(name, body, IMAGENET_MEAN, IMAGENET_STD, tuple(notes))


def explain_use(origin: str, name: str) -> str:
    """What to do with a backbone where a proposal network is wanted."""
    return (
        f"{origin}: is a backbone alone ({name}), which proposes nothing until it is trained: objectness train ... "
        f"--backbone {name} --weights {origin}"
    )


def is_hub_name(source: str) -> bool:
    """Whether a source of weights is a model of timm's on the hub: "timm/NAME" or "hf-hub:timm/NAME"."""
    return source.removeprefix(hub.PREFIX).startswith(HUB_OWNER) and hub.is_hub_name(source)


def read_hub_backbone(source: str) -> BackboneWeights:
    """A backbone of timm's from the hub, or from the cache of what was fetched before.

    Args:
        source: "timm/resnet50.a1_in1k" or "hf-hub:timm/resnet50.a1_in1k".

    Raises:
        DownloadError: huggingface_hub is not installed, or the model cannot be fetched.
        CheckpointError: another architecture than ours.
    """
    settings = read_settings(source)
    name, pixels = settings["backbone"], settings["input"]
    backbone = convert_backbone(WeightsFile(source, read_safetensors(hub.fetch(source, HUB_FILE))))
    if backbone.name != name:
        raise CheckpointError(f"{source}: holds a {backbone.name}, though its {CONFIG_FILE} says {name}")
    return backbone._replace(mean=pixels["mean"], std=pixels["std"], notes=())


def read_settings(source: str) -> dict[str, Any]:
    """What a backbone decides of a `Config`, in the form of `Config.from_dict`; empty where nothing says.

    Args:
        source: a name on the hub, or a file that `save_backbone` wrote, or any other.

    Raises:
        DownloadError: huggingface_hub is not installed, or the description cannot be fetched.
        CheckpointError: no description, or that of another architecture than ours.
    """
    if is_hub_name(source):
        return _read_description(source, hub.fetch(source, CONFIG_FILE))
    path = Path(source)
    beside = path.with_name(CONFIG_FILE)
    if path.name != BACKBONE_FILE or not beside.is_file():
        return {}
    settings: dict[str, Any] = _read_json(beside)
    return settings


def load_body(body: nn.Module, backbone: BackboneWeights, origin: str) -> None:
    """Put a backbone's weights into a body, whose batch norm may be frozen or trained.

    Raises:
        CheckpointError: the body is another architecture's.
    """
    load_start_state(body, backbone.state, origin)


def save_backbone(backbone: BackboneWeights, folder: Path) -> None:
    """Write `backbone.safetensors`, which training takes, and `config.json`: the part of a `Config` that it decides."""
    decided: dict[str, Any] = {"backbone": backbone.name, "input": {"mean": backbone.mean, "std": backbone.std}}
    write_weights(folder, BACKBONE_FILE, backbone.state, decided)


def _check_fit(name: str, body: Mapping[str, Tensor], origin: str) -> None:
    try:
        load_state(make_backbone(name).body, body, origin)
    except CheckpointError as error:
        if name != LITE0:
            raise
        raise CheckpointError(f"{origin}: is like {LITE0} but not that; known are {', '.join(BACKBONES)}") from error


def _read_description(source: str, path: Path) -> dict[str, Any]:
    """timm's description of a model, as a part of a `Config`."""
    described = _read_json(path)
    try:
        pretrained = described["pretrained_cfg"]
        mean, std = tuple(map(float, pretrained["mean"])), tuple(map(float, pretrained["std"]))
        name, arguments = str(described["architecture"]), described.get("model_args", {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its {CONFIG_FILE} is no description by timm ({error!r})") from error
    if name not in BACKBONES:
        raise CheckpointError(f"{source}: is a {name}; known are {', '.join(BACKBONES)}")
    if arguments:
        raise CheckpointError(f"{source}: is a {name} built in a way that ours is not ({arguments})")
    return {"backbone": name, "input": {"mean": mean, "std": std}}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of the file, its encoding or its syntax
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
