"""torchvision's region proposal network, with the same weights, gives the same matches, losses and proposals.

Ours is set to its habits: anchors rounded to whole pixels, strides taken from the maps' sizes, 1,000 regions a level.
Its head says one logit z an anchor, ours the pair (z, 0).
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from objectness.config import AnchorOptions, Config, InputOptions, SelectionOptions
from objectness.data.decode import decode_record
from objectness.data.records import ImageRecord
from objectness.geometry.anchors import make_anchors
from objectness.geometry.boxes import clip_boxes, compute_iou, decode_deltas, encode_deltas
from objectness.geometry.matching import POSITIVE, match_anchors, sample_anchors
from objectness.geometry.selection import suppress
from objectness.images.network_input import fit_size, make_batch, resize_image
from objectness.network import RegionProposalNetwork
from objectness.structures import Batch, Output, Selection, Targets
from objectness.training.loader import make_targets

pytestmark = pytest.mark.slow  # about 10 seconds

CHANNELS = 64  # of the pyramid; the usual 256 would be the same code in sixteen times the time
CONFIG = Config(
    backbone="resnet18",
    pyramid_channels=CHANNELS,
    anchors=AnchorOptions(rounded=True, strides_from_shape=True),
    selection=SelectionOptions(per_level=1000, keep=1000, min_size=1e-3),
)
SIZES = (  # of the input, with the stride that torchvision finds for P6 in place of 64
    InputOptions(288, 384),  # 288 // 5 = 57
    InputOptions(256, 352),  # 352 // 6 = 58
    InputOptions(320, 448),  # 64
    InputOptions(300, 300, pad_multiple=1),  # 300 // 5 = 60; every level's drifts
)
NUM_PHOTOS = 20


class Peer(NamedTuple):
    """torchvision's parts."""

    backbone: nn.Module
    rpn: Any


class Case(NamedTuple):
    """One batch, and what both networks make of it."""

    batch: Batch
    targets: list[Targets]
    images: Any  # the batch as torchvision's ImageList
    output: Output  # ours
    features: dict[str, Tensor]  # theirs


# Both networks with the same weights


