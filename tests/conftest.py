"""What several test modules share: real photos with their boxes, and torchvision as an independent source."""

import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from objectness.data.dataset import read_dataset
from objectness.data.records import ImageRecord

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets for development, which stand beside the checkout and are no part of it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def coco_val_records(shared_data: Path) -> tuple[ImageRecord, ...]:
    """The 402 photos of the reduced COCO's validation part."""
    return read_dataset(shared_data / "coco" / "val.json").records


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The photos of examples/photos, in the order of their names."""
    return sorted((ROOT / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="session")
def photo_records() -> tuple[ImageRecord, ...]:
    """The same photos with boxes drawn by hand."""
    return read_dataset(ROOT / "examples" / "boxes.json").records


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, where it imports and its compiled kernels run."""
    with warnings.catch_warnings(action="ignore"):  # its image readers, unused here, complain about missing libraries
        try:
            import torchvision

            torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        except (ImportError, OSError, RuntimeError):  # a build for another torch fails with a RuntimeError
            pytest.skip("torchvision is not installed with working kernels (../shared/tools/install-peer-torchvision)")
    return torchvision
