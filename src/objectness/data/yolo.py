"""YOLO's text files: one an image, one object a line: class, then centre x, y, width, height as shares of the image.

Polygons (class, then x, y of each corner), which YOLO has for segmentation and turned boxes, give their bounding box.
A class is a number, whose name a `data.yaml` may have; it is read only for those who ignore some classes. An image
without a label file has no objects. The labels of `.../images/train/a.jpg` are in `.../labels/train/a.txt`, or beside
the image.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import AnnotationError
from ..images.finding import SUFFIXES
from .faults import Faults
from .files import Listing, list_images, read_bytes, read_lines
from .findings import Found, FoundBox, FoundImage

ROUNDING = 1e-3  # shares may lie outside [0, 1] by this
_show = reprlib.repr  # of a strange value, shortened


class _Entry(NamedTuple):
    path: Path
    file: str  # as the annotations name it
    labels: tuple[Path, ...]  # where its label file may be, the likeliest first


def split_name(annotations: Path) -> tuple[Path, str]:
    """`data.yaml:val` as (`data.yaml`, `val`); the split is `train` where none is named."""
    file, _, split = str(annotations).rpartition(":")
    return (Path(file), split) if file.endswith((".yaml", ".yml")) else (annotations, "train")


def read_yolo(annotations: Path, images: Path | None, faults: Faults) -> Found:
    """Read YOLO labels.

    Args:
        annotations: a `data.yaml`, with `:val` behind it for another split than `train`; a text file of image paths;
            or a folder with `images` and `labels`.
        images: the folder that paths in a file start from, by default what a `data.yaml` names as `path`, or the
            file's own; for a folder what stands in for its `images`.
        faults: what is told of everything bad.
    Raises:
        AnnotationError: a file cannot be read, images or labels are not where they should be, or `faults` raises it.
    """
    settings = _parse(annotations)
    entries = list(
        _list_folder(annotations, images) if annotations.is_dir() else _list_file(annotations, images, settings)
    )
    label_files = _find_labels(entries, str(annotations))
    found = Found([], [], normalised=True, class_names=_read_class_names(settings.get("names")))
    for entry, label_file in zip(entries, label_files, strict=True):
        try:
            lines = read_lines(label_file) if label_file else []
        except AnnotationError as error:
            faults.reject("image", str(error))
            continue
        found.boxes.extend(_read_boxes(lines, str(label_file), len(found.images), faults))
        image_id = Path(entry.file).parent / Path(entry.file).stem
        found.images.append(FoundImage(str(annotations), entry.path, entry.file, image_id.as_posix(), None))
    return found


def _list_folder(folder: Path, images: Path | None) -> Iterator[_Entry]:
    for entry in _list_source(images or folder / "images", folder):
        yield entry._replace(labels=((folder / "labels" / entry.file).with_suffix(".txt"),))


def _list_file(annotations: Path, images: Path | None, settings: Mapping[object, object]) -> Iterator[_Entry]:
    file, split = split_name(annotations)
    sources = [file] if file.suffix == ".txt" else _find_sources(file, split, images, settings)
    for source in sources:
        for entry in _list_source(source, images or source.parent):
            yield entry if len(sources) == 1 else entry._replace(file=entry.path.as_posix())  # to tell them apart


def _list_source(source: Path, root: Path) -> Iterator[_Entry]:
    """The images of a folder, of a text file whose paths start from `root`, or one image itself."""
    if source.is_dir():
        return (_Entry(path, path.relative_to(source).as_posix(), _guess_labels(path)) for path in list_images(source))
    if source.suffix.lower() in SUFFIXES:
        return iter([_Entry(source, source.name, _guess_labels(source))])
    return (_Entry(root / line, line, _guess_labels(root / line)) for line in read_lines(source) if line)


def _guess_labels(image: Path) -> tuple[Path, ...]:
    beside = image.parent / f"{image.stem}.txt"
    last = max((place for place, part in enumerate(beside.parts[:-1]) if part == "images"), default=None)
    if last is None:
        return (beside,)
    return Path(*beside.parts[:last], "labels", *beside.parts[last + 1 :]), beside


def _find_labels(entries: Sequence[_Entry], source: str) -> list[Path | None]:
    """The label file of each image; None where it has none.

    Raises:
        AnnotationError: not one image has any, nor are there folders for them: they must lie elsewhere.
    """
    listing = Listing()
    label_files = [next((path for path in entry.labels if path in listing), None) for entry in entries]
    folders = {entry.labels[0].parent for entry in entries}
    if entries and not any(label_files) and not any(folder.is_dir() for folder in folders):
        raise AnnotationError(f"{source}: not one image has labels; the first should have {entries[0].labels[0]}")
    return label_files


def _find_sources(file: Path, split: str, root: Path | None, settings: Mapping[object, object]) -> list[Path]:
    """The folders and text files that a `data.yaml` names for one split."""
    if "kpt_shape" in settings:
        raise AnnotationError(f"{file}: describes poses, whose lines look like polygons; give labels of boxes alone")
    value = settings.get(split)
    sources: list[Any] = value if isinstance(value, list) else [value]
    if not sources or not all(isinstance(source, str) and source for source in sources):
        raise AnnotationError(f"{file}: has {_show(value)} for the split {split}, where a folder or text file belongs")
    named = file.parent / str(settings.get("path", ""))
    base = root or (named if named.is_dir() else file.parent)  # `path` is often that of another machine
    # Roboflow's files write ../train/images for what lies beside them.
    tried = [[base / source, base / source.removeprefix("../")] for source in sources]
    return [next((path for path in paths if path.exists()), paths[0]) for paths in tried]


def _parse(annotations: Path) -> dict[object, object]:
    """What a `data.yaml` says; nothing for a folder or a list of images."""
    file, _ = split_name(annotations)
    if file.suffix not in (".yaml", ".yml"):
        return {}
    content = read_bytes(file)
    try:
        settings = yaml.load(content, Loader=yaml.BaseLoader)  # only strings, lists and mappings: nothing is executed
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{file}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise AnnotationError(f"{file}: is no YOLO data file, which has a folder or text file for each split")
    return settings


def _read_boxes(lines: Sequence[str], source: str, owner: int, faults: Faults) -> list[FoundBox]:
    boxes = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                where, class_id = f"{source}: line {number}", _read_class(line)
                boxes.append(FoundBox(where, owner, _parse_line(line), class_id=class_id))
        except AnnotationError as error:
            faults.reject("box", f"{source}: line {number}: {error}")
    return boxes


def _read_class_names(names: object) -> dict[str, str]:
    """The name of each class by its number, from a list or a mapping."""
    pairs: Iterable[tuple[object, object]] = names.items() if isinstance(names, dict) else ()
    pairs = enumerate(names) if isinstance(names, list) else pairs
    return {str(number): name for number, name in pairs if isinstance(name, str)}


def _read_class(line: str) -> str:
    """The class of one line, whose number some tools write as 0.000."""
    return re.sub(r"\.0*$", "", line.split()[0])


def _parse_line(line: str) -> tuple[float, float, float, float]:
    """The box of one line, xyxy, as shares of the image's width and height."""
    try:
        values = [float(word) for word in line.split()[1:]]
    except ValueError as error:
        raise AnnotationError(f"there is something that is no number ({_show(line)})") from error
    outside = [value for value in values if not -ROUNDING <= value <= 1 + ROUNDING]
    if outside:
        raise AnnotationError(f"{outside[0]:g} lies outside [0, 1]; boxes are shares of the image's sides, not px")
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        raise AnnotationError(f"{len(values)} numbers follow the class, neither a box (4) nor a polygon (6, 8, ...)")
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
