from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objectness.errors import AnnotationError, ImageError
from objectness.images.drawing import DARK, LEVEL_COLOURS, draw_boxes
from objectness.images.reading import read_image

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)


def changed(picture: Image.Image, image: np.ndarray = GREY) -> np.ndarray:
    """(H, W) bool: where a picture is not its image."""
    return (np.asarray(picture) != image).any(-1)


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), torch.zeros(0, 4)], ids=["list", "array", "tensor"])
def test_no_boxes_give_the_image(boxes: object) -> None:
    assert not changed(draw_boxes(GREY, boxes, [], [])).any()
    assert not changed(draw_boxes(GREY, boxes)).any()


def test_lines_lie_on_the_edges() -> None:
    # width 2 on x1 = 20.3: from 19.3 to 21.3, rounded 19 and 21; beside each line one dark pixel
    row = np.asarray(draw_boxes(GREY, [[20.3, 10, 60.4, 40]], levels=[4], width=2))[25].tolist()
    yellow = list(LEVEL_COLOURS[4])
    dark = np.rint(128 * 0.4 + np.array(DARK) * 0.6).astype(int).tolist()
    assert row[17:23] == [[128] * 3, dark, yellow, yellow, dark, [128] * 3]
    assert row[57:63] == [[128] * 3, dark, yellow, yellow, dark, [128] * 3]
    assert row[23:57] == [[128] * 3] * 34


def test_frames_have_no_gaps_and_no_pixel_is_blended_twice() -> None:
    boxes, scores = [[20, 10, 60, 40], [0, 0, 5, 5], [20, 50, 60, 51]], [1, 0, 0]
    pixels = np.asarray(draw_boxes(GREY, boxes, scores, [2, 2, 2], width=4, labels=0))
    frame, corner, thin = pixels[8:42, 18:62], pixels[0:2, 0:7], pixels[48:53, 18:62]
    assert (frame[[0, 3, -4, -1]] == LEVEL_COLOURS[2]).all()
    assert (frame[:, [0, 3, -4, -1]] == LEVEL_COLOURS[2]).all()
    faint = np.rint(128 * 0.6 + np.array(LEVEL_COLOURS[2]) * 0.4)
    assert (corner == faint).all()
    assert (thin == faint).all()


def test_the_input_is_not_changed() -> None:
    image, boxes, scores = GREY.copy(), np.array([[5.0, 5, 50, 50]]), np.array([0.5])
    assert changed(draw_boxes(image, boxes, scores)).any()
    picture = Image.fromarray(image)
    draw_boxes(picture, boxes, scores)
    assert (image == GREY).all()
    assert (np.asarray(picture) == GREY).all()
    assert (boxes.tolist(), scores.tolist()) == ([[5, 5, 50, 50]], [0.5])


def test_boxes_on_and_over_the_border_stay_visible() -> None:
    for box in ([0, 0, 80, 60], [-30, -9, 200, 61.5]):
        pixels = np.asarray(draw_boxes(GREY, [box], levels=[3], width=2))
        for border in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (border == LEVEL_COLOURS[3]).all()
        assert (pixels[3:-3, 3:-3] == 128).all()
    corner = np.asarray(draw_boxes(GREY, [[0, 20, 40, 40]], width=2))
    assert (corner[18, :42] == corner[18, 20]).all()  # the dark line goes to the border too
    assert (corner[18, 20] < 128).all()


@pytest.mark.parametrize("box", [[90, 10, 99, 20], [10, 70, 20, 75], [-9, -9, -2, -2]])
def test_boxes_outside_are_not_drawn(box: list[float]) -> None:
    assert not changed(draw_boxes(GREY, [box], width=2)).any()


@pytest.mark.parametrize("box", [[40, 30, 40, 30], [40, 30, 40.4, 30.4], [40, 10, 40, 50]])
def test_boxes_without_area_are_seen(box: list[float]) -> None:
    assert changed(draw_boxes(GREY, [box], width=2))[30, 40]


@pytest.mark.parametrize("box", [[10, 30, 70, 31], [40, 5, 41, 55], [40, 30, 41, 31]])
def test_thin_boxes_are_drawn_in_full_colour(box: list[float]) -> None:
    pixels = np.asarray(draw_boxes(GREY, [box], levels=[6], width=4))
    frame = [value + by for value, by in zip(box, (-2, -2, 2, 2), strict=True)]
    assert (pixels[frame[1] : frame[3], frame[0] : frame[2]] == LEVEL_COLOURS[6]).all()


