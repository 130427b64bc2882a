import contextlib
import io
import json
import re
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from objectness.data.dataset import read_dataset
from objectness.errors import AnnotationError, ConfigError, ObjectnessError
from objectness.evaluation.recall import AREA_RANGES, IOU_THRESHOLDS, TOPS, compute_iou, measure_recall
from objectness.evaluation.report import DEFINITION, plot_recall


class Truth(NamedTuple):
    boxes: np.ndarray
    areas: np.ndarray
    ignore: np.ndarray


def make_truth(boxes, areas=None, ignore=None):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if areas is None else np.array(areas, dtype=np.float64)
    ignore = np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore, dtype=bool)
    return Truth(boxes, areas, ignore)


def make_falling(boxes):
    """Proposals whose scores fall in the order given."""
    return boxes, np.linspace(1, 0, len(boxes))


NOTHING = ([], [])

# ------------------------------------------------------------------------------------------------- worked out by hand


def test_one_box_at_iou_080_is_found_at_seven_thresholds():
    # intersection 10 * 8 = 80, union 100: IoU 0.8, which counts at 0.50, 0.55, ... 0.80, the edge included: 7 of 10
    report = measure_recall([make_truth([[0, 0, 10, 10]])], [([[0, 0, 10, 8]], [0.5])])
    assert report.recall_by_iou(10).tolist() == [1] * 7 + [0] * 3
    assert report.average_recall(10) == pytest.approx(0.7, abs=1e-12)


def test_a_proposal_finds_one_box_only():
    # Both boxes overlap the proposal by 80 of 100 or more; it takes the larger IoU, 90 / 100 against 80 / 100.
    truth = make_truth([[0, 0, 10, 8], [0, 0, 10, 9]])
    report = measure_recall([truth], [([[0, 0, 10, 10]], [1.0])])
    assert report.recall_by_iou(10).tolist() == [0.5] * 9 + [0]


def test_a_duplicate_finds_nothing_new():
    truth = make_truth([[0, 0, 10, 10], [50, 50, 60, 60]])
    report = measure_recall([truth], [([[0, 0, 10, 10]] * 5, [0.9] * 5)])
    assert report.average_recall(10) == 0.5


def test_the_best_scored_chooses_first_though_the_whole_loses():
    # Boxes a = 0..10, b = 0..8 (widths; all of height 10). The first proposal, 0..9, overlaps a by 9/10 and b by 8/9:
    # it takes a. The second, 0..12, overlaps a by 10/12 and b by 8/12: with a gone it finds b, up to IoU 0.65.
    # Given to each other the other way round, both would be found at 0.8 (8/9 and 10/12).
    truth = make_truth([[0, 0, 10, 10], [0, 0, 8, 10]])
    report = measure_recall([truth], [make_falling([[0, 0, 9, 10], [0, 0, 12, 10]])])
    assert report.recall_by_iou(10).tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0]


def test_equal_overlaps_go_to_the_later_box():
    # The first proposal, 0..10, overlaps both boxes by 8/10 and takes the later one. The second is the box 0..8; where
    # that is taken, up to 0.8, it overlaps 2..10 by 6/10 and finds it up to 0.6. From 0.85 it alone finds its own.
    proposals = make_falling([[0, 0, 10, 10], [0, 0, 8, 10]])
    left, right = [0, 0, 8, 10], [2, 0, 10, 10]
    assert measure_recall([make_truth([left, right])], [proposals]).recall_by_iou(10).tolist() == [1] * 7 + [0.5] * 3
    assert measure_recall([make_truth([right, left])], [proposals]).recall_by_iou(10).tolist() == [1] * 3 + [0.5] * 7


def test_equal_scores_keep_their_order():
    far, near = [50, 50, 60, 60], [0, 0, 10, 10]
    truth = make_truth([near])
    assert measure_recall([truth], [([far, near], [0.5, 0.5])], top=[1]).average_recall(1) == 0
    assert measure_recall([truth], [([near, far], [0.5, 0.5])], top=[1]).average_recall(1) == 1


