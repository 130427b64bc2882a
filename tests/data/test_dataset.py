from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import objectness.data.dataset as module
from objectness.data.dataset import read_dataset, read_datasets
from objectness.errors import AnnotationError

BOXES = [[0, 0, 20, 30], [50, 10, 150, 90]]  # xyxy, px, in an image of 200 x 100 px (width x height)
CLASSES = ["cup", "black cat"]


@pytest.fixture
def folder(tmp_path):
    """One image and its boxes in all formats, each of which has a folder of its own."""
    voc, yolo, coco = (tmp_path / name for name in ("voc", "yolo", "coco"))
    for image in (voc / "JPEGImages", yolo / "images", coco / "images"):
        image.mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(image / "a.png")
    annotations = [
        {"image_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": i + 7}
        for i, (x1, y1, x2, y2) in enumerate(BOXES)
    ]
    categories = [{"id": i + 7, "name": name} for i, name in enumerate(CLASSES)]
    images = [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}]
    (coco / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    (yolo / "labels").mkdir()
    lines = [
        f"{i} {(x1 + x2) / 400} {(y1 + y2) / 200} {(x2 - x1) / 200} {(y2 - y1) / 100}\n"
        for i, (x1, y1, x2, y2) in enumerate(BOXES)
    ]
    (yolo / "labels" / "a.txt").write_text("".join(lines))
    (yolo / "data.yaml").write_text("train: images\nval: images\nnames: [cup, black cat]")
    (yolo / "list.txt").write_text("images/a.png")
    corners = [
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>" for x1, y1, x2, y2 in BOXES
    ]
    objects = [
        f"<object><name>{name}</name><bndbox>{each}</bndbox></object>"
        for name, each in zip(CLASSES, corners, strict=True)
    ]
    (voc / "Annotations").mkdir()
    (voc / "Annotations" / "a.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a")
    return tmp_path


SOURCES = ["coco/a.json", "coco", "voc", "voc/Annotations", "voc/ImageSets/Main/train.txt"]
SOURCES += ["yolo", "yolo/data.yaml", "yolo/data.yaml:val", "yolo/list.txt"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("as_text", [False, True])
def test_every_format_gives_the_same(folder, source, as_text):
    annotations = folder / source
    dataset = read_dataset(str(annotations) if as_text else annotations)
    (record,) = dataset.records
    assert dataset.name == str(annotations)
    np.testing.assert_allclose(record.boxes, BOXES, rtol=1e-12)
    assert record.areas == pytest.approx([600, 8000])
    assert (record.height, record.width, record.path.name) == (100, 200, "a.png")
    assert dataset.notes == ()


NAMED = ["coco/a.json", "voc", "yolo/data.yaml"]


@pytest.mark.parametrize(
    ("source", "classes"),
    [(source, ["black cat"]) for source in NAMED]
    + [(source, "black cat") for source in NAMED]
    + [("coco/a.json", [8]), ("coco/a.json", ["8"]), ("yolo/data.yaml", ["1"]), ("yolo/list.txt", [1])],
)
def test_boxes_of_a_class_are_ignored_by_name_or_id(folder, source, classes):
    dataset = read_dataset(folder / source, ignore_classes=classes)
    assert [record.ignore.tolist() for record in dataset.records] == [[False, True]]
    assert len(dataset.records[0].boxes) == 2
    name = "1" if source == "yolo/list.txt" else "black cat"
    (note,) = dataset.notes
    assert note.startswith(f"boxes ignored of class {name}: 1; the first is {folder}")


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("wanted", ["black cats", "Cup", ""])
def test_a_class_that_is_not_there_is_refused(folder, source, wanted):
    close = {"black cats": "did you mean 'black cat'[?] ", "Cup": "did you mean 'cup'[?] "}.get(wanted, "")
    message = rf"{source}: there is no class '{wanted}' to ignore; {close}known are cup, black cat$"
    with pytest.raises(AnnotationError, match=message):
        read_dataset(folder / source, ignore_classes=["cup", wanted])


def test_known_classes_are_shortened_or_none(folder):
    document = json.loads((folder / "coco" / "a.json").read_text())
    document["categories"] = [{"id": i, "name": f"class {i}"} for i in range(80)]
    (folder / "coco" / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"known are class 0, class 1, .*class 9, \.\.\. \(80 in all\)$"):
        read_dataset(folder / "coco" / "a.json", ignore_classes=["xyz"])
    (folder / "yolo" / "labels" / "a.txt").write_text("")
    with pytest.raises(AnnotationError, match="there is no class 'xyz' to ignore, nor any other"):
        read_dataset(folder / "yolo" / "list.txt", ignore_classes=["xyz"])


def test_of_several_data_sets_one_knows_the_class(folder):
    (folder / "yolo" / "data.yaml").write_text("train: images\nnames: {0: mug, 1: dog}")
    sources = [folder / "coco" / "a.json", folder / "yolo"]
    datasets = read_datasets(sources, ignore_classes=["cup", "dog"])
    assert [dataset.records[0].ignore.tolist() for dataset in datasets] == [[True, False], [False, True]]
    with pytest.raises(AnnotationError, match=r"a\.json, .*yolo: there is no class 'cow' .* cup, black cat, mug, dog$"):
        read_datasets(sources, ignore_classes=["cow"])


@pytest.mark.parametrize("source", SOURCES)
def test_relative_paths_give_relative_paths(folder, monkeypatch, source):
    monkeypatch.chdir(folder)
    assert not read_dataset(source).records[0].path.is_absolute()


def test_folder_with_labels_needs_no_data_file(folder):
    (folder / "yolo" / "data.yaml").unlink()
    assert len(read_dataset(folder / "yolo").records[0].boxes) == 2


def test_folder_with_several_json_files_is_ambiguous(folder):
    (folder / "coco" / "annotations").mkdir()
    shutil.copy(folder / "coco" / "a.json", folder / "coco" / "b.json")
    with pytest.raises(AnnotationError, match=r"coco: holds 2 JSON files; name one of them, such as .*a\.json"):
        read_dataset(folder / "coco")


def test_json_may_lie_in_a_folder_of_annotations(folder):
    (folder / "coco" / "annotations").mkdir()
    (folder / "coco" / "a.json").rename(folder / "coco" / "annotations" / "a.json")
    assert len(read_dataset(folder / "coco").records[0].boxes) == 2


@pytest.mark.parametrize("name", ["nix", "nix.json", "nix/data.yaml:val", "nul\0", "\ud800.json"])
def test_missing_file(tmp_path, name):
    with pytest.raises(AnnotationError, match="there is no such file or folder; check the path"):
        read_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".json"])
def test_impossible_name(tmp_path, name):
    with pytest.raises(AnnotationError, match=r"cannot be read \(File name too long"):
        read_dataset(tmp_path / name)


def test_nothing_recognisable(tmp_path):
    with pytest.raises(AnnotationError, match="holds no data set that is recognised; give a COCO"):
        read_dataset(tmp_path)
    (tmp_path / "a.csv").touch()
    with pytest.raises(AnnotationError, match=r"a\.csv: is not recognised; give a COCO \.json file"):
        read_dataset(tmp_path / "a.csv")


def test_reading_needs_no_torch():
    for name in ("dataset", "records", "faults", "findings", "files", "coco", "voc", "yolo"):
        tree = ast.parse(Path(module.__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("torch" in ast.unparse(node) for node in imports)