def test_one_pixel_is_an_image() -> None:
    assert draw_boxes(GREY[:1, :1], [[0, 0, 1, 1]], [0.9], [2]).size == (1, 1)


def test_the_best_lie_on_top_and_the_worst_are_faint() -> None:
    boxes = [[10, 10, 40, 40], [10, 10, 40, 40], [50, 10, 70, 40]]
    pixels = np.asarray(draw_boxes(GREY, boxes, [0.2, 0.9, 0.2], [2, 6, 5], width=2, labels=0))
    assert (pixels[25, 10] == LEVEL_COLOURS[6]).all()
    orange = np.array(LEVEL_COLOURS[5])
    assert (pixels[25, 50] == np.rint(128 * 0.6 + orange * 0.4)).all()  # the lowest score: 0.4 of its colour


def test_order_decides_where_there_are_no_scores() -> None:
    boxes = [[10, 10, 40, 40], [10, 10, 40, 40]]
    assert (np.asarray(draw_boxes(GREY, boxes, levels=[2, 3], width=2))[25, 10] == LEVEL_COLOURS[2]).all()


def test_only_the_best_are_drawn() -> None:
    boxes, scores = [[5, 5, 25, 25], [30, 5, 50, 25], [55, 5, 75, 25]], [0.1, 0.8, 0.9]
    two = draw_boxes(GREY, boxes, scores, max_boxes=2)
    assert changed(two)[15, [5, 30, 55]].tolist() == [False, True, True]
    assert two.tobytes() == draw_boxes(GREY, boxes[1:], scores[1:]).tobytes()
    assert not changed(draw_boxes(GREY, boxes, scores, max_boxes=0)).any()


def test_labels_are_for_the_best_and_do_not_cover_one_another() -> None:
    image = np.full((200, 300, 3), 128, dtype=np.uint8)
    boxes = [[20, 50, 80, 120], [22, 52, 90, 130], [150, 50, 220, 120], [240, 0, 290, 60]]
    scores = [0.9, 0.8, 0.7, 0.6]

    def labelled(count: int) -> np.ndarray:
        plain, labels = (draw_boxes(image, boxes, scores, labels=labels) for labels in (0, count))
        return changed(labels, np.asarray(plain))

    assert not labelled(0).any()
    assert labelled(1)[:50, :150].any()
    assert (labelled(2) == labelled(1)).all()  # the second would cover the first
    assert labelled(3)[:50, 150:240].any()
    assert not labelled(3)[:, 240:].any()
    assert labelled(4)[:60, 240:].any()  # no room above: it stands inside


def test_lines_grow_with_the_image() -> None:
    def share(scale: int) -> float:
        image = np.full((240 * scale, 320 * scale, 3), 128, dtype=np.uint8)
        return float(changed(draw_boxes(image, [[50 * scale, 50 * scale, 250 * scale, 200 * scale]]), image).mean())

    assert share(8) == pytest.approx(share(4), rel=0.15)


@pytest.mark.parametrize(
    ("boxes", "scores", "levels", "sentence"),
    [
        ([1, 2, 3, 4], None, None, r"boxes to draw are \(n, 4\), and these are \(4,\)"),
        ([[1, 2, 3]], None, None, r"boxes to draw are \(n, 4\), and these are \(1, 3\)"),
        ([[1, 2, 3, 4]], [0.5, 0.4], None, r"scores to draw are \(1,\), and these are \(2,\)"),
        ([[1, 2, 3, 4]], None, [], r"levels to draw are \(1,\), and these are \(0,\)"),
        ([[1, 2, 3, float("nan")]], None, None, "boxes to draw are finite"),
        ([[1, 2, 3, 4]], [float("inf")], None, "scores to draw are finite"),
    ],
)
def test_what_does_not_fit_is_refused(boxes: object, scores: object, levels: object, sentence: str) -> None:
    with pytest.raises(AnnotationError, match=sentence):
        draw_boxes(GREY, boxes, scores, levels)


@pytest.mark.parametrize("image", [GREY[..., 0], GREY / 255, GREY.transpose(2, 0, 1)])
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8, and this one is"):
        draw_boxes(image, [])


def test_a_photo_keeps_its_pixels_between_the_lines(shared_data: Path) -> None:
    photo = read_image(min((shared_data / "coco" / "images").iterdir()))
    picture = draw_boxes(photo, [[10, 10, 100, 100]], [0.5], width=2, labels=0)
    different = changed(picture, photo)
    assert different.any()
    assert not different[14:96, 14:96].any()
