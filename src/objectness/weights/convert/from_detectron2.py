"""detectron2's RPN, Faster, Mask, Keypoint, Cascade R-CNN and Panoptic FPN on a ResNet with a feature pyramid.

A weights file holds no settings. Those of the config.yaml that training left beside it are taken; elsewhere what the
weights tell is taken together with detectron2's usual settings, and said. Frozen batch norm is taken as detectron2 has
loaded it since 2021: the statistics as they lie in the file, whatever version it names, plus an epsilon of 1e-5.
Source: detectron2, modeling/{backbone/resnet,backbone/fpn,anchor_generator,proposal_generator/rpn}.py,
layers/batch_norm.py, checkpoint/detection_checkpoint.py, configs/Base-RCNN-FPN.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...config import NUM_LEVELS, AnchorOptions, ChannelOrder, Config, InputOptions, SelectionOptions
from ...errors import CheckpointError
from ...geometry.anchors import make_shapes
from .detectron2_config import read_config, read_settings
from .family import Converted, WeightsFile, count_anchors, cut_prefix, pair_logits, recognise_resnet, rename, take
from .settings import SMALLEST, Settings, find, has_bottlenecks, recognise_style, to_unit_rgb

NAME = "detectron2"
INERT = ()
CONFIG_FILE = "config.yaml"
BESIDE = ("roi_heads.", "sem_seg_head.", "proposal_generator.anchor_generator.", "pixel_mean", "pixel_std")
HEAD = "proposal_generator.rpn_head."
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
LAYER = re.compile(r"backbone\.bottom_up\.(stem|res(\d)\.(\d+))\.(conv(\d)|shortcut)\.(norm\.)?")
NORM = re.compile(r"(backbone\.bottom_up\..+\.norm\.)weight")
HEAD_CONV = re.compile(r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.")
STAGES = range(2, 6)
ANCHOR_TOLERANCE = 1e-3  # px; corners are stored in float32
REMEDY = "a config.yaml beside the file is read, and --set changes them"


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are detectron2's; those of its other models and of Caffe2 as well."""
    starts = ("backbone.bottom_up.", "backbone.fpn_lateral", "backbone.stem.", "proposal_generator.", "res2_0_branch")
    return any(name.startswith(starts) for name in names)


def convert(file: WeightsFile) -> Converted:
    """Its proposal network in our terms.

    Raises:
        CheckpointError: a model without a proposal network on a pyramid, or parts that ours has no place for.
    """
    _refuse_other_models(file)
    path = None if file.path is None else file.path.parent / CONFIG_FILE
    config = read_config(path) if path is not None and path.is_file() else None
    file, norm_notes = _complete_norms(file, config)
    renamed = rename(file, _make_table(file.state), BESIDE)
    body = cut_prefix(renamed, "backbone.body.")
    backbone = recognise_resnet(body, file.origin)
    channels = renamed["pyramid.laterals.0.weight"].shape[0]
    _check_head_width(file, renamed, channels)

    logits, deltas = take(file, f"{HEAD}objectness_logits.weight"), take(file, f"{HEAD}anchor_deltas.weight")
    num_anchors, is_pair = count_anchors(logits, deltas, file.origin)
    if is_pair:
        raise CheckpointError(f"{file.origin}: objectness_logits has {len(logits)} channels for {num_anchors} anchors")
    weight, bias = pair_logits(renamed["head.cls.weight"], take(file, f"{HEAD}objectness_logits.bias"))

    if config is not None and path is not None:
        _check_depth(config, path, backbone)
        settings = read_settings(config, str(path), has_bottlenecks=has_bottlenecks(backbone))
    else:
        settings = _assume_settings(file, body, backbone, is_there=path is not None and path.is_file())
    anchors = _compare_anchors(file, settings.anchors, is_known=config is not None)
    return Converted(
        Config(
            backbone=backbone,
            stride_in_1x1=settings.stride_in_1x1,
            pyramid_channels=channels,
            pyramid_norm="batch" if "pyramid.lateral_norms.0.weight" in renamed else "none",
            head_depth=sum(name.startswith("head.convs.") and name.endswith(".weight") for name in renamed),
            input=settings.input,
            anchors=anchors,
            selection=settings.selection,
        ),
        {**renamed, "head.cls.weight": weight, "head.cls.bias": bias},
        settings.notes + norm_notes,
    )


