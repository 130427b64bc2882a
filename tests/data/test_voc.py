from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from objectness.data.dataset import read_dataset
from objectness.errors import AnnotationError

SIZE = "<size><width>200</width><height>100</height><depth>3</depth></size>"


def make_object(*corners: object, extra: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{name}>{corner}</{name}>" for name, corner in zip(names, corners, strict=True))
    return f"<object><name>cell</name>{extra}<bndbox>{box}</bndbox></object>"


def write(root: Path, *objects: str, stem: str = "a", name: str = "a.jpg", size: str = SIZE) -> Path:
    """A VOC layout with one more image and its annotation."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(exist_ok=True)
    filename = f"<filename>{name}</filename>" if name else ""
    (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{filename}{size}{''.join(objects)}</annotation>")
    Image.new("RGB", (200, 100)).save(root / "JPEGImages" / f"{stem}.jpg")
    return root


def test_by_hand(tmp_path):
    difficult = "<difficult>1</difficult><part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>"
    write(tmp_path, make_object(1, 1, 200, 100), make_object(11, 21.5, 11, 30, extra=difficult))
    (record,) = read_dataset(tmp_path).records
    assert (record.path, record.file, record.image_id) == (tmp_path / "JPEGImages" / "a.jpg", "a.jpg", "a")
    assert (record.height, record.width) == (100, 200)
    # Pixels 1..200 reach from edge 0 to edge 200; pixel 11 alone, from 10 to 11.
    assert record.boxes.tolist() == [[0, 0, 200, 100], [10, 20.5, 11, 30]]
    assert record.areas.tolist() == [20000, 9.5]
    assert not record.ignore.any()


@pytest.mark.parametrize("text", ["1", " 1\n", "true", "True", "0", "", "false", "Unspecified"])
def test_difficult_objects_are_ignored_only_where_that_is_asked(tmp_path, text):
    other = make_object(1, 1, 9, 9, extra=f"<difficult>{text}</difficult>")
    write(tmp_path, make_object(1, 1, 200, 100), other)
    for asked in (False, True):
        dataset = read_dataset(tmp_path, ignore_difficult=asked)
        ignored = asked and text.strip().lower() in ("1", "true")
        assert dataset.records[0].ignore.tolist() == [False, ignored]
        assert [note.partition(";")[0] for note in dataset.notes] == ["boxes ignored as difficult: 1"] * ignored


def test_classes_are_names(tmp_path):
    write(tmp_path, make_object(1, 1, 200, 100), make_object(1, 1, 9, 9).replace("cell", " dog\n"))
    assert read_dataset(tmp_path, ignore_classes=["dog"]).records[0].ignore.tolist() == [False, True]
    with pytest.raises(AnnotationError, match=r"there is no class 'cat' to ignore; known are cell, dog$"):
        read_dataset(tmp_path, ignore_classes=["cat"])


def test_zero_based_boxes_are_clipped_silently(tmp_path):
    dataset = read_dataset(write(tmp_path, make_object(0, 0, 201, 50)))
    assert dataset.records[0].boxes.tolist() == [[0, 0, 200, 50]]
    assert dataset.notes == ()


def test_image_without_objects_is_ordinary(tmp_path):
    assert read_dataset(write(tmp_path)).records[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>200</width></size>",
        "<size><width>wide</width><height>1</height></size>",
        f"<size><width>{'9' * 5000}</width><height>1</height></size>",
        "<size><width>-4</width><height>1</height></size>",
    ],
)
def test_size_comes_from_the_image_where_it_is_missing(tmp_path, size):
    (record,) = read_dataset(write(tmp_path, make_object(1, 1, 9, 9), size=size)).records
    assert (record.height, record.width) == (100, 200)


@pytest.mark.parametrize("name", ["", " ", "old.jpg", "a", "C:\\data\\a.jpg", "/home/me/a.jpg", "JPEGImages/a.png"])
def test_image_is_found_by_its_name_or_the_annotations(tmp_path, name):
    assert read_dataset(write(tmp_path, name=name)).records[0].path == tmp_path / "JPEGImages" / "a.jpg"


def test_name_in_the_file_goes_before_the_files_own(tmp_path):
    write(tmp_path, stem="b", name="b.jpg")
    (write(tmp_path, stem="c", name="b.jpg") / "Annotations" / "b.xml").unlink()
    assert read_dataset(tmp_path).records[0].file == "b.jpg"


def test_two_annotations_of_one_image_raise(tmp_path):
    write(tmp_path, stem="a", name="a.jpg")
    write(tmp_path, stem="b", name="a.jpg")
    with pytest.raises(AnnotationError, match=r"b\.xml: a second image has the name or id a"):
        read_dataset(tmp_path)


def test_split_file_names_its_images(tmp_path):
    for stem in ("a", "b", "c 1"):
        write(tmp_path, stem=stem, name="")
    splits = tmp_path / "ImageSets" / "Main"
    splits.mkdir(parents=True)
    (splits / "val.txt").write_text("b\n\n")
    (splits / "cell_train.txt").write_text("a  1\nb -1\nc 1\n")
    assert [record.image_id for record in read_dataset(splits / "val.txt").records] == ["b"]
    assert [record.image_id for record in read_dataset(splits / "cell_train.txt").records] == ["a", "b", "c 1"]


def test_split_file_is_found_from_inside(tmp_path, monkeypatch):
    splits = write(tmp_path) / "ImageSets"
    splits.mkdir()
    (splits / "val.txt").write_text("a")
    monkeypatch.chdir(splits)
    assert [record.image_id for record in read_dataset(Path("val.txt")).records] == ["a"]


def test_split_file_with_a_name_that_has_no_annotation(tmp_path):
    splits = write(tmp_path) / "ImageSets"
    splits.mkdir()
    (splits / "val.txt").write_text("a\nnix\n")
    with pytest.raises(
        AnnotationError, match=r"nix\.xml: cannot be read \(No such file.*--skip-bad to leave such images"
    ):
        read_dataset(splits / "val.txt")
    assert len(read_dataset(splits / "val.txt", skip_bad=True).records) == 1
    (splits / "val.txt").write_bytes(b"\xff\0")
    with pytest.raises(AnnotationError, match=r"val\.txt: is not UTF-8 text"):
        read_dataset(splits / "val.txt")


@pytest.mark.parametrize(("xml", "image"), [("", ""), ("", "images"), ("annotations", "images"), ("ann", "JPEGImages")])
def test_folder_of_xml_files(tmp_path, xml, image):
    write(tmp_path, make_object(1, 1, 9, 9))
    (tmp_path / xml).mkdir(exist_ok=True)
    (tmp_path / image).mkdir(exist_ok=True)
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / xml / "a.xml")
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / image / "a.jpg")
    (tmp_path / xml / "._a.xml").write_bytes(b"what macOS leaves in archives")
    assert read_dataset(tmp_path / xml).records[0].path == tmp_path / image / "a.jpg"


def test_images_folder_may_be_named(tmp_path):
    (write(tmp_path) / "JPEGImages").rename(tmp_path / "photos")
    assert read_dataset(tmp_path, images=tmp_path / "photos").records[0].path == tmp_path / "photos" / "a.jpg"
    with pytest.raises(
        AnnotationError, match=r"a\.xml: the image .*JPEGImages/a\.jpg is missing; mend it, or pass --skip"
    ):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (make_object(11, 1, 10, 9), r"the box has no width \(x1 = x2 = 10\)"),
        (make_object(11, 1, 5, 9), r"the box has a negative width \(x1 = 10, x2 = 5\)"),
        (make_object(1, 1, "nan", 9), "not finite"),
        (make_object(1, 1, "1e999", 9), "not finite"),
        (make_object(201, 1, 210, 9), "lies outside the image of 200 x 100 px"),
        (make_object(1, 1, "wide", 9), r"its bndbox is \['1', '1', 'wide', '9'\], not four numbers"),
        (make_object(1, 1, "", 9), "not four numbers"),
        ("<object><bndbox><xmin>1</xmin></bndbox></object>", r"its bndbox is \['1', None, None, None\]"),
        ("<object/>", "not four numbers"),
    ],
)
def test_bad_box(tmp_path, element, message):
    write(tmp_path, make_object(1, 1, 9, 9), element)
    with pytest.raises(AnnotationError, match=rf"a\.xml: object 2: .*{message}.*--skip-bad to leave such boxes out"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, skip_bad=True)
    assert len(dataset.records[0].boxes) == 1
    assert dataset.notes[0].startswith("boxes left out: 1; the first is ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<annotation><object></annotation>", r"is not valid XML \(mismatched tag: line 1, column 22\)"),
        (b"", "is not valid XML"),
        (b"\x89PNG\r\n", "is not valid XML"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "is not valid XML"),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "is not valid XML"),
        ("<annotation><filename>grün</filename></annotation>".encode("latin-1"), "is not valid XML"),
        (b"<svg/>", "is no VOC annotation: it begins with <svg>, not with <annotation>"),
    ],
)
def test_bad_file(tmp_path, content, message):
    (write(tmp_path) / "Annotations" / "b.xml").write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"b\.xml: {message}.*--skip-bad to leave such images out"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, skip_bad=True)
    assert [record.image_id for record in dataset.records] == ["a"]
    assert dataset.notes[0].startswith("images left out: 1; the first is ")


def test_damaged_image_whose_size_is_needed(tmp_path):
    (write(tmp_path, size="") / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(AnnotationError, match=r"a\.xml: .*a\.jpg: cannot be read as an image .*--skip-bad"):
        read_dataset(tmp_path)


TAGS = ["annotation", "filename", "size", "width", "height", "object", "bndbox", "xmin", "ymin", "xmax", "ymax"]
TEXTS = ["", "a.jpg", "5", "-1", "1e999", "nan", "x", "&#0;", "&lt;", "..", "/", "é"]
PARTS = st.sampled_from([*TEXTS, *(f"<{tag}>" for tag in TAGS), *(f"</{tag}>" for tag in TAGS)])
NUMBERS = st.sampled_from([*TEXTS, "1", "20", "0.5"])
BOXES = st.builds(make_object, NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(st.lists(PARTS | BOXES, max_size=6).map(lambda parts: f"<annotation>{''.join(parts)}</annotation>".encode()))
@settings(deadline=None)
def test_no_content_escapes_as_another_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzz-xml"
    folder.mkdir(exist_ok=True)
    (folder / "a.xml").write_bytes(content)
    (folder / "a.jpg").touch()
    for skip_bad in (False, True):
        with suppress(AnnotationError):
            read_dataset(folder, skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("file", "counts"), [("", (364, 4888)), ("ImageSets/Main/train.txt", (205, 2805)), ("Annotations", (364, 4888))]
)
def test_real_blood_cells(shared_data, file, counts):
    dataset = read_dataset(shared_data / "bccd" / file)
    assert (len(dataset.records), sum(len(record.boxes) for record in dataset.records)) == counts
    assert dataset.notes == ()
