"""The command line: parse, call, print.

Results go to stdout or to a file, everything else to stderr. Exit codes: 0 done, 1 something failed, 2 wrong use,
130 stopped by Ctrl-C. torch is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import __version__
from .config import Config, TrainOptions
from .errors import ConfigError, ObjectnessError

if TYPE_CHECKING:
    from .data.records import ImageRecord
    from .propose import Result
    from .train import Progress as TrainProgress

STEPS_BETWEEN_LINES_S = 30.0  # without a terminal, a plain line of progress so often

err = Console(stderr=True, highlight=False, soft_wrap=True)
app = App(
    name="objectness",
    help="Find where the objects in an image are, before anyone says what they are.",
    version=__version__,
    default_parameter=Parameter(consume_multiple=True, negative=()),
)
Flat = Parameter(name="*")


def main() -> None:
    """Run the command; turn errors into one line and an exit code."""
    try:
        code = app(exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        sys.exit(2)  # already printed
    except ConfigError as error:
        _say_error(error)
        sys.exit(2)
    except ObjectnessError as error:
        _say_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("objectness: stopped; the same command goes on from here")
        sys.exit(130)
    sys.exit(code or 0)


@app.command
def propose(
    *sources: str,
    out: Path | None = None,
    draw: Path | None = None,
    top: int | None = None,
    min_score: float = 0.0,
    weights: str = "lite0",
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Propose where the objects of images are.

    One line of JSON an image: {"file", "width", "height", "boxes": [[x1, y1, x2, y2], ...], "scores", "levels"}, best
    first, in the image's own pixels. A file that cannot be read gives {"file", "error"}; the others are done and the
    exit code is 1. With --out, a stopped run goes on where it stopped.

    Args:
        sources: Image files, folders (with all that is below them) and globs.
        out: Where the lines go; standard output by default.
        draw: A folder for pictures with the boxes drawn.
        top: At most so many proposals an image; all by default (2,000 in a network's usual configuration).
        min_score: Leave out proposals with less, 0 to 1.
        weights: The network that ships (lite0), a run folder or a checkpoint folder.
        device: cpu, cuda, cuda:1, ... or auto.
        overwrite: Begin again, whatever is in --out.
    """
    from . import propose as proposing
    from .image import find_images
    from .predict import load

    if not sources:
        raise ConfigError("propose: name at least one image file, folder or glob")
    if top is not None and top < 1:
        raise ConfigError(f"--top {top}: must be at least 1")
    if not 0 <= min_score <= 1:
        raise ConfigError(f"--min-score {min_score}: must be in [0, 1]")
    files = find_images(sources)
    proposer = load(weights, device=_choose_device(device))
    with _track("propose", len(files)) as advance:

        def on_result(result: Result, num_done: int) -> None:
            for message in (result.error, result.drawing_error):
                if message:
                    err.print(f"objectness: {message}", markup=False)
            advance(num_done, "")

        counts = proposing.run(
            proposer.propose,
            files,
            out or sys.stdout,
            settings={"weights": weights},
            top=top,
            min_score=min_score,
            overwrite=overwrite,
            draw_dir=draw,
            on_result=on_result,
        )
    kept = f", {counts.kept} of them before" if counts.kept else ""
    err.print(f"{counts.done} of {len(files)} images done{kept}; {counts.failed} failed", markup=False)
    return 1 if counts.failed or counts.undrawn else 0


@app.command
def train(
    *data: Path,
    out: Path | None = None,
    val: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    resume: Path | None = None,
    stop_after: float | None = None,
    device: str = "auto",
    config: Annotated[Config | None, Flat] = None,
    options: Annotated[TrainOptions | None, Flat] = None,
) -> int:
    """Train a network on anyone's boxes: COCO, Pascal VOC or YOLO, one data set or several.

    The run folder gets options.json, metrics.jsonl, TensorBoard events and curves where these are installed, and the
    checkpoints last/ and best/. Ctrl-C writes a checkpoint; `objectness train --resume FOLDER` goes on to the same
    weights as if nothing had stopped. On several devices: `torchrun --nproc-per-node 2 -m objectness.cli train ...`.

    Args:
        data: Annotation files or folders; one that is named twice counts twice.
        out: The run folder.
        val: What recall is measured on while training and at the end.
        images: Where the images of all data sets are, if not where they usually are.
        skip_bad: Leave out bad boxes and images instead of stopping at the first.
        resume: A run folder to go on with; everything else is taken from it.
        stop_after: Minutes after which this leg ends with a checkpoint.
        device: cpu, cuda, ... or auto.
    """
    if resume is not None:
        config, options, sources = _read_run(resume)
    else:
        if not data or out is None:
            raise ConfigError("train: name annotation files or folders and --out FOLDER, or --resume FOLDER")
        sources = {
            "train": [str(path) for path in data],
            "val": str(val) if val else None,
            "images": str(images) if images else None,
            "skip_bad": skip_bad,
        }
    from .train import train as run_training

    run_dir = resume or out
    assert run_dir is not None
    records = [record for path in sources["train"] for record in _read(path, sources)]
    validation = _read(sources["val"], sources) if sources["val"] else ()
    with _processes(device) as (chosen, is_first), _stop_signal(stop_after) as should_stop:
        watcher = _watch_training() if is_first else _ignore_training()
        with watcher as on_progress:
            result = run_training(
                config or Config(),
                options or TrainOptions(),
                records,
                run_dir,
                validation=validation,
                sources=sources,
                device=chosen,
                resume=resume is not None,
                on_progress=on_progress,
                should_stop=should_stop,
            )
    if is_first and result.recall is not None:
        print(result.recall.table())
    if is_first:
        state = "trained" if result.is_complete else f"stopped; go on with: objectness train --resume {run_dir}"
        err.print(f"{run_dir}: step {result.step} of {result.num_steps}, {state}", markup=False)
    return 0


