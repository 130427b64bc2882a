"""Recall against time: ours at several input sizes beside NanoDet-g and the first network that shipped.

    python experiments/frontier.py --nanodet package/models --plot docs/frontier.png [--engines torch ncnn]

Recall is AR@100 and AR@1000 on coco/val.json; time is that of a photo of 640 x 480 px in memory, resizing and selection
included, on one core. Networks take turns, and the fastest of many rounds counts, so that they can be compared on a
busy machine too; milliseconds differ from machine to machine, their ratios hardly. NanoDet-g comes from the package
that experiments/convert_nanodet.py reads, its highest class score as objectness, NMS at 0.6, as its authors do.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from convert_nanodet import make_proposer, read_graph

import objectness
from objectness.predict import Proposer
from objectness.runtimes.choose import make_engine

ROOT = Path(__file__).resolve().parents[1]
VAL = ROOT.parent / "shared" / "data" / "coco" / "val.json"
SIZES = ((256, 352), (320, 416), (384, 512), (448, 608), (512, 672))  # px
DETECTOR_SIDES = (320, 416, 512)
ROUNDS = 15


class Point(NamedTuple):
    """One network at one input size on one engine."""

    family: str
    name: str
    proposer: Proposer


def make_points(engines: list[str], nanodet: Path | None) -> list[Point]:
    """Everything that is compared."""
    points = []
    for engine in engines:
        for name in ("cspnet", "lite0"):
            for size in SIZES if name == "cspnet" else [(384, 512)]:
                network = objectness.load_network(name)
                options = replace(network.config.input, short_side=size[0], long_side=size[1])
                network.config = replace(network.config, input=options)
                computes = None if engine == "torch" else make_engine(network, engine)  # type: ignore[arg-type]
                points.append(Point(f"{name}, {engine}", f"{size[0]} x {size[1]}", Proposer(network, "cpu", computes)))
    if nanodet is not None:
        weights = read_graph(nanodet)
        points += [
            Point("NanoDet-g, torch", f"{side} x {side}", make_proposer(weights, side)) for side in DETECTOR_SIDES
        ]
    return points


def time_points(points: list[Point]) -> list[float]:
    """Milliseconds of a photo for each, the fastest of `ROUNDS` in turns."""
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    fastest = [float("inf")] * len(points)
    for _ in range(ROUNDS):
        for i, point in enumerate(points):
            started = time.perf_counter()
            point.proposer(photo)
            fastest[i] = min(fastest[i], 1e3 * (time.perf_counter() - started))
    return fastest


def draw(rows: list[tuple[Point, float, float]], path: Path) -> None:
    """AR@100 against milliseconds, a line for each family."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for family in dict.fromkeys(point.family for point, _, _ in rows):
        own = [(ms, recall, point.name) for point, ms, recall in rows if point.family == family]
        axes.plot([ms for ms, _, _ in own], [recall for _, recall, _ in own], "o-", label=family, markersize=5)
        for ms, recall, name in own:
            axes.annotate(name, (ms, recall), textcoords="offset points", xytext=(5, -10), fontsize=7, color="0.35")
    axes.set(xlabel="milliseconds a photo, one core", ylabel="AR@100 on coco/val.json, per cent")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(color="0.92")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure everything, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["torch", "ncnn"], help="torch, ncnn, openvino, onnxruntime")
    parser.add_argument("--nanodet", type=Path, help="the package's folder with nanodet.json and nanodet.bin")
    parser.add_argument("--data", type=Path, default=VAL)
    parser.add_argument("--photos", type=int, default=0, help="to measure recall on, 0 for all")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    points = make_points(args.engines, args.nanodet)
    times = time_points(points)
    records = objectness.read_dataset(args.data).records[: args.photos or None]
    print("| network, engine | input, px | ms | AR@10 | AR@100 | AR@1000 |\n|---|---|--:|--:|--:|--:|")
    rows = []
    for point, ms in zip(points, times, strict=True):
        report = objectness.measure_proposer(point.proposer, records)
        recalls = [100 * report.average_recall(top) for top in (10, 100, 1000)]
        cells = " | ".join(f"{recall:.1f}" for recall in recalls)
        print(f"| {point.family} | {point.name} | {ms:.0f} | {cells} |", flush=True)
        rows.append((point, ms, recalls[1]))
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
