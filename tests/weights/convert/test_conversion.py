import argparse
import email.message
import hashlib
import io
import pickle
import tarfile
import urllib.error
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file
from torch import Tensor

from objectness.config import Config
from objectness.errors import CheckpointError, ConfigError, DownloadError
from objectness.geometry.selection import fold_logits
from objectness.model.backbone import make_backbone
from objectness.model.resnet import DESIGNS
from objectness.network import RegionProposalNetwork
from objectness.structures import flatten_map
from objectness.weights.checkpoint import COUNTER, load_network
from objectness.weights.convert.conversion import (
    Conversion,
    change_config,
    convert_to_folder,
    convert_weights,
)
from objectness.weights.convert.family import (
    WeightsFile,
    count_anchors,
    cut_prefix,
    pair_logits,
    recognise_resnet,
    rename,
)
from objectness.weights.convert.published import PUBLISHED, Published
from objectness.weights.convert.reading import FAMILIES, unwrap
from objectness.weights.download import fetch, get_digest

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]


@cache
def make_body(name: str) -> State:
    """Names and shapes of a body with counters, without values."""
    with torch.device("meta"):
        state: State = make_backbone(name, "trained").body.state_dict()
    return state


def make_state(*, second: bool = False, old_names: bool = False) -> State:
    """A small detector as torchvision names it: ResNet-18, a pyramid of 8 channels, and a second stage.

    Args:
        second: its second version: batch norm in the pyramid, two convolutions in the head, counters.
        old_names: those of before 2022, without the containers' positions.
    """
    random = torch.Generator().manual_seed(1)
    state = {}
    for name, value in make_body("resnet18").items():
        if second or not name.endswith(COUNTER):  # one number a tensor, which makes small files
            state[f"backbone.body.{name}"] = (torch.rand((), generator=random) / 50).to(value.dtype).expand(value.shape)

    def add(name: str, *shape: int) -> None:
        state[name] = torch.rand(shape, generator=random) - (0.5 if len(shape) == 4 else 0)

    inner = "" if old_names else ".0"
    for kind, kernel in (("inner_blocks", 1), ("layer_blocks", 3)):
        for i in range(4):
            start = f"backbone.fpn.{kind}.{i}"
            add(f"{start}{inner}.weight", 8, 64 * 2**i if kernel == 1 else 8, kernel, kernel)
            if second:
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    add(f"{start}.1.{leaf}", 8)
                state[f"{start}.1.num_batches_tracked"] = torch.tensor(7)
            else:
                add(f"{start}{inner}.bias", 8)
    for depth in range(2 if second else 1):
        start = "rpn.head.conv" if old_names else f"rpn.head.conv.{depth}.0"
        add(f"{start}.weight", 8, 8, 3, 3)
        add(f"{start}.bias", 8)
    for name, channels in (("cls_logits", 3), ("bbox_pred", 12)):
        add(f"rpn.head.{name}.weight", channels, 8, 1, 1)
        add(f"rpn.head.{name}.bias", channels)
    state["roi_heads.box_head.fc6.weight"] = torch.zeros(4, 4)
    state["roi_heads.mask_predictor.conv5_mask.bias"] = torch.zeros(4)
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return make_state()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def convert(contents: object, file: Path, changes: dict[str, Any] | None = None) -> Conversion:
    torch.save(contents, file)
    return convert_weights(file, changes)


def replace(state: State, changes: dict[str, tuple[int, ...] | None]) -> State:
    """Other shapes for some names, and without those that get none."""
    return {
        **{name: value for name, value in state.items() if name not in changes},
        **{name: torch.zeros(shape) for name, shape in changes.items() if shape is not None},
    }


# The logits


