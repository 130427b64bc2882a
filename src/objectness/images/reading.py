"""Images from disk as (H, W, 3) uint8 RGB.

What people see is what the network gets: a photo is turned upright as its EXIF data says, and what is transparent is
laid on white, as viewers show it. 16-bit grey is scaled by its full range; 32-bit integers and floats, which have no
range of their own, by their smallest and largest value. Of an animation or a file of many pages the first is read.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import ImageError

MAX_PIXELS = 178_956_970  # where Pillow itself stops by default: half a gigabyte as RGB
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "PPM")  # no EPS: it would run Ghostscript

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


_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow's headers keep an orientation


def measure_image(path: Path) -> tuple[int, int]:
    """The (height, width), px, of an image turned upright as its EXIF data says, from its header alone.

    Raises:
        ImageError: it cannot be opened as an image.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            width, height = image.size
            return (width, height) if _lies_sideways(image) else (height, width)
    except Exception as error:  # a damaged header can fail in any way
        raise ImageError(f"{path}: cannot be read as an image ({type(error).__name__})") from error


def _lies_sideways(image: Image.Image) -> bool:
    if image.format == "TIFF" or not _ORIENTED & image.info.keys():
        return False  # Pillow turns a TIFF's size itself; and a PNG asked for what it has not decodes all its pixels
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1)) in QUARTER_TURNS
    except Exception:  # damaged EXIF data says nothing about the pixels
        return False
