"""From what a reader found to a checked data set: the part that all formats share.

A reader returns `Found`: images and boxes as the files have them, each with its place for messages. `assemble` holds
them against the disk and against each other. What is bad goes to `Faults`, which raises or counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from ..errors import AnnotationError, ImageError
from ..images.reading import measure_image
from .faults import Faults
from .files import Listing
from .records import Dataset, ImageRecord

ROUNDING_PX = 1.0  # a box that reaches out of its image by more than this is clipped too, but not without a note
Mark = Literal["", "crowd", "ignore", "difficult"]
MAX_SIDE_PX = 2**31  # no image is that large, and numbers up to it can be computed with


class FoundImage(NamedTuple):
    """An image that the annotations speak of; whether it exists is not known yet."""

    where: str  # the place that names it, for messages
    path: Path
    file: str
    image_id: int | str
    size: tuple[int, int] | None  # (height, width), px; None where the annotations do not say


class FoundBox(NamedTuple):
    """A box of four numbers; whether they make sense is not known yet."""

    where: str  # the place that names it, for messages
    owner: int  # position of its image in Found.images
    box: tuple[float, float, float, float]  # xyxy, px, or shares of the image's sides
    area: float = math.nan  # px^2; NaN where the annotations do not say
    mark: Mark = ""  # what the annotations say of it beside its place
    class_id: str = ""  # its class as the annotations write it; "" where they do not say


class Found(NamedTuple):
    """All that a reader found."""

    images: list[FoundImage]
    boxes: list[FoundBox]
    normalised: bool = False  # the boxes are shares of their image's width and height, as YOLO has them
    class_names: Mapping[str, str] = MappingProxyType({})  # by class_id, where ids are not names already

    def list_classes(self) -> dict[str, str]:
        """The name of every class by its id, those without a box too; a class without a name has its id's."""
        ids = dict.fromkeys([*self.class_names, *(box.class_id for box in self.boxes if box.class_id)])
        return {each: self.class_names.get(each, each) for each in ids}


class Ignoring(NamedTuple):
    """Which boxes are neither objects nor background, beside crowds and those that are marked so."""

    classes: frozenset[str] = frozenset()  # by name or id
    difficult: bool = False

    def find_reason(self, box: FoundBox, class_names: Mapping[str, str]) -> str:
        """Why a box is ignored, as it follows "boxes ignored "; "" for an object."""
        if box.mark == "crowd":
            return "as crowds"
        if box.mark == "ignore":
            return 'as marked "ignore"'
        if box.mark == "difficult" and self.difficult:
            return "as difficult"
        name = class_names.get(box.class_id, box.class_id)
        return f"of class {name}" if {name, box.class_id} & self.classes else ""


ONLY_MARKED = Ignoring()


def assemble(name: str, found: Found, faults: Faults, ignoring: Ignoring = ONLY_MARKED) -> Dataset:
    """Check images and boxes, and bring the boxes of each image together.

    Args:
        name: of the data set, for messages.
        found: what the reader found, the boxes in any order.
        faults: what is told of everything bad.
        ignoring: which boxes are neither objects nor background.
    Raises:
        AnnotationError: no image is left, or `faults` raises it.
    """
    sizes = _check_images(found.images, faults)
    if not any(sizes):
        reason = "; ".join(faults.notes) or "check that the path is the one you mean"
        raise AnnotationError(f"{name}: there is no image in this data set; {reason}")
    boxes = [box for box in found.boxes if sizes[box.owner]]
    owners = np.array([box.owner for box in boxes], dtype=np.int64)
    limits = np.array([(size or (0, 0))[::-1] * 2 for size in sizes], dtype=np.float64)  # (images, 4): w, h, w, h
    corners, good = _check_boxes(boxes, limits[owners], found.normalised, faults)
    box_areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    areas = np.array([box.area for box in boxes], dtype=np.float64)
    areas = np.where(np.isnan(areas), box_areas, areas)
    reasons = [ignoring.find_reason(box, found.class_names) for box in boxes]
    ignore = np.array([reason != "" for reason in reasons], dtype=bool)
    for position in np.flatnonzero(good & ignore):
        faults.note(f"boxes ignored {reasons[position]}", boxes[position].where)
    order = np.flatnonzero(good)[np.argsort(owners[good], kind="stable")]
    ends = np.searchsorted(owners[order], np.arange(len(sizes)), side="right")  # (images,): where each one's boxes end
    own_boxes = np.split(order, ends[:-1])
    records = [
        ImageRecord(image.path, image.file, image.image_id, *size, corners[own], areas[own], ignore[own])
        for image, size, own in zip(found.images, sizes, own_boxes, strict=True)
        if size
    ]
    return Dataset(name, tuple(records), faults.notes)


