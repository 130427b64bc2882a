"""`objectness train`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..config import Config, TrainOptions
from ..errors import ConfigError
from .app import app
from .records import IgnoreClass, read_records
from .terminal import Meter, advise, say, show_time

if TYPE_CHECKING:
    from ..training.log import Progress as TrainProgress
    from ..weights.source import Source

STEPS_TO_ESTIMATE = 10  # after so many it is said how long the run will take

Network = Parameter(name="*", group=Group.create_ordered("What is trained"))
Schedule = Parameter(name="*", group=Group.create_ordered("How it is trained"))


@app.command(sort_key=2)
def train(
    *data: Path,
    out: Path | None = None,
    val: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    ignore_class: IgnoreClass = (),
    ignore_difficult: bool = False,
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
        ignore_class: Boxes of this class, by name or id, are neither objects nor background, as crowds; may be
            repeated.
        ignore_difficult: Nor are the objects that Pascal VOC calls difficult.
        resume: A run folder to go on with; everything else is taken from it.
        stop_after: Minutes after which this leg ends with a checkpoint.
        device: cpu, cuda, ... or auto.
    """
    if stop_after is not None and not stop_after >= 0:
        raise ConfigError(f"--stop-after {stop_after:g}: must be minutes, at least 0")
    if resume is not None:
        given: dict[str, object] = {
            "data": data,
            "--out": out,
            "--val": val,
            "--images": images,
            "--skip-bad": skip_bad,
        }
        given |= {"--ignore-class": ignore_class, "--ignore-difficult": ignore_difficult}
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
            **({"ignore_classes": list(ignore_class)} if ignore_class else {}),
            **({"ignore_difficult": True} if ignore_difficult else {}),
        }
    run_dir = resume or out
    assert run_dir is not None
    from ..training.loop import train as run_training

    options = options or TrainOptions()
    start = None if options.weights is None or resume is not None else _classify(options.weights)
    if config is None:
        config = _default_config(start)
    go_on = f"objectness train --resume {shlex.quote(str(run_dir))}"
    with _processes(device) as (chosen, is_first):
        paths = [*sources["train"], *filter(None, [sources["val"]])]
        reading = {name: value for name, value in sources.items() if name not in ("train", "val")}
        read = read_records(paths, reading, is_first)
        records = [record for each in read[: len(sources["train"])] for record in each]
        validation = read[-1] if sources["val"] else ()
        with (
            advise(f"go on from the last checkpoint with: {go_on}"),  # after the second Ctrl-C
            Meter("train", hidden=not is_first) as meter,
            _stop_signal(stop_after, meter) as should_stop,
        ):
            view = _View(run_dir, options, len(validation[: options.validate_images or None]), meter)
            result = run_training(
                config,
                options,
                records,
                run_dir,
                validation=validation,
                sources=sources,
                device=chosen,
                resume=resume is not None,
                start=start,
                on_progress=view.show_recall,
                on_step=view.show_step,
                should_stop=should_stop,
            )
    if is_first and result.recall is not None:
        print(result.recall.table())
    if is_first:
        state = "trained" if result.is_complete else f"stopped; go on with: {go_on}"
        if result.lost_patience:
            state = f"ended, since AR@100 was not higher in {options.patience} measurements"
        say(f"{run_dir}: step {result.step} of {result.num_steps}, {state}")
    return 0


def _classify(weights: str) -> Source:
    from ..weights.source import classify

    return classify(weights)


def _default_config(start: Source | None) -> Config:
    """What the weights that training starts from decide: all, if they are a network's."""
    if start is None:
        return Config()
    from ..weights.opening import decide_config

    return decide_config(start)


def _read_run(folder: Path) -> tuple[Config, TrainOptions, dict[str, Any]]:
    """What a run folder was asked for.

    Raises:
        ConfigError: it is no run folder, or not one of this command.
    """
    from ..training.log import OPTIONS_FILE

    path = folder / OPTIONS_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        data = stored["data"]
        if not isinstance(data.get("train"), list):
            raise ConfigError("it was not started by this command; go on with what started it")
        sources = {name: data[name] for name in ("train", "val", "images", "skip_bad")}
        sources |= {name: data[name] for name in ("ignore_classes", "ignore_difficult") if name in data}
        return Config.from_dict(stored["config"]), TrainOptions.from_dict(stored["train"]), sources
    except OSError as error:
        raise ConfigError(f"{folder}: is no run to go on with ({path}: {error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{folder}: cannot be gone on with ({path}: {reason})") from error


@contextmanager
def _processes(device: str) -> Iterator[tuple[str, bool]]:
    """Join the other processes if torchrun started this one; yields its device and whether it is the first."""
    from ..device import choose_device

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
def _stop_signal(stop_after: float | None, meter: Meter) -> Iterator[Callable[[], bool]]:
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


class _View:
    """What a person sees of a run: the bar, and lines for where it goes on, how long it takes and what it finds.

    Args:
        run_dir: the run folder.
        options: the schedule.
        num_measured: images that recall is measured on.
        meter: the bar.
    """

    def __init__(self, run_dir: Path, options: TrainOptions, num_measured: int, meter: Meter):
        self.run_dir, self.options, self.num_measured, self.meter = run_dir, options, num_measured, meter
        self.first_step: int | None = None  # of this leg
        self.is_estimated = False

    def show_step(self, progress: TrainProgress) -> None:
        """Move the bar; say once where the run goes on, and after a few steps how long it will take."""
        self.meter.total = progress.num_steps
        if self.first_step is None:
            self._show_start(progress)
            return
        self.meter.advance(
            progress.step,
            f"objectness {progress.objectness_loss:.3f}  box {progress.box_loss:.3f}  "
            f"{progress.positives_per_image:.1f} positives/image  {progress.images_per_second:.1f} images/s",
            progress.seconds_left,
        )
        if not self.is_estimated and progress.step - self.first_step >= STEPS_TO_ESTIMATE:
            self.is_estimated = True
            left = f"about {show_time(progress.seconds_left)} left"
            say(f"step {progress.step} of {progress.num_steps}: {left}, at {progress.images_per_second:.1f} images/s")

    def _show_start(self, progress: TrainProgress) -> None:
        self.first_step = progress.step
        if 0 < progress.step < progress.num_steps:
            say(f"{self.run_dir}: goes on from step {progress.step} of {progress.num_steps}")
        measures = progress.step == 0 and self.num_measured > 0
        self.meter.advance(progress.step, f"measuring recall on {self.num_measured} photos first" if measures else "")

    def show_recall(self, progress: TrainProgress) -> None:
        """A line for every measured recall."""
        if progress.recall is not None:
            recall = "  ".join(f"AR@{top} {progress.recall.average_recall(top):.3f}" for top in progress.recall.tops)
            say(f"step {progress.step}: {recall}")
