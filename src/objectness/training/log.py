"""What a training run leaves behind beside its checkpoints.

options.json     what was asked for
metrics.jsonl    a line every `log_every` steps and at each measurement of recall, never two of one step
curves.png       losses and recall against steps, where matplotlib is installed
events.*         the same for TensorBoard, where that is installed
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Config, TrainOptions
from ..errors import ConfigError, TrainingError
from ..evaluation.report import RecallReport
from ..files import replace_file, write_text
from ..packages import is_installed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OPTIONS_FILE, METRICS_FILE, CURVES_FILE = "options.json", "metrics.jsonl", "curves.png"


class Progress(NamedTuple):
    """What a watcher of the run is told; before the first step of a leg only the step is known, and the recall."""

    step: int
    num_steps: int
    objectness_loss: float = math.nan  # mean since the last line of the log, as the others
    box_loss: float = math.nan
    positives_per_image: float = math.nan
    images_per_second: float = math.nan
    learning_rate: float = math.nan
    recall: RecallReport | None = None
    seconds_left: float = math.nan  # of steps and measurements, as long as those of this leg took

    def to_line(self) -> dict[str, Any]:
        """What is logged, as JSON has it: all that is known but the time left."""
        values = {name: value for name, value in self._asdict().items() if name not in ("recall", "seconds_left")}
        line = {name: value for name, value in values.items() if not math.isnan(value)}
        if self.recall is not None:
            line["average_recall"] = self.recall.to_dict()["average_recall"]
        return line


class RunLog:
    """The log of a run, opened at the step where training starts or goes on.

    Args:
        run_dir: the run folder; made if it is not there.
        description: what was asked for; it must be the same when a run goes on, to come to the same end.
        step: lines of later steps, written by a leg that was killed before its next checkpoint, are dropped.

    Raises:
        TrainingError: the folder holds another run, or one whose options cannot be read.
    """

    def __init__(self, run_dir: Path, description: dict[str, Any], step: int):
        self.run_dir = run_dir
        self.path = run_dir / METRICS_FILE
        options = run_dir / OPTIONS_FILE
        if step > 0 and _differs(options, description):
            raise TrainingError(f"{run_dir}: was trained with other options (see {options}); resume with the same ones")
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(options, json.dumps(description, indent=2) + "\n")
        self.lines = _read_lines(self.path, step) if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self.board = _open_board(run_dir, step)

    def write(self, progress: Progress) -> None:
        """Add a line; draw the curves anew after each measurement of recall."""
        line = progress.to_line()
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            _write_board(self.board, line)
        if progress.recall is not None and is_installed("matplotlib"):
            draw_curves(self.lines, self.run_dir / CURVES_FILE)

    def close(self) -> None:
        """Let go of the TensorBoard file."""
        if self.board is not None:
            self.board.close()


def check_unused(run_dir: Path) -> None:
    """Refuse to start a run where another one would be lost.

    Raises:
        TrainingError: there are checkpoints in the folder.
    """
    if any((run_dir / name).exists() for name in ("last", "last.previous", "best")):
        raise TrainingError(f"{run_dir}: holds a run already; go on with --resume, or choose another folder")


def draw_curves(lines: list[dict[str, Any]], path: Path) -> None:
    """Losses and recall against steps, as one picture.

    Args:
        lines: of metrics.jsonl.
        path: of the picture.
    """
    from matplotlib.figure import Figure  # not pyplot, which would keep state and look for a screen

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, recalls = figure.subplots(1, 2)
    for name in ("objectness_loss", "box_loss"):
        told = [(line["step"], line[name]) for line in lines if name in line]
        losses.plot(*zip(*told, strict=True) if told else ((), ()), label=name.replace("_", " "))
    losses.set(xlabel="step", ylabel="loss", ylim=(0, None), title="training loss")
    measured = [line for line in lines if "average_recall" in line]
    for top in measured[-1]["average_recall"]["all"] if measured else ():
        values = [line["average_recall"]["all"][top] for line in measured]
        recalls.plot([line["step"] for line in measured], values, marker="o", label=f"AR@{top}")
    recalls.set(xlabel="step", ylim=(0, None), title="recall on the validation set")
    for axes in (losses, recalls):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with replace_file(path, sync=False) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])


def _differs(options: Path, description: dict[str, Any]) -> bool:
    """Whether a run was asked for something else."""
    if not options.exists():
        return False
    try:
        stored = _fill(json.loads(options.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise TrainingError(
            f"{options}: is damaged ({reason}); a run without it cannot go on, start another"
        ) from error
    return stored != _fill(description)


def _fill(description: dict[str, Any]) -> dict[str, Any]:
    """A description with what earlier versions have no field for, which they did as is the default, in JSON's types."""
    config, train = Config.from_dict(description["config"]), TrainOptions.from_dict(description["train"])
    filled = {**description, "config": config.to_dict(), "train": train.to_dict()}
    return dict(json.loads(json.dumps(filled)))


def _read_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to a step; one that was torn by a kill is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and line["step"] <= last_step:
            lines.append(line)
    return lines


def _open_board(run_dir: Path, step: int) -> SummaryWriter | None:
    if not is_installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir), purge_step=step)


def _write_board(board: SummaryWriter, line: dict[str, Any]) -> None:
    for name in ("objectness_loss", "box_loss", "positives_per_image", "images_per_second", "learning_rate"):
        if name in line:
            board.add_scalar(f"train/{name}", line[name], line["step"])
    for top, value in line.get("average_recall", {"all": {}})["all"].items():
        if value is not None:  # nothing to find
            board.add_scalar(f"recall/AR@{top}", value, line["step"])
