import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objectness.config import AnchorOptions
from objectness.errors import CheckpointError
from objectness.weights.convert.conversion import convert_weights
from objectness.weights.convert.family import WeightsFile
from objectness.weights.convert.from_mmdetection import convert, recognises

CHANNELS = 16
State = dict[str, Tensor]

CONFIG = """
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=2000, max_per_img=1000)),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)))
test_pipeline = [dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='PackDetInputs')]
test_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
"""
SECOND = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(type='RPN', backbone=dict(type='ResNet', style='caffe'), neck=dict(type='FPN', num_outs=5),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64]), bbox_coder=dict(type='DeltaXYWHBBoxCoder')))
train_cfg = dict(rpn_proposal=dict(nms_post=500))
test_cfg = dict(rpn=dict(nms_across_levels=False, nms_pre=700, nms_post=600, max_num=600, nms_thr=0.6, min_bbox_size=0))
data = dict(test=dict(pipeline=[dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32), dict(type='ImageToTensor', keys=['img']), dict(type='Collect')])]))
"""


def fill(*shape: int, value: float = 0.0) -> Tensor:
    """A tensor that takes no memory, whatever its shape."""
    return torch.full((1,), value).expand(shape)


def make_state(
    *, basic: bool = False, folded: bool = False, logits: int = 1, head: str = "rpn_head", groups: int = 1
) -> State:
    """The names and shapes of mmdetection's R-CNN on a ResNet-50, a ResNeXt-50 or a ResNet-18."""
    state: State = {}

    def layer(conv: str, norm: str, out: int, inputs: int, kernel: int) -> None:
        state[f"{conv}.weight"] = fill(out, inputs, kernel, kernel, value=0.1)
        mean, variance = (0.0, 1.0) if folded else (0.2, 0.5)
        for leaf, value in {"weight": 1.0, "bias": 0.0, "running_mean": mean, "running_var": variance}.items():
            state[f"{norm}.{leaf}"] = fill(out, value=value)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    layer("backbone.conv1", "backbone.bn1", 64, 3, 7)
    inputs = 64
    for stage, count in enumerate((2, 2, 2, 2) if basic else (3, 4, 6, 3)):
        inner, out = (128 if groups > 1 else 64) * 2**stage, (64 if basic else 256) * 2**stage
        shapes = [(out, inputs, 3), (out, out, 3)]
        if not basic:
            shapes = [(inner, inputs, 1), (inner, inner // groups, 3), (out, inner, 1)]
        for block in range(count):
            start = f"backbone.layer{stage + 1}.{block}"
            for i, (width, before, kernel) in enumerate(shapes):
                is_first = i == 0 and block > 0
                layer(f"{start}.conv{i + 1}", f"{start}.bn{i + 1}", width, out if is_first else before, kernel)
            if inputs != out:
                layer(f"{start}.downsample.0", f"{start}.downsample.1", out, inputs, 1)
            inputs = out
        for name, channels, kernel in (("lateral", out, 1), ("fpn", CHANNELS, 3)):
            state[f"neck.{name}_convs.{stage}.conv.weight"] = fill(CHANNELS, channels, kernel, kernel)
            state[f"neck.{name}_convs.{stage}.conv.bias"] = fill(CHANNELS)
    for name, out, kernel in (("rpn_conv", CHANNELS, 3), ("rpn_cls", 3 * logits, 1), ("rpn_reg", 12, 1)):
        state[f"{head}.{name}.weight"] = torch.randn(out, CHANNELS, kernel, kernel)
        state[f"{head}.{name}.bias"] = torch.randn(out)
    state["roi_head.bbox_head.fc_cls.weight"] = fill(81, 1024)
    return state


def make_file(text: str | None = CONFIG, state: State | None = None, **meta: Any) -> WeightsFile:
    """A file with a configuration's text, as version 3 stores it."""
    if text is not None:
        meta["cfg"] = text
    return WeightsFile("model.pth", make_state() if state is None else state, {"meta": meta})


def refusal(file: WeightsFile) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(state: State, part: str) -> State:
    return {name: value for name, value in state.items() if part not in name}


# Names and logits


def test_names() -> None:
    state = make_state()
    converted = convert(make_file(state=state)).state
    for theirs, ours in (
        ("backbone.conv1.weight", "backbone.body.conv1.weight"),
        ("backbone.layer4.2.bn3.running_var", "backbone.body.layer4.2.bn3.running_var"),
        ("neck.lateral_convs.3.conv.weight", "pyramid.laterals.3.weight"),
        ("neck.fpn_convs.0.conv.bias", "pyramid.outputs.0.bias"),
        ("rpn_head.rpn_conv.weight", "head.convs.0.weight"),
        ("rpn_head.rpn_reg.bias", "head.reg.bias"),
    ):
        assert torch.equal(converted[ours], state[theirs])
    assert torch.equal(converted["head.cls.bias"][0::2], state["rpn_head.rpn_cls.bias"])
    assert not converted["head.cls.bias"][1::2].any()
    assert not any("roi_head" in name or "num_batches" in name for name in converted)


def test_recognition() -> None:
    assert recognises(make_state())
    assert recognises(["neck.lateral_convs.0.conv.weight", "bbox_head.retina_cls.weight"])
    assert not recognises(["backbone.body.conv1.weight", "rpn.head.cls_logits.weight"])
    assert not recognises(["backbone.bottom_up.stem.conv1.weight", "proposal_generator.rpn_head.conv.weight"])


def test_the_heads_older_name() -> None:
    state = without(make_state(head="bbox_head"), "roi_head")
    assert torch.equal(convert(make_file(state=state)).state["head.reg.bias"], state["bbox_head.rpn_reg.bias"])


def test_several_convolutions_and_batch_norm_in_the_pyramid() -> None:
    state = without(make_state(), "rpn_conv")
    for i in range(2):
        state[f"rpn_head.rpn_conv.{i}.conv.weight"] = torch.randn(CHANNELS, CHANNELS, 3, 3)
        state[f"rpn_head.rpn_conv.{i}.conv.bias"] = torch.randn(CHANNELS)
    for i in range(4):
        for name in ("lateral", "fpn"):
            state.pop(f"neck.{name}_convs.{i}.conv.bias")
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                state[f"neck.{name}_convs.{i}.bn.{leaf}"] = fill(CHANNELS)
    converted = convert(make_file(state=state))
    assert (converted.config.head_depth, converted.config.pyramid_norm) == (2, "batch")
    assert "pyramid.lateral_norms.3.running_mean" in converted.state
    assert torch.equal(converted.state["head.convs.1.bias"], state["rpn_head.rpn_conv.1.conv.bias"])


@pytest.mark.parametrize(
    ("meta", "order"),
    [
        ({"cfg": CONFIG}, "object_first"),
        ({"config": SECOND, "mmdet_version": "2.5.0+1234567"}, "object_first"),
        ({"config": SECOND, "mmdet_version": "2.28.2"}, "object_first"),
        ({"config": SECOND, "mmdet_version": "2.4.0+1234567"}, "object_last"),
    ],
)
def test_order_of_two_logits(meta: dict[str, str], order: str) -> None:
    """docs/compatibility.md: background was the first of two before 2.5."""
    state = make_state(logits=2)
    converted = convert(WeightsFile("", state, {"meta": meta}))
    assert (converted.config.class_order, converted.notes) == (order, ())
    assert torch.equal(converted.state["head.cls.weight"], state["rpn_head.rpn_cls.weight"])


def test_an_unknown_order_is_said() -> None:
    assert "--set class_order=object_last" in convert(make_file(None, make_state(logits=2))).notes[-1]


def test_scaled_targets_are_folded_into_the_weights() -> None:
    state = make_state()
    text = CONFIG.replace("[1.0, 1.0, 1.0, 1.0]", "[0.1, 0.1, 0.2, 0.2]").replace("[.0, .0, .0, .0]", "[0, 0, 0.5, -1]")
    converted = convert(make_file(text, state)).state
    x = torch.randn(CHANNELS)
    predicted = state["rpn_head.rpn_reg.weight"][:, :, 0, 0] @ x + state["rpn_head.rpn_reg.bias"]
    wanted = predicted.view(3, 4) * torch.tensor([0.1, 0.1, 0.2, 0.2]) + torch.tensor([0, 0, 0.5, -1])
    ours = converted["head.reg.weight"][:, :, 0, 0] @ x + converted["head.reg.bias"]
    torch.testing.assert_close(ours.view(3, 4), wanted)


# Settings


def test_third_version() -> None:
    converted = convert(make_file())
    config = converted.config
    assert (config.backbone, config.stride_in_1x1, config.norm_eps) == ("resnet50", False, None)
    assert (config.input.order, config.input.resize, config.input.pad_multiple) == ("RGB", "opencv", 32)
    assert config.input.mean == pytest.approx((0.485, 0.456, 0.406))
    assert config.input.std == pytest.approx((0.229, 0.224, 0.225))
    assert (config.input.short_side, config.input.long_side) == (800, 1333)
    assert config.anchors == AnchorOptions()
    selection = config.selection
    assert (selection.per_level, selection.keep, selection.keep_training, selection.nms_iou) == (1000, 1000, 1000, 0.7)
    assert (selection.min_size, selection.clamp) == (torch.finfo(torch.float32).tiny, "both")
    assert converted.notes == ()


def test_second_version() -> None:
    state = without(make_state(), "roi_head")
    converted = convert(WeightsFile("", state, {"meta": {"config": SECOND, "mmdet_version": "2.3.0"}}))
    config = converted.config
    assert (config.stride_in_1x1, config.input.order, config.input.pad_multiple) == (True, "BGR", 32)
    assert config.input.mean == pytest.approx((0.485, 0.456, 0.406))
    assert config.input.std == pytest.approx((1 / 255,) * 3)
    assert (config.input.short_side, config.input.long_side) == (600, 1000)
    assert config.anchors.sizes == (16, 32, 64, 128, 256)
    selection = config.selection
    assert (selection.per_level, selection.keep, selection.keep_training, selection.nms_iou) == (700, 600, 500, 0.6)
    assert converted.notes == ()


def test_types_with_their_packages() -> None:
    """As version 3 writes configurations that are Python modules."""
    text = CONFIG.replace("'FPN'", "'mmdet.models.necks.fpn.FPN'").replace("'Resize'", "'mmcv.transforms.Resize'")
    assert convert(make_file(text)).config == convert(make_file()).config


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("'BN', requires", "'SyncBN', eps=0.001, requires", "norm_eps", 0.001),
        ("scales=[8]", "octave_base_scale=4, scales_per_octave=1", "anchors.sizes", (16, 32, 64, 128, 256)),
        ("scales=[8]", "base_sizes=[3, 6, 12, 24, 48], scales=[10]", "anchors.sizes", (30, 60, 120, 240, 480)),
        (
            "[4, 8, 16, 32, 64])",
            "[(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)])",
            "anchors.sizes",
            (32, 64, 128, 256, 512),
        ),
        ("pad_size_divisor=32", "pad_size_divisor=64", "input.pad_multiple", 64),
        (", pad_size_divisor=32", "", "input.pad_multiple", 1),
        ("nms_pre=1000", "nms_pre=-1", "selection.per_level", 1_000_000),
        ("min_bbox_size=0", "min_bbox_size=-1", "selection.min_size", 0.0),
        ("keep_ratio=True", "keep_ratio=True, backend='pillow'", "input.resize", "pillow"),
        ("backend_args=None", "to_float32=True", "input.resize", "bilinear"),
        ("bgr_to_rgb=True,", "bgr_to_rgb=False,", "input.order", "BGR"),
        ("style='pytorch'", "style='caffe'", "stride_in_1x1", True),
    ],
)
def test_settings(old: str, new: str, field: str, value: object) -> None:
    assert old in CONFIG
    found: Any = convert(make_file(CONFIG.replace(old, new))).config
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scales=[8]", "scales=[8], center_offset=0.5", "rpn_head.anchor_generator.center_offset is 0.5, not 0"),
        ("'AnchorGenerator'", "'LegacyAnchorGenerator'", "rpn_head.anchor_generator.type is 'LegacyAnchorGenerator'"),
        ("'DeltaXYWHBBoxCoder'", "'LegacyDeltaXYWHBBoxCoder'", "rpn_head.bbox_coder.type is 'LegacyDelta"),
        ("target_means", "clip_border=False, target_means", "rpn_head.bbox_coder.clip_border is False, not True"),
        ("target_means", "add_ctr_clamp=True, target_means", "rpn_head.bbox_coder.add_ctr_clamp is True"),
        ("scales=[8]", "scales=[4, 8]", "has 2 sizes a level, where ours has one"),
        ("[4, 8, 16, 32, 64])", "[(4, 8), 8, 16, 32, 64])", "differ in the two directions"),
        ("'nms',", "'soft_nms',", "test_cfg.rpn.nms.type is 'soft_nms', not 'nms'"),
        ("iou_threshold=0.7", "iou_threshold=0.7, score_threshold=0.1", "test_cfg.rpn.nms has score_threshold"),
        ("type='ResNet'", "type='Res2Net'", "backbone.type is 'Res2Net', not 'ResNet' or 'ResNeXt'"),
        ("depth=50", "dcn=dict(type='DCN')", "backbone.dcn is"),
        ("depth=50", "conv_cfg=dict(type='ConvWS')", "backbone.conv_cfg is {'type': 'ConvWS'}, not a plain"),
        ("depth=50", "dilations=(1, 1, 1, 2)", "backbone.dilations is [1, 1, 1, 2]"),
        ("type='BN'", "type='GN', num_groups=32", "backbone.norm_cfg.type is 'GN'"),
        (
            "num_outs=5",
            "num_outs=5, norm_cfg=dict(type='BN', eps=0.1)",
            "norm_cfg.eps is 1e-05 and 0.1, where ours is one",
        ),
        ("'FPN'", "'PAFPN'", "neck.type is 'PAFPN', not 'FPN'"),
        ("num_outs=5", "num_outs=6", "neck.num_outs is 6, not 5"),
        ("num_outs=5", "num_outs=5, upsample_cfg=dict(mode='bilinear')", "neck.upsample_cfg.mode is 'bilinear'"),
        ("num_outs=5", "num_outs=5, act_cfg=dict(type='ReLU')", "neck.act_cfg is"),
        (
            "type='Resize', scale=(1333, 800), keep_ratio=True",
            "type='Resize', scale=(800, 800)",
            "Resize.keep_ratio is not",
        ),
        ("scale=(1333, 800)", "scale=0.5", "test images are resized to 0.5"),
        ("keep_ratio=True", "keep_ratio=True, interpolation='bicubic'", "Resize.interpolation is 'bicubic'"),
        ("backend_args=None", "color_type='grayscale'", "LoadImageFromFile.color_type is 'grayscale'"),
        ("pad_size_divisor=32", "pad_value=114", "data_preprocessor.pad_value is 114"),
        ("mean=[123.675, 116.28, 103.53]", "mean=load()", "mean and std are more than values"),
        ("ratios=[0.5, 1.0, 2.0]", "ratios=[]", "anchor ratios () must be positive"),
        ("model = dict(", "other = dict(", "its configuration text has no model"),
    ],
)
def test_refused_settings(old: str, new: str, words: str) -> None:
    assert old in CONFIG
    message = refusal(make_file(CONFIG.replace(old, new)))
    assert message.startswith("model.pth: its configuration")
    assert words in message


