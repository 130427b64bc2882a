"""Proposals for many files: prepare ahead, propose, draw, make one JSON line each, write; a stopped run goes on.

Files are prepared in some threads, and proposed on, drawn and put into lines in others, several side by side where that
is asked for; lines are written by the caller's thread, in the order of the files.

A file that cannot be read, or not be proposed on, has a line with `error`, and the others are done. A picture is drawn
before its line is written, so that lines which are kept have theirs; a run that goes on draws none for what it keeps.
How a run goes on is told in `resume`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from ..errors import ConfigError, ImageError, ObjectnessError
from ..lines import make_line
from ..threads import map_ahead, share_threads
from .resume import open_lines

if TYPE_CHECKING:
    from ..proposals import Proposals


Ready = TypeVar("Ready")  # what a file is made into by the threads that prepare, an image at least
Made = TypeVar("Made")  # what becomes of a file's result
NUM_PREPARING = min(4, os.cpu_count() or 1)  # threads that prepare images


@dataclass(frozen=True)
class Result:
    """What became of one file: proposals or an error, never both.

    Attributes:
        file: as it was given.
        proposals: where they carry the decoded image they are large; let go of one result before taking many more.
        error: one sentence that names the file.
        drawing_error: one sentence that names the picture that could not be written.
    """

    file: Path
    proposals: Proposals | None = None
    error: str | None = None
    drawing_error: str | None = None


@dataclass(frozen=True)
class Counts:
    """What became of all files: `done` + `failed` of them have their line, of which `kept` had it before."""

    done: int = 0
    failed: int = 0
    kept: int = 0
    undrawn: int = 0  # pictures that could not be written


def propose_files(
    propose: Callable[[Ready], Proposals],
    files: Sequence[Path],
    *,
    prepare: Callable[[Path], Ready],
    finish: Callable[[Result], Made],
    at_once: int = 1,
    torch_threads: int | None = None,
) -> Generator[Made, None, None]:
    """Propose on image files, while the next few are prepared beside.

    Args:
        propose: takes what `prepare` made; called in `at_once` threads.
        files: of images. One that cannot be read gives a result with an error, and the others are done.
        prepare: reads a file, and does what else can be done ahead; called in threads. `Proposer.prepare`, or
            `read_image` where all pixels are wanted.
        finish: what to make of each result; called in the thread that proposed.
        at_once: images proposed on side by side.
        torch_threads: that torch computes each of them with; by default their share of those that it has.

    Yields:
        What `finish` made, in the order of the files.
    """

    def work(pair: tuple[Path, Future[Ready]]) -> Made:
        return finish(_propose(propose, *pair))

    with map_ahead(prepare, files, NUM_PREPARING) as preparing:
        pairs = zip(files, preparing, strict=True)
        with map_ahead(work, pairs, at_once, torch_threads or share_threads(at_once)) as made:
            for each in made:
                yield each.result()


def run(
    propose: Callable[[Ready], Proposals],
    files: Sequence[Path],
    out: Path | TextIO,
    *,
    prepare: Callable[[Path], Ready],
    at_once: int = 1,
    torch_threads: int | None = None,
    settings: Mapping[str, object] | None = None,
    top: int | None = None,
    min_score: float = 0.0,
    overwrite: bool = False,
    draw_dir: Path | None = None,
    on_result: Callable[[Result, int], None] | None = None,
) -> Counts:
    """Propose on files and write JSON Lines; a run that was stopped goes on, by the rules of `resume`.

    Args:
        propose: see `propose_files`.
        files: of images, each once.
        out: a path, or an open text file, such as stdout, that gets each line as soon as it is there.
        prepare, at_once, torch_threads: see `propose_files`.
        settings: what else the results depend on, such as the weights; values that JSON can hold.
        top: how many proposals of an image are written, the best; None: all.
        min_score: of proposals that are written, 0..1.
        overwrite: begin again, whatever `out` holds.
        draw_dir: a folder for pictures, `<stem>.jpg` (see `name_pictures`), of the `top` proposals, or if that is None
            of a few that are chosen for the eye (`Proposals.highlights`).
        on_result: called after each line with its result and the number of files that have their line by now.

    Raises:
        ConfigError: `out` holds something else than the start of this run, or cannot be written, or a picture would
            take the place of an image.
    """
    pictures = name_pictures(files, draw_dir) if draw_dir else {}
    all_settings = {**(settings or {}), "top": top, "min_score": min_score}

    def finish(result: Result) -> tuple[Result, str]:
        drawn = _draw(_narrow(result, top, min_score), pictures, top)
        return drawn, to_json_line(drawn)

    with open_lines(out, files, all_settings, overwrite=overwrite) as (lines, kept):
        counts = Counts(kept.num_lines - kept.num_failed, kept.num_failed, kept.num_lines)
        left = files[kept.num_lines :]
        proposing = propose_files(
            propose, left, prepare=prepare, finish=finish, at_once=at_once, torch_threads=torch_threads
        )
        with closing(proposing) as finished:
            for result, line in finished:
                lines.write(line + "\n")
                lines.flush()
                counts = _count(counts, result)
                if on_result:
                    on_result(result, counts.done + counts.failed)
    return counts


def to_json_line(result: Result) -> str:
    """One line, without its end: boxes px to 2 decimals, scores to 5. What failed has `file` and `error` only."""
    proposals = result.proposals
    if proposals is None:
        return make_line(result.file.as_posix(), {"error": result.error})
    return make_line(result.file.as_posix(), proposals.to_dict())


def name_pictures(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Name a picture in `folder` for each file, so that no two share one.

    They are `<stem>.jpg`; where two files have the same stem, the folders below the files' common one are kept; where
    that is not enough, the files' own endings are too (`a.png.jpg`).

    Raises:
        ConfigError: a picture would take the place of one of the files.
    """
    if not files:
        return {}
    absolute = [Path(os.path.normpath(file.absolute())) for file in files]
    common = os.path.commonpath([file.parent for file in absolute])
    full = [file.relative_to(common) for file in absolute]
    short = [Path(file.stem) for file in full]
    ways = (short, [file.with_suffix("") for file in full], full)
    names = next((way for way in ways if len({str(name).casefold() for name in way}) == len(way)), full)
    pictures = {file: folder / f"{name}.jpg" for file, name in zip(files, names, strict=True)}
    taken = {file.resolve() for file in files}
    for picture in pictures.values():
        if picture.resolve() in taken:
            raise ConfigError(f"drawing into {folder} would overwrite the image {picture}; draw into another folder")
    return pictures