def _check_images(images: Sequence[FoundImage], faults: Faults) -> list[tuple[int, int] | None]:
    """The (height, width) of each image, px; None for those left out."""
    listing = Listing()
    present = [image.path in listing for image in images]
    missing = [image for image, is_there in zip(images, present, strict=True) if not is_there]
    if missing:
        faults.reject("image", f"{missing[0].where}: the image {missing[0].path} is missing", len(missing))
    seen: set[int | str] = set()
    return [_check_image(*each, seen, faults) for each in zip(images, present, strict=True)]


def _check_image(image: FoundImage, is_there: bool, seen: set[int | str], faults: Faults) -> tuple[int, int] | None:
    if not is_there:
        return None
    if image.image_id in seen:
        faults.reject("image", f"{image.where}: a second image has the name or id {image.image_id}")
        return None
    seen.add(image.image_id)
    try:
        return image.size or measure_image(image.path)
    except ImageError as error:
        faults.reject("image", f"{image.where}: {error}")
        return None


def _check_boxes(
    boxes: Sequence[FoundBox], limits: np.ndarray, normalised: bool, faults: Faults
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to their images.

    Args:
        boxes: as found.
        limits: (n, 4): each one's image as width, height, width, height, px.
        normalised: the boxes are shares of it.
        faults: what is told of bad boxes.
    Returns:
        (n, 4) float64 xyxy, px, and (n,) bool: whether it is a box that can be used.
    """
    raw = np.array([box.box for box in boxes], dtype=np.float64).reshape(-1, 4) * (limits if normalised else 1)
    clipped = np.clip(raw, 0, limits)
    seen = clipped.astype(np.float32)  # a side that vanishes in the network's precision is none
    good = np.asarray(np.isfinite(raw).all(axis=1) & (seen[:, 2:] > seen[:, :2]).all(axis=1))
    bad = np.flatnonzero(~good)
    if len(bad):
        fault = _describe_fault(raw[bad[0]].tolist(), limits[bad[0]].tolist())
        faults.reject("box", f"{boxes[bad[0]].where}: {fault}", len(bad))
    reaching = np.flatnonzero(good & (np.abs(raw - clipped) > ROUNDING_PX).any(axis=1))
    if len(reaching):
        faults.note("boxes clipped to their images", boxes[reaching[0]].where, len(reaching))
    return clipped, good


def _describe_fault(box: list[float], limits: list[float]) -> str:
    if not all(map(math.isfinite, box)):
        return f"the box has numbers that are not finite ({', '.join(f'{value:g}' for value in box)})"
    for side, axis, low, high in (("width", "x", box[0], box[2]), ("height", "y", box[1], box[3])):
        if low > high:
            return f"the box has a negative {side} ({axis}1 = {low:g}, {axis}2 = {high:g})"
        if math.isclose(low, high, rel_tol=1e-6):  # float32 keeps seven digits
            return f"the box has no {side} ({axis}1 = {axis}2 = {low:g})"
    corners = ", ".join(f"{value:g}" for value in box)
    return f"the box ({corners}) lies outside the image of {limits[0]:g} x {limits[1]:g} px"
