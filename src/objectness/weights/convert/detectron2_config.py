"""detectron2's config.yaml, which its trainer writes beside the weights: what of it decides proposals.

The file is read as plain YAML; a tag that asks for an object is refused. A key that is not there has the default of
detectron2's config/defaults.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...config import NUM_LEVELS, AnchorOptions, InputOptions, SelectionOptions
from ...errors import CheckpointError, ConfigError
from .settings import BGR_MEAN, UNIT_STD, Settings, find, least_above, to_unit_rgb

NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # one and the same when not training
LEVELS = ["p2", "p3", "p4", "p5", "p6"]
STAGES = ["res2", "res3", "res4", "res5"]
REQUIRED: tuple[
    tuple[str, Any, tuple[Any, ...]], ...
] = (  # what ours can be: key, detectron2's default, what is allowed
    ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", ("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN")),
    ("MODEL.BACKBONE.NAME", "build_resnet_backbone", ("build_resnet_fpn_backbone",)),
    ("MODEL.RESNETS.NORM", "FrozenBN", NORMS),
    ("MODEL.RESNETS.RES5_DILATION", 1, (1,)),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4, ([False] * 4,)),
    ("MODEL.FPN.IN_FEATURES", [], (STAGES,)),
    ("MODEL.FPN.FUSE_TYPE", "sum", ("sum",)),
    ("MODEL.FPN.NORM", "", ("", *NORMS)),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", ("RPN",)),
    ("MODEL.RPN.HEAD_NAME", "StandardRPNHead", ("StandardRPNHead",)),
    ("MODEL.RPN.IN_FEATURES", ["res4"], (LEVELS,)),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", [1.0] * 4, ([1.0] * 4,)),
    ("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator", ("DefaultAnchorGenerator",)),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0, (0.0,)),
    ("INPUT.FORMAT", "BGR", ("BGR", "RGB")),
)


def read_config(path: Path) -> Mapping[str, Any] | None:
    """The configuration in a file; None where it is not detectron2's, or in its newer form, Python's.

    Raises:
        CheckpointError: it cannot be read, asks for objects, or rests on another file.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: cannot be read as plain YAML ({reason}); put it right, or move it away and name the settings"
        ) from error
    if not isinstance(config, Mapping) or not isinstance(config.get("MODEL"), Mapping):
        return None
    if "_BASE_" in config:
        raise CheckpointError(
            f"{path}: rests on {config['_BASE_']}; take the complete config.yaml that detectron2 wrote in training"
        )
    return config


def read_settings(config: Mapping[str, Any], origin: str, *, has_bottlenecks: bool) -> Settings:
    """What a configuration says of proposals.

    Args:
        config: as `read_config` gives it.
        origin: of the configuration, for messages.
        has_bottlenecks: whether the body has a 1x1 convolution that a stride could be in.

    Raises:
        CheckpointError: a network that ours cannot be, or values that make no sense.
    """
    for key, default, allowed in REQUIRED:
        value = find(config, key, default)
        if (list(value) if isinstance(value, (list, tuple)) else value) not in allowed:
            wanted = " or ".join(repr(each) for each in allowed)
            raise CheckpointError(f"{origin}: {key} is {value!r}; only {wanted} can be converted exactly")
    try:
        return Settings(
            stride_in_1x1=bool(find(config, "MODEL.RESNETS.STRIDE_IN_1X1", True)) and has_bottlenecks,
            input=_read_input(config),
            anchors=_read_anchors(config),
            selection=_read_selection(config),
        )
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{origin}: its values cannot be used ({error})") from error


def _read_input(config: Mapping[str, Any]) -> InputOptions:
    short_side = int(find(config, "INPUT.MIN_SIZE_TEST", 800))
    if short_side == 0:
        raise ValueError("INPUT.MIN_SIZE_TEST = 0 leaves images as large as they are")
    order = find(config, "INPUT.FORMAT", "BGR")
    return InputOptions(
        short_side=short_side,
        long_side=int(find(config, "INPUT.MAX_SIZE_TEST", 1333)),
        mean=to_unit_rgb(find(config, "MODEL.PIXEL_MEAN", BGR_MEAN), order),
        std=to_unit_rgb(find(config, "MODEL.PIXEL_STD", UNIT_STD), order),
        order=order,
        resize="pillow",
        size_rounding="nearest_twice",
    )


def _read_anchors(config: Mapping[str, Any]) -> AnchorOptions:
    sizes = _spread(find(config, "MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64, 128, 256, 512]]))
    ratios = _spread(find(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]))
    if any(len(level) != 1 for level in sizes):
        raise ValueError(f"ANCHOR_GENERATOR.SIZES {sizes} has several sizes a level, where ours has one")
    if any(level != ratios[0] for level in ratios):
        raise ValueError(f"ANCHOR_GENERATOR.ASPECT_RATIOS {ratios} differ between levels, where ours are the same")
    return AnchorOptions(
        sizes=tuple(float(level[0]) for level in sizes), ratios=tuple(float(ratio) for ratio in ratios[0])
    )


def _spread(values: Sequence[Any]) -> list[list[float]]:
    """A list for each level, from one for each, one for all, or a flat one for all."""
    if not isinstance(values[0], (list, tuple)):
        values = [values]
    levels = [list(level) for level in values]
    if len(levels) not in (1, NUM_LEVELS):
        raise ValueError(f"ANCHOR_GENERATOR has values for {len(levels)} levels, not for {NUM_LEVELS}")
    return levels * NUM_LEVELS if len(levels) == 1 else levels


def _read_selection(config: Mapping[str, Any]) -> SelectionOptions:
    return SelectionOptions(
        per_level=int(find(config, "MODEL.RPN.PRE_NMS_TOPK_TEST", 6000)),
        keep=int(find(config, "MODEL.RPN.POST_NMS_TOPK_TEST", 1000)),
        keep_training=int(find(config, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 2000)),
        nms_iou=float(find(config, "MODEL.RPN.NMS_THRESH", 0.7)),
        min_size=least_above(float(find(config, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0))),
    )
