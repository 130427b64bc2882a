"""A file of lines, one for each input file, that a stopped run goes on with.

Lines are added to the file itself, say `boxes.jsonl`. Until the last one is there, `boxes.jsonl.part` stands beside it
and holds the settings of the run. The next run with the same file

    keeps its complete lines, cuts off a torn last one and goes on: the file ends as if nothing had stopped it. Lines
        that tell an error are kept like all others;
    is refused if the settings differ, or if the lines are not those of the first of its input files, so that no file
        holds the results of two different runs. Input files that are new behind those are no difference;
    is refused if the file is there without its `.part`: it is finished, or somebody else's. An empty one is no file.

`overwrite` begins again in all three cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from ..errors import ConfigError
from ..files import write_text
from ..lines import start_line

REMEDY = "pass --overwrite to begin again, or choose another --out"


class Kept(NamedTuple):
    """The lines that were there before."""

    num_lines: int = 0
    num_failed: int = 0  # of these, the ones that tell an error


@contextmanager
def open_lines(
    out: Path | TextIO, files: Sequence[Path], settings: Mapping[str, object], *, overwrite: bool = False
) -> Iterator[tuple[TextIO, Kept]]:
    """Open a file for the lines of `files`, in their order, behind the lines that it already has.

    Its `.part` is removed at the end, unless an exception comes through: then the next run goes on.

    Args:
        out: the file; missing folders are made. What cannot be gone on with, an open stream or a path that is no
            regular file, such as /dev/null, is just written.
        files: what each line is about; the lines begin with `lines.start_line(file.as_posix())`.
        settings: what the lines depend on; values that JSON can hold.
        overwrite: begin again, whatever `out` holds.
    Yields:
        The open file, and what it keeps: lines for `files[: kept.num_lines]`.
    Raises:
        ConfigError: `out` holds something else than the start of this run, or cannot be written.
    """
    if not isinstance(out, Path):
        yield out, Kept()
        return
    try:
        special = out.exists() and not out.is_file()
        kept = Kept() if special else _resume(out, files, json.loads(json.dumps(settings)), overwrite)
        file = out.open("a", encoding="ascii", newline="\n")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    with file:
        yield file, kept
    _part_of(out).unlink(missing_ok=True)


def _resume(out: Path, files: Sequence[Path], settings: dict[str, object], overwrite: bool) -> Kept:
    """Leave `out` with its good lines only, beside a `.part` of these settings."""
    kept, size = Kept(), 0
    if not overwrite and out.exists() and out.stat().st_size > 0:
        if not _part_of(out).exists():
            raise ConfigError(f"{out}: is there already, and finished; {REMEDY}")
        kept, size = _check_lines(out, files)
        if kept.num_lines > 0:
            _check_settings(out, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file:
        file.truncate(size)  # before the settings are written: they must never stand beside other settings' lines
    _write_settings(out, settings)
    return kept


def _check_lines(out: Path, files: Sequence[Path]) -> tuple[Kept, int]:
    """What `out` keeps, and where its last complete line ends, bytes. Lines are compared by their start, not parsed."""
    size = num_lines = num_failed = 0
    with out.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break  # torn
            start = start_line(files[num_lines].as_posix()) if num_lines < len(files) else "no line more"
            if not line.startswith(f"{start}, ".encode()):
                where = f"line {num_lines + 1} is about another one"
                raise ConfigError(f"{out}: was begun with other files or in another order ({where}); {REMEDY}")
            size += len(line)
            num_lines += 1
            num_failed += line.startswith(f'{start}, "error": '.encode())
    return Kept(num_lines, num_failed), size


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    try:
        before = json.loads(_part_of(out).read_text())
    except ValueError:
        before = {}
    for name in sorted(before.keys() | settings.keys()):
        old, new = (json.dumps(each.get(name)) for each in (before, settings))
        if old != new:
            raise ConfigError(f"{out}: was begun with {name} = {old}, and now it is {new}; {REMEDY}")


def _write_settings(out: Path, settings: dict[str, object]) -> None:
    write_text(_part_of(out), json.dumps(settings) + "\n")


def _part_of(out: Path) -> Path:
    return out.with_name(out.name + ".part")
