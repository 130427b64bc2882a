"""detectron2's weights, converted, propose what detectron2 proposes: its algorithm, worked out again, is the judge.

Files are written as detectron2 writes them; photos are compared from their pixels to boxes in their own frame.
"""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import detectron2_reference as reference
import numpy as np
import pytest
import torch
from detectron2_reference import Proposed, Setting
from PIL import Image
from torch import Tensor

from objectness.config import InputOptions
from objectness.images.network_input import fit_size, make_batch
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.weights.convert.conversion import convert_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torchvision")]  # about 30 seconds

SHORT, LONG = 96, 160
SIZES = ((96, 160), (160, 96), (96, 96), (64, 160), (96, 131))  # which these limits leave as they are
BOTH = {"min_size_test": SHORT, "max_size_test": LONG}
TORCHVISION = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375), "image_format": "RGB"}
VARIANTS: dict[str, tuple[Setting, bool, str]] = {  # a setting, whether norms are folded, the kind of file
    "MSRA's R50": (Setting(**BOTH), True, ".pkl"),
    "torchvision's R50": (Setting(**BOTH, **TORCHVISION, stride_in_1x1=False), False, ".pth"),
    "Caffe2's ResNeXt": (
        Setting(**BOTH, groups=32, width_per_group=4, stride_in_1x1=False, pixel_std=(57.375, 57.12, 58.395)),
        True,
        ".pkl",
    ),
    "new baseline": (Setting(**BOTH, fpn_norm=True, conv_depth=2), False, ".pkl"),
}


class Case(NamedTuple):
    """One file, as detectron2 and as we understand it."""

    weights: reference.Weights
    setting: Setting
    network: RegionProposalNetwork


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Maps this small are done before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(photos: Sequence[Path]) -> list[np.ndarray]:
    """One of each of `SIZES`."""
    opened = [Image.open(path).convert("RGB") for path in (*photos, photos[0])]
    return [np.array(photo.resize(size[::-1])) for photo, size in zip(opened, SIZES, strict=True)]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, images: list[np.ndarray], tmp_path_factory: Any) -> Case:
    setting, folded, suffix = VARIANTS[request.param]
    weights = reference.make_weights(setting, folded=folded, channels=64)
    reference.enliven(weights, setting, images[0])
    path = tmp_path_factory.mktemp("weights") / f"model_final{suffix}"
    if suffix == ".pkl":
        contents = {"model": weights, "__author__": "Detectron2 Model Zoo"}
        path.write_bytes(pickle.dumps(contents))
    else:
        state = {name: torch.from_numpy(array) for name, array in weights.items()}
        torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 89999}, path)
    changes = {"input.short_side": SHORT, "input.long_side": LONG, "selection.keep": 1000}
    network = convert_weights(path, changes).network
    path.unlink()
    return Case(weights, setting, network)


def find_missing(proposed: tuple[Tensor, Tensor], theirs: Proposed, px: float = 1e-2, score: float = 1e-5) -> float:
    """The share of their proposals that ours do not have."""
    boxes, scores = proposed
    near = (boxes[:, None] - theirs.boxes[None]).abs().amax(dim=2) < px  # (ours, theirs)
    equal = (scores[:, None] - theirs.logits.sigmoid()[None]).abs() < score
    return 1 - (near & equal).any(dim=0).float().mean().item()


def test_inputs(case: Case, images: list[np.ndarray]) -> None:
    batch, sizes = reference.preprocess(images, case.setting)
    ours = make_batch([torch.from_numpy(image).permute(2, 0, 1) for image in images], case.network.config.input)
    torch.testing.assert_close(ours.images, batch, rtol=1e-6, atol=1e-4)
    assert ours.sizes.tolist() == [list(size) for size in sizes]


@torch.no_grad()
def test_maps(case: Case, images: list[np.ndarray]) -> None:
    batch, _ = reference.preprocess(images[:2], case.setting)
    ours, theirs = case.network(batch), reference.predict(case.weights, case.setting, batch)
    for mine, other in zip(ours.logits, theirs.logits, strict=True):
        torch.testing.assert_close(mine[:, 0::2], other, rtol=1e-4, atol=1e-4)
        assert not mine[:, 1::2].any()
    for mine, other in zip(ours.deltas, theirs.deltas, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert 0.5 < theirs.logits[0].std() < 5
    assert 0.1 < theirs.deltas[0].std() < 1


@torch.no_grad()
def test_anchors(case: Case, images: list[np.ndarray]) -> None:
    batch, _ = reference.preprocess(images[:1], case.setting)
    output = case.network(batch)
    grid = case.network.make_anchors(output, batch)
    theirs = reference.make_anchors(case.setting, grid.map_sizes)
    for mine, other in zip(grid.levels, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)  # theirs are float64 before they are float32


def test_proposals(case: Case, images: list[np.ndarray]) -> None:
    """To 0.01 px and 0.00001 of the score; an IoU that rounds to the other side of 0.7 may exchange a few."""
    proposer = Proposer(case.network)
    for image in images:
        theirs = reference.propose(case.weights, case.setting, [image])[0]
        ours = proposer.propose(image)
        assert abs(len(ours) - len(theirs.boxes)) <= 3
        assert len(theirs.boxes) > 200
        assert find_missing((ours.boxes, ours.scores), theirs) < 0.01


@torch.no_grad()
def test_batches_of_unequal_images(case: Case, images: list[np.ndarray]) -> None:
    """None of which needs resizing, so that the frames are the same."""
    theirs = reference.propose(case.weights, case.setting, images[1:4])
    batch = make_batch([torch.from_numpy(image).permute(2, 0, 1) for image in images[1:4]], case.network.config.input)
    for ours, other in zip(case.network.propose(batch), theirs, strict=True):
        assert find_missing((ours.boxes, ours.logits.sigmoid()), other) < 0.01


def test_photos_that_they_resize(case: Case, photos: Sequence[Path]) -> None:
    proposer = Proposer(case.network)
    for path in photos[:2]:
        image = np.array(Image.open(path).convert("RGB"))
        ours = proposer.propose(image)
        theirs = reference.propose(case.weights, case.setting, [image])[0]
        assert find_missing((ours.boxes, ours.scores), theirs) < 0.01


def test_sizes() -> None:
    options = InputOptions(size_rounding="nearest_twice")
    for height in range(1, 1500, 7):
        for width in [*range(1, 1500, 11), 2 * height]:
            theirs = reference.find_size(height, width, 800, 1333)
            assert fit_size((height, width), options) == (max(theirs[0], 1), max(theirs[1], 1))
