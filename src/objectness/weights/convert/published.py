"""Weights that are published under an address that names their hash, downloaded once and checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from ...errors import DownloadError

TORCHVISION = "https://download.pytorch.org/models/"


class Published(NamedTuple):
    """One file."""

    url: str  # its name ends with the start of its SHA-256
    norm_eps: float | None = None  # of batch norm, where it is not the usual

    @property
    def file_name(self) -> str:
        """As it lies in the cache."""
        return self.url.rsplit("/", 1)[1]

    @property
    def digest(self) -> str:
        """The first eight digits of its SHA-256."""
        return self.file_name.rsplit("-", 1)[1].removesuffix(".pth")


PUBLISHED = {  # torchvision's; the first of each kind was trained before its frozen batch norm had an epsilon
    "torchvision/fasterrcnn_resnet50_fpn": Published(TORCHVISION + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 0.0),
    "torchvision/fasterrcnn_resnet50_fpn_v2": Published(TORCHVISION + "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    "torchvision/maskrcnn_resnet50_fpn": Published(TORCHVISION + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 0.0),
    "torchvision/maskrcnn_resnet50_fpn_v2": Published(TORCHVISION + "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"),
    "torchvision/keypointrcnn_resnet50_fpn": Published(
        TORCHVISION + "keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 0.0
    ),
}


def fetch_published(name: str) -> Path:
    """The file of a published name, in torch's cache; downloaded if it is not there.

    Args:
        name: one of `PUBLISHED`.

    Raises:
        DownloadError: it cannot be fetched, or is not what was published.
    """
    published = PUBLISHED[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file_name
    if path.is_file():
        if not _hash_file(path).startswith(published.digest):
            raise DownloadError(f"{path}: is not the file that {published.url} publishes; delete it and try again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.digest)
    except OSError as error:  # URLError and timeouts are OSErrors
        raise DownloadError(
            f"{published.url}: cannot be fetched ({error}); fetch it elsewhere, pass the file"
        ) from error
    except RuntimeError as error:
        raise DownloadError(f"{published.url}: what came is not what it should be ({error}); try again") from error
    return path


def identify(path: Path) -> Published | None:
    """Which published file this is, by its hash, whatever it is called."""
    digest = _hash_file(path)
    return next((each for each in PUBLISHED.values() if digest.startswith(each.digest)), None)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
