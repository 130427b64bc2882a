"""Time of non-maximum suppression and of pairwise IoU on the CPU, ours beside torchvision's compiled kernels.

    python bench/nms.py [--runs 5] [--most 10000]

Three kinds of boxes: "sparse", which hardly overlap; "dense", of 20 to 200 px on 1,000 x 1,000 px; and "clustered", 50
around each object, of which most go. Both run in one torch thread and take turns; medians are compared, of up to 200
runs where one is short. What they keep must be the same, or the run ends with an error. With --most 100000
torchvision alone takes minutes, and is timed once. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor
from torchvision.ops import box_iou
from turns import take_turns

from objectness.geometry.nms import iou, nms
from objectness.kernels.cpu.library import describe

COUNTS = (100, 1000, 10_000, 100_000)
THRESHOLDS = (0.5, 0.7)
PAIRS = ((100, 100), (1000, 1000), (20, 242_991), (2000, 10_000))
SHORT_S = 0.2  # of both, so many seconds of runs at least
LONG_S = 5.0  # what takes longer is timed once


class Row(NamedTuple):
    """One size of one kind."""

    kind: str
    size: str
    kept: int  # -1: of an IoU, where nothing is
    ours_ms: float
    theirs_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torchvision."""
        return self.theirs_ms / self.ours_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=int, default=10_000)
    args = parser.parse_args()
    rows = measure(args.runs, args.most)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, 1 thread; {describe()}\n")
    print(f"| | boxes | kept | ours, ms | torchvision, ms | ratio |\n|---|{'--:|' * 5}")
    for row in rows:
        kept = row.kept if row.kept >= 0 else ""
        print(f"| {row.kind} | {row.size} | {kept} | {row.ours_ms:.3f} | {row.theirs_ms:.3f} | {row.ratio:.1f} |")


def measure(num_runs: int = 5, most: int = 10_000) -> list[Row]:
    """Time both on every kind and size.

    Raises:
        SystemExit: the two do not agree.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            measure_nms(kind, count, threshold, num_runs)
            for count in COUNTS
            if count <= most
            for kind in KINDS
            for threshold in THRESHOLDS
        ]
        return rows + [measure_iou(n, m, num_runs) for n, m in PAIRS]
    finally:
        torch.set_num_threads(threads)


def measure_nms(kind: str, count: int, threshold: float, num_runs: int) -> Row:
    generator = torch.Generator().manual_seed(count)
    boxes, scores = KINDS[kind](count, generator), torch.rand(count, generator=generator)
    ours_ms, kept, theirs_ms, expected = compare(
        num_runs, lambda: nms(boxes, scores, threshold), lambda: torchvision.ops.nms(boxes, scores, threshold)
    )
    if not torch.equal(kept, expected):
        raise SystemExit(f"{count} {kind} boxes at {threshold}: what is kept is not what torchvision keeps")
    return Row(f"nms, {kind}, {threshold}", f"{count}", len(kept), ours_ms, theirs_ms)


def measure_iou(n: int, m: int, num_runs: int) -> Row:
    generator = torch.Generator().manual_seed(n)
    boxes, others = make_dense(n, generator), make_dense(m, generator)
    ours_ms, ious, theirs_ms, expected = compare(num_runs, lambda: iou(boxes, others), lambda: box_iou(boxes, others))
    if not torch.equal(ious, expected):
        raise SystemExit(f"{n} x {m} boxes: the IoUs are not torchvision's")
    return Row("iou, dense", f"{n} x {m}", -1, ours_ms, theirs_ms)


def make_sparse(count: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 60 * count**0.5
    return torch.cat([corners, corners + 10 + 60 * torch.rand(count, 2, generator=generator)], dim=1)


def make_dense(count: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 1000
    return torch.cat([corners, corners + 20 + 180 * torch.rand(count, 2, generator=generator)], dim=1)


def make_clustered(count: int, generator: torch.Generator) -> Tensor:
    objects = make_dense(-(-count // 50), generator).repeat_interleave(50, dim=0)[:count]
    return objects + 4 * torch.randn(count, 4, generator=generator)


KINDS = {"sparse": make_sparse, "dense": make_dense, "clustered": make_clustered}


def compare(
    num_runs: int, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]
) -> tuple[float, Tensor, float, Tensor]:
    """Milliseconds of each and what it returns."""
    found, expected = ours(), theirs()
    systems = {"ours": ours, "theirs": theirs}
    seconds = take_turns(systems, num_runs, at_least_s=SHORT_S, at_most_s=LONG_S, warm_up=False)
    return 1000 * seconds["ours"], found, 1000 * seconds["theirs"], expected


if __name__ == "__main__":
    main()
