import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import SMALL, make_records

from objectness.config import AugmentOptions, TrainOptions
from objectness.errors import CheckpointError, ConfigError, TrainingError
from objectness.evaluation.measure import measure_network
from objectness.network import RegionProposalNetwork
from objectness.training.loop import start_network, train
from objectness.weights.checkpoint import load_network

QUICK = TrainOptions(
    epochs=3,
    images_per_step=4,
    learning_rate=0.01,
    warmup_steps=2,
    precision="float32",
    augment=AugmentOptions(scale=(0.8, 1.2)),
    num_workers=0,
    log_every=2,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("photos"), 8)


def read_weights(run_dir):
    return (run_dir / "last" / "model.safetensors").read_bytes()


def read_metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def stop_after(steps):
    """A `should_stop` that says so after so many steps."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= steps


@pytest.mark.slow
def test_learns_four_images_by_heart(tmp_path):
    records = make_records(tmp_path / "photos", 4)
    config = replace(SMALL, batch_norm="trained")  # as training from nothing needs
    options = replace(
        QUICK, epochs=80, optimizer="adamw", learning_rate=0.003, augment=AugmentOptions(flip=0), log_every=40
    )
    result = train(config, options, records, tmp_path / "run", validation=records)
    assert result.is_complete
    assert result.recall.recall_by_iou(100)[0] > 0.95  # at IoU 0.5
    metrics = read_metrics(tmp_path / "run")
    assert metrics[-2]["objectness_loss"] < 0.3 * metrics[0]["objectness_loss"]


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "schedule": "cosine"}, {"num_workers": 1, "cache": "memory"}])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_goes_on_to_bit_identical_weights(tmp_path, records, changes, stop):
    options = replace(QUICK, **changes)  # 6 steps
    train(SMALL, options, records, tmp_path / "whole")
    first = train(SMALL, options, records, tmp_path / "legs", should_stop=stop_after(stop))
    assert (first.step, first.is_complete) == (stop, False)
    second = train(SMALL, options, records, tmp_path / "legs", resume=True)
    assert second.is_complete
    assert read_weights(tmp_path / "legs") == read_weights(tmp_path / "whole")


def test_a_finished_run_has_nothing_left_to_do(tmp_path, records):
    train(SMALL, QUICK, records, tmp_path)
    before = read_weights(tmp_path)
    assert train(SMALL, QUICK, records, tmp_path, resume=True).is_complete
    assert read_weights(tmp_path) == before


TESTS = [str(folder) for folder in Path(__file__).parents[:2]]  # where other processes find `synthetic` and this file

KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
from synthetic import SMALL, make_records
from test_loop import QUICK
from objectness.training.loop import train

def watch(progress):
    print(progress.step, flush=True)
    if progress.step == 4:
        sys.stdin.read()  # wait to be killed, unless nobody keeps this open

train(SMALL, QUICK, make_records(Path({photos!r}), 8), Path({run!r}), resume=True, on_progress=watch)
"""


