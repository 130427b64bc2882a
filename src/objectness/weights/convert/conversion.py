"""Weights of other programs turned into a network of ours, or into a folder with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...config import Config
from ...errors import CheckpointError, ConfigError
from ...network import RegionProposalNetwork
from ..checkpoint import CONFIG_FILE, MODEL_FILE, load_start_state, save_checkpoint
from ..source import classify
from . import backbones
from .family import Converted, WeightsFile, find_foreign_part
from .reading import AVERAGES, FAMILIES, find_family

OWN = ("backbone.body.", "pyramid.laterals.", "head.cls.")


class Conversion(NamedTuple):
    """What came out."""

    network: RegionProposalNetwork  # in evaluation mode
    notes: tuple[str, ...]  # what was assumed, one sentence each
    family: str
    origin: str


class Written(NamedTuple):
    """What `convert_to_folder` wrote."""

    folder: Path
    family: str
    notes: tuple[str, ...]
    proposes: bool  # a whole network; otherwise a backbone to train on


def convert_weights(source: str | Path, changes: Mapping[str, Any] | None = None) -> Conversion:
    """A network of ours with the weights of another program.

    Args:
        source: a .pth, .pt, .pkl or .safetensors file, or a name in `PUBLISHED`; whose it is, its contents say.
        changes: fields of the configuration by dotted name ("norm_eps", "selection.keep"), in place of what the
            family's defaults say.

    Raises:
        CheckpointError: it cannot be read, is nobody's that is known, or cannot be converted exactly.
        ConfigError: a change names no field, or asks for what cannot be.
        DownloadError: a published file cannot be fetched.
    """
    opened = classify(source)
    if opened.kind == "timm":
        raise CheckpointError(backbones.explain_use(opened.name, backbones.read_settings(opened.name)["backbone"]))
    return convert_file(opened.file, changes)


def convert_to_folder(source: str | Path, folder: Path, changes: Mapping[str, Any] | None = None) -> Written:
    """Write a checkpoint with the weights of another program, or a folder to train from where they are a backbone's.

    Args:
        source: as for `convert_weights`, or a backbone: a file, or a name such as "timm/resnet50.a1_in1k".
        folder: where; what is there is replaced.
        changes: as for `convert_weights`; of a backbone, "input.mean" and "input.std".

    Raises:
        ObjectnessError: as `convert_weights` and `backbones.read_hub_backbone`.
    """
    opened = classify(source)
    if opened.kind == "timm":
        backbone = backbones.read_hub_backbone(opened.name)
    elif opened.kind == "backbone" and backbones.recognises(opened.file.state):
        backbone = backbones.convert_backbone(opened.file)
    else:
        conversion = convert_file(opened.file, changes)
        network = conversion.network
        save_checkpoint(folder, network.state_dict(), network.config)
        return Written(folder, conversion.family, conversion.notes, proposes=True)
    backbone = _change_pixels(backbone, changes or {}, str(source))
    backbones.save_backbone(backbone, folder)
    return Written(folder, "backbone", backbone.notes, proposes=False)


def change_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with some fields, named with dots ("selection.keep"), in another way.

    Raises:
        ConfigError: a name or a value that cannot be.
    """
    values = config.to_dict()
    for name, value in changes.items():
        *parents, leaf = name.split(".")
        place = values
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}  # unknown, which `from_dict` says better
            place = place[parent]
        place[leaf] = value
    return Config.from_dict(values)


def _change_pixels(
    backbone: backbones.BackboneWeights, changes: Mapping[str, Any], origin: str
) -> backbones.BackboneWeights:
    beyond = sorted(changes.keys() - set(backbones.CHANGEABLE))
    if beyond:
        known = " and ".join(backbones.CHANGEABLE)
        raise ConfigError(f"{origin}: is a backbone alone, which decides {known} but not {beyond[0]}; leave that out")
    config = change_config(Config(), {"input.mean": backbone.mean, "input.std": backbone.std, **changes})
    notes = tuple(note for note in backbone.notes if note != backbones.PIXELS_ASSUMED or not changes)
    return backbone._replace(mean=config.input.mean, std=config.input.std, notes=notes)


def convert_file(file: WeightsFile, changes: Mapping[str, Any] | None = None) -> Conversion:
    """A network of ours with the weights that a file holds; see `convert_weights`."""
    family, converted = translate(file, changes)
    network = RegionProposalNetwork(converted.config)
    load_converted(network, converted, file.origin)
    return Conversion(network.eval(), converted.notes, family, file.origin)


def translate(file: WeightsFile, changes: Mapping[str, Any] | None = None) -> tuple[str, Converted]:
    """Whose weights a file holds, and these in our terms.

    Raises:
        CheckpointError: nobody's that is known, or they cannot be converted exactly.
        ConfigError: a change names no field, or asks for what cannot be.
    """
    family = find_family(file)
    if family is None:
        raise CheckpointError(_explain_unknown(file))
    converted = family.convert(file)
    config = change_config(converted.config, changes or {})
    num_anchors, num_ratios = converted.state["head.reg.weight"].shape[0] // 4, len(config.anchors.ratios)
    if num_anchors != num_ratios:
        raise CheckpointError(
            f"{file.origin}: the head has {num_anchors} anchors a cell, the configuration {num_ratios} shapes; if each "
            f"level has one size, name the shapes with --set anchors.ratios=... (height / width), else they do not fit"
        )
    key = file.extra.get("state_key")
    notes = (f"taken are the averaged weights, {key}",) if key in AVERAGES else ()
    return family.NAME, Converted(config, converted.state, notes + converted.notes)


def load_converted(network: RegionProposalNetwork, converted: Converted, origin: str) -> None:
    """Put converted weights into a network.

    Raises:
        CheckpointError: it has another configuration.
    """
    load_start_state(network, converted.state, origin)


def _explain_unknown(file: WeightsFile) -> str:
    """Why nobody's are nobody's, in one sentence."""
    if backbones.recognises(file.state):
        return backbones.explain_use(file.origin, backbones.convert_backbone(file).name)
    if all(any(name.startswith(start) for name in file.state) for start in OWN):
        return f"{file.origin}: is a network of ours already; put its {CONFIG_FILE} beside it and name it {MODEL_FILE}"
    known = ", ".join(family.NAME for family in FAMILIES)
    found = find_foreign_part(file.state) or f"tensors such as {next(iter(file.state))}"
    return f"{file.origin}: is no proposal network of {known}, nor a backbone that is known; it has {found}"
