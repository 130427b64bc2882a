import io
import json
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from objectness.bulk.run import NUM_PREPARING, Counts, Result, name_pictures, to_json_line
from objectness.bulk.run import propose_files as propose_files_any
from objectness.bulk.run import run as run_any
from objectness.errors import ConfigError, ObjectnessError
from objectness.images.reading import read_image
from objectness.proposals import Proposals

run = partial(run_any, prepare=read_image)
propose_files = partial(propose_files_any, prepare=read_image, finish=lambda result: result)


def propose(image: np.ndarray) -> Proposals:
    """Three boxes that tell how large the image is."""
    height, width = image.shape[:2]
    return Proposals(
        boxes=torch.tensor([[0, 0, width, height], [1.2345, 2, width / 3, 9.999], [-0.001, 0, 5, 5]]),
        logits=torch.tensor([2.0, 0.0, -2.0]),
        levels=torch.tensor([6, 4, 2]),
        image_size=(height, width),
        image=image,
    )


def save_images(folder: Path, names: Sequence[str]) -> list[Path]:
    """Images of different sizes: 20 px wide and high, 21, ..; those named `bad*` are none."""
    files = [folder / name for name in names]
    for size, file in enumerate(files, 20):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), "white").save(file)
        if file.name.startswith("bad"):
            file.write_text("no image")
    return files


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return save_images(tmp_path / "photos", ["c.png", "a.png", "bad.png", "b.png", "d.png"])


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_hold_what_was_proposed() -> None:
    proposals = propose(np.zeros((20, 30, 3), dtype=np.uint8))
    line = to_json_line(Result(Path("photos") / "ü.jpg", proposals))
    assert line == (
        '{"file": "photos/\\u00fc.jpg", "width": 30, "height": 20, '
        '"boxes": [[0.0, 0.0, 30.0, 20.0], [1.23, 2.0, 10.0, 10.0], [0.0, 0.0, 5.0, 5.0]], '
        '"scores": [0.8808, 0.5, 0.1192], "levels": [6, 4, 2]}'  # 1 / (1 + exp(-2)) = 0.880797
    )
    assert json.loads(to_json_line(Result(Path("a.jpg"), proposals.top(0))))["boxes"] == []
    assert to_json_line(Result(Path("a.jpg"), error='a.jpg: "no"')) == '{"file": "a.jpg", "error": "a.jpg: \\"no\\""}'


def test_results_keep_the_order_and_failures_stop_nothing(files: list[Path]) -> None:
    results = list(propose_files(propose, files))
    assert [result.file for result in results] == files
    assert [result.proposals and result.proposals.image_size for result in results] == [
        (20, 20),
        (21, 21),
        None,
        (23, 23),
        (24, 24),
    ]
    assert [result.error for result in results if result.error] == [
        f"{files[2]}: is no image, or only the start of one"
    ]
    assert results[0].proposals is not None
    assert np.array_equal(results[0].proposals.image, np.full((20, 20, 3), 255))


def test_no_files_are_ordinary(tmp_path: Path) -> None:
    assert list(propose_files(propose, [])) == []
    assert run(propose, [], tmp_path / "out", draw_dir=tmp_path) == Counts()


def test_what_cannot_be_proposed_on_is_a_failure_too(files: list[Path]) -> None:
    def refuse(image: np.ndarray) -> Proposals:
        raise ObjectnessError("too odd")

    assert [result.error for result in propose_files(refuse, files[:1])] == [f"{files[0]}: too odd"]


def test_faults_of_the_program_come_through(files: list[Path]) -> None:
    def fail(image: np.ndarray) -> Proposals:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(propose_files(fail, files))


def test_reading_runs_ahead_but_not_far() -> None:
    begun: list[Path] = []
    ahead: list[int] = []
    first = threading.Event()

    def read(file: Path) -> np.ndarray:
        begun.append(file)
        if len(begun) > 1:
            first.set()
        return np.zeros((4, 4, 3), dtype=np.uint8)

    def watch(image: np.ndarray) -> Proposals:
        assert first.wait(10)  # the next is read before this one is done
        time.sleep(0.01)
        ahead.append(len(begun) - len(ahead))
        return propose(image)

    files = [Path(str(index)) for index in range(30)]
    assert len(list(propose_files(watch, files, prepare=read))) == 30
    assert 2 < max(ahead) <= 2 * NUM_PREPARING + 4  # this one, those that wait, and those taken in their place


