"""OpenVINO: its own intermediate representation, from a TorchScript trace."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..network import RegionProposalNetwork
from .maps import INPUT_NAME, MAP_NAMES, Maps, quiet_conversion

MODEL_FILE = "network.xml"  # its weights lie beside it in network.bin


def import_openvino() -> ModuleType:
    """OpenVINO, told not to report its use to its makers, as it otherwise does over the network when imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it then takes its stub
    import openvino

    module: ModuleType = openvino
    return module


@cache
def open_core() -> Any:
    """The one `openvino.Core` of this process, with the CPU's plugin loaded, which stays.

    The plugin gives the process another stack for signals, and takes it back in disorder when its core goes: the next
    Ctrl-C then ended Python in a segmentation fault (OpenVINO 2026.4).
    """
    core = import_openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


def convert_to_openvino(network: RegionProposalNetwork) -> Any:
    """The network as an `openvino.Model` that takes any number of images of any size.

    Raises:
        ConfigError: a network that cannot be converted.
    """
    openvino = import_openvino()
    maps = Maps(network)
    with quiet_conversion():
        model = openvino.convert_model(maps.trace(), input=openvino.PartialShape([-1, 3, -1, -1]))
    model.inputs[0].set_names({INPUT_NAME})
    for output, name in zip(model.outputs, MAP_NAMES, strict=True):
        output.set_names({name})
    return model


def write_openvino(network: RegionProposalNetwork, folder: Path) -> None:
    """Write `network.xml` and `network.bin`, weights in float32.

    Args:
        network: what to convert.
        folder: where; it must be there.

    Raises:
        ConfigError: a network that cannot be converted.
    """
    save_model(convert_to_openvino(network), folder)


def save_model(model: Any, folder: Path) -> None:
    """Write an `openvino.Model` as it is; its own default would halve the weights' precision."""
    import_openvino().save_model(model, folder / MODEL_FILE, compress_to_fp16=False)
