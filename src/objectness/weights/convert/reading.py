"""Weights of other programs as names and tensors, and whose they are by these names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError
from ...pickles import read_arrays
from ..checkpoint import read_safetensors
from ..download import fetch
from . import from_detectron2, from_mmdetection, from_torchvision
from .family import Family, WeightsFile, read_torch_contents
from .published import PUBLISHED

FAMILIES: tuple[Family, ...] = (from_torchvision, from_detectron2, from_mmdetection)

AVERAGES = ("state_dict_ema", "model_ema")  # timm's and torchvision's, which both prefer to what they are of
STATE_KEYS = (*AVERAGES, "state_dict", "model", "model_state_dict")
WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DistributedDataParallel, torch.compile and Lightning put before
NUM_AVERAGED = "n_averaged"  # a counter in averages
INERT = (  # numpy's numbers, such as a best score or a random state
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
)
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch's files once began with
ZIP, PICKLE = b"PK", b"\x80"
LARGEST_HEADER = 100_000_000  # of a safetensors file, bytes


def read_weights(source: str | Path) -> WeightsFile:
    """Names and tensors of a file, with what was wrapped around them taken off.

    Raises:
        CheckpointError: not there, damaged, or no weights.
        DownloadError: a published file cannot be fetched.
    """
    published = PUBLISHED.get(str(source))
    path = Path(source) if published is None else fetch(published.url)
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


def find_family(file: WeightsFile) -> Family | None:
    """Whose weights these are, by the names of the tensors."""
    return next((family for family in FAMILIES if family.recognises(file.state)), None)


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
