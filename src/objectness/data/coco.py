"""COCO's JSON: one file of images and annotations, boxes as (x, y, width, height) from the image's corner, px.

Read are `images` (id, file_name, width, height) and `annotations` (image_id, bbox, area, iscrowd, and `ignore`, true
for a box of which nothing is known). Classes (category_id and `categories`) are read only for those who ignore some of
them, and segmentations are not: a proposal has no class and no outline.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import AnnotationError
from .faults import Faults
from .files import Listing, find_parent, read_bytes
from .findings import MAX_SIDE_PX, Found, FoundBox, FoundImage, Mark

_OUTLINE = re.compile(rb'"segmentation":\s*\[[][0-9.,\s+eE-]*\]')  # no string can hold this: its quotes are escaped
_show = reprlib.repr  # of a strange value, shortened


def read_coco(annotations: Path, images: Path | None, faults: Faults) -> Found:
    """Read a COCO file.

    Args:
        annotations: the JSON file.
        images: the folder that the file names start from; None: where such folders usually are, see `_find_folder`.
        faults: what is told of everything bad.
    Raises:
        AnnotationError: the file is not JSON or not COCO, the images cannot be found, or `faults` raises it.
    """
    document = _parse(annotations)
    source = str(annotations)
    found = _read_images(document["images"], source, faults)
    folder = images or _find_folder(annotations, found)
    boxes = _read_boxes(document["annotations"], found, source, faults)
    images_found = [image._replace(path=folder / image.path) for image in found]
    return Found(images_found, boxes, class_names=_read_class_names(document.get("categories")))


def _parse(annotations: Path) -> dict[str, Any]:
    """The file, with lists of images and annotations."""
    content = read_bytes(annotations)
    try:
        document = _load(content)
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise AnnotationError(f"{annotations}: is not valid JSON ({place}); write the file again") from error
    except (ValueError, RecursionError) as error:  # another encoding, a number of 5,000 digits, brackets without end
        raise AnnotationError(f"{annotations}: is not valid JSON ({error}); write the file again") from error
    lists = [document.get(key) if isinstance(document, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(entries, list) for entries in lists):
        raise AnnotationError(f"{annotations}: is not COCO, which has lists of images and of annotations")
    whole: dict[str, Any] = document
    return whole


def _load(content: bytes) -> Any:
    """Parse JSON without the outlines: four fifths of COCO's own files, which take four fifths of the time."""
    try:
        return json.loads(_OUTLINE.sub(b'"segmentation":[]', content))
    except json.JSONDecodeError:
        return json.loads(content)  # once more, for the true line and column


def _read_images(entries: Sequence[object], source: str, faults: Faults) -> list[FoundImage]:
    """The images, with paths as in the file."""
    images = []
    for number, entry in enumerate(entries):
        try:
            images.append(_read_image(entry, number, source))
        except AnnotationError as error:
            faults.reject("image", str(error))
    return images


def _read_image(entry: object, number: int, source: str) -> FoundImage:
    if not isinstance(entry, dict):
        raise AnnotationError(f"{source}: images[{number}] is {_show(entry)}, not an object")
    values: list[Any] = [entry.get(key) for key in ("id", "file_name", "height", "width")]
    image_id, file, height, width = values
    if type(image_id) not in (int, str):
        raise AnnotationError(f"{source}: images[{number}] has the id {_show(image_id)}, no integer and no string")
    where = f"{source}: image {image_id}"
    if type(file) is not str or not file:
        raise AnnotationError(f"{where}: it has no file_name")
    for key, side in (("height", height), ("width", width)):
        if type(side) not in (int, float) or not 0 < side < MAX_SIDE_PX or side % 1:
            raise AnnotationError(f"{where}: its {key} is {_show(side)}, not a positive whole number of px")
    path = Path(file.replace("\\", "/"))  # Windows' separators, which some tools write
    return FoundImage(where, path, file, image_id, (int(height), int(width)))


def _find_folder(annotations: Path, images: Sequence[FoundImage]) -> Path:
    """The first of the usual folders in which any of the first hundred images lies.

    Raises:
        AnnotationError: none of them; it names those it tried.
    """
    beside, split = annotations.parent, annotations.stem.removeprefix("instances_")
    root = find_parent(beside)
    folders = [beside / "images", beside, beside / split, root / "images", root / split, root / "images" / split]
    listing = Listing()
    for folder in folders:
        if any(folder / image.path in listing for image in images[:100]):
            return folder
    if not images:
        return beside
    looked = ", ".join(map(str, folders))
    raise AnnotationError(f"{annotations}: its images ({images[0].file}, ...) are in none of {looked}; pass --images")


def _read_boxes(entries: Sequence[object], images: Sequence[FoundImage], source: str, faults: Faults) -> list[FoundBox]:
    positions = {image.image_id: position for position, image in reversed(list(enumerate(images)))}  # the first counts
    boxes = []
    for number, entry in enumerate(entries):
        try:
            boxes.append(_read_box(entry, number, positions, source, faults))
        except AnnotationError as error:
            faults.reject("box", str(error))
    return boxes


def _read_box(entry: object, number: int, positions: Mapping[int | str, int], source: str, faults: Faults) -> FoundBox:
    if not isinstance(entry, dict):
        raise AnnotationError(f"{source}: annotations[{number}] is {_show(entry)}, not an object")
    values: list[Any] = [entry.get(key) for key in ("image_id", "id", "bbox", "category_id")]
    image_id, own_id, box, category = values
    name = own_id if type(own_id) in (int, str) else f"[{number}]"
    if type(image_id) not in (int, str) or image_id not in positions:
        raise AnnotationError(f"{source}: annotation {name}: there is no image with the id {_show(image_id)}")
    where = f"{source}: image {image_id}, annotation {name}"
    if type(box) is not list or len(box) != 4 or not {*map(type, box)} <= {int, float}:
        raise AnnotationError(f"{where}: its bbox is {_show(box)}, not four numbers")
    for key in ("iscrowd", "ignore"):
        if entry.get(key) not in (0, 1, None):  # true is 1
            raise AnnotationError(f"{where}: its {key} is {_show(entry[key])}, neither 0 nor 1")
    mark: Mark = "crowd" if entry.get("iscrowd") else "ignore" if entry.get("ignore") else ""
    class_id = str(category) if type(category) in (int, str) else ""
    x, y, width, height = map(_to_float, box)
    area = _read_area(entry.get("area"), where, faults)
    return FoundBox(where, positions[image_id], (x, y, x + width, y + height), area, mark, class_id)


def _read_class_names(entries: object) -> dict[str, str]:
    """The name of each class by its id; what is no class is passed over, since most readers need none."""
    classes = [entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, dict)]
    named = [each for each in classes if type(each.get("id")) in (int, str) and type(each.get("name")) is str]
    return {str(each["id"]): each["name"] for each in named}


def _read_area(value: object, where: str, faults: Faults) -> float:
    """The area, px^2; NaN where there is none that can be one."""
    area = _to_float(value)
    if 0 < area < math.inf:
        return area
    if value is not None:
        faults.note("areas replaced by the box's, as no positive number", f"{where} ({_show(value)})")
    return math.nan


def _to_float(value: object) -> float:
    """A JSON number as a float, NaN for everything else; integers beyond all floats become infinite."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.inf
