"""How the cost grows: with an image's area, the number of photos, threads, and boxes per image. No knee should show.

    python bench/scaling.py [--plot docs/scaling.png] [--photos 10000] [--quick]

Area and threads: the shipped network, one photo of examples/photos resized, from pixels to proposals. Photos: the loop
behind `objectness propose` on the same few files over and over, the network left out so that what is measured is the
rest (decoding, resizing, selection's output, lines), seconds and the process's memory after so many photos. Boxes:
matching at 800 x 1216 px. Medians of runs that take turns over all sizes of a sweep. Prints a Markdown table of each
sweep; needs matplotlib for the picture.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from turns import take_turns

import objectness
from objectness.bulk.run import run
from objectness.config import AnchorOptions, LabelOptions
from objectness.device import choose_at_once
from objectness.geometry.anchors import make_anchors
from objectness.geometry.matching import match_grid
from objectness.images.network_input import resize_image
from objectness.images.reading import read_image
from objectness.predict import Prepared
from objectness.proposals import Proposals
from objectness.structures import Targets

PHOTOS = sorted((Path(__file__).resolve().parents[1] / "examples" / "photos").glob("*.jpg"))
AREAS = (128, 192, 256, 384, 512, 768, 1024, 1536)  # short sides, px; the long side is 4/3 of it
BOXES = (1, 3, 10, 30, 100, 300, 1000)


class Sweep(NamedTuple):
    """One curve."""

    title: str
    unit: str  # of x
    x: list[float]
    y: list[float]
    y_unit: str = "ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few and small: to see that it works")
    args = parser.parse_args()
    sweeps = measure(args.runs, 20 if args.quick else args.photos, AREAS[:2] if args.quick else AREAS)
    for sweep in sweeps:
        print(f"\n| {sweep.unit} | {sweep.title}, {sweep.y_unit} |\n|--:|--:|")
        for x, y in zip(sweep.x, sweep.y, strict=True):
            print(f"| {x:g} | {y:.3g} |")
    if args.plot:
        plot(sweeps, args.plot)


def measure(num_runs: int = 5, num_photos: int = 10_000, sides: Sequence[int] = AREAS) -> list[Sweep]:
    """All sweeps."""
    return [
        sweep_area(num_runs, sides),
        sweep_threads(num_runs, sides[min(4, len(sides) - 1)]),
        *sweep_photos(num_photos),
        sweep_boxes(num_runs),
    ]


def sweep_area(num_runs: int, sides: Sequence[int]) -> Sweep:
    proposer = objectness.load()
    systems = {str(side): partial(proposer.propose, prepare(side)) for side in sides}
    seconds = take_turns(systems, num_runs)
    areas = [side * side * 4 / 3 / 1e6 for side in sides]
    return Sweep("one photo, shipped network", "area of the input, Mpx", areas, [1000 * seconds[str(s)] for s in sides])


def sweep_threads(num_runs: int, side: int) -> Sweep:
    proposer = objectness.load()
    ready, all_threads = prepare(side), torch.get_num_threads()
    counts = sorted({*range(1, os.cpu_count() or 1), os.cpu_count() or 1})

    def propose(threads: int) -> None:
        torch.set_num_threads(threads)
        proposer.propose(ready)

    seconds = take_turns({str(count): partial(propose, count) for count in counts}, num_runs)
    torch.set_num_threads(all_threads)
    return Sweep(
        f"one photo of {side} px", "threads", list(map(float, counts)), [1000 * seconds[str(c)] for c in counts]
    )


def sweep_photos(num_photos: int) -> tuple[Sweep, Sweep]:
    """Seconds and memory after so many photos; proposals are always the same ones."""
    proposer = objectness.load()
    proposals = proposer(PHOTOS[0])
    marks = sorted({max(1, round(num_photos * share)) for share in (0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1)})
    seconds: list[float] = []
    memory: list[float] = []
    start = time.perf_counter()

    def propose(ready: Prepared) -> Proposals:
        return proposals

    def watch(result: object, num_done: int) -> None:
        if num_done in marks:
            seconds.append(time.perf_counter() - start)
            memory.append(read_memory_mib())

    files = [PHOTOS[i % len(PHOTOS)] for i in range(num_photos)]
    with Path(os.devnull).open("w") as out:
        at_once = choose_at_once(num_photos, "cpu")
        run(propose, files, out, prepare=proposer.prepare, at_once=at_once, on_result=watch)
    x = list(map(float, marks))
    return Sweep("all but the network", "photos", x, seconds, "s"), Sweep("memory", "photos", x, memory, "MiB")


def sweep_boxes(num_runs: int) -> Sweep:
    options = AnchorOptions()
    map_sizes = [(-(-800 // stride), -(-1216 // stride)) for stride in options.strides]
    grid = make_anchors(options, map_sizes, (800, 1216))
    generator = torch.Generator().manual_seed(0)

    def match(count: int) -> Callable[[], object]:
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([1000.0, 600.0])
        sides = torch.rand(count, 2, generator=generator).square() * 400 + 8
        targets = Targets(torch.cat([corners, corners + sides], dim=1), torch.zeros(0, 4))
        return lambda: match_grid(grid, targets, LabelOptions())

    seconds = take_turns({str(count): match(count) for count in BOXES}, num_runs)
    return Sweep(
        "matching at 800 x 1216 px",
        "boxes in an image",
        list(map(float, BOXES)),
        [1000 * seconds[str(c)] for c in BOXES],
    )


def prepare(side: int) -> Prepared:
    """A photo at the size of an input, already resized."""
    pixels = torch.from_numpy(read_image(PHOTOS[0])).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    resized = resize_image(pixels, (side, side * 4 // 3))
    return Prepared(resized, (pixels.shape[1], pixels.shape[2]), PHOTOS[0])


def read_memory_mib() -> float:
    """What this process holds now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def plot(sweeps: Sequence[Sweep], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(4 * len(sweeps), 3.2), layout="constrained")
    for axis, sweep in zip(axes, sweeps, strict=True):
        axis.plot(sweep.x, sweep.y, "o-")
        axis.set(title=sweep.title, xlabel=sweep.unit, ylabel=sweep.y_unit, ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