@given(arrays(np.float32, 12, elements=st.floats(-1000, 1000, width=32)))
@settings(max_examples=30, deadline=None)
def test_pairs_fold_back_bit_for_bit(values: np.ndarray) -> None:
    """z -> (z, 0) -> z, through a convolution as the head has it."""
    weight, bias = torch.from_numpy(values)[:9].reshape(3, 3, 1, 1), torch.from_numpy(values)[9:]
    x = torch.tensor([1.0, -2.0, 0.5])[None, :, None, None].expand(1, 3, 2, 2)
    z = torch.nn.functional.conv2d(x, weight, bias)
    paired_weight, paired_bias = pair_logits(weight, bias)
    assert paired_weight.shape == (6, 3, 1, 1)
    pairs = torch.nn.functional.conv2d(x, paired_weight, paired_bias)
    assert torch.equal(pairs[:, 1::2], torch.zeros(1, 3, 2, 2))
    assert torch.equal(pairs[:, 0::2], torch.nn.functional.conv2d(x, paired_weight[0::2], paired_bias[0::2]))
    folded = fold_logits(flatten_map(pairs, 2))
    assert torch.equal(folded, flatten_map(pairs[:, 0::2], 1)[..., 0])
    torch.testing.assert_close(pairs[:, 0::2], z)


@pytest.mark.parametrize(
    ("logits", "deltas", "expected"), [(3, 12, (3, False)), (6, 12, (3, True)), (1, 4, (1, False)), (2, 4, (1, True))]
)
def test_count_anchors(logits: int, deltas: int, expected: tuple[int, bool]) -> None:
    assert count_anchors(torch.zeros(logits, 8, 1, 1), torch.zeros(deltas, 8, 1, 1), "x") == expected


@pytest.mark.parametrize(("logits", "deltas"), [(3, 13), (9, 12), (0, 0), (240, 12)])
def test_no_head(logits: int, deltas: int) -> None:
    with pytest.raises(CheckpointError, match=rf"x: the head has {logits} logits and {deltas} box weights a cell"):
        count_anchors(torch.zeros(logits, 8, 1, 1), torch.zeros(deltas, 8, 1, 1), "x")


# The body


