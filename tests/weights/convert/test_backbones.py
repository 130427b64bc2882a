import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from objectness.config import Config
from objectness.errors import CheckpointError, ConfigError, DownloadError
from objectness.model.backbone import make_backbone
from objectness.weights.checkpoint import load_backbone
from objectness.weights.convert.backbones import (
    BACKBONE_FILE,
    PIXELS_ASSUMED,
    convert_backbone,
    is_hub_name,
    load_body,
    read_hub_backbone,
    read_settings,
    recognises,
)
from objectness.weights.convert.conversion import convert_to_folder, convert_weights
from objectness.weights.convert.family import WeightsFile

NAME = "timm/resnet18.a1_in1k"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def classifier() -> State:
    """ResNet-18 as torchvision and timm publish it: with counters and a classifier."""
    torch.manual_seed(0)
    state = make_backbone("resnet18", "trained").body.state_dict()
    return {**state, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}


@pytest.fixture(scope="module")
def lite0() -> State:
    state = make_backbone("efficientnet_lite0", "trained").body.state_dict()
    beyond = ["conv_head.weight", *(f"bn2.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var"))]
    return {**state, **{name: torch.zeros(3) for name in [*beyond, "classifier.weight", "classifier.bias"]}}


# Files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_becomes_a_folder_to_train_from(suffix: str, classifier: State, tmp_path: Path) -> None:
    source = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(classifier, source)
    else:
        save_file(classifier, source)
    written = convert_to_folder(source, tmp_path / "out")
    assert (written.family, written.proposes) == ("backbone", False)
    assert written.notes == (PIXELS_ASSUMED,)
    assert sorted(path.name for path in written.folder.iterdir()) == [BACKBONE_FILE, "config.json"]
    backbone = make_backbone("resnet18")
    load_backbone(backbone, "resnet18", written.folder / BACKBONE_FILE)
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, classifier[name]), name
    config = Config.from_dict(read_settings(str(written.folder / BACKBONE_FILE)))
    assert config == Config(backbone="resnet18")
    assert read_settings(str(source)) == {}  # nothing there says more


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_load_body(batch_norm: Any, classifier: State) -> None:
    found = convert_backbone(WeightsFile("x", classifier))
    body = make_backbone("resnet18", batch_norm).body
    load_body(body, found, "x")
    for name, value in body.state_dict().items():
        assert torch.equal(value, classifier[name]), name
    with pytest.raises(CheckpointError, match="x: weights of another network"):
        load_body(make_backbone("resnet34", batch_norm).body, found, "x")


def test_a_backbone_does_not_propose(classifier: State, tmp_path: Path) -> None:
    source = tmp_path / "resnet18.pth"
    torch.save(classifier, source)
    message = (
        r"resnet18\.pth: is a backbone alone \(resnet18\), .*: objectness train \.\.\. --backbone resnet18 --weights "
    )
    with pytest.raises(CheckpointError, match=message):
        convert_weights(source)
    message = r"is a backbone alone, which decides input\.mean and input\.std but not norm_eps; leave that out"
    with pytest.raises(ConfigError, match=message):
        convert_to_folder(source, tmp_path / "out", {"norm_eps": 0.0})
    with pytest.raises(ConfigError, match=r"input\.mean = 3 is no such list"):
        convert_to_folder(source, tmp_path / "out", {"input.mean": 3})
    assert not (tmp_path / "out").exists()


def test_mean_and_std_can_be_said(classifier: State, tmp_path: Path) -> None:
    torch.save(classifier, tmp_path / "x.pth")
    written = convert_to_folder(tmp_path / "x.pth", tmp_path / "out", {"input.mean": [0.5] * 3, "input.std": [0.5] * 3})
    assert written.notes == ()
    settings = read_settings(str(tmp_path / "out" / BACKBONE_FILE))
    assert settings["input"] == {"mean": [0.5] * 3, "std": [0.5] * 3}


def test_lite0(lite0: State) -> None:
    found = convert_backbone(WeightsFile("x", lite0))
    assert found.name == "efficientnet_lite0"
    assert not any(name.startswith(("conv_head", "bn2", "classifier")) for name in found.state)
    assert any("tf_efficientnet_lite0" in note for note in found.notes)
    with pytest.raises(CheckpointError, match=r"x: is like efficientnet_lite0 but not that; known are resnet18"):
        convert_backbone(WeightsFile("x", {**lite0, "blocks.0.0.se.conv_reduce.weight": torch.zeros(1)}))


