"""Every choice that makes a network and its training what they are, as frozen dataclasses checked when made.

The resolved configuration travels inside the checkpoint as `config.json`. A preset is a function that returns one.
Each default that a paper fixes names its source: FPN is arXiv 1612.03144, Faster R-CNN is arXiv 1506.01497.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import ConfigError

TopDown = Literal["cumulative", "adjacent"]
ScoreFrom = Literal["own", "nearest"]
ObjectnessLoss = Literal["cross_entropy", "squared", "focal"]
ObjectnessTarget = Literal["label", "quality"]
BoxLoss = Literal["smooth_l1", "giou"]
Assignment = Literal["iou", "aligned"]
Convolution = Literal["dense", "separable"]
Optimizer = Literal["sgd", "adamw"]
BoxCoding = Literal["deltas", "absolute"]
BatchNorm = Literal["frozen", "trained"]
Schedule = Literal["steps", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]
Cache = Literal["none", "memory", "device"]
ChannelOrder = Literal["RGB", "BGR"]
Resize = Literal["antialias", "pillow", "bilinear", "opencv"]
SizeRounding = Literal["nearest", "nearest_twice", "down"]
Clamp = Literal["above", "both"]
ClassOrder = Literal["object_first", "object_last"]
DeltaOrder = Literal["xywh", "yxhw"]
PyramidNorm = Literal["none", "batch"]

NUM_LEVELS = 5  # P2..P6, or P3..P7
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
ARTICLE_MIN_VISIBLE = 0.9  # "correct those slightly over the border, delete most that cross it": it gives no number
REFERENCE_LEARNING_RATE, REFERENCE_BATCH = 0.02, 16  # FPN section 5.1
ADAMW_LEARNING_RATE = 0.001  # for as many images a step: docs/findings.md
FINE_TUNING_SAMPLES, FINE_TUNING_EPOCHS = 2400, (4.0, 40.0)  # images seen; each of them at least and at most so often
MAX_AUGMENT_SCALE = 10.0  # a photo is enlarged as a whole before it is cropped
MAX_RATE = 1e38
LATER = frozenset(  # fields of `Config` that the first checkpoints did not have; their defaults are what networks were
    {
        *("bottom_up", "pyramid_activation", "separable_levels", "head_convolution", "head_shared", "box_bins"),
        *("objectness_target", "box_loss", "anchors.finest_level", "labels.assignment", "labels.anchors_per_object"),
        *("selection.across_levels", "selection.decay_sigma"),
    }
)
MAX_EPOCHS, MAX_IMAGES_PER_STEP, MAX_SEED = 1_000_000, 65_536, 2**63 - 1  # beyond, steps cannot be counted or planned


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigError(sentence)


def _require_choice(name: str, value: str, choices: object) -> None:
    allowed = get_args(choices)
    _require(value in allowed, f"{name} = {value!r} is none of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class InputOptions:
    """How an image becomes the network's input.

    Attributes:
        short_side: What the shorter side of an image is resized to, px (800: FPN section 5.1); in training, with
            `long_side`, the canvas that images are cut to.
        long_side: The shorter side gives way where the longer would exceed this, px.
        mean: Of the pixels, RGB in [0, 1] whatever `order` is; ImageNet's by default.
        std: Of the pixels, RGB in [0, 1]; 1/255 where a network wants 0..255 with the mean taken off.
        pad_multiple: Inputs are padded to a multiple of this, px: C5's stride, so that every map is twice the next.
        order: Of the channels that the network sees; "BGR" as detectron2's and Caffe's weights expect.
        resize: "antialias"; "pillow", the same to one grey level by Pillow itself, slower (detectron2's); "bilinear",
            without antialias and without rounding (torchvision's); "opencv", without antialias in whole numbers, as
            OpenCV computes (mmdetection's).
        size_rounding: Of a resized side: to the "nearest" px; "nearest_twice", which scales the shorter side first and
            then the longer, and so differs by one px now and then (detectron2); or "down" (torchvision).
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pad_multiple: int = 32
    order: ChannelOrder = "RGB"
    resize: Resize = "antialias"
    size_rounding: SizeRounding = "nearest"

    def __post_init__(self) -> None:
        _require_choice("input order", self.order, ChannelOrder)
        _require_choice("input resize", self.resize, Resize)
        _require_choice("input size_rounding", self.size_rounding, SizeRounding)
        sides = f"{self.short_side}, {self.long_side}"
        _require(1 <= self.short_side <= self.long_side, f"input sides {sides}: need 1 <= short_side <= long_side")
        _require(all(math.isfinite(v) for v in self.mean), f"input mean {self.mean} must be numbers")
        _require(all(math.isfinite(v) and v > 0 for v in self.std), f"input std {self.std} must be positive")
        _require(self.pad_multiple >= 1, f"pad_multiple = {self.pad_multiple} must be at least 1")


@dataclass(frozen=True)
class AnchorOptions:
    """The virtual boxes: one area per level, the same shapes on every level.

    Attributes:
        sizes: Square roots of the areas on the five levels, px (FPN section 4.1).
        ratios: Height / width of each shape.
        strides: Strides of the five levels, px, declared and never recovered from sizes.
        rounded: Round corners to whole pixels, as torchvision's weights expect.
        strides_from_shape: Take input size // map size as the stride, as torchvision's weights expect.
        finest_level: The pyramid's first level: 2, P2..P6 (FPN section 4.1), or 3, P3..P7 (RetinaNet); sizes and
            strides are those of its levels.
    """

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    rounded: bool = False
    strides_from_shape: bool = False
    finest_level: int = 2

    @property
    def levels(self) -> range:
        """The pyramid levels by their numbers, finest first."""
        return range(self.finest_level, self.finest_level + NUM_LEVELS)

    def __post_init__(self) -> None:
        for name in ("sizes", "strides"):
            values = getattr(self, name)
            _require(len(values) == NUM_LEVELS, f"anchor {name} {values}: need one for each of {NUM_LEVELS} levels")
        _require(self.finest_level in (2, 3), f"finest_level = {self.finest_level} must be 2 (P2..P6) or 3 (P3..P7)")
        for name in ("sizes", "strides", "ratios"):
            values = getattr(self, name)
            _require(
                bool(values) and all(math.isfinite(v) and v > 0 for v in values),
                f"anchor {name} {values} must be positive",
            )


@dataclass(frozen=True)
class LabelOptions:
    """Which anchors are positive, which negative, and which of them a step looks at.

    Attributes:
        positive_iou: An anchor with at least this IoU with a box is positive (Faster R-CNN section 3.1.2).
        negative_iou: One with less than this with every box is negative.
        crowd_share: One with more than this share of its area in an ignored region, such as a crowd, is not negative.
        anchors_per_image: Sampled in each step (Faster R-CNN section 3.1.3).
        positive_share: Of the sampled anchors, at most; negatives fill up.
        assignment: "iou", by the anchors' overlap with the objects (Faster R-CNN section 3.1.2), after which
            `anchors_per_image` are sampled; or "aligned", by how well the predictions themselves do, all anchors taking
            part (`geometry.assignment`; TOOD, arXiv 2108.07755). The thresholds and the sampling are those of "iou".
        anchors_per_object: The best anchors that an object may own, with "aligned" (13: TOOD section 4.1).
    """

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    crowd_share: float = 0.7
    anchors_per_image: int = 256
    positive_share: float = 0.5
    assignment: Assignment = "iou"
    anchors_per_object: int = 13

    def __post_init__(self) -> None:
        _require_choice("assignment", self.assignment, Assignment)
        _require(self.anchors_per_object >= 1, f"anchors_per_object = {self.anchors_per_object} must be at least 1")
        low, high = self.negative_iou, self.positive_iou
        _require(0 <= low <= high <= 1, f"label IoUs {low}, {high}: need 0 <= negative_iou <= positive_iou <= 1")
        _require(0 <= self.crowd_share <= 1, f"crowd_share = {self.crowd_share} is not in [0, 1]")
        _require(0 <= self.positive_share <= 1, f"positive_share = {self.positive_share} is not in [0, 1]")
        _require(self.anchors_per_image >= 1, f"anchors_per_image = {self.anchors_per_image} must be at least 1")


@dataclass(frozen=True)
class SelectionOptions:
    """How regions become proposals.

    Attributes:
        per_level: So many of the best regions of each level go into suppression.
        keep: Proposals per image at test time.
        keep_training: Proposals per image for a second stage in training (the article, step 6).
        nms_iou: A region is suppressed by a better one beyond this IoU.
        min_visible: Share of a region that must lie inside the image; 0 clips all, 1 removes all that cross the border.
        min_size: Thinner regions are dropped, px in the input frame; the smallest float32, 1.2e-38, drops those of
            width 0 alone, as detectron2 and mmdetection do.
        clamp: Of dw and dh at log(1000/16): "above", or "both" ways, so that nothing shrinks beyond either
            (mmdetection).
        score_from: "own" anchor, or "nearest": the anchor most like the refined region (the article, step 5).
        across_levels: Regions of all levels suppress each other, rather than those of one level.
        decay_sigma: The score of a proposal that overlaps a better one is multiplied by exp(-IoU^2 / `decay_sigma`),
            the Gaussian of Soft-NMS (arXiv 1704.04503) in one pass: the first proposals then lie on different objects.
            0 leaves the scores as they are.
    """

    per_level: int = 2000
    keep: int = 2000
    keep_training: int = 512
    nms_iou: float = 0.7
    min_visible: float = 0.0
    min_size: float = 1e-3
    clamp: Clamp = "above"
    score_from: ScoreFrom = "own"
    across_levels: bool = False
    decay_sigma: float = 0.0

    def __post_init__(self) -> None:
        _require_choice("score_from", self.score_from, ScoreFrom)
        _require_choice("clamp", self.clamp, Clamp)
        _require(0 <= self.min_visible <= 1, f"min_visible = {self.min_visible} is not in [0, 1]")
        _require(0 <= self.nms_iou <= 1, f"nms_iou = {self.nms_iou} is not in [0, 1]")
        _require(0 <= self.decay_sigma < math.inf, f"decay_sigma = {self.decay_sigma} must be at least 0")
        _require(0 <= self.min_size < math.inf, f"min_size = {self.min_size} must be at least 0 px")
        _require(
            min(self.per_level, self.keep, self.keep_training) >= 1,
            "per_level, keep and keep_training must be at least 1",
        )


@dataclass(frozen=True)
class Config:
    """One network: what it is made of, how it learns its labels and how it selects.

    Attributes:
        backbone: A name in `objectness.model.backbone.BACKBONES`.
        batch_norm: "frozen" keeps the statistics that the weights came with, "trained" lets them learn; training from
            random weights needs the latter.
        norm_eps: Of batch norm; by default that of the backbone's published weights. torchvision's first COCO weights
            have 0.
        stride_in_1x1: A bottleneck's stride sits in its first convolution, as in Caffe's ResNets (detectron2's R50 and
            R101), rather than in its 3x3.
        frozen_stages: 0 none, 1 the stem, 2 the stem and C2's stage, ... 5 the whole backbone.
        pyramid_channels: Of every map of the pyramid (256: FPN section 3).
        pyramid_norm: "none", convolutions with bias (FPN), or "batch", with batch norm instead (torchvision's second
            COCO weights).
        top_down: "cumulative", M_l = I_l + up(M_{l+1}) (FPN); "adjacent", M_l = I_l + up(I_{l+1}) (the article).
        bottom_up: After the top-down path each map is added to the next coarser one (PANet, arXiv 1803.01534), as
            means of 2 x 2 cells.
        pyramid_activation: LeakyReLU behind the pyramid's output convolutions (NanoDet), where FPN has none.
        separable_levels: Levels whose output convolution is a 3x3 by channel and a 1x1 rather than a dense 3x3: on P2
            that takes an eighth of the time.
        head_depth: 3x3 convolutions of the head (1: Faster R-CNN section 3.1; 2 in torchvision's second COCO weights).
        head_convolution: "dense", or "separable" as above.
        head_shared: All levels share the head's weights (FPN section 4.1), or else each has its own.
        box_bins: 0: the head predicts deltas. Otherwise a distribution over the distances 0, 1, ... `box_bins` strides
            of each side from the cell's middle, whose mean is turned into deltas (GFL, arXiv 2006.04388).
        class_order: Which of a pair of weights says object: the first, or the last as where background is class 0.
        delta_order: Of the four weights of a box: (dx, dy, dw, dh), or (dy, dx, dh, dw).
        box_coding: "deltas" against the anchor, or "absolute" boxes (the article's failed experiment).
        objectness_target: What a positive anchor's score should be: 1, its "label", or the "quality" of its box, the
            IoU with its object (OLN, arXiv 2108.06753; GFL).
        objectness_loss: "cross_entropy" (Faster R-CNN), "squared" (the article), or "focal": cross entropy times the
            squared distance of score and target (quality focal loss of GFL).
        box_loss: "smooth_l1" of the deltas (Fast R-CNN), or "giou" of the boxes (arXiv 1902.09630).
        input: How an image becomes the network's input.
        anchors: The virtual boxes.
        labels: Which anchors are positive and which negative.
        selection: How regions become proposals.

    Raises:
        ConfigError: a value or combination that cannot be.
    """

    backbone: str = "resnet101"
    batch_norm: BatchNorm = "frozen"
    norm_eps: float | None = None
    stride_in_1x1: bool = False
    frozen_stages: int = 0
    pyramid_channels: int = 256
    pyramid_norm: PyramidNorm = "none"
    top_down: TopDown = "cumulative"
    bottom_up: bool = False
    pyramid_activation: bool = False
    separable_levels: tuple[int, ...] = ()
    head_depth: int = 1
    head_convolution: Convolution = "dense"
    head_shared: bool = True
    box_bins: int = 0
    class_order: ClassOrder = "object_first"
    delta_order: DeltaOrder = "xywh"
    box_coding: BoxCoding = "deltas"
    objectness_target: ObjectnessTarget = "label"
    objectness_loss: ObjectnessLoss = "cross_entropy"
    box_loss: BoxLoss = "smooth_l1"
    input: InputOptions = field(default_factory=InputOptions)
    anchors: AnchorOptions = field(default_factory=AnchorOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)

    def __post_init__(self) -> None:
        for name, choices in (
            ("batch_norm", BatchNorm),
            ("pyramid_norm", PyramidNorm),
            ("top_down", TopDown),
            ("class_order", ClassOrder),
            ("delta_order", DeltaOrder),
            ("box_coding", BoxCoding),
            ("head_convolution", Convolution),
            ("objectness_target", ObjectnessTarget),
            ("objectness_loss", ObjectnessLoss),
            ("box_loss", BoxLoss),
        ):
            _require_choice(name, getattr(self, name), choices)
        _require(0 <= self.frozen_stages <= 5, f"frozen_stages = {self.frozen_stages} is not in 0..5")
        _require(self.pyramid_channels >= 1, f"pyramid_channels = {self.pyramid_channels} must be at least 1")
        _require(self.head_depth >= 0, f"head_depth = {self.head_depth} must be at least 0")
        _require(self.box_bins >= 0, f"box_bins = {self.box_bins} must be at least 0")
        self._check_combinations()
        _require(
            self.norm_eps is None or 0 <= self.norm_eps < math.inf, f"norm_eps = {self.norm_eps} must be at least 0"
        )

    def _check_combinations(self) -> None:
        levels = range(self.anchors.finest_level, 6)
        _require(
            set(self.separable_levels) <= set(levels),
            f"separable_levels = {self.separable_levels}: the pyramid has output convolutions on {list(levels)} only",
        )
        _require(
            not self.separable_levels or self.pyramid_norm == "none",
            "separable_levels: a separable convolution has no norm; set pyramid_norm to 'none'",
        )
        sizes_in_strides = {
            size / stride for size, stride in zip(self.anchors.sizes, self.anchors.strides, strict=True)
        }
        _require(
            self.box_bins == 0 or len(sizes_in_strides) == 1,
            f"box_bins: needs anchor sizes in proportion to the strides, got {self.anchors.sizes}",
        )
        _require(
            self.box_bins == 0 or (self.box_coding, self.delta_order) == ("deltas", "xywh"),
            "box_bins: distances become deltas; set box_coding to 'deltas' and delta_order to 'xywh'",
        )

    @classmethod
    def article(cls, **changes: Any) -> Config:
        """The article's letter where the sources differ; box deltas kept, since its absolute boxes failed.

        Args:
            changes: any other field; of a `selection`, the border rule and the score stay the article's.
        """
        selection = dataclasses.replace(
            changes.pop("selection", SelectionOptions()), min_visible=ARTICLE_MIN_VISIBLE, score_from="nearest"
        )
        return cls(**{"top_down": "adjacent", "objectness_loss": "squared", **changes, "selection": selection})

    @classmethod
    def cspnet(cls, **changes: Any) -> Config:
        """The network that ships: a small COCO-trained trunk, and a recipe by which it finds things.

        One square anchor a cell, boxes as distance distributions, all anchors learning by how well they do (`aligned`,
        `quality`, `focal`, `giou`), a bottom-up path. Start it from `experiments/convert_nanodet.py`, or from the
        weights that ship. Figures: docs/findings.md.

        Args:
            changes: any other field.
        """
        return cls(**{**_cspnet_fields(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, nested as the dataclasses are."""
        return dataclasses.asdict(self)

    def to_compatible_dict(self) -> dict[str, Any]:
        """`to_dict` without the fields of `LATER` that have their defaults, for files.

        An Objectness of before these fields reads every network that it can compute, and refuses the others, naming
        the field.
        """
        return _leave_out_later(self.to_dict(), Config().to_dict(), "")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict` and `to_compatible_dict`.

        Raises:
            ConfigError: an unknown field, a value of the wrong type, or one that cannot be.
        """
        return _build(cls, values, "")


def _leave_out_later(values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        name: _leave_out_later(value, defaults[name], f"{where}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if f"{where}{name}" not in LATER or value != defaults[name]
    }


def _cspnet_fields() -> dict[str, Any]:
    return {
        "backbone": "cspnet",
        "frozen_stages": 2,
        "pyramid_channels": 128,
        "bottom_up": True,
        "pyramid_activation": True,
        "separable_levels": (2,),
        "head_depth": 0,
        "head_shared": False,
        "box_bins": 10,
        "objectness_target": "quality",
        "objectness_loss": "focal",
        "box_loss": "giou",
        "input": InputOptions(short_side=384, long_side=512, order="BGR"),
        "anchors": AnchorOptions(sizes=(20.0, 40.0, 80.0, 160.0, 320.0), ratios=(1.0,)),
        "labels": LabelOptions(assignment="aligned"),
        "selection": SelectionOptions(per_level=1000, keep=1000, nms_iou=0.85, across_levels=True, decay_sigma=1.0),
    }


@dataclass(frozen=True)
class AugmentOptions:
    """How far a training image may differ from its photo.

    Attributes:
        flip: Probability of a mirror image.
        scale: Smallest and largest size, relative to the one that just fits the canvas; what sticks out is cropped.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            0 < self.scale[0] <= self.scale[1] <= MAX_AUGMENT_SCALE,
            f"augmentation scale {self.scale}: need 0 < smallest <= largest <= {MAX_AUGMENT_SCALE:g}",
        )
        _require(0 <= self.flip <= 1, f"flip = {self.flip} is not in [0, 1]")


@dataclass(frozen=True)
class TrainOptions:
    """How to train; what to train is the network's `Config`.

    Attributes:
        epochs: How often each image is seen.
        images_per_step: Of all processes together.
        learning_rate: After warm-up; by default 0.02 (FPN section 5.1), with AdamW 0.001, for 16 images a step, and in
            proportion.
        optimizer: "sgd" (Faster R-CNN; the article), or "adamw" (arXiv 1711.05101).
        backbone_rate: The backbone's learning rate, relative to that of everything else.
        momentum: SGD momentum.
        weight_decay: Of all trained weights.
        warmup_steps: Steps of rising learning rate; at most a quarter of the run.
        schedule: "steps", a tenth after 2/3 and 8/9 of the run, or "cosine".
        clip_norm: Largest norm of all gradients together; 0 does not clip.
        ema: Decay of a moving average of the weights, which is then what is measured and kept; 0 takes the weights.
        precision: "auto" is bfloat16 where the device has instructions for it, else float32.
        seed: Of weights, order, augmentation and sampling.
        augment: How far a training image may differ from its photo.
        weights: To start from: "imagenet", a backbone's file, or a network: "cspnet", a checkpoint or a run folder.
        num_workers: Processes that decode.
        cache: Keep the decoded set in "memory", or on the "device".
        log_every: Steps between lines of metrics.jsonl.
        checkpoint_every: Steps between checkpoints.
        validate_every: Steps between measurements of recall; 0 measures at the end alone.
        validate_images: Measure on the first so many; 0 takes all.
        patience: End after so many measurements in a row without a higher AR@100; 0 trains to the end, which is the
            default since recall often rises once more while the learning rate falls, and best/ keeps the best anyway.
    """

    epochs: float = 12.0
    images_per_step: int = 16
    learning_rate: float | None = None
    optimizer: Optimizer = "sgd"
    backbone_rate: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    schedule: Schedule = "steps"
    clip_norm: float = 10.0
    ema: float = 0.0
    precision: Precision = "auto"
    seed: int = 0
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    weights: str | None = None
    num_workers: int = 2
    cache: Cache = "none"
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 0
    validate_images: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        for name, choices in (
            ("schedule", Schedule),
            ("precision", Precision),
            ("cache", Cache),
            ("optimizer", Optimizer),
        ):
            _require_choice(name, getattr(self, name), choices)
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        for name in ("epochs", "images_per_step", "log_every", "checkpoint_every", "learning_rate"):
            value = values[name]
            _require(value is None or 0 < value < math.inf, f"{name} = {value} must be positive and finite")
        at_least_0 = ("weight_decay", "clip_norm", "backbone_rate", "warmup_steps", "num_workers")
        for name in (*at_least_0, "validate_every", "validate_images", "patience"):
            _require(0 <= values[name] < math.inf, f"{name} = {values[name]} must be at least 0 and finite")
        for name in ("ema", "momentum"):
            _require(0 <= values[name] < 1, f"{name} = {values[name]} is not in [0, 1)")
        for name, most in (("epochs", MAX_EPOCHS), ("images_per_step", MAX_IMAGES_PER_STEP), ("seed", MAX_SEED)):
            _require(0 <= values[name] <= most, f"{name} = {values[name]} is not in 0..{most:,}")
        for name in ("learning_rate", "weight_decay"):
            _require((values[name] or 0) <= MAX_RATE, f"{name} = {values[name]} is more than float32 can hold")
        _require(
            not self.patience or self.validate_every > 0,
            f"patience = {self.patience} needs measurements while training; set validate_every",
        )

    @classmethod
    def for_network(cls, config: Config, **changes: Any) -> TrainOptions:
        """The schedule that suits a network: the article's, or the one that `Config.cspnet()` was trained by.

        Args:
            config: the network; its assignment decides.
            changes: any field.
        """
        if config.labels.assignment == "iou":
            return cls(**changes)
        suited: dict[str, Any] = {
            "images_per_step": 8,
            "optimizer": "adamw",
            "backbone_rate": 0.2,
            "weight_decay": 0.05,
            "warmup_steps": 50,
            "schedule": "cosine",
            "ema": 0.998,
            "augment": AugmentOptions(scale=(0.75, 1.6)),
        }
        return cls(**{**suited, **changes})

    @classmethod
    def fine_tuning(cls, config: Config, num_images: int, **changes: Any) -> TrainOptions:
        """A short schedule to go on training a network: on 100 to 300 photos, about ten minutes of a laptop.

        So many epochs that the network sees `FINE_TUNING_SAMPLES` images, within limits for few photos and for many; a
        fifth of the learning rate that it was trained with, which falls in a cosine; and ten measurements of recall.

        Args:
            config: the network.
            num_images: what it is trained on.
            changes: any field; the epochs and the measurements follow from the images of a step.
        """
        _require(num_images >= 1, "there is no image to train on")
        cls.for_network(config, **{"validate_every": 1, **changes})  # numbers that cannot be are said
        settings = {"images_per_step": 8, "schedule": "cosine", "warmup_steps": 50, "log_every": 10, **changes}
        steps_per_epoch = math.ceil(num_images / settings["images_per_step"])
        fewest, most = FINE_TUNING_EPOCHS
        epochs = FINE_TUNING_SAMPLES / (steps_per_epoch * settings["images_per_step"])
        settings = {"epochs": min(max(epochs, fewest), most), "validate_images": 200, **settings}
        settings = {"validate_every": max(1, round(settings["epochs"] * steps_per_epoch / 10)), **settings}
        suited = cls.for_network(config, **settings)
        return dataclasses.replace(suited, **{"learning_rate": suited.peak_learning_rate / 5, **changes})

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        reference = REFERENCE_LEARNING_RATE if self.optimizer == "sgd" else ADAMW_LEARNING_RATE
        return reference * self.images_per_step / REFERENCE_BATCH

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """The inverse of `to_dict`; errors as in `Config.from_dict`."""
        return _build(cls, values, "")


Options = TypeVar("Options")


def _check_types(options: object) -> None:
    """See that each field is of its type; those that are dataclasses see to it themselves."""
    for name, hint in get_type_hints(type(options)).items():
        if not dataclasses.is_dataclass(hint):
            _convert(hint, getattr(options, name), name)


def _build(kind: type[Options], values: object, where: str) -> Options:
    """A dataclass from JSON values, nested as it is; `where` is what its fields' names begin with in messages."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration {where.rstrip('.') or 'file'}: expected an object, found {values!r}")
    hints = get_type_hints(kind)
    for name in values:
        _require(name in hints, f"configuration field {where}{name} is unknown; known are {', '.join(sorted(hints))}")
    return kind(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: object, where: str) -> Any:
    """A JSON value as the type that a field is declared with."""
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, f"{where}.")
    if isinstance(hint, UnionType):  # "X | None"
        return None if value is None else _convert(get_args(hint)[0], value, where)
    if get_origin(hint) is tuple:
        items = value if isinstance(value, (list, tuple)) else None
        right = items is not None and (Ellipsis in get_args(hint) or len(items) == len(get_args(hint)))
        _require(right, f"configuration field {where} = {value!r} is no such list")
        assert items is not None
        return tuple(_convert(get_args(hint)[0], item, where) for item in items)
    expected: tuple[type, ...] = {float: (int, float), int: (int,), bool: (bool,)}.get(hint, (str,))
    right = isinstance(value, expected) and (hint is bool or not isinstance(value, bool))
    _require(right, f"configuration field {where} = {value!r} must be of type {expected[-1].__name__}")
    return float(value) if hint is float else value  # type: ignore[arg-type]
