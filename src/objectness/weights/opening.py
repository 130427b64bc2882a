"""What the name of a network may mean: ours on disk, the one that ships, another program's, or one on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..network import RegionProposalNetwork
from . import hub
from .checkpoint import CONFIG_FILE, MODEL_FILE, SHIPPED, load_network
from .convert.backbones import is_hub_name as is_timm_name
from .convert.conversion import convert_weights, is_foreign, read_weights
from .convert.conversion import find_family as find_foreign_family

IMAGENET = "imagenet"


class Opened(NamedTuple):
    """A network, and what was assumed of it."""

    network: RegionProposalNetwork  # in evaluation mode
    notes: tuple[str, ...] = ()  # one sentence each


def open_network(source: str | Path = SHIPPED) -> Opened:
    """The network that a name means.

    Args:
        source: the one that ships ("lite0"); a run folder, a checkpoint folder or its `model.safetensors`; weights of
            torchvision, detectron2 or mmdetection, by file or published name ("torchvision/maskrcnn_resnet50_fpn");
            or one of ours on the hub ("owner/name").

    Raises:
        CheckpointError: nothing there, a damaged file, or weights that cannot be taken over exactly.
        DownloadError: it cannot be fetched.
    """
    if is_foreign(source):
        converted = convert_weights(source)
        return Opened(converted.network, converted.notes)
    if hub.is_hub_name(str(source)):
        files = [hub.fetch(str(source), name) for name in (MODEL_FILE, CONFIG_FILE)]
        return Opened(load_network(files[0].parent))
    return Opened(load_network(source))


def names_network(source: str) -> bool:
    """Whether weights to start from are those of a whole network, rather than of a backbone alone."""
    if source == IMAGENET or is_timm_name(source):
        return False
    if source == SHIPPED or Path(source).is_dir():
        return True
    if Path(source).name == MODEL_FILE and not is_foreign(source):
        return True
    if Path(source).is_file():
        return find_foreign_family(read_weights(source)) is not None
    return is_foreign(source) or hub.is_hub_name(source)