def test_other_classifiers(classifier: State, tmp_path: Path) -> None:
    source = tmp_path / "x.pth"
    for state, message in [
        ({**classifier, "layer1.0.se.fc1.weight": torch.zeros(1)}, "the backbone has squeeze and excitation"),
        ({**classifier, "layer4.2.conv1.weight": torch.zeros(1)}, r"a ResNet with \(2, 2, 2, 3\) basic blocks"),
        ({n: v for n, v in classifier.items() if n != "layer4.1.bn2.bias"}, r"1 missing .*layer4\.1\.bn2\.bias"),
    ]:
        torch.save(state, source)
        with pytest.raises(CheckpointError, match=message):
            convert_to_folder(source, tmp_path / "out")
    assert not recognises(["backbone.layer1.0.conv1.weight", "conv1.weight"])


# The hub


class Hub(ModuleType):
    """In place of huggingface_hub: files of one repository."""

    def __init__(self, folder: Path):
        super().__init__("huggingface_hub")
        self.folder = folder
        self.asked: list[tuple[str, str]] = []

    def hf_hub_download(self, name: str, file_name: str, **options: Any) -> str:
        self.asked.append((name, file_name))
        if name != NAME:
            raise FileNotFoundError("cannot reach the hub\nand more of it")
        return str(self.folder / file_name)


@pytest.fixture
def hub(classifier: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(classifier, folder / "model.safetensors")
    hub = Hub(folder)
    describe(hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def describe(hub: Hub, **changes: Any) -> None:
    described = {
        "architecture": "resnet18",
        "num_classes": 10,
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "classifier": "fc"},
        **changes,
    }
    (hub.folder / "config.json").write_text(json.dumps(described))


@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_from_the_hub(prefix: str, hub: Hub, classifier: State, tmp_path: Path) -> None:
    found = read_hub_backbone(prefix + NAME)
    assert (found.name, found.mean, found.std, found.notes) == ("resnet18", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), ())
    assert torch.equal(found.state["layer1.0.conv1.weight"], classifier["layer1.0.conv1.weight"])
    assert sorted(hub.asked) == [(NAME, "config.json"), (NAME, "model.safetensors")]
    assert Config.from_dict(read_settings(prefix + NAME)).input.mean == (0.5, 0.4, 0.3)
    written = convert_to_folder(prefix + NAME, tmp_path / "out")
    assert (written.proposes, written.notes) == (False, ())
    assert Config.from_dict(read_settings(str(tmp_path / "out" / BACKBONE_FILE))).input.std == (0.1, 0.2, 0.3)
    with pytest.raises(CheckpointError, match=r"is a backbone alone \(resnet18\)"):
        convert_weights(prefix + NAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet50d"}, r"timm/resnet18\.a1_in1k: is a resnet50d; known are resnet18"),
        ({"architecture": "resnet34"}, r"holds a resnet18, though its config\.json says resnet34"),
        (
            {"model_args": {"aa_layer": "blur"}},
            r"is a resnet18 built in a way that ours is not \(\{'aa_layer': 'blur'\}\)",
        ),
        ({"pretrained_cfg": {}}, r"config\.json is no description by timm \(KeyError\('mean'\)\)"),
        ({"pretrained_cfg": 3}, r"config\.json is no description by timm"),
    ],
)
def test_other_models_on_the_hub(changes: dict[str, Any], message: str, hub: Hub) -> None:
    describe(hub, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_hub_backbone(NAME)


def test_offline_and_without_the_package(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match=r"timm/resnet19\.x: .* cannot be fetched .*cannot reach the hub\)?$"):
        read_hub_backbone("timm/resnet19.x")
    (hub.folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        read_hub_backbone(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'objectness\[hub\]'"):
        read_hub_backbone(NAME)


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("timm/resnet50.a1_in1k")
    assert is_hub_name("hf-hub:timm/resnet50.a1_in1k")
    assert not is_hub_name("someone/resnet50")
    assert not is_hub_name("resnet50.pth")
    (tmp_path / "timm").mkdir()
    assert not is_hub_name("timm/resnet50.pth")  # a file in a folder of that name
    assert is_hub_name("hf-hub:timm/resnet50.a1_in1k")
