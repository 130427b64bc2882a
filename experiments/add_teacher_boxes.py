"""Add a teacher's boxes to photos on which only some objects are annotated.

    objectness propose voc2007/images --weights TEACHER --out teacher.jsonl
    python experiments/add_teacher_boxes.py voc2007/train.json teacher.jsonl voc2007/taught.json --high 0.5 --low 0.2

Where only twenty kinds of things are drawn, everything else counts as background, and a network unlearns it. A teacher,
any network whose boxes and scores are JSON Lines, says what else is there: of its boxes that overlap no annotated one,
those with a score of at least HIGH become objects, and those from LOW to HIGH are marked `"ignore": true`, neither
objects nor background. What people drew, ignored regions included, stays as it is.

Added annotations are of the category "teacher" and have the teacher's score beside their box, so that they can be told
apart, taken out again, or ignored altogether (`--ignore-class teacher`). The file is written whole or not at all. Put
it beside the annotations, so that its images are found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import objectness
from objectness.evaluation.recall import compute_iou
from objectness.files import write_text
from objectness.proposal_files.jsonl import read_proposals
from objectness.proposal_files.matching import match_proposals

Floats = NDArray[np.float64]
CATEGORY = "teacher"
OVERLAP = 0.45  # IoU from which on two boxes are taken for the same object
DECIMALS = 2  # of written coordinates, px


def main() -> None:
    """Read both files, add, write, and say how many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, help="a COCO file")
    parser.add_argument("proposals", type=Path, help="JSON Lines about its images")
    parser.add_argument("out", type=Path, help="the COCO file to write")
    parser.add_argument("--high", type=float, required=True, help="score from which on a box is an object")
    parser.add_argument("--low", type=float, required=True, help="score from which on a box is ignored")
    parser.add_argument("--overlap", type=float, default=OVERLAP, help=f"IoU of the same object ({OVERLAP})")
    parser.add_argument("--images", type=Path, help="where the images are, if not where they usually are")
    args = parser.parse_args()
    if not args.low <= args.high:
        parser.error(f"--low {args.low:g} --high {args.high:g}: need numbers, LOW at most HIGH")
    if not 0 < args.overlap <= 1:
        parser.error(f"--overlap {args.overlap:g}: must be above 0 and at most 1")
    if args.out.exists() and args.out.samefile(args.annotations):
        parser.error(f"{args.out}: holds the annotations themselves; name another file")
    try:
        records = objectness.read_dataset(args.annotations, images=args.images).records
        found = match_proposals(read_proposals(args.proposals), records, str(args.proposals))
        document = json.loads(args.annotations.read_bytes())
        by_image = {record.image_id: each for record, each in zip(records, found, strict=True)}
        taught = add_teacher_boxes(document, by_image, high=args.high, low=args.low, overlap=args.overlap)
        write_text(args.out, json.dumps(taught) + "\n")
    except (objectness.ObjectnessError, OSError) as error:
        parser.exit(1, f"{error}\n")
    num_annotated = len(document["annotations"])
    added = taught["annotations"][num_annotated:]
    num_ignored = sum(each.get("ignore", False) for each in added)
    print(
        f"{args.out}: {len(records)} images; {num_annotated} annotations, {len(added) - num_ignored} objects added, "
        f"{num_ignored} boxes added to be ignored"
    )


def add_teacher_boxes(
    document: Mapping[str, Any],
    proposals: Mapping[int | str, tuple[Floats, Floats]],
    *,
    high: float,
    low: float,
    overlap: float = OVERLAP,
) -> dict[str, Any]:
    """A copy of a COCO file with a teacher's boxes behind its own annotations.

    Args:
        document: the file's content; its boxes are known to be good. It is not changed.
        proposals: by image id boxes (n, 4) xyxy, px in the original image, and scores (n,), in any order; an image
            without an entry gets no box.
        high: boxes with at least this score are objects.
        low: the others with at least this score are ignored.
        overlap: a box with at least this IoU with an annotation, or with a box already added (the better score comes
            first), is the same object and is not added.
    """
    annotated: dict[int | str, list[list[float]]] = {}
    for each in document["annotations"]:
        x, y, width, height = each["bbox"]
        annotated.setdefault(each["image_id"], []).append([x, y, x + width, y + height])
    categories, category_id = _find_category(document)
    annotations = list(document["annotations"])
    next_id = 1 + _find_largest(each.get("id") for each in annotations)
    for image in document["images"]:
        boxes, scores = proposals.get(image["id"], (np.zeros((0, 4)), np.zeros(0)))
        limits = np.array([image["width"], image["height"]] * 2, dtype=np.float64)
        clipped: Floats = np.clip(boxes, 0, limits).round(DECIMALS)
        theirs = np.array(annotated.get(image["id"], []), dtype=np.float64).reshape(-1, 4)
        for position in choose_boxes(clipped, scores, theirs, low=low, overlap=overlap):
            x1, y1, x2, y2 = clipped[position].tolist()
            width, height, score = round(x2 - x1, DECIMALS), round(y2 - y1, DECIMALS), float(scores[position])
            added = {
                "id": next_id,
                "image_id": image["id"],
                "category_id": category_id,
                "bbox": [x1, y1, width, height],
            }
            added |= {"area": round(width * height, DECIMALS), "iscrowd": 0, "score": score}
            annotations.append(added if score >= high else {**added, "ignore": True})
            next_id += 1
    return {**document, "annotations": annotations, "categories": categories}


def choose_boxes(boxes: Floats, scores: Floats, annotated: Floats, *, low: float, overlap: float) -> list[int]:
    """The positions of boxes (n, 4) to be added, best first: new ones with an area and a score of at least `low`."""
    taken, chosen = annotated, []
    for position in np.argsort(-scores, kind="stable").tolist():
        if scores[position] < low:
            break
        box = boxes[position : position + 1]  # (1, 4)
        if (box[0, 2:] > box[0, :2]).all() and compute_iou(box, taken).max(initial=0) < overlap:
            taken = np.concatenate([taken, box])
            chosen.append(position)
    return chosen


def _find_category(document: Mapping[str, Any]) -> tuple[list[Any], int | str]:
    """The categories with the teacher's among them, and its id."""
    categories = list(document.get("categories", []))
    for each in categories:
        if each.get("name") == CATEGORY:
            own_id: int | str = each["id"]
            return categories, own_id
    used = [each.get("category_id") for each in document["annotations"]] + [each["id"] for each in categories]
    new_id = 1 + _find_largest(used)
    return [*categories, {"id": new_id, "name": CATEGORY}], new_id


def _find_largest(ids: Any) -> int:
    """The largest of those ids that are integers; 0 without any."""
    return max((each for each in ids if isinstance(each, int)), default=0)


if __name__ == "__main__":
    main()
