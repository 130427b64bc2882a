"""The programs in docs/engines.md that use exported files, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import OPTIONS, make_tiny

from objectness.geometry.boxes import compute_iou
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.runtimes.agreement import copy_eager, measure_agreement
from objectness.runtimes.engine import find_installed
from objectness.runtimes.export import export_network
from objectness.structures import Output

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def read_program(*words: str) -> str:
    """The Python block of the page that has all of these words."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    [program] = [block for block in blocks if all(word in block for word in words)]
    return str(program)


@pytest.fixture
def network() -> RegionProposalNetwork:
    """One that sees BGR and whose levels suppress each other."""
    return make_tiny(**OPTIONS["cspnet"])


@pytest.mark.slow
def test_from_a_photo_to_boxes_with_onnx(
    network: RegionProposalNetwork, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resized photos differ by a grey level here and there, so do the boxes."""
    if "onnxruntime" not in find_installed():
        pytest.skip("onnxruntime is not installed")
    export_network(network, "onnx", tmp_path / "network.onnx", photos[1], selection=True)
    (tmp_path / "street.jpg").write_bytes(photos[1].read_bytes())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(read_program("onnxruntime.InferenceSession"), found)
    expected = Proposer(network)(photos[1])
    assert len(found["boxes"]) == len(expected) > 100
    ious = compute_iou(expected.boxes, torch.from_numpy(np.asarray(found["boxes"], np.float32)))
    assert (ious.amax(dim=1) > 0.9).float().mean() > 0.9
    scores = torch.from_numpy(found["scores"][0, : len(expected)].copy())
    torch.testing.assert_close(scores, expected.scores, atol=0.02, rtol=0)


@pytest.mark.parametrize("to", ["ncnn", "openvino"])
def test_maps(
    to: Any, network: RegionProposalNetwork, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if to not in find_installed():
        pytest.skip(f"{to} is not installed")
    export_network(network, to, tmp_path / "network", photos[0])  # which imports OpenVINO without its telemetry
    monkeypatch.chdir(tmp_path)
    images = torch.randn(1, 3, 64, 96)
    found: dict[str, Any] = {"images": images.numpy()}
    exec(read_program(f"import {to}", "range(5, 10)"), found)
    logits, deltas = (
        tuple(torch.from_numpy(np.array(each)).reshape(1, *each.shape[-3:]) for each in found[name])
        for name in ("logits", "deltas")
    )
    assert measure_agreement(Output((), logits, deltas), copy_eager(network)(images)).worst < 1e-4
