"""A file that torchvision wrote, converted, proposes what torchvision's own network proposes, from pixels on.

Their way: the transform, backbone and proposal network of a whole detector in evaluation mode. Ours: `convert_weights`
on its state dict, then the steps of `Proposer`. The weights are random, but as alive as trained ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from objectness.geometry.selection import fold_logits
from objectness.images.network_input import fit_size, make_batch, resize_image
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.structures import Selection, flatten_map
from objectness.weights.convert.conversion import convert_weights
from objectness.weights.convert.published import PUBLISHED, Published

pytestmark = pytest.mark.slow  # about half a minute

SHORT, LONG = 160, 230  # of the input, px; a fifth of the usual, since the code is the same
SIZES = ((120, 150), (150, 120), (97, 201), (333, 250), (160, 224))  # height, width of the images
BUILDERS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn")
BATCHES = [*((i,) for i in range(len(SIZES))), (0, 1), (2, 3, 4)]
CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-4}
BOX_TOLERANCE, SCORE_TOLERANCE = 1e-2, 1e-5  # px, and of a probability


class Pair(NamedTuple):
    """The same weights in both programs."""

    peer: Any
    network: RegionProposalNetwork


class Found(NamedTuple):
    """Proposals of one image."""

    boxes: Tensor  # (n, 4), px in the input frame
    scores: Tensor  # (n,)
    original: Tensor  # (n, 4), px in the original image


def make_images() -> list[Tensor]:
    """(3, H, W) uint8: noise at three scales, so that maps differ from place to place."""
    random = torch.Generator().manual_seed(0)
    images = []
    for size in SIZES:
        parts = [
            nn.functional.interpolate(torch.rand(1, 3, size[0] // k + 1, size[1] // k + 1, generator=random), size)[0]
            for k in (1, 8, 40)
        ]
        images.append((torch.stack(parts).mean(dim=0) * 255).to(torch.uint8))
    return images


IMAGES = make_images()


@torch.no_grad()
def enliven(peer: Any, seed: int) -> None:
    """Random statistics in every norm; logits of standard deviation 1 and deltas of 0.2."""
    random = torch.Generator().manual_seed(seed)
    for norm in peer.backbone.modules():
        if hasattr(norm, "running_var"):
            norm.running_mean.normal_(0, 0.1, generator=random)
            norm.running_var.uniform_(0.5, 2, generator=random)
            norm.weight.uniform_(0.3, 0.6, generator=random)
            norm.bias.normal_(0, 0.1, generator=random)
    levels = list(peer.backbone(peer.transform([IMAGES[0] / 255])[0].tensors).values())
    logits, deltas = (torch.cat([level.flatten() for level in each]) for each in peer.rpn.head(levels))
    peer.rpn.head.cls_logits.weight /= logits.std()
    peer.rpn.head.bbox_pred.weight *= 0.2 / deltas.std()
    peer.rpn.head.cls_logits.bias.copy_(torch.tensor([-0.5, 0.2, 0.1]))
    peer.rpn.head.bbox_pred.bias.normal_(0, 0.1, generator=random)


def build(torchvision: ModuleType, name: str) -> Any:
    torch.manual_seed(0)
    builder = getattr(torchvision.models.detection, name)
    peer = builder(weights=None, weights_backbone=None, min_size=SHORT, max_size=LONG).eval()
    enliven(peer, seed=1)
    return peer


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=BUILDERS)
def pair(torchvision: ModuleType, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    file = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    peer = build(torchvision, request.param)
    torch.save(peer.state_dict(), file)
    network = convert_weights(file, {"input.short_side": SHORT, "input.long_side": LONG}).network
    return Pair(peer, network)


@torch.inference_mode()
def propose_as_peer(peer: Any, images: Sequence[Tensor]) -> list[Found]:
    """What torchvision's detector hands to its second stage, with the scores that it keeps to itself."""
    kept: list[Tensor] = []
    filter_proposals = peer.rpn.filter_proposals

    def listen(*args: Any) -> Any:
        boxes, scores = filter_proposals(*args)
        kept.extend(scores)
        return boxes, scores

    peer.rpn.filter_proposals = listen
    try:
        inputs, _ = peer.transform([image / 255 for image in images])
        boxes, _ = peer.rpn(inputs, peer.backbone(inputs.tensors))
    finally:
        del peer.rpn.filter_proposals
    results = [{"boxes": each} for each in boxes]
    sizes = [tuple(image.shape[1:]) for image in images]
    back = peer.transform.postprocess(results, inputs.image_sizes, sizes)
    return [Found(*each) for each in zip(boxes, kept, [each["boxes"] for each in back], strict=True)]


@torch.inference_mode()
def propose(network: RegionProposalNetwork, images: Sequence[Tensor]) -> list[Selection]:
    options = network.config.input
    resized = [
        resize_image(image, fit_size((image.shape[1], image.shape[2]), options), options.resize) for image in images
    ]
    return network.propose(make_batch(resized, options))


