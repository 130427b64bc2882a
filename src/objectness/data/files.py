"""Files as the readers of annotations meet them: there or not, text or not, images of some size."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import AnnotationError, ImageError
from ..images.finding import SUFFIXES, find_images


class Listing:
    """Tells whether files exist by listing each folder once: 100,000 single questions take long on a network disk."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = _list_names(folder)
        return path.name in self._names[folder]

    def find_image(self, folder: Path, stem: str) -> Path | None:
        """The image file of this name with any of the usual suffixes, in small or capital letters."""
        names = (stem + suffix for known in SUFFIXES for suffix in (known, known.upper()))
        return next((path for name in names if (path := folder / name) in self), None)


def list_images(folder: Path) -> list[Path]:
    """All image files in `folder` and below; none where there is no such folder."""
    try:
        return find_images([folder]) if folder.is_dir() else []
    except ImageError:  # none in it
        return []


def find_parent(folder: Path) -> Path:
    """The folder above, also that of `.` and `..`, whose own name does not tell it."""
    return folder / ".." if folder.name in ("", "..") else folder.parent


def read_bytes(path: Path) -> bytes:
    """The content of an annotation file.

    Raises:
        AnnotationError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(f"{path}: cannot be read ({reason})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, empty ones too; the byte order mark that Windows writes is dropped.

    Raises:
        AnnotationError: it cannot be read, or is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return [line.strip() for line in text.split("\n")]


def _list_names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # no such folder, or a name that none can have
        return frozenset()