def _refuse_other_models(file: WeightsFile) -> None:
    def has(start: str) -> bool:
        return any(name.startswith(start) for name in file.state)

    reason = ""
    if has("res2_0_branch"):
        reason = "holds Caffe2's names, those of an ImageNet backbone; pass what detectron2 made of it in training"
    elif has("head."):
        reason = "is detectron2's RetinaNet or FCOS, which names classes in one stage and proposes no regions"
    elif not has(HEAD):
        reason = f"has no region proposal head ({HEAD}*), without which it cannot propose"
    elif not has("backbone.fpn_lateral"):
        reason = "has no feature pyramid (backbone.fpn_lateral*); a C4 or DC5 model proposes from one map alone"
    elif not all(has(f"backbone.fpn_lateral{stage}.") for stage in STAGES) or has("backbone.top_block."):
        reason = "has another pyramid than that of C2..C5 with a pooled P6"
    elif has("backbone.fpn_lateral2.norm.") and not has("backbone.fpn_lateral2.norm.running_mean"):
        reason = "has group norm in its pyramid, which ours has not"
    if reason:
        raise CheckpointError(f"{file.origin}: {reason}")


def _complete_norms(file: WeightsFile, config: Mapping[str, object] | None) -> tuple[WeightsFile, tuple[str, ...]]:
    """A file whose frozen norms have statistics: where those are left out, detectron2 takes means of 0, variances of 1.

    Group norm looks the same, so that somebody must say what they are: some other norm of the file, or a configuration.
    """
    starts = [match[1] for match in map(NORM.fullmatch, file.state) if match]
    bare = [start for start in starts if f"{start}running_var" not in file.state]
    if not bare:
        return file, ()
    is_said = config is not None and find(config, "MODEL.RESNETS.NORM", "FrozenBN") == "FrozenBN"
    if len(bare) == len(starts) and not is_said:
        raise CheckpointError(
            f"{file.origin}: its backbone's norms have no running statistics: they are group norm, which ours has not, "
            f"or frozen batch norm folded into affine layers, which a {CONFIG_FILE} beside the file must say"
        )
    state = dict(file.state)
    for start in bare:
        state[f"{start}running_mean"] = torch.zeros_like(state[f"{start}weight"])
        state[f"{start}running_var"] = torch.ones_like(state[f"{start}weight"])
    note = f"{len(bare)} batch norms have no running statistics; means of 0 and variances of 1 are taken"
    return file._replace(state=state), (note,)


def _make_table(names: Collection[str]) -> dict[str, str]:
    """What replaces which beginning of a name."""
    table = {
        f"{HEAD}conv.weight": "head.convs.0.weight",
        f"{HEAD}conv.bias": "head.convs.0.bias",
        f"{HEAD}objectness_logits.": "head.cls.",
        f"{HEAD}anchor_deltas.": "head.reg.",
    }
    for match in map(HEAD_CONV.match, names):
        if match:
            table[match[0]] = f"head.convs.{match[1]}."
    for stage in STAGES:
        for theirs, ours, norms in (("lateral", "laterals", "lateral_norms"), ("output", "outputs", "output_norms")):
            table[f"backbone.fpn_{theirs}{stage}."] = f"pyramid.{ours}.{stage - 2}."
            table[f"backbone.fpn_{theirs}{stage}.norm."] = f"pyramid.{norms}.{stage - 2}."
    for match in map(LAYER.match, names):
        if match:
            table[match[0]] = _rename_layer(match)
    return table


def _rename_layer(match: re.Match[str]) -> str:
    part, stage, block, _, conv, norm = match.groups()
    start = "backbone.body." if part == "stem" else f"backbone.body.layer{int(stage) - 1}.{block}."
    if conv is None:
        return f"{start}downsample.{1 if norm else 0}."
    return f"{start}{'bn' if norm else 'conv'}{conv}."


def _check_head_width(file: WeightsFile, renamed: Mapping[str, Tensor], channels: int) -> None:
    for name, tensor in renamed.items():
        if name.startswith("head.convs.") and tensor.ndim == 4 and tuple(tensor.shape) != (channels, channels, 3, 3):
            raise CheckpointError(
                f"{file.origin}: its head convolves with weights of {tuple(tensor.shape)}, where ours keeps the "
                f"{channels} channels of its pyramid"
            )


