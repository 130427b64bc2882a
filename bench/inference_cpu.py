"""Time and memory from one photo to its proposals on the CPU, ours beside torchvision's.

    python bench/inference_cpu.py [--backbone resnet101] [--runs 5] [--quick]

Both get the same photo of 427 x 640 px, resized, normalised and padded to 800 x 1216 beforehand, have the same weights,
and choose 1,000 proposals out of 1,000 a level; ours has its anchors set to torchvision's, so that the proposals can be
compared. Runs take turns, and medians are compared. The weights are random, but the head's last layers are scaled until
scores and boxes spread as a trained network's do, since selection would have little to do otherwise.

Peak memory is that of two more processes, one for each, that build the network and propose twice; beside it stands what
is above the same process with its imports alone (Linux only). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from objectness.batch import fit_size, make_batch, resize_image
from objectness.boxes import compute_iou
from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer, to_tensor
from objectness.structures import Batch, flatten_maps

if TYPE_CHECKING:
    from peer import Peer

Propose = Callable[[Batch], Tensor]  # boxes (n, 4), best first
PHOTO = Path(__file__).resolve().parents[1] / "examples" / "photos" / "rocket.jpg"
OURS, THEIRS = "objectness", "torchvision"
SAME_IOU = 0.99  # boxes that overlap so much count as the same


class Memory(NamedTuple):
    """MiB."""

    imports: float
    peak: float


def main() -> None:
    args = parse_arguments()
    config, batch = make_config(args), make_input(args)
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of, config, batch)))
        return
    memory = {name: measure_in_child(name) for name in (OURS, THEIRS)}
    height, width = batch.images.shape[-2:]
    print(f"{args.backbone}, 1 x 3 x {height} x {width}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    torch.manual_seed(0)
    proposers = build_both(config, batch)
    shared = compare(*(propose(batch) for propose in proposers.values()))
    seconds = measure_seconds(proposers, batch, args.runs)
    print(f"\n| system | s, median of {args.runs} | peak memory, MiB | above imports, MiB |\n|---|--:|--:|--:|")
    for name, (imports, peak) in memory.items():
        print(f"| {name} | {seconds[name]:.3f} | {peak:.0f} | {peak - imports:.0f} |")
    ratio = seconds[THEIRS] / seconds[OURS]
    print(f"\n{OURS} is {ratio:.2f} times as fast; {shared:.1%} of its proposals are {THEIRS}'s too.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="256 x 384 px: to see that it works")
    parser.add_argument("--memory-of", choices=(OURS, THEIRS), help=argparse.SUPPRESS)  # in a child process
    return parser.parse_args()


def make_config(args: argparse.Namespace) -> Config:
    return Config(
        args.backbone,
        anchors=AnchorOptions(rounded=True, strides_from_shape=True),
        selection=SelectionOptions(per_level=1000, keep=1000),
    )


def make_input(args: argparse.Namespace) -> Batch:
    options = InputOptions(256, 384) if args.quick else InputOptions()
    image = to_tensor(PHOTO)
    size = fit_size((image.shape[1], image.shape[2]), options)
    return make_batch([resize_image(image, size)], options)


def build_both(config: Config, batch: Batch) -> dict[str, Propose]:
    """Ours, and torchvision's with the same weights."""
    from peer import build_peer, copy_weights  # here, since the child that measures ours must not load torchvision

    network = RegionProposalNetwork(config)
    spread_outputs(network, batch)
    peer = build_peer(config)
    copy_weights(network, peer)
    return {OURS: wrap_ours(network), THEIRS: wrap_theirs(peer)}


def wrap_ours(network: RegionProposalNetwork) -> Propose:
    network = Proposer(network).network  # as people's images meet it
    return torch.inference_mode()(lambda batch: network.propose(batch)[0].boxes)


def wrap_theirs(peer: Peer) -> Propose:
    peer.eval()
    return torch.inference_mode()(lambda batch: peer(batch)[0][0])


@torch.inference_mode()
def spread_outputs(network: RegionProposalNetwork, batch: Batch) -> None:
    """Scale the last layers to logits of standard deviation 1 and deltas of 0.2."""
    output = network(batch.images)
    network.head.cls.weight /= flatten_maps(output.logits, 2).std()
    network.head.reg.weight *= 0.2 / flatten_maps(output.deltas, 4).std()


def compare(ours: Tensor, theirs: Tensor) -> float:
    """The share of our boxes that are among theirs."""
    return float((compute_iou(ours, theirs).amax(dim=1) > SAME_IOU).float().mean())


def measure_seconds(proposers: dict[str, Propose], batch: Batch, num_runs: int) -> dict[str, float]:
    """The median of each, the runs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in proposers}
    for _ in range(num_runs):
        for name, propose in proposers.items():
            start = time.perf_counter()
            propose(batch)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def measure_in_child(name: str) -> Memory:
    command = [sys.executable, *sys.argv, "--memory-of", name]
    return Memory(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def measure_memory(name: str, config: Config, batch: Batch) -> Memory:
    """Of this process, which nothing else has made larger."""
    if name == THEIRS:
        from peer import build_peer

        imports = read_peak_mib()
        propose = wrap_theirs(build_peer(config))
    else:
        imports = read_peak_mib()
        propose = wrap_ours(RegionProposalNetwork(config))
    propose(batch)
    propose(batch)
    return Memory(imports, read_peak_mib())


def read_peak_mib() -> float:
    """The most memory this process has held; getrusage's ru_maxrss would count its parent's before it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
