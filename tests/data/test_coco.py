from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectness.data.dataset import read_dataset
from objectness.errors import AnnotationError

IMAGE = {"id": 17, "file_name": "a.jpg", "height": 100, "width": 200}
BOX = {"id": 3, "image_id": 17, "bbox": [10, 20, 30.5, 40], "area": 900.5, "iscrowd": 0, "category_id": 1}


def write(folder: Path, images: object, annotations: object, name: str = "a.json") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    return file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    return tmp_path


def test_by_hand(folder):
    without_area = {"image_id": 17, "bbox": [0, 0, 2, 3], "iscrowd": 1}
    (record,) = read_dataset(write(folder, [IMAGE], [BOX, without_area])).records
    assert (record.path, record.file, record.image_id) == (folder / "images" / "a.jpg", "a.jpg", 17)
    assert (record.height, record.width) == (100, 200)
    assert record.boxes.tolist() == [[10, 20, 40.5, 60], [0, 0, 2, 3]]  # 10 + 30.5 = 40.5, 20 + 40 = 60
    assert record.areas.tolist() == [900.5, 6]
    assert record.ignore.tolist() == [False, True]


@pytest.mark.parametrize(("value", "ignored"), [(True, True), (1, True), (False, False), (0, False), (None, False)])
def test_a_box_may_be_marked_to_be_ignored(folder, value, ignored):
    dataset = read_dataset(write(folder, [IMAGE], [BOX, BOX | {"ignore": value}]))
    assert dataset.records[0].ignore.tolist() == [False, ignored]
    assert [note.partition(";")[0] for note in dataset.notes] == ['boxes ignored as marked "ignore": 1'] * ignored


def test_notes_count_what_is_ignored_by_reason_and_without_the_bad(folder):
    crowd, marked = {"iscrowd": 1}, {"ignore": True}
    boxes = [BOX, BOX | crowd, BOX | marked, BOX | crowd | marked, BOX | marked | {"bbox": [0, 0, 0, 0]}]
    boxes += [BOX | {"category_id": 2}, BOX | {"category_id": "2"}, BOX | {"category_id": [2]}]
    dataset = read_dataset(write(folder, [IMAGE], boxes), skip_bad=True, ignore_classes=[2])
    assert dataset.records[0].ignore.tolist() == [False, True, True, True, True, True, False]
    assert [note.partition(";")[0] for note in dataset.notes] == [
        "boxes left out: 1",
        "boxes ignored as crowds: 2",
        'boxes ignored as marked "ignore": 1',
        "boxes ignored of class 2: 2",
    ]


@pytest.mark.parametrize("categories", [None, 7, {"id": 1}, [None, {"name": "x"}, {"id": [1], "name": "x"}, {"id": 1}]])
def test_classes_matter_only_to_those_who_ask(folder, categories):
    annotations = write(folder, [IMAGE], [BOX])
    annotations.write_text(json.dumps({**json.loads(annotations.read_text()), "categories": categories}))
    assert read_dataset(annotations).notes == ()
    assert read_dataset(annotations, ignore_classes=["1"]).records[0].ignore.tolist() == [True]
    with pytest.raises(AnnotationError, match=r"a\.json: there is no class 'x' to ignore; known are 1$"):
        read_dataset(annotations, ignore_classes=["x"])


def test_image_without_boxes_is_ordinary(folder):
    dataset = read_dataset(write(folder, [IMAGE], []))
    assert [record.boxes.shape for record in dataset.records] == [(0, 4)]
    assert dataset.notes == ()


def test_ids_may_be_strings_and_sizes_whole_floats(folder):
    image = IMAGE | {"id": "x", "height": 100.0, "file_name": "a.jpg"}
    (record,) = read_dataset(write(folder, [image], [BOX | {"image_id": "x"}])).records
    assert (record.image_id, record.height, len(record.boxes)) == ("x", 100, 1)


@pytest.mark.parametrize("area", [0, -3, "large", float("nan"), 10**400])
def test_impossible_area_is_replaced_with_a_note(folder, area):
    dataset = read_dataset(write(folder, [IMAGE], [BOX | {"area": area}]))
    assert dataset.records[0].areas.tolist() == [30.5 * 40]
    assert "areas replaced by the box's" in dataset.notes[0]
    assert "image 17, annotation 3" in dataset.notes[0]