def test_a_size_that_must_be_exceeded() -> None:
    text = CONFIG.replace("min_bbox_size=0", "min_bbox_size=16")
    assert torch.tensor(convert(make_file(text)).config.selection.min_size) > 16
    alone = CONFIG.replace("'FasterRCNN'", "'RPN'")
    assert convert(make_file(alone)).config.selection.min_size == convert(make_file(CONFIG)).config.selection.min_size
    message = refusal(make_file(alone.replace("min_bbox_size=0", "min_bbox_size=16")))
    assert "test_cfg.rpn.min_bbox_size is 16, which an RPN of its own takes in the original image" in message


def test_unknown_steps_are_named() -> None:
    text = CONFIG.replace(
        "dict(type='PackDetInputs')", "dict(type='PhotoMetricDistortion'), dict(type='PackDetInputs')"
    )
    assert convert(make_file(text)).notes == ("of the test pipeline PhotoMetricDistortion is not taken over",)
    text = CONFIG.replace("dict(type='Resize', scale=(1333, 800), keep_ratio=True), ", "")
    assert "sides of 800 and 1333 px are assumed" in convert(make_file(text)).notes[0]


@pytest.mark.parametrize(
    ("kind", "stride_in_1x1", "order", "std"),
    [
        ({"folded": True}, True, "BGR", (1 / 255,) * 3),
        ({"folded": True, "groups": 32}, False, "BGR", (0.229, 0.224, 0.225)),
        ({"folded": False}, False, "RGB", (0.229, 0.224, 0.225)),
    ],
)
def test_without_a_configuration(kind: dict[str, Any], stride_in_1x1: bool, order: str, std: tuple[float, ...]) -> None:
    converted = convert(make_file(None, make_state(**kind)))
    config = converted.config
    assert (config.stride_in_1x1, config.input.order) == (stride_in_1x1, order)
    assert config.input.std == pytest.approx(std)
    assert (config.input.resize, config.selection.clamp) == ("opencv", "both")
    assert (config.selection.per_level, config.selection.keep) == (1000, 1000)
    assert len(converted.notes) == 2
    assert "the file holds no configuration" in converted.notes[1]


