"""What a program that knows nothing of this package must know to use an exported network, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..geometry.anchors import make_shapes
from ..geometry.boxes import MAX_LOG_SCALE
from ..version import __version__
from .maps import INPUT_NAME, SIZES_NAME

MAPS = {
    "logits": "(N, A, H, W) float32 of P{level}: object minus no object of each anchor; the score is its sigmoid",
    "deltas": "(N, 4 A, H, W) float32 of P{level}: (dx, dy, dw, dh) of each anchor, one after another",
}
PROPOSALS = {
    "boxes": "(N, keep, 4) float32 xyxy, px in the input frame, best first; 0 beyond counts",
    "scores": "(N, keep) float32 in [0, 1], the sigmoid of logits; 0 beyond counts",
    "logits": "(N, keep) float32, object minus no object; -inf beyond counts",
    "levels": "(N, keep) int64, the number of each proposal's pyramid level; 0 beyond counts",
    "counts": "(N,) int64: how many proposals an image has",
}


def describe_network(
    config: Config, *, selection: bool = False, names: Mapping[str, str] | None = None, batched: bool = True
) -> dict[str, Any]:
    """Input, outputs and conventions, in plain JSON values.

    Args:
        config: of the network.
        selection: whether the selection is inside.
        names: what the file calls a tensor, where that is another name than ours.
        batched: whether tensors have an axis of images.
    """
    selected = config.selection
    maps = {
        f"{kind}{level}": text.format(level=level) for kind, text in MAPS.items() for level in config.anchors.levels
    }
    inputs = {INPUT_NAME: "(N, 3, H, W) float32; H and W multiples of input.pad_multiple"}
    if selection:
        inputs[SIZES_NAME] = "(N, 2) float32: height and width of each image within the padding, px"

    def rename(texts: Mapping[str, str]) -> dict[str, str]:
        texts = {(names or {}).get(name, name): text for name, text in texts.items()}
        return dict(texts) if batched else {name: text.replace("(N, ", "(") for name, text in texts.items()}

    return {
        "made_by": f"objectness {__version__}",
        "inputs": rename(inputs),
        "outputs": rename(PROPOSALS if selection else maps),
        "input": {
            "steps": "resize, (value / 255 - mean) / std, order of channels, then zeros at the bottom and right",
            "short_side": config.input.short_side,
            "long_side": config.input.long_side,
            "mean": list(config.input.mean),
            "std": list(config.input.std),
            "order": config.input.order,
            "resize": config.input.resize,
            "pad_multiple": config.input.pad_multiple,
        },
        "anchors": {
            "text": "anchor a of cell (row, column): shapes[level][a] moved by (column * stride, row * stride); "
            "cells row by row, shape by shape",
            "levels": list(config.anchors.levels),
            "strides": list(config.anchors.strides),
            "strides_from_shape": config.anchors.strides_from_shape,  # then input size // map size instead
            "shapes": [
                make_shapes(size, config.anchors.ratios, rounded=config.anchors.rounded).tolist()
                for size in config.anchors.sizes
            ],
        },
        "boxes": {
            "text": "xyxy at edges, px, x right and y down; centre = anchor centre + (dx, dy) * anchor size, "
            "size = anchor size * exp(min(dw or dh, max_log_scale)); then clipped to the image within the padding",
            "coding": config.box_coding,
            "max_log_scale": MAX_LOG_SCALE,
        },
        "selection": {
            "text": "the per_level best anchors of each level by logit; best first, a box goes that a kept one of "
            f"{'any level' if selected.across_levels else 'its own level'} overlaps by an IoU of more than nms_iou, "
            "until keep are kept; if decay_sigma > 0, each score is then multiplied by exp(-IoU^2 / decay_sigma), IoU "
            "being the largest with a better box, and all are sorted anew",
            **dataclasses.asdict(selected),
        },
        "config": config.to_dict(),
    }
