from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectness.data.faults import Faults
from objectness.data.findings import Found, FoundBox, FoundImage, assemble
from objectness.data.records import Dataset
from objectness.errors import AnnotationError

IMAGE = Path(__file__)  # any file does: sizes are given
INF, NAN = math.inf, math.nan


def make_images(*sizes: tuple[int, int]) -> list[FoundImage]:
    return [FoundImage(f"image {i}", IMAGE, f"{i}.jpg", i, size) for i, size in enumerate(sizes)]


def take(*boxes: tuple[float, ...], skip_bad: bool = False) -> Dataset:
    """Boxes of one image of 100 x 200 px (height x width)."""
    found = Found(make_images((100, 200)), [FoundBox(f"box {i}", 0, box) for i, box in enumerate(boxes)])
    return assemble("set", found, Faults(skip_bad=skip_bad))


def test_boxes_come_to_their_images_in_the_order_of_the_file():
    boxes = [FoundBox("", owner, (x, 0, x + 1, 1)) for owner, x in ((2, 0), (0, 1), (2, 2), (0, 3))]
    dataset = assemble("set", Found(make_images((9, 9), (9, 9), (9, 9)), boxes), Faults(skip_bad=False))
    assert [record.boxes[:, 0].tolist() for record in dataset.records] == [[1, 3], [], [0, 2]]
    assert [record.boxes.shape for record in dataset.records] == [(2, 4), (0, 4), (2, 4)]
    assert dataset.records[1].areas.shape == dataset.records[1].ignore.shape == (0,)


def test_types_are_those_promised():
    for record in take().records + take((1, 2, 3, 4)).records:
        assert (record.boxes.dtype, record.areas.dtype, record.ignore.dtype) == (np.float64, np.float64, np.bool_)


def test_areas_are_the_annotations_or_the_clipped_boxs():
    boxes = [FoundBox("", 0, (-1, 2, 3, 4)), FoundBox("", 0, (1, 2, 3, 4), area=1.5, mark="crowd")]
    (record,) = assemble("set", Found(make_images((10, 10)), boxes), Faults(skip_bad=False)).records
    assert record.areas.tolist() == [6, 1.5]  # (3 - 0) x (4 - 2) = 6
    assert record.ignore.tolist() == [False, True]
    assert record.crowd is record.ignore  # its first name


def test_rounding_is_clipped_silently_and_more_with_a_note():
    dataset = take((-0.9, 0, 200.9, 101))
    assert dataset.records[0].boxes.tolist() == [[0, 0, 200, 100]]
    assert dataset.notes == ()
    assert take((0, 0, 10, 10), (0, 0, 202, 10), (-5, 0, 7, 7)).notes == (
        "boxes clipped to their images: 2; the first is box 1",
    )


def test_shares_become_pixels():
    found = Found(make_images((100, 200)), [FoundBox("", 0, (0.25, 0.25, 0.5, 1))], normalised=True)
    assert assemble("set", found, Faults(skip_bad=False)).records[0].boxes.tolist() == [[50, 25, 100, 100]]


BAD_BOXES = [
    ((10, 20, 10, 30), r"the box has no width \(x1 = x2 = 10\)"),
    ((10, 20, 30, 20), r"the box has no height \(y1 = y2 = 20\)"),
    ((10, 20, 10 + 1e-9, 30), r"the box has no width \(x1 = x2 = 10\)"),  # none in float32
    ((10, 20, 5, 30), r"the box has a negative width \(x1 = 10, x2 = 5\)"),
    ((10, 20, 15, -30), r"the box has a negative height \(y1 = 20, y2 = -30\)"),
    ((NAN, 20, 15, 30), r"the box has numbers that are not finite \(nan, 20, 15, 30\)"),
    ((-INF, 20, INF, 30), "not finite"),
    ((200, 20, 210, 30), r"the box \(200, 20, 210, 30\) lies outside the image of 200 x 100 px"),
    ((10, -20, 210, -1), "lies outside"),
    ((-1e308, 1e308, 1e308, 1.5e308), "lies outside"),
    ((-5, 0, 1e-60, 1), "lies outside"),  # a width that float32 cannot hold
]


@pytest.mark.parametrize(("box", "message"), BAD_BOXES)
def test_bad_box_raises(box, message):
    with pytest.raises(
        AnnotationError, match=rf"^box 1: .*{message}.*; mend it, or pass --skip-bad to leave such boxes out$"
    ):
        take((1, 2, 3, 4), box)


def test_bad_boxes_are_left_out_where_asked():
    dataset = take((1, 2, 3, 4), *(box for box, _ in BAD_BOXES), (5, 6, 7, 8), skip_bad=True)
    assert dataset.records[0].boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert dataset.notes == ("boxes left out: 11; the first is box 1: the box has no width (x1 = x2 = 10)",)


def test_message_counts_the_others():
    with pytest.raises(AnnotationError, match=r"\(x1 = x2 = 1\) \(2 bad boxes in all\); mend"):
        take((1, 2, 1, 4), (1, 2, 3, 4), (1, 2, 3, 2))


def test_doubled_and_missing_images(tmp_path):
    images = make_images((9, 9), (9, 9), (9, 9))
    images[1] = images[1]._replace(path=tmp_path / "nix.jpg")
    images[2] = images[2]._replace(image_id=0)
    boxes = [FoundBox("", owner, (0, 0, 1, 1)) for owner in (0, 1, 2)]
    with pytest.raises(
        AnnotationError, match=r"image 1: the image .*nix\.jpg is missing; mend it, or .* such images out"
    ):
        assemble("set", Found(images, boxes), Faults(skip_bad=False))
    with pytest.raises(AnnotationError, match="image 2: a second image has the name or id 0"):
        assemble("set", Found(images[::2], []), Faults(skip_bad=False))
    dataset = assemble("set", Found(images, boxes), Faults(skip_bad=True))
    assert [(record.image_id, len(record.boxes)) for record in dataset.records] == [(0, 1)]
    assert dataset.notes[0].startswith("images left out: 2; the first is image 1: the image ")


def test_no_image_raises(tmp_path):
    with pytest.raises(AnnotationError, match="set: there is no image in this data set; check that the path"):
        assemble("set", Found([], []), Faults(skip_bad=True))
    missing = [image._replace(path=tmp_path / "nix.jpg") for image in make_images((9, 9))]
    with pytest.raises(AnnotationError, match="no image in this data set; images left out: 1; the first is image 0"):
        assemble("set", Found(missing, []), Faults(skip_bad=True))


@given(st.lists(st.tuples(*[st.floats() | st.integers(-5, 205).map(float)] * 4), max_size=5))
@settings(deadline=None)
def test_whatever_is_taken_lies_in_the_image_and_has_an_area(boxes):
    (record,) = take(*boxes, skip_bad=True).records
    boxes_seen = record.boxes.astype(np.float32)  # (G, 4)
    assert (boxes_seen[:, :2] < boxes_seen[:, 2:]).all()
    assert ((boxes_seen >= 0) & (boxes_seen <= [200, 100, 200, 100])).all()
    assert (record.areas > 0).all()
