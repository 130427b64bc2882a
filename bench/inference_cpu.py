"""Time and memory from one photo to its proposals on the CPU, ours beside torchvision's.

    python bench/inference_cpu.py [--backbones resnet50 resnet101] [--engines torch ncnn] [--runs 5] [--quick]

Both get the pixels of the same photo, 427 x 640, and give boxes in its own frame: resizing, normalising and padding to
800 x 1216, the network, and the choice of 1,000 proposals out of 1,000 a level. Both have the same weights, and ours
has its input and anchors set to torchvision's, so that the proposals can be compared. Runs of torchvision and of every
engine take turns, and medians are compared. The weights are random, but the head's last layers are scaled until scores
and boxes spread as a trained network's do, since selection would have little to do otherwise. "openvino-int8" is
calibrated on examples/photos, which does for its speed and not for its proposals.

Peak memory is that of two more processes, one for each, that build the network and propose twice (Linux only). Prints
a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor
from turns import take_turns

from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.geometry.boxes import compute_iou
from objectness.images.network_input import make_batch
from objectness.model.head import Head
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer, to_tensor
from objectness.runtimes.choose import make_engine
from objectness.runtimes.engine import EngineName, Precision
from objectness.structures import flatten_maps

if TYPE_CHECKING:
    from peer import Peer

Propose = Callable[[], Tensor]  # boxes (n, 4), best first
PHOTOS = sorted((Path(__file__).resolve().parents[1] / "examples" / "photos").glob("*.jpg"))
PHOTO = next(path for path in PHOTOS if path.stem == "rocket")
OURS, THEIRS = "objectness", "torchvision"
BACKBONES = ("resnet50", "resnet101")
SAME_IOU = 0.99  # boxes that overlap so much count as the same
SMALL = InputOptions(256, 384)  # to see that it works


class Row(NamedTuple):
    """One line of the table."""

    backbone: str
    system: str
    seconds: float
    ratio: float  # torchvision's time over this
    shared: float  # of its boxes, those that are among torchvision's


class Memory(NamedTuple):
    """MiB of a process that proposes."""

    backbone: str
    system: str
    imports: float  # before the network is made
    peak: float


def main() -> None:
    args = parse_arguments()
    if args.memory_of:
        print(json.dumps(measure_memory_here(args.memory_of, make_config(args.backbones[0], args.quick))))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"| backbone | system | s, median of {args.runs} | times as fast | same proposals |\n|---|---|--:|--:|--:|")
    for row in measure(args.backbones, args.engines, args.runs, args.quick):
        print(f"| {row.backbone} | {row.system} | {row.seconds:.3f} | {row.ratio:.2f} | {row.shared:.1%} |")
    print("\n| backbone | system | peak memory, MiB | above imports, MiB |\n|---|---|--:|--:|")
    for each in measure_memory(args.backbones, args.quick):
        print(f"| {each.backbone} | {each.system} | {each.peak:.0f} | {each.peak - each.imports:.0f} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--engines", nargs="+", default=["torch"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="256 x 384 px: to see that it works")
    parser.add_argument("--memory-of", choices=(OURS, THEIRS), help=argparse.SUPPRESS)  # in a child process
    return parser.parse_args()


def measure(
    backbones: Sequence[str] = BACKBONES, engines: Sequence[str] = ("torch",), num_runs: int = 5, quick: bool = False
) -> list[Row]:
    """torchvision and every engine, for each backbone."""
    return [row for backbone in backbones for row in _measure_backbone(backbone, engines, num_runs, quick)]


def measure_memory(backbones: Sequence[str] = BACKBONES, quick: bool = False) -> list[Memory]:
    """Both systems for each backbone, each in a process of its own."""
    return [_measure_in_child(backbone, system, quick) for backbone in backbones for system in (OURS, THEIRS)]


def _measure_backbone(backbone: str, engines: Sequence[str], num_runs: int, quick: bool) -> list[Row]:
    from peer import build_peer, copy_weights  # here, since the child that measures ours must not load torchvision

    torch.manual_seed(0)
    config, pixels = make_config(backbone, quick), to_tensor(PHOTO)
    network = RegionProposalNetwork(config).eval()
    spread_outputs(network, pixels)
    peer = build_peer(config)
    copy_weights(network, peer)
    systems = {f"{OURS}, {engine}": wrap_ours(network, engine, pixels) for engine in engines}
    systems[THEIRS] = wrap_theirs(peer, config, pixels)
    boxes = {name: propose() for name, propose in systems.items()}
    seconds = take_turns(systems, num_runs)
    return [
        Row(backbone, name, seconds[name], seconds[THEIRS] / seconds[name], compare(boxes[name], boxes[THEIRS]))
        for name in systems
    ]


def make_config(backbone: str, quick: bool) -> Config:
    """Input, anchors and counts as torchvision has them."""
    options = SMALL if quick else InputOptions()
    return Config(
        backbone,
        input=InputOptions(options.short_side, options.long_side, resize="bilinear", size_rounding="down"),
        anchors=AnchorOptions(rounded=True, strides_from_shape=True),
        selection=SelectionOptions(per_level=1000, keep=1000),
    )


def wrap_ours(network: RegionProposalNetwork, engine: str, pixels: Tensor) -> Propose:
    name, _, precision = engine.partition("-")
    made = make_engine(
        network,
        cast("EngineName", name),
        precision=cast("Precision", precision or "float32"),
        calibration=PHOTOS if precision == "int8" else (),
    )
    proposer = Proposer(network, engine=made)
    return lambda: proposer.propose(pixels).boxes


def wrap_theirs(peer: Peer, config: Config, pixels: Tensor) -> Propose:
    """torchvision's transform, backbone and RPN, and its way back to the photo's own frame."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    options = config.input
    transform = GeneralizedRCNNTransform(
        options.short_side, options.long_side, list(options.mean), list(options.std)
    ).eval()
    peer.eval()
    size = (pixels.shape[1], pixels.shape[2])

    @torch.inference_mode()
    def propose() -> Tensor:
        images, _ = transform([pixels / 255])
        boxes, _ = peer.rpn(images, peer.backbone(images.tensors))
        results = transform.postprocess([{"boxes": boxes[0]}], images.image_sizes, [size])
        found: Tensor = results[0]["boxes"]
        return found

    return propose


