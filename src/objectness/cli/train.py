"""`objectness train`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Group, Parameter

from ..config import Config, TrainOptions
from ..errors import CheckpointError, ConfigError
from .app import app
from .changes import apply_changes, list_changes, list_options, make_changes
from .records import IgnoreClass, read_records
from .terminal import Meter, advise, say, show_time

if TYPE_CHECKING:
    from ..data.records import ImageRecord
    from ..training.log import Progress as TrainProgress
    from ..weights.source import Source

STEPS_TO_ESTIMATE = 10  # after so many it is said how long the run will take

WEIGHTS_DECIDE = "By default what the weights decide; without --weights those of the network that ships."
PRESET = "By default a short schedule where a network goes on learning, otherwise a long one, which suits the network."

Network = Parameter(name="*", group=Group.create_ordered("What is trained", help=WEIGHTS_DECIDE))
Schedule = Parameter(name="*", group=Group.create_ordered("How it is trained", help=PRESET))
if TYPE_CHECKING:
    ConfigChanges: TypeAlias = Any
    TrainChanges: TypeAlias = Any
else:
    ConfigChanges, TrainChanges = make_changes(Config), make_changes(TrainOptions)


@app.command(sort_key=2)
def train(
    *data: Path,
    out: Path | None = None,
    val: Path | None = None,
    val_share: float | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    ignore_class: IgnoreClass = (),
    ignore_difficult: bool = False,
    resume: Path | None = None,
    stop_after: float | None = None,
    device: str = "auto",
    network: Annotated[ConfigChanges | None, Network] = None,
    schedule: Annotated[TrainChanges | None, Schedule] = None,
) -> int:
    """Train a network on anyone's boxes: COCO, Pascal VOC or YOLO, one data set or several.

    It starts from the network that ships, from --weights, or, if --backbone is named without --weights, at random.

    The run folder gets options.json, metrics.jsonl, TensorBoard events and curves where these are installed, pictures,
    and the checkpoints last/ and best/. Ctrl-C writes a checkpoint; `objectness train --resume FOLDER` goes on to the
    same weights as if nothing had stopped. On several devices: `torchrun --nproc-per-node 2 -m objectness train ...`

    Args:
        data: Annotation files or folders; one that is named twice counts twice.
        out: The run folder.
        val: What recall is measured on, before, while and after training.
        val_share: Without --val, the share of images to keep apart for that; by default a tenth, at most 200. 0 trains
            on all.
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
    named = {"options of the network": list_changes(network), "options of the schedule": list_changes(schedule)}
    given: dict[str, object] = {"data": data, "--out": out, "--val": val, "--val-share": val_share is not None}
    given |= {"--images": images, "--skip-bad": skip_bad}
    given |= {"--ignore-class": ignore_class, "--ignore-difficult": ignore_difficult, **named}
    if resume is not None:
        superfluous = [name for name, value in given.items() if value]
        if superfluous:
            raise ConfigError(f"train --resume: takes everything from the run; leave out {', '.join(superfluous)}")
        plan = _read_run(resume)
    elif not data or out is None:
        raise ConfigError("train: name annotation files or folders and --out FOLDER, or --resume FOLDER")
    elif val is not None and val_share is not None:
        raise ConfigError("train: give either --val or --val-share")
    else:
        sources = {
            "train": [str(path) for path in data],
            "val": str(val) if val else None,
            "images": str(images) if images else None,
            "skip_bad": skip_bad,
            **({"ignore_classes": list(ignore_class)} if ignore_class else {}),
            **({"ignore_difficult": True} if ignore_difficult else {}),
        }
        plan = _make_plan(out, sources, *named.values())
    from ..training.loop import train as run_training

    go_on = f"objectness train --resume {shlex.quote(str(plan.run_dir))}"
    with _processes(device) as (chosen, is_first):
        records, validation = _read_images(plan, val_share, is_first)
        options = plan.options or _decide_options(plan, len(records))
        with (
            advise(f"go on from the last checkpoint with: {go_on}"),  # after the second Ctrl-C
            Meter("train", hidden=not is_first) as meter,
            _stop_signal(stop_after, meter) as should_stop,
            _explain_misfit(plan),
        ):
            view = _View(plan, options, len(records), len(validation), meter)
            result = run_training(
                plan.config,
                options,
                records,
                plan.run_dir,
                validation=validation,
                sources=plan.sources,
                device=chosen,
                resume=resume is not None,
                start=plan.start,
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
        say(f"{plan.run_dir}: step {result.step} of {result.num_steps}, {state}")
    return 0


@dataclass
class _Plan:
    """What is asked for: on the command line, or by a run folder to go on with.

    Attributes:
        run_dir: the run folder.
        sources: where images and boxes come from: "train", "val", perhaps "held_out", how many of the images to train
            on are kept apart, and arguments of `read_datasets`.
        config: the network.
        start: the weights to start from; None at random, and in a run to go on with.
        network: what was named of the network.
        schedule: what was named of the schedule.
        options: the schedule of a run to go on with; None until the number of images is known.
    """

    run_dir: Path
    sources: dict[str, Any]
    config: Config
    start: Source | None = None
    network: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    options: TrainOptions | None = None


def _make_plan(out: Path, sources: dict[str, Any], network: dict[str, Any], schedule: dict[str, Any]) -> _Plan:
    """What training starts from, and the network that this makes.

    That is the network that ships, unless weights are named; and nothing, if only a backbone is.
    """
    TrainOptions.from_dict({"validate_every": 1, **schedule})  # a number that cannot be is said before data is read
    from ..weights.checkpoint import SHIPPED
    from ..weights.opening import decide_config
    from ..weights.source import classify

    weights = schedule.get("weights") or (None if "backbone" in network else SHIPPED)
    start = None if weights is None else classify(weights)
    config = Config.from_dict(apply_changes(decide_config(start).to_dict(), network))
    return _Plan(out, sources, config, start, network, {**schedule, "weights": weights})


def _read_images(
    plan: _Plan, val_share: float | None, is_first: bool
) -> tuple[Sequence[ImageRecord], Sequence[ImageRecord]]:
    """What to train on and what to measure on; how many are kept apart is noted in the plan's sources."""
    from ..data.split import count_held_out, split_records

    sources = plan.sources
    reading = {name: value for name, value in sources.items() if name not in ("train", "val", "held_out")}
    read = read_records([*sources["train"], *filter(None, [sources["val"]])], reading, is_first)
    records = [record for each in read[: len(sources["train"])] for record in each]
    if sources["val"]:
        return records, read[-1]
    if plan.options is None:  # not a run to go on with, which knows
        num_images = len({record.path for record in records})
        num_held_out = count_held_out(num_images, val_share)
        if num_held_out:
            sources["held_out"] = num_held_out
    seed = plan.options.seed if plan.options else plan.schedule.get("seed", TrainOptions().seed)
    return split_records(records, sources.get("held_out", 0), seed)


def _decide_options(plan: _Plan, num_images: int) -> TrainOptions:
    """The schedule that suits what training starts from, changed where it was named."""
    if plan.start is not None and plan.start.is_network:
        named = {name: value for name, value in plan.schedule.items() if not isinstance(value, dict)}
        suited = TrainOptions.fine_tuning(plan.config, num_images, **named)
    else:
        suited = TrainOptions.for_network(plan.config)
    return TrainOptions.from_dict(apply_changes(suited.to_dict(), plan.schedule))


@contextmanager
def _explain_misfit(plan: _Plan) -> Iterator[None]:
    """Say which options may be why a network cannot start from its weights."""
    try:
        yield
    except CheckpointError as error:
        if not plan.network or plan.start is None or not plan.start.is_network:
            raise
        options = ", ".join(list_options(plan.network))
        advice = f"leave out of {options} what changes them, or name --backbone without --weights to start at random"
        raise CheckpointError(f"{error}; {advice}") from error


def _read_run(folder: Path) -> _Plan:
    """What a run folder was asked for.

    Raises:
        ConfigError: it is no run folder, or not one of this command.
    """
    from ..training.log import OPTIONS_FILE

    path = folder / OPTIONS_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        data = stored["data"]
        paths = data.get("train")
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ConfigError("it was not started by this command; go on with what started it")
        sources = {name: data[name] for name in ("train", "val", "images", "skip_bad")}
        sources |= {name: data[name] for name in ("held_out", "ignore_classes", "ignore_difficult") if name in data}
        config, options = Config.from_dict(stored["config"]), TrainOptions.from_dict(stored["train"])
        return _Plan(folder, sources, config, options=options)
    except OSError as error:
        raise ConfigError(f"{folder}: is no run to go on with ({path}: {error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
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
        plan: what is asked for.
        options: the schedule.
        num_images: to train on.
        num_measured: to measure recall on.
        meter: the bar.
    """

    def __init__(self, plan: _Plan, options: TrainOptions, num_images: int, num_measured: int, meter: Meter):
        self.plan, self.options, self.meter = plan, options, meter
        self.num_images, self.num_measured = num_images, min(num_measured, options.validate_images or num_measured)
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
        if progress.step == 0:
            say(f"{self.plan.run_dir}: {self._summarise(progress.num_steps)}")
        elif progress.step < progress.num_steps:
            say(f"{self.plan.run_dir}: goes on from step {progress.step} of {progress.num_steps}")
        measures = progress.step == 0 and self.num_measured > 0
        self.meter.advance(progress.step, f"measuring recall on {self.num_measured} photos first" if measures else "")

    def _summarise(self, num_steps: int) -> str:
        """What is trained on what, from what."""
        config, held_out = self.plan.config, self.plan.sources.get("held_out", 0)
        apart = f" ({held_out} kept apart to measure recall on; --val-share 0 trains on all)" if held_out else ""
        weights = self.options.weights or "random weights (--weights imagenet takes ImageNet's)"
        size = f"{config.input.short_side} x {config.input.long_side} px"
        return (
            f"{config.backbone} at {size} from {weights}; {self.num_images} images{apart}, {num_steps} steps of "
            f"{self.options.images_per_step}"
        )

    def show_recall(self, progress: TrainProgress) -> None:
        """A line for every measured recall."""
        if progress.recall is not None:
            recall = "  ".join(f"AR@{top} {progress.recall.average_recall(top):.3f}" for top in progress.recall.tops)
            say(f"step {progress.step}: {recall}")
