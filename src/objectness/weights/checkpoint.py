"""Networks on disk: a folder of `model.safetensors` and `config.json`, and `training.pt` where training can go on.

A checkpoint is written whole or not at all. Nothing is unpickled freely: safetensors holds arrays alone, and torch
files are read with `weights_only`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import Config
from ..errors import CheckpointError, ConfigError, DownloadError
from ..files import PREVIOUS, replace_folder, write_text
from ..model.backbone import Backbone
from ..network import RegionProposalNetwork
from .download import fetch

MODEL_FILE, CONFIG_FILE, TRAINING_FILE = "model.safetensors", "config.json", "training.pt"
BACKBONE_FILE = "backbone.safetensors"  # what another program's backbone is converted to
COUNTER = "num_batches_tracked"  # batch norm counts its steps; nothing here looks
PACKAGED = ("cspnet", "lite0")  # the networks inside the package
SHIPPED = PACKAGED[0]  # the one that is taken where none is named

IMAGENET_URLS = {  # torchvision's first versions; a file's name ends with the start of its SHA-256
    name: f"https://download.pytorch.org/models/{name}-{digest}.pth"
    for name, digest in {
        "resnet18": "f37072fd",
        "resnet34": "b627a593",
        "resnet50": "0676ba61",
        "resnet101": "63fe2227",
        "resnet152": "394f9c45",
        "resnext50_32x4d": "7cdf4587",
        "resnext101_32x8d": "8ba56ff5",
        "resnext101_64x4d": "173b62eb",
    }.items()
}


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Tensor],
    config: Config,
    training: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a checkpoint in place of the one that may be there; a kill at any moment leaves one of the two whole.

    Args:
        folder: where; made if it is not there.
        state: the network's state dict.
        config: what the network is made of.
        training: what is needed to go on, in tensors and plain values.
        half: store floating-point weights in half precision (they are float32 again when loaded).

    Raises:
        CheckpointError: there is no room for it; what was there is whole.
    """
    write_weights(folder, MODEL_FILE, state, config.to_compatible_dict(), training, half=half)


