"""What bfloat16 and int8 cost in recall: the shipped network on annotated photos.

    python bench/recall_precision.py [--data COCO.json] [--calibrate PHOTOS] [--num-photos 100]

int8 takes its scales from photos that recall is not measured on. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import objectness
from objectness.device import choose_at_once
from objectness.evaluation.measure import measure_proposer
from objectness.runtimes.engine import EngineName, Precision, find_installed

COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco"
VALIDATION, TRAINING = COCO / "val.json", COCO / "train.json"
NUM_PHOTOS = 200  # to calibrate on


class Row(NamedTuple):
    """One engine in one precision."""

    engine: str  # "NAME-PRECISION"
    recalls: tuple[float, ...]  # AR@10, 100, 300, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=VALIDATION)
    parser.add_argument("--calibrate", type=Path, default=TRAINING, help="annotations whose photos are taken")
    parser.add_argument("--num-photos", type=int, default=NUM_PHOTOS)
    args = parser.parse_args()
    print("| engine | AR@10 | AR@100 | AR@300 | AR@1000 |\n|---|--:|--:|--:|--:|")
    for row in measure(None, args.data, args.calibrate, args.num_photos):
        print(f"| {row.engine} | {' | '.join(f'{each:.4f}' for each in row.recalls)} |")


def measure(
    most: int | None = None, data: Path = VALIDATION, calibrate: Path = TRAINING, num_photos: int = NUM_PHOTOS
) -> Sequence[Row]:
    """Every precision that an engine here has, on the first `most` photos; torch in float32 is the first."""
    records = objectness.read_dataset(data).records[:most]
    photos = [record.path for record in objectness.read_dataset(calibrate).records[:num_photos]]
    rows = []
    for name, precision in find_precisions():
        proposer = objectness.load(
            engine=name,
            precision=precision,
            calibration=photos if precision == "int8" else (),
            at_once=choose_at_once(len(records)),
        )
        report = measure_proposer(proposer, records)
        rows.append(Row(f"{name}-{precision}", tuple(report.average_recall(top) for top in report.tops)))
    return rows


def find_precisions() -> list[tuple[EngineName, Precision]]:
    """Every engine and precision to be judged that is installed."""
    found: list[tuple[EngineName, Precision]] = [("torch", "float32"), ("torch", "bfloat16")]
    if "openvino" in find_installed():
        found += [("openvino", "float32"), ("openvino", "bfloat16")]
        found += [("openvino", "int8")] if find_spec("nncf") else []
    return found


if __name__ == "__main__":
    main()