@pytest.fixture(scope="module")
def peer(torchvision: ModuleType) -> Peer:
    """At random, but as alive as trained ones: logits spread over several units, deltas over tenths."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.rpn import RegionProposalNetwork as PeerNetwork
    from torchvision.models.detection.rpn import RPNHead

    torch.manual_seed(0)
    body = torchvision.models.resnet18(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    for norm in body.modules():
        if isinstance(norm, torchvision.ops.FrozenBatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.3, 0.9)
            norm.bias.normal_(0, 0.1)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], CHANNELS)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    counts = {"training": 1000, "testing": 1000}
    rpn = PeerNetwork(anchors, RPNHead(CHANNELS, 3), 0.7, 0.3, 256, 0.5, counts, counts, 0.7)
    with torch.no_grad():
        logits, deltas = rpn.head(list(backbone(torch.randn(1, 3, 256, 256)).values()))
        rpn.head.cls_logits.weight *= 2 / logits[0].std()
        rpn.head.bbox_pred.weight *= 0.3 / deltas[0].std()
        rpn.head.cls_logits.bias.copy_(torch.tensor([-0.5, 0.2, 0.1]))
        rpn.head.bbox_pred.bias.normal_(0, 0.1)
    return Peer(backbone.eval(), rpn.eval())


@pytest.fixture(scope="module")
def network(peer: Peer) -> RegionProposalNetwork:
    """Ours, with their weights."""
    network = RegionProposalNetwork(CONFIG)
    network.backbone.body.load_state_dict(peer.backbone.body.state_dict())
    head, fpn = peer.rpn.head, peer.backbone.fpn
    pairs = [
        *zip(network.pyramid.laterals, (block[0] for block in fpn.inner_blocks), strict=True),
        *zip(network.pyramid.outputs, (block[0] for block in fpn.layer_blocks), strict=True),
        (network.head.convs[0], head.conv[0][0]),
        (network.head.reg, head.bbox_pred),
    ]
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        for leaf in ("weight", "bias"):
            pair = getattr(network.head.cls, leaf)
            pair[0::2], pair[1::2] = getattr(head.cls_logits, leaf), 0  # the channels of object, and of no object
    return network.eval()


# Photos


@pytest.fixture(scope="module")
def records(request: pytest.FixtureRequest) -> Sequence[ImageRecord]:
    """COCO's where they are, else the repository's own, again and again in other sizes."""
    try:
        coco: tuple[ImageRecord, ...] = request.getfixturevalue("coco_val_records")
    except pytest.skip.Exception:
        own: tuple[ImageRecord, ...] = request.getfixturevalue("photo_records")
        return (own * NUM_PHOTOS)[:NUM_PHOTOS]
    return [record for record in coco if len(record.boxes)][:: len(coco) // (NUM_PHOTOS + 5)][:NUM_PHOTOS]


@pytest.fixture(scope="module")
def cases(
    torchvision: ModuleType, peer: Peer, network: RegionProposalNetwork, records: Sequence[ImageRecord]
) -> list[Case]:
    """Batches of one and, where photos lie beside each other in unequal sizes, of two."""
    from torchvision.models.detection.image_list import ImageList

    made, waiting = [], list(records)
    while waiting:
        options = SIZES[len(made) % len(SIZES)]
        taken = [waiting.pop() for _ in range(min(len(waiting), 1 + len(made) % 2))]
        sizes = [fit_size((record.height, record.width), options) for record in taken]
        images = [resize_image(decode_record(r), size) for r, size in zip(taken, sizes, strict=True)]
        # crowds are left out, which torchvision does not know
        boxes = [make_targets(r, size).boxes for r, size in zip(taken, sizes, strict=True)]
        batch = make_batch(images, options)
        with torch.no_grad():
            output, features = network(batch.images), peer.backbone(batch.images)
        targets = [Targets(each, torch.zeros(0, 4)) for each in boxes]
        made.append(Case(batch, targets, ImageList(batch.images, sizes), output, features))
    return made


def test_cases_are_worth_it(cases: list[Case], network: RegionProposalNetwork) -> None:
    assert sum(len(case.targets) for case in cases) == NUM_PHOTOS
    assert any(len(case.targets) == 2 and not torch.equal(*case.batch.sizes) for case in cases)
    strides = {network.make_anchors(case.output, case.batch.images).strides[-1] for case in cases}
    assert strides - {(64, 64)}  # some drift
    for case in cases:
        logits, deltas = case.output.logits[0], case.output.deltas[0]
        assert 0.3 < logits[:, ::2].std() < 20
        assert 0.05 < deltas.std() < 3


# The way of an image, each step compared


def test_maps(cases: list[Case], peer: Peer) -> None:
    for case in cases:
        theirs = list(case.features.values())
        logits, deltas = peer.rpn.head(theirs)
        for ours, other in zip(case.output.features, theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)
        for ours, other in zip(case.output.logits, logits, strict=True):
            torch.testing.assert_close(ours[:, 0::2], other, rtol=1e-3, atol=1e-3)
            assert not ours[:, 1::2].any()
        for ours, other in zip(case.output.deltas, deltas, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


def test_anchors(cases: list[Case], peer: Peer, network: RegionProposalNetwork) -> None:
    for case in cases:
        ours = network.make_anchors(case.output, case.batch.images).join()
        for theirs in peer.rpn.anchor_generator(case.images, list(case.features.values())):
            assert torch.equal(ours, theirs)


def test_matches(cases: list[Case], peer: Peer, network: RegionProposalNetwork) -> None:
    positives = 0
    for case in cases:
        anchors = network.make_anchors(case.output, case.batch.images).join()
        theirs = peer.rpn.assign_targets_to_anchors(
            [anchors] * len(case.targets), [{"boxes": each.boxes} for each in case.targets]
        )
        for targets, labels, boxes in zip(case.targets, *theirs, strict=True):
            matches = match_anchors(anchors, targets, CONFIG.labels)
            assert torch.equal(matches.labels.float(), labels)
            positive = matches.labels == POSITIVE
            assert torch.equal(targets.boxes[matches.boxes[positive]], boxes[positive])
            positives += int(positive.sum())
    assert positives > 100


@pytest.fixture
def train_peer(peer: Peer) -> Iterator[Callable[[Case, Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]]:
    """Their losses for the anchors that are given as masks (K,) of positives and negatives, one an image."""
    sampler = peer.rpn.fg_bg_sampler

    def run(case: Case, positives: Sequence[Tensor], negatives: Sequence[Tensor]) -> dict[str, Tensor]:
        peer.rpn.fg_bg_sampler = lambda labels: (positives, negatives)
        targets = [{"boxes": each.boxes} for each in case.targets]
        losses: dict[str, Tensor] = peer.rpn.train()(case.images, case.features, targets)[1]
        return losses

    yield run
    peer.rpn.fg_bg_sampler = sampler
    peer.rpn.eval().zero_grad()


def test_losses(cases: list[Case], peer: Peer, network: RegionProposalNetwork, train_peer: Callable[..., Any]) -> None:
    """For the same anchors the same losses, of batches of one and two, and of an image without boxes."""
    empty = cases[1]._replace(targets=[Targets(torch.zeros(0, 4), torch.zeros(0, 4)), cases[1].targets[1]])
    for case in [*cases, empty]:
        anchors = network.make_anchors(case.output, case.batch.images).join()
        seeds = range(10, 10 + len(case.targets))
        positives, negatives = [], []
        for targets, seed in zip(case.targets, seeds, strict=True):
            labels = match_anchors(anchors, targets, CONFIG.labels).labels
            sample = sample_anchors(labels, CONFIG.labels, torch.Generator().manual_seed(seed))
            for masks, chosen in ((positives, sample.positive), (negatives, sample.used & ~sample.positive)):
                masks.append(torch.zeros(len(anchors)).index_fill(0, sample.anchors[chosen], 1))
        theirs = train_peer(case, positives, negatives)
        ours = network.sum_losses(case.output, case.batch, case.targets, seeds)
        for mine, other in ((ours.objectness, "loss_objectness"), (ours.box, "loss_rpn_box_reg")):
            torch.testing.assert_close(mine / ours.normaliser, theirs[other], rtol=1e-5, atol=1e-7)


def test_gradients(
    cases: list[Case], peer: Peer, network: RegionProposalNetwork, train_peer: Callable[..., Any]
) -> None:
    """What the head learns from a batch of two."""
    case = cases[1]
    logits, deltas = network.head(tuple(case.features.values()))
    output = case.output._replace(logits=logits, deltas=deltas)
    anchors = network.make_anchors(output, case.batch.images).join()
    matches = [match_anchors(anchors, each, CONFIG.labels) for each in case.targets]
    samples = [sample_anchors(m.labels, CONFIG.labels, torch.Generator().manual_seed(i)) for i, m in enumerate(matches)]
    ours = network.sum_losses(output, case.batch, case.targets, seeds=range(2))
    ((ours.objectness + ours.box) / ours.normaliser).backward()

    def mask(positions: Tensor) -> Tensor:
        return torch.zeros(len(anchors)).index_fill(0, positions, 1)

    losses = train_peer(
        case, [mask(s.anchors[s.positive]) for s in samples], [mask(s.anchors[s.used & ~s.positive]) for s in samples]
    )
    (losses["loss_objectness"] + losses["loss_rpn_box_reg"]).backward()
    head = peer.rpn.head
    for mine, other in (
        (network.head.convs[0].weight.grad, head.conv[0][0].weight.grad),
        (network.head.reg.weight.grad, head.bbox_pred.weight.grad),
        (network.head.reg.bias.grad, head.bbox_pred.bias.grad),
        (network.head.cls.weight.grad[0::2], head.cls_logits.weight.grad),
        (-network.head.cls.weight.grad[1::2], head.cls_logits.weight.grad),  # what object gains, no object loses
    ):
        assert mine.any()
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)
    network.zero_grad()


def propose_as_peer(case: Case, peer: Peer, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Their boxes and scores; the lines of its `forward`, which keeps the scores to itself."""
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    logits, deltas = peer.rpn.head(list(features))
    anchors = peer.rpn.anchor_generator(case.images, list(features))
    counts = [level[0].numel() for level in logits]
    logits, deltas = concat_box_prediction_layers(logits, deltas)
    boxes = peer.rpn.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
    return list(zip(*peer.rpn.filter_proposals(boxes, logits, case.images.image_sizes, counts), strict=True))


