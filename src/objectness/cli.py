"""The command line: parse, call, print.

Results go to stdout or to a file, everything else to stderr. Exit codes: 0 done, 1 something failed, 2 wrong use, and
as shells have it 130 stopped by Ctrl-C, 141 nobody reads the output any more. torch is imported inside the commands,
so that help comes at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console, RenderableType
from rich.console import Group as Rows
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from . import __version__
from .config import Config, TrainOptions
from .errors import ConfigError, ObjectnessError

if TYPE_CHECKING:
    from .data.records import ImageRecord
    from .network import RegionProposalNetwork
    from .propose import Result
    from .train import Progress as TrainProgress

SECONDS_BETWEEN_LINES = 30.0  # without a terminal, a plain line of progress so often
PLOT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
NO_MEMORY = "there is not enough memory; in training, take fewer --images-per-step or a smaller --input.short-side"

err = Console(stderr=True, highlight=False, soft_wrap=True)
app = App(
    name="objectness",
    help="Find where the objects in an image are, before anyone says what they are.",
    version=__version__,
    default_parameter=Parameter(
        consume_multiple=True,
        negative=(),
        show_default=lambda value: _show_default(value),  # a lambda, since it stands below
    ),
    suppress_keyboard_interrupt=False,
)
Network = Parameter(name="*", group=Group.create_ordered("What is trained"))
Schedule = Parameter(name="*", group=Group.create_ordered("How it is trained"))


def main() -> None:
    """Run the command that `sys.argv` names; turn errors into one line and an exit code."""
    sys.stdout = sys.stdout or io.StringIO()  # None where the shell closed it
    try:
        code = app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value") or 0
        sys.stdout.flush()  # now, while a closed pipe is still understood
    except CycloptsError as error:
        command = " ".join(["objectness", *(error.command_chain or ())])
        code = _fail(f"{error} See: {command} --help", 2)
    except ObjectnessError as error:
        code = _fail(error, 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt as stop:
        code = _fail("; ".join(["stopped", *stop.args]), 130)
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        code = _fail(NO_MEMORY, 1)
    _let_go_of_stdout()
    sys.exit(code)


@app.command(sort_key=1)
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
        weights: The network that ships (lite0), a run folder, a checkpoint folder or its model.safetensors.
        device: cpu, cuda, cuda:1, ... or auto.
        overwrite: Begin again, whatever is in --out.
    """
    if not sources:
        raise ConfigError("propose: name at least one image file, folder or glob")
    if top is not None and top < 1:
        raise ConfigError(f"--top {top}: must be at least 1")
    if not 0 <= min_score <= 1:
        raise ConfigError(f"--min-score {min_score:g}: must be in [0, 1]")
    from . import propose as proposing
    from .predict import load

    files = _find_images(sources, draw)
    if draw is not None:
        _make_folder(draw)
    proposer = load(weights, device=device)
    lines_are_seen = out is None and sys.stdout.isatty()  # they are progress enough, and a bar would mix with them
    advice = "the same command goes on from here" if out else None
    with _advise(advice), _Meter("propose", len(files), hidden=lines_are_seen) as meter:

        def on_result(result: Result, num_done: int) -> None:
            for message in (result.error, result.drawing_error):
                if message:
                    _say(f"objectness: {message}")
            meter.advance(num_done)

        counts = proposing.run(
            proposer.propose,
            files,
            out or sys.stdout,
            settings={"weights_sha256": _hash_weights(proposer.network)} if out else None,
            top=top,
            min_score=min_score,
            overwrite=overwrite,
            draw_dir=draw,
            on_result=on_result,
        )
    kept = f", {counts.kept} of them before" if counts.kept else ""
    undrawn = f"; {counts.undrawn} pictures could not be drawn" if counts.undrawn else ""
    _say(f"{counts.done} of {len(files)} images done{kept}; {counts.failed} failed{undrawn}")
    return 1 if counts.failed or counts.undrawn else 0


