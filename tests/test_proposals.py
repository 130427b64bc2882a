import base64
import io
import json
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from objectness.bulk.run import Result, to_json_line
from objectness.errors import ConfigError, ImageError, ObjectnessError
from objectness.images.drawing import draw_boxes
from objectness.proposals import Proposal, Proposals

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)
LOGITS = torch.tensor([2.0, 0.0, 0.0, -1.0])


def make_proposals(count: int = 4) -> Proposals:
    return Proposals(
        boxes=torch.arange(4 * count).reshape(count, 4).float() + torch.tensor([0.0, 0, 10, 20]),
        logits=LOGITS[:count].clone(),
        levels=torch.tensor([2, 6, 3, 4])[:count],
        image_size=(80, 120),
        features=torch.arange(count).float()[:, None, None, None].expand(-1, 2, 1, 1),
    )


@pytest.mark.parametrize(("count", "left"), [(0, 0), (1, 1), (4, 4), (9, 4), (-1, 0)])
def test_top(count: int, left: int) -> None:
    proposals = make_proposals()
    top = proposals.top(count)
    assert len(top) == left
    for name in ("boxes", "logits", "levels", "features"):
        assert torch.equal(getattr(top, name), getattr(proposals, name)[:left])
    assert top.image_size == (80, 120)


@pytest.mark.parametrize(("score", "left"), [(0.0, 4), (0.5, 3), (0.51, 1), (0.9, 0)])
def test_above(score: float, left: int) -> None:
    """Scores are 0.881, 0.5, 0.5 and 0.269; the threshold itself counts as above."""
    above = make_proposals().above(score)
    assert len(above) == left
    assert above.features is not None
    assert len(above.features) == left


def test_scores_are_sigmoids() -> None:
    np.testing.assert_allclose(make_proposals().scores, 1 / (1 + np.exp(-LOGITS.numpy())), rtol=1e-6)


# Like any sequence


def test_one_of_them() -> None:
    proposals = make_proposals()
    first = proposals[0]
    assert first == Proposal((0, 1, 12, 23), pytest.approx(0.8807971), 2.0, 2)
    assert isinstance(first.box[0], float)
    assert proposals[-1] == proposals[3] == proposals[np.int64(3)]
    assert list(proposals) == [proposals[place] for place in range(4)]
    assert [level for _, _, _, level in proposals] == [2, 6, 3, 4]
    assert list(make_proposals(0)) == []


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        (slice(None), [0, 1, 2, 3]),
        (slice(1, 3), [1, 2]),
        (slice(None, -1), [0, 1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(9, None), []),
        ([2, 0], [2, 0]),
        ((-1, 1, 1), [3, 1, 1]),
        ([], []),
        ([True, False, False, True], [0, 3]),
        (np.array([3, 1], dtype=np.uint8), [3, 1]),  # torch alone would take it for a mask
        (np.arange(3)[::-1], [2, 1, 0]),
        (range(1, 3), [1, 2]),
        (np.array([False, True, False, False]), [1]),
        (torch.tensor([1, -2]), [1, 2]),
        (torch.tensor([0, 3], dtype=torch.int32), [0, 3]),
        (torch.tensor([False] * 4), []),
        (LOGITS > 0, [0]),
    ],
)
def test_some_of_them(rows: object, places: list[int]) -> None:
    proposals = make_proposals()
    taken = proposals[rows]  # type: ignore[call-overload]
    assert len(taken) == len(places)
    for name in ("boxes", "logits", "levels", "features"):
        assert torch.equal(getattr(taken, name), getattr(proposals, name)[torch.tensor(places, dtype=torch.int64)])
    assert taken.image_size == (80, 120)