def test_images_are_proposed_on_side_by_side(files: list[Path], tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=10)

    def meet(image: np.ndarray) -> Proposals:
        together.wait()
        return propose(image)

    assert run(meet, files, tmp_path / "two", at_once=2) == Counts(done=4, failed=1)
    run(propose, files, tmp_path / "one")
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


@pytest.mark.parametrize(("at_once", "asked", "expected"), [(1, None, 3), (2, None, 1), (8, None, 1), (2, 2, 2)])
def test_images_share_the_threads_of_torch(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, at_once: int, asked: int | None, expected: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    list(
        propose_files(
            propose, files, prepare=lambda _: np.zeros((2, 2, 3), np.uint8), at_once=at_once, torch_threads=asked
        )
    )
    assert set(set_to) == {1, expected, 3}  # those that prepare, those that propose, and as it was


def test_threads_end_with_the_one_who_listens(files: list[Path]) -> None:
    before = threading.active_count()
    results = propose_files(propose, files)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_run_writes_lines_and_counts(files: list[Path], tmp_path: Path) -> None:
    heard: list[tuple[Path, int]] = []
    out = tmp_path / "boxes.jsonl"
    counts = run(propose, files, out, on_result=lambda result, finished: heard.append((result.file, finished)))
    assert counts == Counts(done=4, failed=1)
    assert heard == [(file, finished) for finished, file in enumerate(files, 1)]
    assert [line["file"] for line in read_lines(out)] == [file.as_posix() for file in files]
    assert sorted(line.keys() - {"file"} == {"error"} for line in read_lines(out)) == [False] * 4 + [True]


def test_lines_are_there_as_soon_as_they_are_made(files: list[Path], tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    run(propose, files, out, on_result=lambda *_: seen.append(out.read_text().count("\n")))
    assert seen == [1, 2, 3, 4, 5]


def test_a_stream_gets_the_same_lines(files: list[Path], tmp_path: Path) -> None:
    stream = io.StringIO()
    assert run(propose, files, stream) == run(propose, files, tmp_path / "out")
    assert stream.getvalue() == (tmp_path / "out").read_text()
    assert not stream.closed


@pytest.mark.parametrize(
    ("top", "min_score", "scores"),
    [(None, 0, [0.8808, 0.5, 0.1192]), (2, 0, [0.8808, 0.5]), (0, 0, []), (9, 0.5, [0.8808, 0.5]), (1, 0.9, [])],
)
def test_only_what_was_asked_for_is_written(
    files: list[Path], tmp_path: Path, top: int | None, min_score: float, scores: list[float]
) -> None:
    run(propose, files[:1], tmp_path / "out", top=top, min_score=min_score)
    (line,) = read_lines(tmp_path / "out")
    assert line["scores"] == scores
    assert len(line["boxes"]) == len(line["levels"]) == len(scores)


def test_ctrl_c_leaves_what_the_next_run_goes_on_with(files: list[Path], tmp_path: Path) -> None:
    whole, out, calls = tmp_path / "whole", tmp_path / "out", []

    def interrupted(image: np.ndarray) -> Proposals:
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return propose(image)

    run(propose, files, whole)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, files, out)
    assert threading.active_count() == threads
    assert len(read_lines(out)) == 3  # two done, one failed, and the third call did not return
    assert run(propose, files, out) == Counts(done=4, failed=1, kept=3)
    assert out.read_bytes() == whole.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "whole", "out"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], bytes]:
    folder = tmp_path_factory.mktemp("finished")
    files = save_images(folder, ["a.png", "bad.png", "b.png"])
    run(propose, files, folder / "out")
    return folder / "out", files, (folder / "out").read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_torn_anywhere_the_file_ends_the_same(finished: tuple[Path, list[Path], bytes], data: st.DataObject) -> None:
    out, files, whole = finished
    size = data.draw(st.integers(0, len(whole)))
    out.write_bytes(whole[:size])
    out.with_name("out.part").write_text('{"top": null, "min_score": 0.0}')
    kept = whole[:size].count(b"\n")
    assert run(propose, files, out) == Counts(done=2, failed=1, kept=kept)
    assert out.read_bytes() == whole


