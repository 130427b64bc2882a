"""What of an mmdetection configuration decides proposals, of version 2 and 3 alike.

A value that is not there has mmdetection's default; one that ours cannot be is refused. Boxes are dropped by their size
as mmdetection does it since 2.11.
Source: mmdetection 3.3, models/{backbones/resnet,necks/fpn,dense_heads/rpn_head}.py,
models/task_modules/{prior_generators/anchor_generator,coders/delta_xywh_bbox_coder}.py,
models/data_preprocessors/data_preprocessor.py; 2.28, datasets/pipelines/transforms.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...config import AnchorOptions, ChannelOrder, InputOptions, Resize, SelectionOptions
from ...errors import CheckpointError, ConfigError
from .mmdetection_config import Unknown, find_dicts, name_type
from .settings import Settings, find, least_above, to_unit_rgb

EVERY_REGION = 1_000_000  # where nms_pre sets no limit
PLAIN_NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN", "NaiveSyncBN")  # one and the same when not training
PLAIN_CONVOLUTIONS = ("", "Conv", "Conv2d")
NO_COLOUR = (0.0, 0.0, 0.0)
WITHOUT_EFFECT = (  # steps of a test pipeline that leave the pixels as they are
    *("LoadImageFromFile", "LoadImageFromNDArray", "LoadImageFromWebcam", "LoadAnnotations", "MultiScaleFlipAug"),
    *("RandomFlip", "ImageToTensor", "DefaultFormatBundle", "ToTensor", "Collect", "PackDetInputs"),
)
RESIZE_BACKENDS: Mapping[str, Resize] = {"cv2": "opencv", "pillow": "pillow"}


class MMSettings(NamedTuple):
    """`Settings`, and what changes the weights of the head."""

    common: Settings
    delta_means: tuple[float, ...]  # what a predicted delta is multiplied with, and what is added then
    delta_stds: tuple[float, ...]


class _Refusal(ValueError):  # noqa: N818  never leaves this file
    """A value that ours cannot have; the message is half a sentence."""


def read_settings(values: Mapping[str, Any], origin: str, *, has_bottlenecks: bool) -> MMSettings:
    """What a configuration says of proposals.

    Args:
        values: as `parse_config` gives them.
        origin: for messages.
        has_bottlenecks: whether the body has a 1x1 convolution that a stride could be in.

    Raises:
        CheckpointError: a network that ours cannot be, or values that make no sense.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{origin}: its configuration text has no model, so that its settings are not known")
    try:
        norm_eps = _read_norm(model)
        input_options, notes = _read_input(values, model)
        coder = find(model, "rpn_head.bbox_coder", {})
        _require(coder, "rpn_head.bbox_coder", {"type": ("", "DeltaXYWHBBoxCoder"), "clip_border": (True,)})
        _require(coder, "rpn_head.bbox_coder", {"add_ctr_clamp": (False,)})
        common = Settings(
            stride_in_1x1=_read_backbone(model) == "caffe" and has_bottlenecks,
            input=input_options,
            anchors=_read_anchors(find(model, "rpn_head", {})),
            selection=_read_selection(values, model),
            norm_eps=norm_eps,
            notes=notes,
        )
        means, stds = (
            tuple(
                float(value) for value in coder.get(f"target_{name}", find(model, f"rpn_head.target_{name}", default))
            )
            for name, default in (("means", (0.0,) * 4), ("stds", (1.0,) * 4))
        )
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{origin}: its configuration cannot be converted exactly ({error})") from error
    return MMSettings(common, means, stds)