@pytest.mark.parametrize("name", list(DESIGNS))
def test_every_resnet_is_recognised(name: str) -> None:
    assert recognise_resnet(make_body(name), "x") == name


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"layer3.5.conv1.weight": None, "layer3.5.conv4.weight": (1,)}, r"a tensor named layer3\.5\.conv4\.weight"),
        ({"layer1.0.conv2.weight": (128, 128, 3, 3)}, r"a ResNet with \(3, 4, 6, 3\) bottlenecks of 1 x 128 channels"),
        ({"layer3.6.conv1.weight": (1,)}, r"a ResNet with \(3, 4, 7, 3\) bottlenecks of 1 x 64 channels"),
        ({"layer5.0.conv1.weight": (1,)}, r"a tensor named layer5\.0\.conv1\.weight"),
        ({"layer1.0.downsample.2.weight": (1,)}, r"shortcuts behind average pooling \(ResNet-D\)"),
        ({"conv1.weight": None, "conv1.0.weight": (32, 3, 3, 3)}, r"a deep stem"),
        ({"conv1.weight": None, "stem.0.weight": (32, 3, 3, 3)}, r"a deep stem"),
        ({"conv1.weight": (64, 1, 7, 7)}, r"a first convolution of shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"),
        ({"layer2.0.conv2_offset.weight": (27, 128, 3, 3)}, r"deformable convolutions"),
        ({"layer1.0.se.fc1.weight": (1,)}, r"squeeze and excitation"),
        ({"layer1.0.convs.0.weight": (1,)}, r"Res2Net's convolutions"),
        ({"layer1.0.conv2.fc1.weight": (1,)}, r"split attention"),
        ({"layer4.0.conv1.weight": None, "layer3.9.conv3.weight": (1,)}, r"a ResNet with \(3, 4, 10, 3\) bottlenecks"),
        ({"layer1.0.conv1.bias": (64,)}, r"convolutions with bias"),
        ({"bn1.running_mean": None}, r"no bn1\.running_mean"),
        ({"layer1.0.conv2.weight": None}, r"no layer1\.0\.conv2\.weight"),
    ],
)
def test_other_resnets(changes: dict[str, tuple[int, ...] | None], found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^x: the backbone has {found}"):
        recognise_resnet(replace(make_body("resnet50"), changes), "x")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["0.0.weight", "1.block.0.0.weight"], "MobileNet's blocks"),
        (["features.0.0.weight"], "the layers of a MobileNet"),
        (["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"], "a transformer"),
        (["stem.0.weight", "stages.0.0.gamma"], "depthwise convolutions"),
        (["res2.0.weight"], r"a tensor named res2\.0\.weight"),
        ([], r"no conv1\.weight"),
    ],
)
def test_other_backbones(names: list[str], found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x: the backbone has {found}.*; known are resnet18, resnet34"):
        recognise_resnet({name: torch.zeros(1) for name in names}, "x")


# Names


def test_rename() -> None:
    """The longest beginning counts; counters and what is ignored are left out; what comes is float32."""
    state = {
        "a.b.weight": torch.ones(1, dtype=torch.float16),
        "a.c.weight": torch.ones(1),
        "a.c.num_batches_tracked": torch.tensor(3),
        "mask.weight": torch.ones(1),
    }
    renamed = rename(WeightsFile("x", state), {"a.": "z.", "a.b.": "y."}, ["mask."])
    assert sorted(renamed) == ["y.weight", "z.c.weight"]
    assert renamed["y.weight"].dtype == torch.float32
    with pytest.raises(
        CheckpointError, match=r"x: .* since 1 of its tensors have no place .* \(the first is mask\.weig"
    ):
        rename(WeightsFile("x", state), {"a.": "z."})
    assert cut_prefix(state, "a.c.").keys() == {"weight", "num_batches_tracked"}


# torchvision


def test_first_version(state: State, file: Path) -> None:
    conversion = convert(state, file)
    network, config = conversion.network, conversion.network.config
    assert (conversion.family, conversion.origin) == ("torchvision", str(file))
    assert not network.training
    assert (config.backbone, config.pyramid_channels, config.pyramid_norm, config.head_depth) == (
        "resnet18", 8, "none", 1,
    )  # fmt: skip
    assert config.anchors.rounded
    assert config.anchors.strides_from_shape
    assert (config.input.resize, config.input.size_rounding, config.input.order) == ("bilinear", "down", "RGB")
    assert (config.selection.per_level, config.selection.keep) == (1000, 1000)
    assert (config.batch_norm, config.frozen_stages, config.norm_eps) == ("frozen", 0, None)
    for ours, theirs in [
        ("backbone.body.layer4.1.conv2.weight", "backbone.body.layer4.1.conv2.weight"),
        ("pyramid.laterals.2.weight", "backbone.fpn.inner_blocks.2.0.weight"),
        ("pyramid.outputs.3.bias", "backbone.fpn.layer_blocks.3.0.bias"),
        ("head.convs.0.weight", "rpn.head.conv.0.0.weight"),
        ("head.reg.bias", "rpn.head.bbox_pred.bias"),
    ]:
        assert torch.equal(network.state_dict()[ours], state[theirs]), ours
    assert torch.equal(network.head.cls.weight[0::2], state["rpn.head.cls_logits.weight"])
    assert not network.head.cls.weight[1::2].any()


def test_one_family_recognises_them(state: State) -> None:
    assert [family.NAME for family in FAMILIES if family.recognises(state)] == ["torchvision"]
    ours = RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8)).state_dict()
    assert not any(family.recognises(names) for family in FAMILIES for names in (ours, make_body("resnet18")))


def test_old_names_are_the_same_network(file: Path) -> None:
    outputs = []
    for old_names in (False, True):
        network = convert(make_state(old_names=old_names), file).network
        with torch.inference_mode():
            outputs.append(network(IMAGES).logits[0])
    assert torch.equal(*outputs)


