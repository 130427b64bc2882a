"""OpenVINO on the CPU, in float32 or bfloat16, or in int8 after calibration on photos."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ..export.maps import MAP_NAMES, join_maps
from ..export.to_openvino import MODEL_FILE, open_core
from ..structures import Output


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
            return join_maps([torch.from_numpy(found[i].copy()) for i in range(len(MAP_NAMES))])
        finally:
            self._free.put(request)
