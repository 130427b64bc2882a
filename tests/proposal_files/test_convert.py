import enum
import json
import os
import pickle
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from objectness.data.dataset import read_dataset
from objectness.errors import AnnotationError, ConfigError, ObjectnessError
from objectness.evaluation.recall import measure_recall
from objectness.proposal_files.convert import FORMATS, Conversion, convert_proposals, read_images
from objectness.proposal_files.jsonl import read_lines, read_proposals, write_lines
from objectness.proposal_files.matching import match_proposals
from objectness.proposal_files.record import ImageProposals, make_image

ENDINGS = {"jsonl": ".jsonl", "coco": ".json", "npz": ".npz", "parquet": ".parquet"}  # the others are pickles
PICKLES = ("detectron2", "detectron", "mmdet")


def name_target(folder: Path, target_format: str) -> Path:
    return folder / f"{target_format}{ENDINGS.get(target_format, '.pkl')}"


def write_annotations(path: Path, images: Sequence[ImageProposals]) -> Path:
    entries = [
        {"id": image.image_id, "file_name": image.file, "height": image.size[0], "width": image.size[1]}
        for image in images
        if image.size
    ]
    path.write_text(json.dumps({"images": entries, "annotations": []}))
    return path


def convert(source: Path, target_format: str, **options: Any) -> tuple[Path, Conversion]:
    target = name_target(source.parent, target_format)
    return target, convert_proposals(source, target, target_format=target_format, **options)


def list_values(image: ImageProposals) -> dict[str, object]:
    """All of an image as plain values; lists that are empty anyway are no difference from None."""
    arrays = {name: getattr(image, name) for name in ("boxes", "scores", "logits", "levels")}
    lists = {name: None if array is None or not len(array) else array.tolist() for name, array in arrays.items()}
    return lists | {name: getattr(image, name) for name in ("file", "image_id", "size", "error")}


# ---- round trips ----


CENTS = st.integers(-1000, 400_000).map(lambda cents: cents / 100)  # px as `propose` writes them
FLOATS = st.floats(-100, 1e5)
NAMES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=6)


@st.composite
def make_boxes(draw: st.DrawFn, sides: st.SearchStrategy[float], count: int) -> np.ndarray:
    pairs = [sorted(draw(st.tuples(sides, sides))) for _ in range(2 * count)]
    return np.array(pairs).reshape(count, 2, 2).transpose(0, 2, 1).reshape(count, 4)  # (count, x or y, both ends) first


@st.composite
def make_images(
    draw: st.DrawFn, sides: st.SearchStrategy[float], scores: st.SearchStrategy[float]
) -> list[ImageProposals]:
    """Lines as a run of `propose` would leave them, with ids; scores all different and falling, as mmdet needs them."""
    images = []
    has_levels = draw(st.booleans())
    for number, name in enumerate(draw(st.lists(NAMES, unique=True, max_size=4))):
        count = draw(st.integers(0, 3))
        values = sorted(draw(st.sets(scores, min_size=count, max_size=count)), reverse=True)
        image = make_image(
            draw(make_boxes(sides, count)),
            values,
            levels=draw(st.lists(st.integers(2, 6), min_size=count, max_size=count)) if has_levels else None,
            file=f"vål/{name}.jpg",
            image_id=10**10 + number,
            size=draw(st.tuples(st.integers(1, 5000), st.integers(1, 5000))),
        )
        images.append(image if draw(st.integers(0, 3)) else replace(image, **NOTHING, error="cannot be read: é\n'\""))
    return images


NOTHING: dict[str, Any] = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "levels": None}
SCORES = st.integers(1, 99_999).map(lambda score: score / 100_000)


def keep(image: ImageProposals, target_format: str) -> ImageProposals:
    """What a format has a place for; the annotations give back ids, files and sizes."""
    if target_format in ("jsonl", "npz", "parquet"):
        return image
    kept = replace(image, levels=None, logits=None, error=None)
    if target_format == "detectron2":
        kept = replace(kept, logits=image.to_logits())
    return kept


@pytest.mark.parametrize("target_format", FORMATS)
@settings(max_examples=20, deadline=None)
@given(images=make_images(CENTS, SCORES))
def test_there_and_back_loses_nothing_that_the_format_holds(target_format: str, images: list[ImageProposals]) -> None:
    if target_format == "parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        source, back = Path(folder) / "source.jsonl", Path(folder) / "back.jsonl"
        write_lines(source, images)
        annotations = write_annotations(Path(folder) / "annotations.json", images)
        target, there = convert(source, target_format, annotations=annotations)
        and_back = convert_proposals(target, back, annotations=annotations)
        found = {image.file: list_values(image) for image in read_lines(back)}
        left = {path.name for path in Path(folder).iterdir()}
    assert left == {"source.jsonl", "back.jsonl", "annotations.json", target.name}
    expected = {image.file: list_values(keep(image, target_format)) for image in images}
    if target_format == "detectron2":
        for file, values in found.items():  # float32 logits of about 7 digits, and the scores that follow from them
            for name, tolerance in (("logits", 1e-6), ("scores", 1e-6)):
                np.testing.assert_allclose(
                    values.pop(name) or [], expected[file].pop(name) or [], rtol=tolerance, atol=1e-9
                )
    assert found == expected
    assert and_back.num_images == len(images)
    assert there.num_proposals == and_back.num_proposals == sum(map(len, images))


