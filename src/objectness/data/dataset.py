"""The one entry to data sets: sees from what is there which format it is, and reads it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..errors import AnnotationError
from .coco import read_coco
from .faults import Faults
from .findings import Found, Ignoring, assemble
from .records import Dataset
from .voc import find_layout, find_xml_folder, read_voc
from .yolo import read_yolo, split_name

Reader = Callable[[Path, Path | None, Faults], Found]
_CLASSES_SHOWN = 10
_KNOWN = "a COCO .json file, a Pascal VOC folder or split file, or a YOLO data.yaml or folder with images and labels"


def read_dataset(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    skip_bad: bool = False,
    ignore_classes: Iterable[str | int] = (),
    ignore_difficult: bool = False,
) -> Dataset:
    """Read images and their boxes, in the format that is recognised from what is there.

    Args:
        annotations: COCO: a .json file, or a folder with just one. Pascal VOC: a folder with `Annotations/*.xml` or
            with .xml files, or a split file `ImageSets/Main/*.txt`. YOLO: a `data.yaml` or a folder with one
            (`data.yaml:val` for another split than `train`), a folder with `images` and `labels`, or a text file of
            image paths.
        images: where the image files are, if not where they usually are in such a data set.
        skip_bad: leave out bad boxes and images, and say so in the notes, instead of raising.
        ignore_classes: boxes of these classes, by name or id, are ignored: neither objects to be found nor background.
            So are, always, COCO's crowds and annotations with `"ignore": true`. The notes say how many.
        ignore_difficult: ignore what Pascal VOC calls difficult, too.
    Raises:
        AnnotationError: nothing is recognised or readable, no image is left, a class is unknown, or something is bad
            and `skip_bad` is not set; it names the place and the remedy.
    """
    return read_datasets(
        [annotations],
        images=images,
        skip_bad=skip_bad,
        ignore_classes=ignore_classes,
        ignore_difficult=ignore_difficult,
    )[0]


def read_datasets(
    sources: Sequence[str | Path],
    *,
    images: str | Path | None = None,
    skip_bad: bool = False,
    ignore_classes: Iterable[str | int] = (),
    ignore_difficult: bool = False,
) -> list[Dataset]:
    """Read data sets that are used together: a class to ignore need be known in one of them only.

    Args and errors as those of `read_dataset`, with the same options for each of the `sources`.
    """
    wanted = [ignore_classes] if isinstance(ignore_classes, str) else map(str, ignore_classes)
    ignoring = Ignoring(frozenset(wanted), ignore_difficult)
    datasets, ids, names = [], set[str](), dict[str, None]()
    for source in sources:
        faults = Faults(skip_bad=skip_bad)
        found = _read(source, Path(images) if images else None, faults)
        datasets.append(assemble(str(source), found, faults, ignoring))
        classes = found.list_classes()
        ids |= classes.keys()
        names |= dict.fromkeys(classes.values())
    for each in sorted(ignoring.classes - ids - names.keys()):
        raise AnnotationError(f"{', '.join(map(str, sources))}: {_describe_unknown(each, list(names))}")
    return datasets


def _read(annotations: str | Path, images: Path | None, faults: Faults) -> Found:
    try:
        reader, source = _recognise(Path(annotations))
        return reader(source, images, faults)
    except OSError as error:  # a folder without permission, a name that is too long
        raise AnnotationError(f"{annotations}: cannot be read ({error.strerror}: {error.filename})") from error


def _describe_unknown(wanted: str, names: Sequence[str]) -> str:
    if not names:
        return f"there is no class {wanted!r} to ignore, nor any other: these annotations have none"
    close = difflib.get_close_matches(wanted, names, n=1)
    advice = f"did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(names[:_CLASSES_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _CLASSES_SHOWN else "")
    return f"there is no class {wanted!r} to ignore; {advice}known are {shown}"


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
