"""Weights of other programs that have a name here and an address that ends with their hash."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..download import get_digest, hash_file

TORCHVISION = "https://download.pytorch.org/models/"


class Published(NamedTuple):
    """One file."""

    url: str  # its name ends with the start of its SHA-256
    norm_eps: float | None = None  # of batch norm, where it is not the usual


PUBLISHED = {  # torchvision's; the first of each kind was trained before its frozen batch norm had an epsilon
    "torchvision/fasterrcnn_resnet50_fpn": Published(TORCHVISION + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 0.0),
    "torchvision/fasterrcnn_resnet50_fpn_v2": Published(TORCHVISION + "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    "torchvision/maskrcnn_resnet50_fpn": Published(TORCHVISION + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 0.0),
    "torchvision/maskrcnn_resnet50_fpn_v2": Published(TORCHVISION + "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"),
    "torchvision/keypointrcnn_resnet50_fpn": Published(
        TORCHVISION + "keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 0.0
    ),
}


def identify(path: Path) -> Published | None:
    """Which published file this is, by its hash, whatever it is called."""
    digest = hash_file(path)
    return next((each for each in PUBLISHED.values() if digest.startswith(get_digest(each.url))), None)
