"""Time from a photo's tensor to the maps on the CPU: torchvision, and ours on every engine that is installed.

    python bench/engines.py [--backbone resnet50] [--runs 5] [--size 800 1216] [--cpu-time]

A random tensor of 1 x 3 x 800 x 1216 px and random weights, the same for all, which changes no time. Networks are
converted beforehand (into the user's cache). Runs take turns, and medians are compared. Where other programs use the
machine too, --cpu-time counts the seconds of processor that one thread takes instead. Prints a Markdown table;
"difference" is the largest on any map as a share of that map's largest value, against ours as it was trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from turns import take_turns

from objectness.config import Config
from objectness.network import RegionProposalNetwork
from objectness.runtimes.agreement import copy_eager, measure_agreement
from objectness.runtimes.choose import make_engine
from objectness.runtimes.engine import find_installed
from objectness.weights.checkpoint import SHIPPED, load_network

PEER = "torchvision"


class Row(NamedTuple):
    """One way of computing the maps."""

    name: str
    seconds: float
    difference: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help=f"or {SHIPPED}, the network that ships")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--cpu-time", action="store_true", help="seconds of processor of one thread")
    args = parser.parse_args()
    if args.cpu_time:
        torch.set_num_threads(1)
    rows = measure(args.backbone, tuple(args.size), args.runs, cpu_time=args.cpu_time)
    height, width = args.size
    print(
        f"{args.backbone}, 1 x 3 x {height} x {width}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    unit = "s of processor" if args.cpu_time else "s"
    print(f"| engine | {unit}, median of {args.runs} | times as fast | difference |\n|---|--:|--:|--:|")
    for name, seconds, difference in rows:
        print(f"| {name} | {seconds:.3f} | {rows[0].seconds / seconds:.2f} | {difference:.0e} |")


def measure(
    backbone: str = "resnet50", size: tuple[int, int] = (800, 1216), num_runs: int = 5, *, cpu_time: bool = False
) -> list[Row]:
    """One row for torchvision if it can build such a network, then ours as it was trained, then every engine."""
    torch.manual_seed(0)
    network = load_network() if backbone == SHIPPED else RegionProposalNetwork(Config(backbone)).eval()
    images = torch.randn(1, 3, *size)
    eager = copy_eager(network)
    expected = eager(images)
    systems: dict[str, Callable[[Tensor], object]] = {"ours, as trained": eager}
    differences = {"ours, as trained": 0.0}
    for name in find_installed():
        systems[name] = engine = make_engine(network, name)  # type: ignore[arg-type]
        differences[name] = measure_agreement(engine(images), expected).worst
    if backbone.startswith("res") and find_spec("torchvision") is not None:
        theirs, differences[PEER] = build_peer(network, images)
        systems = {PEER: theirs, **systems}
    with torch.inference_mode():
        seconds = take_turns(
            {name: partial(compute, images) for name, compute in systems.items()},
            num_runs,
            clock=time.process_time if cpu_time else time.perf_counter,
        )
    return [Row(name, seconds[name], differences[name]) for name in systems]


def build_peer(network: RegionProposalNetwork, images: Tensor) -> tuple[Callable[[Tensor], object], float]:
    """torchvision's maps from the same weights, and how far they are from ours."""
    import peer

    theirs = peer.build_peer(network.config).eval()
    peer.copy_weights(network, theirs)
    difference = peer.compare_maps(network, theirs, images)
    return lambda images: theirs.rpn.head(list(theirs.backbone(images).values())), difference


if __name__ == "__main__":
    main()