@torch.inference_mode()
def spread_outputs(network: RegionProposalNetwork, pixels: Tensor) -> None:
    """Scale the last layers to logits of standard deviation 1 and deltas of 0.2."""
    output = network(make_batch([pixels], network.config.input).images)
    assert isinstance(network.head, Head)
    network.head.cls.weight /= flatten_maps(output.logits, 2).std()
    network.head.reg.weight *= 0.2 / flatten_maps(output.deltas, 4).std()


def compare(ours: Tensor, theirs: Tensor) -> float:
    """The share of our boxes that are among theirs."""
    return float((compute_iou(ours, theirs).amax(dim=1) > SAME_IOU).float().mean())


def _measure_in_child(backbone: str, system: str, quick: bool) -> Memory:
    words = [sys.executable, __file__, "--backbones", backbone, "--memory-of", system, *(["--quick"] if quick else [])]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    return Memory(backbone, system, *found)


def measure_memory_here(system: str, config: Config) -> tuple[float, float]:
    """Of this process, which nothing else has made larger: before the network is made, and at its peak."""
    pixels = to_tensor(PHOTO)
    if system == THEIRS:
        from peer import build_peer

        imports = read_peak_mib()
        propose = wrap_theirs(build_peer(config), config, pixels)
    else:
        imports = read_peak_mib()
        proposer = Proposer(RegionProposalNetwork(config))
        propose = lambda: proposer.propose(pixels).boxes  # noqa: E731
    propose()
    propose()
    return imports, read_peak_mib()


def read_peak_mib() -> float:
    """The most memory this process has held; getrusage's ru_maxrss would count its parent's before it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
