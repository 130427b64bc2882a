"""The command: most of it through `main` in this process, what only a process has through a real one."""

import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
import torch

from objectness import cli
from objectness.config import AugmentOptions, Config, InputOptions, SelectionOptions, TrainOptions
from objectness.geometry.nms import nms
from objectness.network import RegionProposalNetwork
from objectness.predict import load
from objectness.proposals import Proposals
from objectness.weights.checkpoint import SHIPPED, load_network, save_checkpoint

BOXES = Path(__file__).parents[1] / "examples" / "boxes.json"
PHOTOS = BOXES.parent / "photos"
COMMAND = [sys.executable, "-m", "objectness.cli"]
TINY = Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96), selection=SelectionOptions(keep=20))
SMALL_TRAINING = {  # two steps
    "--backbone": "resnet18",
    "--pyramid-channels": 8,
    "--input.short-side": 64,
    "--input.long-side": 96,
    "--selection.keep": 20,
    "--images-per-step": 2,
    "--epochs": 1,
    "--num-workers": 0,
    "--log-every": 1,
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["objectness", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def train_with(changes: dict[str, object] | None = None) -> list[object]:
    return [word for pair in {**SMALL_TRAINING, **(changes or {})}.items() for word in pair]


def list_said(ended: Ended) -> list[str]:
    """The lines on stderr without those that tell how far a slow machine is."""
    return [line for line in ended.err.splitlines() if not re.match(r"\w+: \d+/\d+", line)]


def one_message(ended: Ended, code: int) -> str:
    """What the only line on stderr says, of a call that failed."""
    assert (ended.code, ended.out) == (code, "")
    assert re.fullmatch(r"objectness: [^\n\x1b]+\n", ended.err), ended.err
    assert "Traceback" not in ended.err
    return ended.err.removeprefix("objectness: ").removesuffix("\n")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random network."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder, RegionProposalNetwork(TINY).state_dict(), TINY)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, Path]:
    """Everything bad that a command line can name."""
    root = tmp_path_factory.mktemp("bad")
    photo = PHOTOS / "coffee.jpg"
    (root / "empty").mkdir()
    (root / "pipe").mkdir()
    places = {"tiny": tiny, "photo": photo, "photos": PHOTOS, "boxes": BOXES, "root": root, "images": BOXES.parent}
    for name, edit in {
        "cut": lambda folder: os.truncate(folder / "model.safetensors", 5000),
        "other": lambda folder: _replace(folder / "config.json", "resnet18", "resnet34"),
        "broken": lambda folder: (folder / "config.json").write_text("{"),
        "unconfigured": lambda folder: (folder / "config.json").unlink(),
        "impossible": lambda folder: _replace(folder / "config.json", '"short_side": 64', '"short_side": -64'),
    }.items():
        places[name] = Path(shutil.copytree(tiny, root / name))
        edit(places[name])
    annotations = json.loads(BOXES.read_text())
    first, image = annotations["annotations"][0], annotations["images"][0]
    for name, entry, changes in (
        ("nan", first, {"bbox": [10, 10, float("nan"), 5]}),
        ("inverted", first, {"bbox": [10, 10, -3, 5]}),
        ("flat", first, {"bbox": [10, 10, 0, 5]}),
        ("unknown_id", first, {"image_id": 77}),
        ("missing_image", image, {"file_name": "photos/gone.jpg"}),
        ("other_size", image, {"width": 600}),
    ):
        before = dict(entry)
        entry.update(changes)
        places[name] = root / f"{name}.json"
        places[name].write_text(json.dumps(annotations))
        entry.update(before)
    for name, content in {
        "json": "{",
        "xml": "<annotation",
        "two": '{"file": "a"}\n' * 2,
        "text": "hello",
        "options.json": '{"data": {"num_images": 4}}',
    }.items():
        (root / f"folder_{name}").mkdir()
        file = root / f"folder_{name}" / (name if "." in name else f"broken.{name}")
        file.write_text(content)
        places[name.partition(".")[0]] = file
    return places


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# --- help ---


COMMANDS = ("propose", "train", "evaluate", "convert", "convert weights", "convert proposals", "export", "doctor")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_comes_without_torch(command: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "objectness.cli", *command.split(), "--help"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "objectness.config" in imported
    assert not imported & {"torch", "numpy", "PIL", "safetensors", "matplotlib"}
    assert f"Usage: objectness {command or 'COMMAND'}" in ended.stdout
    expected = {"": "doctor", "propose": "--engine", "train": "--input.short-side", "evaluate": "--proposals"}
    expected |= {"convert": "weights", "convert weights": "--set", "convert proposals": "--to", "export": "--selection"}
    assert expected.get(command, "") in ended.stdout
    assert "\x1b" not in ended.stdout


def test_help_is_what_no_command_gets(call: Call) -> None:
    assert call().out == call("--help").out == call("-h").out
    assert call("--version") == Ended(0, "0.1.0\n", "")


def test_runs_as_a_module() -> None:
    assert subprocess.run([sys.executable, "-m", "objectness", "--version"], capture_output=True).stdout == b"0.1.0\n"


# --- wrong use and bad input: one message each ---


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("nonsense", 2, 'Unknown command "nonsense"'),
        ("propose", 2, "propose: name at least one image file, folder or glob"),
        ("propose {photo} --nonsense", 2, "Unknown option: .*--nonsense.* See: objectness propose --help"),
        ("propose {photo} --at-once 0 --weights {tiny}", 2, "at_once = 0 must be at least 1"),
        (
            "propose {photo} --engine ncnn --precision bfloat16",
            2,
            "bfloat16 is for engines openvino and torch, not for",
        ),
        ("propose {photo} --top 0", 2, "--top 0: must be at least 1"),
        ("propose {photo} --top many", 2, '--top.*: unable to convert "many" into int'),
        ("propose {photo} --min-score 2", 2, r"--min-score 2: must be in \[0, 1\]"),
        ("propose {photo} --weights {tiny} --nms-iou 2", 2, r"nms_iou = 2.0 is not in \[0, 1\]"),
        ("evaluate {boxes} --proposals {two} --nms-iou 0.5", 2, "leave out --nms-iou and --across-levels; a file"),
        ("evaluate {boxes} --proposals {two} --within-levels", 2, "a file of proposals is measured as it is"),
        ("propose {photo} --min-score nan", 2, "--min-score nan: must be in"),
        ("propose {photo} --weights {tiny} --device nonsense", 2, "device 'nonsense': there is no such kind"),
        ("propose {photo} --weights {tiny} --device meta", 2, "device meta: torch cannot compute there"),
        ("propose {photo} --weights {tiny} --device cuda:99", 2, r"device cuda:99: torch finds \d+ CUDA devices"),
        ("propose {photo} --weights {tiny} --out {photo}/boxes.jsonl", 2, "coffee.jpg/boxes.jsonl: cannot be written"),
        ("propose {photo} --weights {tiny} --out {root}", 2, r"cannot be written \(Is a directory\)"),
        ("propose {photo} --weights {tiny} --draw {photo}", 2, "coffee.jpg: is no folder and cannot be made one"),
        ("propose {photos} --weights {tiny} --draw {photos}", 2, "would overwrite the image"),
        ("propose {root}/empty --weights {tiny}", 1, "empty: no image in it or below it"),
        ("propose {root}/gone.jpg --weights {tiny}", 1, "gone.jpg: there is no such file or folder"),
        ("propose '{root}/gone*.jpg' --weights {tiny}", 1, r"gone\*.jpg: no image matches"),
        ("propose {photo} --weights {root}/gone", 1, "gone: there is no such file or folder; pass a checkpoint"),
        ("propose {photo} --weights {root}/empty", 1, "empty: holds no checkpoint"),
        ("propose {photo} --weights {cut}", 1, "model.safetensors: cannot be read .* cut short"),
        ("propose {photo} --weights {other}", 1, r"weights of another network: \d+ missing \(the first is backbone"),
        ("propose {photo} --weights {broken}", 1, r"broken/config.json: .*line 1 column 2"),
        ("propose {photo} --weights {unconfigured}", 1, "unconfigured/config.json: .*No such file"),
        ("propose {photo} --weights {impossible}", 1, "config.json: input sides -64, 96"),
        ("train", 2, "name annotation files or folders and --out FOLDER, or --resume FOLDER"),
        ("train {boxes}", 2, "name annotation files or folders and --out FOLDER, or --resume FOLDER"),
        ("train {boxes} --out {root}/run --input.short-side 0", 2, "input sides 0, 512: need 1 <= short_side"),
        ("train {boxes} --out {root}/run --backbone nonsense", 2, "backbone 'nonsense' is unknown; known are resnet18"),
        ("train {boxes} --out {root}/run --schedule nonsense", 2, "--schedule"),
        ("train {boxes} --out {root}/run --epochs 0", 2, "epochs = 0.0 must be positive"),
        ("train {boxes} --out {root}/run --seed -1", 2, "seed = -1 is not in 0"),
        ("train {boxes} --out {root}/run --seed {seed}", 2, "seed = .* is not in 0"),
        ("train {boxes} --out {root}/run --epochs inf", 2, "epochs = inf must be positive and finite"),
        ("train {boxes} --out {root}/run --learning-rate -1", 2, "learning_rate = -1.0 must be positive"),
        ("train {boxes} --out {root}/run --momentum nan", 2, "momentum = nan is not in"),
        ("train {boxes} --out {root}/run --clip-norm -1", 2, "clip_norm = -1.0 must be at least 0"),
        ("train {boxes} --out {root}/run --weight-decay -1", 2, "weight_decay = -1.0 must be at least 0"),
        ("train {boxes} --out {root}/run --num-workers -1", 2, "num_workers = -1 must be at least 0"),
        ("train {boxes} --out {root}/run --augment.scale 1 inf", 2, "need 0 < smallest <= largest"),
        ("train {boxes} --out {root}/run --val {boxes} --val-share 0.1", 2, "give either --val or --val-share"),
        ("train {boxes} --out {root}/run --val-share 1.5 {small}", 2, r"share of images to measure on, 1.5, is not in"),
        ("train {boxes} --out {root}/run --val-share 0.9 {small}", 2, "0.9 of 4 images to measure on leaves none"),
        ("train --resume {root} --val-share 0", 2, "leave out --val-share"),
        (
            "train {boxes} --out {root}/run --pyramid-channels 8 --num-workers 0",
            1,
            "weights of another network: .*leave out of --pyramid-channels what changes them, or name --back",
        ),
        ("train {boxes} --out {root}/run --stop-after -1", 2, "--stop-after -1: must be minutes"),
        ("train {boxes} --out {root}/run --device nonsense", 2, "device 'nonsense': there is no such kind"),
        (
            "train {boxes} --out {root}/run {small} --weights {root}/gone.pth",
            1,
            "gone.pth: there is no such file",
        ),
        ("train {boxes} --out {photo}/run {small}", 1, "coffee.jpg/run: Not a directory"),
        ("train {root}/gone.json --out {root}/run {small}", 1, "gone.json: there is no such file or folder"),
        ("train {nan} --images {images} --out {root}/run {small}", 1, "annotation 1: .*not finite .*--skip-bad"),
        ("train {inverted} --images {images} --out {root}/run {small}", 1, "annotation 1: .* negative width"),
        ("train {flat} --images {images} --out {root}/run {small}", 1, r"no width \(x1 = x2 = 10\)"),
        ("train {unknown_id} --images {images} --out {root}/run {small}", 1, "there is no image with the id 77"),
        ("train {missing_image} --images {images} --out {root}/run {small}", 1, "gone.jpg is missing"),
        ("train {boxes} --out {root}/run --val {json} {small}", 1, "broken.json: is not valid JSON"),
        (
            "train {boxes} --out {root}/run --ignore-class cats {small}",
            1,
            "no class 'cats' to ignore; did you mean 'cat'",
        ),
        ("train {boxes} --resume {root} --ignore-class cat", 2, "leave out data, --ignore-class"),
        ("train --resume {root}/gone", 2, r"gone: is no run to go on with \(.*options.json: No such file"),
        ("train --resume {options.parent}", 2, "it was not started by this command"),
        ("train {boxes} --resume {root} --out x --epochs 3", 2, "leave out data, --out, options of the schedule"),
        ("evaluate", 2, "DATA.* requires an argument"),
        ("evaluate {json} --weights {tiny}", 1, r"broken.json: is not valid JSON \(.*line 1, column 2"),
        ("evaluate {xml.parent} --weights {tiny}", 1, "broken.xml: is not valid XML"),
        ("evaluate {root}/empty --weights {tiny}", 1, "empty: holds no data set that is recognised"),
        ("evaluate {other_size} --images {images} --weights {tiny}", 1, "do not belong together"),
        ("evaluate {boxes} --weights {tiny} --proposals {two}", 2, "give either --weights or --proposals"),
        ("evaluate {boxes} --proposals {root}/gone.jsonl", 1, "gone.jsonl: cannot be read"),
        ("evaluate {boxes} --proposals {boxes}", 1, "boxes.json: line 1 is no line of proposals"),
        ("evaluate {boxes} --proposals {two}", 1, "line 2 is a second one about a"),
        ("evaluate {boxes} --out {photo}/report.json", 2, "coffee.jpg: is no folder and cannot be made one"),
        ("evaluate {boxes} --ignore-class 77", 1, r"boxes.json: there is no class '77' to ignore; .* \(12 in all\)"),
        ("evaluate {boxes} --out {root}", 2, "is a folder; name a file in it"),
        ("evaluate {boxes} --plot {root}/plot.nonsense", 2, "plot.nonsense: must end with one of .png"),
    ],
)
def test_says_in_one_line_what_is_wrong(
    call: Call, places: dict[str, Path], command: str, code: int, message: str
) -> None:
    words = shlex.split(command.format(**places, seed=10**23, small=shlex.join(map(str, train_with()))))
    said = one_message(call(*words), code)
    assert re.search(message, said), said
    assert not (places["root"] / "run" / "last").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_there_is_no_gpu(call: Call, tiny: Path) -> None:
    said = one_message(call("propose", PHOTOS, "--weights", tiny, "--device", "cuda"), 2)
    assert said == "device cuda: torch finds 0 CUDA devices; pass cpu or auto"


def test_says_that_memory_is_short(call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation")

    monkeypatch.setattr("objectness.predict.Proposer.propose", fail)
    assert one_message(call("propose", PHOTOS, "--weights", tiny), 1).startswith("there is not enough memory")


def test_a_mistake_of_ours_is_not_hidden(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("objectness.predict.Proposer.propose", fail)
    monkeypatch.setattr(sys, "argv", ["objectness", "propose", str(PHOTOS), "--weights", str(tiny)])
    with pytest.raises(RuntimeError, match="shape mismatch"):
        cli.main()


# --- propose ---


def write_bad_images(folder: Path) -> None:
    """One good image and four bad ones; the last of these says it is 40,000 x 40,000 px."""

    def make_chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    folder.mkdir()
    photo = (PHOTOS / "coffee.jpg").read_bytes()
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "good.jpg").write_bytes(photo)
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*chunk) for chunk in chunks))
    (folder / "text.jpg").write_text("hello")


