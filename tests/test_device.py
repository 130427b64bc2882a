import pytest
import torch

from objectness import device
from objectness.device import choose_at_once


def test_how_many_are_computed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [choose_at_once(count, "cpu") for count in (0, 1, 2, 100)] == [1, 1, 2, 3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert choose_at_once(100, "cpu") == 4
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda"))
    assert [choose_at_once(100, engine=engine) for engine in ("torch", "auto", "ncnn")] == [1, 1, 4]
