"""Training: one loop that can be killed anywhere and goes on to bit-identical weights.

A run folder holds
    options.json, metrics.jsonl, curves.png, events.*   see `log`
    pictures/         the best proposals on a few photos, after each measurement of recall
    last/, best/      checkpoints; `last` with what is needed to go on, `best` by AR@100 where there is validation

Every step is a function of (weights, optimiser state, step): order, augmentation and sampling come from the seed and
the step's number (`training.loader`), so a checkpoint holds no state of any random generator.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import Config, TrainOptions
from ..data.records import ImageRecord
from ..errors import CheckpointError, ConfigError, TrainingError
from ..evaluation.measure import measure_network
from ..evaluation.report import RecallReport
from ..files import PREVIOUS
from ..network import RegionProposalNetwork
from ..predict import Proposer
from ..weights.checkpoint import (
    MODEL_FILE,
    TRAINING_FILE,
    find_checkpoint,
    load_state,
    read_safetensors,
    read_torch_file,
    save_checkpoint,
)
from ..weights.opening import load_start
from ..weights.source import Source, classify
from .loader import Examples, TrainingSet, iterate_steps, load_cache, move_examples
from .log import Progress, RunLog, check_unused
from .schedule import choose_precision, compute_learning_rate, make_optimizer, set_learning_rate, update_average

NUM_PICTURES = 4  # of each measurement
SECONDS_BETWEEN_LOOKS = 0.2
LOWER_RATE = "lower the learning rate; resuming goes on from the last checkpoint"


class Result(NamedTuple):
    """How a call of `train` ended."""

    step: int
    num_steps: int
    recall: RecallReport | None
    lost_patience: bool = False

    @property
    def is_complete(self) -> bool:
        """False if it was stopped and can go on."""
        return self.lost_patience or self.step >= self.num_steps


def train(
    config: Config,
    options: TrainOptions,
    records: Sequence[ImageRecord],
    run_dir: Path,
    *,
    validation: Sequence[ImageRecord] = (),
    sources: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    start: Source | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a network, alone or as one of several processes that torchrun started.

    Args:
        config: the network.
        options: the schedule.
        records: images and boxes.
        run_dir: the run folder.
        validation: what recall is measured on.
        sources: where records and validation come from, to be noted in the run folder; values that JSON can hold.
        device: where to compute.
        resume: go on from the run folder's last checkpoint, or start where there is none.
        start: `options.weights`, if the caller has classified them already, so that a file is read only once.
        on_progress: called in the first process with every line of the log: after every `log_every` steps, and with
            each measurement of recall, the first of which is made before the first step.
        on_step: called in the first process when the steps begin, and after every step, but at most five times a
            second.
        should_stop: asked after every step; when it says so a checkpoint is written and the call returns.

    Returns:
        The step reached, the last recall that this call measured, and whether `patience` ended the run.

    Raises:
        TrainingError: a loss that is not finite, or a run folder that holds another run.
        ConfigError, ImageError, AnnotationError, CheckpointError, DownloadError: as their names say.
    """
    if config.frozen_stages and options.weights is None:
        stages = config.frozen_stages
        raise ConfigError(f"frozen_stages = {stages} would freeze random weights; name weights to start from, or 0")
    if not resume:
        check_unused(run_dir)
    run = _Run(config, options, records, run_dir, validation, torch.device(device), resume, start)
    data = {**(sources or {}), "num_images": len(records)}
    description = {"config": config.to_dict(), "train": options.to_dict(), "data": data}
    log = RunLog(run_dir, description, run.step) if run.is_first else None
    for progress in run.advance(should_stop, on_step):
        if log is not None:
            log.write(progress)
            on_progress(progress)
    if log is not None:
        log.close()
    return Result(run.step, run.num_steps, run.recall, run.has_lost_patience)