def test_an_rpn_alone_takes_2000_a_level() -> None:
    """configs/_base_/models/rpn_r50_fpn.py of version 3: nms_pre 2000, max_per_img 1000."""
    selection = convert(make_file(None, without(make_state(), "roi_head"))).config.selection
    assert (selection.per_level, selection.keep) == (2000, 1000)


# What is refused


@pytest.mark.parametrize(
    ("removed", "added", "words"),
    [
        ("rpn_", {"bbox_head.retina_cls.weight": fill(1)}, "has no proposal head"),
        ("neck.", {}, "has no feature pyramid (neck.*); a C4 or DC5 model"),
        ("nothing", {"neck.lateral_convs.0.gn.weight": fill(CHANNELS)}, "has group norm in its pyramid"),
        ("nothing", {"neck.fpn_convs.4.conv.weight": fill(1)}, "makes its sixth map with a convolution"),
        ("lateral_convs.3", {}, "has another pyramid than FPN's"),
        ("nothing", {"neck.fpn_convs.0.bn.weight": fill(CHANNELS)}, "has batch norm in some convolutions"),
        ("rpn_cls", {"rpn_head.conv_loc.weight": fill(1)}, "has a proposal head of another kind than RPNHead"),
        ("nothing", {"bbox_head.fc_cls.weight": fill(1)}, "is of mmdetection 1"),
        ("nothing", {"backbone.layer2.0.conv2.conv_offset.weight": fill(1)}, "deformable convolutions"),
        ("nothing", {"neck.downsample_convs.0.conv.weight": fill(1)}, "neck.downsample_convs.0.conv.weight"),
        ("rpn_conv", {"rpn_head.rpn_conv.weight": fill(32, CHANNELS, 3, 3)}, "its head convolves with weights of (32"),
    ],
)
def test_refused_networks(removed: str, added: State, words: str) -> None:
    message = refusal(make_file(state={**without(make_state(), removed), **added}))
    assert message.startswith("model.pth: ")
    assert words in message


