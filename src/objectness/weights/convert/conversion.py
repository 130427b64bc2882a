"""Weights of other programs: read, recognised by their contents, and turned into a network of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...config import Config
from ...errors import CheckpointError, ConfigError
from ...network import RegionProposalNetwork
from ...pickles import read_arrays
from ..checkpoint import CONFIG_FILE, COUNTER, MODEL_FILE, load_state, read_safetensors, save_checkpoint
from . import backbones, from_detectron2, from_mmdetection, from_torchvision
from .family import Family, WeightsFile, find_foreign_part, read_torch_contents
from .published import PUBLISHED, fetch_published

FAMILIES: tuple[Family, ...] = (from_torchvision, from_detectron2, from_mmdetection)

AVERAGES = ("state_dict_ema", "model_ema")  # timm's and torchvision's, which both prefer to what they are of
STATE_KEYS = (*AVERAGES, "state_dict", "model", "model_state_dict")
WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DistributedDataParallel, torch.compile and Lightning put before
NUM_AVERAGED = "n_averaged"  # a counter in averages
OWN = ("backbone.body.", "pyramid.laterals.", "head.cls.")
INERT = (  # numpy's numbers, such as a best score or a random state
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
)
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch's files once began with
ZIP, PICKLE = b"PK", b"\x80"
LARGEST_HEADER = 100_000_000  # of a safetensors file, bytes


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


def is_foreign(source: str | Path) -> bool:
    """Whether a source of weights is for this module, rather than a checkpoint of ours; nothing is read."""
    path = Path(source)
    if str(source) in PUBLISHED or backbones.is_hub_name(str(source)):
        return True
    return path.is_file() and not (path.name == MODEL_FILE and (path.parent / CONFIG_FILE).is_file())


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
    if backbones.is_hub_name(str(source)):
        raise CheckpointError(backbones.explain_use(str(source), backbones.read_settings(str(source))["backbone"]))
    return _convert(read_weights(source), changes)


def convert_to_folder(source: str | Path, folder: Path, changes: Mapping[str, Any] | None = None) -> Written:
    """Write a checkpoint with the weights of another program, or a folder to train from where they are a backbone's.

    Args:
        source: as for `convert_weights`, or a backbone: a file, or a name such as "timm/resnet50.a1_in1k".
        folder: where; what is there is replaced.
        changes: as for `convert_weights`; of a backbone, "input.mean" and "input.std".

    Raises:
        ObjectnessError: as `convert_weights` and `backbones.read_hub_backbone`.
    """
    if backbones.is_hub_name(str(source)):
        backbone = backbones.read_hub_backbone(str(source))
    else:
        file = read_weights(source)
        if find_family(file) is not None or not backbones.recognises(file.state):
            conversion = _convert(file, changes)
            network = conversion.network
            save_checkpoint(folder, network.state_dict(), network.config)
            return Written(folder, conversion.family, conversion.notes, proposes=True)
        backbone = backbones.convert_backbone(file)
    backbone = _change_pixels(backbone, changes or {}, str(source))
    backbones.save_backbone(backbone, folder)
    return Written(folder, "backbone", backbone.notes, proposes=False)


def read_weights(source: str | Path) -> WeightsFile:
    """Names and tensors of a file, with what was wrapped around them taken off.

    Raises:
        CheckpointError: not there, damaged, or no weights.
        DownloadError: a published file cannot be fetched.
    """
    path = fetch_published(str(source)) if str(source) in PUBLISHED else Path(source)
    if path.is_dir():
        raise CheckpointError(f"{source}: is a folder; pass the file with the weights that is in it")
    if not path.is_file():
        raise CheckpointError(f"{source}: there is no such file, and no such published name; known are {_list_names()}")
    return unwrap(_read_contents(path), str(source), path)


def unwrap(contents: object, origin: str, path: Path | None = None) -> WeightsFile:
    """The state dict in what a file holds, which may be a whole training checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    extra: dict[str, Any] = {}
    while isinstance(contents, Mapping):
        key = next((key for key in STATE_KEYS if isinstance(contents.get(key), Mapping)), None)
        extra |= {str(name): value for name, value in contents.items() if name != key and not _is_array(value)}
        if key is None:
            break
        extra["state_key"] = key
        contents = contents[key]
    found = contents if isinstance(contents, Mapping) else {}
    state = {str(name): _to_tensor(value) for name, value in found.items() if _is_array(value)}
    state.pop(NUM_AVERAGED, None)
    if not state:
        raise CheckpointError(
            f"{origin}: holds no state dict (a mapping of names to tensors), nor one that is known of"
        )
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return WeightsFile(origin, state, extra, path)


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


def _convert(file: WeightsFile, changes: Mapping[str, Any] | None) -> Conversion:
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
    network = RegionProposalNetwork(config)
    wanted = network.state_dict()
    counters = {name: value for name, value in wanted.items() if name.endswith(COUNTER)}
    load_state(network, counters | dict(converted.state), file.origin)
    key = file.extra.get("state_key")
    notes = (f"taken are the averaged weights, {key}",) if key in AVERAGES else ()
    return Conversion(network.eval(), notes + converted.notes, family.NAME, file.origin)


def find_family(file: WeightsFile) -> Family | None:
    """Whose weights these are, by the names of the tensors."""
    return next((family for family in FAMILIES if family.recognises(file.state)), None)


def _explain_unknown(file: WeightsFile) -> str:
    """Why nobody's are nobody's, in one sentence."""
    if backbones.recognises(file.state):
        return backbones.explain_use(file.origin, backbones.convert_backbone(file).name)
    if all(any(name.startswith(start) for name in file.state) for start in OWN):
        return f"{file.origin}: is a network of ours already; put its {CONFIG_FILE} beside it and name it {MODEL_FILE}"
    known = ", ".join(family.NAME for family in FAMILIES)
    found = find_foreign_part(file.state) or f"tensors such as {next(iter(file.state))}"
    return f"{file.origin}: is no proposal network of {known}, nor a backbone that is known; it has {found}"


def _read_contents(path: Path) -> object:
    """What a file holds, by its first bytes rather than its name."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY_TORCH))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    inert = {*INERT, *(name for family in FAMILIES for name in family.INERT)}
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER
    if path.suffix == ".safetensors" or is_safetensors:
        return read_safetensors(path)
    is_torch = start.startswith((ZIP, LEGACY_TORCH))
    if not is_torch and (start.startswith(PICKLE) or path.suffix == ".pkl"):
        return read_arrays(path, inert=inert - set(INERT))
    return read_torch_contents(path, inert)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _to_tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _list_names() -> str:
    return ", ".join(PUBLISHED)
