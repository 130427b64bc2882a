"""What a run leaves behind, and that a kill at any moment leaves it readable."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from synthetic import make_records

from objectness.config import TrainOptions
from objectness.errors import TrainingError
from objectness.evaluation.recall import TOPS, measure_recall
from objectness.evaluation.report import RecallReport
from objectness.training.log import CURVES_FILE, METRICS_FILE, OPTIONS_FILE, Progress, RunLog

DESCRIPTION: dict[str, Any] = {"config": {"backbone": "resnet18"}, "train": {"epochs": 3.0}, "data": {"num_images": 2}}


def make_progress(step: int, **changes: Any) -> Progress:
    values = {"num_steps": 6, "objectness_loss": 0.5 / step, "box_loss": 0.25, "positives_per_image": 7.0}
    return Progress(**{**values, "step": step, "images_per_second": 3.0, "learning_rate": 0.02, **changes})


def half_found(folder: Path) -> RecallReport:
    """The recall where of two images one has exactly its boxes proposed, and the other nothing."""
    records = [record for record in make_records(folder / "photos", 9, seed=3) if len(record.boxes) == 1][:2]
    assert len(records) == 2
    return measure_recall(records, [(records[0].boxes, [0.5]), ([], [])], top=(10, 100))


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


def write_run(run: Path, steps: tuple[int, ...] = (2, 4)) -> None:
    log = RunLog(run, DESCRIPTION, 0)
    for step in steps:
        log.write(make_progress(step))
    log.close()


def test_a_line_for_each_progress(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / OPTIONS_FILE).read_text()) == DESCRIPTION
    first, second = read_lines(tmp_path / "run")
    assert (first["step"], second["step"]) == (2, 4)
    assert first["objectness_loss"] == 0.25
    assert "recall" not in first


def test_a_line_has_what_is_known_and_not_the_time_left() -> None:
    assert Progress(0, 9).to_line() == {"step": 0, "num_steps": 9}  # before the first step
    full = make_progress(3, recall=measure_recall([], []), seconds_left=7.0).to_line()
    assert list(full) == [
        *("step", "num_steps", "objectness_loss", "box_loss", "positives_per_image", "images_per_second"),
        *("learning_rate", "average_recall"),
    ]


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    write_run(tmp_path)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 5, "objectness_l')  # torn
    log = RunLog(tmp_path, DESCRIPTION, 2)
    log.write(make_progress(3))
    log.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 3]


def test_strange_lines_are_passed_over(tmp_path: Path) -> None:
    """One torn inside its recall ends with a brace, too."""
    write_run(tmp_path)
    strange = ["[]", "5", '{"a": 1}', '{"step": "x"}', "[" * 99_999, '{"step": 4, "average_recall": {"all": {"9": 0.5}']
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write("\n".join(strange))
    RunLog(tmp_path, DESCRIPTION, 4).close()
    assert [line["step"] for line in read_lines(tmp_path)] == [2, 4]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 5, "train": {}}', '{"config": {}}', "[" * 99_999])
def test_damaged_options_are_said(content: str, tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / OPTIONS_FILE).write_text(content)
    with pytest.raises(
        TrainingError, match=r"options\.json: is damaged \(.*\); a run without it cannot go on"
    ) as caught:
        RunLog(tmp_path, DESCRIPTION, 4)
    assert "\n" not in str(caught.value)


def test_options_that_an_earlier_version_lacked_are_defaults(tmp_path: Path) -> None:
    write_run(tmp_path)  # whose description names few
    for train in (TrainOptions(epochs=3.0), TrainOptions(epochs=3.0, patience=0)):
        RunLog(tmp_path, {**DESCRIPTION, "train": train.to_dict()}, 2).close()
    with pytest.raises(TrainingError, match="was trained with other options"):
        RunLog(tmp_path, {**DESCRIPTION, "train": TrainOptions(epochs=3.0, seed=1).to_dict()}, 2)


def test_other_options_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(TrainingError, match="was trained with other options"):
        RunLog(tmp_path, {**DESCRIPTION, "train": {"epochs": 4.0}}, 2)


@pytest.mark.parametrize("write_number", [1, 2])
def test_a_kill_while_a_leg_starts_loses_nothing(write_number: int, tmp_path: Path) -> None:
    """Options and metrics are written anew at each start; a kill between truncation and write emptied them."""
    write_run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in (OPTIONS_FILE, METRICS_FILE)}
    count = 0

    def die(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        nonlocal count
        count += 1
        with path.open("w") as file:  # truncates
            if count == write_number:
                raise KeyboardInterrupt
            return file.write(text)

    with mock.patch.object(Path, "write_text", die), pytest.raises(KeyboardInterrupt):
        RunLog(tmp_path, DESCRIPTION, 2)
    assert count == write_number
    assert (tmp_path / OPTIONS_FILE).read_bytes() == before[OPTIONS_FILE]
    assert read_lines(tmp_path)[0]["step"] == 2
    if write_number == 1:
        assert (tmp_path / METRICS_FILE).read_bytes() == before[METRICS_FILE]


def test_curves_and_recall(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = RunLog(tmp_path, DESCRIPTION, 0)
    log.write(make_progress(2))
    assert not (tmp_path / CURVES_FILE).exists()  # drawn after each measurement of recall
    log.write(make_progress(4, recall=half_found(tmp_path)))
    log.close()
    assert (tmp_path / CURVES_FILE).read_bytes().startswith(b"\x89PNG")
    assert set(read_lines(tmp_path)[1]["average_recall"]["all"]) == {"10", "100"}


def test_the_curves_show_what_the_lines_say(tmp_path: Path) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    drawn = []

    def keep(figure: Any, *args: Any, **kwargs: Any) -> None:
        drawn.append(figure)

    with mock.patch.object(figure_module.Figure, "savefig", keep):
        log = RunLog(tmp_path, DESCRIPTION, 0)
        log.write(Progress(0, 6, recall=half_found(tmp_path)))  # which knows no loss
        log.write(make_progress(1))
        log.write(make_progress(2, recall=half_found(tmp_path)))
        log.close()
    losses, recalls = drawn[1].axes
    values = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in losses.lines}
    assert values == {"objectness loss": ([1, 2], [0.5, 0.25]), "box loss": ([1, 2], [0.25, 0.25])}
    assert [line.get_label() for line in recalls.lines] == ["AR@10", "AR@100"]
    assert (list(recalls.lines[0].get_xdata()), list(recalls.lines[0].get_ydata())) == ([0, 2], [0.5, 0.5])


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, DESCRIPTION, 0)
    log.write(Progress(0, 6, recall=half_found(tmp_path)))
    log.write(make_progress(2))
    log.write(make_progress(4, recall=half_found(tmp_path)))
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["train/objectness_loss"] == [(2, 0.25), (4, 0.125)]
    assert scalars["train/positives_per_image"] == [(2, 7.0), (4, 7.0)]
    assert scalars["recall/AR@100"] == [(0, 0.5), (4, 0.5)]


def test_a_validation_without_objects(tmp_path: Path) -> None:
    log = RunLog(tmp_path, DESCRIPTION, 0)
    log.write(make_progress(2, recall=measure_recall([], [])))  # NaN, which is null in JSON and nothing in TensorBoard
    log.close()
    assert read_lines(tmp_path)[0]["average_recall"]["all"] == dict.fromkeys(map(str, TOPS))