@pytest.mark.parametrize(
    "outline", [[[1.5, -2e3, 3]], [], [[]], {"counts": [1, 2], "size": [3, 4]}, {"counts": '[]"segmentation":[1]'}]
)
@pytest.mark.parametrize("indent", [None, 2])
def test_outlines_are_passed_over(folder, outline, indent):
    box = {"segmentation": outline} | BOX | {"note": '"segmentation": [1, 2]'}
    document = {"images": [IMAGE], "annotations": [box, BOX | {"segmentation": outline}]}
    (folder / "a.json").write_text(json.dumps(document, indent=indent))
    assert read_dataset(folder / "a.json").records[0].boxes.tolist() == [[10, 20, 40.5, 60]] * 2


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.json", "images/a.jpg"),
        ("a.json", "a.jpg"),
        ("a.json", "a/a.jpg"),
        ("annotations/a.json", "images/a.jpg"),
        ("annotations/instances_val2017.json", "val2017/a.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/a.jpg"),
        ("train/_annotations.coco.json", "train/a.jpg"),
    ],
)
@pytest.mark.parametrize("from_inside", [False, True])
def test_images_are_found_where_they_usually_are(tmp_path, monkeypatch, file, image, from_inside):
    annotations = write(tmp_path, [IMAGE], [], file)
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / image).touch()
    if from_inside:
        monkeypatch.chdir(annotations.parent)
        annotations = Path(annotations.name)
    assert read_dataset(annotations).records[0].path.samefile(tmp_path / image)


def test_images_folder_may_be_named_and_file_names_have_folders(tmp_path):
    (tmp_path / "elsewhere" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere" / "sub" / "a.jpg").touch()
    annotations = write(tmp_path, [IMAGE | {"file_name": "sub\\a.jpg"}], [])
    (record,) = read_dataset(annotations, images=tmp_path / "elsewhere").records
    assert record.path == tmp_path / "elsewhere" / "sub" / "a.jpg"
    with pytest.raises(
        AnnotationError, match=r"a\.json: its images \(sub.a\.jpg, \.\.\.\) are in none of .*; pass --images"
    ):
        read_dataset(annotations)


BAD_BOXES = [
    ({"bbox": [10, 20, 0, 40]}, r"image 17, annotation 3: the box has no width \(x1 = x2 = 10\)"),
    ({"bbox": [10, 20, -5, 40]}, r"image 17, annotation 3: the box has a negative width \(x1 = 10, x2 = 5\)"),
    ({"bbox": [10, float("nan"), 5, 40]}, r"image 17, annotation 3: .* not finite \(10, nan, 15, nan\)"),
    ({"bbox": [10, 20, float("inf"), 40]}, "not finite"),
    ({"bbox": [1e308, 20, 1e308, 40]}, "not finite"),
    ({"bbox": [10, 20, 10**400, 40]}, "not finite"),
    ({"bbox": [300, 20, 30, 40]}, "lies outside the image of 200 x 100 px"),
    ({"bbox": [10, 20, 30]}, r"image 17, annotation 3: its bbox is \[10, 20, 30\], not four numbers"),
    ({"bbox": ["10", 20, 30, 40]}, "not four numbers"),
    ({"bbox": [10, 20, None, 40]}, "not four numbers"),
    ({"bbox": [True, 20, 30, 40]}, "not four numbers"),
    ({"bbox": [[10], 20, 30, 40]}, "not four numbers"),
    ({"bbox": None}, "its bbox is None, not four numbers"),
    ({"bbox": "10 20 30 40"}, "not four numbers"),
    ({"iscrowd": "yes"}, "its iscrowd is 'yes', neither 0 nor 1"),
    ({"ignore": "true"}, "its ignore is 'true', neither 0 nor 1"),
    ({"ignore": 2}, "its ignore is 2, neither 0 nor 1"),
    ({"ignore": []}, r"its ignore is \[\], neither 0 nor 1"),
    ({"image_id": 18}, "annotation 3: there is no image with the id 18"),
    ({"image_id": "17"}, "there is no image with the id '17'"),
    ({"image_id": [17]}, r"there is no image with the id \[17\]"),
    ({"image_id": None, "id": None}, r"annotation \[1\]: there is no image with the id None"),
]


@pytest.mark.parametrize(("change", "message"), BAD_BOXES)
def test_bad_box(folder, change, message):
    annotations = write(folder, [IMAGE], [BOX, BOX | change])
    with pytest.raises(AnnotationError, match=rf"a\.json: .*{message}.*--skip-bad"):
        read_dataset(annotations)
    dataset = read_dataset(annotations, skip_bad=True)
    assert len(dataset.records[0].boxes) == 1
    assert [note.partition(";")[0] for note in dataset.notes] == ["boxes left out: 1"]


@pytest.mark.parametrize("entry", [None, 7, "box", [1, 2]])
def test_entries_that_are_no_objects(folder, entry):
    with pytest.raises(AnnotationError, match=r"annotations\[0\] is .*, not an object"):
        read_dataset(write(folder, [IMAGE], [entry]))
    with pytest.raises(AnnotationError, match=r"images\[1\] is .*, not an object"):
        read_dataset(write(folder, [IMAGE, entry], []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 17}, "image 17: a second image has the name or id 17"),
        ({"id": None}, r"images\[1\] has the id None, no integer and no string"),
        ({"id": [1]}, r"images\[1\] has the id \[1\]"),
        ({"file_name": None}, "image 18: it has no file_name"),
        ({"file_name": ""}, "image 18: it has no file_name"),
        ({"file_name": 5}, "image 18: it has no file_name"),
        ({"file_name": "b.jpg"}, r"image 18: the image .*b\.jpg is missing"),
        ({"file_name": "nul\0/\ud800"}, "image 18: the image .* is missing"),
        ({"height": None}, "image 18: its height is None, not a positive whole number of px"),
        ({"width": 0}, "its width is 0"),
        ({"width": -5}, "its width is -5"),
        ({"width": "200"}, "its width is '200'"),
        ({"width": 200.5}, "its width is 200.5"),
        ({"width": 10**400}, "its width is 10"),
        ({"width": float("nan")}, "its width is nan"),
        ({"width": float("inf")}, "its width is inf"),
    ],
)
def test_bad_image(folder, change, message):
    annotations = write(folder, [IMAGE, IMAGE | {"id": 18} | change], [BOX])
    with pytest.raises(
        AnnotationError, match=rf"a\.json: .*{message}.*; mend it, or pass --skip-bad to leave such images"
    ):
        read_dataset(annotations)
    dataset = read_dataset(annotations, skip_bad=True)
    assert [(record.image_id, len(record.boxes)) for record in dataset.records] == [(17, 1)]
    assert dataset.notes[0].startswith("images left out: 1; the first is ")


