"""A network on a runtime, by name or whichever is the fastest here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from ..device import computes_bfloat16
from ..errors import ConfigError, ObjectnessError
from ..network import RegionProposalNetwork
from ..packages import require
from ..version import __version__
from .agreement import check_engine
from .cache import Cache, find_cache_folder, ignore, make_key
from .engine import (
    FASTEST_FIRST,
    NARROW,
    PACKAGES,
    Engine,
    EngineName,
    Precision,
    find_installed,
    require_engine,
)
from .pytorch import TorchEngine


def make_engine(
    network: RegionProposalNetwork,
    name: EngineName = "auto",
    *,
    precision: Precision = "float32",
    calibration: Sequence[Path] = (),
    at_once: int = 1,
    cache_folder: Path | None = None,
    say: Callable[[str], None] = ignore,
) -> Engine:
    """A network on a runtime, converted at first and from the cache afterwards.

    Args:
        network: it stays as it is. On a GPU it can run on torch alone.
        name: the runtime; "auto" is the fastest that is installed and takes this network.
        precision: "bfloat16" (torch and OpenVINO) and "int8" (OpenVINO) are faster and less exact; neither is ever
            chosen by itself.
        calibration: photos like those to come, from which int8 takes its scales; a hundred or more.
        at_once: calls from different threads that are to be computed side by side, each with its share of the cores:
            sooner done than one after another, and each later.
        cache_folder: where conversions are kept; the user's cache by default (`cache.find_cache_folder`).
        say: called with a sentence where something takes long or goes another way than asked.

    Raises:
        ConfigError: an unknown name, or a network or precision that the runtime cannot take.
        ObjectnessError: the runtime is not installed, or what it computes is not what torch computes.
    """
    _check_names(name, precision)
    if at_once < 1:
        raise ConfigError(f"at_once = {at_once} must be at least 1")
    cache = Cache(find_cache_folder() if cache_folder is None else cache_folder, say)
    if precision == "int8":
        if name != "openvino":
            raise ConfigError(f"precision int8 is OpenVINO's alone, not of engine {name}; take engine openvino with it")
        require_engine("openvino")
        require("precision int8", "nncf", "openvino")
        return _make_int8(network, calibration, cache, at_once)
    if calibration:
        raise ConfigError("photos to calibrate on are for precision int8; leave them out, or choose it")
    device = next(network.parameters()).device
    if name not in ("auto", "torch") and device.type != "cpu":
        raise ConfigError(f"engine {name} computes on the CPU; take device cpu with it, or engine torch")
    narrow = precision == "bfloat16"
    if narrow and name not in ("auto", *NARROW):
        raise ConfigError(f"precision bfloat16 is for engines {' and '.join(NARROW)}, not for {name}")
    if narrow and not computes_bfloat16(device):
        say(f"precision bfloat16: {device} has no instructions for it; float32 is likely to be faster")
    if name != "auto":
        require_engine(name)
        return _make(network, name, cache, at_once, narrow)
    names = [each for each in (NARROW if narrow else FASTEST_FIRST) if each in find_installed()]
    return _make_fastest(network, names if device.type == "cpu" else (), cache, at_once, narrow)


def _check_names(name: str, precision: str) -> None:
    for what, value, choices in (("engine", name, EngineName), ("precision", precision, Precision)):
        if value not in get_args(choices):
            raise ConfigError(f"{what} {value!r} is none of {', '.join(get_args(choices))}")


def _make_fastest(
    network: RegionProposalNetwork, names: Sequence[str], cache: Cache, at_once: int, narrow: bool
) -> Engine:
    """The first that works; torch, if none does."""
    for name in names:
        try:
            return _make(network, name, cache, at_once, narrow)
        except (ObjectnessError, ImportError, OSError, RuntimeError) as error:
            cache.say(f"engine {name} is left out: {error}")
    return TorchEngine(network, narrow)


def _make(network: RegionProposalNetwork, name: str, cache: Cache, at_once: int, narrow: bool) -> Engine:
    if name == "torch":
        return TorchEngine(network, narrow)
    make, write = load_runtime(name)

    def build(folder: Path) -> None:
        cache.say(f"converting the network for {name}, once; kept in {cache.root}")
        write(network, folder)
        check_engine(make(folder), network)

    folder = cache.fetch(make_key(name, network, find_versions(PACKAGES[name])), build)
    return make(folder, at_once=at_once, narrow=True) if narrow else make(folder, at_once=at_once)


def load_runtime(name: str) -> tuple[Callable[..., Engine], Callable[[RegionProposalNetwork, Path], None]]:
    """What makes an engine of a folder, and what writes the folder; of any engine but torch."""
    if name == "ncnn":
        from .ncnn import NcnnEngine, write_ncnn

        return NcnnEngine, write_ncnn
    if name == "openvino":
        from .openvino import OpenVinoEngine, write_openvino

        return OpenVinoEngine, write_openvino
    from .onnxruntime import OnnxRuntimeEngine, write_onnx

    return OnnxRuntimeEngine, write_onnx


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """What a conversion depends on beside the network."""
    return {"objectness": __version__, **{package: version(package) for package in ("torch", *packages)}}


def _make_int8(network: RegionProposalNetwork, photos: Sequence[Path], cache: Cache, at_once: int) -> Engine:
    from .openvino import OpenVinoEngine
    from .openvino_int8 import digest_photos, write_int8

    baked = {**find_versions(("openvino", "nncf")), "photos": digest_photos(photos)}
    key = make_key("openvino-int8", network, baked)
    folder = cache.fetch(key, lambda folder: write_int8(network, photos, folder, cache.say))
    return OpenVinoEngine(folder, at_once=at_once)