@app.command(sort_key=2)
def train(
    *data: Path,
    out: Path | None = None,
    val: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    resume: Path | None = None,
    stop_after: float | None = None,
    device: str = "auto",
    config: Annotated[Config | None, Network] = None,
    options: Annotated[TrainOptions | None, Schedule] = None,
) -> int:
    """Train a network on anyone's boxes: COCO, Pascal VOC or YOLO, one data set or several.

    The run folder gets options.json, metrics.jsonl, TensorBoard events and curves where these are installed, pictures,
    and the checkpoints last/ and best/. Ctrl-C writes a checkpoint; `objectness train --resume FOLDER` goes on to the
    same weights as if nothing had stopped. On several devices: `torchrun --nproc-per-node 2 -m objectness train ...`

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
    if stop_after is not None and not stop_after >= 0:
        raise ConfigError(f"--stop-after {stop_after:g}: must be minutes, at least 0")
    if resume is not None:
        given = {"data": data, "--out": out, "--val": val, "--images": images, "--skip-bad": skip_bad}
        settings = {"options of the network": config, "options of the schedule": options}
        named = [name for name, value in {**given, **settings}.items() if value]
        if named:
            raise ConfigError(f"train --resume: takes everything from the run; leave out {', '.join(named)}")
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
    run_dir = resume or out
    assert run_dir is not None
    from .train import train as run_training

    options = options or TrainOptions()
    config = config or _default_config(options.weights)
    go_on = f"objectness train --resume {shlex.quote(str(run_dir))}"
    with _processes(device) as (chosen, is_first):
        records = [record for path in sources["train"] for record in _read(path, sources, is_first)]
        validation = _read(sources["val"], sources, is_first) if sources["val"] else ()
        with (
            _advise(f"go on from the last checkpoint with: {go_on}"),  # after the second Ctrl-C
            _Meter("train", hidden=not is_first) as meter,
            _stop_signal(stop_after, meter) as should_stop,
        ):
            result = run_training(
                config,
                options,
                records,
                run_dir,
                validation=validation,
                sources=sources,
                device=chosen,
                resume=resume is not None,
                on_progress=lambda progress: _show_training(progress, options.images_per_step, meter),
                should_stop=should_stop,
            )
    if is_first and result.recall is not None:
        print(result.recall.table())
    if is_first:
        state = "trained" if result.is_complete else f"stopped; go on with: {go_on}"
        _say(f"{run_dir}: step {result.step} of {result.num_steps}, {state}")
    return 0


@app.command(sort_key=3)
def evaluate(
    data: Path,
    /,
    *,
    weights: str | None = None,
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
        weights: A run folder, a checkpoint folder or its model.safetensors; by default the network that ships (lite0).
        proposals: Measure this file of JSON Lines, as `objectness propose` writes it, instead of a network.
        images: Where the images are, if not where they usually are.
        skip_bad: Leave out bad boxes and images instead of stopping at the first.
        out: Write the whole report as JSON.
        plot: Draw recall against IoU, number of proposals and score into this picture (needs matplotlib).
        device: cpu, cuda, ... or auto.
    """
    if proposals is not None and weights is not None:
        raise ConfigError("evaluate: give either --weights or --proposals")
    for path in filter(None, (out, plot)):  # measuring takes long; what cannot be written is said before
        _make_folder(path.parent)
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file in it")
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"--plot {plot}: must end with one of {' '.join(PLOT_SUFFIXES)}")
    if plot is not None and find_spec("matplotlib") is None:
        raise ObjectnessError("--plot needs matplotlib: pip install 'objectness[plot]'")
    from .checkpoint import SHIPPED
    from .evaluate import measure_recall
    from .predict import load, measure_network
    from .proposal_file import match_proposals, read_proposals
    from .recall_report import plot_recall

    records = _read(str(data), {"images": str(images) if images else None, "skip_bad": skip_bad})
    if proposals is not None:
        report = measure_recall(records, match_proposals(read_proposals(proposals), records, str(proposals)))
    else:
        network = load(weights or SHIPPED, device=device).network
        with _Meter("evaluate", len(records)) as meter:
            report = measure_network(network, records, on_image=meter.advance)
    print(report.table())
    if out is not None:
        _write_whole(out, json.dumps(report.to_dict(), indent=2) + "\n")
    if plot is not None:
        plot_recall(report, plot)
    return 0


def _find_images(sources: Sequence[str], draw: Path | None) -> list[Path]:
    """The images to propose on; without the pictures that an earlier run drew into a folder below a source."""
    from .image import find_images

    def is_drawn(path: Path) -> bool:
        return draw is not None and draw.absolute() in (path.absolute(), *path.absolute().parents)

    files = find_images(sources)
    if any(is_drawn(Path(source)) for source in sources):
        return files  # they are meant
    return [file for file in files if not is_drawn(file)]


