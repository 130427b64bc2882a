import email.message
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from objectness.config import Config
from objectness.errors import CheckpointError, DownloadError
from objectness.model.backbone import make_backbone
from objectness.network import RegionProposalNetwork
from objectness.weights import checkpoint
from objectness.weights.checkpoint import (
    CONFIG_FILE,
    IMAGENET_URLS,
    MODEL_FILE,
    TRAINING_FILE,
    find_checkpoint,
    load_backbone,
    load_network,
    load_start_state,
    read_config,
    read_safetensors,
    read_torch_file,
    save_checkpoint,
)

SMALL = Config(backbone="efficientnet_lite0", pyramid_channels=8)
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(SMALL).eval()


@pytest.fixture
def folder(network: RegionProposalNetwork, tmp_path: Path) -> Path:
    """A checkpoint of it."""
    save_checkpoint(tmp_path / "run" / "last", network.state_dict(), network.config)
    return tmp_path / "run" / "last"


def predict(network: RegionProposalNetwork) -> list[Tensor]:
    with torch.inference_mode():
        output = network(IMAGES)
    return [*output.logits, *output.deltas]


# Round trips


def test_round_trip(network: RegionProposalNetwork, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, MODEL_FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["last"]
    loaded = load_network(folder)
    assert loaded.config == SMALL
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for ours, theirs in zip(predict(loaded), predict(network), strict=True):
        assert torch.equal(ours, theirs)


def test_half_precision(network: RegionProposalNetwork, folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "half", network.state_dict(), SMALL, half=True)
    sizes = [(path / MODEL_FILE).stat().st_size for path in (tmp_path / "half", folder)]
    assert 0.5 <= sizes[0] / sizes[1] < 0.51
    state, original = load_network(tmp_path / "half").state_dict(), network.state_dict()
    for name, value in state.items():
        assert value.dtype == original[name].dtype
        torch.testing.assert_close(value, original[name].half().to(value.dtype))


def test_what_training_needs_comes_back(tmp_path: Path) -> None:
    training = {"step": 7, "optimizer": {"momentum": [torch.ones(3)]}, "text": "ü", "none": None}
    save_checkpoint(tmp_path / "last", {"a": torch.zeros(1)}, SMALL, training)
    loaded = read_torch_file(tmp_path / "last" / TRAINING_FILE)
    assert torch.equal(loaded["optimizer"]["momentum"][0], torch.ones(3))
    assert (loaded["step"], loaded["text"], loaded["none"]) == (7, "ü", None)


def test_shared_and_strided_tensors_are_stored(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "x", {"a": base, "b": base.T, "c": base[0], "n": torch.tensor(3)}, SMALL, half=True)
    state = read_safetensors(tmp_path / "x" / MODEL_FILE)
    assert torch.equal(state["b"], base.T)
    assert torch.equal(state["c"], base[0])
    assert state["n"].dtype == torch.int64  # a count is no weight
    assert state["n"] == 3


# Finding


def test_run_folder_gives_its_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder.parent
    assert find_checkpoint(run) == folder
    shutil.copytree(folder, run / "best")
    assert find_checkpoint(run) == find_checkpoint(str(run)) == run / "best"
    assert find_checkpoint(folder) == find_checkpoint(folder / MODEL_FILE) == folder
    monkeypatch.chdir(run)
    assert find_checkpoint(".").resolve() == run / "best"
    assert find_checkpoint("last") == Path("last")
    monkeypatch.chdir(folder)
    assert find_checkpoint(".").resolve() == folder
    assert find_checkpoint("..").resolve() == run / "best"
    assert find_checkpoint(MODEL_FILE).resolve() == folder


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: there is no such file or folder; pass a checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(model\.safetensors and config\.json\)"):
        find_checkpoint(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights\.pth: holds no checkpoint"):
        load_network(tmp_path / "weights.pth")


# A kill at any moment


NEVER = 1_000_000  # steps


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bool], None]]:
    """Lets `save_checkpoint` die at its n-th step on the disk: before it, or half way through it."""
    countdown, midway = [NEVER], [False]

    def wrap(work: Callable[..., Any], break_off: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            countdown[0] -= 1
            if countdown[0] == 0 and midway[0]:
                break_off(*args)
            if countdown[0] in range(-100, 1):  # a dead process tidies up nothing either
                raise KilledError
            return work(*args, **kwargs)

        return step

    def cut(obj: Any, path: Path) -> None:
        path.write_bytes(b"half a fi")

    def remove_one(path: Path, *rest: object) -> None:
        for file in sorted(path.glob("*"))[-1:]:
            file.unlink()

    monkeypatch.setattr(checkpoint, "save_file", wrap(checkpoint.save_file, cut))
    monkeypatch.setattr(torch, "save", wrap(torch.save, cut))
    monkeypatch.setattr(shutil, "rmtree", wrap(shutil.rmtree, remove_one))
    monkeypatch.setattr(Path, "rename", wrap(Path.rename, lambda *args: None))

    def arm(step: int, half_way: bool) -> None:
        countdown[0], midway[0] = step, half_way

    yield arm
    monkeypatch.undo()  # before pytest tidies up with what is broken here


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("first_kill", range(1, 9))
@pytest.mark.parametrize("second_kill", [0, 1, 2, 4, 5, 6, 7])
def test_kill_leaves_one_of_two_whole(
    first_kill: int, second_kill: int, half_way: bool, tmp_path: Path, kill_at: Callable[[int, bool], None]
) -> None:
    """Save 0, die while saving 1, go on from what is there and die again while saving 2, then save 3."""

    def save(number: int) -> None:
        state, config = {"a": torch.full((50,), number)}, Config(frozen_stages=number)
        save_checkpoint(tmp_path / "last", state, config, {"step": number})

    def load() -> int:
        found = find_checkpoint(tmp_path)
        number = int(read_safetensors(found / MODEL_FILE)["a"].unique())
        assert read_config(found / CONFIG_FILE).frozen_stages == number
        assert read_torch_file(found / TRAINING_FILE)["step"] == number
        return number

    save(0)
    for number, step in ((1, first_kill), (2, second_kill)):
        before = load()
        kill_at(step, half_way)
        try:
            save(number)
        except KilledError:
            assert load() in (before, number)
        else:
            assert load() == number
        kill_at(NEVER, False)
    save(3)
    assert load() == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]  # and nothing is left over


