"""Train ours and torchvision's region proposal network alike, and compare what they find.

    python bench/peer_training.py --weights resnet18.pth [--images 2000] [--backbone resnet50] [--out peer-training.md]

Both start from the very same weights and see the same images in the same order, mirrored alike, in the same batches;
learning rate, momentum, weight decay, clipping and precision are the same. Matching, sampling, losses and selection are
each one's own, and so are the anchors: ours as our users have them, torchvision's as theirs have. Then recall is
measured on the same images through the same resizing: 1,000 proposals, 1,000 a level before suppression.

Minutes are those of training alone. The pair of logits that is ours moves twice as fast as torchvision's single one at
the same learning rate, and torchvision selects proposals in training too: both belong to the systems compared. So does
what bfloat16 does to torchvision, which makes its anchors in it, to the nearest of 256 steps: compare in float32.

A Markdown table goes to the standard output, a line as soon as it is known, and with the command to --out; progress to
standard error. No network is kept. Without --weights both start at random. Weights out of ../shared are for measuring
alone (non-commercial licence): say so beside the figures.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peer import NAME, Peer, build_peer, compare_maps, copy_weights, measure_peer
from torch import nn

import objectness
from objectness.config import Config, InputOptions, SelectionOptions, TrainOptions
from objectness.data.records import ImageRecord
from objectness.evaluation.report import RecallReport
from objectness.training.loader import TrainingSet, iterate_steps, move_examples
from objectness.training.log import Progress
from objectness.training.loop import start_network, train
from objectness.training.schedule import choose_precision, compute_learning_rate

COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco"
TOPS = (10, 100, 300, 1000)
LOG_EVERY = 20


def main() -> None:
    args = parse_arguments()
    records = objectness.read_dataset(args.data).records
    validation = objectness.read_dataset(args.val).records[: args.val_images or None]
    config, options = make_config(args), make_options(args, len(records))
    device = torch.device(args.device)
    peer = start_peer(config, options, device)

    report = Report(args.out)
    report.say(describe(args))
    report.say(f"\n| system | images seen | {' | '.join(f'AR@{top}' for top in TOPS)} | minutes |")
    report.say("|---|--:" + "|--:" * len(TOPS) + "|--:|")
    num_images = count_steps(args) * args.images_per_step
    ours, minutes = run_ours(config, options, records, validation, device)
    report.say(format_row("objectness", num_images, ours, minutes))
    minutes = train_peer(peer, config, options, records, count_steps(args), device)
    theirs = measure_peer(peer, validation, config.input)
    report.say(format_row(NAME, num_images, theirs, minutes))
    differences = (ours.average_recall(top) - theirs.average_recall(top) for top in TOPS)
    report.say(f"| difference | | {' | '.join(f'{each:+.4f}' for each in differences)} | |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a backbone's .pth or .safetensors file")
    parser.add_argument("--backbone", default="resnet18", help="resnet18, resnet50, ...")
    parser.add_argument("--channels", type=int, default=96, help="of the pyramid")
    parser.add_argument("--short", type=int, default=224, help="side of the canvas, px")
    parser.add_argument("--long", type=int, default=288)
    parser.add_argument("--images", type=int, default=2000, help="to train on, repeats counted")
    parser.add_argument("--images-per-step", type=int, default=8)
    parser.add_argument("--data", type=Path, default=COCO / "train.json")
    parser.add_argument("--val", type=Path, default=COCO / "val.json")
    parser.add_argument("--val-images", type=int, default=0, help="0 takes all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "auto"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a Markdown file, written anew")
    return parser.parse_args()


def make_config(args: argparse.Namespace) -> Config:
    return Config(
        backbone=args.backbone,
        frozen_stages=2 if args.weights else 0,
        pyramid_channels=args.channels,
        input=InputOptions(args.short, args.long),
        selection=SelectionOptions(per_level=1000, keep=1000),
    )


def make_options(args: argparse.Namespace, num_records: int) -> TrainOptions:
    num_steps, steps_per_epoch = count_steps(args), math.ceil(num_records / args.images_per_step)
    return TrainOptions(
        epochs=(num_steps - 0.5) / steps_per_epoch,  # which training rounds up to whole steps
        images_per_step=args.images_per_step,
        schedule="cosine",
        precision=args.precision,
        seed=args.seed,
        weights=args.weights,
        num_workers=args.workers,
        log_every=LOG_EVERY,
        checkpoint_every=num_steps,
    )


def count_steps(args: argparse.Namespace) -> int:
    return -(-int(args.images) // int(args.images_per_step))


def start_peer(config: Config, options: TrainOptions, device: torch.device) -> Peer:
    """torchvision's network with the weights that `train` starts ours with."""
    torch.manual_seed(options.seed)
    network = start_network(config, options.weights)
    peer = build_peer(config)
    copy_weights(network, peer)
    difference = compare_maps(network.eval(), peer.eval(), torch.randn(1, 3, 128, 128))
    assert difference < 1e-3, f"the networks differ by {difference:.1e} before the first step"
    return peer.to(device)


