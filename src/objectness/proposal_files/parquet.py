"""Parquet: a row for each image, with its proposals in lists; written and read some images at a time, by pyarrow.

    file string, image_id int64 or string, width int32, height int32, boxes list of 4 doubles each, scores list of
    doubles, logits the same, levels list of int64, error string

What an image does not have is null; an image without proposals has empty lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AnnotationError
from ..packages import require
from .npz import MIXED_IDS
from .record import ImageProposals, make_image

_ROWS = 64  # images at a time: 1,000 proposals of each are some 4 MB


def read_parquet(path: Path) -> Iterator[ImageProposals]:
    """Read a file of `write_parquet`, or another one with these columns; only `boxes` and one of the lists are needed.

    Raises:
        AnnotationError: it cannot be read, a column has another type, or an image is bad.
        ObjectnessError: pyarrow is not installed.
    """
    pyarrow = _import_pyarrow()
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in range(batch.num_rows):
                    yield _take_image({name: batch[name][row] for name in batch.schema.names})
                    number += 1
    except OSError as error:  # pyarrow's own as well
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, pyarrow.ArrowException) as error:
        reason = f"there is no column {error}" if isinstance(error, KeyError) else error
        raise AnnotationError(
            f"{path}: row {number}: holds no image's proposals ({reason}); make the file again"
        ) from error


def write_parquet(path: Path, images: Iterable[ImageProposals], origin: str) -> None:
    """Write a row for each image.

    Args:
        path: of the new file.
        images: whatever is known of them.
        origin: where they come from, for messages.

    Raises:
        AnnotationError: some ids are integers and others strings, or a name is no Unicode.
        ObjectnessError: pyarrow is not installed.
    """
    pyarrow = _import_pyarrow()
    stream = iter(images)
    some = list(islice(stream, _ROWS))
    id_kind = str if any(isinstance(image.image_id, str) for image in some) else int
    schema = _make_schema(pyarrow, id_kind)
    try:
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while some:
                if not all(isinstance(image.image_id, id_kind | None) for image in some):
                    raise AnnotationError(f"{origin}: {MIXED_IDS}; pass --annotations FILE, which tells them")
                writer.write_batch(_make_batch(pyarrow, some, schema))
                some = list(islice(stream, _ROWS))
    except (UnicodeEncodeError, OverflowError, pyarrow.ArrowException) as error:
        raise AnnotationError(f"{origin}: has a name or an id that Parquet cannot hold ({error}); change it") from error


def _import_pyarrow() -> Any:
    require("Parquet", "pyarrow", "parquet")
    import pyarrow.parquet

    return pyarrow


def _make_schema(pyarrow: Any, id_kind: type) -> Any:
    doubles = pyarrow.list_(pyarrow.float64())
    columns = {
        "file": pyarrow.string(),
        "image_id": pyarrow.string() if id_kind is str else pyarrow.int64(),
        "width": pyarrow.int32(),
        "height": pyarrow.int32(),
        "boxes": pyarrow.list_(pyarrow.list_(pyarrow.float64(), 4)),
        "scores": doubles,
        "logits": doubles,
        "levels": pyarrow.list_(pyarrow.int64()),
        "error": pyarrow.string(),
    }
    return pyarrow.schema(list(columns.items()))


def _make_batch(pyarrow: Any, images: Sequence[ImageProposals], schema: Any) -> Any:
    offsets = pyarrow.array(np.cumsum([0, *map(len, images)]), pyarrow.int32())
    corners = np.concatenate([image.boxes for image in images]).reshape(-1)
    columns = {
        "file": [image.file for image in images],
        "image_id": [image.image_id for image in images],
        "width": [image.size and image.size[1] for image in images],
        "height": [image.size and image.size[0] for image in images],
        "boxes": pyarrow.ListArray.from_arrays(offsets, pyarrow.FixedSizeListArray.from_arrays(corners, 4)),
        **{name: [getattr(image, name) for image in images] for name in ("scores", "logits", "levels", "error")},
    }
    arrays = [pyarrow.array(values, schema.field(name).type) for name, values in columns.items() if name != "boxes"]
    arrays.insert(schema.get_field_index("boxes"), columns["boxes"])
    return pyarrow.record_batch(arrays, schema=schema)


def _take_image(row: Mapping[str, Any]) -> ImageProposals:
    """An image from pyarrow's scalars, whose lists become arrays without a Python number in between."""

    def take(name: str) -> Any:
        return row[name].as_py() if name in row else None

    boxes = row["boxes"].values
    lists = {name: row[name].values for name in ("scores", "logits", "levels") if name in row}
    height, width = take("height"), take("width")
    return make_image(
        () if boxes is None else boxes.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4),
        **{name: values.to_numpy(zero_copy_only=False) for name, values in lists.items() if values is not None},
        file=take("file"),
        image_id=take("image_id"),
        size=None if height is None or width is None else (height, width),
        error=take("error"),
    )
