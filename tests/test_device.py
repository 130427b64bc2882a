import pytest
import torch

from objectness import device
from objectness.device import choose_at_once, computes_bfloat16
from objectness.training.schedule import choose_precision


def test_how_many_are_computed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [choose_at_once(count, "cpu") for count in (0, 1, 2, 100)] == [1, 1, 2, 3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert choose_at_once(100, "cpu") == 4
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda"))
    assert [choose_at_once(100, engine=engine) for engine in ("torch", "auto", "ncnn")] == [1, 1, 4]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"bf16": True}, "bfloat16"),  # ARM's name; training once took float32 there
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_bfloat16_is_the_same_question_for_training_and_proposing(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert computes_bfloat16(torch.device("cpu")) == (expected == "bfloat16")
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("float32", torch.device("cpu")) == "float32"
    assert not computes_bfloat16(torch.device("meta"))
