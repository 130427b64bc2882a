"""The one entry to data sets: sees from what is there which format it is, and reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import AnnotationError
from .coco import read_coco
from .faults import Faults
from .findings import Found, assemble
from .records import Dataset
from .voc import find_layout, find_xml_folder, read_voc
from .yolo import read_yolo, split_name

Reader = Callable[[Path, Path | None, Faults], Found]
_KNOWN = "a COCO .json file, a Pascal VOC folder or split file, or a YOLO data.yaml or folder with images and labels"


def read_dataset(annotations: str | Path, *, images: str | Path | None = None, skip_bad: bool = False) -> Dataset:
    """Read images and their boxes, in the format that is recognised from what is there.

    Args:
        annotations: COCO: a .json file, or a folder with just one. Pascal VOC: a folder with `Annotations/*.xml` or
            with .xml files, or a split file `ImageSets/Main/*.txt`. YOLO: a `data.yaml` or a folder with one
            (`data.yaml:val` for another split than `train`), a folder with `images` and `labels`, or a text file of
            image paths.
        images: where the image files are, if not where they usually are in such a data set.
        skip_bad: leave out bad boxes and images, and say so in the notes, instead of raising.
    Raises:
        AnnotationError: nothing is recognised or readable, no image is left, or something is bad and `skip_bad` is
            not set; it names the place and the remedy.
    """
    faults = Faults(skip_bad=skip_bad)
    try:
        reader, source = _recognise(Path(annotations))
        found = reader(source, Path(images) if images else None, faults)
    except OSError as error:  # a folder without permission, a name that is too long
        raise AnnotationError(f"{annotations}: cannot be read ({error.strerror}: {error.filename})") from error
    return assemble(str(annotations), found, faults)


def _recognise(annotations: Path) -> tuple[Reader, Path]:
    """The reader for a path, and what it is to be given."""
    file, _ = split_name(annotations)
    if not file.exists():
        raise AnnotationError(f"{annotations}: there is no such file or folder; check the path")
    if file.is_dir():
        return _recognise_folder(file)
    text_reader = read_voc if find_layout(file) else read_yolo
    readers: dict[str, Reader] = {".json": read_coco, ".yaml": read_yolo, ".yml": read_yolo, ".txt": text_reader}
    if file.suffix not in readers:
        raise AnnotationError(f"{annotations}: is not recognised; give {_KNOWN}")
    return readers[file.suffix], annotations


def _recognise_folder(folder: Path) -> tuple[Reader, Path]:
    if find_xml_folder(folder):
        return read_voc, folder
    if (folder / "data.yaml").is_file():
        return read_yolo, folder / "data.yaml"
    if (folder / "labels").is_dir():
        return read_yolo, folder
    files = sorted(folder.glob("*.json")) or sorted(folder.glob("annotations/*.json"))
    if len(files) == 1:
        return read_coco, files[0]
    if files:
        raise AnnotationError(f"{folder}: holds {len(files)} JSON files; name one of them, such as {files[0]}")
    raise AnnotationError(f"{folder}: holds no data set that is recognised; give {_KNOWN}")
