"""Files and folders that are written whole or not at all.

What is written lies beside its place, under a name that ends with `.partial`, until it is complete; then it takes the
place of what was there. A kill at any moment leaves the old or the new, and perhaps a `.partial`, which the next
attempt replaces. An error leaves the old, and nothing else.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # ends the name of what is being written
PREVIOUS = ".previous"  # ends the name of a folder while its successor takes its place
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # what a write meets without naming the file


@contextmanager
def replace_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends without an error.

    Args:
        path: the file; its folder is made if it is not there.
        sync: wait until the contents are on the disk, so that not even a power cut leaves a file cut short.

    Yields:
        An empty file beside it. Whatever writes there, the result has the mode that the umask gives to a new file.

    Raises:
        OSError: with the name of `path`, if there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with _naming(path):
            partial.unlink(missing_ok=True)
            partial.touch()
            mode = partial.stat().st_mode
            yield partial
            _finish(partial, mode, sync)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` when the block ends without an error.

    A folder cannot take another one's place in one step: for a moment the old one is only there with the name's ending
    `.previous`. Files in it have the mode that the umask gives to a new file, and are on the disk.

    Args:
        folder: where; the folders above it are made if they are not there.

    Raises:
        OSError: with the name of `folder`, if there is no room for it.
    """
    partial, previous = folder.with_name(folder.name + PARTIAL), folder.with_name(folder.name + PREVIOUS)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _naming(folder):
            yield partial
            mode = _measure_mode(partial)
            for file in filter(Path.is_file, partial.rglob("*")):
                _finish(file, mode, sync=True)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        partial.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def _measure_mode(folder: Path) -> int:
    """The mode of a new file; reading the umask itself would change it for all threads."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _finish(file: Path, mode: int, sync: bool) -> None:
    if file.stat().st_mode != mode:
        file.chmod(mode)
    if sync:
        handle = os.open(file, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put a file's name into the errors that a full or read-only disk gives without one."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        error.filename = str(path)
        raise
