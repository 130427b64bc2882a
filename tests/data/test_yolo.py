from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from objectness.data.dataset import read_dataset
from objectness.data.yolo import split_name
from objectness.errors import AnnotationError


def write_image(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 100)).save(path, **options)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write(root: Path, labels: str, name: str = "a") -> Path:
    """A folder with `images` and `labels`, with one more image of 200 x 100 px (width x height)."""
    write_image(root / "images" / f"{name}.jpg")
    write_text(root / "labels" / f"{name}.txt", labels)
    return root


def test_by_hand(tmp_path):
    (record,) = read_dataset(write(tmp_path, "0 0.5 0.5 0.2 0.4\n\n1 0.125 0.25 0.25 0.5\n")).records
    assert (record.path, record.file, record.image_id) == (tmp_path / "images" / "a.jpg", "a.jpg", "a")
    assert (record.height, record.width) == (100, 200)
    # (0.5 -+ 0.1) x 200 = 80, 120; (0.5 -+ 0.2) x 100 = 30, 70.  (0.125 -+ 0.125) x 200 = 0, 50; 0, 50
    assert record.boxes.ravel().tolist() == pytest.approx([80, 30, 120, 70, 0, 0, 50, 50])
    assert record.areas.tolist() == pytest.approx([1600, 2500])
    assert not record.ignore.any()


@pytest.mark.parametrize(
    ("names", "known"),
    [("[cat, dog]", "cat, dog"), ("{0: cat, 1: dog}", "cat, dog"), ("{1: dog}", "dog, 0"), ("", "0, 1"), ("7", "0, 1")],
)
def test_classes_have_numbers_and_perhaps_names(tmp_path, names, known):
    write(tmp_path, "0 0.5 0.5 0.2 0.4\n1.000 0.5 0.5 0.25 0.5\n1 0 0 1 0 1 1\n")
    write_text(tmp_path / "data.yaml", f"train: images\nnames: {names}\n")
    wanted = ["1", "dog"] if "dog" in names else ["1"]
    for each in wanted:
        assert read_dataset(tmp_path, ignore_classes=[each]).records[0].ignore.tolist() == [False, True, True]
    with pytest.raises(AnnotationError, match=f"there is no class 'cow' to ignore; known are {known}$"):
        read_dataset(tmp_path, ignore_classes=["cow"])


def test_polygons_give_their_bounding_box(tmp_path):
    (record,) = read_dataset(write(tmp_path, "0 0.5 0.1 0.75 0.5 0.25 0.9\n0 0 0 1 0 1 1 0 1")).records
    assert record.boxes.ravel().tolist() == pytest.approx([50, 10, 150, 90, 0, 0, 200, 100])


def test_boxes_are_in_the_frame_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path, "0 0.5 0.5 1 1")
    write_image(tmp_path / "images" / "a.jpg", exif=exif)
    (record,) = read_dataset(tmp_path).records
    assert (record.height, record.width) == (200, 100)
    assert record.boxes.tolist() == [[0, 0, 100, 200]]


def test_images_with_empty_or_without_label_files_are_ordinary(tmp_path):
    write(tmp_path, "", "empty")
    write_image(tmp_path / "images" / "sub" / "none.png")
    dataset = read_dataset(tmp_path)
    assert {(record.image_id, len(record.boxes)) for record in dataset.records} == {("empty", 0), ("sub/none", 0)}


def test_labels_that_lie_elsewhere_raise(tmp_path):
    write_image(tmp_path / "train" / "images" / "a.jpg")
    write_text(tmp_path / "data.yaml", "train: train/images")
    with pytest.raises(AnnotationError, match=r"data\.yaml: not one image has labels; .*train/labels/a\.txt"):
        read_dataset(tmp_path)
    (tmp_path / "train" / "labels").mkdir()
    assert len(read_dataset(tmp_path).records) == 1