def test_one_stage_and_first_version() -> None:
    state = without(without(make_state(), "rpn_"), "roi_head")
    assert "is a detector of one stage" in refusal(make_file(state={**state, "bbox_head.retina_cls.weight": fill(1)}))
    old = make_file(None, without(make_state(), "roi_head"), mmdet_version="1.2.0+0f33c08")
    assert "is of mmdetection 1, whose boxes were a pixel wider" in refusal(old)


# Whole files


def write_training_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of mmengine's runner, whose log's classes are gone when it is read."""

    class HistoryBuffer:
        """Pickled as mmengine's: with its arrays, and its methods by `getattr`."""

        def __init__(self) -> None:
            self.max_length = 1000
            self._log_history, self._count_history = np.array([0.5, 0.25]), np.array([1, 1])

        def mean(self) -> float:
            return 0.0

        def __getstate__(self) -> dict[str, Any]:
            return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

    package, module = ModuleType("mmengine.logging"), ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    state = make_state(basic=True)
    contents = {
        "meta": {"epoch": 12, "iter": 87960, "cfg": CONFIG.replace("depth=50", "depth=18"), "mmengine_version": "0.10"},
        "state_dict": OrderedDict(state),
        "message_hub": {
            "log_scalars": OrderedDict([("train/loss", HistoryBuffer())]),
            "runtime_info": OrderedDict(epoch=11, best_score=np.float64(0.6), loop_stage="train"),
            "resumed_keys": {"train/loss": True},
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.02}]},
        "param_schedulers": [{"last_step": 12}],
    }
    with monkeypatch.context() as context:
        for each in (ModuleType("mmengine"), package, module):
            context.setitem(sys.modules, each.__name__, each)
        torch.save(contents, path)


def test_a_training_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_12.pth"
    write_training_file(path, monkeypatch)
    assert "mmengine" not in sys.modules
    with pytest.raises(Exception, match="HistoryBuffer"):  # so that the file is worth it
        torch.load(path, weights_only=True)
    conversion = convert_weights(path)
    assert (conversion.family, conversion.network.config.backbone) == ("mmdetection", "resnet18")
    assert not conversion.network.config.stride_in_1x1
    assert "mmengine" not in sys.modules
