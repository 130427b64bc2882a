from pathlib import Path
from typing import Any

import pytest

from objectness.errors import CheckpointError
from objectness.weights.convert.mmdetection_config import Unknown, find_dicts, name_type, parse_config


def parse(text: str) -> dict[str, Any]:
    return parse_config(text, "model.pth")


def test_values() -> None:
    text = """
# a comment
size = 800
model = dict(type='RPN', backbone=dict(depth=50, out_indices=(0, 1, 2, 3), dcn=None), scales=[8], loss=1.0 / 9.0)
other = {'a': -1, 'b': {'c': True}}
scale = (1333, size)
"""
    assert parse(text) == {
        "size": 800,
        "model": {
            "type": "RPN",
            "backbone": {"depth": 50, "out_indices": (0, 1, 2, 3), "dcn": None},
            "scales": [8],
            "loss": 1 / 9,
        },
        "other": {"a": -1, "b": {"c": True}},
        "scale": (1333, 800),
    }


def test_dicts_are_unpacked() -> None:
    norm = "img_norm_cfg = dict(mean=[1, 2, 3], to_rgb=True)\n"
    expected = {"type": "Normalize", "mean": [1, 2, 3], "to_rgb": True}
    assert parse(norm + "step = dict(type='Normalize', **img_norm_cfg)")["step"] == expected
    assert parse(norm + "step = {'type': 'Normalize', **img_norm_cfg}")["step"] == expected
    assert parse("step = dict(type='Normalize', **nowhere)")["step"] is Unknown


def test_files_after_their_paths_change_each_other() -> None:
    """Version 2 once stored all files that a configuration rests on, the bases first."""
    text = """/home/me/configs/_base_/models/rpn_r50_fpn.py
model = dict(backbone=dict(depth=50, style='pytorch'), neck=dict(num_outs=5), head=dict(a=1))

/home/me/configs/rpn/rpn_r101_caffe.py
_base_ = '../_base_/models/rpn_r50_fpn.py'
model = dict(backbone=dict(depth=101), head=dict(_delete_=True, b=2))
"""
    assert parse(text)["model"] == {
        "backbone": {"depth": 101, "style": "pytorch"},
        "neck": {"num_outs": 5},
        "head": {"b": 2},
    }


def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
import os
open('RAN', 'w')
a = open('RAN', 'w')
b = [__import__('os').mkdir('RAN') for _ in range(1)]
c = dict(d=os.mkdir('RAN'), e=(lambda: 1)(), f=1)
for x in [1]:
    open('RAN', 'w')
g = 9 ** 9 ** 9
h = 1 / 0
i = 'a' * 10
"""
    values = parse(text)
    assert not list(tmp_path.iterdir())
    assert values["c"] == {"d": Unknown, "e": Unknown, "f": 1}
    assert all(values[name] is Unknown for name in "abghi")


@pytest.mark.parametrize("text", ["model = dict(", "model = \x00", "x = " + "(" * 10_000, "x = " + "-" * 100_000 + "1"])
def test_no_python(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^model\.pth: its configuration text is no Python") as caught:
        parse(text)
    assert len(str(caught.value)) < 300


def test_too_long() -> None:
    with pytest.raises(CheckpointError, match=r"is no Python \(2000001 characters\)"):
        parse("#" * 2_000_001)


def test_changes_to_absent_files() -> None:
    with pytest.raises(CheckpointError, match=r"changes files that are not in it \('\./base\.py'\), so that"):
        parse("_base_ = './base.py'\nmodel = dict(backbone=dict(depth=101))")


def test_dicts_in_order() -> None:
    value = {"a": [{"b": 1}, ({"c": 2},)], "d": {"e": 3}}
    assert list(find_dicts(value)) == [value, {"b": 1}, {"c": 2}, {"e": 3}]


def test_types_lose_their_package() -> None:
    assert name_type({"type": "mmdet.models.necks.fpn.FPN"}) == name_type({"type": "FPN"}) == "FPN"
    assert name_type({}) == ""