def _hash_weights(network: RegionProposalNetwork) -> str:
    """What tells a network from every other, so that no file holds the proposals of two."""
    digest = hashlib.sha256(json.dumps(network.config.to_dict()).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(source: str, sources: dict[str, Any], say_notes: bool = True) -> tuple[ImageRecord, ...]:
    """One data set's images; what was left out is said."""
    from .data.dataset import read_dataset

    dataset = read_dataset(source, images=sources["images"], skip_bad=sources["skip_bad"])
    for note in dataset.notes if say_notes else ():
        _say(note)
    return dataset.records


def _default_config(weights: str | None) -> Config:
    """The configuration of the network that training starts from, if it starts from one."""
    from .checkpoint import CONFIG_FILE, find_checkpoint, names_network, read_config

    return read_config(find_checkpoint(weights) / CONFIG_FILE) if weights and names_network(weights) else Config()


def _read_run(folder: Path) -> tuple[Config, TrainOptions, dict[str, Any]]:
    """What a run folder was asked for.

    Raises:
        ConfigError: it is no run folder, or not one of this command.
    """
    from .run_log import OPTIONS_FILE

    path = folder / OPTIONS_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        data = stored["data"]
        if not isinstance(data.get("train"), list):
            raise ConfigError("it was not started by this command; go on with what started it")
        sources = {name: data[name] for name in ("train", "val", "images", "skip_bad")}
        return Config.from_dict(stored["config"]), TrainOptions.from_dict(stored["train"]), sources
    except OSError as error:
        raise ConfigError(f"{folder}: is no run to go on with ({path}: {error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{folder}: cannot be gone on with ({path}: {reason})") from error


@contextmanager
def _processes(device: str) -> Iterator[tuple[str, bool]]:
    """Join the other processes if torchrun started this one; yields its device and whether it is the first."""
    from .predict import choose_device

    chosen = choose_device(device)
    if "RANK" not in os.environ:
        yield str(chosen), True
        return
    import torch
    import torch.distributed as dist

    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield str(chosen), dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


@contextmanager
def _advise(advice: str | None) -> Iterator[None]:
    """Let Ctrl-C tell how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*filter(None, [advice])) from stop


@contextmanager
def _stop_signal(stop_after: float | None, meter: _Meter) -> Iterator[Callable[[], bool]]:
    """A question that is answered with yes after Ctrl-C, SIGTERM or `stop_after` minutes; a second Ctrl-C kills."""
    deadline = time.monotonic() + 60 * stop_after if stop_after is not None else float("inf")
    signalled = False

    def stop(number: int, frame: object) -> None:
        nonlocal signalled
        signalled = True
        meter.text = "stopping after this step; Ctrl-C once more stops at once, without a checkpoint"
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: signalled or time.monotonic() >= deadline
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _show_training(progress: TrainProgress, images_per_step: int, meter: _Meter) -> None:
    """Losses, positives per image, images per second and time left; a line for every measured recall."""
    meter.total = progress.num_steps
    images_left = (progress.num_steps - progress.step) * images_per_step
    meter.advance(
        progress.step,
        f"objectness {progress.objectness_loss:.3f}  box {progress.box_loss:.3f}  "
        f"{progress.positives_per_image:.1f} positives/image  {progress.images_per_second:.1f} images/s",
        images_left / progress.images_per_second,
    )
    if progress.recall is not None:
        recall = "  ".join(f"AR@{top} {progress.recall.average_recall(top):.3f}" for top in progress.recall.tops)
        _say(f"step {progress.step}: {recall}")


class _Meter:
    """How far a command is: a bar on a terminal, a plain line now and then elsewhere.

    Args:
        name: of the command.
        total: of what is done, where it is known by now.
        hidden: show nothing.
    """

    def __init__(self, name: str, total: int | None = None, *, hidden: bool = False):
        self.name, self.total, self.text = name, total, ""
        self.first: tuple[float, int] | None = None  # when was how much done
        self.last_line = time.monotonic()
        self.is_plain = not err.is_terminal or err.is_dumb_terminal
        self.hidden = hidden
        self.bar = _Bar(self)
        self.task = self.bar.add_task(name, total=total, left="")

    def __enter__(self) -> _Meter:
        if not (self.hidden or self.is_plain):
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.hidden or self.is_plain):  # without a terminal, stopping would print an empty line
            self.bar.stop()

    def advance(self, done: int, text: str = "", seconds_left: float | None = None) -> None:
        """Tell that `done` is done by now, with a text; the time left is estimated where it is not given."""
        self.text = text
        self.first = self.first or (time.monotonic(), done)
        seconds, count = time.monotonic() - self.first[0], done - self.first[1]
        if seconds_left is None and self.total is not None and count > 0:
            seconds_left = (self.total - done) * seconds / count
        left = "" if seconds_left is None else f"{_show_time(seconds_left)} left"
        self.bar.update(self.task, completed=done, total=self.total, left=left)
        if self.is_plain and not self.hidden and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            _say(", ".join(filter(None, (f"{self.name}: {done}/{self.total}", left, text))))


class _Bar(Progress):
    """A bar on one line, and a meter's text on the next."""

    def __init__(self, meter: _Meter):
        self.meter = meter
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        super().__init__(*columns, console=err, redirect_stdout=False)  # stdout is for results

    def get_renderable(self) -> RenderableType:
        """What is shown."""
        bar = super().get_renderable()
        return Rows(bar, Text(self.meter.text, no_wrap=True, overflow="ellipsis")) if self.meter.text else bar


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: is no folder and cannot be made one ({error.strerror})") from error


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _say(message: str) -> None:
    """Print one line to stderr, whatever names of files are in it."""
    err.print("".join(c if c.isprintable() else repr(c)[1:-1] for c in message), markup=False)


def _fail(reason: object, code: int) -> int:
    _say(f"objectness: {' '.join(str(reason).splitlines())}")
    return code


def _is_out_of_memory(error: Exception) -> bool:
    names = {each.__name__ for each in type(error).__mro__}  # torch's own has no name here, where torch may not be
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _let_go_of_stdout() -> None:
    """Where stdout takes no more, keep Python from trying again, and complaining, when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_time(seconds: float) -> str:
    """Hours, minutes and seconds; days of training are hours too, in one column."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _show_default(value: object) -> str | None:
    """A default as one would type it; none where leaving the option out is not the same as typing something."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return None if value is None or value is False else str(value)


if __name__ == "__main__":
    main()
