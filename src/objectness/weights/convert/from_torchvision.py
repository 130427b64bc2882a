"""torchvision's Faster, Mask and Keypoint R-CNN on a ResNet with a feature pyramid.

Source of every default: torchvision 0.28, models/detection. A state dict holds no settings, so those that its builders
take by default are assumed and said.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ...config import AnchorOptions, Config, InputOptions, SelectionOptions
from ...errors import CheckpointError
from ..checkpoint import COUNTER
from .family import Converted, WeightsFile, count_anchors, cut_prefix, pair_logits, recognise_resnet, rename, take
from .published import identify

NAME = "torchvision"
INERT = ("argparse.Namespace",)  # its reference scripts store their arguments
SECOND_STAGE = ("roi_heads.",)
LATERAL = re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.")
HEAD_CONV = re.compile(r"rpn\.head\.conv\.(\d+)\.0\.")
NUM_STAGES = 4  # C2..C5


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are a torchvision detector's; of one without proposals as well."""
    starts = ("backbone.body.", "backbone.fpn.inner_blocks.", "rpn.head.", "head.classification_head.")
    return any(name.startswith(starts) for name in names) and not any(name.startswith("pyramid.") for name in names)


def convert(file: WeightsFile) -> Converted:
    """Its proposal network in our terms.

    Raises:
        CheckpointError: a detector without proposals, or parts that ours has no place for.
    """
    _refuse_other_detectors(file)
    backbone = recognise_resnet(cut_prefix(file.state, "backbone.body."), file.origin)
    num_stages = len({match[1] for match in map(LATERAL.match, file.state) if match})
    if num_stages != NUM_STAGES:
        raise CheckpointError(f"{file.origin}: its pyramid stands on {num_stages} stages, not on the four of C2..C5")
    renamed = rename(file, _make_table(file.state), SECOND_STAGE)
    logits = take(file, "rpn.head.cls_logits.weight")
    num_anchors, is_pair = count_anchors(logits, take(file, "rpn.head.bbox_pred.weight"), file.origin)
    if is_pair:
        raise CheckpointError(
            f"{file.origin}: rpn.head.cls_logits has {len(logits)} channels for {num_anchors} anchors"
        )
    weight, bias = pair_logits(renamed["head.cls.weight"], take(file, "rpn.head.cls_logits.bias"))

    norm_eps, notes = _find_norm_eps(file)
    config = Config(
        backbone=backbone,
        norm_eps=norm_eps,
        pyramid_channels=renamed["pyramid.laterals.0.weight"].shape[0],
        pyramid_norm="batch" if "pyramid.lateral_norms.0.weight" in renamed else "none",
        head_depth=sum(name.startswith("head.convs.") and name.endswith(".weight") for name in renamed),
        input=InputOptions(short_side=800, long_side=1333, resize="bilinear", size_rounding="down"),
        anchors=AnchorOptions(rounded=True, strides_from_shape=True),
        selection=SelectionOptions(per_level=1000, keep=1000, min_size=1e-3),
    )
    return Converted(config, {**renamed, "head.cls.weight": weight, "head.cls.bias": bias}, notes)


def _refuse_other_detectors(file: WeightsFile) -> None:
    names = file.state
    if any(name.startswith("head.classification_head.") for name in names):
        is_fcos = any("bbox_ctrness" in name for name in names)
        has_pyramid = any(name.startswith("backbone.fpn.") for name in names)
        kind = "FCOS" if is_fcos else "RetinaNet" if has_pyramid else "SSD"
        raise CheckpointError(
            f"{file.origin}: is torchvision's {kind}, which names classes in one stage and proposes no regions; pass a "
            f"Faster, Mask or Keypoint R-CNN"
        )
    for start, part in (("rpn.head.", "region proposal head"), ("backbone.fpn.", "feature pyramid")):
        if not any(name.startswith(start) for name in names):
            raise CheckpointError(f"{file.origin}: has no {part} ({start}*), without which it cannot propose")


def _make_table(names: Collection[str]) -> dict[str, str]:
    """What replaces which beginning of a name, of both versions of torchvision's names."""
    table = {
        "backbone.body.": "backbone.body.",
        "rpn.head.conv.weight": "head.convs.0.weight",  # before version 2
        "rpn.head.conv.bias": "head.convs.0.bias",
        "rpn.head.cls_logits.": "head.cls.",
        "rpn.head.bbox_pred.": "head.reg.",
    }
    for depth in {match[1] for match in map(HEAD_CONV.match, names) if match}:
        table[f"rpn.head.conv.{depth}.0."] = f"head.convs.{depth}."
    for theirs, ours, norms in (
        ("inner_blocks", "laterals", "lateral_norms"),
        ("layer_blocks", "outputs", "output_norms"),
    ):
        for i in range(NUM_STAGES):
            start = f"backbone.fpn.{theirs}.{i}."
            table |= {f"{start}{leaf}": f"pyramid.{ours}.{i}.{leaf}" for leaf in ("weight", "bias")}  # before version 2
            table |= {f"{start}0.": f"pyramid.{ours}.{i}.", f"{start}1.": f"pyramid.{norms}.{i}."}
    return table


def _find_norm_eps(file: WeightsFile) -> tuple[float | None, tuple[str, ...]]:
    """The epsilon of batch norm, and what was assumed."""
    published = identify(file.path) if file.path else None
    if published is not None:
        return published.norm_eps, ()
    settings = (
        "the file holds no settings, so torchvision's defaults are assumed: sides of 800 and 1333 px, ImageNet's mean "
        "and standard deviation, anchors of 32..512 px; --set changes them"
    )
    if any(name.endswith(COUNTER) for name in file.state):  # trained norms, which never had another epsilon
        return None, (settings,)
    epsilon = (
        "batch norm's epsilon is taken as 1e-5; that of weights fine-tuned from torchvision's first COCO weights is 0: "
        "--set norm_eps=0"
    )
    return None, (settings, epsilon)
