"""OpenVINO on the CPU, in float32, or in int8 after calibration on photos."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from ..export.maps import MAP_NAMES, join_maps
from ..export.to_openvino import MODEL_FILE, open_core
from ..structures import Output


class OpenVinoEngine:
    """A network that `write_openvino` wrote, on the CPU. Threads may share one; they take turns.

    Args:
        folder: with `network.xml` and `network.bin`.
        num_threads: to compute with; by default as many as torch does.
    """

    name = "openvino"

    def __init__(self, folder: Path, num_threads: int | None = None):
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16 where the processor has it
            "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
        }
        compiled = open_core().compile_model(folder / MODEL_FILE, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # a request is one inference at a time, and holds the outputs until its next

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`."""
        with self._lock:
            found = self._request.infer([images.cpu().contiguous().numpy()])
            return join_maps([torch.from_numpy(found[i].copy()) for i in range(len(MAP_NAMES))])