@app.command
def evaluate(
    data: Path,
    *,
    weights: str = "lite0",
    proposals: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    out: Path | None = None,
    plot: Path | None = None,
    device: str = "auto",
) -> int:
    """Measure class-agnostic recall: AR@10, 100, 300 and 1000, by size, by IoU, and proposals against score.

    COCO's protocol with useCats = 0: crowd regions ignored, IoU 0.5:0.05:0.95, sizes by annotation area.

    Args:
        data: COCO, Pascal VOC or YOLO annotations.
        weights: The network that ships (lite0), a run folder or a checkpoint folder.
        proposals: Measure this file of JSON Lines, as `objectness propose` writes it, instead of a network.
        images: Where the images are, if not where they usually are.
        skip_bad: Leave out bad boxes and images instead of stopping at the first.
        out: Write the whole report as JSON.
        plot: Draw recall against IoU, number of proposals and score into this picture (needs matplotlib).
        device: cpu, cuda, ... or auto.
    """
    from .evaluate import measure_recall
    from .predict import load, measure_network
    from .proposal_file import match_proposals, read_proposals
    from .recall_report import plot_recall

    records = _read(str(data), {"images": str(images) if images else None, "skip_bad": skip_bad})
    if proposals is not None:
        report = measure_recall(records, match_proposals(read_proposals(proposals), records, str(proposals)))
    else:
        network = load(weights, device=_choose_device(device)).network
        with _track("evaluate", len(records)) as advance:
            report = measure_network(network, records, on_image=lambda done: advance(done, ""))
    print(report.table())
    if out is not None:
        _write_whole(out, json.dumps(report.to_dict(), indent=2) + "\n")
    if plot is not None:
        plot_recall(report, plot)
    return 0


def _read(source: str, sources: dict[str, Any]) -> tuple[ImageRecord, ...]:
    """One data set's images; what was left out is said."""
    from .data.dataset import read_dataset

    dataset = read_dataset(source, images=sources["images"], skip_bad=sources["skip_bad"])
    for note in dataset.notes:
        err.print(note, markup=False)
    return dataset.records


def _read_run(folder: Path) -> tuple[Config, TrainOptions, dict[str, Any]]:
    """What a run folder was asked for."""
    from .run_log import OPTIONS_FILE

    path = folder / OPTIONS_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        sources = {name: stored["data"][name] for name in ("train", "val", "images", "skip_bad")}
        return Config.from_dict(stored["config"]), TrainOptions.from_dict(stored["train"]), sources
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{folder}: is no run to go on with ({path}: {reason})") from error


def _choose_device(name: str) -> str:
    """The device that a name means.

    Raises:
        ConfigError: it is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name}: is not to be had here ({reason}); pass cpu or auto") from error
    return name


@contextmanager
def _processes(device: str) -> Iterator[tuple[str, bool]]:
    """Join the other processes if torchrun started this one; yields its device and whether it is the first."""
    if "RANK" not in os.environ:
        yield _choose_device(device), True
        return
    import torch
    import torch.distributed as dist

    cuda = _choose_device(device).startswith("cuda")
    chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield chosen, dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


@contextmanager
def _stop_signal(stop_after: float | None) -> Iterator[Callable[[], bool]]:
    """A question that is answered with yes after Ctrl-C, SIGTERM or `stop_after` minutes; a second Ctrl-C kills."""
    deadline = time.monotonic() + 60 * stop_after if stop_after is not None else float("inf")
    signalled = False

    def stop(number: int, frame: object) -> None:
        nonlocal signalled
        signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: signalled or time.monotonic() >= deadline
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _track(name: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on a terminal, a plain line now and then elsewhere; yields advance(done, text)."""
    if not err.is_terminal:
        last_s = time.monotonic()

        def say(done: int, text: str) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= STEPS_BETWEEN_LINES_S or done == total:
                last_s = time.monotonic()
                err.print(f"{name}: {done}/{total} {text}".rstrip(), markup=False)

        yield say
        return
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(name, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text, refresh=done == total)


@contextmanager
def _watch_training() -> Iterator[Callable[[TrainProgress], None]]:
    """A bar with losses, positives per image, images per second and time left; a line for every measured recall."""
    advance: Callable[[int, str], None] | None = None
    tracked = None

    def show(progress: TrainProgress) -> None:
        nonlocal advance, tracked
        if advance is None or tracked is None:
            tracked = _track("train", progress.num_steps)
            advance = tracked.__enter__()
        advance(
            progress.step,
            f"objectness {progress.objectness_loss:.3f}  box {progress.box_loss:.3f}  "
            f"{progress.positives_per_image:.1f} positives/image  {progress.images_per_second:.1f} images/s",
        )
        if progress.recall is not None:
            recall = "  ".join(f"AR@{top} {progress.recall.average_recall(top):.3f}" for top in progress.recall.tops)
            err.print(f"step {progress.step}: {recall}", markup=False)

    try:
        yield show
    finally:
        if tracked is not None:
            tracked.__exit__(None, None, None)


@contextmanager
def _ignore_training() -> Iterator[Callable[[TrainProgress], None]]:
    yield lambda progress: None


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _say_error(error: ObjectnessError) -> None:
    err.print(f"objectness: {error}", markup=False)


if __name__ == "__main__":
    main()
