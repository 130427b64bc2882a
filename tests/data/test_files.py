from __future__ import annotations

from pathlib import Path

import pytest

from objectness.data.files import Listing, find_parent, list_images, read_bytes, read_lines
from objectness.errors import AnnotationError


def test_listing_knows_files_not_folders_and_no_impossible_names(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "a.jpg").touch()
    listing = Listing()
    assert tmp_path / "a.jpg" in listing
    assert not any(
        path in listing for path in (tmp_path / "folder.jpg", tmp_path / "b.jpg", tmp_path / "nix" / "a.jpg")
    )
    assert Path("nul\0", "a.jpg") not in listing
    assert Path("\ud800", "a.jpg") not in listing


def test_listing_finds_an_image_by_its_stem(tmp_path):
    for name in ("a.JPG", "b.png", "c.txt"):
        (tmp_path / name).touch()
    listing = Listing()
    assert [listing.find_image(tmp_path, stem) for stem in "abc"] == [tmp_path / "a.JPG", tmp_path / "b.png", None]


def test_images_are_listed_below_and_without_hidden_ones(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("sub/b.PNG", "a.jpg", "._a.jpg", "a.txt"):
        (tmp_path / name).touch()
    assert set(list_images(tmp_path)) == {tmp_path / "a.jpg", tmp_path / "sub" / "b.PNG"}
    assert list_images(tmp_path / "nix") == []


@pytest.mark.parametrize(("folder", "parent"), [("a/b", "a"), ("a", "."), (".", ".."), ("..", "../.."), ("/", "/..")])
def test_parent(folder, parent):
    assert find_parent(Path(folder)) == Path(parent)


def test_lines_are_stripped_of_blanks_and_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone \r\n\r\n two")
    assert read_lines(path) == ["one", "", "two"]


@pytest.mark.parametrize("name", ["nix", "nul\0", "\ud800", "."])
def test_what_cannot_be_read_raises(tmp_path, name):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_bytes(tmp_path / name)


def test_binary_lines_raise(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"0 0.5\xff")
    with pytest.raises(AnnotationError, match=r"a\.txt: is not UTF-8 text \(invalid start byte at byte 5\)"):
        read_lines(path)