@pytest.mark.slow
def test_survives_being_killed(tmp_path, records):
    """SIGKILL after step 4, before its checkpoint is written, then on to the same weights."""
    run = tmp_path / "killed"
    code = KILLED.format(tests=TESTS, photos=str(tmp_path / "photos"), run=str(run))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["2\n", "4\n"]
        process.kill()
    assert process.returncode == -signal.SIGKILL  # it had not ended by itself
    assert [line["step"] for line in read_metrics(run)] == [2, 4]
    for each in (code, code.replace(repr(str(run)), repr(str(tmp_path / "whole")))):
        subprocess.run([sys.executable, "-c", each], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert read_weights(run) == read_weights(tmp_path / "whole")
    assert [line["step"] for line in read_metrics(run)] == [2, 4, 6]


PROCESS = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {tests!r}
import torch.distributed as dist
from synthetic import SMALL, make_records
from test_loop import QUICK
from objectness.training.loop import train
dist.init_process_group("gloo", init_method="file://{store}", rank=int(sys.argv[1]), world_size=2)
records = make_records(Path({photos!r}) / sys.argv[1], 8)
train(SMALL, replace(QUICK, log_every=1), records, Path({run!r}), validation=records[:2])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_lose_what_one_loses(tmp_path, records):
    """Two gloo processes with half of each step are one process with all of it: loss by loss, and in the weights."""
    run = tmp_path / "two"
    code = PROCESS.format(tests=TESTS, store=tmp_path / "store", photos=str(tmp_path / "photos"), run=str(run))
    processes = [subprocess.Popen([sys.executable, "-c", code, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    train(SMALL, replace(QUICK, log_every=1), records, tmp_path / "one", validation=records[:2])
    one, two = read_metrics(tmp_path / "one"), read_metrics(run)
    assert len(one) == len(two) == 7  # six steps and a measurement
    for name in ("objectness_loss", "box_loss", "positives_per_image"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-4)
    first, second = (load_network(folder / "last").state_dict() for folder in (tmp_path / "one", run))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-3, atol=1e-5)


def test_images_without_boxes_and_with_nothing_but_crowds(tmp_path, records):
    empty = [replace(each, boxes=each.boxes[:0], areas=each.areas[:0], ignore=each.ignore[:0]) for each in records[:2]]
    crowded = [replace(each, ignore=~each.ignore) for each in records[2:4]]
    train(SMALL, replace(QUICK, epochs=2), empty + crowded, tmp_path)
    last = read_metrics(tmp_path)[-1]
    assert last["box_loss"] == last["positives_per_image"] == 0
    assert 0 < last["objectness_loss"] < 1


def test_a_loss_that_is_not_finite_names_step_and_images_and_saves_nothing(tmp_path, records):
    with pytest.raises(TrainingError, match=r"step \d+: the loss is not finite .* on .*\.png"):
        train(SMALL, replace(QUICK, learning_rate=1e20, clip_norm=0, warmup_steps=0), records, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("events")) == [
        "metrics.jsonl",
        "options.json",
    ]


def test_the_run_folder(tmp_path, records):
    options = replace(QUICK, validate_every=2, validate_images=3)
    result = train(SMALL, options, records, tmp_path / "run", validation=records, sources={"train": ["a.json"]})
    described = json.loads((tmp_path / "run" / "options.json").read_text())
    assert described["data"] == {"train": ["a.json"], "num_images": 8}
    assert described["train"]["epochs"] == 3
    measured = [
        line["average_recall"]["all"]["100"] for line in read_metrics(tmp_path / "run") if "average_recall" in line
    ]
    assert len(measured) == 3
    best = measure_network(load_network(tmp_path / "run" / "best"), records[:3])
    assert best.average_recall(100) == pytest.approx(max(measured))
    assert result.recall.num_images == 3
    assert load_network(tmp_path / "run").config == SMALL
    assert len(list((tmp_path / "run" / "pictures").glob("*.jpg"))) == 9


def test_other_runs_are_not_overwritten_or_mixed(tmp_path, records):
    train(SMALL, QUICK, records, tmp_path, should_stop=stop_after(2))
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(SMALL, QUICK, records, tmp_path)
    with pytest.raises(TrainingError, match="was trained with other options"):
        train(SMALL, replace(QUICK, seed=1), records, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="of another shape"):
        train(replace(SMALL, pyramid_channels=8), QUICK, records, tmp_path, resume=True)


def test_starts_from_a_checkpoint(tmp_path, records):
    train(SMALL, QUICK, records, tmp_path)
    started = start_network(SMALL, str(tmp_path)).state_dict()
    for name, tensor in load_network(tmp_path).state_dict().items():
        assert torch.equal(tensor, started[name])


def test_nothing_is_frozen_at_random(tmp_path, records):
    with pytest.raises(ConfigError, match="freeze random weights"):
        train(replace(SMALL, frozen_stages=2), QUICK, records, tmp_path)


def test_bfloat16_loses_nearly_what_float32_loses(tmp_path, records):
    losses = []
    for precision in ("float32", "bfloat16"):
        options = replace(QUICK, precision=precision)
        train(SMALL, options, records, tmp_path / precision, should_stop=stop_after(2))
        losses.append(read_metrics(tmp_path / precision)[0]["objectness_loss"])
    assert math.isclose(*losses, rel_tol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the device cache and bf16 there")
def test_trains_on_a_gpu_from_its_own_memory(tmp_path, records):
    options = replace(QUICK, cache="device", precision="auto", epochs=20)
    result = train(SMALL, options, records, tmp_path, validation=records, device="cuda")
    assert result.is_complete
    assert result.recall.average_recall(100) > 0.1


def test_no_proposals_are_made_while_training(tmp_path, records, monkeypatch):
    """A step needs labels and losses only; selection, which measuring does, would be work for nothing."""
    selected = []
    select = RegionProposalNetwork.select
    monkeypatch.setattr(
        RegionProposalNetwork, "select", lambda *args, **kwargs: selected.append(1) or select(*args, **kwargs)
    )
    train(SMALL, replace(QUICK, epochs=1), records, tmp_path / "plain")
    assert not selected
    train(SMALL, replace(QUICK, epochs=1), records, tmp_path / "measured", validation=records[:2])
    assert selected  # what is replaced here is what selects
