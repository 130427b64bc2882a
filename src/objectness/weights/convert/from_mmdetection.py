"""mmdetection's RPN, Faster, Mask, Cascade R-CNN and others that propose alike, on a ResNet with a feature pyramid.

Of version 2 and 3. Their checkpoints hold the text of their configuration, which is taken apart and never run; without
one, what the weights tell is taken together with mmdetection's usual settings, and said.
Source: mmdetection 3.3 and 2.28, models/dense_heads/{rpn_head,base_dense_head}.py, models/necks/fpn.py; its
docs/compatibility.md for the order of logits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...config import AnchorOptions, ClassOrder, Config, InputOptions, SelectionOptions
from ...errors import CheckpointError
from .family import Converted, WeightsFile, count_anchors, cut_prefix, pair_logits, recognise_resnet, rename, take
from .mmdetection_config import parse_config
from .mmdetection_settings import MMSettings, read_settings
from .settings import SMALLEST, Settings, has_bottlenecks, recognise_style, to_unit_rgb

NAME = "mmdetection"
INERT = (  # the log that training keeps, and how Python pickles its methods
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.log_buffer.LogBuffer",  # before mmengine was released
    "builtins.getattr",
    "mmengine.config.config.Config",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.Config",
    "mmcv.utils.config.ConfigDict",
)
BESIDE = ("roi_head.", "mask_head.", "semantic_head.", "panoptic_fusion_head.", "data_preprocessor.")
NUM_STAGES = 4  # C2..C5
HEAD_CONV = re.compile(r"(?:rpn|bbox)_head\.rpn_conv\.(\d+)\.conv\.")
FIRST_WITH_OBJECT_FIRST = (2, 5)  # version; before it, background was the first of two logits
REMEDY = "--set changes them"


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are mmdetection's; those of its other detectors as well."""
    starts = ("neck.", "rpn_head.", "roi_head.", "bbox_head.")
    return any(name.startswith(starts) for name in names)


def convert(file: WeightsFile) -> Converted:
    """Its proposal network in our terms.

    Raises:
        CheckpointError: a detector without a proposal network on a pyramid, a setting or a part that ours has no place
            for, or a configuration that cannot be read.
    """
    head = _refuse_other_detectors(file)
    renamed = rename(file, _make_table(file.state, head), BESIDE)
    body = cut_prefix(renamed, "backbone.body.")
    backbone = recognise_resnet(body, file.origin)
    channels = renamed["pyramid.laterals.0.weight"].shape[0]
    _check_widths(file, renamed, channels)

    settings = _find_settings(file, body, backbone, is_alone=not any(n.startswith("roi_head.") for n in file.state))
    common, notes = settings.common, settings.common.notes
    state = {**renamed, **_fold_targets(renamed, settings)}
    _, is_pair = count_anchors(state["head.cls.weight"], state["head.reg.weight"], file.origin)
    class_order: ClassOrder = "object_first"
    if is_pair:
        class_order, order_notes = _find_class_order(file)
        notes += order_notes
    else:
        weight, bias = pair_logits(state["head.cls.weight"], take(file, f"{head}rpn_cls.bias"))
        state |= {"head.cls.weight": weight, "head.cls.bias": bias}
    return Converted(
        Config(
            backbone=backbone,
            norm_eps=common.norm_eps,
            stride_in_1x1=common.stride_in_1x1,
            pyramid_channels=channels,
            pyramid_norm="batch" if "pyramid.lateral_norms.0.weight" in renamed else "none",
            head_depth=sum(name.startswith("head.convs.") and name.endswith(".weight") for name in renamed),
            class_order=class_order,
            input=common.input,
            anchors=common.anchors,
            selection=common.selection,
        ),
        state,
        notes,
    )


def _refuse_other_detectors(file: WeightsFile) -> str:
    """The beginning of the proposal head's names, of a file that has one on a pyramid."""

    def has(start: str) -> bool:
        return any(name.startswith(start) for name in file.state)

    heads = [head for head in ("rpn_head.", "bbox_head.") if has(f"{head}rpn_cls.")]
    is_first_version = has("bbox_head.fc_cls.") or (_read_version(file, (9, 9)) < (2, 0) and not has("roi_head."))
    reason = ""
    if has("rpn_head.") and not heads:
        reason = "has a proposal head of another kind than RPNHead, such as a guided or cascaded one"
    elif not heads and has("roi_head."):
        reason = "has no proposal head (rpn_head.*), without which it cannot propose"
    elif not heads:
        reason = "is a detector of one stage, which names classes and proposes no regions"
    elif is_first_version:
        reason = "is of mmdetection 1, whose boxes were a pixel wider; convert it to version 2 with mmdetection first"
    elif not has("neck."):
        reason = "has no feature pyramid (neck.*); a C4 or DC5 model proposes from one map alone"
    elif has("neck.lateral_convs.0.gn.") or has("neck.fpn_convs.0.gn."):
        reason = "has group norm in its pyramid, which ours has not"
    elif has(f"neck.fpn_convs.{NUM_STAGES}."):
        reason = "makes its sixth map with a convolution (add_extra_convs), where ours pools"
    elif not all(has(f"neck.lateral_convs.{i}.conv.") for i in range(NUM_STAGES)):
        reason = "has another pyramid than FPN's on four stages"
    elif any(".conv_offset." in name for name in file.state):
        reason = "has deformable convolutions in its backbone, which ours has not"
    elif has("neck.lateral_convs.0.bn.") != has("neck.fpn_convs.0.bn."):
        reason = "has batch norm in some convolutions of its pyramid, where ours has it in all or none"
    if reason:
        raise CheckpointError(f"{file.origin}: {reason}")
    return heads[0]