def _check_depth(config: Mapping[str, object], path: Path, backbone: str) -> None:
    depth = find(config, "MODEL.RESNETS.DEPTH", 50)
    if not re.match(rf"resne(x)?t{depth}(_|$)", backbone):
        raise CheckpointError(
            f"{path}: is of a ResNet of depth {depth}, and the weights are of {backbone}; put the right one beside them"
        )


def _assume_settings(file: WeightsFile, body: Mapping[str, Tensor], backbone: str, *, is_there: bool) -> Settings:
    """detectron2's usual settings, and what the weights tell."""
    style = recognise_style(body, backbone)
    order, mean, std, notes = style.order, tuple(style.mean), tuple(style.std), [style.explain(REMEDY)]
    if "pixel_mean" in file.state and "pixel_std" in file.state:
        mean, std = (tuple(take(file, name).flatten().tolist()) for name in ("pixel_mean", "pixel_std"))
        if len(mean) != 3 or len(std) != 3:
            raise CheckpointError(f"{file.origin}: its pixel_mean has {len(mean)} channels, not 3")
        order = _find_order(mean)
        stride = "1x1" if style.stride_in_1x1 else "3x3"
        notes = [
            f"mean and standard deviation are the file's own; {style.origin}: {order} input and strides in the "
            f"{stride} convolutions are assumed; {REMEDY}"
        ]
    is_alone = not any(name.startswith("roi_heads.") for name in file.state)
    keep = 2000 if is_alone else 1000
    notes.append(
        f"sides of 800 and 1333 px, anchors of 32..512 px, 1000 regions a level and {keep} proposals are assumed, as "
        f"in detectron2's own {'RPN' if is_alone else 'R-CNN'} configurations"
    )
    if is_there:
        notes.append(f"the {CONFIG_FILE} beside the file is not in detectron2's YAML form and was not used")
    return Settings(
        stride_in_1x1=style.stride_in_1x1,
        input=InputOptions(
            mean=to_unit_rgb(mean, order),
            std=to_unit_rgb(std, order),
            order=order,
            resize="pillow",
            size_rounding="nearest_twice",
        ),
        anchors=AnchorOptions(),
        selection=SelectionOptions(per_level=1000, keep=keep, keep_training=1000, min_size=SMALLEST),
        notes=tuple(notes),
    )


def _find_order(mean: tuple[float, ...]) -> ChannelOrder:
    """Red is brighter than blue in everybody's photos, so a mean tells its order; detectron2's usual BGR where not."""
    return "RGB" if mean[0] > mean[2] else "BGR"


def _compare_anchors(file: WeightsFile, expected: AnchorOptions, *, is_known: bool) -> AnchorOptions:
    """The anchors of the network: those expected, or the file's own where nobody said what to expect.

    Raises:
        CheckpointError: the file's own are not what the configuration says, or not one size a level.
    """
    own = [file.state[f"{CELL_ANCHORS}{i}"] for i in range(NUM_LEVELS) if f"{CELL_ANCHORS}{i}" in file.state]
    if not own or _are_shapes_of(own, expected):
        return expected
    found = [(cell[:, 2:] - cell[:, :2]).double() for cell in own]  # (A, 2) width, height
    sizes = tuple(float(sides.prod(dim=1).sqrt().mean()) for sides in found)
    ratios = tuple((found[0][:, 1] / found[0][:, 0]).tolist())
    if not is_known and len(own) == NUM_LEVELS and min(sizes) > 0:
        options = AnchorOptions(
            sizes=tuple(round(size, 3) for size in sizes), ratios=tuple(round(ratio, 6) for ratio in ratios)
        )
        if _are_shapes_of(own, options):
            return options
    raise CheckpointError(
        f"{file.origin}: its cell_anchors are not {'those of the configuration' if is_known else 'one size a level'}, "
        f"which ours must be"
    )


def _are_shapes_of(cells: list[Tensor], options: AnchorOptions) -> bool:
    for cell, size in zip(cells, options.sizes, strict=False):
        shapes = make_shapes(size, options.ratios)
        if cell.shape != shapes.shape or not torch.allclose(cell.float(), shapes, rtol=0, atol=ANCHOR_TOLERANCE):
            return False
    return len(cells) == NUM_LEVELS