def test_missing_images_are_counted(folder):
    images = [IMAGE] + [IMAGE | {"id": i, "file_name": f"{i}.jpg"} for i in range(3)]
    with pytest.raises(AnnotationError, match=r"image 0: the image .*0\.jpg is missing \(3 bad images in all\)"):
        read_dataset(write(folder, images, []))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [],\n  "annotations": [}', r"is not valid JSON \(Expecting value at line 2, column 19\)"),
        (b'{"a": {"segmentation": [1,\n2, 3]},\n"b": [}', r"is not valid JSON \(Expecting value at line 3, column 7\)"),
        (b"", r"is not valid JSON \(Expecting value at line 1, column 1\)"),
        (b"\xff\xfe\xfd\xfc\xfb", "is not valid JSON"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 5000, "is not valid JSON"),
        (b"[]", "is not COCO, which has lists of images and of annotations"),
        (b"null", "is not COCO"),
        (b"{}", "is not COCO"),
        (b'{"images": []}', "is not COCO"),
        (b'{"images": {}, "annotations": []}', "is not COCO"),
        (b'{"images": [], "annotations": null}', "is not COCO"),
        (b'{"images": [], "annotations": []}', "there is no image in this data set"),
    ],
)
def test_what_is_no_coco(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(AnnotationError, match=rf"a\.json: {message}"):
            read_dataset(tmp_path / "a.json", skip_bad=skip_bad)


SCALARS = st.sampled_from(
    [None, True, 0, 17, -1, 10**400, 0.5, 1e308, math.nan, math.inf, "", "1", "a.jpg", "\ud800\0"]
)
JSON = SCALARS | st.lists(SCALARS, max_size=5) | st.sampled_from([{}, {"images": [], "id": {}}, [[1, 2], {"a": 3}]])


def vary(entry: dict[str, object]) -> st.SearchStrategy[object]:
    fields = {key: st.just(value) | JSON for key, value in entry.items()}
    return st.fixed_dictionaries({}, optional=fields) | JSON


@given(images=st.lists(vary(IMAGE), max_size=3) | JSON, boxes=st.lists(vary(BOX), max_size=4) | JSON)
@settings(deadline=None)
def test_no_content_escapes_as_another_error(tmp_path_factory, images, boxes):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    annotations = write(folder, images, boxes)
    (folder / "a.jpg").touch()
    for skip_bad in (False, True):
        with suppress(AnnotationError):
            for record in read_dataset(annotations, skip_bad=skip_bad).records:
                assert (record.boxes[:, :2] < record.boxes[:, 2:]).all()
                assert (record.areas > 0).all()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_no_bytes_escape_as_another_error(tmp_path_factory, content):
    annotations = tmp_path_factory.getbasetemp() / "bytes.json"
    annotations.write_bytes(content)
    with pytest.raises(AnnotationError):
        read_dataset(annotations)


@pytest.mark.parametrize(
    ("file", "counts"), [("coco/train.json", (2229, 20896, 29)), ("coco/val.json", (402, 3898, 12))]
)
def test_real_coco(shared_data, file, counts):
    dataset = read_dataset(shared_data / file)
    boxes = sum(len(record.boxes) for record in dataset.records)
    assert (len(dataset.records), boxes, sum(record.ignore.sum() for record in dataset.records)) == counts
    assert [note.partition(";")[0] for note in dataset.notes] == [f"boxes ignored as crowds: {counts[2]}"]


def test_real_voc_as_coco(shared_data):
    dataset = read_dataset(shared_data / "voc2007" / "train.json")
    assert (len(dataset.records), sum(len(record.boxes) for record in dataset.records)) == (5008, 15655)