@pytest.mark.parametrize(
    ("lines", "image", "label"),
    [
        ("train: images/train", "images/train/a.jpg", "labels/train/a.txt"),
        ("train: [images/one, images/two]", "images/two/a.jpg", "labels/two/a.txt"),
        ("path: set\ntrain: images", "set/images/a.jpg", "set/labels/a.txt"),
        ("path: on/another/machine\ntrain: images", "images/a.jpg", "labels/a.txt"),
        ("train: ../train/images", "train/images/a.jpg", "train/labels/a.txt"),  # as Roboflow writes it
        ("train: train.txt", "images/a.jpg", "labels/a.txt"),
        ("train: [images/a.jpg]", "images/a.jpg", "labels/a.txt"),
        ("train: flat", "flat/a.jpg", "flat/a.txt"),
        ("train: images/images", "images/images/a.jpg", "images/labels/a.txt"),
        ("train: images/flat", "images/flat/a.jpg", "images/flat/a.txt"),
    ],
)
def test_data_file_names_images(tmp_path, lines, image, label):
    (tmp_path / "images" / "one").mkdir(parents=True)
    write_text(tmp_path / "train.txt", "./images/a.jpg\n")
    data_file = write_text(tmp_path / "data.yaml", f"{lines}\nnc: 1\nnames: {{0: cell}}\n")
    write_image(tmp_path / image)
    write_text(tmp_path / label, "0 0.5 0.5 1 1")
    for source in (data_file, tmp_path, f"{data_file}:train"):
        (record,) = read_dataset(source).records
        assert record.path.samefile(tmp_path / image)
        assert len(record.boxes) == 1


def test_split_may_be_named(tmp_path):
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / f"{split}.jpg")
        write_text(tmp_path / "labels" / split / f"{split}.txt", "")
    data_file = write_text(tmp_path / "data.yaml", "train: images/train\nval: images/val\ntest:\n")
    assert [record.image_id for record in read_dataset(f"{data_file}:val").records] == ["val"]
    assert [record.image_id for record in read_dataset(data_file).records] == ["train"]
    for split in ("test", "nix", ""):
        with pytest.raises(AnnotationError, match=rf"data\.yaml: has .* for the split {split}, where a folder"):
            read_dataset(f"{data_file}:{split}")


def test_same_names_in_two_folders_are_two_images(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder, "")
    data_file = write_text(tmp_path / "data.yaml", "train: [one/images, two/images]")
    assert len({record.image_id for record in read_dataset(data_file).records}) == 2


def test_text_file_of_image_paths(tmp_path):
    write(tmp_path, "0 0.5 0.5 1 1", "sub/a")
    write(tmp_path, "", "b")
    (record,) = read_dataset(write_text(tmp_path / "list.txt", "images/sub/a.jpg\n")).records
    assert (record.file, record.image_id, len(record.boxes)) == ("images/sub/a.jpg", "images/sub/a", 1)
    write_text(tmp_path / "list.txt", "images/b.jpg\nimages/nix.jpg\n.\n..\n/\n")
    with pytest.raises(
        AnnotationError, match=r"list\.txt: the image .*nix\.jpg is missing \(4 bad images in all\); mend"
    ):
        read_dataset(tmp_path / "list.txt")
    assert len(read_dataset(tmp_path / "list.txt", skip_bad=True).records) == 1


def test_images_folder_may_be_named(tmp_path):
    (write(tmp_path / "set", "0 0.5 0.5 1 1", "sub/a") / "images").rename(tmp_path / "photos")
    (record,) = read_dataset(tmp_path / "set", images=tmp_path / "photos").records
    assert record.path == tmp_path / "photos" / "sub" / "a.jpg"
    assert len(record.boxes) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0 0.4", r"the box has no width \(x1 = x2 = 100\)"),
        ("0 0.5 0.5 -0.0005 0.4", "the box has a negative width"),
        ("0 0.5 0.5 0.2", r"3 numbers follow the class, neither a box \(4\) nor a polygon \(6, 8, \.\.\.\)"),
        ("0 0.5 0.5 0.2 0.4 0.9", "5 numbers follow the class"),
        ("0", "0 numbers follow the class"),
        ("0 0.1 0.2 0.1 0.4 0.1 0.6", r"the box has no width \(x1 = x2 = 20\)"),
        ("0 100 50 20 40", r"100 lies outside \[0, 1\]; boxes are shares of the image's sides, not px"),
        ("0 0.5 0.5 0.2 1.01", "1.01 lies outside"),
        ("0 0.5 -0.2 0.2 0.4", "-0.2 lies outside"),
        ("0 nan 0.5 0.2 0.4", "nan lies outside"),
        ("0 0.5 0.5 inf 0.4", "inf lies outside"),
        ("0 0.5 0.5 wide 0.4", r"there is something that is no number \('0 0\.5 0\.5 wide 0\.4'\)"),
        ("0,0.5,0.5,0.2,0.4", "0 numbers follow the class"),
    ],
)
def test_bad_line(tmp_path, line, message):
    write(tmp_path, f"0 0.5 0.5 1 1\n\n{line}\n")
    with pytest.raises(
        AnnotationError, match=rf"a\.txt: line 3: {message}.*; mend it, or pass --skip-bad to leave such boxes"
    ):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, skip_bad=True)
    assert len(dataset.records[0].boxes) == 1
    assert dataset.notes[0].startswith("boxes left out: 1; the first is ")


