"""What is written whole is there whole, or what was there before is."""

import errno
import os
from pathlib import Path

import pytest

from objectness import files
from objectness.files import replace_file, replace_folder, write_text


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old\n")
    with replace_file(path) as partial:
        partial.write_text("new")
        assert path.read_bytes() == b"old\n"
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with replace_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt.partial").write_text("half a file")
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "half").touch()
    write_text(tmp_path / "a.txt", "whole")
    with replace_folder(tmp_path / "b") as partial:
        (partial / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b", "whole"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with replace_folder(tmp_path / "new" / "folder") as partial:
            (partial / name).write_text(name)
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["folder", "second"]
    with pytest.raises(FileNotFoundError), replace_folder(tmp_path / "new" / "folder") as partial:
        (partial / "third" / "fourth").touch()
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["folder", "second"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    """Whatever the library that writes thinks of modes: safetensors makes its files private."""
    before = os.umask(mask)
    try:
        with replace_file(tmp_path / "a") as partial:
            partial.unlink()
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
        with replace_folder(tmp_path / "b") as folder:
            (folder / "inner").mkdir()
            os.close(os.open(folder / "inner" / "c", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "b" / "inner" / "c"):
        assert path.stat().st_mode & 0o777 == mode
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("write", [replace_file, replace_folder])
def test_a_full_disk_names_the_file(write: type[replace_file], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as other, write(tmp_path / "a"):
        (tmp_path / "gone").read_text()
    assert other.value.filename == str(tmp_path / "gone")


def test_contents_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: seen.append((tmp_path / "a").exists()))
    write_text(tmp_path / "a", "x")
    assert seen == [False]
    with replace_file(tmp_path / "b", sync=False):
        pass
    assert seen == [False]
