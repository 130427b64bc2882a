"""What the name of weights means, decided in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import hub
from .checkpoint import CONFIG_FILE, MODEL_FILE
from .convert.backbones import is_hub_name as is_timm_name
from .convert.family import WeightsFile
from .convert.published import PUBLISHED
from .convert.reading import find_family, read_weights

IMAGENET = "imagenet"

Kind = Literal["own", "hub", "foreign", "backbone", "timm", "imagenet"]


@dataclass
class Source:
    """What a name of weights means, with the file that had to be read to tell.

    Attributes:
        kind: "own", a checkpoint, a run folder or the network that ships; "hub", a network of ours on the hub;
            "foreign", another program's network, by file or published name; "backbone", a file that holds no network;
            "timm", a backbone of timm's on the hub; "imagenet", torchvision's weights of any backbone.
        name: as it was given.
    """

    kind: Kind
    name: str
    _file: WeightsFile | None = field(default=None, repr=False)

    @property
    def is_network(self) -> bool:
        """Whether it is a whole network, rather than a backbone."""
        return self.kind in ("own", "hub", "foreign")

    @property
    def file(self) -> WeightsFile:
        """The names and tensors of a "foreign" network or a "backbone" file, which is read once until `release`.

        Raises:
            CheckpointError: it cannot be read, or there is no such file.
            DownloadError: a published file cannot be fetched.
        """
        if self._file is None:
            self._file = read_weights(self.name)
        return self._file

    def release(self) -> None:
        """Let go of the file's tensors."""
        self._file = None


def classify(source: str | Path) -> Source:
    """What weights are meant; a file is opened only if nothing else tells whose it is.

    Args:
        source: whatever `opening.open_network` or a training takes.

    Raises:
        CheckpointError: a file of weights cannot be read.
    """
    name, path = str(source), Path(source)
    if name == IMAGENET:
        return Source("imagenet", name)
    if is_timm_name(name):
        return Source("timm", name)
    if name in PUBLISHED:
        return Source("foreign", name)
    if path.is_file() and not (path.name == MODEL_FILE and (path.parent / CONFIG_FILE).is_file()):
        file = read_weights(source)
        return Source("backbone" if find_family(file) is None else "foreign", name, file)
    return Source("hub" if hub.is_hub_name(name) else "own", name)
