"""From the name of weights to a network: one to propose with, or one to train."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..network import RegionProposalNetwork
from . import hub
from .checkpoint import (
    CONFIG_FILE,
    MODEL_FILE,
    SHIPPED,
    find_checkpoint,
    load_backbone,
    load_backbone_state,
    load_network,
    load_start_state,
    read_config,
    read_safetensors,
)
from .convert.backbones import load_body, read_hub_backbone, read_settings
from .convert.conversion import convert_file, convert_weights, load_converted, translate
from .source import Source, classify


class Opened(NamedTuple):
    """A network, and what was assumed of it."""

    network: RegionProposalNetwork  # in evaluation mode
    notes: tuple[str, ...] = ()  # one sentence each


def open_network(source: str | Path = SHIPPED) -> Opened:
    """The network that a name means.

    Args:
        source: one that ships ("cspnet", "lite0"); a run folder, a checkpoint folder or its `model.safetensors`;
            weights of torchvision, detectron2 or mmdetection, by file or published name
            ("torchvision/maskrcnn_resnet50_fpn"); or one of ours on the hub ("owner/name").

    Raises:
        CheckpointError: nothing there, a damaged file, or weights that cannot be taken over exactly.
        DownloadError: it cannot be fetched.
    """
    opened = classify(source)
    match opened.kind:
        case "foreign" | "backbone":  # of a backbone this says what to do with it
            converted = convert_file(opened.file)
            return Opened(converted.network, converted.notes)
        case "timm":
            return Opened(convert_weights(source).network)  # likewise
        case "hub" | "own" | "imagenet":
            return Opened(load_network(_find_folder(opened)))


def decide_config(source: Source | None) -> Config:
    """What the weights that training starts from decide: all of it if they are a network's, else the backbone.

    Without any weights batch norm has to learn its statistics, since nothing came with them.

    Raises:
        CheckpointError, DownloadError: as `open_network`.
    """
    if source is None:
        return Config(batch_norm="trained")
    match source.kind:
        case "own" | "hub":
            return read_config(_find_folder(source) / CONFIG_FILE)
        case "foreign":
            return translate(source.file)[1].config
        case "backbone" | "timm":
            return Config.from_dict(read_settings(source.name))
        case "imagenet":
            return Config()


def load_start(network: RegionProposalNetwork, source: Source) -> None:
    """Put the weights that training starts from into a network: all of them, or those of the backbone.

    The source's file is released.

    Raises:
        CheckpointError: they are another configuration's or another backbone's, or as `open_network`.
        DownloadError: as `open_network`.
    """
    match source.kind:
        case "own" | "hub":
            load_start_state(network, read_safetensors(_find_folder(source) / MODEL_FILE), source.name)
        case "foreign":
            load_converted(network, translate(source.file)[1], source.name)
        case "backbone":
            load_backbone_state(network.backbone, source.file.state, source.name)
        case "timm":
            load_body(network.backbone.body, read_hub_backbone(source.name), source.name)
        case "imagenet":
            load_backbone(network.backbone, network.config.backbone, source.name)
    source.release()


def _find_folder(source: Source) -> Path:
    """The checkpoint folder of a network of ours, which is fetched if it is on the hub."""
    if source.kind == "hub":
        model, _ = (hub.fetch(source.name, name) for name in (MODEL_FILE, CONFIG_FILE))
        return model.parent
    return find_checkpoint(source.name)