def _require(values: Mapping[str, Any], where: str, allowed: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a value that is there and not allowed; types are compared without their packages."""
    if not isinstance(values, Mapping):
        raise _Refusal(f"{where} is no dict of values")
    for key, choices in allowed.items():
        value = name_type(values) if key == "type" else values.get(key, choices[0])
        value = list(value) if isinstance(value, tuple) else value
        if value not in choices:
            wanted = " or ".join(repr(choice) for choice in choices if choice != "")
            raise _Refusal(f"{where}.{key} is {value!r}, not {wanted}")


def _read_backbone(model: Mapping[str, Any]) -> str:
    """The style of the backbone, after a look at all that would leave no trace in the weights."""
    backbone = find(model, "backbone", {})
    _require(
        backbone,
        "backbone",
        {
            "type": ("ResNet", "ResNeXt"),
            "style": ("pytorch", "caffe"),
            "strides": ([1, 2, 2, 2],),
            "dilations": ([1, 1, 1, 1],),
            "out_indices": ([0, 1, 2, 3],),
            "num_stages": (4,),
            "deep_stem": (False,),
            "avg_down": (False,),
            "dcn": (None,),
            "plugins": (None,),
        },
    )
    _require_plain_convolutions(backbone, "backbone")
    _require(
        find(model, "neck", {}),
        "neck",
        {
            "type": ("FPN",),
            "start_level": (0,),
            "end_level": (-1, 3, 4),
            "num_outs": (5,),
            "add_extra_convs": (False,),
            "act_cfg": (None,),
            "no_norm_on_lateral": (False,),
        },
    )
    _require_plain_convolutions(find(model, "neck", {}), "neck")
    _require(find(model, "neck.upsample_cfg", {}), "neck.upsample_cfg", {"mode": ("nearest",)})
    _require(find(model, "rpn_head", {}), "rpn_head", {"type": ("RPNHead",), "num_classes": (1,)})
    return str(backbone.get("style", "pytorch"))


def _require_plain_convolutions(values: Mapping[str, Any], where: str) -> None:
    kind = values.get("conv_cfg") or {}
    if name_type(kind) not in PLAIN_CONVOLUTIONS or kind.get("type", "") is None:
        raise _Refusal(f"{where}.conv_cfg is {dict(kind)!r}, not a plain convolution")


def _read_norm(model: Mapping[str, Any]) -> float | None:
    """The epsilon of batch norm where somebody says it: one for the whole network, since ours has one."""
    parts = {"backbone": find(model, "backbone.norm_cfg", None), "neck": find(model, "neck.norm_cfg", None)}
    said = {name: norm for name, norm in parts.items() if norm}
    for name, norm in said.items():
        _require(norm, f"{name}.norm_cfg", {"type": ("", *PLAIN_NORMS)})
    epsilons = {float(norm.get("eps", 1e-5)) for norm in said.values()}
    if len(epsilons) > 1:
        raise _Refusal(f"norm_cfg.eps is {' and '.join(map(str, sorted(epsilons)))}, where ours is one")
    epsilon = next(iter(epsilons), 1e-5)
    return None if epsilon == 1e-5 else epsilon


def _read_anchors(head: Mapping[str, Any]) -> AnchorOptions:
    generator = head.get("anchor_generator")
    if generator is None:  # before 2.0 was released
        names = {"scales": "anchor_scales", "ratios": "anchor_ratios", "strides": "anchor_strides"}
        generator = {ours: head[theirs] for ours, theirs in names.items() if theirs in head}
    where = "rpn_head.anchor_generator"
    _require(generator, where, {"type": ("", "AnchorGenerator"), "center_offset": (0, 0.0), "centers": (None,)})
    strides = [list(stride) if isinstance(stride, (list, tuple)) else [stride] * 2 for stride in generator["strides"]]
    if any(horizontal != vertical for horizontal, vertical in strides):
        raise _Refusal(f"{where}.strides {strides} differ in the two directions")
    scales = generator.get("scales")
    if scales is None:
        octave, per_octave = generator["octave_base_scale"], int(generator["scales_per_octave"])
        scales = [octave * 2 ** (i / per_octave) for i in range(per_octave)]
    if len(scales) != 1:
        raise _Refusal(f"{where} has {len(scales)} sizes a level, where ours has one")
    bases = generator.get("base_sizes") or [stride for stride, _ in strides]
    return AnchorOptions(
        sizes=tuple(float(base) * float(scales[0]) for base in bases),
        ratios=tuple(float(ratio) for ratio in generator["ratios"]),
        strides=tuple(int(stride) for stride, _ in strides),
    )


def _read_selection(values: Mapping[str, Any], model: Mapping[str, Any]) -> SelectionOptions:
    test = find(model, "test_cfg.rpn", None) or find(values, "test_cfg.rpn", {})
    training = find(model, "train_cfg.rpn_proposal", None) or find(values, "train_cfg.rpn_proposal", {})
    nms = test.get("nms", {"iou_threshold": test.get("nms_thr", 0.7)})
    _require(nms, "test_cfg.rpn.nms", {"type": ("", "nms"), "class_agnostic": (False,)})
    _require(test, "test_cfg.rpn", {"nms_across_levels": (False,)})
    unusual = set(nms) - {"type", "class_agnostic", "iou_threshold", "iou_thr", "split_thr"}
    if unusual:
        raise _Refusal(f"test_cfg.rpn.nms has {min(unusual)}")
    most, smallest = int(test.get("nms_pre", -1)), float(test.get("min_bbox_size", -1))
    if smallest > 0 and name_type(model) == "RPN":  # a two-stage detector takes it in the network's input, as ours does
        raise _Refusal(
            f"test_cfg.rpn.min_bbox_size is {smallest:g}, which an RPN of its own takes in the original image"
        )
    return SelectionOptions(
        per_level=most if most > 0 else EVERY_REGION,
        keep=_read_count(test, 1000),
        keep_training=_read_count(training, 1000),
        nms_iou=float(nms.get("iou_threshold", nms.get("iou_thr", 0.7))),
        min_size=least_above(smallest) if smallest >= 0 else 0.0,
        clamp="both",
    )


def _read_count(values: Mapping[str, Any], default: int) -> int:
    return int(values.get("max_per_img", values.get("nms_post", default)))


def _read_input(values: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[InputOptions, tuple[str, ...]]:
    steps = _find_test_steps(values)
    by_type = {name_type(step): step for step in steps}
    notes = []
    if "Resize" in by_type:
        resize = _read_resize(by_type["Resize"], by_type)
    else:
        resize = {"short_side": 800, "long_side": 1333, "resize": "opencv"}
        notes.append("the configuration does not say how test images are resized; sides of 800 and 1333 px are assumed")
    normalise = _read_preprocessor(values, model) or _read_normalize(values, by_type)
    others = [name for name in by_type if name not in {*WITHOUT_EFFECT, "Resize", "Normalize", "Pad", ""}]
    if others:
        notes.append(f"of the test pipeline {', '.join(sorted(others))} is not taken over")
    return InputOptions(**resize, **normalise), tuple(notes)


def _find_test_steps(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every step of the test pipeline: of version 3, of 2, or by its own name where no data set has one."""
    for key in ("test_dataloader.dataset.pipeline", "data.test.pipeline", "test_pipeline"):
        pipeline = find(values, key, None)
        if isinstance(pipeline, (list, tuple)):
            return [each for each in find_dicts(pipeline) if "type" in each]
    return []


def _read_resize(step: Mapping[str, Any], by_type: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    _require(step, "Resize", {"keep_ratio": (True,), "interpolation": ("bilinear",), "backend": tuple(RESIZE_BACKENDS)})
    if step.get("keep_ratio") is not True:  # by default the sides are stretched
        raise _Refusal("Resize.keep_ratio is not True")
    scale = step.get("scale", step.get("img_scale", by_type.get("MultiScaleFlipAug", {}).get("img_scale")))
    if isinstance(scale, list) and len(scale) == 1:
        scale = scale[0]
    if not isinstance(scale, (list, tuple)) or len(scale) != 2 or not all(isinstance(side, int) for side in scale):
        raise _Refusal(f"test images are resized to {scale!r}, not to a (long side, short side)")
    load = by_type.get("LoadImageFromFile", {})
    _require(load, "LoadImageFromFile", {"channel_order": ("bgr",), "color_type": ("color",)})
    method = RESIZE_BACKENDS[step.get("backend", "cv2")]
    if load.get("to_float32", False):
        if method == "pillow":
            raise _Refusal("images are resized by Pillow as floating-point numbers")
        method = "bilinear"
    return {"short_side": min(scale), "long_side": max(scale), "resize": method}


def _read_preprocessor(values: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Version 3: the model normalises and pads."""
    options = model.get("data_preprocessor", values.get("data_preprocessor"))
    if not isinstance(options, Mapping):
        return None
    _require(options, "data_preprocessor", {"type": ("", "DetDataPreprocessor"), "pad_value": (0, 0.0)})
    swaps = bool(options.get("bgr_to_rgb", False)) or bool(options.get("rgb_to_bgr", False))
    return _normalise(options, "RGB" if swaps else "BGR", int(options.get("pad_size_divisor", 1)))


def _read_normalize(values: Mapping[str, Any], by_type: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Version 2: steps of the pipeline normalise and pad."""
    options = by_type.get("Normalize", values.get("img_norm_cfg"))
    if not isinstance(options, Mapping):
        raise _Refusal("it does not say how images are normalised")
    pad = by_type.get("Pad", {"size_divisor": 32})
    _require(pad, "Pad", {"size": (None,), "pad_val": (0, 0.0), "pad_to_square": (False,)})
    names = list(by_type)
    if {"Pad", "Normalize"} <= set(names) and names.index("Pad") < names.index("Normalize"):
        raise _Refusal("images are padded before they are normalised")
    return _normalise(options, "RGB" if options.get("to_rgb", True) else "BGR", int(pad.get("size_divisor") or 1))


def _normalise(options: Mapping[str, Any], order: ChannelOrder, pad_multiple: int) -> dict[str, Any]:
    mean, std = (options.get(key) or default for key, default in (("mean", NO_COLOUR), ("std", (1.0, 1.0, 1.0))))
    if Unknown in (mean, std):
        raise _Refusal("mean and std are more than values")
    return {
        "mean": to_unit_rgb(mean, order),
        "std": to_unit_rgb(std, order),
        "order": order,
        "pad_multiple": pad_multiple,
    }
