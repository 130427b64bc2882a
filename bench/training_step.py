"""Images per second of training beside those of its bare arithmetic: what does all the rest cost?

    python bench/training_step.py [--backbone resnet50] [--cache none device] [--device cuda --workers 12]

The loop is `objectness.train` as it is: decoding in workers, augmentation, matching, sampling, losses, clipping, log.
The bare step is forward, backward and optimiser of the same network, in the same precision, on one prepared batch of
the same shape. They take turns in one run, and medians are compared; the loop shall reach 0.9 of the bare step.

The bare step runs while the loop waits in its progress callback. Meanwhile workers decode ahead, so the loop's first
window after each wait is not counted; it is the warm-up at the start as well.

Prints a Markdown table, a row for each --cache. Photos come from --data, by default COCO's beside this checkout, else
the four of examples/, over and over; the weights are random and all but stand still.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import objectness
from objectness.config import Cache, Config, InputOptions, TrainOptions
from objectness.data.records import ImageRecord
from objectness.network import RegionProposalNetwork
from objectness.training.loader import TrainingSet, move_examples
from objectness.training.log import Progress
from objectness.training.loop import train
from objectness.training.schedule import choose_precision

ROOT = Path(__file__).resolve().parents[1]
COCO = ROOT.parent / "shared" / "data" / "coco" / "train.json"
DATA = COCO if COCO.exists() else ROOT / "examples" / "boxes.json"
LEARNING_RATE = 1e-6  # so that random weights cannot diverge


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    config = Config(args.backbone, pyramid_channels=args.channels, input=InputOptions(args.short, args.long))
    num_steps = 2 * args.rounds * args.steps
    records = repeat(objectness.read_dataset(args.data).records, num_steps * args.images_per_step)
    print(f"{args.backbone}, {args.images_per_step} images of {args.short} x {args.long} px a step, {device}")
    print("\n| decoded images kept | training, images/s | bare step, images/s | ratio |\n|---|--:|--:|--:|")
    for cache in args.cache:
        options = make_options(args, cache, num_steps, len(records))
        loop, bare = measure(config, options, records, device)
        print(f"| {cache} | {loop:.1f} | {bare:.1f} | {loop / bare:.3f} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--channels", type=int, default=96, help="of the pyramid")
    parser.add_argument("--short", type=int, default=224, help="side of the canvas, px")
    parser.add_argument("--long", type=int, default=288)
    parser.add_argument("--images-per-step", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="in a window; more than workers hold ready (2 each)")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each that count")
    parser.add_argument("--cache", nargs="+", default=["none", "device"], choices=("none", "memory", "device"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=("float32", "bfloat16", "auto"))
    return parser.parse_args()


def repeat(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """So many records: those that there are, over and over."""
    return (list(records) * math.ceil(count / len(records)))[:count]


def make_options(args: argparse.Namespace, cache: Cache, num_steps: int, num_records: int) -> TrainOptions:
    return TrainOptions(
        epochs=(num_steps - 0.5) / math.ceil(num_records / args.images_per_step),  # rounded up to whole steps
        images_per_step=args.images_per_step,
        learning_rate=LEARNING_RATE,
        precision=args.precision,
        num_workers=args.workers,
        cache=cache,
        log_every=args.steps,
        checkpoint_every=num_steps,
    )


def measure(
    config: Config, options: TrainOptions, records: Sequence[ImageRecord], device: torch.device
) -> tuple[float, float]:
    """Images per second of the loop and of the bare step, medians."""
    take_bare_step = make_bare_step(config, options, records, device)
    take_bare_step()
    loop, bare = [], []

    def take_turns(progress: Progress) -> None:
        if progress.step // options.log_every % 2 == 0:
            loop.append(progress.images_per_second)
            bare.append(measure_rate(take_bare_step, options, device))

    with tempfile.TemporaryDirectory() as folder:
        train(config, options, records, Path(folder), device=device, on_progress=take_turns)
    return statistics.median(loop), statistics.median(bare)


def make_bare_step(
    config: Config, options: TrainOptions, records: Sequence[ImageRecord], device: torch.device
) -> Callable[[], None]:
    """Forward, backward and optimiser of a network like the one that is trained, on the batch of its first step."""
    training_set = TrainingSet(records, config.input, options.augment, options.images_per_step, seed=options.seed)
    batch, _ = move_examples(training_set[0], config.input, device)
    network = RegionProposalNetwork(config).to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=options.momentum, weight_decay=options.weight_decay
    )
    autocast = choose_precision(options.precision, device) == "bfloat16"

    def take_bare_step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = network(batch.images)
        loss = torch.stack([level.float().mean() for level in (*output.logits, *output.deltas)]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return take_bare_step


def measure_rate(take_step: Callable[[], None], options: TrainOptions, device: torch.device) -> float:
    """Images per second over one window of steps."""
    start = time.perf_counter()
    for _ in range(options.log_every):
        take_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return options.log_every * options.images_per_step / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
