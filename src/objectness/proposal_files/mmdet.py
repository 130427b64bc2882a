"""mmdetection 3's DumpProposals: a dict of `InstanceData` with `bboxes` and `scores` by "folder/name.jpg".

Its loader looks images up by the last folder and the name of their paths, needs every image of the data set and no
other, cuts each list from the front, and takes plain dicts of arrays as well, which are written here. Arrays are
float32. mmdetection 2 wrote a list of (n, 5) arrays, the score last, with the data set's order for their only key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..pickles import Inert, write_arrays
from .decimals import widen
from .image_index import ImageIndex
from .notes import Notes
from .record import ImageProposals, make_image

INSTANCE_DATA = tuple(f"mmengine.{package}.instance_data.InstanceData" for package in ("structures", "data"))


def is_mmdet(content: Any) -> bool:
    """Whether a pickle's content is laid out as mmdetection's, of either version."""
    if isinstance(content, dict):
        return "boxes" not in content and all(isinstance(value, dict | Inert) for value in content.values())
    return isinstance(content, list)


def read_mmdet(path: Path, content: Any, index: ImageIndex | None, notes: Notes) -> Iterator[ImageProposals]:
    """The images of a file's content, in its order.

    Args:
        path: for messages.
        content: of the pickle.
        index: gives the order where the content is a list.
        notes: told of scores that are missing.

    Raises:
        AnnotationError: it is none of mmdetection's, a list without an index of as many images, or an image is bad.
    """
    for file, image_id, values in _iterate_images(path, content, index):
        name = image_id if file is None else file
        try:
            boxes, scores = (np.asarray(values[key]) if key in values else None for key in ("bboxes", "scores"))
            if boxes is None:
                raise ValueError("there are no bboxes")
            if scores is None:
                notes.add("the scores of {images} are missing and taken as 0, as mmdetection does")
                scores = np.zeros(len(boxes))
            yield make_image(widen(boxes), widen(scores), file=file, image_id=image_id)
        except (ValueError, TypeError, OverflowError, LookupError) as error:
            raise AnnotationError(f"{path}: image {name}: {error}; make the file again") from error


def write_mmdet(path: Path, images: Iterable[ImageProposals], origin: str, notes: Notes) -> None:
    """Write a file for mmdetection 3, each image's best boxes first.

    Args:
        path: of the new file.
        images: with files.
        origin: where they come from, for messages.
        notes: told of names that are cut, or that mmdetection will hardly find.

    Raises:
        AnnotationError: two images have the same name and last folder.
    """
    content: dict[str, dict[str, np.ndarray]] = {}
    files: dict[str, str] = {}
    for image in images:
        file = str(image.file)
        name = _name(file)
        if name in content:
            raise AnnotationError(
                f"{origin}: {files[name]} and {file} are both {name} to mmdetection; convert them apart from each other"
            )
        if name != file:
            notes.add("folders above the last one left out of the names of {images}: mmdetection looks for FOLDER/NAME")
        if "/" not in name:
            notes.add("{images} named without a folder, where mmdetection looks for FOLDER/NAME: pass --images FOLDER")
        scores = image.to_scores()
        order = np.argsort(-scores, kind="stable")
        files[name] = file
        content[name] = {
            "bboxes": image.boxes[order].astype(np.float32),
            "scores": scores[order].astype(np.float32),
        }
    write_arrays(path, content)


def _iterate_images(
    path: Path, content: Any, index: ImageIndex | None
) -> Iterator[tuple[str | None, int | str | None, Any]]:
    if isinstance(content, dict) and is_mmdet(content):
        for file, values in content.items():
            yield str(file), None, values.state if isinstance(values, Inert) else values
        return
    if not isinstance(content, list):
        raise AnnotationError(f"{path}: holds neither mmdetection 3's dict by file names nor mmdetection 2's list")
    if index is None:
        raise AnnotationError(
            f"{path}: is a list in the order of mmdetection 2's data set, which alone tells the images; pass its "
            f"--annotations"
        )
    if len(content) != len(index.images):
        raise AnnotationError(
            f"{path}: is a list of {len(content)} images, but {index.source} has {len(index.images)}; pass the "
            f"annotations of the data set that it was made with"
        )
    for known, rows in zip(index.images, content, strict=True):
        yield known.file, known.image_id, _split_rows(rows, f"{path}: image {known.file}")


def _split_rows(rows: Any, where: str) -> dict[str, np.ndarray]:
    """One image of mmdetection 2: (n, 5) or, without scores, (n, 4); alone in a list where a detector has one class."""
    if isinstance(rows, list) and len(rows) == 1:
        (rows,) = rows
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] not in (4, 5):
        raise AnnotationError(f"{where}: is no array of (n, 5), as proposals are; is it the output of a detector?")
    return {"bboxes": rows[:, :4]} | ({"scores": rows[:, 4]} if rows.shape[1] == 5 else {})


def _name(file: str) -> str:
    """The last folder and the name, as mmdetection cuts a path."""
    path = PurePosixPath(file)
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name
