"""The hub, with huggingface_hub itself but for the two calls that need a network."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.errors import CheckpointError, DownloadError, ObjectnessError
from objectness.evaluation.recall import measure_recall
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer, load
from objectness.weights import hub
from objectness.weights.checkpoint import save_checkpoint
from objectness.weights.opening import decide_config
from objectness.weights.source import classify

huggingface_hub = pytest.importorskip("huggingface_hub")
TINY = Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96), selection=SelectionOptions(keep=20))


@pytest.fixture
def proposer() -> Proposer:
    torch.manual_seed(0)
    return Proposer(RegionProposalNetwork(TINY))


@pytest.fixture
def repository(proposer: Proposer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the hub; what is asked of it is checked."""
    folder = tmp_path / "snapshot"
    save_checkpoint(folder, proposer.network.state_dict(), TINY)

    def fetch(name: str, file_name: str, revision: str | None = None) -> str:
        if name != "somebody/boxes" or revision not in (None, "v1"):
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"cannot find {name} at {revision}\nand more")
        return str(folder / file_name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return folder


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("somebody/boxes", True),
        ("somebody/boxes@v1", True),
        ("hf-hub:somebody/boxes", True),
        ("lite0", False),
        ("a/b/c", False),
        ("./here", False),
        ("here/mine", False),  # the folder is there: a mistyped path
        ("/tmp/nothing", False),
        ("torchvision boxes/x", False),
    ],
)
def test_names(source: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub.is_hub_name(source) == expected


@pytest.mark.parametrize("source", ["somebody/boxes", "hf-hub:somebody/boxes", "somebody/boxes@v1"])
def test_a_network_comes_back(source: str, repository: Path, proposer: Proposer) -> None:
    for network in (load(source).network, Proposer.from_pretrained(source).network):
        assert network.config == TINY
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, proposer.network.state_dict()[name])
    assert decide_config(classify(source)) == TINY  # training may start from it


def test_what_is_not_on_the_hub(repository: Path) -> None:
    message = r"nobody/boxes: is no path here, and model.safetensors cannot be fetched from the hub \(cannot find"
    with pytest.raises(DownloadError, match=message) as caught:
        load("nobody/boxes")
    assert "\n" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DownloadError, match=r"as a name on the hub it needs huggingface_hub: pip install 'objectness\[hub\]'"
    ):
        load("somebody/boxes")


def test_a_mistyped_path_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        load(tmp_path / "mine")


def test_saved_with_a_card(proposer: Proposer, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    recall = measure_recall([], [])
    proposer.save_pretrained(folder, name="somebody/boxes", recall=recall)
    proposer.save_pretrained(folder, name="somebody/boxes", recall=recall)  # in place of the first
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "objectness"
    assert 'objectness.load("somebody/boxes")' in card.text
    assert recall.table() in card.text
    assert "resnet18, a pyramid of 8 channels" in card.text
    again = load(folder)
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(again.network(x).logits[0], proposer.network(x).logits[0])


def test_the_card_of_another_pyramid_and_suppression() -> None:
    anchors = AnchorOptions(strides=(8, 16, 32, 64, 128), finest_level=3)
    card = hub.make_card(Config(anchors=anchors, selection=SelectionOptions(keep=50, across_levels=True)), "mine")
    assert "anchors of 32, 64, 128, 256, 512 px on P3 to P7." in card
    assert "at most 50 an image, suppressed beyond IoU 0.7, all levels together." in card
    assert "beyond IoU 0.7, each level by itself." in hub.make_card(Config(), "mine")


def test_nobodys_files_are_taken_away(proposer: Proposer, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ObjectnessError, match=r"holds other files \(thesis\.tex\); name an empty folder"):
        proposer.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(ObjectnessError, match=r"thesis\.tex: is a file; name a folder"):
        proposer.save_pretrained(tmp_path / "thesis.tex")


def test_pushed(proposer: Proposer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def create(self: Any, name: str, **options: Any) -> Any:
        seen.update(token=self.token, **options)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

    def upload(self: Any, *, folder_path: Path, repo_id: str, commit_message: str) -> str:
        seen.update(files=sorted(path.name for path in folder_path.iterdir()), repo_id=repo_id, message=commit_message)
        return "https://huggingface.co/somebody/boxes/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    address = proposer.push_to_hub("somebody/boxes", private=True, token="t", message="First")
    assert address.endswith("/commit/1")
    expected: Mapping[str, Any] = {"token": "t", "private": True, "exist_ok": True, "repo_id": "somebody/boxes"}
    assert seen == {**expected, "files": ["README.md", "config.json", "model.safetensors"], "message": "First"}


def test_a_refusal(proposer: Proposer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, name: str, **options: Any) -> Any:
        raise OSError("401 Unauthorized\nInvalid credentials")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    message = r"^somebody/boxes: cannot be published on the hub \(401 Unauthorized\)$"
    with pytest.raises(DownloadError, match=message):
        proposer.push_to_hub("somebody/boxes")