def test_runs_with_other_settings_are_not_mixed(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(result: Result, finished: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(propose, files, out, top=2, settings={"weights": "small"}, on_result=stop)
    for arguments in ({"top": 2}, {"settings": {"weights": "small"}}, {"min_score": 0.1}):
        with pytest.raises(ConfigError, match="was begun with"):
            run(propose, files, out, **arguments)
    assert run(propose, files, out, top=2, settings={"weights": "small"}).kept == 1
    with pytest.raises(ConfigError, match="is there already, and finished"):
        run(propose, files, out, top=2, settings={"weights": "small"})
    assert run(propose, files, out, overwrite=True) == Counts(done=4, failed=1)


def test_pictures_are_drawn_before_their_lines(files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "drawn" / "here"

    def look(result: Result, finished: int) -> None:
        assert (folder / f"{result.file.stem}.jpg").exists() == (result.error is None)

    assert run(propose, files, io.StringIO(), draw_dir=folder, on_result=look).undrawn == 0
    assert sorted(file.name for file in folder.iterdir()) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    with Image.open(folder / "a.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (21, 21))
        assert np.asarray(picture).min() < 100  # it was white


def test_pictures_show_the_highlights_or_as_many_as_are_asked_for(files: list[Path], tmp_path: Path) -> None:
    """Of the three boxes on a white image the first is all of it; the others are below 0.4 of its score, or not."""
    shown = {}
    for top in (None, 1, 3):
        run(propose, files[-1:], io.StringIO(), draw_dir=tmp_path / str(top), top=top)
        with Image.open(tmp_path / str(top) / "d.jpg") as picture:
            shown[top] = np.asarray(picture).astype(int)
    proposals = propose(read_image(files[-1]))
    for top, picture in shown.items():
        assert np.abs(picture - np.asarray(proposals.draw(max_boxes=top))).mean() < 10
    assert np.abs(shown[None] - shown[3]).mean() > 10


def test_pictures_that_cannot_be_written_stop_nothing(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "drawn" / "a.jpg").mkdir(parents=True)
    errors = []
    counts = run(
        propose,
        files,
        tmp_path / "out",
        draw_dir=tmp_path / "drawn",
        on_result=lambda result, _: errors.append(result.drawing_error),
    )
    assert counts == Counts(done=4, failed=1, undrawn=1)
    assert [error is None for error in errors] == [True, False, True, True, True]
    assert str(errors[1]).startswith(f"{tmp_path / 'drawn' / 'a.jpg'}: cannot be drawn (")
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert len(read_lines(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("files", "pictures"),
    [
        ([], []),
        (["a.png"], ["a.jpg"]),
        (["x/a.png", "y/b.c.png"], ["a.jpg", "b.c.jpg"]),
        (["x/a.png", "x/z/b.png", "y/a.png"], ["x/a.jpg", "x/z/b.jpg", "y/a.jpg"]),
        (["p/x/A.png", "p/y/a.png"], ["x/A.jpg", "y/a.jpg"]),
        (["a.png", "a.jpg"], ["a.png.jpg", "a.jpg.jpg"]),
        (["p/../x/a.png", "y/a.png"], ["x/a.jpg", "y/a.jpg"]),
    ],
)
def test_no_two_pictures_share_a_name(tmp_path: Path, files: list[str], pictures: list[str]) -> None:
    sources = [tmp_path / file for file in files]
    assert name_pictures(sources, Path("out")) == dict(
        zip(sources, [Path("out", name) for name in pictures], strict=True)
    )


def test_pictures_never_take_the_place_of_images(tmp_path: Path) -> None:
    (file,) = save_images(tmp_path, ["a.jpg"])
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="would overwrite the image"):
        run(propose, [file], tmp_path / "out", draw_dir=tmp_path)
    assert file.read_bytes() == before
    assert not (tmp_path / "out").exists()
