from pathlib import Path

import pytest

from objectness.errors import ImageError
from objectness.images.finding import find_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("10.jpg", "2.jpg", "b/1.PNG", "b/c/3.webp", "notes.txt", ".hidden.jpg", ".cache/4.jpg", "odd[1].jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], []),
        (["notes.txt", ".hidden.jpg"], ["notes.txt", ".hidden.jpg"]),
        (["."], ["2.jpg", "10.jpg", "b/1.PNG", "b/c/3.webp", "odd[1].jpg"]),
        ([".cache"], [".cache/4.jpg"]),
        (["*.jpg"], ["2.jpg", "10.jpg", "odd[1].jpg"]),
        (["*"], ["2.jpg", "10.jpg", "b/1.PNG", "b/c/3.webp", "odd[1].jpg"]),
        (["**"], ["2.jpg", "10.jpg", "b/1.PNG", "b/c/3.webp", "odd[1].jpg"]),
        (["**/[0-9].*"], ["2.jpg", "b/1.PNG", "b/c/3.webp"]),
        (["odd[1].jpg"], ["odd[1].jpg"]),
        (["b", "10.jpg", "**", "./b/1.PNG"], ["b/1.PNG", "b/c/3.webp", "10.jpg", "2.jpg", "odd[1].jpg"]),
    ],
)
def test_sources_stand_for_files(folder: Path, sources: list[str], expected: list[str]) -> None:
    assert [file.as_posix() for file in find_images(sources)] == expected
    assert find_images([folder / source for source in sources]) == [folder / file for file in expected]


def test_the_same_file_is_taken_once_however_it_is_named(folder: Path) -> None:
    assert find_images(["2.jpg", folder / "2.jpg"]) == [Path("2.jpg")]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("none.jpg", "none.jpg: there is no such file or folder"),
        ("photos/*.jpg", "photos/*.jpg: no image matches (looked for .jpg"),
        ("*.txt", "*.txt: no image matches"),
        ("empty", "empty: no image in it or below it (looked for .jpg"),
        ("long" * 100, "cannot be opened (File name too long)"),
    ],
)
def test_sources_that_stand_for_nothing(folder: Path, source: str, sentence: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ImageError) as caught:
        find_images(["2.jpg", source])
    assert sentence in str(caught.value)