def write_weights(
    folder: Path,
    file_name: str,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a folder of weights, their `config.json` and what else `save_checkpoint` says.

    Raises:
        CheckpointError: there is no room for it; what was there is whole.
    """
    tensors = {name: _pack(tensor, half) for name, tensor in state.items()}
    try:
        with replace_folder(folder) as partial:
            save_file(tensors, partial / file_name)
            write_text(partial / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
            if training is not None:
                torch.save(dict(training), partial / TRAINING_FILE)
    except (OSError, SafetensorError, RuntimeError) as error:  # both libraries wrap what the disk says
        raise CheckpointError(
            f"{folder}: cannot be written ({_shorten(error)}); make room or name another place; nothing that was there "
            f"is lost"
        ) from error


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint folder that `source` means.

    Args:
        source: the name of a network inside the package, a checkpoint folder, its `model.safetensors`, or a run
            folder (its best checkpoint, else its last).

    Raises:
        CheckpointError: nothing there is a checkpoint.
    """
    path = Path(__file__).parent / source if str(source) in PACKAGED else Path(source)
    if path.name == MODEL_FILE and path.is_file():
        return path.parent
    for folder in (path, path / "best", path / "last"):
        for candidate in (folder, folder.parent / (folder.name + PREVIOUS)):  # with_name() refuses "."
            if (candidate / MODEL_FILE).is_file():
                return candidate
    if not path.exists():
        raise CheckpointError(
            f"{path}: there is no such file or folder; pass a checkpoint, a run folder or one of {', '.join(PACKAGED)}"
        )
    if (path / BACKBONE_FILE).is_file():
        raise CheckpointError(f"{path}: holds a backbone alone, to train on: --weights {path / BACKBONE_FILE}")
    raise CheckpointError(f"{path}: holds no checkpoint ({MODEL_FILE} and {CONFIG_FILE}); was the training ever saved?")


def load_network(source: str | Path = SHIPPED) -> RegionProposalNetwork:
    """Load a network in evaluation mode.

    Args:
        source: anything that `find_checkpoint` takes.

    Raises:
        CheckpointError: nothing there, a damaged file, or weights of another network than `config.json` says.
    """
    folder = find_checkpoint(source)
    config = read_config(folder / CONFIG_FILE)
    try:
        network = RegionProposalNetwork(config)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    load_state(network, read_safetensors(folder / MODEL_FILE), str(folder / MODEL_FILE))
    return network.eval()


def read_config(path: Path) -> Config:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: missing, no JSON, or no configuration.
    """
    try:
        return Config.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); copy the checkpoint again") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Arrays of a safetensors file, float32 where they are floating-point.

    Raises:
        CheckpointError: missing, cut short or damaged.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); it may be cut short, copy it again") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}


def read_torch_file(path: Path) -> Any:
    """Tensors and plain values of a torch file; anything else in it is refused, not run.

    Raises:
        CheckpointError: missing, cut short, damaged, or holding more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(
            f"{path}: no readable torch file of tensors ({_shorten(error)}); it may be cut short"
        ) from error


def load_state(module: torch.nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        CheckpointError: names or shapes differ; the message names the first of each kind.
    """
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    problems = [
        f"{len(names)} {what} (the first is {names[0]})"
        for names, what in ((missing, "missing"), (unknown, "unknown"), (sorted(shapes), "of another shape"))
        if names
    ]
    if problems:
        raise CheckpointError(f"{origin}: weights of another network: {', '.join(problems)}")
    module.load_state_dict(dict(state))


def load_start_state(module: torch.nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """`load_state` of what training starts from: batch norm, which counts steps only if trained, may be either.

    Raises:
        CheckpointError: as `load_state` does.
    """
    wanted = module.state_dict()
    counters = {name: value for name, value in wanted.items() if name.endswith(COUNTER)}
    ours = {name: value for name, value in state.items() if name in wanted or not name.endswith(COUNTER)}
    load_state(module, counters | ours, origin)


def load_backbone(backbone: Backbone, name: str, source: str | Path) -> None:
    """Load pretrained weights into the body of a backbone; a classifier's layers are left out.

    Args:
        backbone: what to load into.
        name: its name in `BACKBONES`.
        source: "imagenet" (downloaded once, checked by its hash) or a .pth or .safetensors file with torchvision's or
            timm's names.

    Raises:
        DownloadError: "imagenet" cannot be fetched.
        CheckpointError: the file cannot be read, or its weights are another network's.
    """
    path = Path(source)
    if str(source) == "imagenet":
        state, origin = _download(name), f"ImageNet weights of {name}"
    else:
        state, origin = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path), str(source)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{origin}: holds no state dict (a mapping of names to tensors)")
    load_backbone_state(backbone, state, origin)


def load_backbone_state(backbone: Backbone, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a classifier's weights into the body of a backbone; the classifier's own layers are left out.

    Raises:
        CheckpointError: they are another network's.
    """
    wanted = backbone.body.state_dict()
    ours = {key: value for key, value in state.items() if key in wanted or not _is_beyond_the_body(key)}
    load_start_state(backbone.body, ours, origin)


def _is_beyond_the_body(key: str) -> bool:
    """Whether a name belongs to what a classifier has and a backbone has not, or to a counter."""
    return key.split(".")[0] in {"fc", "classifier", "conv_head", "bn2"} or key.endswith(COUNTER)


def _download(name: str) -> Any:
    if name not in IMAGENET_URLS:
        raise DownloadError(f"no ImageNet weights of {name} are published under a known address; pass a file instead")
    return read_torch_file(fetch(IMAGENET_URLS[name]))


def _shorten(error: Exception) -> str:
    """What an error says, without the place in somebody's source that may follow."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _pack(tensor: Tensor, half: bool) -> Tensor:
    packed = tensor.detach().to("cpu", torch.float16 if half and tensor.is_floating_point() else None)
    return packed.contiguous().clone()  # safetensors refuses tensors that share memory
