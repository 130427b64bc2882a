"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..export.maps import INPUT_NAME, MAP_NAMES, SIZES_NAME, join_maps
from ..export.to_onnx import MODEL_FILE
from ..structures import Batch, Output, Selection


class OnnxRuntimeEngine:
    """A network that `write_onnx` wrote, on the CPU. Threads may share one.

    Args:
        folder: with `network.onnx`, the network alone, without selection.
        num_threads: to compute with; by default as many as torch does.
        at_once: calls that are to be computed side by side, each with its share of the threads.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, num_threads: int | None = None, at_once: int = 1):
        self._session = open_session(folder / MODEL_FILE, (num_threads or torch.get_num_threads()) // at_once)

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`."""
        maps = self._session.run(list(MAP_NAMES), {INPUT_NAME: images.cpu().contiguous().numpy()})
        return join_maps([torch.from_numpy(each) for each in maps])


def propose_with_onnx(file: Path, batch: Batch) -> list[Selection]:
    """Proposals of every image of a batch, from a file with the selection inside."""
    feeds = {INPUT_NAME: batch.images.numpy(), SIZES_NAME: batch.sizes.numpy()}
    found = open_session(file).run(["boxes", "logits", "levels", "counts"], feeds)
    boxes, logits, levels, counts = (torch.from_numpy(each) for each in found)
    return [Selection(boxes[i, :n], logits[i, :n], levels[i, :n]) for i, n in enumerate(counts.tolist())]


def open_session(file: Path, num_threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads() if num_threads is None else num_threads)
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
