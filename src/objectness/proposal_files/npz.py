"""numpy's .npz: the proposals of all images in a row, without pickled objects.

    offsets      (images + 1,) int64: image i has the proposals offsets[i] : offsets[i + 1]
    boxes        (proposals, 4) float64 xyxy, px
    scores       (proposals,) float64; NaN where an image has none
    logits       (proposals,) float64; the same
    levels       (proposals,) int64; NONE where an image has none
    files        (images,) str; "" where an image has none
    image_ids    (images,) int64 or str; NONE or "" where an image has none
    sizes        (images, 2) int64: height and width, px; 0 where they are unknown
    failed       (failures,) int64: the images that could not be proposed on
    errors       (failures,) str: why

What no image has is left out, except for offsets and boxes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from .record import ImageProposals, make_image

MIXED_IDS = "some image ids are integers and others strings, of which a column holds one kind"
NONE = int(np.iinfo(np.int64).min)  # no level and no id that anybody gives


def read_npz(path: Path) -> Iterator[ImageProposals]:
    """Read a file of `write_npz`.

    Raises:
        AnnotationError: it cannot be read, holds pickled objects, its arrays do not fit each other, or an image is bad.
    """
    try:
        arrays = _load(path)
        _check(arrays)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = f"there is no array {error}" if isinstance(error, KeyError) else error
        raise AnnotationError(f"{path}: holds no arrays of proposals ({reason}); make the file again") from error
    errors = dict(
        zip(arrays.get("failed", np.zeros(0)).tolist(), arrays.get("errors", np.zeros(0)).tolist(), strict=True)
    )
    for number in range(len(arrays["offsets"]) - 1):
        try:
            yield _take_image(arrays, number, errors.get(number))
        except (ValueError, TypeError, OverflowError) as error:
            raise AnnotationError(f"{path}: image {number}: {error}; make the file again") from error


def write_npz(path: Path, images: Iterable[ImageProposals], origin: str) -> None:
    """Write one file of arrays.

    Args:
        path: of the new file.
        images: whatever is known of them.
        origin: where they come from, for messages.

    Raises:
        AnnotationError: some ids are integers and others strings, or an integer has more than 64 bits.
    """
    known = list(images)
    arrays = {
        "offsets": np.cumsum([0, *map(len, known)]),
        "boxes": np.concatenate([np.zeros((0, 4)), *(image.boxes for image in known)]),
    }
    for name, missing in {"scores": np.nan, "logits": np.nan, "levels": NONE}.items():
        parts = [getattr(image, name) for image in known]
        if any(part is not None for part in parts):
            filled = (np.full(len(i), missing) if part is None else part for i, part in zip(known, parts, strict=True))
            arrays[name] = np.concatenate(list(filled))
    if any(image.file is not None for image in known):
        arrays["files"] = np.array([image.file or "" for image in known])
    if any(image.image_id is not None for image in known):
        arrays["image_ids"] = _join_ids([image.image_id for image in known], origin)
    if any(image.size is not None for image in known):
        arrays["sizes"] = np.array([image.size or (0, 0) for image in known])
    failures = {number: image.error for number, image in enumerate(known) if image.error is not None}
    if failures:
        arrays["failed"], arrays["errors"] = np.array(list(failures)), np.array(list(failures.values()))
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its options


def _join_ids(ids: Sequence[int | str | None], origin: str) -> np.ndarray:
    kinds = {type(image_id) for image_id in ids if image_id is not None}
    if len(kinds) > 1:
        raise AnnotationError(f"{origin}: {MIXED_IDS}; pass --annotations FILE, which tells them")
    if kinds == {str}:
        return np.array([image_id or "" for image_id in ids])
    try:
        return np.array([NONE if image_id is None else image_id for image_id in ids], dtype=np.int64)
    except OverflowError as error:
        raise AnnotationError(
            f"{origin}: an image id has more than 64 bits; pass --annotations FILE with others"
        ) from error


def _load(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        return {name: loaded[name] for name in loaded.files}


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """See that every array has its type and its length, so that images can be cut out.

    Raises:
        ValueError, KeyError: not so.
    """
    offsets, boxes = arrays["offsets"], arrays["boxes"]
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or not len(offsets):
        raise ValueError("its offsets are no row of integers")
    if offsets[0] != 0 or offsets[-1] != len(boxes) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its offsets do not cut its boxes")
    num_images, num_failures = len(offsets) - 1, len(arrays.get("failed", ()))
    lengths = dict.fromkeys(("scores", "logits", "levels"), len(boxes))
    lengths |= dict.fromkeys(("files", "image_ids", "sizes"), num_images)
    lengths |= {"errors": num_failures}
    for name, length in lengths.items():
        if name in arrays and len(arrays[name]) != length:
            raise ValueError(f"{len(arrays[name])} {name} where {length} belong")
    if (num_failures > 0) != ("errors" in arrays):
        raise ValueError("failed and errors do not belong together")
    for name, kinds in {"files": "U", "errors": "U", "image_ids": "Uiu", "sizes": "iu", "failed": "iu"}.items():
        if name in arrays and arrays[name].dtype.kind not in kinds:
            raise ValueError(f"{name} of the type {arrays[name].dtype}")


def _take_image(arrays: Mapping[str, np.ndarray], number: int, error: str | None) -> ImageProposals:
    def take(name: str) -> Any:
        return arrays[name][number].tolist() if name in arrays else None

    part = slice(arrays["offsets"][number], arrays["offsets"][number + 1])
    lists = {name: arrays[name][part] for name in ("scores", "logits", "levels") if name in arrays}
    unknown = {name: values == NONE if name == "levels" else np.isnan(values) for name, values in lists.items()}
    known = {name: values for name, values in lists.items() if not len(values) or not unknown[name].all()}
    height, width = take("sizes") or (0, 0)
    return make_image(
        arrays["boxes"][part],
        **known,
        file=take("files") or None,
        image_id=None if take("image_ids") in (None, "", NONE) else take("image_ids"),
        size=(height, width) if (height, width) != (0, 0) else None,
        error=error,
    )