def _propose(propose: Callable[[Ready], Proposals], file: Path, preparing: Future[Ready]) -> Result:
    try:
        ready = preparing.result()
    except ImageError as error:
        return Result(file, error=str(error))
    try:
        return Result(file, propose(ready))
    except ObjectnessError as error:
        return Result(file, error=f"{file}: {error}")


def _narrow(result: Result, top: int | None, min_score: float) -> Result:
    if result.proposals is None:
        return result
    proposals = result.proposals.above(min_score)
    return replace(result, proposals=proposals if top is None else proposals.top(top))


def _count(counts: Counts, result: Result) -> Counts:
    return replace(
        counts,
        done=counts.done + (result.error is None),
        failed=counts.failed + (result.error is not None),
        undrawn=counts.undrawn + (result.drawing_error is not None),
    )


def _draw(result: Result, pictures: Mapping[Path, Path], max_boxes: int | None) -> Result:
    """Draw a result's picture, if it shall have one; a failure is noted in the result."""
    if result.proposals is None or result.file not in pictures:
        return result
    picture = pictures[result.file]
    try:
        result.proposals.save(picture, max_boxes)
    except (ObjectnessError, OSError, ValueError) as error:
        return replace(result, drawing_error=f"{picture}: cannot be drawn ({error})")
    return result