@torch.no_grad()
def test_proposals(cases: list[Case], peer: Peer, network: RegionProposalNetwork) -> None:
    """The same boxes to 0.001 px and scores to 0.00001, in the same order up to ties.

    Both start from our pyramid: a rounding of the maps' last bit may turn an IoU of 0.7000000 round, and with it every
    later choice of suppression (`test_maps` compares the maps, the next test everything).
    """
    for case in cases:
        ours, theirs = network.propose(case.batch), propose_as_peer(case, peer, case.output.features)
        for selection, (boxes, scores) in zip(ours, theirs, strict=True):
            assert len(selection.boxes) == len(boxes) > 100
            torch.testing.assert_close(selection.logits.sigmoid(), scores, rtol=0, atol=1e-5)
            assert (find_differences(selection, boxes, scores) == 0).all()


@torch.no_grad()
def test_proposals_from_pixels(cases: list[Case], peer: Peer, network: RegionProposalNetwork) -> None:
    different = total = 0
    for case in cases:
        ours, theirs = network.propose(case.batch), propose_as_peer(case, peer, list(case.features.values()))
        for selection, (boxes, scores) in zip(ours, theirs, strict=True):
            assert abs(len(selection.boxes) - len(boxes)) <= 2
            different += int(find_differences(selection, boxes, scores).sum())
            total += len(boxes)
    assert different <= 0.002 * total


