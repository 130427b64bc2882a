"""What a training run leaves behind beside its checkpoints: `options.json` and `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainingError

if TYPE_CHECKING:
    from .train import Progress

OPTIONS_FILE, METRICS_FILE = "options.json", "metrics.jsonl"


class RunLog:
    """The log of a run, opened at the step where training starts or goes on.

    Args:
        run_dir: the run folder; made if it is not there.
        description: what was asked for.
        step: lines of later steps, written by a leg that was killed before its next checkpoint, are dropped.

    Raises:
        TrainingError: the folder holds another run, or a run that would be overwritten.
    """

    def __init__(self, run_dir: Path, description: dict[str, Any], step: int):
        self.path = run_dir / METRICS_FILE
        run_dir.mkdir(parents=True, exist_ok=True)
        options = run_dir / OPTIONS_FILE
        text = json.dumps(description, indent=2) + "\n"
        if step > 0 and options.exists() and options.read_text() != text:
            raise TrainingError(f"{run_dir}: was trained with other options (see {options}); resume with the same ones")
        if step == 0 and self.path.exists() and self.path.stat().st_size > 0 and (run_dir / "last").exists():
            raise TrainingError(f"{run_dir}: holds a run already; go on with --resume, or choose another folder")
        options.write_text(text)
        kept = [line for line in self._read_lines() if json.loads(line)["step"] <= step] if step else []
        self.path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, progress: Progress) -> None:
        """Add a line."""
        values = progress._asdict()
        if progress.recall is not None:
            values["recall"] = progress.recall.to_dict()
        line = {name: value for name, value in values.items() if value is not None}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _read_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return [line for line in self.path.read_text().splitlines() if line.endswith("}")]  # a torn line has no end
