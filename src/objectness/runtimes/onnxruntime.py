"""ONNX Runtime on the CPU.

A network is one ONNX file, for any number of images of any size; `onnx_selection` puts the selection behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..network import RegionProposalNetwork
from ..structures import Batch, Output, Selection
from .maps import COARSEST_STRIDE, INPUT_NAME, SIZES_NAME, Maps, join_maps, make_example, name_maps, quiet_conversion

MODEL_FILE = "network.onnx"
OPSET = 18
MOST_CELLS = 4096  # of C5 along a side, for the exporter's reasoning alone


def write_onnx(network: RegionProposalNetwork, folder: Path) -> None:
    """Write `network.onnx`, its weights inside.

    The input is `images`, (N, 3, H, W). The outputs are the maps, (N, A, H_l, W_l) and (N, 4 A, H_l, W_l), by
    the names of `name_maps`.

    Args:
        network: what to convert.
        folder: where; it must be there.

    Raises:
        ConfigError: a network that cannot be converted.
    """
    save_onnx(convert_to_onnx(network), folder)


def save_onnx(model: Any, folder: Path) -> None:
    """Check an `onnx.ModelProto` and write it."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(folder / MODEL_FILE))


def set_metadata(model: Any, description: Mapping[str, Any]) -> None:
    """Put a description into a model, each entry as JSON under its name."""
    del model.metadata_props[:]
    for name, value in description.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))


def convert_to_onnx(network: RegionProposalNetwork) -> Any:
    """The network as an `onnx.ModelProto`.

    Raises:
        ConfigError: a network that cannot be converted.
    """
    cells = {side: torch.export.Dim(name, min=1, max=MOST_CELLS) for side, name in ((2, "height"), (3, "width"))}
    sizes = {0: torch.export.Dim.AUTO, **{side: COARSEST_STRIDE * dim for side, dim in cells.items()}}
    with quiet_conversion(), torch.no_grad():
        program = torch.onnx.export(
            Maps(network).eval(),
            (make_example(2),),  # of one image, the exporter would take the number for fixed
            dynamo=True,
            dynamic_shapes={"images": sizes},
            input_names=[INPUT_NAME],
            output_names=list(name_maps(network.config.anchors)),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origins(model)
    _name_sizes(model.graph)
    return model


def _forget_origins(model: Any) -> None:
    """Remove what the exporter notes at every node: stack traces, with the names of folders on this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_sizes(graph: Any) -> None:
    """Call the sizes that may change by the letters of `structures`."""
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        level = "" if value.name == INPUT_NAME else value.name[-1]
        for axis, letter in ((0, "N"), (2, f"H{level}"), (3, f"W{level}")):
            dims[axis].dim_param = letter
    del graph.value_info[:]  # sizes of inner maps, in the exporter's letters


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
        maps = self._session.run(None, {INPUT_NAME: images.cpu().contiguous().numpy()})
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
