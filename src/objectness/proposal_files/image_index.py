"""Which image is which: COCO's ids, the files' names and the images' sizes, from an annotation file.

The files themselves need not be there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.files import read_bytes
from ..errors import AnnotationError
from .matching import find_alike, group_by_name
from .record import ImageProposals


class IndexedImage(NamedTuple):
    """One image of the annotations."""

    image_id: int | str
    file: str
    size: tuple[int, int]  # (height, width), px


class ImageIndex:
    """The images of an annotation file, in its order.

    Args:
        source: what they were read from, for messages.
        images: no id twice.
    """

    def __init__(self, source: str, images: tuple[IndexedImage, ...]):
        self.source, self.images = source, images
        self._by_id = {str(image.image_id): image for image in images}  # some write ids as strings, others as integers
        self._by_file = {image.file: image for image in images}
        self._files = group_by_name(self._by_file)

    def complete(self, image: ImageProposals) -> ImageProposals:
        """Add what the annotations know: the id, the size, and the file's name where there is none.

        Raises:
            AnnotationError: the image is not there, may be one of two, or has another size.
        """
        known = self._find(image)
        if image.size not in (None, known.size):
            raise AnnotationError(
                f"{self.source}: {known.file} has {known.size[1]} x {known.size[0]} px, its proposals are for "
                f"{image.size[1]} x {image.size[0]}; pass the annotations of these very images"
            )
        return replace(image, image_id=known.image_id, file=image.file or known.file, size=known.size)

    def _find(self, image: ImageProposals) -> IndexedImage:
        if image.image_id is not None:
            known, name = self._by_id.get(str(image.image_id)), f"with the id {image.image_id}"
        else:
            path = Path(str(image.file))
            files = find_alike(path, self._files.get(path.name, []))
            if len(files) > 1:
                raise AnnotationError(
                    f"{self.source}: {files[0]} and {files[1]} may both be {path}; rename one of them"
                )
            known, name = self._by_file[files[0]] if files else None, f"named {path.name}"
        if known is None:
            raise AnnotationError(f"{self.source}: has no image {name}; pass the annotations of all of them")
        return known


def read_image_index(annotations: Path, folder: Path | None = None) -> ImageIndex:
    """Read the images of a COCO file.

    Args:
        annotations: the JSON file; its boxes are not looked at.
        folder: put before the files' names.

    Raises:
        AnnotationError: the file is not COCO, or an image has no id, name or size, or another one's id.
    """
    try:
        document = json.loads(read_bytes(annotations))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{annotations}: is not valid JSON ({error}); write the file again") from error
    entries = document.get("images") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise AnnotationError(f"{annotations}: is not COCO, which has a list of images")
    images = tuple(
        _read_image(entry, f"{annotations}: images[{number}]", folder) for number, entry in enumerate(entries)
    )
    ids = set()
    for image in images:
        if str(image.image_id) in ids:
            raise AnnotationError(f"{annotations}: two images have the id {image.image_id}; remove one of them")
        ids.add(str(image.image_id))
    return ImageIndex(str(annotations), images)


def _read_image(entry: Any, where: str, folder: Path | None) -> IndexedImage:
    try:
        image_id, file, height, width = (entry[key] for key in ("id", "file_name", "height", "width"))
        if type(image_id) not in (int, str) or not isinstance(file, str) or not file:
            raise ValueError("its id or file_name is none")
        file = file.replace("\\", "/")  # Windows' separators, which some tools write
        return IndexedImage(image_id, str(folder / file) if folder else file, (int(height), int(width)))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{where} has no id, file_name, height or width that can be one ({error})") from error
