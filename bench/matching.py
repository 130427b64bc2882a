"""Time and memory of matching anchors to ground truth on the CPU, ours beside torchvision's.

    python bench/matching.py [--runs 7] [--boxes 20 100 200]

The anchors are those of an input of 800 x 1216 px, 242,991 of them; the boxes have sides of 8 to 600 px, the small as
common as the large. torchvision's part is what its RegionProposalNetwork does with one image: box_iou of all pairs, its
Matcher, and labels and boxes of every anchor. Both run in one torch thread and take turns; medians are compared. Labels
and the boxes of positive anchors must be the same, or the run ends with an error. Memory is not
measured but computed from the shapes: what either holds at its peak beyond anchors and results. Prints Markdown.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou
from turns import take_turns

from objectness.config import AnchorOptions, LabelOptions
from objectness.geometry.anchors import make_anchors
from objectness.geometry.matching import NEGATIVE, POSITIVE, UNUSED, Matches, match_anchors, match_grid
from objectness.kernels.cpu.library import describe
from objectness.structures import AnchorGrid, Targets

SIZE = (800, 1216)
MAP_SIZES = ((200, 304), (100, 152), (50, 76), (25, 38), (13, 19))
SMALLEST, LARGEST = 8.0, 600.0
KIB, MIB = 2**10, 2**20


class Row(NamedTuple):
    """One number of boxes."""

    boxes: int
    ours_ms: float
    plain_ms: float  # match_anchors, in torch alone
    theirs_ms: float
    ours_kib: float
    theirs_mib: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torchvision."""
        return self.theirs_ms / self.ours_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--boxes", type=int, nargs="+", default=(20, 100, 200))
    args = parser.parse_args()
    rows = measure(args.boxes, args.runs)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, 1 thread; {describe()}\n")
    heads = ("boxes", "ours, ms", "match_anchors, ms", "torchvision, ms", "ratio", "ours, KiB", "torchvision, MiB")
    print(f"| {' | '.join(heads)} |\n|{'--:|' * len(heads)}")
    for row in rows:
        print(
            f"| {row.boxes} | {row.ours_ms:.2f} | {row.plain_ms:.0f} | {row.theirs_ms:.0f} | {row.ratio:.0f} | "
            f"{row.ours_kib:.1f} | {row.theirs_mib:.0f} |"
        )


def measure(counts: tuple[int, ...] | list[int] = (20, 100, 200), num_runs: int = 7) -> list[Row]:
    """Time both with each number of boxes.

    Raises:
        SystemExit: the two do not agree.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [measure_row(count, num_runs) for count in counts]
    finally:
        torch.set_num_threads(threads)


def measure_row(count: int, num_runs: int) -> Row:
    grid, options = make_anchors(AnchorOptions(), MAP_SIZES, SIZE), LabelOptions()
    anchors, boxes = grid.join(), make_boxes(count)
    targets = Targets(boxes, torch.zeros(0, 4))
    matcher = Matcher(options.positive_iou, options.negative_iou, allow_low_quality_matches=True)
    compare(match_grid(grid, targets, options), *assign_as_torchvision(matcher, anchors, boxes), boxes)
    systems = {
        "ours": lambda: match_grid(grid, targets, options),
        "plain": lambda: match_anchors(anchors, targets, options),
        "theirs": lambda: assign_as_torchvision(matcher, anchors, boxes),
    }
    ours, plain, theirs = (1000 * each for each in take_turns(systems, num_runs).values())
    return Row(count, ours, plain, theirs, count_our_bytes(grid, count) / KIB, count_their_bytes(grid, count) / MIB)


def make_boxes(count: int) -> Tensor:
    """Boxes (count, 4) within the input."""
    generator = torch.Generator().manual_seed(count)
    sides = SMALLEST * (LARGEST / SMALLEST) ** torch.rand(count, 2, generator=generator)
    limits = torch.tensor([SIZE[1], SIZE[0]])
    corners = torch.rand(count, 2, generator=generator) * (limits - sides)
    return torch.cat([corners, corners + sides], dim=1)


def assign_as_torchvision(matcher: Matcher, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (K,) and boxes (K, 4), as `RegionProposalNetwork.assign_targets_to_anchors` finds them for one image."""
    matched = matcher(box_iou(boxes, anchors))
    labels = torch.where(matched == Matcher.BETWEEN_THRESHOLDS, float(UNUSED), (matched >= 0).float())
    return labels, boxes[matched.clamp(min=0)]


def compare(ours: Matches, labels: Tensor, matched: Tensor, boxes: Tensor) -> None:
    """Raises `SystemExit` unless both found the same."""
    positive = labels == POSITIVE
    same = torch.equal(ours.labels.float(), labels) and torch.equal(boxes[ours.boxes[positive]], matched[positive])
    if not same or not positive.any() or not (labels == NEGATIVE).any():
        raise SystemExit("the labels or boxes are not torchvision's")


def count_our_bytes(grid: AnchorGrid, count: int) -> int:
    """5 numbers a box, in blocks of 16; 80 bytes a shape."""
    return 80 * len(grid.levels) * len(grid.options.ratios) + (count // 16 + 1) * 16 * 5 * 4


def count_their_bytes(grid: AnchorGrid, count: int) -> int:
    """What box_iou holds of every pair as it subtracts: three times two numbers for the intersection's corners and
    sides, its area, the sum of the two areas, and the union."""
    return count * sum(len(level) for level in grid.levels) * 4 * (2 + 2 + 2 + 1 + 1 + 1)


if __name__ == "__main__":
    main()