@pytest.mark.slow
def test_bad_images_stop_nothing(tmp_path: Path, tiny: Path) -> None:
    write_bad_images(tmp_path / "images")
    words = [*COMMAND, "propose", tmp_path / "images", "--weights", tiny, "--top", "3"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "\x1b" not in ended.stdout + ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["cut.jpg", "empty.jpg", "good.jpg", "huge.png", "text.jpg"]
    assert list(lines[2]) == ["file", "width", "height", "boxes", "scores", "levels"]
    assert (lines[2]["width"], lines[2]["height"], len(lines[2]["boxes"])) == (600, 400, 3)
    bad = [line for line in lines if line is not lines[2]]
    assert [list(line) for line in bad] == [["file", "error"]] * 4
    for line, reason in zip(bad, ["ends early", "is empty", "1,600,000,000 pixels", "is no image"], strict=True):
        assert reason in line["error"]
    *messages, summary = ended.stderr.splitlines()
    assert messages == [f"objectness: {line['error']}" for line in bad]
    assert summary == "1 of 5 images done; 4 failed"


def test_proposes_on_photos(call: Call, tiny: Path, photos: list[Path], tmp_path: Path) -> None:
    out, drawn = tmp_path / "new" / "boxes.jsonl", tmp_path / "drawn"
    ended = call("propose", PHOTOS, "--weights", tiny, "--out", out, "--draw", drawn)
    assert ended == Ended(0, "", f"{len(photos)} of {len(photos)} images done; 0 failed\n")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["file"] for line in lines] == [photo.as_posix() for photo in photos]
    assert all(len(line["boxes"]) == len(line["scores"]) == len(line["levels"]) == 20 for line in lines)
    assert all(line["scores"] == sorted(line["scores"], reverse=True) for line in lines)
    assert sorted(file.name for file in drawn.iterdir()) == [photo.name for photo in photos]
    assert call("propose", PHOTOS, "--weights", tiny).out == out.read_text()
    shortened = call("propose", *photos, "--weights", tiny / "model.safetensors", "--top", "5", "--device", "cpu")
    assert [line["boxes"] for line in shortened.lines] == [line["boxes"][:5] for line in lines]
    side_by_side = call("propose", PHOTOS, "--weights", tiny, "--at-once", "3", "--precision", "bfloat16")
    assert [line["file"] for line in side_by_side.lines] == [line["file"] for line in lines]
    assert all(len(line["boxes"]) == 20 for line in side_by_side.lines)
    middle = lines[0]["scores"][9]
    assert len(call("propose", photos[0], "--weights", tiny, "--min-score", middle).lines[0]["scores"]) in (9, 10)


