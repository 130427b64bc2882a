from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny

from objectness.config import AnchorOptions, Config, SelectionOptions
from objectness.errors import ConfigError, ImageError, ObjectnessError
from objectness.runtimes import export as files
from objectness.runtimes.description import describe_network
from objectness.runtimes.export import Format, export_network, share_same
from objectness.structures import Selection

FILES = {
    "openvino": ["config.json", "network.bin", "network.xml"],
    "ncnn": ["config.json", "network.bin", "network.param"],
}


def skip_without(to: str) -> None:
    if to == "openvino":
        from objectness.runtimes.openvino import import_openvino

        try:
            import_openvino()
        except ImportError:
            pytest.skip("openvino is not installed")
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "ncnn": ("ncnn", "pnnx")}.get(to, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("to", ["openvino", "ncnn"])
def test_a_folder(to: Format, tmp_path: Path, photos: list[Path]) -> None:
    skip_without(to)
    network, out = make_tiny(), tmp_path / "deep" / "network"
    parity = export_network(network, to, out, photos[0])
    assert list_names(out) == FILES[to]
    assert list_names(out.parent) == ["network"]
    assert parity.maps.worst < 1e-4
    assert parity.same == 1
    assert parity.num_proposals > 50
    assert f"100.00% of the {parity.num_proposals} proposals are the same" in parity.describe()
    description = json.loads((out / "config.json").read_text())
    assert description["config"]["backbone"] == network.config.backbone
    assert list(description["inputs"]) == [{"openvino": "images", "ncnn": "in0"}[to]]

    with pytest.raises(ConfigError, match="is there already; name another place, or overwrite it"):
        export_network(network, to, out, photos[0])
    before = (out / "network.bin").read_bytes()
    with torch.no_grad():
        network.head.reg.bias += 0.1
    export_network(network, to, out, photos[0], overwrite=True)
    assert (out / "network.bin").read_bytes() != before
    assert list_names(out.parent) == ["network"]


@pytest.mark.slow
def test_an_onnx_file_with_the_selection(tmp_path: Path, photos: list[Path]) -> None:
    skip_without("onnx")
    import onnx

    network, out = make_tiny(), tmp_path / "network.onnx"
    parity = export_network(network, "onnx", out, photos[0], selection=True)
    assert parity.maps.worst < 1e-4
    assert parity.same > 0.99
    assert list_names(tmp_path) == ["network.onnx"]
    model = onnx.load(str(out))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    rows = {name: ["N", 100] for name in ("scores", "logits", "levels")}
    boxes = {"images": ["N", 3, "H", "W"], "sizes": ["N", 2], "boxes": ["N", 100, 4]}
    assert shapes == {**boxes, **rows, "counts": ["N"]}
    metadata = {each.key: each.value for each in model.metadata_props}
    assert json.loads(metadata["input"])["mean"] == list(network.config.input.mean)
    assert list(json.loads(metadata["outputs"])) == ["boxes", *rows, "counts"]
    assert str(Path(files.__file__).parents[2]).encode() not in out.read_bytes()  # nor any other folder of ours
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def spoil(monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """An engine that says something else."""
    make, write = files.load_runtime(files.ENGINES[to])

    def make_wrong(folder: Path) -> Any:
        engine = make(folder)

        def say(images: torch.Tensor) -> Any:
            output = engine(images)
            return output._replace(deltas=tuple(each * 1.01 for each in output.deltas))

        return say

    monkeypatch.setattr(files, "load_runtime", lambda name: (make_wrong, write))


@pytest.mark.parametrize("to", ["openvino", "ncnn"])
def test_what_says_something_else_is_not_written(
    to: Format, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(to)
    spoil(monkeypatch, to)
    with pytest.raises(ObjectnessError, match=rf"export to {to}: nothing is written, .* deltas by 1\.0e-02"):
        export_network(make_tiny(), to, tmp_path / "network", photos[0])
    assert list_names(tmp_path) == []


def test_requests_that_cannot_be(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(to: str, out: Path, sentence: str, **options: bool) -> None:
        with pytest.raises(ConfigError, match=sentence):
            export_network(make_tiny(), to, out, photos[0], **options)  # type: ignore[arg-type]

    refuse("tflite", tmp_path / "a", "format 'tflite' is none of onnx, openvino, ncnn")
    refuse("ncnn", tmp_path / "a", "can go into an ONNX file alone, not into ncnn's", selection=True)
    refuse("onnx", tmp_path / "a", r"a: an ONNX file's name must end with \.onnx")
    (tmp_path / "folder.onnx").mkdir()
    refuse("onnx", tmp_path / "folder.onnx", "is a folder with other files", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    refuse("ncnn", tmp_path / "mine", "is a folder with other files than an exported network's", overwrite=True)
    (tmp_path / "file").write_text("")
    refuse("openvino", tmp_path / "file", "is a file; name a folder", overwrite=True)
    monkeypatch.setattr("objectness.packages.find_spec", lambda package: None)
    with pytest.raises(ObjectnessError, match=r"export to ncnn needs ncnn and pnnx: pip install 'objectness\[ncnn\]'"):
        export_network(make_tiny(), "ncnn", tmp_path / "a", photos[0])
    assert list_names(tmp_path) == ["file", "folder.onnx", "mine"]


def test_the_photo_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectness.packages.find_spec", lambda package: package)
    with pytest.raises(ImageError):
        export_network(make_tiny(), "ncnn", tmp_path / "a", tmp_path / "none.jpg")
    assert list_names(tmp_path) == []


def make_selection(*rows: tuple[float, float, float, float, int]) -> Selection:
    boxes = torch.tensor([row[:4] for row in rows]).reshape(-1, 4)
    return Selection(boxes, torch.zeros(len(rows)), torch.tensor([row[4] for row in rows], dtype=torch.int64))


def test_what_counts_as_the_same() -> None:
    wanted = make_selection((0, 0, 100, 100, 2), (0, 0, 100, 100, 3), (50, 50, 90, 90, 2), (0, 0, 10, 10, 2))
    found = make_selection((0, 0, 100, 100.5, 2), (50, 50, 90, 91, 2), (0, 0, 10, 10, 2))
    # 100 / 100.5 = 0.995 is; none of level 3; 40 / 41 = 0.976 is not; the last is
    assert share_same(wanted, found) == 0.5
    assert share_same(wanted, wanted) == 1
    nothing = make_selection()
    assert (share_same(nothing, nothing), share_same(wanted, nothing), share_same(nothing, wanted)) == (1, 0, 0)


def test_the_description_is_plain_json_and_complete() -> None:
    config = make_tiny().config
    description = json.loads(json.dumps(describe_network(config)))
    assert Config.from_dict(description["config"]) == config
    assert description["anchors"]["shapes"][0][1] == [-4.0, -4.0, 4.0, 4.0]  # 8 px, 1 : 1
    assert list(description["outputs"])[4:6] == ["logits6", "deltas2"]
    assert list(describe_network(config, selection=True)["inputs"]) == ["images", "sizes"]
    assert description["selection"]["across_levels"] is False
    assert "a box goes that a kept one of its own level overlaps" in description["selection"]["text"]
    one_image = describe_network(config, names={"images": "in0"}, batched=False)
    assert one_image["inputs"]["in0"].startswith("(3, H, W) float32")
    assert one_image["outputs"]["deltas6"].startswith("(4 A, H, W) float32 of P6")


def test_the_description_of_another_pyramid_and_suppression() -> None:
    anchors = AnchorOptions(strides=(8, 16, 32, 64, 128), finest_level=3)
    description = describe_network(Config(anchors=anchors, selection=SelectionOptions(across_levels=True)))
    assert description["anchors"]["levels"] == [3, 4, 5, 6, 7]
    assert list(description["outputs"])[::4] == ["logits3", "logits7", "deltas6"]
    assert description["outputs"]["logits7"].startswith("(N, A, H, W) float32 of P7")
    assert "a box goes that a kept one of any level overlaps" in description["selection"]["text"]
