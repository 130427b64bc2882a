"""From photo files to JSON lines, a folder of them: the shipped network beside torchvision's ResNet-50.

    python bench/folder.py [PHOTOS] [--photos 400] [--rounds 5] [--engines torch torch-bfloat16 ncnn openvino-int8]
        [--at-once 1 2]

Both see the photos at the size of the shipped network's input, 384 x 512 px, and write one line with their boxes for
each file. Ours is the loop behind `objectness propose`, which computes photos side by side, by default as many as the
command would, and prepares others meanwhile; torchvision's is the loop that its user writes: read, transform, backbone,
RPN, boxes in the photo's pixels, json.dumps, with all cores for one photo. Its weights are random and its RPN keeps
1,000 of 1,000 a level, by its defaults; ours keeps up to 2,000. The photos are dealt into rounds, in which the systems
take turns; the median round is compared, photos per second. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import objectness
from objectness.bulk.run import run
from objectness.device import choose_at_once
from objectness.images.finding import find_images
from objectness.images.reading import read_image
from objectness.predict import Proposer

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco" / "images"
NUM_CALIBRATION = 200
OURS, THEIRS = "objectness, shipped network", "torchvision, ResNet-50"


class Row(NamedTuple):
    """One line of the table."""

    system: str
    photos_per_second: float
    ratio: float  # over torchvision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=["torch"])
    parser.add_argument("--at-once", type=int, nargs="+", default=[], help="each of these numbers, on each engine")
    args = parser.parse_args()
    rows = measure(args.folder, args.photos, args.rounds, args.engines, args.at_once)
    print(f"| system | photos/s, median of {args.rounds} rounds | times as fast |\n|---|--:|--:|")
    for row in rows:
        print(f"| {row.system} | {row.photos_per_second:.2f} | {row.ratio:.1f} |")


def measure(
    folder: Path = PHOTOS,
    num_photos: int = 400,
    num_rounds: int = 5,
    engines: Sequence[str] = ("torch",),
    at_once: Sequence[int] = (),
) -> list[Row]:
    """torchvision and every engine on the same photos."""
    photos = find_images([folder])
    files = photos[:num_photos]
    proposers = {
        f"{engine}, {count} at once" if at_once else engine: make_proposer(engine, count, photos[num_photos:])
        for engine in engines
        for count in at_once or [choose_at_once(num_photos, "cpu")]
    }
    systems = {f"{OURS}, {name}": wrap_ours(proposer) for name, proposer in proposers.items()}
    systems[THEIRS] = wrap_theirs(next(iter(proposers.values())))
    for propose in systems.values():
        propose(files[:4])
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    for i in range(num_rounds):
        dealt = files[i::num_rounds]
        for name, propose in systems.items():
            start = time.perf_counter()
            propose(dealt)
            speeds[name].append(len(dealt) / (time.perf_counter() - start))
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    return [Row(name, medians[name], medians[name] / medians[THEIRS]) for name in systems]


def make_proposer(engine: str, at_once: int, others: Sequence[Path]) -> Proposer:
    """The shipped network on an engine, "NAME" or "NAME-PRECISION"; int8 is calibrated on photos that are not timed."""
    name, _, precision = engine.partition("-")
    return objectness.load(
        engine=name,  # type: ignore[arg-type]
        precision=precision or "float32",  # type: ignore[arg-type]
        calibration=others[:NUM_CALIBRATION] if precision == "int8" else (),
        at_once=at_once,
    )


def wrap_ours(proposer: Proposer) -> Callable[[Sequence[Path]], object]:
    def propose(files: Sequence[Path]) -> None:
        run(
            proposer.propose,
            files,
            io.StringIO(),
            prepare=proposer.prepare,
            at_once=proposer.at_once,
            torch_threads=proposer.torch_threads,
        )

    return propose


def wrap_theirs(proposer: Proposer) -> Callable[[Sequence[Path]], object]:
    """torchvision's detector up to its RPN, at the input size of ours."""
    import torchvision

    options = proposer.network.config.input
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=options.short_side, max_size=options.long_side
    ).eval()

    @torch.inference_mode()
    def propose(files: Sequence[Path]) -> None:
        lines = io.StringIO()
        for file in files:
            image = torch.from_numpy(read_image(file)).permute(2, 0, 1) / 255  # (H, W, 3) -> (3, H, W)
            batch, _ = model.transform([image])
            boxes = model.rpn(batch, model.backbone(batch.tensors))[0][0]
            height, width = image.shape[1] / batch.image_sizes[0][0], image.shape[2] / batch.image_sizes[0][1]
            boxes = boxes * torch.tensor([width, height, width, height])
            lines.write(json.dumps({"file": str(file), "boxes": boxes.tolist()}) + "\n")

    return propose


if __name__ == "__main__":
    main()
