"""What int8 costs in recall: the shipped network on OpenVINO, in float32 and in int8, on annotated photos.

    python bench/recall_int8.py [--data COCO.json] [--calibrate PHOTOS] [--num-photos 100]

int8 takes its scales from photos that recall is not measured on. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import objectness
from objectness.engines.interface import make_engine
from objectness.predict import measure_proposer

COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco"
VALIDATION, TRAINING = COCO / "val.json", COCO / "train.json"
NUM_PHOTOS = 200  # to calibrate on


class Row(NamedTuple):
    """One precision."""

    precision: str
    recalls: tuple[float, ...]  # AR@10, 100, 300, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=VALIDATION)
    parser.add_argument("--calibrate", type=Path, default=TRAINING, help="annotations whose photos are taken")
    parser.add_argument("--num-photos", type=int, default=NUM_PHOTOS)
    args = parser.parse_args()
    print("| precision | AR@10 | AR@100 | AR@300 | AR@1000 |\n|---|--:|--:|--:|--:|")
    for row in measure(None, args.data, args.calibrate, args.num_photos):
        print(f"| {row.precision} | {' | '.join(f'{each:.4f}' for each in row.recalls)} |")


def measure(
    most: int | None = None, data: Path = VALIDATION, calibrate: Path = TRAINING, num_photos: int = NUM_PHOTOS
) -> Sequence[Row]:
    """float32 and int8, on the first `most` photos."""
    records = objectness.read_dataset(data).records[:most]
    photos = [record.path for record in objectness.read_dataset(calibrate).records[:num_photos]]
    network = objectness.load().network
    rows = []
    for precision, calibration in (("float32", ()), ("int8", photos)):
        engine = make_engine(network, "openvino", precision=precision, calibration=calibration)  # type: ignore[arg-type]
        report = measure_proposer(objectness.Proposer(network, engine=engine), records)
        rows.append(Row(precision, tuple(report.average_recall(top) for top in report.tops)))
    return rows


if __name__ == "__main__":
    main()
