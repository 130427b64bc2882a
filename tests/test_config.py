import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectness.config import (
    ARTICLE_MIN_VISIBLE,
    LATER,
    AnchorOptions,
    AugmentOptions,
    Config,
    InputOptions,
    LabelOptions,
    SelectionOptions,
    TrainOptions,
)
from objectness.errors import ConfigError, ObjectnessError

NAN, INF = float("nan"), float("inf")


def test_defaults_are_the_papers() -> None:
    config = Config()
    assert config.backbone == "resnet101"
    assert (config.input.short_side, config.input.long_side) == (800, 1333)
    assert config.anchors.sizes == (32, 64, 128, 256, 512)
    assert config.anchors.ratios == (0.5, 1, 2)
    assert config.anchors.strides == (4, 8, 16, 32, 64)
    assert (config.labels.positive_iou, config.labels.negative_iou) == (0.7, 0.3)
    assert (config.labels.anchors_per_image, config.labels.positive_share) == (256, 0.5)
    assert (config.selection.nms_iou, config.selection.keep, config.selection.keep_training) == (0.7, 2000, 512)
    assert (config.top_down, config.selection.score_from) == ("cumulative", "own")
    assert (config.objectness_loss, config.box_coding) == ("cross_entropy", "deltas")


def test_article() -> None:
    config = Config.article()
    assert config.top_down == "adjacent"
    assert config.objectness_loss == "squared"
    assert config.selection == SelectionOptions(min_visible=ARTICLE_MIN_VISIBLE, score_from="nearest")
    assert config.box_coding == "deltas"  # its absolute boxes failed
    # and nothing else
    assert dataclasses.replace(
        config, top_down="cumulative", objectness_loss="cross_entropy", selection=SelectionOptions()
    ) == Config()  # fmt: skip
    assert Config.article(selection=SelectionOptions(keep=5, score_from="own")).selection == SelectionOptions(
        keep=5, min_visible=ARTICLE_MIN_VISIBLE, score_from="nearest"
    )
    assert Config.article(backbone="resnet50").backbone == "resnet50"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (InputOptions, {"short_side": 0}, r"input sides 0, 1333: need 1 <= short_side <= long_side"),
        (InputOptions, {"short_side": 900, "long_side": 800}, r"input sides 900, 800"),
        (InputOptions, {"mean": (0.1, NAN, 0.1)}, r"input mean \(0\.1, nan, 0\.1\) must be numbers"),
        (InputOptions, {"std": (0.1, 0.0, 0.1)}, r"input std \(0\.1, 0\.0, 0\.1\) must be positive"),
        (InputOptions, {"std": (0.1, NAN, 0.1)}, r"input std .* must be positive"),
        (InputOptions, {"order": "GRB"}, r"input order = 'GRB' is none of 'RGB', 'BGR'"),
        (InputOptions, {"resize": "x"}, r"input resize = 'x' is none of 'antialias', 'pillow', 'bilinear'"),
        (InputOptions, {"size_rounding": "up"}, r"size_rounding = 'up' is none of 'nearest', 'nearest_twice', 'down'"),
        (InputOptions, {"pad_multiple": 0}, r"pad_multiple = 0 must be at least 1"),
        (AnchorOptions, {"sizes": (32.0, 64.0)}, r"anchor sizes \(32\.0, 64\.0\): need one for each of 5 levels"),
        (AnchorOptions, {"strides": (4,) * 6}, r"anchor strides .*: need one for each of 5 levels"),
        (AnchorOptions, {"sizes": (32, 64, 0, 256, 512)}, r"anchor sizes .* must be positive"),
        (AnchorOptions, {"sizes": (32, 64, INF, 256, 512)}, r"anchor sizes .* must be positive"),
        (AnchorOptions, {"strides": (4, 8, -16, 32, 64)}, r"anchor strides .* must be positive"),
        (AnchorOptions, {"ratios": ()}, r"anchor ratios \(\) must be positive"),
        (AnchorOptions, {"ratios": (NAN,)}, r"anchor ratios \(nan,\) must be positive"),
        (LabelOptions, {"negative_iou": 0.8}, r"label IoUs 0\.8, 0\.7: need 0 <= negative_iou <= positive_iou <= 1"),
        (LabelOptions, {"positive_iou": 1.1}, r"label IoUs 0\.3, 1\.1"),
        (LabelOptions, {"negative_iou": NAN}, r"label IoUs nan, 0\.7"),
        (LabelOptions, {"crowd_share": 1.5}, r"crowd_share = 1\.5 is not in \[0, 1\]"),
        (LabelOptions, {"positive_share": -0.1}, r"positive_share = -0\.1 is not in \[0, 1\]"),
        (LabelOptions, {"anchors_per_image": 0}, r"anchors_per_image = 0 must be at least 1"),
        (SelectionOptions, {"score_from": "best"}, r"score_from = 'best' is none of 'own', 'nearest'"),
        (SelectionOptions, {"clamp": "below"}, r"clamp = 'below' is none of 'above', 'both'"),
        (SelectionOptions, {"min_visible": 1.1}, r"min_visible = 1\.1 is not in \[0, 1\]"),
        (SelectionOptions, {"nms_iou": -1}, r"nms_iou = -1 is not in \[0, 1\]"),
        (SelectionOptions, {"nms_iou": NAN}, r"nms_iou = nan is not in \[0, 1\]"),
        (SelectionOptions, {"min_size": -1}, r"min_size = -1 must be at least 0 px"),
        (SelectionOptions, {"min_size": NAN}, r"min_size = nan must be at least 0 px"),
        (SelectionOptions, {"per_level": 0}, r"per_level, keep and keep_training must be at least 1"),
        (SelectionOptions, {"keep": 0}, r"per_level, keep and keep_training must be at least 1"),
        (SelectionOptions, {"keep_training": 0}, r"per_level, keep and keep_training must be at least 1"),
        (Config, {"batch_norm": "live"}, r"batch_norm = 'live' is none of 'frozen', 'trained'"),
        (Config, {"norm_eps": -1.0}, r"norm_eps = -1\.0 must be at least 0"),
        (Config, {"pyramid_norm": "group"}, r"pyramid_norm = 'group' is none of 'none', 'batch'"),
        (Config, {"head_depth": -1}, r"head_depth = -1 must be at least 0"),
        (Config, {"box_bins": -1}, r"box_bins = -1 must be at least 0"),
        (Config, {"box_bins": 8, "box_coding": "absolute"}, r"box_bins: distances become deltas; set box_coding to"),
        (Config, {"box_bins": 8, "delta_order": "yxhw"}, r"and delta_order to 'xywh'"),
        (
            Config,
            {"box_bins": 8, "anchors": AnchorOptions((32, 64, 128, 256, 500))},
            r"box_bins: needs anchor sizes in",
        ),
        (Config, {"separable_levels": (6,)}, r"separable_levels = \(6,\): .* on \[2, 3, 4, 5\] only"),
        (Config, {"separable_levels": (2,), "pyramid_norm": "batch"}, r"set pyramid_norm to 'none'"),
        (AnchorOptions, {"finest_level": 4}, r"finest_level = 4 must be 2 \(P2..P6\) or 3"),
        (LabelOptions, {"anchors_per_object": 0}, r"anchors_per_object = 0 must be at least 1"),
        (SelectionOptions, {"decay_sigma": -1.0}, r"decay_sigma = -1.0 must be at least 0"),
        (TrainOptions, {"backbone_rate": -0.1}, r"backbone_rate = -0.1 must be at least 0"),
        (Config, {"class_order": "x"}, r"class_order = 'x' is none of 'object_first', 'object_last'"),
        (Config, {"delta_order": "x"}, r"delta_order = 'x' is none of 'xywh', 'yxhw'"),
        (Config, {"top_down": "up"}, r"top_down = 'up' is none of 'cumulative', 'adjacent'"),
        (Config, {"box_coding": "x"}, r"box_coding = 'x' is none of 'deltas', 'absolute'"),
        (Config, {"objectness_loss": ""}, r"objectness_loss = '' is none of 'cross_entropy', 'squared'"),
        (Config, {"frozen_stages": 6}, r"frozen_stages = 6 is not in 0\.\.5"),
        (Config, {"frozen_stages": -1}, r"frozen_stages = -1 is not in 0\.\.5"),
        (Config, {"pyramid_channels": 0}, r"pyramid_channels = 0 must be at least 1"),
        (AugmentOptions, {"scale": (0.0, 1.0)}, r"augmentation scale \(0\.0, 1\.0\): need 0 < smallest <= largest"),
        (AugmentOptions, {"scale": (2.0, 1.0)}, r"augmentation scale"),
        (AugmentOptions, {"flip": 2}, r"flip = 2 is not in \[0, 1\]"),
        (TrainOptions, {"schedule": "linear"}, r"schedule = 'linear' is none of 'steps', 'cosine'"),
        (TrainOptions, {"epochs": 0}, r"epochs = 0 must be positive"),
        (AugmentOptions, {"scale": (1, math.inf)}, r"scale \(1, inf\): need 0 < smallest <= largest <= 10"),
        (AugmentOptions, {"scale": (1, NAN)}, r"augmentation scale \(1, nan\)"),
        (AugmentOptions, {"scale": (1.0,)}, r"configuration field scale = \(1\.0,\) is no such list"),
        (AugmentOptions, {"flip": NAN}, r"flip = nan is not in \[0, 1\]"),
        (TrainOptions, {"ema": 1.0}, r"ema = 1\.0 is not in \[0, 1\)"),
        (TrainOptions, {"momentum": NAN}, r"momentum = nan is not in \[0, 1\)"),
        (TrainOptions, {"momentum": 1.0}, r"momentum = 1\.0 is not in \[0, 1\)"),
        (TrainOptions, {"momentum": -1.0}, r"momentum = -1\.0 is not in \[0, 1\)"),
        (TrainOptions, {"epochs": math.inf}, r"epochs = inf must be positive and finite"),
        (TrainOptions, {"epochs": NAN}, r"epochs = nan must be positive and finite"),
        (TrainOptions, {"epochs": 1e300}, r"epochs = 1e\+300 is not in 0\.\.1,000,000"),
        (TrainOptions, {"learning_rate": -1.0}, r"learning_rate = -1\.0 must be positive and finite"),
        (TrainOptions, {"learning_rate": 0.0}, r"learning_rate = 0\.0 must be positive and finite"),
        (TrainOptions, {"learning_rate": NAN}, r"learning_rate = nan must be positive and finite"),
        (TrainOptions, {"learning_rate": 1e300}, r"learning_rate = 1e\+300 is more than float32 can hold"),
        (TrainOptions, {"patience": -1}, r"patience = -1 must be at least 0"),
        (TrainOptions, {"patience": 2}, r"patience = 2 needs measurements while training; set validate_every"),
        (TrainOptions, {"weight_decay": -1.0}, r"weight_decay = -1\.0 must be at least 0 and finite"),
        (TrainOptions, {"weight_decay": math.inf}, r"weight_decay = inf must be at least 0 and finite"),
        (TrainOptions, {"clip_norm": -1.0}, r"clip_norm = -1\.0 must be at least 0"),
        (TrainOptions, {"clip_norm": NAN}, r"clip_norm = nan must be at least 0"),
        (TrainOptions, {"warmup_steps": -5}, r"warmup_steps = -5 must be at least 0"),
        (TrainOptions, {"num_workers": -1}, r"num_workers = -1 must be at least 0"),
        (TrainOptions, {"validate_every": -1}, r"validate_every = -1 must be at least 0"),
        (TrainOptions, {"validate_images": -1}, r"validate_images = -1 must be at least 0"),
        (TrainOptions, {"images_per_step": 0}, r"images_per_step = 0 must be positive"),
        (TrainOptions, {"images_per_step": 10**9}, r"images_per_step = 1000000000 is not in 0\.\.65,536"),
        (TrainOptions, {"log_every": 0}, r"log_every = 0 must be positive"),
        (TrainOptions, {"checkpoint_every": -3}, r"checkpoint_every = -3 must be positive"),
        (TrainOptions, {"seed": -1}, r"seed = -1 is not in 0\.\."),
        (TrainOptions, {"seed": 10**23}, r"seed = 10+ is not in 0\.\."),
        (TrainOptions, {"seed": 1.5}, r"field seed = 1\.5 must be of type int"),
        (TrainOptions, {"epochs": "many"}, r"field epochs = 'many' must be of type float"),
        (TrainOptions, {"clip_norm": True}, r"field clip_norm = True must be of type float"),
        (TrainOptions, {"weights": 5}, r"field weights = 5 must be of type str"),
    ],
)
def test_what_cannot_be_is_refused(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_edges_are_allowed() -> None:
    InputOptions(short_side=1, long_side=1)
    LabelOptions(positive_iou=0.5, negative_iou=0.5, crowd_share=1, positive_share=0)
    SelectionOptions(min_visible=1, nms_iou=0, min_size=0, keep=1)
    Config(frozen_stages=5)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().backbone = "resnet18"  # type: ignore[misc]


UNUSUAL = Config.article(
    backbone="resnet18",
    batch_norm="trained",
    frozen_stages=3,
    input=InputOptions(300, 400, (0.5, 0.4, 0.3), (1.0, 2.0, 3.0), 64),
    anchors=AnchorOptions((1.5, 2.5, 3.5, 4.5, 5.5), (1.0,), (1, 2, 3, 4, 5), rounded=True, strides_from_shape=True),
    labels=LabelOptions(0.6, 0.2, 0.4, 128, 0.25),
)


@pytest.mark.parametrize("config", [Config(), Config.article(), UNUSUAL, Config.cspnet()])
def test_round_trip(config: Config) -> None:
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(config.to_compatible_dict()) == config
    through_json = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert through_json == config
    assert hash(through_json) == hash(config)  # tuples again, not lists: anchors are cached by their options


FIRST_FORMAT = json.loads((Path(__file__).parent / "weights" / "first_format.json").read_text(encoding="utf-8"))


def list_fields(values: dict[str, Any]) -> set[str]:
    """Every field by its path: "backbone", "input.short_side", ..."""
    nested = {f"{name}.{inner}" for name, value in values.items() if isinstance(value, dict) for inner in value}
    return nested | {name for name, value in values.items() if not isinstance(value, dict)}


def test_the_first_checkpoints_are_read_as_what_they_were() -> None:
    """The configuration of EfficientNet-Lite0, as first written; what came later changes nothing of it."""
    config = Config.from_dict(FIRST_FORMAT)
    assert json.loads(json.dumps(config.to_compatible_dict())) == FIRST_FORMAT
    assert (config.bottom_up, config.box_bins, config.head_shared, config.separable_levels) == (False, 0, True, ())
    assert (config.anchors.finest_level, config.labels.assignment, config.box_loss) == (2, "iou", "smooth_l1")
    assert (config.selection.across_levels, config.selection.decay_sigma) == (False, 0)


def test_every_field_is_of_the_first_format_or_later() -> None:
    """Where this fails: a new field belongs into LATER, and its default must be what networks were before."""
    assert list_fields(FIRST_FORMAT) | LATER == list_fields(Config().to_dict())
    assert list_fields(FIRST_FORMAT) & LATER == set()


def test_a_file_names_later_fields_where_they_matter() -> None:
    assert list_fields(Config().to_compatible_dict()) == list_fields(FIRST_FORMAT)
    changed = Config(bottom_up=True, selection=SelectionOptions(across_levels=True))
    later = list_fields(changed.to_compatible_dict()) - list_fields(FIRST_FORMAT)
    assert later == {"bottom_up", "selection.across_levels"}


def test_round_trip_of_training_options() -> None:
    unusual = TrainOptions(learning_rate=0.1, weights="x.pth", augment=AugmentOptions(0, (0.5, 2)))
    for options in (TrainOptions(), unusual):
        assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_learning_rate_is_in_proportion_to_the_batch() -> None:
    assert TrainOptions(images_per_step=8).peak_learning_rate == 0.01  # 0.02 for 16; FPN section 5.1
    assert TrainOptions(images_per_step=8, learning_rate=0.3).peak_learning_rate == 0.3


@pytest.mark.parametrize(
    ("num_images", "changes", "expected"),
    [
        # 13 steps of 8 images see 104 an epoch, 2,400 in 23.08 epochs or 300 steps, and ten measurements come every 30
        (100, {}, {"epochs": 2400 / 104, "validate_every": 30, "images_per_step": 8}),
        (300, {}, {"epochs": 2400 / 304, "validate_every": 30}),
        (10, {}, {"epochs": 40, "validate_every": 8}),  # 2 steps an epoch
        (10_000, {}, {"epochs": 4, "validate_every": 500}),  # 1,250
        (100, {"epochs": 2.0}, {"epochs": 2.0, "validate_every": 3}),  # 26 steps
        (100, {"images_per_step": 4}, {"epochs": 24, "validate_every": 60}),  # 25 steps, 600 in all
        (100, {"validate_every": 7, "seed": 3}, {"validate_every": 7, "seed": 3}),
    ],
)
@pytest.mark.parametrize("config", [Config(), Config.cspnet()])
def test_fine_tuning_by_hand(
    config: Config, num_images: int, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    options = TrainOptions.fine_tuning(config, num_images, **changes)
    assert {name: getattr(options, name) for name in expected} == pytest.approx(expected)
    suited = TrainOptions.for_network(config, images_per_step=options.images_per_step)
    assert options.peak_learning_rate == pytest.approx(suited.peak_learning_rate / 5)
    assert options.optimizer == suited.optimizer
    assert TrainOptions.fine_tuning(config, num_images, **changes, learning_rate=0.5).learning_rate == 0.5


def test_fine_tuning_on_nothing_or_by_nonsense() -> None:
    with pytest.raises(ConfigError, match="there is no image to train on"):
        TrainOptions.fine_tuning(Config(), 0)
    with pytest.raises(ConfigError, match="images_per_step = 0 must be positive"):
        TrainOptions.fine_tuning(Config(), 10, images_per_step=0)


def test_missing_fields_are_defaults() -> None:
    assert Config.from_dict({}) == Config()
    assert Config.from_dict({"anchors": {"rounded": True}}) == Config(anchors=AnchorOptions(rounded=True))
    assert Config.from_dict({"selection": {"nms_iou": 1}}).selection.nms_iou == 1.0  # JSON has no 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"configuration file: expected an object, found \[\]"),
        ({"input": 5}, r"configuration input: expected an object, found 5"),
        ({"backbon": "resnet18"}, r"configuration field backbon is unknown; known are anchors, backbone, batch_norm,"),
        (
            {"anchors": {"scales": [8]}},
            r"configuration field anchors\.scales is unknown; known are finest_level, ratios, rounded,",
        ),
        ({"backbone": 5}, r"configuration field backbone = 5 must be of type str"),
        ({"backbone": None}, r"configuration field backbone = None must be of type str"),
        ({"frozen_stages": 1.5}, r"configuration field frozen_stages = 1\.5 must be of type int"),
        ({"frozen_stages": True}, r"configuration field frozen_stages = True must be of type int"),
        ({"labels": {"positive_iou": "0.7"}}, r"field labels\.positive_iou = '0\.7' must be of type float"),
        ({"labels": {"positive_iou": True}}, r"labels\.positive_iou = True must be of type float"),
        ({"anchors": {"rounded": 1}}, r"configuration field anchors\.rounded = 1 must be of type bool"),
        ({"anchors": {"sizes": 32}}, r"configuration field anchors\.sizes = 32 is no such list"),
        ({"anchors": {"sizes": "32"}}, r"configuration field anchors\.sizes = '32' is no such list"),
        ({"anchors": {"sizes": [32, "a"]}}, r"configuration field anchors\.sizes = 'a' must be of type float"),
        ({"input": {"mean": [0.5, 0.5]}}, r"configuration field input\.mean = \[0\.5, 0\.5\] is no such list"),
        ({"input": {"std": []}}, r"configuration field input\.std = \[\] is no such list"),
        ({"top_down": "up"}, r"top_down = 'up' is none of"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config.from_dict(values)
    assert "\n" not in str(caught.value)


KINDS = (Config, InputOptions, AnchorOptions, SelectionOptions)
names = st.sampled_from(["other", *(field.name for kind in KINDS for field in dataclasses.fields(kind))])
numbers = st.integers() | st.floats()
values = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.lists(numbers, max_size=6)
objects = st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=4)


@settings(deadline=None, max_examples=100)
@given(values | objects)
def test_any_json_is_a_configuration_or_a_sentence(values: Any) -> None:
    try:
        config = Config.from_dict(values)
    except ObjectnessError:
        return
    assert Config.from_dict(config.to_dict()) == config


def test_the_schedule_follows_the_network() -> None:
    paper, recipe = TrainOptions.for_network(Config()), TrainOptions.for_network(Config.cspnet(), epochs=3)
    assert paper == TrainOptions()
    assert (recipe.optimizer, recipe.epochs) == ("adamw", 3)
    assert recipe.peak_learning_rate == pytest.approx(5e-4)  # 0.001 for 16 images, and it takes 8
