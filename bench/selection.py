"""From the head's maps to proposals on the CPU, ours beside torchvision's: everything after the last convolution.

    python bench/selection.py [--runs 15] [--quick]

One image of 800 x 1216 px, 242,991 anchors, one thread, 1,000 regions a level and 1,000 proposals. Both get the same
maps: ours logits in pairs, as its head says them; torchvision's the difference, as its own does. Scores are either
random, or high around twenty places as those of a photo are. torchvision's time is that of its `forward` with a head
that returns the maps. Ours is taken with the kernel and without. Runs take turns, and medians are compared. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from turns import take_turns

from objectness.config import AnchorOptions, Config, SelectionOptions
from objectness.geometry.anchors import make_anchors
from objectness.geometry.boxes import compute_iou
from objectness.geometry.selection import select_proposals, select_proposals_plain
from objectness.kernels.cpu.library import describe
from objectness.structures import Output, Selection

if TYPE_CHECKING:
    from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN

Propose = Callable[[], Tensor]  # boxes (n, 4), best first
SIZE = (800, 1216)
QUICK_SIZE = (256, 384)
SCORES = ("random", "clustered")
KERNEL, PLAIN = "objectness", "objectness, plain torch"
THEIRS = "torchvision"
SAME_IOU = 0.99  # boxes that overlap so much count as the same
CONFIG = Config(
    anchors=AnchorOptions(rounded=True, strides_from_shape=True),
    selection=SelectionOptions(per_level=1000, keep=1000),
)


class Row(NamedTuple):
    """One line of the table."""

    scores: str
    system: str
    ms: float
    ratio: float  # torchvision's time over this
    shared: float  # of torchvision's proposals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="256 x 384 px: to see that it works")
    args = parser.parse_args()
    size = QUICK_SIZE if args.quick else SIZE
    print(f"{size[0]} x {size[1]} px, one thread, torch {torch.__version__}; {describe()}\n")
    print(format_rows(measure(args.runs, size)))


def measure(num_runs: int = 15, size: tuple[int, int] = SIZE) -> list[Row]:
    """Every system on both kinds of scores, medians of `num_runs` that take turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row for scores in SCORES for row in measure_scores(scores, num_runs, size)]
    finally:
        torch.set_num_threads(threads)


def format_rows(rows: Sequence[Row]) -> str:
    lines = ["| scores | system | ms | times as fast | shared proposals |", "|---|---|--:|--:|--:|"]
    lines += [f"| {row.scores} | {row.system} | {row.ms:.2f} | {row.ratio:.1f} | {row.shared:.1%} |" for row in rows]
    return "\n".join(lines)


@torch.inference_mode()
def measure_scores(scores: str, num_runs: int, size: tuple[int, int]) -> list[Row]:
    output = make_output(scores, size)
    systems = {
        KERNEL: wrap_ours(select_proposals, output, size),
        PLAIN: wrap_ours(select_proposals_plain, output, size),
        THEIRS: wrap_theirs(output, size),
    }
    boxes = {name: propose() for name, propose in systems.items()}
    seconds = take_turns(systems, num_runs, warm_up=False)
    return [
        Row(scores, name, 1000 * seconds[name], seconds[THEIRS] / seconds[name], compare(boxes[name], boxes[THEIRS]))
        for name in systems
    ]


def make_output(scores: str, size: tuple[int, int]) -> Output:
    """Maps as a network would say them; random numbers of the spread that a trained one's have."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(20, 3, generator=generator).tolist()
    logits, deltas = [], []
    for stride in CONFIG.anchors.strides:
        height, width = -(-size[0] // stride), -(-size[1] // stride)
        pairs = torch.randn(1, 6, height, width, generator=generator)
        if scores == "clustered":
            y, x = torch.arange(height)[:, None] / height, torch.arange(width)[None, :] / width
            hills = [torch.exp(-((y - a) ** 2 + (x - b) ** 2) / (0.02 + 0.1 * spread)) for a, b, spread in places]
            pairs /= 10
            pairs[:, 0::2] += 8 * torch.stack(hills).amax(dim=0) - 4  # object; the others say no object
        logits.append(pairs)
        deltas.append(torch.randn(1, 12, height, width, generator=generator) / 5)
    return Output((), tuple(logits), tuple(deltas))


def wrap_ours(select: Callable[..., list[Selection]], output: Output, size: tuple[int, int]) -> Propose:
    map_sizes = [(level.shape[2], level.shape[3]) for level in output.logits]
    sizes = torch.tensor([size]).float()

    def propose() -> Tensor:
        grid = make_anchors(CONFIG.anchors, map_sizes, size)
        return select(output, grid, sizes, CONFIG.selection)[0].boxes

    return propose


class Spoken(nn.Module):
    """A head that has its answer ready."""

    def __init__(self, output: Output):
        super().__init__()
        self.answer = [level[:, 0::2] - level[:, 1::2] for level in output.logits], list(output.deltas)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The maps, whatever the features."""
        return self.answer


def wrap_theirs(output: Output, size: tuple[int, int]) -> Propose:
    from peer import build_rpn
    from torchvision.models.detection.image_list import ImageList

    rpn: TorchvisionRPN = build_rpn(CONFIG).eval()
    images = ImageList(torch.zeros(1, 3, *size), [size])
    features = {str(i): level[:, :1] for i, level in enumerate(output.logits)}  # only their shapes are looked at
    rpn.head = Spoken(output)

    def propose() -> Tensor:
        boxes: Tensor = rpn(images, features)[0][0]
        return boxes

    return propose


def compare(boxes: Tensor, theirs: Tensor) -> float:
    """The share of their boxes that are among ours."""
    return float((compute_iou(theirs, boxes).amax(dim=1) > SAME_IOU).float().mean())


if __name__ == "__main__":
    main()
