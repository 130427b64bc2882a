"""Small photos of rectangles that a small network learns in seconds, with their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.data.records import ImageRecord

SMALL = Config(
    backbone="resnet18",
    pyramid_channels=16,
    input=InputOptions(64, 96),
    anchors=AnchorOptions(sizes=(8, 16, 32, 64, 128)),
    selection=SelectionOptions(per_level=100, keep=100),
)


def make_records(folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (64, 96)) -> list[ImageRecord]:
    """Write `count` images of one to three bright rectangles on noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        height, width = size if number % 3 else size[::-1]  # every third stands
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        boxes = []
        for _ in range(rng.integers(1, 4)):
            w, h = rng.integers(12, 40, 2)
            x, y = rng.integers(0, width - w), rng.integers(0, height - h)
            pixels[y : y + h, x : x + w] = rng.integers(150, 255, 3)
            boxes.append([x, y, x + w, y + h])
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        array = np.array(boxes, dtype=np.float64)
        areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
        records.append(
            ImageRecord(path, path.name, number, height, width, array, areas, np.zeros(len(array), dtype=bool))
        )
    return records
