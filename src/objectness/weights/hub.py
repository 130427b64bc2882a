"""Networks on the Hugging Face hub: fetched by `owner/name`, and published with a model card.

huggingface_hub is imported here alone, and only where a name on the hub is meant.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from ..config import Config
from ..errors import DownloadError, ObjectnessError
from ..evaluation.report import RecallReport
from ..packages import require

PREFIX = "hf-hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
CARD_FILE = "README.md"


def is_hub_name(source: str) -> bool:
    """Whether a source of weights is a name on the hub: "hf-hub:owner/name", or "owner/name" that is no path here.

    "@" and a branch, tag or commit may follow. A path whose folder is here is never taken for a name.
    """
    if source.startswith(PREFIX):
        return True
    path = Path(source)
    return NAME.fullmatch(source) is not None and not path.exists() and not path.parent.exists()


def fetch(source: str, file_name: str) -> Path:
    """One file of a repository on the hub, downloaded once and kept in the hub's own cache.

    Args:
        source: "owner/name" or "owner/name@revision", with or without "hf-hub:".
        file_name: within the repository.

    Raises:
        DownloadError: huggingface_hub is not installed, there is no such file, or it cannot be fetched.
    """
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    try:
        return Path(import_hub(source).hf_hub_download(name, file_name, revision=revision or None))
    except (OSError, ValueError) as error:  # all of the hub's errors are one of them
        raise DownloadError(
            f"{source}: is no path here, and {file_name} cannot be fetched from the hub ({_first_line(error)})"
        ) from error


def publish(folder: Path, name: str, *, private: bool | None, token: str | None, message: str) -> str:
    """Upload a folder's files to a repository on the hub, which is made where it is not there.

    Returns:
        The address of the commit.

    Raises:
        DownloadError: huggingface_hub is not installed, or the hub refuses.
    """
    try:
        api = import_hub(name).HfApi(token=token)
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(folder_path=folder, repo_id=repository, commit_message=message))
    except (OSError, ValueError) as error:
        raise DownloadError(f"{name}: cannot be published on the hub ({_first_line(error)})") from error


def import_hub(source: str) -> ModuleType:
    """huggingface_hub.

    Raises:
        DownloadError: it is not installed.
    """
    what = f"{source}: is not a file or folder here; as a name on the hub it"
    require(what, "huggingface_hub", "hub", error=DownloadError)
    import huggingface_hub

    hub: ModuleType = huggingface_hub
    return hub


def make_card(config: Config, name: str, recall: RecallReport | None = None) -> str:
    """A model card: what the network is, how to use it, and its recall where that was measured.

    Args:
        config: of the network.
        name: what a reader passes to `objectness.load`.
        recall: on images that it was not trained on.
    """
    size, selection, levels = config.input, config.selection, config.anchors.levels
    lines = [
        "---",
        "library_name: objectness",
        "pipeline_tag: object-detection",
        "tags: [region-proposal-network, feature-pyramid-network, class-agnostic]",
        "---",
        "",
        f"# {name}",
        "",
        "Finds where the objects in an image are, before anyone says what they are: a region proposal network for",
        "Objectness (`pip install objectness`).",
        "",
        "```python",
        "import objectness",
        "",
        f'proposer = objectness.load("{name}")',
        'proposals = proposer("photo.jpg")  # boxes, scores, levels; best first, in the photo\'s own pixels',
        "```",
        "",
        f"- **Network**: {config.backbone}, a pyramid of {config.pyramid_channels} channels, anchors of "
        f"{', '.join(f'{anchor:g}' for anchor in config.anchors.sizes)} px on P{levels[0]} to P{levels[-1]}.",
        f"- **Input**: shorter side {size.short_side} px, longer at most {size.long_side} px.",
        f"- **Proposals**: at most {selection.keep} an image, suppressed beyond IoU {selection.nms_iou:g}, "
        f"{'all levels together' if selection.across_levels else 'each level by itself'}.",
    ]
    if recall is not None:
        lines += ["", "## Recall", "", "```", recall.table(), "```"]
    return "\n".join(lines) + "\n"


def check_folder(folder: Path, files: tuple[str, ...]) -> None:
    """See that writing a network into a folder would take nobody's files away.

    Raises:
        ObjectnessError: other files than a network's are in it.
    """
    if folder.exists() and not folder.is_dir():
        raise ObjectnessError(f"{folder}: is a file; name a folder")
    others = sorted(path.name for path in folder.iterdir() if path.name not in files) if folder.exists() else []
    if others:
        raise ObjectnessError(f"{folder}: holds other files ({others[0]}); name an empty folder, or a network's")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