def test_second_version(file: Path) -> None:
    state = make_state(second=True)
    conversion = convert(state, file)
    config, ours = conversion.network.config, conversion.network.state_dict()
    assert (config.pyramid_norm, config.head_depth, config.norm_eps) == ("batch", 2, None)
    assert torch.equal(ours["pyramid.lateral_norms.1.running_var"], state["backbone.fpn.inner_blocks.1.1.running_var"])
    assert torch.equal(ours["pyramid.output_norms.3.bias"], state["backbone.fpn.layer_blocks.3.1.bias"])
    assert torch.equal(ours["head.convs.1.weight"], state["rpn.head.conv.1.0.weight"])
    assert not any(COUNTER in name for name in ours)
    assert not any("norm_eps" in note for note in conversion.notes)  # trained norms always had one epsilon
    trained = convert(state, file, {"batch_norm": "trained"}).network
    assert trained.state_dict()["backbone.body.bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["backbone.body.conv1.weight", "backbone.fpn.a", "head.classification_head.conv.0.weight"],
            "is torchvision's RetinaNet,",
        ),
        (["backbone.fpn.a", "head.classification_head.b", "head.regression_head.bbox_ctrness.weight"], "FCOS,"),
        (["backbone.features.0.weight", "head.classification_head.module_list.0.weight"], "SSD,"),
        (["backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.weight"], r"has no region proposal head \(rpn"),
        (["backbone.0.weight", "rpn.head.conv.weight"], r"has no feature pyramid \(backbone\.fpn\.\*\)"),
        (["rpn.head.a", "backbone.fpn.b", "backbone.body.0.0.weight"], "the backbone has MobileNet's blocks; known"),
    ],
)
def test_other_detectors(names: list[str], message: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert({name: torch.zeros(1) for name in names}, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"backbone.fpn.inner_blocks.3.0.{leaf}": None for leaf in ("weight", "bias")}, "stands on 3 stages"),
        ({"backbone.fpn.extra_blocks.p6.weight": (1,)}, r"no place in a proposal network .*extra_blocks\.p6\.weight"),
        ({"rpn.head.cls_logits.weight": None}, r"rpn\.head\.cls_logits\.weight is missing; the file is cut short"),
        ({"rpn.head.cls_logits.weight": (6, 8, 1, 1)}, r"cls_logits has 6 channels for 3 anchors"),
        ({"rpn.head.bbox_pred.weight": (11, 8, 1, 1)}, r"the head has 3 logits and 11 box weights"),
        ({"rpn.head.conv.0.0.bias": None}, r"1 missing \(the first is head\.convs\.0\.bias\)"),
        ({"backbone.body.layer4.1.bn2.bias": (3,)}, r"1 of another shape \(the first is backbone\.body\.layer4\.1\.b"),
    ],
)  # fmt: skip
def test_damaged_state(changes: dict[str, tuple[int, ...] | None], message: str, state: State, file: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"weights\.pth: .*{message}"):
        convert(replace(state, changes), file)


def test_number_of_anchors(state: State, file: Path) -> None:
    """Two shapes, say; which they are, only their owner knows."""
    two = replace(state, {"rpn.head.cls_logits.weight": (2, 8, 1, 1), "rpn.head.cls_logits.bias": (2,),
                          "rpn.head.bbox_pred.weight": (8, 8, 1, 1), "rpn.head.bbox_pred.bias": (8,)})  # fmt: skip
    with pytest.raises(
        CheckpointError, match=r"2 anchors a cell, the configuration 3 shapes; .*--set anchors\.ratios="
    ):
        convert(two, file)
    assert convert(two, file, {"anchors.ratios": [1.0, 2.0]}).network.config.anchors.ratios == (1.0, 2.0)


# What is wrapped around a state dict


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.02), "epoch": 25},
        lambda state: {"state_dict": OrderedDict(state), "meta": {"version": "3.0"}},
        lambda state: {"model_state_dict": state, "best": np.float64(0.37), "random": np.random.get_state()},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {name: torch.nn.Parameter(value, requires_grad=value.is_floating_point())
                       for name, value in state.items()},
    ],
)  # fmt: skip
def test_wrapped(wrap: Callable[[State], object], state: State, file: Path) -> None:
    network = convert(wrap(state), file).network
    assert torch.equal(network.head.reg.weight, state["rpn.head.bbox_pred.weight"])


