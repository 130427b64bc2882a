"""What a name of weights means is decided in one place, and a file is read only once for it."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from synthetic import SMALL, make_records
from torch import Tensor

from objectness.cli import app
from objectness.config import Config
from objectness.errors import CheckpointError
from objectness.model.backbone import make_backbone
from objectness.training.loop import start_network
from objectness.weights import source as source_module
from objectness.weights.checkpoint import save_checkpoint
from objectness.weights.convert.conversion import convert_file
from objectness.weights.convert.reading import read_weights
from objectness.weights.opening import decide_config, open_network
from objectness.weights.source import classify


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A detector of torchvision's with ResNet-18 and a pyramid of 16 channels."""
    body = make_backbone("resnet18", "trained").body.state_dict()
    state = {f"backbone.body.{name}": value for name, value in body.items()}
    for i, channels in enumerate((64, 128, 256, 512)):
        state |= make_convolution(f"backbone.fpn.inner_blocks.{i}.0", 16, channels, 1)
        state |= make_convolution(f"backbone.fpn.layer_blocks.{i}.0", 16, 16, 3)
    state |= make_convolution("rpn.head.conv.0.0", 16, 16, 3)
    state |= make_convolution("rpn.head.cls_logits", 3, 16, 1) | make_convolution("rpn.head.bbox_pred", 12, 16, 1)
    path = tmp_path / "detector.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.pth"
    torch.save(make_backbone("resnet18", "trained").body.state_dict(), path)
    return path


def make_convolution(name: str, outputs: int, inputs: int, size: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(outputs, inputs, size, size) / 10, f"{name}.bias": torch.zeros(outputs)}


def test_classify(detector: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "ours", {"a": torch.zeros(1)}, Config())
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    cases: list[tuple[str | Path, str]] = [
        ("imagenet", "imagenet"),
        ("timm/resnet50.a1_in1k", "timm"),
        ("hf-hub:timm/resnet50.a1_in1k", "timm"),
        ("torchvision/maskrcnn_resnet50_fpn", "foreign"),
        (detector, "foreign"),
        (classifier, "backbone"),
        (tmp_path / "model.safetensors", "backbone"),  # no config.json beside it
        (tmp_path / "ours" / "model.safetensors", "own"),
        (tmp_path / "ours", "own"),
        (tmp_path / "nowhere.pth", "own"),
        ("lite0", "own"),
        ("somebody/boxes", "hub"),
    ]
    for source, expected in cases:
        assert classify(source).kind == expected, source


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match=r"weights\.pth: "):
        classify(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["detector", "classifier"])
def test_training_reads_a_file_once(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    make_records(tmp_path / "photos", 2)
    (tmp_path / "boxes.json").write_text(
        '{"images": [{"id": 1, "file_name": "photos/1.png", "width": 96, "height": 64}], "categories": [{"id": 1, '
        '"name": "x"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30]}]}'
    )
    words = ["train", str(tmp_path / "boxes.json"), "--images", str(tmp_path), "--out", str(tmp_path / "run")]
    words += ["--weights", str(path), "--epochs", "1", "--images-per-step", "1", "--device", "cpu"]
    if name == "classifier":
        words += ["--backbone", "resnet18", "--input.short-side", "64", "--input.long-side", "96"]
        words += ["--pyramid-channels", "16"]
    with mock.patch.object(source_module, "read_weights", wraps=read_weights) as reading:
        assert app(words, exit_on_error=False, print_error=False, result_action="return_value") == 0
    assert reading.call_count == 1


def test_start_and_configuration_of_a_detector(detector: Path) -> None:
    source = classify(detector)
    converted = convert_file(source.file)
    assert decide_config(source) == converted.network.config
    started = start_network(converted.network.config, source).state_dict()
    for name, tensor in converted.network.state_dict().items():
        assert torch.equal(tensor, started[name]), name
    assert source._file is None  # the training does not hold on to it


def test_start_from_a_backbone(classifier: Path) -> None:
    started = start_network(SMALL, str(classifier)).backbone.body.state_dict()
    for name, tensor in torch.load(classifier, weights_only=True).items():
        if "num_batches" not in name:
            assert torch.equal(tensor, started[name]), name


def test_what_a_file_that_holds_no_network_is_good_for(classifier: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a backbone alone \(resnet18\), which proposes nothing until"):
        open_network(classifier)
