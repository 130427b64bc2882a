"""Every choice that makes a network what it is, as frozen dataclasses that are checked when made.

The resolved configuration travels inside the checkpoint as `config.json`. A preset is a function that returns one.
Each default that a paper fixes names its source: FPN is arXiv 1612.03144, Faster R-CNN is arXiv 1506.01497.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from .errors import ConfigError

TopDown = Literal["cumulative", "adjacent"]
ScoreFrom = Literal["own", "nearest"]
ObjectnessLoss = Literal["cross_entropy", "squared"]
BoxCoding = Literal["deltas", "absolute"]
BatchNorm = Literal["frozen", "trained"]

NUM_LEVELS = 5  # P2..P6
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigError(sentence)


def _require_choice(name: str, value: str, choices: object) -> None:
    allowed = get_args(choices)
    _require(value in allowed, f"{name} = {value!r} is none of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class InputOptions:
    """How an image becomes the network's input."""

    short_side: int = 800  # px; FPN section 5.1
    long_side: int = 1333  # px; the shorter side gives way where the longer would exceed this
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pad_multiple: int = 32  # the stride of C5, so that every map of the pyramid is twice the next

    def __post_init__(self) -> None:
        _require(1 <= self.short_side <= self.long_side, f"input sides {self.short_side}, {self.long_side}: "
                 "need 1 <= short_side <= long_side")  # fmt: skip
        _require(min(self.std) > 0, f"input std {self.std} must be positive")
        _require(self.pad_multiple >= 1, f"pad_multiple = {self.pad_multiple} must be at least 1")


@dataclass(frozen=True)
class AnchorOptions:
    """The virtual boxes: one area per level, the same shapes on every level."""

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)  # px, square roots of the areas; FPN section 4.1
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)  # px, declared and never recovered from sizes
    rounded: bool = False  # corners rounded to whole pixels, as torchvision's weights expect
    strides_from_shape: bool = False  # input size // map size, as torchvision's weights expect

    def __post_init__(self) -> None:
        for name in ("sizes", "strides"):
            values = getattr(self, name)
            _require(len(values) == NUM_LEVELS, f"anchor {name} {values}: need one for each of P2..P6")
        for name in ("sizes", "strides", "ratios"):
            values = getattr(self, name)
            _require(bool(values) and all(math.isfinite(v) and v > 0 for v in values), f"anchor {name} {values} must be positive")


@dataclass(frozen=True)
class LabelOptions:
    """Which anchors are positive, which negative, and which of them a step looks at."""

    positive_iou: float = 0.7  # at least this with a ground-truth box; Faster R-CNN section 3.1.2
    negative_iou: float = 0.3  # below this with every ground-truth box
    crowd_share: float = 0.7  # an anchor with more than this share of its area in a crowd region is no negative
    anchors_per_image: int = 256  # Faster R-CNN section 3.1.3
    positive_share: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.negative_iou <= self.positive_iou <= 1, f"label IoUs {self.negative_iou}, {self.positive_iou}: "
                 "need 0 <= negative_iou <= positive_iou <= 1")  # fmt: skip
        _require(0 <= self.positive_share <= 1, f"positive_share = {self.positive_share} is not in [0, 1]")
        _require(self.anchors_per_image >= 1, f"anchors_per_image = {self.anchors_per_image} must be at least 1")


@dataclass(frozen=True)
class SelectionOptions:
    """How regions become proposals."""

    per_level: int = 2000  # the best of each level go into suppression
    keep: int = 2000  # proposals per image at test time
    keep_training: int = 512  # proposals per image for a second stage in training; Mask R-CNN section 3.1
    nms_iou: float = 0.7
    min_visible: float = 0.0  # share of a region that must lie inside the image; 0 clips all, 1 removes what crosses
    min_size: float = 1e-3  # px in the input frame; thinner regions are dropped
    score_from: ScoreFrom = "own"

    def __post_init__(self) -> None:
        _require_choice("score_from", self.score_from, ScoreFrom)
        _require(0 <= self.min_visible <= 1, f"min_visible = {self.min_visible} is not in [0, 1]")
        _require(0 <= self.nms_iou <= 1, f"nms_iou = {self.nms_iou} is not in [0, 1]")
        _require(min(self.per_level, self.keep, self.keep_training) >= 1, "per_level, keep and keep_training must be at least 1")


@dataclass(frozen=True)
class Config:
    """One network: what it is made of, how it learns its labels and how it selects.

    Raises:
        ConfigError: a value or combination that cannot be.
    """

    backbone: str = "resnet101"
    batch_norm: BatchNorm = "frozen"
    frozen_stages: int = 0  # 0 none, 1 the stem, 2 the stem and C2's stage, ... 5 the whole backbone
    pyramid_channels: int = 256  # FPN section 3
    top_down: TopDown = "cumulative"
    box_coding: BoxCoding = "deltas"
    objectness_loss: ObjectnessLoss = "cross_entropy"
    input: InputOptions = field(default_factory=InputOptions)
    anchors: AnchorOptions = field(default_factory=AnchorOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        _require(0 <= self.frozen_stages <= 5, f"frozen_stages = {self.frozen_stages} is not in 0..5")
        _require(self.pyramid_channels >= 1, f"pyramid_channels = {self.pyramid_channels} must be at least 1")

    @classmethod
    def article(cls, **changes: Any) -> Config:
        """The article's letter where the sources differ; box deltas kept, since its absolute boxes failed."""
        selection = SelectionOptions(min_visible=ARTICLE_MIN_VISIBLE, score_from="nearest")
        return cls(**{"top_down": "adjacent", "objectness_loss": "squared", "selection": selection, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, nested as the dataclasses are."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: an unknown field, a value of the wrong type, or one that cannot be.
        """
        return _build(cls, values, "")


CHOICES: dict[str, object] = {
    "batch_norm": BatchNorm,
    "top_down": TopDown,
    "box_coding": BoxCoding,
    "objectness_loss": ObjectnessLoss,
}
ARTICLE_MIN_VISIBLE = 0.9  # "correct those slightly over the border, delete most that cross it"; the article gives no number


def _build(kind: type, values: object, where: str) -> Any:
    _require(isinstance(values, Mapping), f"configuration {where or 'file'}: expected an object, found {type(values).__name__}")
    assert isinstance(values, Mapping)
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    for name in values:
        _require(name in known, f"configuration field {where}{name} is unknown; known are {', '.join(sorted(known))}")
    return kind(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, f"{where}.")
    if getattr(hint, "__origin__", None) is tuple:
        _require(isinstance(value, (list, tuple)), f"configuration field {where} = {value!r} must be a list")
        assert isinstance(value, (list, tuple))
        return tuple(_convert(get_args(hint)[0], item, where) for item in value)
    expected: tuple[type, ...] = {float: (int, float), int: (int,), bool: (bool,)}.get(hint, (str,))
    right = isinstance(value, expected) and (hint is bool or not isinstance(value, bool))
    _require(right, f"configuration field {where} = {value!r} must be of type {expected[-1].__name__}")
    return float(value) if hint is float else value  # type: ignore[arg-type]