def test_averages_are_preferred(state: State, file: Path) -> None:
    average = {f"module.{name}": value + 1 for name, value in state.items()} | {"n_averaged": torch.tensor(5)}
    conversion = convert({"model": state, "model_ema": average}, file)
    assert torch.equal(conversion.network.head.reg.bias, state["rpn.head.bbox_pred.bias"] + 1)
    assert conversion.notes[0] == "taken are the averaged weights, model_ema"


def test_what_lies_beside_is_kept() -> None:
    found = unwrap({"state_dict": {"a": torch.ones(1)}, "meta": {"classes": 3}, "epoch": 4}, "x")
    assert (found.extra["meta"], found.extra["epoch"]) == ({"classes": 3}, 4)
    arrays_of_numpy = unwrap({"model": {"a": np.ones(2, np.float32)}, "__author__": "d2"}, "x")
    assert torch.equal(arrays_of_numpy.state["a"], torch.ones(2))


@pytest.mark.parametrize("kind", ["safetensors", "half", "legacy", "named otherwise", "pickle"])
def test_kinds_of_files(kind: str, state: State, tmp_path: Path) -> None:
    """Told apart by what is in them."""
    path = tmp_path / {"safetensors": "a.safetensors", "pickle": "a.pkl"}.get(kind, "a.weights")
    if kind in ("safetensors", "named otherwise"):
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": {name: value.numpy() for name, value in state.items()}}))
    else:
        values = {name: value.half() if kind == "half" else value for name, value in state.items()}
        torch.save(values, path, _use_new_zipfile_serialization=kind != "legacy")
    weight = convert_weights(path).network.head.reg.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, state["rpn.head.bbox_pred.weight"], rtol=0, atol=1e-3 if kind == "half" else 0)


# Changes


def test_changes(state: State, file: Path) -> None:
    changes = {"norm_eps": 0.0, "input.order": "BGR", "selection.keep": 50, "input.mean": [0.0, 0.0, 0.0]}
    config = convert(state, file, changes).network.config
    assert (config.norm_eps, config.input.order, config.selection.keep) == (0.0, "BGR", 50)
    assert config.selection.per_level == 1000  # what is not named stays
    assert config.input.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 3}, r"configuration field size is unknown; known are anchors, backbone"),
        ({"input.size": 3}, r"configuration field input\.size is unknown"),
        ({"no.such": 3}, r"configuration field no is unknown"),
        ({"norm_eps.x": 3}, r"norm_eps = .* must be of type"),
        ({"selection.keep": "many"}, r"selection\.keep = 'many' must be of type int"),
        ({"selection.keep": 0}, r"keep .* must be at least 1"),
        ({"input.order": "GRB"}, r"'GRB' is none of 'RGB', 'BGR'"),
    ],
)
def test_wrong_changes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change_config(Config(), changes)


# Files that are none


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, r"holds no state dict \(a mapping of names to tensors\)"),
        ({"model": {}}, r"holds no state dict"),
        ([torch.zeros(1)], r"holds no state dict"),
        ({"epoch": 3}, r"holds no state dict"),
        ({"x.weight": torch.zeros(1)}, r"is no proposal network of .*torchvision.*; it has tensors such as x\.weight"),
        ({"features.0.0.weight": torch.zeros(1)}, r"is no proposal network .*; it has the layers of a MobileNet"),
        ({"patch_embed.proj.weight": torch.zeros(1)}, r"is no proposal network .*; it has a transformer"),
    ],
)
def test_contents_of_nobody(contents: object, message: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"weights\.pth: {message}"):
        convert(contents, file)