def _make_table(names: Collection[str], head: str) -> dict[str, str]:
    """What replaces which beginning of a name."""
    table = {
        "backbone.": "backbone.body.",
        f"{head}rpn_conv.weight": "head.convs.0.weight",
        f"{head}rpn_conv.bias": "head.convs.0.bias",
        f"{head}rpn_cls.": "head.cls.",
        f"{head}rpn_reg.": "head.reg.",
    }
    for match in map(HEAD_CONV.match, names):
        if match:
            table[match[0]] = f"head.convs.{match[1]}."
    for i in range(NUM_STAGES):
        for theirs, ours, norms in (("lateral", "laterals", "lateral_norms"), ("fpn", "outputs", "output_norms")):
            table[f"neck.{theirs}_convs.{i}.conv."] = f"pyramid.{ours}.{i}."
            table[f"neck.{theirs}_convs.{i}.bn."] = f"pyramid.{norms}.{i}."
    return table


def _check_widths(file: WeightsFile, renamed: Mapping[str, Tensor], channels: int) -> None:
    for name, tensor in renamed.items():
        if name.startswith("head.convs.") and tensor.ndim == 4 and tuple(tensor.shape) != (channels, channels, 3, 3):
            raise CheckpointError(
                f"{file.origin}: its head convolves with weights of {tuple(tensor.shape)}, where ours keeps the "
                f"{channels} channels of its pyramid"
            )


def _find_settings(file: WeightsFile, body: Mapping[str, Tensor], backbone: str, *, is_alone: bool) -> MMSettings:
    """Those of the configuration in the file, else mmdetection's usual ones and what the weights tell."""
    meta = file.extra.get("meta")
    texts = [meta[key] for key in ("cfg", "config") if isinstance(meta, Mapping) and isinstance(meta.get(key), str)]
    if texts:
        values = parse_config(texts[0], file.origin)
        return read_settings(values, file.origin, has_bottlenecks=has_bottlenecks(backbone))
    style = recognise_style(body, backbone)
    keep = 2000 if is_alone else 1000
    usual = (
        f"the file holds no configuration; sides of 800 and 1333 px, anchors of 32..512 px, {keep} regions a level "
        f"and 1000 proposals are assumed, as in mmdetection's own {'RPN' if is_alone else 'R-CNN'} configurations"
    )
    common = Settings(
        stride_in_1x1=style.stride_in_1x1,
        input=InputOptions(
            mean=to_unit_rgb(style.mean, style.order),
            std=to_unit_rgb(style.std, style.order),
            order=style.order,
            resize="opencv",
        ),
        anchors=AnchorOptions(),
        selection=SelectionOptions(per_level=keep, keep=1000, keep_training=1000, min_size=SMALLEST, clamp="both"),
        notes=(style.explain(REMEDY), usual),
    )
    return MMSettings(common, (0.0,) * 4, (1.0,) * 4)


def _fold_targets(renamed: Mapping[str, Tensor], settings: MMSettings) -> dict[str, Tensor]:
    """Weights that predict what others turn into deltas afterwards: delta = predicted * std + mean."""
    if settings.delta_means == (0.0,) * 4 and settings.delta_stds == (1.0,) * 4:
        return {}
    weight, bias = renamed["head.reg.weight"].double(), renamed["head.reg.bias"].double()  # (4 A, ...) and (4 A,)
    stds = torch.tensor(settings.delta_stds, dtype=torch.float64).repeat(len(bias) // 4)  # (4,) -> (4 A,)
    means = torch.tensor(settings.delta_means, dtype=torch.float64).repeat(len(bias) // 4)
    return {
        "head.reg.weight": (weight * stds[:, None, None, None]).float(),
        "head.reg.bias": (bias * stds + means).float(),
    }


def _find_class_order(file: WeightsFile) -> tuple[ClassOrder, tuple[str, ...]]:
    """Which of two logits is the object's; it changed with version 2.5."""
    meta = file.extra.get("meta")
    if isinstance(meta, Mapping) and ("cfg" in meta or "mmengine_version" in meta):
        return "object_first", ()  # version 3
    version = _read_version(file, (0, 0))
    if version == (0, 0):
        return "object_first", (
            "the file does not name its version, and the first of two logits is taken as the object's, as mmdetection "
            "has it since 2.5; --set class_order=object_last for an older one",
        )
    return ("object_first" if version >= FIRST_WITH_OBJECT_FIRST else "object_last"), ()


def _read_version(file: WeightsFile, default: tuple[int, int]) -> tuple[int, int]:
    """(major, minor) of the mmdetection that wrote a file, where it says so."""
    meta = file.extra.get("meta")
    text = meta.get("mmdet_version") if isinstance(meta, Mapping) else None
    match = re.match(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else default