@pytest.mark.parametrize("target_format", ["jsonl", "npz", "parquet", "coco"])
@settings(max_examples=20, deadline=None)
@given(images=make_images(FLOATS, st.floats(0, 1)))
def test_formats_of_float64_keep_every_digit(target_format: str, images: list[ImageProposals]) -> None:
    if target_format == "parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        source, back = Path(folder) / "source.jsonl", Path(folder) / "back.jsonl"
        write_lines(source, images)
        annotations = write_annotations(Path(folder) / "annotations.json", images)
        convert_proposals(convert(source, target_format)[0], back, annotations=annotations)
        found = {image.file: image for image in read_lines(back)}
    for image in images:
        np.testing.assert_array_equal(found[image.file].to_scores(), image.to_scores())
        if target_format == "coco":  # x + (x2 - x) may be x2's neighbour
            np.testing.assert_allclose(found[image.file].boxes, image.boxes, rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_array_equal(found[image.file].boxes, image.boxes)


@pytest.mark.parametrize("target_format", ["npz", "parquet"])
@pytest.mark.parametrize("ids", [(1, None), ("a", None), (None, None)])
def test_what_some_images_lack_stays_lacking(tmp_path: Path, target_format: str, ids: tuple[Any, ...]) -> None:
    if target_format == "parquet":
        pytest.importorskip("pyarrow")
    boxes = [[0, 0, 1, 1.5]]
    images = [
        make_image(boxes, [0.5], None, [2], file="a", size=(3, 4), image_id=ids[0]),
        make_image(boxes, None, [-1], file="b", image_id=ids[1]),
        make_image(boxes, [0.1], [-2.2], None, file="c"),
        make_image([], file="d", error="d: is gone"),
    ]
    source = tmp_path / "source.jsonl"
    write_lines(source, images)
    target, conversion = convert(source, target_format)
    assert conversion == (4, 3, ())
    assert [list_values(image) for image in read_images(target)] == [list_values(image) for image in read_lines(source)]


# ---- what is left out is said ----


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images with boxes, one without, one that failed; the first in a folder, ids as names."""
    path = tmp_path / "source.jsonl"
    write_lines(
        path,
        [
            make_image(
                [[10, 20, 30.5, 40]], [0.75], file="/data/val2017/000000000139.jpg", size=(427, 640), levels=[2]
            ),
            make_image([[0, 0, 5, 5], [1, 2, 3, 4]], [0.5, 0.25], [0, -1.0986], [3, 6], file="/data/val2017/285.jpg"),
            make_image([], file="/data/val2017/632.jpg", size=(3, 4)),
            make_image([], file="/data/val2017/724.jpg", error="ends early"),
        ],
    )
    return path


@pytest.mark.parametrize(
    ("target_format", "title", "left_out"),
    [
        ("jsonl", "", []),
        ("npz", "", []),
        ("parquet", "", []),
        (
            "coco",
            "COCO results",
            [
                "file names of 4 images",
                "sizes of 2 images",
                "levels of 2 images",
                "logits, but for their scores, of 1 image",
                "2 images without proposals",
                "errors of 1 image",
            ],
        ),
        (
            "detectron2",
            "detectron2's pickle",
            ["file names of 4 images", "sizes of 2 images", "levels of 2 images", "errors of 1 image"],
        ),
        (
            "detectron",
            "Detectron's pickle",
            [
                "file names of 4 images",
                "sizes of 2 images",
                "levels of 2 images",
                "logits, but for their scores, of 1 image",
                "errors of 1 image",
            ],
        ),
        (
            "mmdet",
            "mmdetection's pickle",
            [
                "sizes of 2 images",
                "levels of 2 images",
                "logits, but for their scores, of 1 image",
                "errors of 1 image",
            ],
        ),
    ],
)
def test_says_what_is_left_out(source: Path, target_format: str, title: str, left_out: list[str]) -> None:
    if target_format == "parquet":
        pytest.importorskip("pyarrow")
    _, conversion = convert(source, target_format)
    notes = set(conversion.notes) - {
        "folders above the last one left out of the names of 4 images: mmdetection looks for FOLDER/NAME"
    }
    assert notes == {f"{what} left out: no place for them in {title}" for what in left_out}
    assert conversion[:2] == (4, 3)


def test_says_which_scores_have_no_logits(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    write_lines(source, [make_image([[0, 0, 1, 1]] * 3, [1, 0.5, 0], file="1.jpg")])
    target, conversion = convert(source, "detectron2")
    assert "scores of exactly 0 or 1 in 1 image written as logits of -36.7 and 36.7" in conversion.notes
    (logits,) = pickle.loads(target.read_bytes())["objectness_logits"]
    np.testing.assert_allclose(logits, [36.7368, 0, -36.7368], atol=1e-4)


# ---- each producer's own layout ----


def load_pickle(path: Path) -> Any:
    """As detectron2 does."""
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")


def read_as_lines(path: Path, **options: Any) -> list[dict[str, Any]]:
    back = path.with_name("back.jsonl")
    convert_proposals(path, back, **options)
    return [json.loads(line) for line in back.read_text().splitlines()]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "annotations.json"
    images = [(285, "285.jpg", 300, 400), (139, "000000000139.jpg", 427, 640), (7, "7.jpg", 10, 10)]
    entries = [{"id": i, "file_name": f, "height": h, "width": w} for i, f, h, w in images]
    path.write_text(json.dumps({"images": entries, "annotations": [], "categories": [{"id": 1, "name": "any"}]}))
    return path


def test_reads_coco_results(tmp_path: Path, annotations: Path) -> None:
    file = tmp_path / "results.json"
    results = [
        {"image_id": 139, "category_id": 1, "bbox": [10, 20.5, 30, 40], "score": 0.5},  # x2 = 40, y2 = 60.5
        {"image_id": 285, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.25, "segmentation": []},
        {"image_id": 139, "category_id": 1, "bbox": [1, 2, 0, 0], "score": 0.125},
    ]
    file.write_text(json.dumps(results))
    lines = read_as_lines(file, annotations=annotations, images=Path("val2017"))
    assert lines == [
        {"file": "val2017/000000000139.jpg", "image_id": 139, "width": 640, "height": 427,
         "boxes": [[10, 20.5, 40, 60.5], [1, 2, 1, 2]], "scores": [0.5, 0.125]},
        {"file": "val2017/285.jpg", "image_id": 285, "width": 400, "height": 300,
         "boxes": [[0, 0, 1, 1]], "scores": [0.25]},
        {"file": "val2017/7.jpg", "image_id": 7, "width": 10, "height": 10, "boxes": [], "scores": []},
    ]  # fmt: skip
    assert convert_proposals(file, tmp_path / "back.jsonl", annotations=annotations).notes == (
        "the 2 categories of boxes in 2 images left out: proposals have none",
        f"1 image of {annotations} without a result taken as images without proposals",
    )


def test_writes_coco_results_that_pycocotools_reads(
    source: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, _ = convert(source, "coco")
    results = COCO(str(annotations)).loadRes(str(target))
    boxes = [(each["image_id"], each["bbox"], each["score"]) for each in results.loadAnns(results.getAnnIds())]
    # 30.5 - 10 = 20.5, 40 - 20 = 20
    assert boxes == [(139, [10, 20, 20.5, 20], 0.75), (285, [0, 0, 5, 5], 0.5), (285, [1, 2, 2, 2], 0.25)]
    assert json.loads(target.read_text())[0].keys() == {"image_id", "category_id", "bbox", "score"}
    capsys.readouterr()


def test_coco_results_have_no_digits_of_rounding(tmp_path: Path) -> None:
    """0.3 - 0.1 is 0.19999999999999998, and many differences of decimals are of this kind."""
    source = tmp_path / "source.jsonl"
    write_lines(source, [make_image([[18.0, 0.1, 30.34, 0.3]], [0.5], file="1.jpg")])
    target, _ = convert(source, "coco")
    assert json.loads(target.read_text())[0]["bbox"] == [18.0, 0.1, 12.34, 0.2]


BoxMode = enum.IntEnum("BoxMode", {"XYXY_ABS": 0, "XYWH_ABS": 1}, module="detectron2.structures.boxes")


@pytest.fixture
def _detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pickle looks for the class that it writes the name of."""
    module = types.ModuleType("detectron2.structures.boxes")
    module.__dict__["BoxMode"] = BoxMode
    for name in ("detectron2", "detectron2.structures", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("_detectron2")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("mode", "box"),
    [({}, [10, 20, 40, 60]), ({"bbox_mode": 0}, [10, 20, 40, 60]), ({"bbox_mode": 1}, [10, 20, 30, 40]),
     ({"bbox_mode": BoxMode.XYXY_ABS}, [10, 20, 40, 60]), ({"bbox_mode": BoxMode.XYWH_ABS}, [10, 20, 30, 40]),
     ({"bbox_mode": np.int64(1)}, [10, 20, 30, 40])],
)  # fmt: skip
def test_reads_detectron2(
    tmp_path: Path, annotations: Path, protocol: int, mode: dict[str, Any], box: list[float]
) -> None:
    file = tmp_path / "box_proposals.pkl"
    content = {
        "boxes": [np.array([box, [1, 2, 3, 4]], np.float32), np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.array([2.5, -1.1], np.float32), np.zeros(0, np.float32)],
        "ids": [139, 285],
        **mode,
    }
    file.write_bytes(pickle.dumps(content, protocol))
    first, second = read_as_lines(file, annotations=annotations)
    assert (first["file"], first["image_id"], first["width"], first["height"]) == ("000000000139.jpg", 139, 640, 427)
    assert first["boxes"][0] == [10, 20, 40, 60]
    assert first["logits"] == [2.5, -1.1]  # not -1.100000023841858
    np.testing.assert_allclose(first["scores"], [0.9241418199787566, 0.24973989440488237])  # 1 / (1 + exp(-2.5)), ...
    assert (second["boxes"], second["scores"], second["logits"]) == ([], [], [])


def test_reads_detectrons_names_in_detectron2s_file(tmp_path: Path) -> None:
    file = tmp_path / "box_proposals.pkl"
    boxes = [np.array([[10, 20, 40, 60]], np.float32)]
    file.write_bytes(
        pickle.dumps({"boxes": boxes, "scores": [np.array([0.5], np.float32)], "indexes": ["a"], "bbox_mode": 0})
    )
    (image,) = read_images(file)
    assert (image.image_id, image.boxes.tolist(), image.to_scores().tolist()) == ("a", [[10, 20, 40, 60]], [0.5])
    file.write_bytes(pickle.dumps({"boxes": boxes, "scores": [np.array([0.5], np.float32)], "indexes": ["a"]}))
    assert [image.boxes[0, 2] for image in read_images(file)] == [41]  # Detectron's own, up to the last pixel
    assert [image.boxes[0, 2] for image in read_images(file, "detectron2")] == [40]


def test_writes_what_detectron2_loads(source: Path) -> None:
    """Its loader: images by str(id), logits sorted by argsort()[::-1], boxes in bbox_mode."""
    target, _ = convert(source, "detectron2")
    content = load_pickle(target)
    assert content.keys() == {"ids", "boxes", "objectness_logits", "bbox_mode"}
    assert content["ids"] == [139, 285, 632, 724]
    assert content["bbox_mode"] == 0
    assert {boxes.dtype for boxes in content["boxes"]} == {np.dtype(np.float32)}
    position = {str(image_id): number for number, image_id in enumerate(content["ids"])}["285"]
    order = content["objectness_logits"][position].argsort()[::-1]
    assert content["boxes"][position][order].tolist() == [[0, 0, 5, 5], [1, 2, 3, 4]]
    np.testing.assert_allclose(content["objectness_logits"][0], [1.0986123], rtol=1e-6)  # log(0.75 / 0.25)
    np.testing.assert_array_equal(content["objectness_logits"][1], np.float32([0, -1.0986]))  # kept, not computed
    assert content["boxes"][2].shape == (0, 4)
    content["boxes"][0][0, 0] = 1  # may be written to


def test_reads_detectron(tmp_path: Path, annotations: Path) -> None:
    file = tmp_path / "rpn_proposals.pkl"
    content = {
        "boxes": [
            np.array([[10, 20, 29, 39.5], [0, 0, 0, 0]], np.float32),
            np.array([[0.1, 0.1, 11.34, 1]], np.float32),
        ],
        "scores": [np.array([0.9, 0.8], np.float32), np.array([0.7], np.float32)],
        "ids": [139, 285],
        "cfg": "MODEL:\n  TYPE: generalized_rcnn\n",
    }
    file.write_bytes(pickle.dumps(content, 2))
    first, second = read_as_lines(file, annotations=annotations)
    # pixels 10..29 are 20 wide: edges 10 and 30; one pixel, 0..0, has edges 0 and 1
    assert first["boxes"] == [[10, 20, 30, 40.5], [0, 0, 1, 1]]
    assert first["scores"] == [0.9, 0.8]
    assert second["boxes"] == [[0.1, 0.1, 12.34, 2]]


def test_writes_what_detectron_loads(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    write_lines(
        source,
        [make_image([[0, 0, 1, 1], [10, 20, 30, 40.5]], [0.1, 0.9], file="a/9.jpg"), make_image([], file="3.jpg")],
    )
    target, _ = convert(source, "detectron")
    content = load_pickle(target)
    assert content.keys() == {"boxes", "scores", "ids", "cfg"}
    order = np.argsort(content["ids"])  # as its loader sorts them
    assert [content["ids"][i] for i in order] == [3, 9]
    boxes, scores = content["boxes"][order[1]], content["scores"][order[1]]
    assert boxes.tolist() == [[10, 20, 29, 39.5], [0, 0, 0, 0]]  # best first; the last pixel is one less than the edge
    assert scores.tolist() == np.float32([0.9, 0.1]).tolist()
    assert boxes.dtype == scores.dtype == np.float32


class InstanceData:
    """mmengine's keeps its fields as attributes and their names in two sets."""

    def __init__(self, **fields: np.ndarray):
        self._metainfo_fields: set[str] = set()
        self._data_fields = set(fields)
        self.__dict__.update(fields)


@pytest.fixture
def _mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pickle looks for the class that it writes the name of."""
    module = types.ModuleType("mmengine.structures.instance_data")
    module.__dict__["InstanceData"] = InstanceData
    monkeypatch.setattr(InstanceData, "__module__", module.__name__)
    for name in ("mmengine", "mmengine.structures", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("_mmengine")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_reads_mmdetection_3(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "proposals.pkl"
    boxes, scores = np.array([[10, 20, 30.25, 40]], np.float32), np.array([0.9], np.float32)
    content = {
        "val2017/a.jpg": InstanceData(bboxes=boxes, scores=scores),
        "val2017/b.jpg": InstanceData(bboxes=boxes[:0], scores=scores[:0]),
        "val2017/c.jpg": {"bboxes": boxes},
    }
    file.write_bytes(pickle.dumps(content, protocol))
    assert read_as_lines(file) == [
        {"file": "val2017/a.jpg", "boxes": [[10, 20, 30.25, 40]], "scores": [0.9]},
        {"file": "val2017/b.jpg", "boxes": [], "scores": []},
        {"file": "val2017/c.jpg", "boxes": [[10, 20, 30.25, 40]], "scores": [0]},
    ]
    notes = convert_proposals(file, tmp_path / "back.jsonl").notes
    assert notes == ("the scores of 1 image are missing and taken as 0, as mmdetection does",)


def test_writes_what_mmdetection_3_loads(source: Path) -> None:
    """Its loader: keys of the last folder and the name, a dict with bboxes (n, 4) and scores, best first."""
    target, _ = convert(source, "mmdet")
    content = load_pickle(target)
    assert list(content) == ["val2017/000000000139.jpg", "val2017/285.jpg", "val2017/632.jpg", "val2017/724.jpg"]
    values = content["val2017/285.jpg"]
    assert values["bboxes"].astype(np.float32).tolist() == [[0, 0, 5, 5], [1, 2, 3, 4]]
    assert values["scores"].astype(np.float32).tolist() == [0.5, 0.25]
    assert content["val2017/724.jpg"]["bboxes"].shape == (0, 4)


def test_says_that_mmdetection_needs_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    write_lines(source, [make_image([], file="a.jpg")])
    target, conversion = convert(source, "mmdet")
    assert conversion.notes == (
        "1 image named without a folder, where mmdetection looks for FOLDER/NAME: pass --images FOLDER",
    )
    target, conversion = convert(source, "mmdet", images=Path("val2017"))
    assert (list(load_pickle(target)), conversion.notes) == (["val2017/a.jpg"], ())


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_reads_mmdetection_2_in_the_data_sets_order(tmp_path: Path, annotations: Path, is_wrapped: bool) -> None:
    file = tmp_path / "out.pkl"
    rows = [
        np.array([[1, 2, 3, 4, 0.5]], np.float32),
        np.zeros((0, 5), np.float32),
        np.array([[1, 2, 3, 4]], np.float32),
    ]
    file.write_bytes(pickle.dumps([[each] for each in rows] if is_wrapped else rows))
    first, second, third = read_as_lines(file, annotations=annotations)
    assert (first["file"], first["image_id"], first["boxes"], first["scores"]) == (
        "285.jpg",
        285,
        [[1, 2, 3, 4]],
        [0.5],
    )
    assert (second["file"], second["boxes"]) == ("000000000139.jpg", [])
    assert (third["file"], third["scores"]) == ("7.jpg", [0])


def test_pickles_are_for_every_numpy(source: Path) -> None:
    """Neither numpy._core, which numpy 1 does not have, nor a protocol that Python 2 does not know."""
    for target_format in PICKLES:
        content = convert(source, target_format)[0].read_bytes()
        assert content.startswith(b"\x80\x02")
        assert b"numpy._core" not in content
        assert b"numpy.core" not in content


def test_writes_arrays_without_pickles(source: Path) -> None:
    target, _ = convert(source, "npz")
    with np.load(target, allow_pickle=False) as arrays:
        assert set(arrays) == {"offsets", "boxes", "scores", "logits", "levels", "files", "sizes", "failed", "errors"}
        assert arrays["offsets"].tolist() == [0, 1, 3, 3, 3]
        assert arrays["boxes"].tolist() == [[10, 20, 30.5, 40], [0, 0, 5, 5], [1, 2, 3, 4]]
        assert arrays["scores"].tolist() == [0.75, 0.5, 0.25]
        assert arrays["levels"].tolist() == [2, 3, 6]
        np.testing.assert_array_equal(arrays["logits"], [np.nan, 0, -1.0986])
        assert arrays["sizes"].tolist() == [[427, 640], [0, 0], [3, 4], [0, 0]]
        assert arrays["files"][3] == "/data/val2017/724.jpg"
        assert (arrays["failed"].tolist(), arrays["errors"].tolist()) == ([3], ["ends early"])


def test_writes_rows_that_pyarrow_reads(source: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target, _ = convert(source, "parquet")
    rows = parquet.read_table(target).to_pylist()
    assert rows[0] == {
        "file": "/data/val2017/000000000139.jpg", "image_id": None, "width": 640, "height": 427,
        "boxes": [[10, 20, 30.5, 40]], "scores": [0.75], "logits": None, "levels": [2], "error": None,
    }  # fmt: skip
    assert rows[3]["error"] == "ends early"
    assert rows[2]["boxes"] == []


def test_reads_other_peoples_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    rows = {"file": ["a.jpg", "b.jpg"], "boxes": [[[0.0, 0, 1, 1], [1, 1, 2, 2]], None], "scores": [[0.5, 0.25], None]}
    parquet.write_table(pyarrow.table(rows), file)
    first, second = read_as_lines(file)
    assert first == {"file": "a.jpg", "boxes": [[0, 0, 1, 1], [1, 1, 2, 2]], "scores": [0.5, 0.25]}
    assert second == {"file": "b.jpg", "boxes": [], "scores": []}


# ---- streams ----


def test_lines_become_rows_a_few_at_a_time(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "source.jsonl"
    write_lines(source, (make_image([[0, 0, 1, 1]], [0.5], file=f"{number}.jpg") for number in range(150)))
    target, conversion = convert(source, "parquet")
    with parquet.ParquetFile(target) as file:
        assert file.num_row_groups == 3  # 64 + 64 + 22
    assert conversion.num_images == 150
    assert [image.file for image in read_images(target)] == [f"{number}.jpg" for number in range(150)]


@pytest.mark.parametrize("target_format", ["jsonl", "coco"])
def test_reads_no_further_than_it_writes(tmp_path: Path, target_format: str) -> None:
    source = tmp_path / "source.jsonl"
    source.write_text('{"file": "1.jpg"}\n{"file": "2.jpg"}\n{')
    images = read_images(source)
    assert [next(images).file, next(images).file] == ["1.jpg", "2.jpg"]
    with pytest.raises(AnnotationError, match="line 3"):
        next(images)


# ---- ids, names and sizes ----


def test_ids_and_sizes_come_from_annotations(tmp_path: Path, annotations: Path) -> None:
    source = tmp_path / "source.jsonl"
    write_lines(
        source, [make_image([], file="/elsewhere/285.jpg"), make_image([], file="000000000139.jpg", size=(427, 640))]
    )
    target, _ = convert(source, "npz", annotations=annotations)
    with np.load(target) as arrays:
        assert arrays["image_ids"].tolist() == [285, 139]
        assert arrays["sizes"].tolist() == [[300, 400], [427, 640]]
        assert arrays["files"].tolist() == ["/elsewhere/285.jpg", "000000000139.jpg"]


def test_images_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    images = [make_image([], file=f"{part}/1.jpg", image_id=f"{part}-1", size=(1, 1)) for part in ("train", "val")]
    annotations = write_annotations(tmp_path / "annotations.json", images)
    source = tmp_path / "source.jsonl"
    write_lines(source, [make_image([], file="/data/val/1.jpg"), make_image([], file="/data/train/1.jpg")])
    target, _ = convert(source, "detectron2", annotations=annotations)
    assert load_pickle(target)["ids"] == ["val-1", "train-1"]
    write_lines(source, [make_image([], file="/data/1.jpg")])
    with pytest.raises(AnnotationError, match=r"train/1\.jpg and val/1\.jpg may both be /data/1\.jpg"):
        convert(source, "detectron2", annotations=annotations)


def test_recall_is_the_same_after_every_format(tmp_path: Path) -> None:
    """A proposal file of real photos, there and back, measures the same."""
    boxes_file = Path(__file__).parents[2] / "examples" / "boxes.json"
    records = read_dataset(boxes_file).records
    rng = np.random.default_rng(0)
    images = []
    for record in records:
        moved = record.boxes + rng.normal(0, 8, record.boxes.shape)
        boxes = np.hstack([moved.reshape(-1, 2, 2).min(1), moved.reshape(-1, 2, 2).max(1)]).round(2)
        scores = np.sort(rng.random(len(boxes)).round(5))[::-1]
        images.append(make_image(boxes, scores, file=str(record.path), size=(record.height, record.width)))
    source = tmp_path / "source.jsonl"
    write_lines(source, images)

    def measure(path: Path) -> str:
        return measure_recall(records, match_proposals(read_proposals(path), records, str(path))).table()

    for target_format in FORMATS:
        if target_format == "parquet":
            pytest.importorskip("pyarrow")
        target, _ = convert(source, target_format, annotations=boxes_file)
        back = tmp_path / "back.jsonl"
        convert_proposals(target, back, annotations=boxes_file)
        assert measure(back) == measure(source)


# ---- what goes wrong ----


def pickled(value: object) -> bytes:
    return pickle.dumps(value, 4)


ONE = np.array([[1, 2, 3, 4]], np.float32)
HALF = np.array([0.5], np.float32)
RESULT = '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]'
MIXED = '{"file": "1", "image_id": 1}\n{"file": "2", "image_id": "b"}'
LONG_ID = '{"file": "1", "image_id": 18446744073709551616}'
LINE = '{"file": "1.jpg", "boxes": [[1, 2, 3, 4]], "scores": [0.5]}\n'


def pickle_detectron2(boxes: Any = ONE, logits: Any = HALF, **others: Any) -> bytes:
    return pickled({"boxes": [boxes], "objectness_logits": [logits], "ids": [1], **others})


def pickle_detectron(boxes: Any = ONE, scores: Any = HALF, **others: Any) -> bytes:
    return pickled({"boxes": [boxes], "scores": [scores], "ids": [1], **others})


def to(target_format: str) -> dict[str, str]:
    return {"target_format": target_format}


ANNOTATED = {"annotations": True}  # with the fixture's


def save_npz(**arrays: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        np.savez(file, **arrays)
        file.seek(0)
        return file.read()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        # formats that are not there, or not told
        ("gone.jsonl", None, {}, r"gone\.jsonl: cannot be read \(No such file"),
        ("gone.json", None, {}, r"gone\.json: cannot be read \(No such file"),
        ("gone.npz", None, {}, r"gone\.npz: cannot be read \(No such file"),
        ("gone.parquet", None, {}, r"gone\.parquet: cannot be read"),
        ("gone.pkl", None, {}, r"gone\.pkl: cannot be read \(No such file"),
        ("a.txt", b"boxes", {}, r"a\.txt: is of no format that is known; name it with --from jsonl, coco"),
        ("a.pkl", pickled(17), {}, r"a\.pkl: is a pickle, but not laid out as detectron2's"),
        ("a.pkl", pickled({"model": ONE}), {}, r"a\.pkl: is a pickle, but not laid out as"),
        # JSON Lines
        ("a.jsonl", LINE[:30], {}, r"a\.jsonl: line 1 is no line of proposals"),
        ("a.jsonl", LINE + LINE, {}, r"a\.jsonl: line 2 is a second one about 1\.jpg"),
        # COCO
        ("a.json", RESULT[:20], {}, r"a\.json: is not valid JSON"),
        ("a.json", '{"images": [], "annotations": []}', {}, r"a\.json: holds COCO annotations, not results"),
        ("a.json", "17", {}, r"a\.json: holds no COCO results, which are a list"),
        ("a.json", "[17]", {}, r"a\.json: entry 0 is no result"),
        ("a.json", RESULT.replace("score", "s"), {}, r"a\.json: entry 0 is no result .*'score'"),
        ("a.json", RESULT.replace(", 4", ""), {}, r"a\.json: image 1: a bbox that is not four numbers"),
        ("a.json", RESULT.replace("3", "-3"), {}, r"a\.json: image 1: box 0, .*, ends before it begins"),
        ("a.json", RESULT.replace("3", "NaN"), {}, r"a\.json: image 1: a number that is not finite"),
        ("a.json", RESULT.replace("3", "1e999"), {}, r"a\.json: image 1: a number that is not finite"),
        ("a.json", RESULT.replace("4", '"x"'), {}, r"a\.json: image 1: could not convert"),
        ("a.json", RESULT.replace(" 1}", " null}"), {}, r"a\.json: image 1: "),
        ("a.json", RESULT.replace("1", "1.5", 1), {}, r"the image id 1\.5 is no integer"),
        # detectron2
        ("a.pkl", pickle_detectron2(ids=None), {}, r"a\.pkl: has no list of ids"),
        ("a.pkl", pickle_detectron2(ids=[]), {}, r"a\.pkl: its lists are of different lengths \(0 ids, 1 boxes, 1 obj"),
        ("a.pkl", pickled({"boxes": [ONE], "bbox_mode": 0, "ids": [1]}), {}, "no list of objectness_logits or scores"),
        ("a.pkl", pickle_detectron2(bbox_mode=4), {}, r"has boxes in the mode 4; only XYXY_ABS \(0\) and XYWH_ABS"),
        ("a.pkl", pickle_detectron2(logits=ONE[0]), {}, r"a\.pkl: image 1: 1 boxes and 4 logits"),
        ("a.pkl", pickle_detectron2(ONE[:, ::-1]), {}, r"a\.pkl: image 1: box 0.*ends before it begins"),
        ("a.pkl", pickle_detectron2(ONE * np.nan), {}, r"a\.pkl: image 1: a number that is not finite"),
        ("a.pkl", pickle_detectron2([["x"]]), {}, r"a\.pkl: image 1: could not convert"),
        ("a.pkl", pickle_detectron2([{}]), {}, r"a\.pkl: image 1: "),
        ("a.pkl", pickle_detectron2()[:-9], {}, r"a\.pkl: is no readable pickle"),
        ("a.pkl", pickled({"boxes": [ONE] * 2, "objectness_logits": [HALF] * 2, "ids": [1, "1"]}), to("coco"),
         r"a\.pkl: has two images 1; leave one of them out"),
        # Detectron
        ("a.pkl", pickle_detectron(ONE[0]), {}, r"a\.pkl: image 1: boxes of the shape \(4,\), not \(n, 4\)"),
        ("a.pkl", pickle_detectron(ONE[:, ::-1]), {}, r"a\.pkl: image 1: box 0.*ends before it begins"),
        ("a.pkl", pickle_detectron(ONE[:, :3]), {}, r"a\.pkl: image 1: "),
        ("a.pkl", pickle_detectron(scores=HALF * np.inf), {}, r"a\.pkl: image 1: a number that is not finite"),
        ("a.pkl", pickled({"boxes": [ONE], "ids": [1]}), {"source_format": "detectron"}, "no list of scores"),
        ("a.pkl", pickled([ONE]), {"source_format": "detectron"}, "holds a list, not the dict that Detectron writes"),
        # mmdetection
        ("a.pkl", pickled([ONE]), {}, r"a\.pkl: is a list in the order of mmdetection 2's data set.*pass its --annot"),
        ("a.pkl", pickled([ONE]), ANNOTATED, r"a\.pkl: is a list of 1 images, but .*annotations\.json has 3"),
        ("a.pkl", pickled([[ONE, ONE]] * 3), ANNOTATED, r"image 285\.jpg: is no array of \(n, 5\).*detector\?"),
        ("a.pkl", pickled({"1.jpg": {"scores": HALF}}), {}, r"image 1\.jpg: there are no bboxes"),
        ("a.pkl", pickled({"1.jpg": {"bboxes": ONE, "scores": ONE[0]}}), {}, r"image 1\.jpg: 1 boxes and 4 scores"),
        ("a.pkl", pickled({"boxes": ONE}), {"source_format": "mmdet"}, "holds neither mmdetection 3's dict by file"),
        # npz
        ("a.npz", b"PK", {}, r"a\.npz: holds no arrays of proposals"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=ONE)[:-40], {}, r"a\.npz: holds no arrays of proposals"),
        ("a.npz", save_npz(boxes=ONE), {}, r"a\.npz: holds no arrays of proposals \(there is no array 'offsets'\)"),
        ("a.npz", save_npz(offsets=[0, 2], boxes=ONE), {}, "its offsets do not cut its boxes"),
        ("a.npz", save_npz(offsets=[0.0, 1.0], boxes=ONE), {}, "its offsets are no row of integers"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=ONE, scores=[0.1, 0.2]), {}, "2 scores where 1 belong"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=ONE, scores=HALF, files=[b"a"]), {}, r"files of the type \|S1"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=ONE, scores=HALF, failed=[0]), {}, "failed and errors do not belong"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=ONE, files=["a"]), {}, r"a\.npz: image 0: 1 boxes and 0 scores"),
        ("a.npz", save_npz(offsets=[0, 1], boxes=np.array([ONE], dtype=object)), {}, "Object arrays cannot be loaded"),
        # Parquet
        ("a.parquet", b"PAR1", {}, r"a\.parquet: row 0: holds no image's proposals"),
        # images without what the target needs
        ("a.json", RESULT, {}, r"a\.json: image 1 has no file, without .* in JSON Lines; pass --annotations"),
        ("a.jsonl", LINE.replace("1.j", "1a.j"), to("coco"), r"a\.jsonl: 1a\.jpg has no id, .*, and its name is no"),
        ("a.jsonl", LINE + LINE.replace("1.jpg", "001.png"), to("coco"), r"a\.jsonl: has two images 1; leave one"),
        ("a.jsonl", LINE, ANNOTATED, r"annotations\.json: has no image named 1\.jpg; pass the annotations of"),
        ("a.json", RESULT, ANNOTATED, r"annotations\.json: has no image with the id 1; pass the annotations of all"),
        ("a.jsonl", '{"file": "7.jpg", "width": 5, "height": 10}', ANNOTATED,
         r"annotations\.json: 7\.jpg has 10 x 10 px, its proposals are for 5 x 10"),
        ("a.jsonl", LINE.replace("0.5", "1.5"), to("detectron2"), r"a\.jsonl: image 1: the score 1\.5 is not in"),
        ("a.jsonl", LINE.replace("1", "a/1", 1) + LINE.replace("1", "b/a/1", 1), to("mmdet"),
         r"a\.jsonl: a/1\.jpg and b/a/1\.jpg are both a/1\.jpg to mmdetection"),
        ("a.jsonl", MIXED, to("npz"), r"a\.jsonl: some image ids are integers and others strings"),
        ("a.jsonl", MIXED, to("parquet"), r"a\.jsonl: some image ids are integers and others strings"),
        ("a.jsonl", LONG_ID, to("npz"), r"a\.jsonl: an image id has more than 64 bits"),
        ("a.jsonl", LONG_ID, to("parquet"), r"a\.jsonl: has a name or an id that Parquet cannot hold"),
        ("a.jsonl", r'{"file": "\udcff"}', to("parquet"), r"a\.jsonl: has a name or an id that Parquet cannot hold"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_and_writes_nothing(
    tmp_path: Path, annotations: Path, name: str, content: bytes | str | None, options: dict[str, Any], message: str
) -> None:
    options = options | ({"annotations": annotations} if "annotations" in options else {})
    if "parquet" in (name.split(".")[-1], options.get("target_format")):
        pytest.importorskip("pyarrow")
    source, target = tmp_path / name, tmp_path / "target"
    if content is not None:
        source.write_bytes(content.encode() if isinstance(content, str) else content)
    before = set(tmp_path.iterdir())
    with pytest.raises(AnnotationError, match=message) as caught:
        convert_proposals(source, target, **{"target_format": "jsonl", **options})
    assert set(tmp_path.iterdir()) == before
    assert len(str(caught.value).splitlines()) == 1


def test_what_was_there_stays_when_something_is_wrong(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.json"
    source.write_text(LINE + "{")
    target.write_text("before")
    with pytest.raises(AnnotationError, match="line 2"):
        convert_proposals(source, target)
    assert target.read_text() == "before"
    source.write_text(LINE)
    convert_proposals(source, target)
    assert json.loads(target.read_text())[0]["image_id"] == 1


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a.pkl", {}, r"a\.pkl: several formats end with \.pkl; name one with --to detectron2, detectron, mmdet"),
        ("a.pickle", {}, r"name one with --to detectron2, detectron, mmdet"),
        (
            "a.xml",
            {},
            r"a\.xml: has none of the endings \.jsonl \.json \.pkl \.pickle \.npz \.parquet; name its format",
        ),
        ("a", {"target_format": "yolo"}, "--to yolo: must be one of jsonl, coco, detectron2"),
        ("a.json", {"source_format": "yolo"}, "--from yolo: must be one of jsonl, coco, detectron2"),
        ("gone/a.json", {}, r"gone/a\.json: is in no folder; name a new file in a folder"),
        (".", {}, r": is a folder; name a new file"),
    ],
)
def test_says_which_option_is_wrong(source: Path, target: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert_proposals(source, source.parent / target, **options)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", r"annotations\.json: is not valid JSON"),
        ("[]", r"annotations\.json: is not COCO, which has a list of images"),
        ('{"images": [17]}', r"annotations\.json: images\[0\] has no id, file_name, height or width that can be one"),
        ('{"images": [{"id": 1, "file_name": "a", "width": 3}]}', r"images\[0\] has no id.*'height'"),
        ('{"images": [{"id": 1.5, "file_name": "a", "width": 3, "height": 3}]}', r"images\[0\] has no id"),
        ('{"images": [ENTRY, ENTRY]}', "two images have the id 1; remove one of them"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_annotations(source: Path, tmp_path: Path, document: str, message: str) -> None:
    entry = '{"id": 1, "file_name": "a", "width": 3, "height": 3}'
    (tmp_path / "annotations.json").write_text(document.replace("ENTRY", entry))
    with pytest.raises(AnnotationError, match=message):
        convert(source, "npz", annotations=tmp_path / "annotations.json")


@pytest.mark.parametrize(
    ("name", "source_format"),
    [
        ("a.json", "jsonl"),
        ("lines", "jsonl"),
        ("results", "coco"),
        ("A.JSON", "coco"),
        ("arrays", "npz"),
        ("rows", "parquet"),
    ],
)
def test_recognises_files_by_their_content_too(source: Path, name: str, source_format: str) -> None:
    if source_format == "parquet":
        pytest.importorskip("pyarrow")
    file = source if source_format == "jsonl" else convert(source, source_format)[0]
    named = file.rename(file.with_name(name))
    assert next(read_images(named)).boxes.tolist() == [[10, 20, 30.5, 40]]


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "A.PKL", "without"])
@pytest.mark.parametrize("target_format", PICKLES)
def test_tells_pickles_apart(source: Path, name: str, target_format: str) -> None:
    file = convert(source, target_format)[0]
    named = file.rename(file.with_name(name))
    assert next(read_images(named)).boxes.tolist() == [[10, 20, 30.5, 40]]


def test_names_the_extra_that_is_missing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ObjectnessError, match=r"^Parquet needs pyarrow: pip install 'objectness\[parquet\]'$"):
        convert(source, "parquet")


# ---- pickles that would run something ----


class Runs:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (self.command,)


def make_evil(source_format: str, marker: Path) -> object:
    runs = Runs(f"touch '{marker}'")
    return {
        "detectron2": {"boxes": [ONE], "objectness_logits": [runs], "ids": [1], "bbox_mode": 0},
        "detectron": {"boxes": [ONE], "scores": [HALF], "ids": [1], "cfg": runs},
        "mmdet": {"val2017/1.jpg": {"bboxes": ONE, "scores": HALF, "labels": runs}},
        "mmdet 2": [ONE, runs],
        "npz": np.array([runs], dtype=object),
    }[source_format]


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("source_format", ["detectron2", "detectron", "mmdet", "mmdet 2"])
def test_nothing_in_a_pickle_runs(tmp_path: Path, annotations: Path, source_format: str, is_named: bool) -> None:
    file, marker, target = tmp_path / "evil.pkl", tmp_path / "marker", tmp_path / "target.jsonl"
    file.write_bytes(pickle.dumps(make_evil(source_format, marker)))
    pickle.loads(file.read_bytes())
    marker.unlink()  # an ordinary reader has run it
    name = source_format.split()[0] if is_named else None
    with pytest.raises(AnnotationError, match=r"evil\.pkl: asks to run posix\.system, .*; nothing was run"):
        convert_proposals(file, target, source_format=name, annotations=annotations)
    assert not marker.exists()
    assert not target.exists()


def test_nothing_in_an_npz_runs(tmp_path: Path) -> None:
    file, marker = tmp_path / "evil.npz", tmp_path / "marker"
    np.savez(file, offsets=[0, 1], boxes=make_evil("npz", marker))
    np.load(file, allow_pickle=True)["boxes"]
    marker.unlink()
    with pytest.raises(AnnotationError, match=r"evil\.npz: holds no arrays of proposals \(Object arrays cannot"):
        convert_proposals(file, tmp_path / "target.jsonl")
    assert not marker.exists()