def run_ours(
    config: Config,
    options: TrainOptions,
    records: Sequence[ImageRecord],
    validation: Sequence[ImageRecord],
    device: torch.device,
) -> tuple[RecallReport, float]:
    """Train and measure our network; returns its recall and the minutes of training."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(config, options, records, Path(folder), device=device, on_progress=show_progress)
        minutes = (time.perf_counter() - start) / 60
        network = objectness.load_network(folder).to(device)
    return objectness.measure_network(network, validation), minutes


def train_peer(
    peer: Peer,
    config: Config,
    options: TrainOptions,
    records: Sequence[ImageRecord],
    num_steps: int,
    device: torch.device,
) -> float:
    """The loop of `objectness.train` around torchvision's network; returns the minutes it took."""
    start = time.perf_counter()
    torch.manual_seed(options.seed)  # torchvision draws its anchors from the global generator
    training_set = TrainingSet(records, config.input, options.augment, options.images_per_step, seed=options.seed)
    parameters = [parameter for parameter in peer.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, momentum=options.momentum, weight_decay=options.weight_decay)
    autocast = choose_precision(options.precision, device) == "bfloat16"
    for step, examples in enumerate(iterate_steps(training_set, 0, num_steps, options.num_workers)):
        optimizer.param_groups[0]["lr"] = compute_learning_rate(step, num_steps, options)
        batch, targets = move_examples(examples, config.input, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            losses = peer(batch, targets)[1]
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.step()
        if (step + 1) % options.log_every == 0:
            show_loss(NAME, step + 1, num_steps, *map(float, losses.values()))
    return (time.perf_counter() - start) / 60


def show_progress(progress: Progress) -> None:
    show_loss("objectness", progress.step, progress.num_steps, progress.objectness_loss, progress.box_loss)


def show_loss(name: str, step: int, num_steps: int, objectness_loss: float, box_loss: float) -> None:
    print(f"{name} {step}/{num_steps}: objectness {objectness_loss:.3f}, boxes {box_loss:.3f}", file=sys.stderr)


class Report:
    """Lines for people at once, and for a file."""

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            path.write_text("")

    def say(self, line: str) -> None:
        """Print a line, and add it to the file."""
        print(line, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{line}\n")


def describe(args: argparse.Namespace) -> str:
    """The command, absolute paths cut to their names, and what else the figures depend on."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
    start = f"weights in {Path(args.weights).name}" if args.weights else "random weights"
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"`python {shlex.join(words)}`\n\nBoth from the same {start}; torch {torch.__version__}, {where}."


def format_row(name: str, num_images: int, report: RecallReport, minutes: float) -> str:
    recalls = " | ".join(f"{report.average_recall(top):.4f}" for top in TOPS)
    return f"| {name} | {num_images} | {recalls} | {minutes:.1f} |"


if __name__ == "__main__":
    main()
