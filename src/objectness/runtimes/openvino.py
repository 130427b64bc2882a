"""OpenVINO on the CPU, in float32 or bfloat16, or in int8 after calibration on photos (`openvino_int8`).

A network is in its own intermediate representation, from a TorchScript trace.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..network import RegionProposalNetwork
from ..structures import Output
from .maps import INPUT_NAME, NUM_MAPS, Maps, join_maps, name_maps, quiet_conversion

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
    for output, name in zip(model.outputs, name_maps(network.config.anchors), strict=True):
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


class OpenVinoEngine:
    """A network that `write_openvino` wrote, on the CPU. Threads may share one; more than `at_once` take turns.

    Args:
        folder: with `network.xml` and `network.bin`.
        num_threads: to compute with; by default as many as torch does.
        at_once: calls computed side by side, each with its share of the threads.
        narrow: compute in bfloat16 where the processor has it; what is int8 stays so.
    """

    name = "openvino"

    def __init__(self, folder: Path, num_threads: int | None = None, at_once: int = 1, narrow: bool = False):
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",  # its own choice is bf16 where there is one
            "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
        }
        if at_once > 1:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": at_once, "ENABLE_CPU_PINNING": False}
        compiled = open_core().compile_model(folder / MODEL_FILE, "CPU", settings)
        self._free: SimpleQueue[Any] = SimpleQueue()  # a request is one call at a time, and holds what it found
        for _ in range(at_once):
            self._free.put(compiled.create_infer_request())

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`."""
        request = self._free.get()
        try:
            found = request.infer([images.cpu().contiguous().numpy()])
            return join_maps([torch.from_numpy(found[i].copy()) for i in range(NUM_MAPS)])
        finally:
            self._free.put(request)