def test_none_of_none() -> None:
    nothing = make_proposals(0)
    for rows in (slice(None), [], torch.zeros(0, dtype=torch.bool)):
        assert len(nothing[rows]) == 0  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (4, r"there is no proposal 4; there are 4$"),
        (-5, r"there is no proposal -5; there are 4$"),
        ([0, 7], r"there is no proposal 7; there are 4$"),
        ([True], r"a mask of 1 for 4 proposals; give one value for each"),
        (torch.ones(5, dtype=torch.bool), r"a mask of 5 for 4 proposals"),
        ([0.5], r"indexed by \(n,\) bool or integers, not \(1,\) torch.float64"),
        (torch.ones(2, 4, dtype=torch.bool), r"indexed by \(n,\) bool or integers, not \(2, 4\) torch.bool"),
    ],
)
def test_what_is_not_there_is_an_index_error(rows: object, sentence: str) -> None:
    with pytest.raises(IndexError, match=sentence):
        make_proposals()[rows]  # type: ignore[call-overload]


def test_above_looks_at_every_score() -> None:
    """Also where an index has changed the order."""
    assert make_proposals()[::-1].above(0.5).logits.tolist() == [0.0, 0.0, 2.0]


# Suppression


def make_overlapping() -> Proposals:
    """IoU of the first two 0.8 (80 of 100 px^2), of the first and third 0.5, of the second and third 50/80 = 0.625."""
    return Proposals(
        boxes=torch.tensor([[0.0, 0, 10, 10], [0, 0, 8, 10], [0, 0, 5, 10], [20, 0, 30, 10]]),
        logits=torch.tensor([3.0, 2.0, 1.0, 0.0]),
        levels=torch.tensor([2, 3, 3, 2]),
        image_size=(20, 40),
    )


@pytest.mark.parametrize(
    ("iou", "across", "left"),
    [
        (0.79, True, [3.0, 1.0, 0.0]),  # the second is gone, and so cannot suppress the third
        (0.49, True, [3.0, 0.0]),
        (0.5, True, [3.0, 1.0, 0.0]),  # exactly the threshold suppresses nothing
        (0.9, True, [3.0, 2.0, 1.0, 0.0]),
        (0.6, False, [3.0, 2.0, 0.0]),  # the first is on another level
        (0.7, False, [3.0, 2.0, 1.0, 0.0]),
    ],
)
def test_nms(iou: float, across: bool, left: list[float]) -> None:
    proposals = make_overlapping()
    assert proposals.nms(iou, across_levels=across).logits.tolist() == left
    assert proposals[::-1].nms(iou, across_levels=across).logits.tolist() == left
    assert len(proposals[:0].nms(iou)) == 0


def test_nms_goes_across_levels_unless_told_otherwise() -> None:
    assert make_overlapping().nms(0.6).logits.tolist() == [3.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="iou_threshold = 2 is not in"):
        make_overlapping().nms(2)


def make_scored(*scored: tuple[list[float], float]) -> Proposals:
    return Proposals(
        boxes=torch.tensor([box for box, _ in scored]).reshape(-1, 4),
        logits=torch.tensor([score for _, score in scored]).logit(),
        levels=torch.arange(len(scored)) % 5 + 2,
        image_size=(1000, 1000),
    )


