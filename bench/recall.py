"""Time `measure_recall` beside pycocotools in one process: python bench/recall.py [--quick]

Both get the same 150 images of 1,000 proposals and must agree to 1e-9. Ours is timed from plain arrays to the report.
pycocotools is timed in `evaluate()` and `accumulate()` alone; the indexes of dicts that it needs first are timed apart
and left out of the ratio. The runs are interleaved, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from objectness.evaluation.recall import TOPS, measure_recall

Floats = NDArray[np.float64]
SIZE_PX = 640.0


class Truth(NamedTuple):
    """The ground truth of one image."""

    boxes: Floats
    areas: Floats
    ignore: NDArray[np.bool_]


def main() -> None:
    num_images, num_runs = (20, 3) if "--quick" in sys.argv[1:] else (150, 5)
    truths, proposals = make_input(num_images)
    ours, theirs, indexing = [], [], []
    for _ in range(num_runs):
        seconds, report = measure_time(measure_recall, truths, proposals)
        ours.append(seconds)
        seconds, evaluation = measure_time(build_cocoeval, truths, proposals)
        indexing.append(seconds)
        seconds, recall = measure_time(run_cocoeval, evaluation)
        theirs.append(seconds)
    difference = float(np.abs(report.recall - recall).max())
    assert difference < 1e-9, f"recall differs by {difference}"
    ours_s, theirs_s, indexing_s = map(statistics.median, (ours, theirs, indexing))
    print(f"AR@{{{', '.join(map(str, TOPS))}}}, {num_images} images of 1000 proposals, median of {num_runs} runs")
    print(f"  objectness.measure_recall             {ours_s:8.3f} s")
    print(f"  pycocotools evaluate + accumulate     {theirs_s:8.3f} s   {theirs_s / ours_s:6.0f} times as long")
    print(f"  pycocotools' indexes, not counted     {indexing_s:8.3f} s")
    print(f"  largest difference in recall          {difference:8.1e}")


def make_input(num_images: int, num_proposals: int = 1000) -> tuple[list[Truth], list[tuple[Floats, Floats]]]:
    """About 7 boxes an image, as in COCO; half the proposals near a box, half anywhere."""
    rng = np.random.default_rng(0)
    truths, proposals = [], []
    for _ in range(num_images):
        boxes = make_boxes(rng, int(rng.integers(0, 15)))
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.uniform(0.4, 1, len(boxes))
        truths.append(Truth(boxes, areas, rng.random(len(boxes)) < 0.02))
        near = boxes[rng.integers(0, len(boxes), num_proposals // 2)] if len(boxes) else np.zeros((0, 4))
        near = near + rng.normal(0, 0.12, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
        guesses = np.concatenate([near, make_boxes(rng, num_proposals - len(near))])
        proposals.append((rng.permutation(guesses), rng.random(num_proposals)))
    return truths, proposals


def make_boxes(rng: np.random.Generator, count: int) -> Floats:
    sizes = np.exp(rng.uniform(np.log(8), np.log(500), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (SIZE_PX - sizes)
    return np.concatenate([corners, corners + sizes], axis=1)


def measure_time(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def build_cocoeval(truths: list[Truth], proposals: list[tuple[Floats, Floats]]) -> Any:
    annotations = [
        {"image_id": image, "bbox": box, "area": float(area), "iscrowd": int(crowd)}
        for image, truth in enumerate(truths)
        for box, area, crowd in zip(to_xywh(truth.boxes), truth.areas, truth.ignore, strict=True)
    ]
    results = [
        {"image_id": image, "bbox": box, "area": box[2] * box[3], "score": float(score)}
        for image, (boxes, scores) in enumerate(proposals)
        for box, score in zip(to_xywh(boxes), scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(build_index(annotations, len(truths)), build_index(results, len(truths)), "bbox")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = list(TOPS)
    return evaluation


def build_index(annotations: list[dict[str, Any]], num_images: int) -> Any:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(num_images)],
        "categories": [{"id": 1}],
        "annotations": [{"id": i, "category_id": 1, **fields} for i, fields in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def to_xywh(boxes: Floats) -> list[list[float]]:
    xywh: list[list[float]] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    return xywh


def run_cocoeval(evaluation: Any) -> Floats:
    """Recall (T, R, M), as `RecallReport.recall`."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    recall: Floats = evaluation.eval["recall"][:, 0]
    return recall


if __name__ == "__main__":
    main()
