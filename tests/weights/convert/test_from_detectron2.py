import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from objectness.config import AnchorOptions
from objectness.errors import CheckpointError
from objectness.geometry.anchors import make_shapes
from objectness.weights.convert.conversion import convert_weights
from objectness.weights.convert.family import WeightsFile
from objectness.weights.convert.from_detectron2 import convert, recognises
from objectness.weights.convert.settings import least_above

CHANNELS = 16
HEAD = "proposal_generator.rpn_head"
CELLS = "proposal_generator.anchor_generator.cell_anchors"
State = dict[str, Tensor]


def fill(*shape: int, value: float = 0.0) -> Tensor:
    """A tensor that takes no memory, whatever its shape."""
    return torch.full((1,), value).expand(shape)


def make_state(
    blocks: tuple[int, ...] = (3, 4, 6, 3), groups: int = 1, width: int = 64, *, folded: bool = True, anchors: int = 3
) -> State:
    """The names and shapes of detectron2's R-CNN on bottlenecks, with the statistics of one house or the other."""
    state: State = {}

    def layer(name: str, out: int, inputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = fill(out, inputs, kernel, kernel, value=0.1)
        statistics = {"running_mean": 0.0, "running_var": 1 - 1e-5} if folded else {"running_mean": 0.2}
        for leaf, value in {"weight": 1.0, "bias": 0.0, "running_var": 0.5, **statistics}.items():
            state[f"{name}.norm.{leaf}"] = fill(out, value=value)

    layer("backbone.bottom_up.stem.conv1", 64, 3, 7)
    inputs = 64
    for stage, count in enumerate(blocks):
        inner, out = groups * width * 2**stage, 256 * 2**stage
        for block in range(count):
            start = f"backbone.bottom_up.res{stage + 2}.{block}"
            layer(f"{start}.conv1", inner, inputs, 1)
            layer(f"{start}.conv2", inner, inner // groups, 3)
            layer(f"{start}.conv3", out, inner, 1)
            if block == 0:
                layer(f"{start}.shortcut", out, inputs, 1)
            inputs = out
        for name, channels, kernel in (("lateral", 256 * 2**stage, 1), ("output", CHANNELS, 3)):
            state[f"backbone.fpn_{name}{stage + 2}.weight"] = fill(CHANNELS, channels, kernel, kernel)
            state[f"backbone.fpn_{name}{stage + 2}.bias"] = fill(CHANNELS)
    for name, out, kernel in (
        ("conv", CHANNELS, 3),
        ("objectness_logits", anchors, 1),
        ("anchor_deltas", 4 * anchors, 1),
    ):
        state[f"{HEAD}.{name}.weight"] = torch.randn(out, CHANNELS, kernel, kernel)
        state[f"{HEAD}.{name}.bias"] = torch.randn(out)
    state["roi_heads.box_head.fc1.weight"] = fill(1024, 12544)
    return state


def make_basic_state() -> State:
    """On ResNet-18, which is small enough for a file."""
    state = make_state()
    kept = {name: value for name, value in state.items() if ".bottom_up." not in name and "lateral" not in name}

    def layer(name: str, out: int, inputs: int, kernel: int) -> None:
        kept[f"{name}.weight"] = fill(out, inputs, kernel, kernel, value=0.1)
        for leaf, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            kept[f"{name}.norm.{leaf}"] = fill(out, value=value)

    layer("backbone.bottom_up.stem.conv1", 64, 3, 7)
    inputs = 64
    for stage in range(4):
        out = 64 * 2**stage
        for block in range(2):
            start = f"backbone.bottom_up.res{stage + 2}.{block}"
            layer(f"{start}.conv1", out, inputs, 3)
            layer(f"{start}.conv2", out, out, 3)
            if inputs != out:
                layer(f"{start}.shortcut", out, inputs, 1)
            inputs = out
        kept[f"backbone.fpn_lateral{stage + 2}.weight"] = fill(CHANNELS, out, 1, 1)
        kept[f"backbone.fpn_lateral{stage + 2}.bias"] = fill(CHANNELS)
    return kept


def write_config(folder: Path, **changes: Any) -> Path:
    """What Base-RCNN-FPN.yaml sets, and changes by dotted key; returns where weights beside it would be."""
    config: dict[str, Any] = {
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
            "RESNETS": {"DEPTH": 50, "STRIDE_IN_1X1": True, "NORM": "FrozenBN"},
            "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
            "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
            "RPN": {
                "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
                "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": 1000,
            },
        },
        "INPUT": {"FORMAT": "BGR"},
    }
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "model_final.pth"


def refusal(state: State, path: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(WeightsFile("model.pkl", state, {}, path))
    return str(caught.value)


def without(state: State, part: str) -> State:
    return {name: value for name, value in state.items() if part not in name}


# What is recognised


@pytest.mark.parametrize(
    ("blocks", "groups", "width", "name"),
    [
        ((3, 4, 6, 3), 1, 64, "resnet50"),
        ((3, 4, 23, 3), 1, 64, "resnet101"),
        ((3, 8, 36, 3), 1, 64, "resnet152"),
        ((3, 4, 6, 3), 32, 4, "resnext50_32x4d"),
        ((3, 4, 23, 3), 32, 8, "resnext101_32x8d"),
    ],
)
def test_bodies(blocks: tuple[int, ...], groups: int, width: int, name: str) -> None:
    state = make_state(blocks, groups, width)
    assert recognises(state)
    assert convert(WeightsFile("", state)).config.backbone == name


def test_names() -> None:
    state = make_state()
    converted = convert(WeightsFile("", state)).state
    for theirs, ours in (
        ("backbone.bottom_up.stem.conv1.weight", "backbone.body.conv1.weight"),
        ("backbone.bottom_up.res2.0.shortcut.norm.bias", "backbone.body.layer1.0.downsample.1.bias"),
        ("backbone.bottom_up.res5.2.conv3.norm.running_var", "backbone.body.layer4.2.bn3.running_var"),
        ("backbone.fpn_lateral5.weight", "pyramid.laterals.3.weight"),
        ("backbone.fpn_output2.bias", "pyramid.outputs.0.bias"),
        (f"{HEAD}.conv.weight", "head.convs.0.weight"),
        (f"{HEAD}.anchor_deltas.weight", "head.reg.weight"),
    ):
        assert torch.equal(converted[ours], state[theirs])
    assert torch.equal(converted["head.cls.weight"][0::2], state[f"{HEAD}.objectness_logits.weight"])
    assert not converted["head.cls.weight"][1::2].any()
    assert not any("roi_heads" in name for name in converted)


def test_others_are_not_recognised() -> None:
    assert not recognises(["backbone.body.conv1.weight", "rpn.head.cls_logits.weight"])
    assert not recognises(["backbone.layer1.0.conv1.weight", "neck.lateral_convs.0.conv.weight"])


# What a body tells


def test_caffes_resnet() -> None:
    converted = convert(WeightsFile("", make_state()))
    config = converted.config
    assert config.stride_in_1x1
    assert config.input.order == "BGR"
    assert config.input.mean == pytest.approx((0.485, 0.456, 0.406))
    assert config.input.std == pytest.approx((1 / 255,) * 3)
    assert (config.input.short_side, config.input.long_side, config.input.resize) == (800, 1333, "pillow")
    assert (config.selection.per_level, config.selection.keep, config.selection.keep_training) == (1000, 1000, 1000)
    assert (config.selection.min_size, config.selection.clamp) == (float(np.finfo(np.float32).tiny), "above")
    assert (config.anchors, config.norm_eps, config.pyramid_norm) == (AnchorOptions(), None, "none")
    assert "folded, as in Caffe's ResNets: strides in the 1x1" in converted.notes[0]
    assert len(converted.notes) == 2


def test_caffe2s_resnext() -> None:
    config = convert(WeightsFile("", make_state((3, 4, 23, 3), 32, 8))).config
    assert (config.stride_in_1x1, config.input.order) == (False, "BGR")
    assert config.input.std == pytest.approx((0.229, 0.224, 0.225))  # 58.395, 57.12, 57.375 of 255, in RGB


def test_torchvisions_resnet() -> None:
    config = convert(WeightsFile("", make_state(folded=False))).config
    assert (config.stride_in_1x1, config.input.order) == (False, "RGB")
    assert config.input.std == pytest.approx((0.229, 0.224, 0.225))


def test_statistics_of_an_input_that_no_one_divided() -> None:
    """147 weights of 0.1 have a power of 1.47; torchvision's ResNet-50 has a variance of 0.03 times that."""
    state = make_state(folded=False)
    state["backbone.bottom_up.stem.conv1.norm.running_var"] = fill(64, value=1.47 * 0.03 * 58**2)
    config = convert(WeightsFile("", state)).config
    assert (config.stride_in_1x1, config.input.order) == (True, "BGR")
    assert config.input.std == pytest.approx((1 / 255,) * 3)


def test_basic_blocks_have_no_1x1() -> None:
    config = convert(WeightsFile("", make_basic_state())).config
    assert (config.backbone, config.stride_in_1x1, config.input.order) == ("resnet18", False, "BGR")


def test_an_rpn_alone_keeps_2000() -> None:
    """configs/COCO-Detection/rpn_R_50_FPN_1x.yaml."""
    assert convert(WeightsFile("", without(make_state(), "roi_heads"))).config.selection.keep == 2000


def test_stored_pixel_statistics() -> None:
    state = make_state(folded=False)
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    state["pixel_std"] = torch.tensor([57.375, 57.12, 58.395])[:, None, None]
    options = convert(WeightsFile("", state)).config.input
    assert options.order == "BGR"
    assert options.mean == pytest.approx((0.485, 0.456, 0.406))
    assert options.std == pytest.approx((0.229, 0.224, 0.225))


def test_several_convolutions_and_batch_norm_in_the_pyramid() -> None:
    state = without(without(make_state(), f"{HEAD}.conv."), ".bias")
    state |= {name: value for name, value in make_state().items() if name.endswith("bias") and ".fpn" not in name}
    for i in range(2):
        state[f"{HEAD}.conv.conv{i}.weight"] = torch.randn(CHANNELS, CHANNELS, 3, 3)
        state[f"{HEAD}.conv.conv{i}.bias"] = torch.randn(CHANNELS)
    state.pop(f"{HEAD}.conv.bias")
    for name in [name.removesuffix("weight") for name in state if ".fpn_" in name]:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}norm.{leaf}"] = fill(CHANNELS)
    converted = convert(WeightsFile("", state))
    assert (converted.config.head_depth, converted.config.pyramid_norm) == (2, "batch")
    assert torch.equal(converted.state["head.convs.1.weight"], state[f"{HEAD}.conv.conv1.weight"])
    assert "pyramid.output_norms.3.running_var" in converted.state


# Anchors in the file


def test_stored_anchors_are_compared() -> None:
    sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    state = make_state()
    state |= {f"{CELLS}.{i}": make_shapes(size, (0.5, 1.0, 2.0)) for i, size in enumerate(sizes)}
    assert convert(WeightsFile("", state)).config.anchors == AnchorOptions()


def test_other_stored_anchors_are_taken() -> None:
    options = AnchorOptions(sizes=(16, 32, 64, 128, 256), ratios=(0.5, 1.0, 2.0, 3.0))
    state = make_state(anchors=4)
    state |= {f"{CELLS}.{i}": make_shapes(size, options.ratios) for i, size in enumerate(options.sizes)}
    anchors = convert(WeightsFile("", state)).config.anchors
    assert anchors.sizes == pytest.approx(options.sizes)
    assert anchors.ratios == pytest.approx(options.ratios)


def test_stored_anchors_of_several_sizes_are_refused() -> None:
    state = make_state(anchors=6)
    cells = torch.cat([make_shapes(32, (0.5, 1.0, 2.0)), make_shapes(40, (0.5, 1.0, 2.0))])
    message = refusal({**state, **{f"{CELLS}.{i}": cells * 2**i for i in range(5)}})
    assert message == "model.pkl: its cell_anchors are not one size a level, which ours must be"


def test_stored_anchors_and_configuration_must_agree(tmp_path: Path) -> None:
    state = make_state()
    state |= {f"{CELLS}.{i}": make_shapes(16 * 2**i, (0.5, 1.0, 2.0)) for i in range(5)}
    message = refusal(state, write_config(tmp_path))
    assert message == "model.pkl: its cell_anchors are not those of the configuration, which ours must be"


# The configuration beside the file


def test_the_configuration_wins(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        **{
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.PIXEL_MEAN": [100.0, 110.0, 120.0],
            "MODEL.PIXEL_STD": [51.0, 102.0, 153.0],
            "INPUT.FORMAT": "RGB",
            "INPUT.MIN_SIZE_TEST": 600,
            "INPUT.MAX_SIZE_TEST": 1000,
            "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
            "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
            "MODEL.RPN.NMS_THRESH": 0.6,
            "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 4,
        },
    )
    converted = convert(WeightsFile("", make_state(), {}, path))
    config = converted.config
    assert (config.stride_in_1x1, config.input.order) == (False, "RGB")
    assert (config.input.short_side, config.input.long_side) == (600, 1000)
    assert config.input.mean == pytest.approx((100 / 255, 110 / 255, 120 / 255))
    assert config.input.std == pytest.approx((0.2, 0.4, 0.6))
    assert config.anchors.sizes == (8, 16, 32, 64, 128)
    assert (config.selection.keep, config.selection.keep_training, config.selection.nms_iou) == (300, 1500, 0.6)
    assert torch.tensor(config.selection.min_size) > 4  # at least what is more than 4 in float32
    assert converted.notes == ()


def test_bgr_statistics_are_turned(tmp_path: Path) -> None:
    path = write_config(tmp_path, **{"MODEL.PIXEL_STD": [57.375, 57.12, 58.395]})
    options = convert(WeightsFile("", make_state(), {}, path)).config.input
    assert options.mean == pytest.approx((0.485, 0.456, 0.406))
    assert options.std == pytest.approx((0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "is 'RetinaNet'; only"),
        ("MODEL.ANCHOR_GENERATOR.OFFSET", 0.5, "is 0.5; only 0.0 can be converted exactly"),
        ("MODEL.RESNETS.NORM", "GN", "is 'GN'; only"),
        ("MODEL.RESNETS.RES5_DILATION", 2, "is 2; only 1"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], "is [False, True, True, True]; only"),
        ("MODEL.FPN.FUSE_TYPE", "avg", "is 'avg'; only 'sum'"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [2.0, 2.0, 1.0, 1.0], "is [2.0, 2.0, 1.0, 1.0]; only"),
        ("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5"], "is ['p3', 'p4', 'p5']; only"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]] * 5, "several sizes a level"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0], [2.0], [1.0], [1.0], [1.0]], "differ between levels"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]], "values for 2 levels, not for 5"),
        ("INPUT.MIN_SIZE_TEST", 0, "leaves images as large as they are"),
        ("INPUT.FORMAT", "YUV-BT.601", "is 'YUV-BT.601'; only 'BGR' or 'RGB'"),
        ("MODEL.RPN.NMS_THRESH", "much", "its values cannot be used (could not convert"),
        ("MODEL.RPN.NMS_THRESH", 7, "its values cannot be used (nms_iou = 7.0 is not in [0, 1])"),
        ("MODEL.RESNETS.DEPTH", 101, "is of a ResNet of depth 101, and the weights are of resnet50"),
    ],
)
def test_refused_configurations(key: str, value: object, words: str, tmp_path: Path) -> None:
    message = refusal(make_state(), write_config(tmp_path, **{key: value}))
    assert message.startswith(str(tmp_path / "config.yaml"))
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system ['touch RAN']", "cannot be read as plain YAML"),
        ("MODEL: [", "cannot be read as plain YAML"),
        ("_BASE_: ../Base-RCNN-FPN.yaml\nMODEL: {}", "rests on ../Base-RCNN-FPN.yaml; take the complete"),
    ],
)
def test_configurations_that_cannot_be_read(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    message = refusal(make_state(), tmp_path / "model.pth")
    assert words in message
    assert "\n" not in message
    assert not Path("RAN").exists()


def test_a_configuration_of_another_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {_target_: detectron2.modeling.GeneralizedRCNN}")
    notes = convert(WeightsFile("", make_state(), {}, tmp_path / "model.pth")).notes
    assert notes[-1] == "the config.yaml beside the file is not in detectron2's YAML form and was not used"


# What is refused


def test_other_models_are_refused() -> None:
    state = make_state()
    retinanet = {**without(state, "proposal_generator"), "head.cls_subnet.0.weight": fill(1)}
    assert "is detectron2's RetinaNet or FCOS" in refusal(retinanet)
    c4 = {name.replace("bottom_up.", ""): value for name, value in without(state, "fpn_").items()}
    assert "has no feature pyramid (backbone.fpn_lateral*); a C4 or DC5 model" in refusal(c4)
    assert recognises(c4)
    assert "has no region proposal head" in refusal(without(state, "proposal_generator"))
    assert "has another pyramid than that of C2..C5" in refusal(without(state, "fpn_lateral2"))
    assert "holds Caffe2's names" in refusal({"conv1_w": fill(1), "res2_0_branch2a_w": fill(1)})
    assert recognises(["conv1_w", "res2_0_branch2a_w"])


def test_foreign_parts_are_refused() -> None:
    state = make_state()
    deformable = {**state, "backbone.bottom_up.res3.0.conv2_offset.weight": fill(18, 128, 3, 3)}
    assert "which means deformable convolutions" in refusal(deformable)
    group_norm = {f"backbone.fpn_lateral{k}.norm.weight": fill(CHANNELS) for k in range(2, 6)}
    assert refusal({**state, **group_norm}) == "model.pkl: has group norm in its pyramid, which ours has not"
    wide = {**state, f"{HEAD}.conv.weight": fill(32, CHANNELS, 3, 3)}
    assert "its head convolves with weights of (32, 16, 3, 3)" in refusal(wide)
    two_logits = {**state, f"{HEAD}.objectness_logits.weight": fill(6, CHANNELS, 1, 1)}
    assert "objectness_logits has 6 channels for 3 anchors" in refusal(two_logits)


def test_norms_without_statistics(tmp_path: Path) -> None:
    """detectron2, layers/batch_norm.py: frozen ones get means of 0 and variances of 1; group norm has none either."""
    bare = without(make_state(), ".running_")
    message = refusal(bare)
    assert "they are group norm, which ours has not, or frozen batch norm folded" in message
    converted = convert(WeightsFile("", bare, {}, write_config(tmp_path)))
    assert (converted.state["backbone.body.layer1.0.bn1.running_var"] == 1).all()
    assert not converted.state["backbone.body.bn1.running_mean"].any()
    assert converted.notes == ("53 batch norms have no running statistics; means of 0 and variances of 1 are taken",)


# Whole files


def test_files(tmp_path: Path) -> None:
    """The model zoo's .pkl, a trainer's .pth and a bare state dict give the same network."""
    state = {name: value.clone() for name, value in without(make_basic_state(), "roi_heads").items()}
    zoo, trainer, bare = (tmp_path / name for name in ("model.pkl", "model.pth", "bare.pth"))
    arrays = {name: value.numpy() for name, value in state.items()}
    zoo.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol=2))
    torch.save({"model": state, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 9}, "iteration": 9}, trainer)
    torch.save(state, bare)
    networks = [convert_weights(path).network for path in (zoo, trainer, bare)]
    for network in networks[1:]:
        assert network.config == networks[0].config
        for mine, first in zip(network.state_dict().values(), networks[0].state_dict().values(), strict=True):
            assert torch.equal(mine, first)


