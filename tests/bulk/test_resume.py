import io
import json
from pathlib import Path

import pytest

from objectness.bulk.resume import Kept, open_lines
from objectness.errors import ConfigError
from objectness.lines import start_line

FILES = [Path("a.jpg"), Path("b c.jpg"), Path('d"é\udcff.jpg')]
SETTINGS = {"weights": "small", "top": 100}


def make_line(file: Path) -> str:
    what = '"error": "gone"' if file == FILES[1] else '"boxes": [[1, 2, 3, 4]]'
    return f"{start_line(file.as_posix())}, {what}}}\n"


def write(out: Path, files: list[Path] = FILES, stop_after: int = 99, overwrite: bool = False, **more: object) -> Kept:
    """Write the missing lines, or stop as Ctrl-C does."""
    with open_lines(out, files, {**SETTINGS, **more}, overwrite=overwrite) as (lines, kept):
        for count, file in enumerate(files[kept.num_lines :]):
            if count == stop_after:
                raise KeyboardInterrupt
            lines.write(make_line(file))
    return kept


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "boxes.jsonl"


def stop(out: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(out, stop_after=after)


def test_lines_are_json_and_the_name_survives(out: Path) -> None:
    assert write(out) == Kept(0, 0)
    assert [Path(json.loads(line)["file"]) for line in out.read_text("ascii").splitlines()] == FILES
    assert [file.name for file in out.parent.iterdir()] == ["boxes.jsonl"]


def test_stopped_anywhere_the_file_ends_the_same(out: Path) -> None:
    write(out)
    whole = out.read_bytes()
    for size in range(len(whole) + 1):
        write(out, overwrite=True)
        stop(out.with_name("other"), after=0)
        out.with_name("other.part").replace(out.with_name("boxes.jsonl.part"))
        out.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        assert write(out) == Kept(complete, int(complete > 1))  # the second line tells an error
        assert out.read_bytes() == whole
        assert not out.with_name("boxes.jsonl.part").exists()


def test_a_stopped_run_says_with_what_it_was_begun(out: Path) -> None:
    stop(out, after=2)
    assert out.read_text() == make_line(FILES[0]) + make_line(FILES[1])
    assert json.loads(out.with_name("boxes.jsonl.part").read_text()) == SETTINGS


def refuses(out: Path, sentence: str, **arguments: object) -> None:
    beside = {file: file.read_bytes() for file in out.parent.iterdir()}
    with pytest.raises(ConfigError, match=sentence) as caught:
        write(out, **arguments)
    assert "pass --overwrite to begin again, or choose another --out" in str(caught.value)
    assert {file: file.read_bytes() for file in out.parent.iterdir()} == beside


def test_two_runs_are_not_mixed(out: Path) -> None:
    stop(out, after=2)
    refuses(out, "was begun with top = 100, and now it is 50", top=50)
    refuses(out, "was begun with nms = null, and now it is 0.7", nms=0.7)
    out.with_name("boxes.jsonl.part").write_text("")
    refuses(out, "was begun with top = null, and now it is 100")


@pytest.mark.parametrize("files", [FILES[::-1], FILES[1:], [FILES[0], FILES[2]], FILES[:1], []])
def test_lines_of_other_files_are_not_gone_on_with(out: Path, files: list[Path]) -> None:
    stop(out, after=2)
    refuses(out, "was begun with other files or in another order", files=files)


def test_new_files_behind_the_kept_ones_are_welcome(out: Path) -> None:
    stop(out, after=2)
    files = [*FILES[:2], Path("new.jpg"), FILES[2]]
    assert write(out, files) == Kept(2, 1)
    assert out.read_text() == "".join(map(make_line, files))


def test_finished_files_are_not_touched(out: Path) -> None:
    write(out)
    refuses(out, "is there already, and finished")


def test_overwrite_begins_again_with_any_settings(out: Path) -> None:
    write(out)
    assert write(out, FILES[:1], overwrite=True, top=5) == Kept()
    assert out.read_text() == make_line(FILES[0])
    stop(out.with_name("stopped"), after=2)
    assert write(out.with_name("stopped"), overwrite=True, top=5) == Kept()


def test_an_empty_file_and_a_part_alone_are_a_new_run(out: Path) -> None:
    stop(out, after=0)
    assert out.read_bytes() == b""
    write(out, top=5)  # nothing was written with other settings
    assert out.read_text() == "".join(map(make_line, FILES))
    stop(out.with_name("torn"), after=1)
    out.with_name("torn").write_bytes(b'{"file": "a.j')
    assert write(out.with_name("torn"), top=5) == Kept()
    assert out.with_name("torn").read_text() == "".join(map(make_line, FILES))
    stop(out.with_name("gone"), after=1)
    out.with_name("gone").unlink()
    assert write(out.with_name("gone"), top=5) == Kept()


def test_no_files_give_an_empty_file(out: Path) -> None:
    assert write(out, []) == Kept()
    assert out.read_bytes() == b""


def test_streams_and_devices_are_just_written(tmp_path: Path) -> None:
    stream = io.StringIO()
    with open_lines(stream, FILES, {}) as (lines, kept):
        lines.write("line\n")
    assert (stream.getvalue(), kept) == ("line\n", Kept())
    assert write(Path("/dev/null")) == Kept()
    assert not Path("/dev/null.part").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written \(Is a directory\)"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\)"):
        write(tmp_path / "file" / "folder" / "boxes.jsonl")