def test_crowds_are_neither_found_nor_missed():
    truth = make_truth([[0, 0, 10, 10], [20, 0, 40, 20]], ignore=[False, True])
    report = measure_recall([truth], [([[20, 0, 40, 20], [0, 0, 10, 10]], [0.9, 0.8])])
    assert report.num_boxes["all"] == 1
    assert report.average_recall(10) == 1
    assert report.num_ignored == report.to_dict()["ignored"] == 1
    assert report.table().startswith("Average recall over 1 images; 1 boxes ignored\n")


def test_the_mask_of_ignored_boxes_may_have_its_first_name():
    truth = make_truth([[0, 0, 10, 10], [20, 0, 40, 20]], ignore=[False, True])
    older = SimpleNamespace(boxes=truth.boxes, areas=truth.areas, crowd=truth.ignore)
    proposals = [([[0, 0, 10, 10]], [0.8])]
    assert measure_recall([older], proposals).to_dict() == measure_recall([truth], proposals).to_dict()


def test_a_crowd_takes_no_proposal_from_a_box():
    # The crowd is the proposal itself (IoU 1), the box overlaps it by 0.6 only, and is found nevertheless.
    truth = make_truth([[0, 0, 10, 6], [0, 0, 10, 10]], ignore=[False, True])
    report = measure_recall([truth], [([[0, 0, 10, 10]], [1.0])])
    assert report.recall_by_iou(10).tolist() == [1, 1, 1] + [0] * 7


def test_size_is_the_annotated_area_with_both_limits_counted_in():
    # One box of 200 x 200 px, whose outline is said to cover 32^2, 96^2, or too much for any range.
    box = [[0, 0, 200, 200]]
    proposals = [(box, [1.0])]
    assert measure_recall([make_truth(box, [1023.9])], proposals).num_boxes == {
        "all": 1,
        "small": 1,
        "medium": 0,
        "large": 0,
    }
    assert measure_recall([make_truth(box, [1024])], proposals).num_boxes == {
        "all": 1,
        "small": 1,
        "medium": 1,
        "large": 0,
    }
    assert measure_recall([make_truth(box, [9216])], proposals).num_boxes == {
        "all": 1,
        "small": 0,
        "medium": 1,
        "large": 1,
    }
    assert measure_recall([make_truth(box, [1e10 + 2])], proposals).num_boxes == dict.fromkeys(AREA_RANGES, 0)


def test_a_box_out_of_the_range_takes_no_proposal():
    # The proposal prefers the large box (IoU 1); among the small ones the other box, at IoU 0.6, is all there is.
    truth = make_truth([[0, 0, 10, 6], [0, 0, 10, 10]], areas=[60, 9999])
    report = measure_recall([truth], [([[0, 0, 10, 10]], [1.0])])
    assert report.recall_by_iou(10, "small").tolist() == [1, 1, 1] + [0] * 7
    assert report.recall_by_iou(10, "large").tolist() == [1] * 10
    assert report.recall_by_iou(10, "all").tolist() == [0.5] * 10


def test_each_top_uses_so_many_proposals_of_each_image():
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)]
    report = measure_recall([make_truth(boxes)] * 2, [make_falling(boxes)] * 2, top=(3, 1, 4, 2))
    assert report.tops == (1, 2, 3, 4)
    assert [report.average_recall(top) for top in report.tops] == [0.25, 0.5, 0.75, 1]


def test_images_without_proposals_are_missed_and_images_without_boxes_do_not_matter():
    truths = [make_truth([[0, 0, 10, 10]]), make_truth([[0, 0, 10, 10]]), make_truth([])]
    report = measure_recall(truths, [([[0, 0, 10, 10]], [1.0]), NOTHING, ([[0, 0, 10, 10]], [1.0])])
    assert report.average_recall(10) == 0.5
    assert report.num_images == 3


