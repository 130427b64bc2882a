"""Every figure of docs/benchmarks.md in one run: measures, and writes the page.

    python bench/report.py [--out docs/benchmarks.md] [--quick] [--only NAME ...]

Each benchmark is a script of its own beside this one, with its own account of what it measures; here they are called
one after the other, so that all figures are of one machine on one day. Engines that are not installed are left out and
named. What fell short of its aim is written as it was measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import folder
import inference_cpu
import matching
import nms
import recall_precision
import scaling
import selection
import start
import torch

from objectness.kernels.cpu.library import describe
from objectness.runtimes.engine import find_installed

Cells = Sequence[object]


class Claim(NamedTuple):
    """One row of the summary."""

    what: str
    against: str
    least: str
    aim: str
    measured: str


class Section(NamedTuple):
    """What one benchmark found."""

    title: str
    command: str
    heads: Cells
    rows: Sequence[Cells]
    claims: Sequence[Claim]
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(BENCHMARKS), default=tuple(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small and few: to see that it works")
    args = parser.parse_args()
    sections = []
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        sections.append(BENCHMARKS[name](args.quick))
    page = write_page(sections)
    if args.out is None:
        print(page)
    else:
        partial = args.out.with_name(args.out.name + ".partial")
        partial.write_text(page, encoding="utf-8")
        partial.replace(args.out)


def write_page(sections: Sequence[Section]) -> str:
    """Markdown: the machine, the summary, and a section for each benchmark."""
    parts = [
        "# Benchmarks",
        "Written by `python bench/report.py --out docs/benchmarks.md` (`make bench`), all in one run. Systems take "
        "turns and medians are compared; the peer has its own compiled kernels. The scripts under `bench/` say what "
        "exactly is measured.",
        describe_machine(),
        table(
            ("what", "against", "at least", "aim", "measured"), [claim for each in sections for claim in each.claims]
        ),
    ]
    for section in sections:
        parts += [f"## {section.title}", f"`{section.command}`", table(section.heads, section.rows), section.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: Cells, rows: Sequence[Cells]) -> str:
    lines = [f"| {' | '.join(map(str, heads))} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {model}, {torch.backends.cpu.get_cpu_capability()}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {describe()}; engines: "
        f"{', '.join(find_installed())}."
    )


def report_selection(quick: bool) -> Section:
    rows = selection.measure(3 if quick else 15, selection.QUICK_SIZE if quick else selection.SIZE)
    claims = [
        Claim(
            f"maps to proposals, 800 x 1216, one thread, {row.scores} scores",
            "torchvision",
            "10x",
            "20x",
            times(row.ratio),
        )
        for row in rows
        if row.system == selection.KERNEL
    ]
    cells = [(r.scores, r.system, f"{r.ms:.2f}", times(r.ratio), f"{r.shared:.1%}") for r in rows]
    heads = ("scores", "system", "ms", "times as fast", "shared proposals")
    return Section("From the head's maps to proposals", "python bench/selection.py", heads, cells, claims)


def report_matching(quick: bool) -> Section:
    rows = matching.measure((20,) if quick else (20, 100, 200), 3 if quick else 7)
    claims = [
        Claim(f"matching {row.boxes} boxes, exact labels, one thread", "torchvision", "100x", "300x", times(row.ratio))
        for row in rows
    ]
    cells = [
        (r.boxes, f"{r.ours_ms:.2f}", f"{r.plain_ms:.0f}", f"{r.theirs_ms:.0f}", times(r.ratio), f"{r.theirs_mib:.0f}")
        for r in rows
    ]
    heads = ("boxes", "kernel, ms", "plain torch, ms", "torchvision, ms", "times as fast", "torchvision's memory, MiB")
    return Section("Matching anchors to ground truth", "python bench/matching.py", heads, cells, claims)


def report_nms(quick: bool) -> Section:
    rows = nms.measure(3 if quick else 5, 1000 if quick else 100_000)
    least = min(row.ratio for row in rows)
    claim = Claim("nms and iou, 100 to 100,000 boxes, the least of all cases", "torchvision", "1x", "", times(least))
    cells = [
        (r.kind, r.size, r.kept if r.kept >= 0 else "", f"{r.ours_ms:.3f}", f"{r.theirs_ms:.3f}", times(r.ratio))
        for r in rows
    ]
    heads = ("boxes", "how many", "kept", "ours, ms", "torchvision, ms", "times as fast")
    return Section("Suppression and IoU", "python bench/nms.py --most 100000", heads, cells, [claim])


def report_inference(quick: bool) -> Section:
    engines = [*reversed(find_installed()), *find_narrow()]
    rows = inference_cpu.measure(engines=engines, num_runs=2 if quick else 5, quick=quick)
    goals = {"torch": ("1.4x / 1.3x", "1.5x"), "ncnn": ("2.2x / 1.9x", "2.5x"), "openvino-int8": ("3x", "3.5x")}
    claims = []
    for engine, (least, aim) in goals.items():
        ratios = [row.ratio for row in rows if row.system == f"{inference_cpu.OURS}, {engine}"]
        what = f"photo to proposals, ResNet-50 / 101, {engine}" + (", without extras" if engine == "torch" else "")
        measured = " / ".join(map(times, ratios)) or "not installed"
        claims.append(Claim(what, "torchvision", least, aim, measured))
    cells = [(r.backbone, r.system, f"{r.seconds:.2f}", times(r.ratio), f"{r.shared:.1%}") for r in rows]
    heads = ("backbone", "system", "s", "times as fast", "same proposals")
    command = f"python bench/inference_cpu.py --engines {' '.join(engines)}"
    return Section("One photo to proposals, 800 x 1216", command, heads, cells, claims)


def report_memory(quick: bool) -> Section:
    rows = inference_cpu.measure_memory(quick=quick)
    claims = []
    for backbone in inference_cpu.BACKBONES:
        ours, theirs = (
            next(r.peak for r in rows if (r.backbone, r.system) == (backbone, s)) for s in ("objectness", "torchvision")
        )
        claims.append(
            Claim(f"peak memory, one photo, {backbone}", "torchvision", "not above", "half", f"{ours / theirs:.2f}")
        )
    cells = [(r.backbone, r.system, f"{r.peak:.0f}", f"{r.peak - r.imports:.0f}") for r in rows]
    heads = ("backbone", "system", "peak, MiB", "above imports, MiB")
    return Section("Memory of one photo to proposals", "python bench/inference_cpu.py", heads, cells, claims)


def report_precision(quick: bool) -> Section:
    heads = ("engine", *(f"AR@{top}" for top in (10, 100, 300, 1000)))
    title, command = "Recall in fewer bits", "python bench/recall_precision.py"
    if not recall_precision.VALIDATION.exists():
        return Section(title, command, heads, [], [], f"Left out: {recall_precision.VALIDATION.name} is not there.")
    first, *rows = recall_precision.measure(20 if quick else None)
    claims = [
        Claim(
            f"recall of the shipped network, {row.engine}, most lost of AR@10..1000",
            first.engine,
            "0.5 points" if row.engine.endswith("int8") else "",
            "",
            f"{100 * max(a - b for a, b in zip(first.recalls, row.recalls, strict=True)):.2f} points",
        )
        for row in rows
    ]
    cells = [(row.engine, *(f"{each:.4f}" for each in row.recalls)) for row in (first, *rows)]
    return Section(title, command, heads, cells, claims)


def report_folder(quick: bool) -> Section:
    engines = [*reversed(find_installed()), *find_narrow()]
    rows = folder.measure(num_photos=10 if quick else 400, num_rounds=2 if quick else 5, engines=engines)
    ours = sorted((row for row in rows if row.system != folder.THEIRS), key=lambda row: -row.ratio)
    goals = [("15x", "40x"), *[("", "")] * (len(ours) - 1)]  # of the fastest way there is
    claims = [
        Claim(f"photo file to JSON line, 400 photos, {row.system}", folder.THEIRS, least, aim, times(row.ratio))
        for row, (least, aim) in zip(ours, goals, strict=True)
    ]
    cells = [(row.system, f"{row.photos_per_second:.2f}", times(row.ratio)) for row in rows]
    heads = ("system", "photos/s", "times as fast")
    return Section("A folder of photos", f"python bench/folder.py --engines {' '.join(engines)}", heads, cells, claims)


def report_start(quick: bool) -> Section:
    seconds = start.measure(3 if quick else 5)
    beyond = seconds[start.COMMAND] - seconds[start.TORCH]
    claim = Claim("command start to first result, beyond `import torch`", "", "under 2 s", "", f"{beyond:.2f} s")
    cells = [(f"`{name}`", f"{each:.2f}") for name, each in seconds.items()]
    return Section("Start of the command", "python bench/start.py", ("process", "s"), cells, [claim])


def report_scaling(quick: bool) -> Section:
    sweeps = scaling.measure(3 if quick else 5, 20 if quick else 10_000, scaling.AREAS[:2] if quick else scaling.AREAS)
    picture = "" if quick else "![How the cost grows](scaling.png)"
    if not quick:
        scaling.plot(sweeps, Path(__file__).resolve().parents[1] / "docs" / "scaling.png")
    cells = [
        (s.title, s.unit, " ".join(f"{x:g}" for x in s.x), s.y_unit, " ".join(f"{y:.3g}" for y in s.y)) for s in sweeps
    ]
    heads = ("cost of", "against", "at", "in", "cost")
    return Section("How the cost grows", "python bench/scaling.py", heads, cells, [], picture)


def find_narrow() -> list[str]:
    """The engines in fewer bits than float32 that are installed."""
    return [f"{name}-{bits}" for name, bits in recall_precision.find_precisions() if bits != "float32"]


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x" if ratio >= 4 else f"{ratio:.2f}x"


BENCHMARKS: dict[str, Callable[[bool], Section]] = {
    "selection": report_selection,
    "matching": report_matching,
    "nms": report_nms,
    "inference": report_inference,
    "memory": report_memory,
    "precision": report_precision,
    "folder": report_folder,
    "start": report_start,
    "scaling": report_scaling,
}

if __name__ == "__main__":
    main()
