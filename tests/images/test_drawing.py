from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from objectness.errors import AnnotationError, ConfigError, ImageError
from objectness.images.drawing import BOX_COLOURS, DARK, LEVEL_COLOURS, draw_boxes, save_picture
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
    ys, xs = labelled(1).nonzero()  # the box's line of 1 px begins at 19.5, 49.5, rounded to 20, 50
    assert (xs.min(), ys.max()) == (20, 49)  # above the box, at its left
    second = labelled(2) & ~labelled(1)
    assert second[130:, 20:92].any()  # above its box it would cover the first label or line: it stands below
    assert (labelled(2) & labelled(1) == labelled(1)).all()  # and leaves the first as it is
    assert labelled(3)[:50, 150:240].any()
    assert not labelled(3)[:, 240:].any()
    assert labelled(4)[60:, 240:].any()  # no room above: it stands below


def record_labels(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], boxes: np.ndarray, scores: np.ndarray
) -> list[tuple[int, int, int, int]]:
    """The labels that are drawn on all of the boxes in an image of `size` (height, width): first and last pixels."""
    labels: list[tuple[int, int, int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "rectangle", lambda self, xy, fill: labels.append(xy))
        draw_boxes(np.zeros((*size, 3), np.uint8), boxes, scores, colour_by="box", labels=len(boxes))
    return labels


@pytest.mark.parametrize("seed", range(8))
def test_labels_never_meet_and_never_leave_the_picture(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(200, 900)), int(rng.integers(200, 900)))
    corners = rng.uniform(-0.1, 1.1, (30, 2, 2)) * size[::-1]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    labels = record_labels(monkeypatch, size, boxes, rng.uniform(size=30))
    assert len(labels) > 10
    for number, (x1, y1, x2, y2) in enumerate(labels):
        assert 0 <= x1 < x2 < size[1]
        assert 0 <= y1 < y2 < size[0]
        for left, top, right, bottom in labels[:number]:  # with a pixel between
            assert x1 > right + 1 or left > x2 + 1 or y1 > bottom + 1 or top > y2 + 1


def test_ten_boxes_on_one_place_all_have_their_label(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[100, 100, 300, 300]] * 10) + np.arange(10)[:, None]
    assert len(record_labels(monkeypatch, (427, 640), boxes, np.linspace(0.9, 0.5, 10))) == 10


def test_labels_stand_clear_of_other_boxes_and_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # the line of the second box crosses the whole upper edge of the first, where the label would stand
    crossed = np.array([[100, 100, 200, 200], [50, 70, 400, 95]])
    ((_, y1, _, _), *_) = record_labels(monkeypatch, (427, 640), crossed, np.array([0.9, 0.8]))
    assert y1 >= 200
    at_the_top = np.array([[100, 0, 120, 20]])  # inside it the label would hide all of it
    ((_, y1, _, _),) = record_labels(monkeypatch, (427, 640), at_the_top, np.array([0.9]))
    assert y1 >= 20


def test_no_label_hides_much_of_a_small_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    box, score = np.array([[5, 30, 40, 50]]), np.array([0.9])
    assert record_labels(monkeypatch, (60, 80), box, score) == []
    assert len(record_labels(monkeypatch, (120, 160), box, score)) == 1


# Linear RGB as people see it who lack one kind of cone: Machado, Oliveira and Fernandes, 2009, table 1, severity 1.0.
VISION = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def to_linear(colours: object) -> np.ndarray:
    """SRGB (n, 3) in 0..255 to light (n, 3) in 0..1."""
    values = np.asarray(colours) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_lab(light: np.ndarray) -> np.ndarray:
    """Linear RGB (n, 3) to CIELAB, white D65."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ratios = light @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("colours", "least"), [(BOX_COLOURS, 23), (tuple(LEVEL_COLOURS.values()), 14)])
def test_colours_stay_apart_for_all_eyes(vision: str, colours: tuple[object, ...], least: float) -> None:
    seen = to_lab((to_linear(colours) @ np.array(VISION[vision]).T).clip(0, 1))
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1) + np.diag([np.inf] * len(seen))
    assert distances.min() > least


def test_dark_text_is_readable_on_every_colour() -> None:
    """The contrast that WCAG 2 asks of text is 4.5."""
    brightness = to_linear([*BOX_COLOURS, *LEVEL_COLOURS.values(), DARK]) @ [0.2126, 0.7152, 0.0722]
    assert ((brightness[:-1] + 0.05) / (brightness[-1] + 0.05)).min() > 4.5


def test_boxes_that_meet_have_different_colours() -> None:
    image = np.full((400, 600, 3), 128, dtype=np.uint8)
    far = [[20 + 60 * i, 20, 50 + 60 * i, 50] for i in range(8)]
    pixels = np.asarray(draw_boxes(image, far, colour_by="box", width=1))
    assert [tuple(pixels[35, box[0]].tolist()) for box in far] == list(BOX_COLOURS)
    nested = [[10, 10, 590, 390], *far, [20, 100, 50, 130], [300, 200, 500, 380], [310, 210, 490, 370]]
    pixels = np.asarray(draw_boxes(image, nested, colour_by="box", width=1))
    around, *inner = [tuple(pixels[(box[1] + box[3]) // 2, box[0]].tolist()) for box in nested]
    assert around not in inner
    assert inner[-1] != inner[-2]


def test_all_are_drawn_in_full_where_colours_tell_boxes_apart() -> None:
    pixels = np.asarray(draw_boxes(GREY, [[6, 6, 30, 30], [40, 6, 70, 30]], [0.9, 0.1], colour_by="box", labels=0))
    assert [tuple(pixels[15, x].tolist()) for x in (6, 40)] == list(BOX_COLOURS[:2])


def test_colours_may_follow_the_score_though_levels_are_known() -> None:
    boxes, scores = [[5, 5, 30, 30], [40, 5, 70, 30]], [0.9, 0.1]
    by_score = draw_boxes(GREY, boxes, scores, [2, 3], colour_by="score")
    assert by_score.tobytes() == draw_boxes(GREY, boxes, scores).tobytes()
    assert by_score.tobytes() != draw_boxes(GREY, boxes, scores, [2, 3]).tobytes()


@pytest.mark.parametrize("colour_by", ["level", "nonsense"])
def test_colours_that_cannot_be_are_refused(colour_by: str) -> None:
    with pytest.raises(ConfigError, match=f"\"level\" with levels, got '{colour_by}'"):
        draw_boxes(GREY, [[5, 5, 30, 30]], [0.9], colour_by=colour_by)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")])
def test_pictures_are_saved_whole_in_the_format_of_their_ending(tmp_path: Path, name: str, kind: str) -> None:
    save_picture(Image.fromarray(GREY), tmp_path / "new" / name)
    with Image.open(tmp_path / "new" / name) as picture:
        assert (picture.format, picture.size) == (kind, (80, 60))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_picture_that_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        save_picture(Image.fromarray(GREY), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


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