@pytest.mark.parametrize(
    ("truths", "proposals"),
    [([], []), ([make_truth([])], [NOTHING]), ([make_truth([[0, 0, 5, 5]], ignore=[True])], [([[0, 0, 5, 5]], [1.0])])],
    ids=["no image", "no box", "only a crowd"],
)
def test_without_a_box_there_is_no_recall(truths, proposals):
    report = measure_recall(truths, proposals)
    assert np.isnan(report.recall).all()
    assert report.recall.shape == (len(IOU_THRESHOLDS), len(AREA_RANGES), len(TOPS))
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["average_recall"]["all"]["100"] is None
    assert "-" in report.table()


def test_repr_is_short():
    report = measure_recall([make_truth([[0, 0, 10, 10]])], [([[0, 0, 10, 8]], [0.5])], top=(10, 100))
    assert repr(report) == "<RecallReport: 1 images, 1 boxes; AR@10 0.700, AR@100 0.700>"
    assert repr(measure_recall([], [], top=(10,))) == "<RecallReport: 0 images, 0 boxes; AR@10 ->"


def test_boxes_without_area_are_never_found():
    flat = [[5, 5, 5, 9], [7, 7, 7, 7]]
    report = measure_recall([make_truth(flat)], [(flat, [1.0, 1.0])])
    assert report.num_boxes["small"] == 2
    assert report.average_recall(1000) == 0


def test_iou_of_two_squares():
    # 10 x 10 moved by 5: 50 / 150; moved by 10: they only touch; one inside the other: 25 / 100
    others = np.array([[5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 5, 5]], dtype=np.float64)
    assert compute_iou(np.array([[0.0, 0, 10, 10]]), others).tolist() == [[50 / 150, 0, 0.25]]


# ------------------------------------------------------------------------------------------------- against pycocotools


