"""What every reader of annotations returns, whatever the format: images with their boxes, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and the boxes that people drew on it.

    Attributes:
        path: where the image file lies.
        file: its name as the annotations give it, for messages and reports.
        image_id: COCO's id; in other formats the file's name without its suffix.
        height: of the frame of the boxes, px.
        width: of the frame of the boxes, px.
        boxes: (G, 4) float64 xyxy, px in the original image, clipped to it; each has an area. G = 0 is ordinary.
        areas: (G,) float64, px^2: the annotation's own (COCO: of the mask), else the box's.
        ignore: (G,) bool: a region in which nothing is known, such as a crowd: neither an object to be found nor
            background, in training and in recall.
    """

    path: Path
    file: str
    image_id: int | str
    height: int
    width: int
    boxes: np.ndarray
    areas: np.ndarray
    ignore: np.ndarray

    @property
    def crowd(self) -> np.ndarray:
        """`ignore`, under its first name: crowds were all that was ignored."""
        return self.ignore


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images of one annotation file or folder, in its order; never empty.

    Attributes:
        name: the path that the annotations were read from, as given.
        records: at least one; no image_id twice.
        notes: one sentence for each kind of thing that was left out, mended or ignored, with the first as an example.
    """

    name: str
    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...]
