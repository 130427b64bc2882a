"""The image files that names, folders and globs stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm")


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