def test_a_rounding_hair_outside_is_clipped_silently(tmp_path):
    dataset = read_dataset(write(tmp_path, "0 0.5 0.5 1.0005 1\n0 0 0 1.0004 0 1 1"))
    assert dataset.records[0].boxes.tolist() == [[0, 0, 200, 100]] * 2
    assert dataset.notes == ()


def test_label_file_that_is_no_text(tmp_path):
    (write(write(tmp_path, ""), "", "b") / "labels" / "b.txt").write_bytes(b"\x89PNG")
    with pytest.raises(AnnotationError, match=r"b\.txt: is not UTF-8 text .*--skip-bad to leave such images out"):
        read_dataset(tmp_path)
    assert [record.image_id for record in read_dataset(tmp_path, skip_bad=True).records] == ["a"]


def test_image_that_cannot_be_measured(tmp_path):
    (write(write(tmp_path, ""), "", "b") / "images" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(
        AnnotationError, match=r"b\.jpg: cannot be read as an image .*--skip-bad to leave such images out"
    ):
        read_dataset(tmp_path)
    assert [record.image_id for record in read_dataset(tmp_path, skip_bad=True).records] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [images", r"is not valid YAML \(.*line 1, column"),
        (b"\x89PNG\0\xff", "is not valid YAML"),
        (b"? [a]\n: b", "is not valid YAML"),
        (b"[" * 500, "is not valid YAML"),
        (b"train: !!python/object/apply:os.getcwd []", "has .* for the split train"),
        (b"- images", "is no YOLO data file, which has a folder or text file for each split"),
        (b"", "is no YOLO data file"),
        (b"nc: 1", "has None for the split train, where a folder or text file belongs"),
        (b"train:", "has '' for the split train"),
        (b"train: {a: b}", r"has \{'a': 'b'\} for the split train"),
        (b"train: [images, [1]]", "for the split train"),
        (b"train: nix", r"cannot be read \(No such file or directory\)"),
        (b'train: "nul\\0"', "cannot be read"),
        (b"path: " + b"x" * 5000 + b"\ntrain: images", r"cannot be read \(File name too long"),
        (b"train: images\nkpt_shape: [17, 2]", "describes poses"),
    ],
)
def test_bad_data_file(tmp_path, content, message):
    (write(tmp_path, "") / "data.yaml").write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(AnnotationError, match=message):
            read_dataset(tmp_path, skip_bad=skip_bad)


def test_folder_without_images(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(AnnotationError, match=r"images: cannot be read \(No such file or directory\)"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [
        ("data.yaml:val", "data.yaml", "val"),
        ("a/b.yml:test", "a/b.yml", "test"),
        ("data.yaml", "data.yaml", "train"),
        ("odd:name/train.txt", "odd:name/train.txt", "train"),
    ],
)
def test_split_name(name, file, split):
    assert split_name(Path(name)) == (Path(file), split)


WORDS = st.sampled_from(["0", "1", "0.5", "0.25", "-1", "nan", "1e999", "x", "\n", "\0", "é", "\ufeff"])


@given(st.lists(WORDS).map(" ".join).map(str.encode) | st.binary(max_size=40))
@settings(deadline=None)
def test_no_labels_escape_as_another_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzz-yolo"
    if not folder.exists():
        write(folder, "")
    (folder / "labels" / "a.txt").write_bytes(content)
    for skip_bad in (False, True):
        with suppress(AnnotationError):
            read_dataset(folder, skip_bad=skip_bad)


@given(st.text("train: [images]{}&*!|>-#'\"\n\t\\0é", max_size=30).map(str.encode) | st.binary(max_size=40))
@settings(deadline=None)
def test_no_data_file_escapes_as_another_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzz-yaml"
    if not folder.exists():
        write(folder, "")
    (folder / "data.yaml").write_bytes(content)
    with suppress(AnnotationError):
        read_dataset(folder)