def test_a_network_of_ours(file: Path) -> None:
    network = RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8))
    with pytest.raises(CheckpointError, match=r"is a network of ours already; put its config\.json beside it"):
        convert(network.state_dict(), file)


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nowhere\.pth: there is no such file, .* torchvision/fasterrcnn_resnet50"
    ):
        convert_weights(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r": is a folder; pass the file with the weights that is in it"):
        convert_weights(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pkl"])
@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\x80", b"PK\x03\x04", b"\x00" * 300])
def test_no_weights_at_all(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: ") as raised:
        convert_weights(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pickle"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_half_a_file(kind: str, share: float, state: State, tmp_path: Path) -> None:
    path = tmp_path / {"safetensors": "a.safetensors", "pickle": "a.pkl"}.get(kind, "a.pth")
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"it may be cut short") as raised:
        convert_weights(path)
    assert "\n" not in str(raised.value)


# Files that want more


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "bare in .pkl", "tar"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_run(kind: str, state: State, tmp_path: Path) -> None:
    target, path = tmp_path / "hacked", tmp_path / ("a.pkl" if kind == "bare in .pkl" else "a.pth")
    contents = {**state, "extra": Malice(target)}
    if kind in ("zip", "legacy"):
        torch.save(contents, path, _use_new_zipfile_serialization=kind == "zip")
        torch.load(path, weights_only=False)
        target.rmdir()  # so it would have been made
    elif kind == "tar":  # torch's first format
        data = pickle.dumps(Malice(target))
        with tarfile.open(path, "w") as tar:
            for name in ("storages", "tensors", "pickle"):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": Malice(target)}))
    with pytest.raises(CheckpointError, match=rf"{path.name}: ") as raised:
        convert_weights(path)
    assert not target.exists()
    assert "\n" not in str(raised.value)


def test_a_whole_model(file: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), file)
    with pytest.raises(
        CheckpointError, match=r"holds a torch\.nn\.modules\.linear\.Linear .* save the model's state_dict"
    ):
        convert_weights(file)


# Published files


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


class Response(io.BytesIO):
    """What `urlopen` returns."""

    def info(self) -> email.message.Message:
        return email.message.Message()


FIRST = "torchvision/fasterrcnn_resnet50_fpn"


def test_no_network(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    message = r"models/fasterrcnn_resnet50_fpn_coco-258fb6c6\.pth: cannot be fetched .*no route to host.*pass the file"
    with pytest.raises(DownloadError, match=message):
        convert_weights(FIRST)
    assert not list(downloads.rglob("*.pth"))


def test_download_of_something_else(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: Response(b"<html>please log in</html>"))
    with pytest.raises(DownloadError, match=r"what came is not what it should be \(invalid hash"):
        convert_weights(FIRST)
    assert not list(downloads.rglob("*.pth"))


def test_download_happens_once(downloads: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = io.BytesIO()
    torch.save(state, stored)
    data = stored.getvalue()
    url = f"https://example.org/detector-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, FIRST, Published(url, norm_eps=0.0))
    calls = []
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: calls.append(args) or Response(data))
    for _ in range(2):
        conversion = convert_weights(FIRST)
        assert conversion.network.config.norm_eps == 0
        assert conversion.notes == ()  # all is known of it
    assert len(calls) == 1
    path = fetch(PUBLISHED[FIRST].url)
    path.write_bytes(data[:-1])
    with pytest.raises(DownloadError, match=r"is not the file that .* publishes; delete it and try again"):
        convert_weights(FIRST)


def test_digests() -> None:
    for published in PUBLISHED.values():
        assert len(get_digest(published.url)) == 8
        assert int(get_digest(published.url), 16)


# The frame


def test_folder(state: State, file: Path, tmp_path: Path) -> None:
    torch.save(state, file)
    written = convert_to_folder(file, tmp_path / "out", {"selection.keep": 10})
    assert (written.family, written.proposes, written.folder) == ("torchvision", True, tmp_path / "out")
    assert written.notes
    loaded, converted = load_network(tmp_path / "out"), convert_weights(file, {"selection.keep": 10}).network
    assert loaded.config == converted.config
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES).logits[0], converted(IMAGES).logits[0])