def count_missing(boxes: Tensor, scores: Tensor, other_boxes: Tensor, other_scores: Tensor) -> int:
    """How many of the other proposals have none of ours within both tolerances."""
    near = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2) <= BOX_TOLERANCE  # (ours, theirs)
    equal = (scores[:, None] - other_scores[None]).abs() <= SCORE_TOLERANCE
    return int((~(near & equal).any(dim=0)).sum())


@torch.inference_mode()
def test_maps(pair: Pair) -> None:
    """Every logit and every delta of every image, before anything is chosen among them."""
    options = pair.network.config.input
    for image in IMAGES:
        inputs, _ = pair.peer.transform([image / 255])
        resized = resize_image(image, fit_size((image.shape[1], image.shape[2]), options), options.resize)
        batch = make_batch([resized], options)
        assert batch.images.shape == inputs.tensors.shape
        torch.testing.assert_close(batch.images, inputs.tensors, rtol=0, atol=1e-5)
        ours = pair.network(batch.images)
        logits, deltas = pair.peer.rpn.head(list(pair.peer.backbone(inputs.tensors).values()))
        assert 0.3 < logits[0].std() < 3
        for mine, other in zip(ours.logits, logits, strict=True):
            torch.testing.assert_close(fold_logits(flatten_map(mine, 2)), flatten_map(other, 1)[..., 0], **CLOSE)
        for mine, other in zip(ours.deltas, deltas, strict=True):
            torch.testing.assert_close(mine, other, **CLOSE)


def test_proposals(pair: Pair) -> None:
    """Every proposal within 0.01 px and 0.00001, in the input frame and in the original one.

    But for one in a thousand: where two logits are equal to the last bit or an IoU is 0.7 to the last bit, rounding
    decides which of two regions suppresses the other.
    """
    proposer = Proposer(pair.network)
    missing = total = 0
    for batch in BATCHES:
        images = [IMAGES[i] for i in batch]
        found = zip(images, propose(pair.network, images), propose_as_peer(pair.peer, images), strict=True)
        for image, ours, theirs in found:
            assert len(theirs.boxes) > 100
            assert abs(len(ours.boxes) - len(theirs.boxes)) <= 1
            missing += count_missing(ours.boxes, ours.logits.sigmoid(), theirs.boxes, theirs.scores)
            total += len(theirs.boxes)
            if len(batch) == 1:
                proposals = proposer(image)
                missing += count_missing(proposals.boxes, proposals.scores, theirs.original, theirs.scores)
                total += len(theirs.boxes)
    assert missing <= 0.001 * total


# Frozen batch norm without an epsilon, as in torchvision's first COCO weights


@pytest.fixture(scope="module")
def frozen(torchvision: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A detector on ResNet-18 whose variances are so small that the epsilon matters, and its file."""
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    peer = torchvision.models.detection.FasterRCNN(backbone, 91, min_size=SHORT, max_size=LONG).eval()
    enliven(peer, seed=2)
    peer.backbone.body.bn1.running_var.fill_(2e-5)
    peer.backbone.body.bn1.weight.fill_(1e-2)
    overwrite_eps(peer, 0.0)
    file = tmp_path_factory.mktemp("weights") / "frozen.pth"
    torch.save({"model": peer.state_dict(), "epoch": 25}, file)  # as the reference scripts write it
    return peer, file


def count_missing_with(peer: Any, network: RegionProposalNetwork) -> int:
    (ours,), (theirs,) = propose(network, IMAGES[:1]), propose_as_peer(peer, IMAGES[:1])
    return count_missing(ours.boxes, ours.logits.sigmoid(), theirs.boxes, theirs.scores)


SIDES = {"input.short_side": SHORT, "input.long_side": LONG}


def test_norm_eps_zero(frozen: tuple[Any, Path]) -> None:
    peer, file = frozen
    usual = convert_weights(file, SIDES)
    assert usual.network.config.norm_eps is None
    assert any("--set norm_eps=0" in note for note in usual.notes)
    assert count_missing_with(peer, usual.network) > 100  # else what follows would prove nothing
    exact = convert_weights(file, {**SIDES, "norm_eps": 0.0})
    assert count_missing_with(peer, exact.network) <= 1


def test_norm_eps_of_a_published_file(frozen: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by its hash, under whatever name it lies."""
    peer, file = frozen
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(PUBLISHED, "torchvision/mine", Published(f"https://example.org/mine-{digest}.pth", 0.0))
    converted = convert_weights(file, SIDES)
    assert converted.network.config.norm_eps == 0
    assert converted.notes == ()
    assert count_missing_with(peer, converted.network) <= 1


def test_published_addresses_are_torchvisions(torchvision: ModuleType) -> None:
    for name, published in PUBLISHED.items():
        weights = torchvision.models.get_model_weights(name.removeprefix("torchvision/"))
        assert published.url == weights["COCO_V1"].url
