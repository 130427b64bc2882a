"""The scripts of examples/ do what they say, as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_train_on_your_boxes(tmp_path: Path) -> None:
    lines = run("train_on_your_boxes.py", "--epochs", "8", "--out", tmp_path)
    recalls = [re.fullmatch(r"AR@(\d+): (0\.\d+) before, (0\.\d+) after", line) for line in lines[-4:]]
    assert [match and match[1] for match in recalls] == ["10", "100", "300", "1000"]
    assert lines[0].startswith("step 8/8: objectness loss ")
    assert run("train_on_your_boxes.py", "--epochs", "8", "--out", tmp_path) == lines[1:]  # goes on: nothing is left