def build_coco(num_images, annotations):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(num_images)],
        "categories": [{"id": 1}],
        "annotations": [{"id": i, "category_id": 1, **fields} for i, fields in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def to_xywh(boxes):
    return [
        [x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4).tolist()
    ]


class MarkedEval(COCOeval):
    """COCOeval that honours "ignore" in annotations, as it would if `_prepare` did not write iscrowd over it."""

    def _prepare(self):
        super()._prepare()
        for annotation in (each for annotations in self._gts.values() for each in annotations):
            annotation["ignore"] = annotation["marked"]


def measure_with_pycocotools(truths, proposals, tops=TOPS, gt_xywh=None, as_crowds=True):
    """Recall (T, R, M) by COCOeval; -1 becomes NaN.

    `gt_xywh`: the boxes as the file has them. `as_crowds`: what is ignored is a crowd to it, which takes any number of
    proposals, by the share of their own area; otherwise a single box, matched by IoU.
    """
    gt_xywh = gt_xywh or [to_xywh(truth.boxes) for truth in truths]
    annotations = [
        {"image_id": image, "bbox": box, "area": float(area), "marked": int(mark), "iscrowd": int(mark and as_crowds)}
        for image, truth in enumerate(truths)
        for box, area, mark in zip(gt_xywh[image], truth.areas, truth.ignore, strict=True)
    ]
    results = [
        {"image_id": image, "bbox": box, "area": box[2] * box[3], "score": float(score)}
        for image, (boxes, scores) in enumerate(proposals)
        for box, score in zip(to_xywh(boxes), scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = MarkedEval(build_coco(len(truths), annotations), build_coco(len(truths), results), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(tops)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0]
    return np.where(recall < 0, np.nan, recall)


def assert_equals_pycocotools(truths, proposals, tops=TOPS, gt_xywh=None, as_crowds=True):
    report = measure_recall(truths, proposals, top=tops)
    expected = measure_with_pycocotools(truths, proposals, tops, gt_xywh, as_crowds)
    np.testing.assert_allclose(report.recall, expected, rtol=0, atol=1e-9)  # NaN equals NaN
    for m, top in enumerate(report.tops):
        for r, area in enumerate(AREA_RANGES):
            assert report.average_recall(top, area) == pytest.approx(expected[:, r, m].mean(), abs=1e-9, nan_ok=True)
    return report


# On a grid of whole pixels overlaps coincide and lie exactly on thresholds: 10 x 1..20 px give k / 20 and k / 10.
coordinates = st.integers(0, 20)
gt_areas = st.sampled_from([0.0, 1.0, 500.0, 1023.999, 1024.0, 1024.001, 5000.0, 9216.0, 9217.0, 1e10, 1e10 + 2, -1.0])


@st.composite
def grid_boxes(draw):
    x1, y1 = draw(coordinates), draw(st.sampled_from([0, 0, 0, 5]))
    width, height = draw(st.integers(-1, 20)), draw(st.sampled_from([10, 10, 10, 20, 0]))
    return [x1, y1, x1 + width, y1 + height]


@st.composite
def grid_images(draw):
    gt = draw(st.lists(st.tuples(grid_boxes(), gt_areas, st.sampled_from([False, False, False, True])), max_size=6))
    proposals = draw(st.lists(st.tuples(grid_boxes(), st.sampled_from([0.25, 0.5, 0.5, 0.75])), max_size=12))
    # and some that are a box of the ground truth, so that much overlaps much
    copied = draw(st.lists(st.sampled_from([box for box, _, _ in gt]), max_size=4)) if gt else []
    proposals += [(box, 0.5) for box in copied]
    truth = make_truth([box for box, _, _ in gt], [area for _, area, _ in gt], [crowd for _, _, crowd in gt])
    return truth, ([box for box, _ in proposals], [score for _, score in proposals])


@given(st.lists(grid_images(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_equals_pycocotools_where_everything_ties(images, as_crowds):
    truths, proposals = zip(*images, strict=True)
    assert_equals_pycocotools(truths, proposals, tops=(1, 2, 5, 100), as_crowds=as_crowds)


def test_equals_pycocotools_on_equal_overlaps():
    # Boxes of one height that begin at 0..4 and end at 6..10 px: a few proposals overlap several of them alike.
    rng = np.random.default_rng(0)
    truths, proposals = [], []
    for _ in range(400):
        x1, x2 = rng.integers(0, 5, 9), rng.integers(6, 11, 9)
        boxes = np.stack([x1, np.zeros(9), x2, np.full(9, 10)], axis=1)
        truths.append(make_truth(boxes[:4], ignore=rng.random(4) < 0.1))
        proposals.append((boxes[4:], rng.integers(0, 3, 5) / 2))
    assert_equals_pycocotools(truths, proposals, tops=(1, 2, 3, 5))


def jitter(rng, boxes, count, spread=0.12):
    """`count` proposals near the boxes, (count, 4); none without boxes."""
    if not len(boxes):
        return np.zeros((0, 4))
    near = boxes[rng.integers(0, len(boxes), count)]
    return near + rng.normal(0, spread, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)


def make_crowded_image(rng, num_boxes, num_proposals):
    """Many boxes on top of each other, coarse scores, some proposals twice, some without size."""
    boxes = jitter(rng, np.array([[100.0, 100, 160, 160]]), num_boxes, spread=0.15)
    truth = make_truth(boxes, rng.choice([900.0, 1024, 4000, 9216, 20000], num_boxes), rng.random(num_boxes) < 0.15)
    guesses = jitter(rng, boxes, num_proposals)
    guesses[::50, 2] = guesses[::50, 0]
    guesses[1::50] = guesses[2::50]
    return truth, (guesses.astype(np.float32), (rng.integers(0, 40, num_proposals) / 40).astype(np.float32))


def test_a_marked_file_is_measured_as_pycocotools_would(tmp_path):
    """A file with crowds, marked boxes and a class to ignore, read here, beside COCOeval on what is left to ignore."""
    rng = np.random.default_rng(5)
    document = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"class {i}"} for i in range(3)]}
    ignored, proposals = [], []
    for image in range(30):
        (tmp_path / f"{image}.jpg").touch()
        document["images"].append({"id": image, "file_name": f"{image}.jpg", "width": 400, "height": 300})
        boxes = rng.uniform(0, 200, (12, 4)) + np.array([0, 0, 20, 20])
        boxes[:, 2:] = boxes[:, :2] + np.minimum(boxes[:, 2:], [399, 299] - boxes[:, :2])
        flags = rng.random((12, 2)) < [0.1, 0.2]
        classes = rng.integers(0, 3, 12)
        document["annotations"] += [
            {"image_id": image, "bbox": box, "iscrowd": int(crowd), "ignore": bool(mark), "category_id": int(category)}
            for box, (crowd, mark), category in zip(to_xywh(boxes), flags, classes, strict=True)
        ]
        ignored.append(flags.any(axis=1) | (classes == 2))
        proposals.append((jitter(rng, boxes, 60), rng.random(60)))
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = read_dataset(tmp_path / "a.json", ignore_classes=["class 2"])
    assert [record.ignore.tolist() for record in dataset.records] == [each.tolist() for each in ignored]
    for as_crowds in (False, True):
        report = assert_equals_pycocotools(dataset.records, proposals, tops=(5, 10, 30), as_crowds=as_crowds)
    counts = [int(re.search(r"boxes ignored .*?: (\d+)", note)[1]) for note in dataset.notes]
    assert report.num_ignored == sum(counts) == sum(each.sum() for each in ignored)
    without = measure_recall(read_dataset(tmp_path / "a.json").records, proposals, top=(5,))
    assert without.num_ignored < report.num_ignored
    assert without.average_recall(5) != report.average_recall(5)


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_on_crowded_images_of_more_than_1000_proposals(seed):
    rng = np.random.default_rng(seed)
    images = [make_crowded_image(rng, 12, count) for count in (1300, 1000, 999, 40)]
    images += [(make_truth([]), make_falling(np.full((3, 4), 7.0))), (make_truth([[0, 0, 9, 9]]), NOTHING)]
    truths, proposals = zip(*images, strict=True)
    report = assert_equals_pycocotools(truths, proposals)
    assert 0 < report.average_recall(10) < report.average_recall(1000) < 1  # the input tells the tops apart


def test_equals_pycocotools_when_a_box_is_refused_many_times():
    # 30 nested boxes and proposals of the same shapes: nearly every box asks for a proposal that another one gets.
    boxes = [[0, 0, 100 + i, 100] for i in range(30)]
    assert_equals_pycocotools([make_truth(boxes)], [make_falling(boxes[::-1])])
    assert_equals_pycocotools([make_truth(boxes)], [make_falling([[0, 0, 115, 100]] * 20)])


@pytest.fixture(scope="module")
def coco_val(shared_data):
    """Truths and the file's own xywh boxes of every fourth image of real COCO."""
    path = shared_data / "coco" / "val.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    content = json.loads(path.read_text())
    per_image = {image["id"]: [] for image in content["images"][::4]}
    for annotation in content["annotations"]:
        if annotation["image_id"] in per_image:
            per_image[annotation["image_id"]].append(annotation)
    xywh = [[a["bbox"] for a in annotations] for annotations in per_image.values()]
    truths = [
        make_truth(
            [[x, y, x + w, y + h] for x, y, w, h in boxes], [a["area"] for a in anns], [a["iscrowd"] for a in anns]
        )
        for boxes, anns in zip(xywh, per_image.values(), strict=True)
    ]
    return truths, xywh


def test_equals_pycocotools_on_real_boxes(coco_val):
    truths, xywh = coco_val
    rng = np.random.default_rng(0)
    proposals = []
    for index, truth in enumerate(truths):
        guesses = np.concatenate([jitter(rng, truth.boxes, 60), rng.uniform(0, 448, (20, 4))])[: 80 - index % 3 * 40]
        proposals.append((guesses.astype(np.float32), rng.random(len(guesses)).astype(np.float32)))
    assert any(truth.ignore.any() for truth in truths)
    report = assert_equals_pycocotools(truths, proposals, tops=(5, 10, 30, 100), gt_xywh=xywh)
    assert min(report.num_boxes.values()) > 50
    assert 0 < report.average_recall(5) < report.average_recall(30) < 1


# ---------------------------------------------------------------------------------------------------------- the report


def make_report(counts, top=(10, 100)):
    truths = [make_truth([[0, 0, 10, 10]])] * len(counts)
    return measure_recall(truths, [make_falling(np.tile([0.0, 0, 10, 10], (count, 1))) for count in counts], top=top)


def test_kept_is_silent_where_there_are_enough():
    assert make_report([100, 120]).describe_kept(100) is None


def test_kept_says_when_an_ar_is_another_ar():
    assert make_report([40, 3]).describe_kept(100) == "AR@100: no image has more than 40 proposals, so this is AR@40."
    assert make_report([0, 0]).describe_kept(10) == "AR@10: no image has a proposal."


def test_kept_counts_the_images_with_fewer():
    report = make_report([100, 99, 3, 100])
    assert report.describe_kept(100) == "AR@100: 2 of 4 images have fewer than 100 proposals (fewest: 3)."
    assert report.describe_kept(10) == "AR@10: 1 of 4 images has fewer than 10 proposals (fewest: 3)."


def test_kept_counts_what_was_given_also_beyond_the_largest_top():
    assert make_report([150, 150], top=[10]).proposals_per_image.tolist() == [150, 150]


def test_score_curve_by_hand():
    # Two boxes in two images. Image one: its box at 0.9 (IoU 1) and something else at 0.6. Image two: IoU 0.7 at 0.4.
    box = [0, 0, 10, 10]
    proposals = [([box, [50, 50, 60, 60]], [0.9, 0.6]), ([[0, 0, 10, 7]], [0.4])]
    curve = measure_recall([make_truth([box])] * 2, proposals, score_thresholds=[0, 0.4, 0.5, 0.9, 0.95]).score_curve
    assert curve.proposals_per_image.tolist() == [1.5, 1.5, 1, 0.5, 0]  # 3, 3, 2, 1, 0 of two images; 0.4 >= 0.4
    assert curve.recall_50.tolist() == [1, 1, 0.5, 0.5, 0]
    # IoU 0.7 counts at 0.50 ... 0.70, 5 of 10 thresholds: (1 + 0.5) / 2, then 1 / 2
    np.testing.assert_allclose(curve.average_recall, [0.75, 0.75, 0.5, 0.5, 0], atol=1e-12)


def test_score_curve_equals_measuring_what_is_left():
    rng = np.random.default_rng(3)
    truths, proposals = zip(*(make_crowded_image(rng, 8, 120) for _ in range(3)), strict=True)
    curve = measure_recall(truths, proposals, top=[100]).score_curve
    for i, threshold in enumerate(curve.thresholds):
        left = [(boxes[scores >= threshold], scores[scores >= threshold]) for boxes, scores in proposals]
        report = measure_recall(truths, left, top=[100])
        assert curve.average_recall[i] == pytest.approx(report.average_recall(100), abs=1e-12)
        assert curve.recall_50[i] == report.recall_by_iou(100)[0]
        assert curve.proposals_per_image[i] == np.minimum(report.proposals_per_image, 100).mean()


def test_order_and_scale_do_not_matter():
    rng = np.random.default_rng(4)
    truths, proposals = zip(*(make_crowded_image(rng, 8, 100) for _ in range(3)), strict=True)
    recall = measure_recall(truths, proposals).recall
    np.testing.assert_array_equal(measure_recall(truths[::-1], proposals[::-1]).recall, recall)
    bigger = [truth._replace(boxes=truth.boxes * 4) for truth in truths]  # areas stay as annotated
    scaled = [(boxes * 4, np.log(scores + 1)) for boxes, scores in proposals]
    np.testing.assert_array_equal(measure_recall(bigger, scaled).recall, recall)


def test_to_dict_is_json_and_says_what_the_report_says():
    report = make_report([20, 20])
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["definition"] == DEFINITION
    assert written["images"] == 2
    assert written["boxes"] == {"all": 2, "small": 2, "medium": 0, "large": 0}
    assert written["average_recall"]["small"] == {"10": 1.0, "100": 1.0}
    assert written["average_recall"]["large"] == {"10": None, "100": None}
    assert written["iou_thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert written["recall_by_iou"]["all"]["10"] == [1.0] * 10
    assert written["kept"]["10"] == {"images_with_fewer": 0, "note": None}
    assert written["kept"]["100"] == {"images_with_fewer": 2, "note": report.describe_kept(100)}
    assert written["score_curve"]["thresholds"][:2] == [0, 0.05]
    assert len(written["score_curve"]["average_recall"]) == 20


def test_table_holds_the_numbers_and_their_definition():
    report = make_report([20, 20])
    lines = report.table().splitlines()
    assert "  size  boxes  AR@10  AR@100" in lines
    assert " small      2  1.000   1.000" in lines
    assert " large      0      -       -" in lines
    assert "0.95  1.000  1.000" in lines
    text = " ".join(report.table().split())
    assert DEFINITION in text
    assert "AR@100: no image has more than 20 proposals, so this is AR@20." in text


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    for report in (make_report([20, 0]), measure_recall([], [])):
        plot_recall(report, tmp_path / "recall.png")
        with Image.open(tmp_path / "recall.png") as picture:
            assert picture.width > 1000


def test_plot_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ObjectnessError, match=r"pip install 'objectness\[plot\]'"):
        plot_recall(make_report([1]), tmp_path / "recall.png")


# ---------------------------------------------------------------------------------------------------------- bad input

BOX = [[0, 0, 10, 10]]


@pytest.mark.parametrize(
    ("truths", "proposals", "message"),
    [
        ([make_truth(BOX)], [], "1 images have ground truth but 0 have proposals"),
        ([make_truth([])] * 2, [NOTHING, (BOX, [0.1, 0.2])], r"image 1: 1 proposals, but scores of shape \(2,\)"),
        ([make_truth([])], [([[0, 0, 10]], [0.1])], r"image 0, proposals: boxes of shape \(1, 3\)"),
        ([make_truth([])], [([0, 0, 10, 10], [0.1])], r"image 0, proposals: boxes of shape \(4,\)"),
        ([make_truth([])], [([[0, 0, 10, 10], [1, 2]], [0.1, 0.1])], "image 0, proposals: not an array of numbers"),
        ([make_truth([])], [(BOX, [np.nan])], "image 0, scores: 1 numbers are NaN or infinite"),
        ([make_truth([])], [([[0, 0, np.inf, 10]], [0.1])], "image 0, proposals: 1 numbers are NaN or infinite"),
        ([make_truth(BOX, areas=[np.nan])], [NOTHING], "image 0, areas: 1 numbers are NaN or infinite"),
        ([make_truth(BOX, areas=[1, 2])], [NOTHING], r"image 0: 1 ground-truth boxes, but areas of shape \(2,\)"),
        ([make_truth(BOX, ignore=[])], [NOTHING], r"ignore of shape \(0,\); give one of each"),
    ],
)
def test_input_that_does_not_fit_is_named(truths, proposals, message):
    with pytest.raises(AnnotationError, match=message):
        measure_recall(truths, proposals)


@pytest.mark.parametrize("top", [(), (0, 10)])
def test_top_must_be_positive(top):
    with pytest.raises(ConfigError, match="each at least 1"):
        measure_recall([], [], top=top)


def test_what_was_not_measured_is_named():
    with pytest.raises(ConfigError, match="AR@50 of 'all' was not measured; there is k = 10, 100 of all, small"):
        make_report([1]).average_recall(50)