# Damaged and foreign files


def test_a_full_disk(tmp_path: Path) -> None:
    """What libraries make of it is told in one sentence, the checkpoint before stays, and no half one is left."""
    resource = pytest.importorskip("resource")
    state = {"a": torch.zeros(50)}
    save_checkpoint(tmp_path / "last", state, SMALL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for bad in (({"a": torch.zeros(100_000)}, None), (state, {"b": torch.zeros(100_000)})):  # safetensors, torch
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # the 400 kB do not fit
        try:
            with pytest.raises(CheckpointError, match=r"last: cannot be written \(.*\); make room or name") as caught:
                save_checkpoint(tmp_path / "last", bad[0], SMALL, bad[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["last"]
        assert torch.equal(read_safetensors(tmp_path / "last" / MODEL_FILE)["a"], state["a"])


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            save_checkpoint(tmp_path / "last", {"a": torch.zeros(1)}, SMALL, {"step": 1})
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "last").iterdir()} == {mode}


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.5, 0.99, 0.999999])
def test_weights_cut_short(share: float, folder: Path) -> None:
    file = folder / MODEL_FILE
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read .*; it may be cut short"):
        load_network(folder)


def test_configuration_that_is_none(folder: Path) -> None:
    file = folder / CONFIG_FILE
    text = file.read_text()
    for broken, message in [
        (text[: len(text) // 2], r"config\.json: cannot be read as JSON"),
        ("", r"config\.json: cannot be read as JSON"),
        ("[1]", r"config\.json: configuration file: expected an object, found \[1\]"),
        ('{"scale": 1}', r"config\.json: configuration field scale is unknown"),
        ('{"backbone": 1}', r"config\.json: configuration field backbone = 1 must be of type str"),
    ]:
        file.write_text(broken)
        with pytest.raises(CheckpointError, match=message):
            load_network(folder)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        load_network(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pyramid_channels": 16},
            r"another network: \d+ of another shape \(the first is head\.cls\.weight\)",
        ),
        (
            {"batch_norm": "trained"},
            r"weights of another network: \d+ missing \(the first is backbone\.body\.blocks\.0\.0\.bn1\.num_batches_tr",
        ),
        ({"backbone": "resnet18"}, r"\d+ missing \(the first is .*\), \d+ unknown \(the first is .*blocks\.0\.0\.bn1"),
    ],
)
def test_weights_of_another_network(change: dict[str, Any], message: str, folder: Path) -> None:
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**values, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_network(folder)


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_run(bare: bool, tmp_path: Path) -> None:
    target, file = tmp_path / "hacked", tmp_path / "weights.pth"
    contents = {"conv1.weight": Malice(target)}
    if bare:
        file.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, file)
        torch.load(file, weights_only=False)
        target.rmdir()  # so it would have been made
    with pytest.raises(CheckpointError, match=r"weights\.pth: no readable torch file of tensors"):
        load_backbone(make_backbone("resnet18"), "resnet18", file)
    with pytest.raises(CheckpointError):
        read_torch_file(file)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # what a damaged byte can claim
def test_damaged_torch_files(zipped: bool, tmp_path: Path) -> None:
    """Cut short anywhere, or with a byte changed anywhere: tensors or a sentence, never another error."""
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(30), "b": [1, "x"]}, file, _use_new_zipfile_serialization=zipped)
    data = file.read_bytes()
    chance = random.Random(0)
    cases = [data[:length] for length in range(0, len(data), 23)]
    for place in chance.sample(range(len(data)), 200):
        cases.append(data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :])
    messages = []
    for case in cases:
        file.write_bytes(case)
        try:
            read_torch_file(file)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) >= len(data) // 23
    assert not any("\n" in message for message in messages)


