"""Images from disk as (H, W, 3) uint8 RGB, and the files that names, folders and globs stand for.

What people see is what the network gets: a photo is turned upright as its EXIF data says, and what is transparent is
laid on white, as viewers show it. 16-bit grey is scaled by its full range; 32-bit integers and floats, which have no
range of their own, by their smallest and largest value. Of an animation or a file of many pages the first is read.
"""

from __future__ import annotations

import glob
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import ImageError

MAX_PIXELS = 178_956_970  # where Pillow itself stops by default: half a gigabyte as RGB
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "PPM")  # no EPS: it would run Ghostscript
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm")

Size = tuple[int, int]  # (height, width), px
SPARE = 2  # a reduced JPEG is at least so many times as large as wanted: Pillow's own measure of a fair reduction

UPRIGHT = {  # EXIF orientation: what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = {UPRIGHT[code] for code in (5, 6, 7, 8)}  # which exchange width and height


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file, upright. Threads may read side by side.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous and writable.
    Raises:
        ImageError: the file is missing, a folder, empty, damaged, no image, larger than `MAX_PIXELS` (said by its
            header, before anything is decoded), or may not be read.
    """
    path = Path(path)
    with _named(path), path.open("rb") as file:
        image = _open(file)
        _load(image)
        return to_rgb(_turn_upright(image))


def read_reduced(path: str | Path, fit: Callable[[Size], Size]) -> tuple[np.ndarray, Size]:
    """Read an image file that will be made smaller anyway: a JPEG is decoded to a part of its size where that serves.

    Its decoder can leave out the finest frequencies, which takes a fraction of the time and memory. What comes is at
    least `SPARE` times as large as wanted, so that the filter that makes it smaller still decides how it looks.

    Args:
        path: an image file; all but JPEGs are read whole.
        fit: from an image's (height, width) to the wanted one, px.

    Returns:
        (h, w, 3) uint8 RGB, upright, C-contiguous and writable; and the (height, width) of the whole image.
    Raises:
        ImageError: as `read_image`.
    """
    path = Path(path)
    with _named(path), path.open("rb") as file:
        image = _open(file)
        whole = image.size
        if image.format in ("JPEG", "MPO"):
            height, width = fit((image.height, image.width))
            image.draft(None, (SPARE * width, SPARE * height))
        turn = _find_turn(image)
        _load(image)
        pixels = to_rgb(_turn_upright(image))
    width, height = whole[::-1] if turn in QUARTER_TURNS else whole
    return pixels, (height, width)


def to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as (H, W, 3) uint8 RGB, C-contiguous and writable.

    Its pixels stay where Pillow has them: EXIF orientation is not applied, so that boxes fit the image as it was given.

    Raises:
        ImageError: its file is damaged, its colours cannot be converted, or its floats are not all finite.
    """
    _load(image)
    if image.mode.startswith("I;16"):
        return _grey_to_rgb((np.asarray(image).astype(np.uint32) + 128) // 257)  # 65535 = 255 * 257
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_stretch(np.asarray(image, dtype=np.float64)))
    try:
        return np.array(_lay_on_white(image) if image.has_transparency_data else image.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"its colours ({image.mode}) cannot be converted to RGB; save it as RGB") from error


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """List the image files that `sources` stand for, in their order and each once.

    Args:
        sources: each a file, taken whatever its ending; a folder: all images in it and in the folders below (links to
            folders are not followed); or a glob, quoted or not expanded by the shell, in which `**` goes through
            folders: the images and folders that it matches. Hidden files and folders are left out, unless named.
    Returns:
        The paths, relative where the source is; those of a folder or glob in natural order (2.jpg before 10.jpg).
    Raises:
        ImageError: a source that stands for no file.
    """
    files: dict[Path, Path] = {}  # by absolute path
    for source in sources:
        for file in _find(source):
            files.setdefault(file.absolute(), file)
    return list(files.values())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except OSError as error:
        reason = "is a folder, not an image" if path.is_dir() else f"cannot be opened ({error.strerror})"
        raise ImageError(f"{path}: {reason}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _open(file: BinaryIO) -> Image.Image:
    """The image of an open file, of which only the header is read."""
    try:
        with _hushed():
            image = Image.open(file)
    except UnidentifiedImageError as error:
        empty = os.fstat(file.fileno()).st_size == 0
        raise ImageError("the file is empty (0 bytes)" if empty else "is no image, or only the start of one") from error
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(next(map(int, re.findall(r"\d+", str(error)))))) from error
    except Exception as error:  # a damaged header can fail in any way
        raise _damaged(error) from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(image.width * image.height))
    if image.format not in FORMATS:
        raise ImageError(f"is a {image.format} file, which is not read; save it as PNG or JPEG")
    return image


def _too_large(num_pixels: int) -> str:
    return f"has {num_pixels:,} pixels, and at most {MAX_PIXELS:,} are read; resize it or cut it into tiles"


def _load(image: Image.Image) -> None:
    """Decode the pixels, if that is not yet done."""
    try:
        with _hushed() if image.format == "TIFF" else nullcontext():  # its decoder reads the metadata too
            image.load()
    except Exception as error:  # a damaged file can fail in any way
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    fault = "ends early" if "truncated" in str(error).lower() else f"is damaged ({error})"
    return ImageError(f"{fault}; copy or download it again")


def _turn_upright(image: Image.Image) -> Image.Image:
    turn = _find_turn(image)
    return image if turn is None else image.transpose(turn)


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright, as its EXIF data says; None where nothing does."""
    try:
        with _hushed():
            return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data says nothing about the pixels
        return None


def _lay_on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)  # (H, W) -> (H, W, 3)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values (H, W) moved to 0..255; all 0 where they are all the same."""
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ImageError("has pixels that are not finite (NaN or infinite); replace them")
    return np.rint((values - low) / (high - low) * 255) if high > low else np.zeros_like(values)


_HUSH = threading.Lock()


@contextmanager
def _hushed() -> Iterator[None]:
    """Hold back Pillow's warnings, which are about odd metadata and many pixels.

    Warning filters belong to the process, so that threads take turns; therefore this is kept to headers, which take
    little time, and pixels are decoded outside.
    """
    with _HUSH, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _find(source: str | Path) -> list[Path]:
    path = Path(source)
    try:
        if path.is_dir():
            files, reason = _sort(_images_below(path)), "no image in it or below it"
        elif path.exists():
            return [path]
        elif glob.has_magic(str(source)):
            files, reason = _sort(_images_of_glob(str(source))), "no image matches"
        else:
            raise ImageError(f"{source}: there is no such file or folder")
    except OSError as error:
        raise ImageError(f"{source}: cannot be opened ({error.strerror})") from error
    if not files:
        raise ImageError(f"{source}: {reason} (looked for {' '.join(SUFFIXES)})")
    return files


def _images_of_glob(pattern: str) -> Iterator[Path]:
    for match in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207 (Path.glob takes hidden files)
        if match.is_dir():
            yield from _images_below(match)
        elif match.suffix.lower() in SUFFIXES:
            yield match


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (Path(parent, name) for name in names if not name.startswith("."))
        yield from (file for file in shown if file.suffix.lower() in SUFFIXES)


def _sort(files: Iterator[Path]) -> list[Path]:
    """The paths in natural order: digits as the numbers they stand for. It is the same on every machine."""

    def key(file: Path) -> tuple[list[str | int], str]:
        parts = re.split(r"([0-9]+)", file.as_posix())  # text and digits take turns
        return [int(part) if index % 2 else part for index, part in enumerate(parts)], file.as_posix()

    return sorted(files, key=key)