class _Run:
    """The state of a run, and the loop over its steps."""

    def __init__(
        self,
        config: Config,
        options: TrainOptions,
        records: Sequence[ImageRecord],
        run_dir: Path,
        validation: Sequence[ImageRecord],
        device: torch.device,
        resume: bool,
        start: Source | None,
    ):
        self.config, self.options, self.run_dir, self.device = config, options, run_dir, device
        self.validation = validation[: options.validate_images or None]
        self.rank, self.num_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.is_first = self.rank == 0
        self.step, self.best_recall = 0, -math.inf
        self.measured_step = -1  # of the last measurement of recall
        self.num_misses = 0  # measurements in a row that were not the best
        self.recall: RecallReport | None = None

        torch.manual_seed(options.seed)
        last = find_last(run_dir) if resume else None
        self.network = start_network(config, None if last else start or options.weights).to(device).train()
        self.ema = copy.deepcopy(self.network).requires_grad_(False) if options.ema else None
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.network, options)
        if last is not None:
            self._restore(last)
        self.model: nn.Module = DistributedDataParallel(self.network) if self.num_ranks > 1 else self.network
        self.autocast = choose_precision(options.precision, device) == "bfloat16"

        cache = None
        if options.cache != "none":
            where = device if options.cache == "device" else torch.device("cpu")
            cache = load_cache(records, config.input, options.augment.scale[1], where)
        self.training_set = TrainingSet(
            records,
            config.input,
            options.augment,
            options.images_per_step,
            seed=options.seed,
            rank=self.rank,
            num_ranks=self.num_ranks,
            cache=cache,
        )
        self.num_steps = max(
            1, math.ceil(options.epochs * self.training_set.steps_per_epoch - 1e-6)
        )  # 2.2 x 100 is 220

    @property
    def has_lost_patience(self) -> bool:
        """Whether so many measurements in a row brought nothing that the run ends."""
        return 0 < self.options.patience <= self.num_misses

    def advance(self, should_stop: Callable[[], bool], on_step: Callable[[Progress], None]) -> Iterator[Progress]:
        """Train to the end, or until told to stop; a checkpoint is written at either. Yields what is to be logged."""
        if self.has_lost_patience:  # before it was stopped, or after the last step
            return
        options = self.options
        watch = _Watch(on_step if self.is_first else lambda progress: None)
        watch.show(Progress(self.step, self.num_steps))
        if self._is_due() and self.measured_step < self.step:
            yield from self._measure(Progress(self.step, self.num_steps), watch)
            self._draw()
        workers = 0 if options.cache == "device" else options.num_workers  # a worker cannot reach the device
        window = _Window()
        watch.start_step()
        for examples in iterate_steps(self.training_set, self.step, self.num_steps, workers):
            window.add(self._take_step(examples), examples)
            self.step += 1
            watch.count_step()
            if watch.is_time:
                watch.show(self._estimate(window.summarise(self), watch))
            stopping = self._agree(should_stop())
            save = stopping or self.step == self.num_steps or self.step % options.checkpoint_every == 0
            validate = self._is_due()
            if save or validate or self.step % options.log_every == 0:
                window.check(self)  # before saving: a loss that is not finite must not be
                progress = self._estimate(window.summarise(self), watch)
                if validate:
                    yield from self._measure(progress, watch)
                else:
                    yield progress
                window = _Window()  # its clock must not count the measurement
            ended = validate and self._agree(self.has_lost_patience)
            if save or ended:
                self._save("last")
            if validate:
                self._draw()
            watch.start_step()
            if stopping or ended:
                return

    def _is_due(self) -> bool:
        """Whether recall is to be measured at this step: first and last, and every `validate_every`."""
        every = self.options.validate_every
        due = self.step in (0, self.num_steps) or (every > 0 and self.step % every == 0)
        return due and len(self.validation) > 0

    def _estimate(self, progress: Progress, watch: _Watch) -> Progress:
        """Add the time that is left."""
        every = self.options.validate_every
        measurements = 1 + ((self.num_steps - 1) // every - self.step // every if every else 0)
        left = watch.estimate(self.num_steps - self.step, measurements if self.validation else 0)
        return progress._replace(seconds_left=left)

    def _take_step(self, examples: Examples) -> Tensor:
        """One step of the optimiser; returns (4,): what `LossSums` has, of all processes together."""
        set_learning_rate(self.optimizer, compute_learning_rate(self.step, self.num_steps, self.options))
        batch, targets = move_examples(examples, self.config.input, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.model(batch.images)
        sums = self.network.sum_losses(output, batch, targets, examples.seeds)
        totals = torch.stack([each.detach().float() for each in sums])
        if self.num_ranks > 1:
            dist.all_reduce(totals)
        # DDP averages gradients over processes: times their number, over the joint count, is the joint batch's mean.
        loss = (sums.objectness + sums.box) * self.num_ranks / totals[2].clamp(min=1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.options.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            update_average(self.ema, self.network, min(self.options.ema, (1 + self.step) / (10 + self.step)))
        return totals

    def _measure(self, progress: Progress, watch: _Watch) -> Iterator[Progress]:
        """Measure recall in the first process, and keep the weights if they are the best so far."""
        if not self.is_first:
            return
        started = time.perf_counter()
        try:
            self.recall = measure_network(self.ema or self.network, self.validation)
        except Exception:  # a photo that is gone: what was learnt is kept, and measured when the run goes on
            if self.step:
                self._save("last")
            raise
        finally:
            self.network.train()
        self.measured_step = self.step
        measured = self.recall.average_recall(100)
        if measured > self.best_recall:
            self.best_recall, self.num_misses = measured, 0
            self._save("best")
        elif not math.isnan(measured):  # there are boxes to be found
            self.num_misses += 1
        watch.measuring = time.perf_counter() - started
        yield progress._replace(recall=self.recall)

    def _draw(self) -> None:
        """Draw a few pictures; the checkpoint is written by now, should that fail."""
        if self.is_first:
            network, photos = self.ema or self.network, self.validation[:NUM_PICTURES]
            draw_pictures(network, photos, self.run_dir / "pictures", f"{self.step:06d}")
            self.network.train()

    def _save(self, name: str) -> None:
        if not self.is_first:
            return
        network = self.ema or self.network
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise TrainingError(f"step {self.step - 1}: the weights are not finite; {LOWER_RATE}")
        training = None
        if name == "last":
            training = {
                "step": self.step,
                "best_recall": self.best_recall,
                "measured_step": self.measured_step,
                "num_misses": self.num_misses,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
        save_checkpoint(self.run_dir / name, network.state_dict(), self.config, training)

    def _restore(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or of another training.
        """
        file = folder / TRAINING_FILE
        training = read_torch_file(file)
        if self.ema is not None:
            load_state(self.ema, read_safetensors(folder / MODEL_FILE), str(folder / MODEL_FILE))
        try:
            load_state(self.network, training["network"], str(file))
            self.optimizer.load_state_dict(training["optimizer"])
            self.step, self.best_recall = int(training["step"]), float(training["best_recall"])
            self.measured_step = int(training.get("measured_step", self.step))  # earlier versions say neither
            self.num_misses = int(training.get("num_misses", 0))
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
            raise CheckpointError(f"{file}: is not a state of this training ({reason}); start another run") from error

    def _agree(self, stop: bool) -> bool:
        """True in every process as soon as one wants to stop."""
        if self.num_ranks == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.device)
        dist.all_reduce(flag)
        return bool(flag > 0)


class _Window:
    """The steps since the last report; their losses are read from the device together."""

    def __init__(self) -> None:
        self.totals: list[Tensor] = []
        self.files: list[list[str]] = []
        self.started = time.perf_counter()

    def add(self, totals: Tensor, examples: Examples) -> None:
        self.totals.append(totals)
        self.files.append(examples.files)

    def check(self, run: _Run) -> None:
        """See that losses are finite.

        Raises:
            TrainingError: one is not; the message has the step, the parts and the images.
        """
        first_step = run.step - len(self.totals)
        for i, (objectness, box, _, _) in enumerate(torch.stack(self.totals).tolist()):  # waits for the device
            if not math.isfinite(objectness + box):
                raise TrainingError(
                    f"step {first_step + i}: the loss is not finite (sums: objectness {objectness:.3g}, box {box:.3g}) "
                    f"on {', '.join(self.files[i])}; look at the boxes of these images, or {LOWER_RATE}"
                )

    def summarise(self, run: _Run) -> Progress:
        """Means over the window."""
        images = len(self.totals) * run.options.images_per_step
        rows = torch.stack(self.totals).tolist()
        objectness, box, normaliser, num_positive = (sum(column) for column in zip(*rows, strict=True))
        return Progress(
            step=run.step,
            num_steps=run.num_steps,
            objectness_loss=objectness / max(normaliser, 1),
            box_loss=box / max(normaliser, 1),
            positives_per_image=num_positive / images,
            images_per_second=images / (time.perf_counter() - self.started),
            learning_rate=compute_learning_rate(run.step - 1, run.num_steps, run.options),
        )


class _Watch:
    """How long steps and measurements take, and when to show the run to whoever watches it.

    The first step of a leg counts only until there is a second: it waits for workers, and for what is compiled.
    """

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._shown = -math.inf
        self._started = time.perf_counter()
        self._num_steps, self._first, self._others = 0, 0.0, 0.0  # seconds of the first step, and of all others
        self.measuring = 0.0  # seconds of the last measurement

    @property
    def is_time(self) -> bool:
        """Whether the run was not shown for a while."""
        return time.perf_counter() - self._shown >= SECONDS_BETWEEN_LOOKS

    def show(self, progress: Progress) -> None:
        """Show the run."""
        self._shown = time.perf_counter()
        self._show(progress)

    def start_step(self) -> None:
        """Begin to time a step."""
        self._started = time.perf_counter()

    def count_step(self) -> None:
        """Count a step that is done."""
        seconds = time.perf_counter() - self._started
        if self._num_steps == 0:
            self._first = seconds
        else:
            self._others += seconds
        self._num_steps += 1

    def estimate(self, num_steps: int, num_measurements: int) -> float:
        """Seconds that so many steps and measurements will take."""
        step = self._others / (self._num_steps - 1) if self._num_steps > 1 else self._first
        return num_steps * step + num_measurements * self.measuring


def find_last(run_dir: Path) -> Path | None:
    """The checkpoint that a run can go on from; None before the first was written."""
    last = run_dir / "last"
    return find_checkpoint(last) if last.exists() or last.with_name(last.name + PREVIOUS).exists() else None


def draw_pictures(network: RegionProposalNetwork, records: Sequence[ImageRecord], folder: Path, prefix: str) -> None:
    """Write the best proposals on a few photos as `folder/prefix-stem.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    proposer = Proposer(network, next(network.parameters()).device)
    for record in records:
        proposer.propose(record.path).save(folder / f"{prefix}-{record.path.stem}.jpg")


def start_network(config: Config, weights: str | Source | None) -> RegionProposalNetwork:
    """A network to train: at random, on a pretrained backbone, or from another run's checkpoint.

    Args:
        config: the network.
        weights: "imagenet", a backbone's .pth or .safetensors file or timm's name for one on the hub
            ("timm/resnet50.a1_in1k"); or a network of the same configuration: all that `opening.open_network` takes.
    """
    network = RegionProposalNetwork(config)
    if weights is not None:
        load_start(network, weights if isinstance(weights, Source) else classify(weights))
    return network