def test_changes_override_what_was_assumed(tmp_path: Path) -> None:
    torch.save(make_basic_state(), tmp_path / "model.pth")
    conversion = convert_weights(tmp_path / "model.pth", {"input.order": "RGB", "selection.keep": 50})
    assert (conversion.family, conversion.network.config.input.order) == ("detectron2", "RGB")
    assert conversion.network.config.selection.keep == 50


class Evil:
    """An object whose pickle makes a file: with a function, or a method that it gets with `getattr`."""

    def __init__(self, make: Callable[..., Any], ran: Path):
        self.made = make, (ran if make is Path.touch else str(ran),)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.made


@pytest.mark.parametrize("make", [os.mkdir, Path.touch])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_nothing_in_a_file_is_run(make: Callable[..., Any], suffix: str, tmp_path: Path) -> None:
    path, ran = tmp_path / f"model{suffix}", tmp_path / "ran"
    contents = {"model": {"backbone.fpn_lateral2.weight": np.zeros(1)}, "__author__": Evil(make, ran)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(contents, protocol=2))
    else:
        torch.save(contents, path)
    with pytest.raises(CheckpointError) as caught:
        convert_weights(path)
    assert not ran.exists()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_half_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {"backbone.fpn_lateral2.weight": np.zeros(1000)}, "__author__": ""}))
    else:
        torch.save({"model": {"backbone.fpn_lateral2.weight": torch.zeros(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cut short") as caught:
        convert_weights(path)
    assert "\n" not in str(caught.value)


def test_least_above() -> None:
    assert torch.tensor(least_above(4.0)) > 4
    assert torch.tensor(least_above(4.0)) == torch.nextafter(torch.tensor(4.0), torch.tensor(5.0))
    assert least_above(0.0) == torch.finfo(torch.float32).tiny