def test_highlights_are_those_near_the_best_score() -> None:
    apart = [([100.0 * place, 0, 100 * place + 50, 50], score) for place, score in enumerate((0.5, 0.3, 0.21, 0.19))]
    assert len(make_scored(*apart).highlights()) == 3  # 0.4 of 0.5 is 0.2
    many = [
        ([100.0 * (n % 10), 100.0 * (n // 10), 100.0 * (n % 10) + 50, 100.0 * (n // 10) + 50], 0.5) for n in range(20)
    ]
    assert len(make_scored(*many).highlights()) == 10
    assert len(make_scored(*many).highlights(3)) == 3
    assert len(make_scored().highlights()) == 0


@pytest.mark.parametrize(
    ("second", "score", "stays"),
    [
        ([0, 0, 100, 41], 0.5, False),  # IoU 0.41 with the first
        ([0, 0, 100, 39], 0.5, True),  # 0.39; inside it, but as sure
        ([0, 0, 100, 39], 0.4, True),  # a score of 0.8 of the first's
        ([0, 0, 100, 39], 0.39, False),  # a part of it
        ([-25, 0, 75, 39], 0.39, True),  # 0.75 of it inside the first
        ([0, 0, 100, 24], 0.39, True),  # less than a quarter of it: a thing of its own
        ([0, 0, 200, 130], 0.39, False),  # the first is inside it, and 0.38 of it
        ([0, 0, 200, 201], 0.39, True),  # less than a quarter
    ],
)
def test_highlights_are_no_two_on_the_same_thing(second: list[float], score: float, stays: bool) -> None:
    proposals = make_scored(([0, 0, 100, 100], 0.5), (second, score))
    assert len(proposals.highlights()) == 1 + stays


# For others


def test_numpy_gives_copies() -> None:
    proposals = make_proposals()
    arrays = proposals.numpy()
    boxes, scores, logits, levels = arrays
    assert [type(each) for each in arrays] == [np.ndarray] * 4
    np.testing.assert_array_equal(boxes, proposals.boxes)
    np.testing.assert_array_equal(scores, proposals.scores)
    np.testing.assert_array_equal(logits, LOGITS)
    np.testing.assert_array_equal(levels, [2, 6, 3, 4])
    assert (boxes.dtype, levels.dtype) == (np.float32, np.int64)
    boxes[:], logits[:], levels[:] = -1, -1, -1
    assert torch.equal(proposals.boxes, make_proposals().boxes)
    assert torch.equal(proposals.logits, LOGITS)
    assert (proposals.levels > 0).all()


def test_coco_results() -> None:
    results = make_proposals(2).to_coco(17)
    assert json.loads(json.dumps(results)) == [
        {"image_id": 17, "category_id": 1, "bbox": [0, 1, 12, 22], "score": pytest.approx(0.8807971)},
        {"image_id": 17, "category_id": 1, "bbox": [4, 5, 12, 22], "score": 0.5},
    ]
    assert make_proposals(0).to_coco("a") == []


def test_pycocotools_reads_coco_results(photo_records: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO(str(Path(__file__).parents[1] / "examples" / "boxes.json"))
    image_id = coco.getImgIds()[0]
    loaded = coco.loadRes(make_proposals().to_coco(image_id)).loadAnns([1, 2, 3, 4])
    assert [entry["image_id"] for entry in loaded] == [image_id] * 4
    assert [entry["area"] for entry in loaded] == [12 * 22] * 4


def test_pandas_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ObjectnessError, match=r"^to_pandas\(\) needs pandas: pip install pandas$"):
        make_proposals().to_pandas()


def test_pandas_gets_a_column_for_each_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    table = make_proposals(2).to_pandas()
    plain = {name: column.tolist() for name, column in table.items()}
    assert plain == {
        "x1": [0, 4],
        "y1": [1, 5],
        "x2": [12, 16],
        "y2": [23, 27],
        "score": [pytest.approx(0.8807971), 0.5],
        "logit": [2, 0],
        "level": [2, 6],
    }


@pytest.mark.parametrize("count", [0, 4])
def test_to_pandas(count: int) -> None:
    pandas = pytest.importorskip("pandas")
    table = make_proposals(count).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == ["x1", "y1", "x2", "y2", "score", "logit", "level"]
    assert len(table) == count
    np.testing.assert_array_equal(table[["x1", "y1", "x2", "y2"]], make_proposals(count).boxes)
    np.testing.assert_array_equal(table["logit"], LOGITS[:count])
    assert table.query("score > 0.6")["level"].tolist() == [2][:count]


def test_to_detectron2() -> None:
    proposals = make_proposals()
    plain = proposals.to_detectron2()
    assert list(plain) == ["proposal_boxes", "objectness_logits", "image_size"]
    assert torch.equal(plain["proposal_boxes"], proposals.boxes)
    assert torch.equal(plain["objectness_logits"], proposals.logits)
    assert plain["image_size"] == (80, 120)
    plain["proposal_boxes"] *= 2  # as detectron2's Boxes.scale() does, in place
    plain["objectness_logits"] *= 2
    assert torch.equal(proposals.boxes, make_proposals().boxes)
    assert torch.equal(proposals.logits, LOGITS)


@pytest.fixture(scope="module")
def supervision() -> ModuleType:
    with warnings.catch_warnings(action="ignore"):  # it complains where OpenCV is missing
        module: ModuleType = pytest.importorskip("supervision")
    return module


@pytest.mark.parametrize("count", [0, 4])
def test_to_supervision(count: int, supervision: ModuleType) -> None:
    proposals = make_proposals(count)
    detections = proposals.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    np.testing.assert_array_equal(detections.xyxy, proposals.boxes)
    np.testing.assert_array_equal(detections.confidence, proposals.scores)
    np.testing.assert_array_equal(detections.class_id, np.zeros(count))
    np.testing.assert_array_equal(detections.data["level"], proposals.levels)
    sure = detections[detections.confidence > 0.6]
    assert sure.data["level"].tolist() == [2][:count]  # the levels go with the boxes
    detections.xyxy[:] = -1
    detections.data["level"][:] = -1
    assert torch.equal(proposals.boxes, make_proposals(count).boxes)
    assert (proposals.levels > 0).all()


def test_supervision_draws_them(supervision: ModuleType) -> None:
    scene = np.zeros((80, 120, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), make_proposals().to_supervision())
    assert drawn[1, 5].any()  # on the upper edge of the first box, (0, 1, 12, 23)
    assert not drawn[60, 100].any()


def test_supervision_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ObjectnessError, match=r"needs supervision: pip install 'objectness\[supervision\]'$"):
        make_proposals().to_supervision()


# To look at

PROPOSALS = Proposals(
    boxes=torch.tensor([[5.5, 5, 40, 40], [20, 10, 70, 55], [6, 5, 40, 40], [60, 5, 70, 9]]),
    logits=torch.tensor([3.0, 1.0, 0.5, -1.0]),  # scores 0.95, 0.73, 0.62, 0.27; the third is the first again
    levels=torch.tensor([3, 4, 3, 2]),
    image_size=(60, 80),
)


def test_proposals_draw_themselves_on_any_kind_of_image(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    expected = draw_boxes(GREY, PROPOSALS.boxes, PROPOSALS.scores, PROPOSALS.levels, labels=1)
    for image in (GREY, Image.fromarray(GREY), tmp_path / "a.png"):
        assert replace(PROPOSALS, image=image).draw(max_boxes=100, labels=1).tobytes() == expected.tobytes()
    two = draw_boxes(GREY, PROPOSALS.boxes[:2], PROPOSALS.scores[:2], PROPOSALS.levels[:2])
    assert replace(PROPOSALS, image=GREY).draw(max_boxes=2).tobytes() == two.tobytes()


def test_by_default_few_are_drawn_in_colours_of_their_own() -> None:
    assert PROPOSALS.highlights().logits.tolist() == [3.0, 1.0]
    proposals = replace(PROPOSALS, image=GREY)
    few = PROPOSALS[:2]
    assert proposals.draw().tobytes() == draw_boxes(GREY, few.boxes, few.scores, colour_by="box", labels=10).tobytes()
    by_level = draw_boxes(GREY, few.boxes, few.scores, few.levels, width=3, labels=0)
    assert proposals.draw(colour_by="level", width=3, labels=0).tobytes() == by_level.tobytes()


def test_proposals_without_their_image_say_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="do not know their image"):
        PROPOSALS.draw()
    with pytest.raises(ImageError, match=r"gone\.png: cannot be opened"):
        replace(PROPOSALS, image=tmp_path / "gone.png").draw()
    with pytest.raises(ImageError, match="the image is 60 x 80 px high and wide, and was 60 x 90 when"):
        replace(PROPOSALS, image=GREY, image_size=(60, 90)).draw()


def test_show_opens_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    monkeypatch.setattr(Image.Image, "show", lambda picture: shown.append(picture.tobytes()))
    proposals = replace(PROPOSALS, image=GREY)
    proposals.show(max_boxes=3, width=1)
    assert shown == [proposals.draw(max_boxes=3, width=1).tobytes()]


def test_save_pictures(tmp_path: Path) -> None:
    proposals = replace(PROPOSALS, image=GREY)
    proposals.save(tmp_path / "few.png")
    proposals.save(str(tmp_path / "all.PNG"), max_boxes=10, labels=0)
    proposals.save(tmp_path / "few.jpg")
    for name, picture in (("few.png", proposals.draw()), ("all.PNG", proposals.draw(10, labels=0))):
        with Image.open(tmp_path / name) as saved:
            assert saved.tobytes() == picture.tobytes()
    with Image.open(tmp_path / "few.jpg") as saved:
        assert (saved.format, saved.size) == ("JPEG", (80, 60))


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_save_numbers_as_the_command_writes_them(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"boxes.{ending}"
    known = replace(PROPOSALS, image=Path("photos/ü.jpg"))
    known.save(file)
    assert file.read_text() == to_json_line(Result(Path("photos/ü.jpg"), PROPOSALS)) + "\n"
    known.save(file, max_boxes=1)
    assert json.loads(file.read_text())["boxes"] == [[5.5, 5, 40, 40]]
    PROPOSALS.save(file)  # not known by a path
    assert json.loads(file.read_text()) == PROPOSALS.to_dict()


def test_save_refuses_other_endings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.txt: pictures end with \.png \.jpg \.jpeg \.webp, numbers with"):
        replace(PROPOSALS, image=GREY).save(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_repr_is_short() -> None:
    assert repr(PROPOSALS) == "<4 proposals, 80 x 60 px, scores 0.95 to 0.27>"
    assert (
        repr(replace(PROPOSALS, image=Path("a/b.jpg"))[:1])
        == "<1 proposals of a/b.jpg, 80 x 60 px, scores 0.95 to 0.95>"
    )
    assert repr(PROPOSALS[:0]) == "<0 proposals, 80 x 60 px>"


def test_notebooks_show_a_picture_and_a_table() -> None:
    shown = replace(PROPOSALS, image=GREY)._repr_html_()
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', shown)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (80, 60))
        drawn = np.asarray(replace(PROPOSALS, image=GREY).draw(), dtype=float)
        assert np.abs(np.asarray(picture) - drawn).mean() < 5
    assert "<tr><td>0.95</td><td>6</td><td>5</td><td>40</td><td>40</td><td>3</td></tr>" in shown
    assert shown.count("<tr><td>") == 2
    assert "<caption>4 proposals, 80 x 60 px, scores 0.95 to 0.27; 2 shown</caption>" in shown


def test_notebooks_get_a_small_picture_of_a_large_image() -> None:
    large = Proposals(
        boxes=torch.tensor([[500.0, 300, 1500, 900]]),
        logits=torch.tensor([1.0]),
        levels=torch.tensor([5]),
        image_size=(1200, 2160),
        image=np.full((1200, 2160, 3), 128, np.uint8),
    )
    (data,) = re.findall(r'base64,([^"]+)"', large._repr_html_())
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (720, 400)
        pixels = np.asarray(picture).astype(int)
    # a third of the size: the frame is at x = 500 / 3 and 500
    assert np.abs(pixels[200, [167, 500]] - (55, 180, 255)).max() < 25
    assert np.abs(pixels[200, [150, 300, 520]] - 128).max() < 5


def test_notebooks_show_the_table_where_there_is_no_image(tmp_path: Path) -> None:
    shown = replace(PROPOSALS, image=tmp_path / "<gone>.png")._repr_html_()
    assert "&lt;gone&gt;.png: cannot be opened" in shown
    assert "<gone>" not in shown
    assert shown.count("<tr><td>") == 2
    assert "<table>" in PROPOSALS[:0]._repr_html_()
