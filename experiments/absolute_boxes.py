"""The article's failed experiment: a network that predicts x, y, w, h outright instead of changes to its anchor.

    python experiments/absolute_boxes.py --start runs/nanodet [--images 1200] [--photo examples/photos/coffee.jpg]

"The output of reg must not be x, y, w, h themselves!", the article warns: a 3x3 window of features hardly tells where
in the photo it lies, while the anchor knows; such a network converges slowly and drifts to the middle of the image,
where the loss is low whatever the object; and objects at the edge are not found at all. Here it is again,
`box_coding="absolute"` beside "deltas" on the same budget from the same trunk, with numbers for what the article saw:

  - recall;
  - how far from the middle the best 100 boxes are: the mean distance of their centres from the image's, in halves of
    its width and height (0 the middle, 1 a side's, 1.41 a corner; the annotated boxes' own beside it);
  - the share of annotated boxes that some proposal covers with an IoU of 0.5, at the border and elsewhere. A box is at
    the border if it reaches into the outer tenth of the image but not to its centre.

Prints a Markdown table, row by row, and writes a picture like the article's: the best boxes of both on one photo,
absolute ones on the left, deltas on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from arms import ROOT, TOPS, Arm, make_parser, train_arm
from numpy.typing import NDArray
from PIL import Image

import objectness
from objectness.config import BoxCoding, Config
from objectness.data.records import ImageRecord
from objectness.evaluation.recall import compute_iou, measure_recall
from objectness.predict import Proposer

Floats = NDArray[np.float64]
CODINGS: tuple[BoxCoding, ...] = ("deltas", "absolute")
BEST = 100  # the article's picture has as many
MARGIN = 0.1  # of the image's width and height
FOUND_IOU = 0.5


def main() -> None:
    """Train both, measure both, draw both."""
    parser = make_parser("Boxes outright instead of deltas: what goes wrong?")
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "photos" / "coffee.jpg")
    parser.add_argument("--picture", type=Path, help="to be written; absolute-boxes.jpg in --runs by default")
    parser.add_argument("--boxes", type=int, default=50, help="to be drawn")
    args = parser.parse_args()
    validation = objectness.read_dataset(args.val).records[: args.val_images or None]
    print(f"| boxes as | {' | '.join(f'AR@{top}' for top in TOPS)} | distance | found at border | elsewhere |")
    print(f"|---|{'--:|' * (len(TOPS) + 3)}")
    print(format_truth_row(validation))
    pictures: list[Image.Image] = []
    for coding in CODINGS:
        arm = Arm(Config.cspnet(box_bins=0, box_coding=coding), start="trunk")
        proposer = Proposer(train_arm(f"absolute-boxes-{coding}", arm, args, args.seeds[0]))
        print(format_row(coding, proposer, validation), flush=True)
        pictures.append(proposer.propose(args.photo).draw(max_boxes=args.boxes, labels=0))
    put_side_by_side(pictures[::-1]).save(args.picture or args.runs / "absolute-boxes.jpg", quality=90)


def format_truth_row(records: Sequence[ImageRecord]) -> str:
    """What the annotated boxes themselves are like, and how many they are."""
    boxes = [get_objects(record) for record in records]
    distance = np.concatenate([measure_distances(*each) for each in zip(boxes, records, strict=True)]).mean()
    at_border = np.concatenate([find_at_border(*each) for each in zip(boxes, records, strict=True)])
    counts = f"of {at_border.sum()} | of {(~at_border).sum()}"
    return f"| annotated |{' |' * len(TOPS)} {distance:.3f} | {counts} |"


def format_row(coding: str, proposer: Proposer, records: Sequence[ImageRecord]) -> str:
    """Everything that is measured of one network."""
    proposals = [proposer.propose(record.path) for record in records]
    boxes = [each.boxes.numpy().astype(np.float64) for each in proposals]
    report = measure_recall(records, list(zip(boxes, (each.scores.numpy() for each in proposals), strict=True)))
    distances = [measure_distances(each[:BEST], record) for each, record in zip(boxes, records, strict=True)]
    found = np.concatenate([find_covered(*each) for each in zip(records, boxes, strict=True)])
    at_border = np.concatenate([find_at_border(get_objects(record), record) for record in records])
    shares = f"{found[at_border].mean():.3f} | {found[~at_border].mean():.3f}"
    recalls = " | ".join(f"{100 * report.average_recall(top):.1f}" for top in TOPS)
    return f"| {coding} | {recalls} | {np.concatenate(distances).mean():.3f} | {shares} |"


def get_objects(record: ImageRecord) -> Floats:
    """The annotated boxes (G, 4) that are not ignored."""
    boxes: Floats = record.boxes[~record.ignore]
    return boxes


def measure_distances(boxes: Floats, record: ImageRecord) -> Floats:
    """(n,) how far the centres of boxes (n, 4) are from the image's, in halves of its width and height."""
    half_size = np.array([record.width, record.height]) / 2
    offsets = (boxes[:, :2] + boxes[:, 2:]) / 2 / half_size - 1  # (n, 2)
    distances: Floats = np.linalg.norm(offsets, axis=1)
    return distances


def find_at_border(boxes: Floats, record: ImageRecord) -> NDArray[np.bool_]:
    """(n,) which boxes (n, 4) reach into the outer tenth of the image, but not to its centre."""
    corners = boxes / np.array([record.width, record.height] * 2)  # in 0..1
    outside = (corners[:, :2] < MARGIN).any(axis=1) | (corners[:, 2:] > 1 - MARGIN).any(axis=1)
    central = (corners[:, :2] <= 0.5).all(axis=1) & (corners[:, 2:] >= 0.5).all(axis=1)
    at_border: NDArray[np.bool_] = outside & ~central
    return at_border


def find_covered(record: ImageRecord, boxes: Floats) -> NDArray[np.bool_]:
    """(G,) which annotated boxes some of boxes (n, 4), the best 1,000, covers."""
    overlaps = compute_iou(get_objects(record), boxes[: TOPS[-1]])  # (G, n)
    covered: NDArray[np.bool_] = overlaps.max(axis=1, initial=0) >= FOUND_IOU
    return covered


def put_side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size from left to right."""
    width, height = pictures[0].size
    joined = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        joined.paste(picture, (i * width, 0))
    return joined


if __name__ == "__main__":
    main()