def find_differences(selection: Selection, boxes: Tensor, scores: Tensor) -> Tensor:
    """Mask (n,) of their proposals that ours do not have: within 0.001 px, and 0.00001 of the score."""
    near = (selection.boxes[:, None] - boxes[None]).abs().amax(dim=2) < 1e-3  # (ours, theirs)
    equal = (selection.logits.sigmoid()[:, None] - scores[None]).abs() < 1e-5
    return ~(near & equal).any(dim=0)


# The parts by themselves


def make_boxes(count: int, seed: int) -> Tensor:
    """(count, 4) boxes of 2 to 122 px in an image of 400 x 300."""
    random = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    corners = random[:, :2] * torch.tensor([340.0, 240]) - 20
    return torch.cat([corners, corners + random[:, 2:] * 120 + 2], dim=1)


def test_box_functions(torchvision: ModuleType) -> None:
    boxes, others = make_boxes(80, 0), make_boxes(80, 1)
    torch.testing.assert_close(compute_iou(boxes, others), torchvision.ops.box_iou(boxes, others))
    size = torch.tensor([300.0, 400.0])
    assert torch.equal(clip_boxes(boxes, size), torchvision.ops.clip_boxes_to_image(boxes, (300, 400)))


def test_box_coder(peer: Peer) -> None:
    boxes, anchors = make_boxes(80, 0), make_boxes(80, 1)
    coder = peer.rpn.box_coder
    torch.testing.assert_close(encode_deltas(boxes, anchors), coder.encode([boxes], [anchors])[0])
    deltas = torch.randn(80, 4, generator=torch.Generator().manual_seed(2)) * 3  # some beyond the cap
    assert (deltas > 4.2).any()
    theirs = coder.decode(deltas, [anchors])[:, 0]
    torch.testing.assert_close(decode_deltas(deltas, anchors), theirs, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("nms_iou", [0.2, 0.5, 0.8])
def test_suppression(nms_iou: float, torchvision: ModuleType) -> None:
    """Source of the cases: torchvision, test_ops.py, TestNMS: 1,000 boxes, some overlap by just about the threshold.

    Not by exactly that: its kernel compares in double precision, so that a float32 of 0.2 exceeds 0.2; ours does not.
    """
    for seed in range(10):
        boxes = make_boxes(1000, seed)
        boxes[-2:] = boxes[:2]  # the same places, and so much narrower that the IoUs are hardly more, and less
        share = torch.tensor([nms_iou + 1e-4, nms_iou - 1e-4])
        boxes[-2:, 2] = boxes[:2, 0] + (boxes[:2, 2] - boxes[:2, 0]) * share
        logits = torch.randperm(1000, generator=torch.Generator().manual_seed(seed)).float()
        levels = torch.arange(1000) % 5 + 2
        order = logits.argsort(descending=True)
        candidates = Selection(boxes[order], logits[order], levels[order])
        kept = torchvision.ops.batched_nms(boxes, logits, levels, nms_iou)
        assert torch.equal(suppress(candidates, nms_iou, keep=1000).logits, logits[kept])
        kept = torchvision.ops.nms(boxes, logits, nms_iou)
        one_level = candidates._replace(levels=torch.full_like(levels, 2))
        assert torch.equal(suppress(one_level, nms_iou, keep=1000).logits, logits[kept])


def test_feature_names_and_sizes(peer: Peer) -> None:
    """Source: torchvision, test_backbone_utils.py: a 300 x 300 image gives maps named 0, 1, 2, 3 and pool."""
    features = peer.backbone(torch.zeros(1, 3, 300, 300))
    assert list(features) == ["0", "1", "2", "3", "pool"]
    sizes = [tuple(level.shape[2:]) for level in features.values()]
    grid = make_anchors(CONFIG.anchors, sizes, (300, 300))
    assert grid.strides == ((4, 4), (7, 7), (15, 15), (30, 30), (60, 60))
