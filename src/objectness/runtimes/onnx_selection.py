"""`select_proposals` in the operators of ONNX, appended to a network that was converted.

Levels are the classes of NonMaxSuppression, so that no level suppresses another, or all are one class
(`across_levels`). Every tensor's shape stands beside it in the letters of `structures`; k is how many of a level's
regions go into suppression, R the sum of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..config import AnchorOptions, BoxCoding, Config, SelectionOptions
from ..errors import ConfigError
from ..geometry.anchors import make_shapes
from ..geometry.boxes import ABSOLUTE_UNIT_PX, MAX_LOG_SCALE
from .maps import INPUT_NAME, SIZES_NAME

OUTPUTS = {  # beyond an image's count: boxes, scores and levels 0, logits -inf
    "boxes": (TensorProto.FLOAT, 4),  # (N, keep, 4) xyxy, px in the input frame, best first
    "scores": (TensorProto.FLOAT, None),  # (N, keep) in [0, 1]
    "logits": (TensorProto.FLOAT, None),  # (N, keep)
    "levels": (TensorProto.INT64, None),  # (N, keep) by their numbers
}
COUNTS_NAME = "counts"  # (N,) int64: how many of an image's rows are proposals
LOWEST = float(np.finfo(np.float32).min)  # a score must exceed it, which -inf does not


def append_selection(model: Any, config: Config) -> None:
    """Put the selection behind the maps of an `onnx.ModelProto`, in place.

    A second input, `sizes` (N, 2) float32, is the height and width of each image within the padding. The outputs are
    `OUTPUTS` and `counts` instead of the maps.

    Args:
        model: from `convert_to_onnx`.
        config: of the network; its selection options are built in.

    Raises:
        ConfigError: score_from = "nearest", which ONNX has no reasonable way to compute.
    """
    options = config.selection
    if options.score_from != "own":
        raise ConfigError(
            f"selection.score_from = {options.score_from!r} cannot be exported: it decodes every anchor of every level "
            "to look its score up at another; export without the selection, or with score_from = 'own'"
        )
    graph = Graph(model.graph)
    sizes = helper.make_tensor_value_info(SIZES_NAME, TensorProto.FLOAT, ["N", 2])
    model.graph.input.append(sizes)
    del model.graph.output[:]
    levels = [_pick_best(graph, level, i, config) for i, level in enumerate(config.anchors.levels)]
    boxes, logits, level_of = (
        graph.add("Concat", *parts, axis=axis) for parts, axis in zip(zip(*levels, strict=True), (1, 1, 0), strict=True)
    )  # (N, R, 4), (N, R), (R,)
    boxes, logits = _correct_border(graph, boxes, logits, options)
    classes = None if options.across_levels else config.anchors.levels
    kept = _suppress(graph, boxes, logits, level_of, classes, options)
    _put_out(graph, boxes, kept, level_of, options)


class Graph:
    """An ONNX graph that grows at its end; tensors go by their names."""

    def __init__(self, proto: Any):
        self._proto = proto
        self._count = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; its name."""
        return self.add_many(operator, inputs, 1, **attributes)[0]

    def add_many(self, operator: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Append a node with `count` outputs; their names."""
        names = [self._name(operator) for _ in range(count)]
        self._proto.node.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        """A tensor with fixed values."""
        name = self._name("constant")
        self._proto.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def read_size(self, tensor: str, axis: int) -> str:
        """The size of a tensor along an axis, (1,) int64."""
        return self.add("Gather", self.add("Shape", tensor), self.constant([axis], np.int64))

    def call(self, tensor: str, output: str) -> None:
        """Give a tensor the name of an output."""
        self._proto.node.append(helper.make_node("Identity", [tensor], [output]))

    def put_out(self, name: str, element_type: int, shape: Sequence[str | int]) -> None:
        """Declare an output."""
        self._proto.output.append(helper.make_tensor_value_info(name, element_type, list(shape)))

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"selection/{operator}_{self._count}"


def _pick_best(graph: Graph, level: int, index: int, config: Config) -> tuple[str, str, str]:
    """The best regions of a level: boxes (N, k, 4) not yet clipped, logits (N, k), and the level (k,) of each."""
    logits = _flatten(graph, f"logits{level}", 1)  # (N, K)
    not_numbers = graph.add("IsNaN", logits)
    logits = graph.add("Where", not_numbers, graph.constant(-np.inf), logits)
    count = graph.add("Min", graph.read_size(logits, 1), graph.constant([config.selection.per_level], np.int64))  # (1,)
    logits, rows = graph.add_many("TopK", [logits, count], 2, axis=1)  # equal logits in the order of their anchors
    codes = _take_rows(graph, _flatten(graph, f"deltas{level}", 4), rows)  # (N, k, 4)
    anchors = _place_anchors(graph, rows, level, index, config.anchors)
    boxes = _decode(graph, codes, anchors, config.box_coding, config.selection)
    levels = graph.add("Expand", graph.constant([level], np.int64), count)
    return boxes, _drop_where_not_a_number(graph, codes, logits), levels


def _flatten(graph: Graph, maps: str, values: int) -> str:
    """(N, A * values, H, W) -> (N, K) or (N, K, values), in the order of the anchors."""
    rows = graph.add("Transpose", maps, perm=[0, 2, 3, 1])  # (N, H, W, A * values)
    shape = [0, -1] if values == 1 else [0, -1, values]  # 0: as it was
    return graph.add("Reshape", rows, graph.constant(shape, np.int64))


def _take_rows(graph: Graph, values: str, rows: str) -> str:
    """Of each image its own rows: values (N, K, 4), rows (N, k) -> (N, k, 4)."""
    indices = graph.add("Unsqueeze", rows, graph.constant([-1], np.int64))  # (N, k, 1)
    return graph.add("GatherND", values, indices, batch_dims=1)


def _drop_where_not_a_number(graph: Graph, codes: str, logits: str) -> str:
    """Logits (N, k), -inf where one of the codes (N, k, 4) is not a number; comparisons with it differ by runtime."""
    flags = graph.add("Cast", graph.add("IsNaN", codes), to=TensorProto.FLOAT)
    worst = graph.add("ReduceMax", flags, graph.constant([-1], np.int64), keepdims=0)  # (N, k)
    bad = graph.add("Cast", worst, to=TensorProto.BOOL)
    return graph.add("Where", bad, graph.constant(-np.inf), logits)


def _place_anchors(graph: Graph, rows: str, level: int, index: int, options: AnchorOptions) -> str:
    """The anchors (N, k, 4) at positions (N, k) of a level, from the grid itself."""
    shapes = make_shapes(options.sizes[index], options.ratios, rounded=options.rounded).numpy()  # (A, 4)
    num_shapes = graph.constant(len(shapes), np.int64)
    cells = graph.add("Div", rows, num_shapes)
    width = graph.read_size(f"logits{level}", 3)
    centre = []
    for cell, axis in ((graph.add("Mod", cells, width), 3), (graph.add("Div", cells, width), 2)):  # x, then y
        stride = graph.constant([options.strides[index]], np.int64)
        if options.strides_from_shape:
            stride = graph.add("Div", graph.read_size(INPUT_NAME, axis), graph.read_size(f"logits{level}", axis))
        place = graph.add("Cast", graph.add("Mul", cell, stride), to=TensorProto.FLOAT)
        centre.append(graph.add("Unsqueeze", place, graph.constant([-1], np.int64)))  # (N, k, 1)
    offsets = graph.add("Concat", *centre, *centre, axis=-1)  # (N, k, 4)
    return graph.add("Add", graph.add("Gather", graph.constant(shapes), graph.add("Mod", rows, num_shapes)), offsets)


def _decode(graph: Graph, codes: str, anchors: str, box_coding: BoxCoding, options: SelectionOptions) -> str:
    """Boxes (N, k, 4) from codes and anchors (N, k, 4), as `boxes.decode_deltas` and `decode_absolute`."""
    half = graph.constant(0.5)
    if box_coding == "absolute":
        scaled = graph.add("Mul", codes, graph.constant(ABSOLUTE_UNIT_PX))
        centres, sizes = _split(graph, scaled)
        sizes = graph.add("Max", sizes, graph.constant(0.0))
    else:
        anchor_sizes = _measure(graph, anchors)
        anchor_centres = graph.add("Add", _split(graph, anchors)[0], graph.add("Mul", half, anchor_sizes))
        shifts, log_scales = _split(graph, codes)
        centres = graph.add("Add", anchor_centres, graph.add("Mul", shifts, anchor_sizes))
        lowest = graph.constant(-MAX_LOG_SCALE if options.clamp == "both" else LOWEST)
        clamped = graph.add("Clip", log_scales, lowest, graph.constant(MAX_LOG_SCALE))
        sizes = graph.add("Mul", anchor_sizes, graph.add("Exp", clamped))
    halves = graph.add("Mul", half, sizes)
    return graph.add("Concat", graph.add("Sub", centres, halves), graph.add("Add", centres, halves), axis=-1)


def _correct_border(graph: Graph, boxes: str, logits: str, options: SelectionOptions) -> tuple[str, str]:
    """Boxes (N, R, 4) clipped to their images, and logits (N, R), -inf for what does not stay."""
    height_width = graph.add("Unsqueeze", SIZES_NAME, graph.constant([1], np.int64))  # (N, 1, 2)
    limits = graph.add("Gather", height_width, graph.constant([1, 0, 1, 0], np.int64), axis=2)  # (N, 1, 4)
    clipped = graph.add("Min", graph.add("Max", boxes, graph.constant(0.0)), limits)
    thinnest = graph.add("ReduceMin", _measure(graph, clipped), graph.constant([-1], np.int64), keepdims=0)  # (N, R)
    stays = graph.add("GreaterOrEqual", thinnest, graph.constant(options.min_size))
    if options.min_visible > 0:
        areas = _measure_areas(graph, boxes)
        positive = graph.add("Greater", areas, graph.constant(0.0))
        divisor = graph.add("Where", positive, areas, graph.constant(1.0))
        shares = graph.add("Div", _measure_areas(graph, clipped), divisor)
        shares = graph.add("Where", positive, shares, graph.constant(0.0))
        visible = graph.add("GreaterOrEqual", shares, graph.constant(options.min_visible))
        stays = graph.add("And", stays, visible)
    return clipped, graph.add("Where", stays, logits, graph.constant(-np.inf))


def _suppress(
    graph: Graph, boxes: str, logits: str, level_of: str, classes: Sequence[int] | None, options: SelectionOptions
) -> str:
    """Logits (N, R), -inf for what suppression removes: within each of the L levels `classes`, or of all together."""
    scores = graph.add("Unsqueeze", logits, graph.constant([1], np.int64))  # (N, 1, R)
    if classes is not None:
        rows = graph.constant(np.array(classes)[:, None], np.int64)  # (L, 1)
        same = graph.add("Equal", rows, graph.add("Unsqueeze", level_of, graph.constant([0], np.int64)))  # (L, R)
        scores = graph.add("Where", same, scores, graph.constant(-np.inf))  # (N, L, R)
    chosen = graph.add(
        "NonMaxSuppression",
        boxes,
        scores,
        graph.constant([options.keep], np.int64),
        graph.constant([options.nms_iou]),
        graph.constant([LOWEST]),
    )  # (M, 3): image, class, row
    places = graph.add("Gather", chosen, graph.constant([0, 2], np.int64), axis=1)  # (M, 2)
    nothing = graph.add("Expand", graph.constant(-np.inf), graph.add("Shape", logits))  # (N, R)
    return graph.add("ScatterND", nothing, places, graph.add("GatherND", logits, places))


def _decay_scores(graph: Graph, boxes: str, logits: str, levels: str, options: SelectionOptions) -> str:
    """Logits (N, c), sorted ones lowered as `selection.decay_scores` does; boxes (N, c, 4), levels (N, c)."""
    corners = []
    for axis in (2, 1):  # (N, c, 1, 4) and (N, 1, c, 4)
        corners.append(_split(graph, graph.add("Unsqueeze", boxes, graph.constant([axis], np.int64))))
    (low, high), (other_low, other_high) = corners
    sizes = graph.add("Sub", graph.add("Min", high, other_high), graph.add("Max", low, other_low))
    common = graph.add(
        "ReduceProd", graph.add("Max", sizes, graph.constant(0.0)), graph.constant([-1], np.int64), keepdims=0
    )
    areas = _measure_areas(graph, boxes)  # (N, c)
    column, row = (graph.add("Unsqueeze", areas, graph.constant([axis], np.int64)) for axis in (2, 1))
    union = graph.add("Sub", graph.add("Add", column, row), common)
    ious = graph.add(
        "Div", common, graph.add("Max", union, graph.constant(float(np.finfo(np.float32).tiny)))
    )  # (N, c, c)
    if not options.across_levels:
        column, row = (graph.add("Unsqueeze", levels, graph.constant([axis], np.int64)) for axis in (2, 1))
        ious = graph.add("Mul", ious, graph.add("Cast", graph.add("Equal", column, row), to=TensorProto.FLOAT))
    better = graph.add("Trilu", ious, graph.constant(1, np.int64), upper=1)  # of the better in rows
    largest = graph.add("ReduceMax", better, graph.constant([1], np.int64), keepdims=0)  # (N, c)
    decay = graph.add("Div", graph.add("Mul", largest, largest), graph.constant(options.decay_sigma))
    likely = graph.add("Neg", graph.add("Softplus", graph.add("Neg", logits)))
    unlikely = graph.add("Neg", graph.add("Softplus", logits))
    lost = graph.add("Sub", graph.constant(1.0), graph.add("Exp", graph.add("Neg", decay)))
    other = graph.add("Add", likely, graph.add("Log", lost))
    larger = graph.add("Max", unlikely, other)
    terms = [graph.add("Exp", graph.add("Sub", each, larger)) for each in (unlikely, other)]
    against = graph.add("Add", larger, graph.add("Log", graph.add("Add", *terms)))  # log(1 - p)
    lowered = graph.add("Sub", graph.add("Sub", likely, decay), against)
    return graph.add("Where", graph.add("Greater", decay, graph.constant(0.0)), lowered, logits)


def _put_out(graph: Graph, boxes: str, kept: str, level_of: str, options: SelectionOptions) -> None:
    """Sort what was kept, cut it at `keep` or fill it up to that, and make it the graph's outputs."""
    keep = options.keep
    wanted = graph.constant([keep], np.int64)
    count = graph.add("Min", graph.read_size(kept, 1), wanted)
    logits, rows = graph.add_many("TopK", [kept, count], 2, axis=1)  # (N, count)
    if options.decay_sigma > 0:
        levels = graph.add("Gather", level_of, rows)
        lowered = _decay_scores(graph, _take_rows(graph, boxes, rows), logits, levels, options)
        logits, order = graph.add_many("TopK", [lowered, count], 2, axis=1)
        rows = graph.add("GatherElements", rows, order, axis=1)
    valid = graph.add("Greater", logits, graph.constant(-np.inf))
    valid_boxes = graph.add("Unsqueeze", valid, graph.constant([-1], np.int64))  # (N, count, 1)
    found = {
        "boxes": graph.add("Where", valid_boxes, _take_rows(graph, boxes, rows), graph.constant(0.0)),
        "scores": graph.add("Sigmoid", logits),
        "logits": logits,
        "levels": graph.add("Where", valid, graph.add("Gather", level_of, rows), graph.constant(0, np.int64)),
    }
    missing = graph.add("Sub", wanted, count)
    for name, (element_type, last) in OUTPUTS.items():
        before = graph.constant([0] * (4 if last else 3), np.int64)  # of every axis, then nothing after the first
        after = [graph.constant([0], np.int64)] if last else []
        pads = graph.add("Concat", before, missing, *after, axis=0)
        filler = graph.constant(-np.inf if name == "logits" else 0, np.int64 if name == "levels" else np.float32)
        graph.call(graph.add("Pad", found[name], pads, filler), name)
        graph.put_out(name, element_type, ["N", keep, *([last] if last else [])])
    numbers = graph.add("Cast", valid, to=TensorProto.INT64)
    graph.call(graph.add("ReduceSum", numbers, graph.constant([1], np.int64), keepdims=0), COUNTS_NAME)
    graph.put_out(COUNTS_NAME, TensorProto.INT64, ["N"])


def _split(graph: Graph, corners: str) -> list[str]:
    """(..., 4) -> two of (..., 2)."""
    return graph.add_many("Split", [corners], 2, axis=-1, num_outputs=2)


def _measure(graph: Graph, boxes: str) -> str:
    """Width and height (..., 2) of boxes (..., 4)."""
    low, high = _split(graph, boxes)
    return graph.add("Sub", high, low)


def _measure_areas(graph: Graph, boxes: str) -> str:
    """Areas (...) of boxes (..., 4); 0 for inverted ones."""
    sizes = graph.add("Max", _measure(graph, boxes), graph.constant(0.0))
    return graph.add("ReduceProd", sizes, graph.constant([-1], np.int64), keepdims=0)
