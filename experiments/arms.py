"""The harness of every experiment beside this file: arms on one small budget that differ in one thing.

A question is a file with a few arms, each a `Config` and options of training. All get the same photos in the same
order, the same mirror images and crops, the same number of images and the same learning-rate curve. Each is kept in a
run folder, so that an arm that is there is not trained again and one that was stopped is resumed. The run writes the
table into docs/findings.md, between the question's two marks.

    python experiments/convert_nanodet.py package/models --network runs/nanodet
    python experiments/optimizer.py --start runs/nanodet [--images 1200] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import objectness
from objectness.config import Config, InputOptions, TrainOptions
from objectness.data.records import ImageRecord
from objectness.evaluation.measure import measure_network
from objectness.evaluation.report import RecallReport
from objectness.network import RegionProposalNetwork
from objectness.training.log import Progress
from objectness.training.loop import train
from objectness.weights.checkpoint import load_backbone, load_network, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TOPS = (10, 100, 1000)
MEASURED_SIZE = (384, 512)  # px; what photos are resized to when an arm is measured
RECIPE = TrainOptions.for_network(Config.cspnet(), num_workers=1, log_every=25, checkpoint_every=50)


@dataclass(frozen=True)
class Arm:
    """One network of an experiment.

    Attributes:
        config: what it is made of; its input size is the budget's.
        options: changes to `RECIPE`.
        data: what it trains on; a file that is named twice counts twice.
        start: what the weights start from: everything of --start that fits ("all"), its backbone only ("trunk"), or
            nothing ("random"); or a backbone's file.
    """

    config: Config = field(default_factory=Config.cspnet)
    options: dict[str, Any] = field(default_factory=dict)
    data: tuple[Path, ...] = (DATA / "coco" / "train.json",)
    start: str = "all"


def run_question(name: str, question: str, arms: dict[str, Arm]) -> None:
    """Train and measure every arm, and write the table.

    Args:
        name: the file's, for marks and run folders.
        question: one sentence.
        arms: by what the table calls them.
    """
    args = make_parser(question).parse_args()
    rows = []
    validation = objectness.read_dataset(args.val).records[: args.val_images or None]
    for title, arm in arms.items():
        reports = [
            measure(train_arm(f"{name}-{slug(title)}-{seed}", arm, args, seed), validation) for seed in args.seeds
        ]
        rows.append(f"| {title} | {format_cells(reports)} |")
        print(rows[-1], flush=True)
    setting = (
        f"{args.images} images at {args.short} x {args.long} px, {len(args.seeds)} seed(s); recall of the first "
        f"{len(validation)} photos of `coco/val.json` at {MEASURED_SIZE[0]} x {MEASURED_SIZE[1]}"
    )
    command = f"python experiments/{name}.py --start START --images {args.images}"
    write_table(args.findings, name, question, f"{setting}. `{command}`", rows)


def make_parser(question: str) -> argparse.ArgumentParser:
    """The budget, which is every arm's alike, as options of the command line."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--start", type=Path, required=True, help="a checkpoint of experiments/convert_nanodet.py")
    parser.add_argument("--images", type=int, default=1200, help="to train on, repeats counted")
    parser.add_argument("--short", type=int, default=224, help="shorter side of the canvas, px")
    parser.add_argument("--long", type=int, default=288, help="longer side of the canvas, px")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--val", type=Path, default=DATA / "coco" / "val.json")
    parser.add_argument("--val-images", type=int, default=100, help="to measure on, 0 for all")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "arms", help="where trained networks are kept")
    parser.add_argument("--findings", type=Path, default=ROOT / "docs" / "findings.md", help="where the table goes")
    return parser


def slug(title: str) -> str:
    """A title as part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def train_arm(name: str, arm: Arm, args: argparse.Namespace, seed: int) -> RegionProposalNetwork:
    """An arm's network after its budget, trained now or found in its run folder."""
    config = replace(arm.config, input=replace(arm.config.input, short_side=args.short, long_side=args.long))
    if arm.start == "random":
        config = replace(config, frozen_stages=0)
    records = [record for path in arm.data for record in objectness.read_dataset(path).records]
    options = replace(RECIPE, **arm.options, seed=seed)
    steps = math.ceil(args.images / options.images_per_step)
    folder = args.runs / f"{name}-{args.images}-{args.short}"
    start = args.runs / f"{folder.name}-start"
    if not start.exists():
        save_checkpoint(start, start_arm(config, arm.start, args.start, seed).state_dict(), config)
    options = replace(
        options,
        weights=str(start),
        epochs=(steps - 0.5) / math.ceil(len(records) / options.images_per_step),  # rounded up to whole steps
    )
    train(config, options, records, folder, resume=True, on_progress=show_progress)
    return load_network(folder)


def start_arm(config: Config, start: str, checkpoint: Path, seed: int) -> RegionProposalNetwork:
    """A network with the weights that an arm starts from; what does not fit stays random."""
    torch.manual_seed(seed)
    network = RegionProposalNetwork(config)
    if start == "random":
        return network
    if start not in ("all", "trunk"):
        load_backbone(network.backbone, config.backbone, start)
        return network
    own = network.state_dict()
    for key, value in load_network(checkpoint).state_dict().items():
        fits = key in own and own[key].shape == value.shape
        if fits and (start == "all" or key.startswith("backbone.")):
            own[key] = value
    network.load_state_dict(own)
    return network


def show_progress(progress: Progress) -> None:
    """A line for whoever waits."""
    losses = f"objectness {progress.objectness_loss:.3f}, boxes {progress.box_loss:.3f}"
    print(f"step {progress.step}/{progress.num_steps}: {losses}", file=sys.stderr)


def measure(network: RegionProposalNetwork, validation: Sequence[ImageRecord]) -> RecallReport:
    """Recall at the size that all arms are measured at."""
    short, long = MEASURED_SIZE
    options: InputOptions = replace(network.config.input, short_side=short, long_side=long)
    network.config = replace(network.config, input=options)
    return measure_network(network, validation)


def format_cells(reports: Sequence[RecallReport]) -> str:
    """The cells of a row: means over the seeds in per cent, with the half of their range where there are several."""
    columns = [[100 * report.average_recall(top) for report in reports] for top in TOPS]
    columns += [
        [100 * report.average_recall(TOPS[-1], size) for report in reports] for size in ("small", "medium", "large")
    ]
    columns += [[100 * float(report.recall_by_iou(TOPS[-1])[iou]) for report in reports] for iou in (5, 8)]  # 0.75, 0.9
    return " | ".join(f"{np.mean(c):.1f}" + (f" ± {np.ptp(c) / 2:.1f}" if len(c) > 1 else "") for c in columns)


HEAD = "| arm | AR@10 | AR@100 | AR@1000 | small | medium | large | at IoU 0.75 | 0.9 |\n|---|" + "--:|" * 8


def write_table(findings: Path, name: str, question: str, setting: str, rows: Sequence[str]) -> None:
    """Put a question's table between its marks, or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    body = "\n".join([begin, f"### {question}", "", setting, "", HEAD, *rows, end])
    text = findings.read_text(encoding="utf-8") if findings.exists() else "# Findings\n"
    if begin in text:
        text = text[: text.index(begin)] + body + text[text.index(end) + len(end) :]
    else:
        text = text.rstrip("\n") + "\n\n" + body + "\n"
    findings.write_text(text, encoding="utf-8")
