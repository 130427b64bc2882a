"""The scripts of examples/ do what they say, as a user runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path) -> list[str]:
    """Run a script of examples/ as a process; the lines that it prints."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_crop_objects(tmp_path: Path, photos: list[Path]) -> None:
    lines = run("crop_objects.py", "--count", "3", "--out", tmp_path)
    assert lines == [f"{photo}: 3 crops in {tmp_path}" for photo in photos]
    assert len(list(tmp_path.glob("coffee-[123]-*.jpg"))) == 3


def test_contact_sheet(tmp_path: Path, photos: list[Path]) -> None:
    """512 x 512, 451 x 300 and 600 x 400 px: rows of 2.503 and 1.5 times their height."""
    sheet = tmp_path / "new" / "sheet.jpg"
    (line,) = run("contact_sheet.py", *photos[:3], "--width", "506", "--out", sheet)
    # (506 - 6) / (1 + 451 / 300) = 199.7, 506 / 1.5 = 337.3, and 6 between
    assert line == f"{sheet}: 3 photos, 506 x {200 + 6 + 337} px"
    with Image.open(sheet) as picture:
        assert picture.size == (506, 543)
        pixels = np.asarray(picture)
    assert pixels[202:204].mean() > 240
    assert pixels[:198, 202:204].mean() > 240  # between 200 and 206
    assert pixels[:198, [190, 215]].mean() < 200


@pytest.mark.slow
def test_train_on_your_boxes(tmp_path: Path) -> None:
    lines = run("train_on_your_boxes.py", "--epochs", "8", "--out", tmp_path)
    recalls = [re.fullmatch(r"AR@(\d+): (0\.\d+) before, (0\.\d+) after", line) for line in lines[-4:]]
    assert [match and match[1] for match in recalls] == ["10", "100", "300", "1000"]
    assert lines[0].startswith("step 8/8: objectness loss ")
    assert run("train_on_your_boxes.py", "--epochs", "8", "--out", tmp_path) == lines[1:]  # goes on: nothing is left


@pytest.mark.slow
def test_mask_rcnn(tmp_path: Path, torchvision: ModuleType) -> None:
    lines = run("mask_rcnn.py", "--steps", "3", "--out", tmp_path)
    steps = [re.match(r"step (\d)/3: loss (\d+\.\d+) \(classifier .*, rpn_box_reg ", line) for line in lines[:2]]
    losses = {int(match[1]): float(match[2]) for match in steps if match}
    assert losses[3] < 0.8 * losses[1]
    assert [line.split(":")[0] for line in lines[2:]] == [str(path) for path in sorted(tmp_path.glob("*.png"))]
    assert len(lines) == 6


def test_the_outlines_are_those_of_the_boxes() -> None:
    """The same objects as in boxes.json, each outline within a few pixels of its box."""
    boxes, masks = (json.loads((ROOT / "examples" / name).read_text()) for name in ("boxes.json", "masks.json"))
    assert masks["images"] == boxes["images"]
    assert masks["categories"] == boxes["categories"]
    for box, mask in zip(boxes["annotations"], masks["annotations"], strict=True):
        assert (mask["image_id"], mask["category_id"]) == (box["image_id"], box["category_id"])
        assert mask["bbox"] == pytest.approx(box["bbox"], abs=5)
        xs, ys = mask["segmentation"][0][0::2], mask["segmentation"][0][1::2]
        assert mask["bbox"] == [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
