"""Small networks on a small, fixed budget: what the experiments beside this file compare.

Networks of one experiment differ in what it asks about alone: they get the same backbone weights, photos, order, mirror
images and learning rates. Each is kept in a run folder under --runs, so that a run which is there with the same options
is not trained again, and one that was stopped goes on. Without --weights the backbone starts at random too, and learns
next to nothing on such a budget. Weights out of ../shared are for measuring alone (non-commercial licence).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

import objectness
from objectness.config import Config, InputOptions, TrainOptions
from objectness.data.records import ImageRecord
from objectness.evaluation.report import RecallReport
from objectness.network import RegionProposalNetwork
from objectness.training.log import Progress
from objectness.training.loop import train

ROOT = Path(__file__).resolve().parents[1]
COCO = ROOT.parent / "shared" / "data" / "coco"
TOPS = (10, 100, 1000)


@dataclass(frozen=True)
class Budget:
    """What every network of an experiment gets alike; each field is an option of the command line."""

    weights: str = field(default="", metadata={"help": "a backbone's .pth or .safetensors file"})
    backbone: str = field(default="resnet18", metadata={"help": "resnet18, resnet50, ..."})
    channels: int = field(default=96, metadata={"help": "of the pyramid"})
    short: int = field(default=224, metadata={"help": "shorter side of the canvas, px"})
    long: int = field(default=288, metadata={"help": "longer side of the canvas, px"})
    images: int = field(default=2000, metadata={"help": "to train on, repeats counted"})
    images_per_step: int = field(default=8, metadata={"help": "batch size"})
    val_images: int = field(default=200, metadata={"help": "to measure on, 0 for all"})
    data: Path = field(default=COCO / "train.json", metadata={"help": "to train on"})
    val: Path = field(default=COCO / "val.json", metadata={"help": "to measure on"})
    runs: Path = field(default=ROOT / "runs" / "short", metadata={"help": "where the trained networks are kept"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    precision: str = field(default="auto", metadata={"help": "float32, bfloat16 or auto"})
    seed: int = field(default=0, metadata={"help": "of weights, order and sampling"})

    @property
    def network(self) -> dict[str, Any]:
        """The fields of `Config` that a budget decides."""
        return {
            "backbone": self.backbone,
            "frozen_stages": 2 if self.weights else 0,
            "pyramid_channels": self.channels,
            "input": InputOptions(self.short, self.long),
        }

    def make_options(self, num_records: int) -> TrainOptions:
        """The schedule on a data set of so many images."""
        num_steps = math.ceil(self.images / self.images_per_step)
        return TrainOptions(
            epochs=(num_steps - 0.5) / math.ceil(num_records / self.images_per_step),  # rounded up to whole steps
            images_per_step=self.images_per_step,
            schedule="cosine",
            precision=self.precision,  # type: ignore[arg-type]  # checked when made
            seed=self.seed,
            weights=self.weights or None,
            checkpoint_every=100,
        )


def parse_budget(parser: argparse.ArgumentParser) -> tuple[Budget, argparse.Namespace]:
    """Add a budget's options to those of an experiment, and parse the command line."""
    for each in fields(Budget):
        name, help_text = each.name.replace("_", "-"), each.metadata["help"]
        shown = "" if isinstance(each.default, Path) or not each.default else f" ({each.default})"
        parser.add_argument(f"--{name}", type=type(each.default), default=each.default, help=help_text + shown)
    args = parser.parse_args()
    return Budget(**{each.name: getattr(args, each.name) for each in fields(Budget)}), args


def read_validation(budget: Budget) -> Sequence[ImageRecord]:
    """The images to measure on."""
    return objectness.read_dataset(budget.val).records[: budget.val_images or None]


def train_briefly(name: str, config: Config, budget: Budget) -> RegionProposalNetwork:
    """The network of this configuration after its budget, trained now or found in the run folder `name`."""
    records, folder = objectness.read_dataset(budget.data).records, budget.runs / name
    device = torch.device(budget.device)
    options = budget.make_options(len(records))
    train(config, options, records, folder, device=device, resume=True, on_progress=show_progress)
    return objectness.load_network(folder).to(device)


def show_progress(progress: Progress) -> None:
    """A line for whoever waits."""
    losses = f"objectness {progress.objectness_loss:.3f}, boxes {progress.box_loss:.3f}"
    print(f"step {progress.step}/{progress.num_steps}: {losses}", file=sys.stderr)


def format_recall(report: RecallReport) -> str:
    """The cells of a Markdown row, one for each of `TOPS`."""
    return " | ".join(f"{report.average_recall(top):.4f}" for top in TOPS)