# Pretrained backbones


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """ResNet-18 as torchvision publishes it: with counters and a classifier."""
    torch.manual_seed(1)
    state = make_backbone("resnet18", "trained").body.state_dict()
    assert "bn1.num_batches_tracked" in state
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("counters", [True, False])
def test_load_backbone(
    batch_norm: str, suffix: str, counters: bool, imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / f"resnet18{suffix}"
    state = {name: value for name, value in imagenet.items() if counters or "num_batches" not in name}
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    backbone = make_backbone("resnet18", batch_norm)
    load_backbone(backbone, "resnet18", file)
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, imagenet[name]), name


def test_load_backbone_of_timm(tmp_path: Path) -> None:
    """What follows C5 there: a 1x1 convolution, its batch norm, a classifier."""
    state = make_backbone("efficientnet_lite0", "trained").body.state_dict()
    beyond = ["conv_head.weight", *(f"bn2.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
    file = tmp_path / "lite0.safetensors"
    save_file({**state, **{name: torch.zeros(3) for name in [*beyond, "classifier.weight", "classifier.bias"]}}, file)
    backbone = make_backbone("efficientnet_lite0")
    load_backbone(backbone, "efficientnet_lite0", file)
    assert torch.equal(backbone.body.conv_stem.weight, state["conv_stem.weight"])


def test_wrong_backbone_files(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    for contents, message in [
        ({"state_dict": imagenet}, r"weights\.pth: holds no state dict \(a mapping of names to tensors\)"),
        ([torch.zeros(1)], r"weights\.pth: holds no state dict"),
        ({"conv1.weight": 3}, r"weights\.pth: holds no state dict"),
        ({}, r"weights\.pth: weights of another network: \d+ missing \(the first is bn1\.bias\)"),
        ({**imagenet, "layer5.weight": torch.zeros(1)}, r"1 unknown \(the first is layer5\.weight\)"),
        ({**imagenet, "conv1.weight": torch.zeros(1)}, r"1 of another shape \(the first is conv1\.weight\)"),
    ]:
        torch.save(contents, file)
        with pytest.raises(CheckpointError, match=message):
            load_backbone(make_backbone("resnet18"), "resnet18", file)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no readable torch file"):
        load_backbone(make_backbone("resnet18"), "resnet18", tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: cannot be read"):
        load_backbone(make_backbone("resnet18"), "resnet18", tmp_path / "nowhere.safetensors")


class Response(io.BytesIO):
    """What `urlopen` returns."""

    def info(self) -> email.message.Message:
        return email.message.Message()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    message = r"https://download\.pytorch\.org/models/resnet18-f37072fd\.pth: cannot be fetched \(.*no route to host"
    with pytest.raises(DownloadError, match=message):
        load_backbone(make_backbone("resnet18"), "resnet18", "imagenet")
    assert not list(cache.rglob("*.pth"))


def test_download_of_something_else(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: Response(b"<html>please log in</html>"))
    with pytest.raises(DownloadError, match=r"f37072fd\.pth: what came is not what it should be \(invalid hash"):
        load_backbone(make_backbone("resnet18"), "resnet18", "imagenet")
    assert not list(cache.rglob("*.pth"))  # and it is not taken from the cache the next time


def test_download_happens_once(cache: Path, imagenet: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    torch.save(imagenet, file)
    data = file.getvalue()
    url = f"https://example.org/resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setitem(IMAGENET_URLS, "resnet18", url)
    calls = []
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: calls.append(args) or Response(data))
    for _ in range(2):
        backbone = make_backbone("resnet18")
        load_backbone(backbone, "resnet18", "imagenet")
        assert torch.equal(backbone.body.conv1.weight, imagenet["conv1.weight"])
    assert len(calls) == 1


def test_no_imagenet_weights_are_known_of_it() -> None:
    with pytest.raises(DownloadError, match=r"no ImageNet weights of efficientnet_lite0 .*; pass a file instead"):
        load_backbone(make_backbone("efficientnet_lite0"), "efficientnet_lite0", "imagenet")


def test_addresses_are_torchvisions(torchvision: ModuleType) -> None:
    for name, url in IMAGENET_URLS.items():
        assert url == torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url


def test_an_unknown_backbone_in_the_configuration_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {}, Config(backbone="resnet1001"))
    with pytest.raises(CheckpointError, match=r"config\.json: backbone 'resnet1001' is unknown"):
        load_network(folder)


@pytest.mark.parametrize(("stored", "wanted"), [("frozen", "trained"), ("trained", "frozen")])
def test_batch_norm_may_be_thawed_or_frozen(stored: str, wanted: str) -> None:
    """Only trained batch norm counts its steps, and nothing looks at the counter."""
    first, second = (
        RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8, batch_norm=kind))  # type: ignore[arg-type]
        for kind in (stored, wanted)
    )
    load_start_state(second, first.state_dict(), "a file")
    loaded = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, loaded[name])