def test_a_finished_file_is_kept(call: Call, tiny: Path, tmp_path: Path) -> None:
    words = ["propose", PHOTOS / "coffee.jpg", "--weights", tiny, "--out", tmp_path / "boxes.jsonl"]
    assert call(*words).code == 0
    before = (tmp_path / "boxes.jsonl").read_bytes()
    assert "is there already, and finished; pass --overwrite" in one_message(call(*words), 2)
    assert (tmp_path / "boxes.jsonl").read_bytes() == before
    assert call(*words, "--overwrite", "--top", 1).code == 0
    assert len((tmp_path / "boxes.jsonl").read_bytes()) < len(before)


def test_no_file_holds_the_proposals_of_two_networks(call: Call, tiny: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny, tmp_path / "weights"))
    words = ["propose", PHOTOS, "--weights", weights, "--out", tmp_path / "boxes.jsonl"]
    assert call(*words).code == 0
    whole = (tmp_path / "boxes.jsonl").read_bytes()

    def begin() -> None:
        (tmp_path / "boxes.jsonl").write_bytes(whole[: len(whole) // 2])
        settings = {"weights_sha256": cli.propose._hash_weights(load_tiny(weights)), "top": None, "min_score": 0.0}
        (tmp_path / "boxes.jsonl.part").write_text(json.dumps(settings))

    begin()
    assert call(*words).code == 0
    assert (tmp_path / "boxes.jsonl").read_bytes() == whole
    begin()
    save_checkpoint(weights, RegionProposalNetwork(TINY).state_dict(), TINY)  # other weights at the same place
    assert "was begun with weights_sha256" in one_message(call(*words), 2)


def load_tiny(folder: Path) -> RegionProposalNetwork:
    from objectness.weights.checkpoint import load_network

    return load_network(folder)


def test_suppression_can_be_chosen_and_belongs_to_the_run(call: Call, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "boxes.jsonl"
    words = ["propose", PHOTOS, "--weights", tiny, "--out", out]
    assert call(*words, "--nms-iou", "0.3", "--across-levels").code == 0
    written = out.read_text()
    for line in map(json.loads, written.splitlines()):
        boxes, scores = torch.tensor(line["boxes"]), torch.tensor(line["scores"])
        assert len(boxes) > 1
        assert len(nms(boxes, scores, 0.31)) == len(boxes)  # they were rounded
    assert call(*words, "--overwrite").code == 0
    assert out.read_text() != written
    (tmp_path / "boxes.jsonl").write_text(written[: len(written) // 2])
    settings = {"weights_sha256": cli.propose._hash_weights(load(tiny, nms_iou=0.3, across_levels=True).network)}
    settings |= {"top": None, "min_score": 0.0, "nms_iou": 0.3, "across_levels": True}
    (tmp_path / "boxes.jsonl.part").write_text(json.dumps(settings))
    assert "was begun with across_levels = true, and now it is null" in one_message(call(*words, "--nms-iou", "0.3"), 2)
    assert "was begun with nms_iou = 0.3, and now" in one_message(
        call(*words, "--nms-iou", "0.4", "--across-levels"), 2
    )
    assert call(*words, "--nms-iou", "0.3", "--across-levels").code == 0
    assert out.read_text() == written


def test_pictures_below_the_sources_are_not_proposed_on(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(PHOTOS / "coffee.jpg", tmp_path / "photos" / "b.jpg")
    words = ["propose", tmp_path / "photos", "--weights", tiny, "--draw", tmp_path / "photos" / "a"]
    first = call(*words)
    assert (tmp_path / "photos" / "a" / "b.jpg").is_file()
    assert call(*words) == first
    assert len(call(*words[:-2]).lines) == 2


def test_names_of_files_cannot_break_the_messages(call: Call, tiny: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff [bold]\n\x1b[31m.jpg")
    try:
        (tmp_path / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such name")
    ended = call("propose", tmp_path / name, "--weights", tiny)
    assert ended.code == 1
    assert ended.lines[0]["file"] == (tmp_path / name).as_posix()
    assert ended.err.splitlines() == [
        rf"objectness: {tmp_path}/\udcff [bold]\n\x1b[31m.jpg: the file is empty (0 bytes)",
        "0 of 1 images done; 1 failed",
    ]


def test_pictures_that_cannot_be_drawn_are_counted(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").mkdir()
    ended = call("propose", PHOTOS / "coffee.jpg", "--weights", tiny, "--draw", tmp_path)
    assert (ended.code, len(ended.lines)) == (1, 1)
    assert ended.err.splitlines()[1] == "1 of 1 images done; 0 failed; 1 pictures could not be drawn"


class Spawn(Protocol):
    def __call__(self, *words: object, **streams: object) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start the command as a process, which is killed if it is still there at the end, or after five minutes."""
    started: list[tuple[subprocess.Popen[bytes], threading.Timer]] = []

    def start(*words: object, command: list[str] = COMMAND, **streams: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = subprocess.Popen([*command, *map(str, words)], **streams)  # type: ignore
        timer = threading.Timer(300, process.kill)
        timer.start()
        started.append((process, timer))
        return process

    yield start
    for process, timer in started:
        timer.cancel()
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()


class Pipes:
    """Named pipes that stand for images: who reads one waits until it is let go on."""

    def __init__(self, *paths: Path):
        self.paths = paths
        for path in paths:
            os.mkfifo(path)

    def release(self) -> None:
        """Let readers find the end of the file."""
        for path in self.paths:
            with suppress(OSError):  # nobody reads it
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


# The command, which touches a file when Ctrl-C has come through to Python, before anything happens about it.
NOTICES = """
import signal, sys
from pathlib import Path

def stop(number, frame):
    Path({path!r}).touch()
    signal.default_int_handler(number, frame)

signal.signal(signal.SIGINT, stop)
from objectness.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are needed to stop a run at a known image")
def test_a_stopped_run_goes_on_to_the_same_bytes(call: Call, spawn: Spawn, tiny: Path, tmp_path: Path) -> None:
    photo, out = PHOTOS / "coffee.jpg", tmp_path / "boxes.jsonl"
    files = [tmp_path / f"{number}.jpg" for number in range(5)]
    for file in files[::2]:
        shutil.copy(photo, file)
    pipes = Pipes(files[1], files[3])
    words = ["propose", *files, "--weights", tiny, "--out", out]

    noticed = tmp_path / "noticed"
    command = [sys.executable, "-c", NOTICES.format(path=str(noticed))]
    process = spawn(*words, command=command, stderr=subprocess.PIPE)
    wait_until(lambda: count_lines(out) == 1)
    process.send_signal(signal.SIGINT)
    wait_until(noticed.exists)  # otherwise a busy machine could let the images go on first
    while process.poll() is None:
        pipes.release()
        time.sleep(0.02)
    assert process.communicate()[1] == b"objectness: stopped; the same command goes on from here\n"
    assert (process.returncode, count_lines(out)) == (130, 1)

    files[1].unlink()
    shutil.copy(photo, files[1])
    process = spawn(*words, stderr=subprocess.PIPE)
    wait_until(lambda: count_lines(out) == 3)
    process.kill()
    assert process.communicate()[1] == b""
    with out.open("a") as lines:
        lines.write('{"file": "')  # as a kill in the middle of a line would leave it

    files[3].unlink()
    shutil.copy(photo, files[3])
    assert call(*words) == Ended(0, "", "5 of 5 images done, 3 of them before; 0 failed\n")
    goal = tmp_path / "whole.jsonl"
    assert call(*words[:-1], goal).code == 0
    assert out.read_bytes() == goal.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


# --- a terminal ---


class Terminal:
    """A pseudo-terminal, 80 columns wide, and what was written to it."""

    def __init__(self) -> None:
        import fcntl
        import pty
        import termios

        self.outside, self.inside = pty.openpty()
        fcntl.ioctl(self.inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        hidden = ("COLUMNS", "NO_COLOR")  # what would overrule it
        self.environment = {name: value for name, value in os.environ.items() if name not in hidden}
        self.environment["TERM"] = "xterm-256color"
        self.written = b""
        self.closing = threading.Event()
        self.reader = threading.Thread(target=self._read)  # who writes waits where nobody reads
        self.reader.start()

    def _read(self) -> None:
        while select.select([self.outside], [], [], 0.05)[0] or not self.closing.is_set():
            if select.select([self.outside], [], [], 0)[0]:
                self.written += os.read(self.outside, 1 << 16)

    def close(self) -> None:
        self.closing.set()
        self.reader.join()
        os.close(self.inside)
        os.close(self.outside)

    @property
    def lines(self) -> list[str]:
        """Every line that was shown, also those that were overwritten, without colours."""
        text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.written.decode())
        return [line for line in re.split(r"[\r\n]+", text) if line]


@contextmanager
def open_terminal() -> Iterator[Terminal]:
    pytest.importorskip("pty")
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(spawn: Spawn, tiny: Path, tmp_path: Path) -> None:
    # `objectness propose ... | head -1` in a terminal: lines go to the pipe although the bar is on the terminal
    good, waiting = tmp_path / "a.jpg", tmp_path / "b.jpg"
    shutil.copy(PHOTOS / "coffee.jpg", good)
    with open_terminal() as terminal:
        pipes = Pipes(waiting)
        words = ["propose", good, waiting, "--weights", tiny, "--top", 1]
        process = spawn(*words, stdout=subprocess.PIPE, stderr=terminal.inside, env=terminal.environment)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["width"] == 600
        process.stdout.close()
        while process.poll() is None:
            pipes.release()
            time.sleep(0.02)
    lines = terminal.lines
    assert process.returncode == 141
    assert any(re.fullmatch(r"propose ━+ +1/2 *", line.replace("╸", "━").replace("╺", "━")) for line in lines)
    assert not [line for line in lines if not line.startswith("propose ")]


@pytest.mark.slow
def test_training_fits_a_terminal_and_ctrl_c_leaves_a_checkpoint(call: Call, spawn: Spawn, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    words = ["train", BOXES, "--out", run, *train_with({"--epochs": 10_000})]
    with open_terminal() as terminal:
        process = spawn(*words, stdout=subprocess.DEVNULL, stderr=terminal.inside, env=terminal.environment)
        wait_until(lambda: b"positives/image" in terminal.written)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    lines = terminal.lines
    counted = [line for line in lines if re.search(r"[1-9]\d*/20000", line)]
    assert counted
    assert all(re.fullmatch(r"train ━*[╸╺]?━* +\d+/20000 \d+:\d\d:\d\d left *", line) for line in counted)
    numbers = r"objectness 0\.\d{3}  box 0\.\d{3}  \d+\.\d positives/image  \d+\.\d images/s"
    assert any(re.fullmatch(numbers, line) for line in lines)
    assert max(len(line) for line in lines if str(run) not in line) <= 80
    step = int(re.search(r"step (\d+) of 20000, stopped; go on with: (.*)", lines[-1])[1])
    assert lines[-1].endswith(f"objectness train --resume '{run}'")
    assert (run / "last" / "training.pt").is_file()

    ended = call("train", "--resume", run, "--stop-after", 0)
    assert ended.code == 0
    assert f"step {step + 1} of 20000, stopped" in ended.err


def test_progress_is_a_line_now_and_then_without_a_terminal(
    call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.terminal, "SECONDS_BETWEEN_LINES", 0.0)
    ended = call("evaluate", BOXES, "--weights", tiny)
    first, *rest = ended.err.splitlines()
    assert first == "evaluate: 1/4"
    assert [re.fullmatch(r"evaluate: (\d)/4, \d+:\d\d:\d\d left", line)[1] for line in rest] == ["2", "3", "4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
def test_a_full_disk_is_said(call: Call, tiny: Path) -> None:
    ended = call("propose", PHOTOS, "--weights", tiny, "--out", "/dev/full")
    assert one_message(ended, 1) == os.strerror(errno.ENOSPC)


# --- train ---


def test_trains_and_goes_on_to_the_same_weights(call: Call, tmp_path: Path) -> None:
    whole, legs = tmp_path / "whole", tmp_path / "legs"
    what = "resnet18 at 64 x 96 px from random weights (--weights imagenet takes ImageNet's); 4 images, 2 steps of 2"
    started = call("train", BOXES, "--out", whole, *train_with())
    assert started == Ended(0, "", f"{whole}: {what}\n{whole}: step 2 of 2, trained\n")
    assert {"options.json", "metrics.jsonl", "last"} <= {file.name for file in whole.iterdir()}
    assert [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    go_on = f"stopped; go on with: objectness train --resume {shlex.quote(str(legs))}"
    first = call("train", BOXES, "--out", legs, *train_with(), "--stop-after", 0)
    assert first == Ended(0, "", f"{legs}: {what}\n{legs}: step 1 of 2, {go_on}\n")
    resumed = f"{legs}: goes on from step 1 of 2\n{legs}: step 2 of 2, trained\n"
    assert call("train", "--resume", legs) == Ended(0, "", resumed)
    weights = [(run / "last" / "model.safetensors").read_bytes() for run in (whole, legs)]
    assert weights[0] == weights[1]
    assert call("train", "--resume", legs) == Ended(0, "", f"{legs}: step 2 of 2, trained\n")  # nothing left to do
    assert "holds a run already" in one_message(call("train", BOXES, "--out", legs, *train_with()), 1)
    assert call("propose", PHOTOS, "--weights", whole, "--top", 1).code == 0


def test_training_measures_recall_and_says_what_is_left_out(
    call: Call, places: dict[str, Path], tmp_path: Path
) -> None:
    data = [places["missing_image"], "--images", BOXES.parent, "--skip-bad"]
    ended = call("train", *data, "--val", BOXES, "--out", tmp_path / "run", *train_with({"--epochs": 0.5}))
    assert ended.code == 0
    assert ended.out.startswith("Average recall over 4 images\n")
    note, start, before, recall, summary = list_said(ended)
    assert re.fullmatch(r"images left out: 1; the first is .*gone.jpg is missing", note)
    assert start.endswith("; 3 images, 1 steps of 2")
    for step, line in enumerate((before, recall)):
        assert re.fullmatch(
            rf"step {step}: AR@10 0\.\d{{3}}  AR@100 0\.\d{{3}}  AR@300 0\.\d{{3}}  AR@1000 0\.\d{{3}}", line
        )
    assert summary.endswith("step 1 of 1, trained")
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


QUICKLY = ("--images-per-step", 2, "--epochs", 0.5, "--num-workers", 0, "--log-every", 1)  # one step of 4 images


def read_options(run: Path) -> tuple[Config, TrainOptions, dict[str, object]]:
    stored = json.loads((run / "options.json").read_text())
    return Config.from_dict(stored["config"]), TrainOptions.from_dict(stored["train"]), stored["data"]


def test_training_starts_from_the_network_that_ships_and_options_change_only_what_they_name(
    call: Call, tmp_path: Path
) -> None:
    ended = call("train", BOXES, "--out", tmp_path, *QUICKLY, "--input.short-side", 64, "--input.long-side", 96)
    assert ended.code == 0, ended.err
    config, options, _ = read_options(tmp_path)
    shipped = load_network().config
    assert config == replace(shipped, input=replace(shipped.input, short_side=64, long_side=96))
    assert options == TrainOptions.fine_tuning(
        config, 4, images_per_step=2, epochs=0.5, num_workers=0, log_every=1, weights=SHIPPED
    )
    said = f"{config.backbone} at 64 x 96 px from {SHIPPED}; 4 images, 1 steps of 2"
    assert ended.err.splitlines()[0] == f"{tmp_path}: {said}"
    assert load_network(tmp_path).config == config


def test_options_change_the_configuration_that_weights_bring(call: Call, tiny: Path, tmp_path: Path) -> None:
    words = ("--weights", tiny, "--selection.keep", 5, "--batch-norm", "trained", "--augment.flip", 0)
    assert call("train", BOXES, "--out", tmp_path, *QUICKLY, *words).code == 0
    config, options, _ = read_options(tmp_path)
    assert config == replace(TINY, batch_norm="trained", selection=SelectionOptions(keep=5))
    assert options.augment == AugmentOptions(flip=0)


def test_a_backbone_without_weights_starts_at_random_and_learns_its_statistics(call: Call, tmp_path: Path) -> None:
    assert call("train", BOXES, "--out", tmp_path, *train_with()).code == 0
    config, options, _ = read_options(tmp_path)
    assert (config.backbone, config.batch_norm, options.weights) == ("resnet18", "trained", None)
    assert config.anchors == Config().anchors
    frozen = train_with({"--batch-norm": "frozen", "--epochs": 0.5})
    assert call("train", BOXES, "--out", tmp_path / "frozen", *frozen).code == 0
    assert read_options(tmp_path / "frozen")[0].batch_norm == "frozen"


def test_some_images_are_kept_apart_and_stay_so(call: Call, tmp_path: Path) -> None:
    ended = call("train", BOXES, "--val-share", 0.3, "--out", tmp_path, *train_with({"--epochs": 2}), "--stop-after", 0)
    kept = "3 images (1 kept apart to measure recall on; --val-share 0 trains on all), 4 steps of 2"
    assert kept in list_said(ended)[0]
    assert read_options(tmp_path)[2]["held_out"] == 1
    again = call("train", "--resume", tmp_path)
    assert again.code == 0
    assert again.out.startswith("Average recall over 1 images\n")
    assert f"{tmp_path}: goes on from step 1 of 4" in list_said(again)


def test_training_ignores_a_class_on_and_on(call: Call, tmp_path: Path) -> None:
    words = [BOXES, "--out", tmp_path, "--ignore-class", "tower", "--ignore-class", "3", "--ignore-difficult"]
    ended = call("train", *words, *train_with(), "--stop-after", 0)
    notes = [re.sub("; the first is .*", "", line) for line in ended.err.splitlines()]
    assert notes[:2] == ["boxes ignored of class flag: 1", "boxes ignored of class tower: 4"]
    stored = json.loads((tmp_path / "options.json").read_text())["data"]
    assert (stored["ignore_classes"], stored["ignore_difficult"]) == (["tower", "3"], True)
    again = call("train", "--resume", tmp_path)
    assert (again.code, [re.sub("; the first is .*", "", line) for line in again.err.splitlines()][:2]) == (
        0,
        notes[:2],
    )


def test_training_stops_at_an_image_that_is_not_its_annotations(
    call: Call, places: dict[str, Path], tmp_path: Path
) -> None:
    ended = call("train", places["other_size"], "--images", BOXES.parent, "--out", tmp_path, *train_with())
    assert (ended.code, ended.out) == (1, "")
    assert re.search(r"objectness: .*512 x 512 px, its annotations are for 600 x 512", list_said(ended)[-1])
    assert not (tmp_path / "last").exists()


def test_training_says_how_long_it_will_take(call: Call, tmp_path: Path) -> None:
    ended = call("train", BOXES, "--out", tmp_path, *train_with({"--epochs": 8}))  # 16 steps
    _, line, summary = list_said(ended)
    assert re.fullmatch(r"step 1[0-6] of 16: about 0:00:\d\d left, at \d+\.\d images/s", line)
    assert summary == f"{tmp_path}: step 16 of 16, trained"


def test_training_says_why_it_ended_early(call: Call, tmp_path: Path) -> None:
    words = train_with({"--epochs": 8, "--validate-every": 1, "--patience": 1, "--learning-rate": 1e-30})
    ended = call("train", BOXES, "--val", BOXES, "--out", tmp_path, *words)
    assert ended.code == 0
    reason = "ended, since AR@100 was not higher in 1 measurements"
    assert list_said(ended)[-1] == f"{tmp_path}: step 1 of 16, {reason}"


def test_corrupt_options_of_a_run_are_said(call: Call, tmp_path: Path) -> None:
    assert call("train", BOXES, "--out", tmp_path, *train_with(), "--stop-after", 0).code == 0
    options = tmp_path / "options.json"
    good = json.loads(options.read_text())
    for content, message in (
        ("{", "options.json: Expecting property name"),
        ("[]", "options.json: "),
        (json.dumps({**good, "train": {"epochs": "many"}}), "epochs = 'many' must be of type float"),
        (json.dumps({"data": good["data"]}), "options.json: there is no 'config'"),
        (json.dumps({**good, "data": {**good["data"], "train": [1]}}), "was not started by this command"),
        ("[" * 99_999, "options.json: "),
    ):
        options.write_text(content)
        assert message in one_message(call("train", "--resume", tmp_path), 2)


def test_the_second_ctrl_c_stops_at_once(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, should_stop: Callable[[], bool], **__: object) -> None:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(import_module("objectness.training.loop"), "train", train)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended = call("train", BOXES, "--out", tmp_path, *train_with())
    assert one_message(ended, 130) == (
        f"stopped; go on from the last checkpoint with: objectness train --resume {shlex.quote(str(tmp_path))}"
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- evaluate ---


def test_measures_a_network_and_its_proposal_file_alike(call: Call, tiny: Path, tmp_path: Path) -> None:
    report, proposals = tmp_path / "new" / "report.json", tmp_path / "boxes.jsonl"
    ended = call("evaluate", BOXES, "--weights", tiny, "--out", report)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Average recall over 4 images\n")
    stored = json.loads(report.read_text())
    assert (stored["images"], stored["boxes"]["all"]) == (4, 15)
    averages = stored["average_recall"]["all"]
    row = next(line for line in ended.out.splitlines() if line.split()[:1] == ["all"])
    assert row.split()[1:] == ["15", *(f"{averages[top]:.3f}" for top in ("10", "100", "300", "1000"))]
    assert averages["100"] > 0
    assert call("propose", PHOTOS, "--weights", tiny, "--out", proposals).code == 0
    assert call("evaluate", BOXES, "--proposals", proposals).out == ended.out  # rounding changes nothing here
    suppressed = ("--weights", tiny, "--nms-iou", "0.3", "--across-levels")
    other = call("evaluate", BOXES, *suppressed)
    assert other.out not in (ended.out, call("evaluate", BOXES, *suppressed[:-1], "--within-levels").out)
    assert call("propose", PHOTOS, *suppressed, "--out", proposals, "--overwrite").code == 0
    assert call("evaluate", BOXES, "--proposals", proposals).out == other.out


def test_a_class_to_ignore_need_not_be_found(call: Call, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ended = call(
        "evaluate", "--ignore-class", "tower", BOXES, "--weights", tiny, "--out", report
    )  # no data set "boxes"
    assert ended.err.startswith("boxes ignored of class tower: 4; the first is ")
    assert ended.out.startswith("Average recall over 4 images; 4 boxes ignored\n")
    stored = json.loads(report.read_text())
    assert (stored["boxes"]["all"], stored["ignored"]) == (11, 4)


def test_proposals_of_other_images_are_refused(call: Call, tiny: Path, tmp_path: Path) -> None:
    proposals = tmp_path / "boxes.jsonl"
    assert call("propose", PHOTOS / "coffee.jpg", "--weights", tiny, "--out", proposals).code == 0
    said = one_message(call("evaluate", BOXES, "--proposals", proposals), 1)
    assert "has no line for 3 of 4 annotated images (the first is photos/astronaut.jpg); propose on all" in said


def test_draws_a_plot(call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    words = ["evaluate", BOXES, "--weights", tiny, "--plot", tmp_path / "new" / "recall.png"]
    assert call(*words).code == 0
    assert (tmp_path / "new" / "recall.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("objectness.packages.find_spec", lambda name: None)
    assert one_message(call(*words), 1) == "--plot needs matplotlib: pip install 'objectness[plot]'"


def test_results_are_those_of_the_python_face(call: Call, tiny: Path) -> None:
    from objectness.predict import load

    photo = PHOTOS / "rocket.jpg"
    proposals = load(tiny, device="cpu")(photo)
    assert isinstance(proposals, Proposals)
    (line,) = call("propose", photo, "--weights", tiny, "--device", "cpu").lines
    torch.testing.assert_close(torch.tensor(line["boxes"]), proposals.boxes, atol=0.006, rtol=0)
    torch.testing.assert_close(torch.tensor(line["scores"]), proposals.scores, atol=6e-6, rtol=0)
    assert line["levels"] == proposals.levels.tolist()


# --- convert, export, doctor ---


def test_weights_of_torchvision_are_taken_over(call: Call, tmp_path: Path) -> None:
    """Names and shapes as torchvision writes them; what they compute is compared in tests/peer."""
    network = RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8))
    state = {f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}
    for i in range(4):
        for ours, theirs in (("laterals", "inner_blocks"), ("outputs", "layer_blocks")):
            for leaf, value in getattr(network.pyramid, ours)[i].state_dict().items():
                state[f"backbone.fpn.{theirs}.{i}.0.{leaf}"] = value
    for ours, theirs, rows in ((network.head.convs[0], "conv.0.0", 1), (network.head.cls, "cls_logits", 2)):
        for leaf, value in ours.state_dict().items():
            state[f"rpn.head.{theirs}.{leaf}"] = value[::rows]
    for leaf, value in network.head.reg.state_dict().items():
        state[f"rpn.head.bbox_pred.{leaf}"] = value
    torch.save(state, tmp_path / "theirs.pth")
    out = tmp_path / "ours"
    arguments = ("convert", "weights", tmp_path / "theirs.pth", "--out", out, "--set", "selection.keep=7")
    ended = call(*arguments, "input.short_side=64", "input.long_side=96", "norm_eps=0")
    assert ended.code == 0
    assert f"{out}: a network of torchvision's; try: objectness propose PHOTO --weights {out}" in ended.err
    config = json.loads((out / "config.json").read_text())
    assert (config["selection"]["keep"], config["norm_eps"], config["anchors"]["rounded"]) == (7, 0, True)
    assert len(call("propose", PHOTOS / "coffee.jpg", "--weights", out).lines[0]["boxes"]) == 7
    again = call(*arguments)
    assert one_message(again, 2) == f"--out {out}: is there already; name a folder that is not"
    direct = call("propose", PHOTOS / "coffee.jpg", "--weights", tmp_path / "theirs.pth", "--top", "1")
    assert direct.code == 0
    assert "note: " in direct.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("keep", "--set keep: must be NAME=VALUE, such as input.order=BGR"),
        ("=3", "--set =3: must be NAME=VALUE, such as input.order=BGR"),
    ],
)
def test_changes_are_names_and_values(call: Call, tmp_path: Path, change: str, message: str) -> None:
    ended = call("convert", "weights", tmp_path / "x.pth", "--out", tmp_path / "out", "--set", change)
    assert one_message(ended, 2) == message


def test_weights_that_cannot_be_taken_over(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("no weights")
    ended = call("convert", "weights", tmp_path / "x.pth", "--out", tmp_path / "out")
    assert "x.pth" in one_message(ended, 1)
    assert not (tmp_path / "out").exists()


def test_proposal_files_are_converted(call: Call, tmp_path: Path, tiny: Path) -> None:
    lines, there, back = tmp_path / "a.jsonl", tmp_path / "a.npz", tmp_path / "b.jsonl"
    assert call("propose", PHOTOS, "--weights", tiny, "--out", lines).code == 0
    ended = call("convert", "proposals", lines, there)
    assert ended == Ended(0, "", f"{there}: 80 proposals of 4 images\n")
    assert call("convert", "proposals", there, back).code == 0
    assert [json.loads(line) for line in back.read_text().splitlines()] == [
        json.loads(line) for line in lines.read_text().splitlines()
    ]
    refused = call("convert", "proposals", lines, tmp_path / "a.pkl")
    assert "several formats end with .pkl; name one with --to" in one_message(refused, 2)


def test_doctor_says_what_is_there(call: Call) -> None:
    ended = call("doctor")
    assert ended.code == 0
    rows = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert rows["objectness"].startswith("0.1.0, Python 3.")
    assert "torch" in rows["engines"]
    assert "kernels" in rows["kernels"]
    assert f"torch {torch.__version__}" in rows["packages"]


def test_export_without_its_packages(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectness.packages.find_spec", lambda name: None)
    ended = call("export", "--to", "onnx", "--out", tmp_path / "a.onnx")
    assert "pip install 'objectness[export]'" in one_message(ended, 1)
    assert not (tmp_path / "a.onnx").exists()


def test_doctor_names_the_engines_that_are_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in (
        ({"ncnn", "pnnx"}, "ncnn, torch (fastest first); pip install 'objectness[export,openvino]' brings more"),
        (
            {"ncnn", "pnnx", "onnxruntime", "onnx", "onnxscript", "openvino"},
            "ncnn, openvino, onnxruntime, torch (fastest first)",
        ),
    ):
        monkeypatch.setattr("objectness.packages.find_spec", lambda name, there=there: name if name in there else None)
        rows = dict(line.split(maxsplit=1) for line in call("doctor").out.splitlines())
        assert rows["engines"] == expected
