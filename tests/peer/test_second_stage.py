"""torchvision's second stage on our first: the same detections and losses as on its own, with the same weights."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from objectness.config import AnchorOptions, Config, InputOptions, LabelOptions, SelectionOptions
from objectness.data.decode import decode_record
from objectness.data.records import ImageRecord
from objectness.errors import ConfigError, ObjectnessError, TrainingError
from objectness.geometry.roi_align import pool_features
from objectness.network import RegionProposalNetwork
from objectness.structures import Batch, Targets
from objectness.torchvision import as_rpn, replace_rpn

CHANNELS, CLASSES = 32, 4
KEPT, KEPT_IN_TRAINING = 150, 100
EVERY_ANCHOR = 100_000  # sampled by both, so that chance has no say
TINY = Config(
    backbone="resnet18",
    pyramid_channels=8,
    input=InputOptions(64, 96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), pad_multiple=64),
    labels=LabelOptions(anchors_per_image=16),
    selection=SelectionOptions(keep=30, keep_training=20),
)


class Case(NamedTuple):
    """What torchvision's models take."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def case(photo_records: Sequence[ImageRecord]) -> Case:
    """Two photos of unequal shapes; each object's mask is its box."""
    images, targets = [], []
    for record in photo_records[:2]:
        images.append(decode_record(record).float() / 255)
        boxes = torch.from_numpy(record.boxes).float()
        masks = torch.zeros(len(boxes), *images[-1].shape[1:], dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        targets.append({"boxes": boxes, "labels": torch.arange(len(boxes)) % (CLASSES - 1) + 1, "masks": masks})
    return Case(images, targets)


# A torchvision model beside itself with its first stage replaced


@pytest.fixture(scope="module")
def theirs(torchvision: ModuleType) -> Any:
    """A Mask R-CNN at random, but alive: scores spread, boxes moved."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    torch.manual_seed(0)
    body = torchvision.models.resnet18(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    for norm in body.modules():
        if isinstance(norm, torchvision.ops.FrozenBatchNorm2d):
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.3, 0.9)
            norm.bias.normal_(0, 0.1)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    model: Any = MaskRCNN(
        BackboneWithFPN(body, layers, [64, 128, 256, 512], CHANNELS),
        CLASSES,
        min_size=200,
        max_size=320,
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=KEPT_IN_TRAINING,
        rpn_post_nms_top_n_test=KEPT,
        rpn_batch_size_per_image=EVERY_ANCHOR,
        box_batch_size_per_image=2 * EVERY_ANCHOR,
        box_nms_thresh=0.3,
        box_detections_per_img=20,
    ).eval()
    heads = model.roi_heads
    with torch.no_grad():
        maps = list(model.backbone(torch.randn(1, 3, 128, 128)).values())
        logits, deltas = model.rpn.head(maps)
        model.rpn.head.cls_logits.weight *= 2 / logits[0].std()
        model.rpn.head.bbox_pred.weight *= 0.3 / deltas[0].std()
        pooled = torch.randn(50, CHANNELS, 7, 7) * maps[0].std()
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        heads.box_predictor.cls_score.weight *= 2 / logits.std()
        heads.box_predictor.bbox_pred.weight *= 1 / deltas.std()
    return model


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Any:
    """A copy of theirs with our network of the same weights in the place of backbone and RPN."""
    config = Config(
        backbone="resnet18",
        pyramid_channels=CHANNELS,
        input=InputOptions(200, 320),
        anchors=AnchorOptions(rounded=True, strides_from_shape=True),
        labels=LabelOptions(anchors_per_image=EVERY_ANCHOR),
        selection=SelectionOptions(per_level=300, keep=KEPT, keep_training=KEPT_IN_TRAINING),
    )
    network = RegionProposalNetwork(config)
    copy_weights(theirs, network)
    return replace_rpn(copy.deepcopy(theirs), network)


def copy_weights(model: Any, network: RegionProposalNetwork) -> None:
    network.backbone.body.load_state_dict(model.backbone.body.state_dict())
    head, fpn = model.rpn.head, model.backbone.fpn
    pairs: list[tuple[nn.Module, nn.Module]] = [
        *zip(network.pyramid.laterals, (block[0] for block in fpn.inner_blocks), strict=True),
        *zip(network.pyramid.outputs, (block[0] for block in fpn.layer_blocks), strict=True),
        (network.head.convs[0], head.conv[0][0]),
        (network.head.reg, head.bbox_pred),
    ]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    with torch.no_grad():
        for leaf in ("weight", "bias"):
            pair = getattr(network.head.cls, leaf)
            pair[0::2], pair[1::2] = getattr(head.cls_logits, leaf), 0  # the channels of object, and of no object


@pytest.mark.slow
@torch.no_grad()
def test_the_same_detections(ours: Any, theirs: Any, case: Case) -> None:
    """From pixels to masks. A map's last bit may turn an IoU of 0.7000000 round, so a few may differ."""
    found = expected = 0
    for mine, other in zip(ours.eval()(case.images), theirs.eval()(case.images), strict=True):
        assert len(other["boxes"]) == 20
        distances = (mine["boxes"][:, None] - other["boxes"][None]).abs().amax(dim=2)  # (ours, theirs), px
        distances += 1000.0 * (mine["labels"][:, None] != other["labels"][None])
        nearest = distances.argmin(dim=0)
        same = distances.amin(dim=0) < 1e-2
        same &= (mine["scores"][nearest] - other["scores"]).abs() < 1e-4
        same &= (mine["masks"][nearest] - other["masks"]).abs().flatten(1).mean(dim=1) < 1e-3
        found += int(same.sum())
        expected += len(same)
    assert found >= 0.95 * expected


@pytest.mark.slow
def test_the_same_losses_and_gradients(ours: Any, theirs: Any, case: Case) -> None:
    """All anchors and all proposals are sampled, so that the five losses depend on the weights alone."""
    empty = {name: value[:0] for name, value in case.targets[0].items()}
    for targets in (case.targets, [empty, case.targets[1]]):
        losses = [model.train()(case.images, targets) for model in (ours, theirs)]
        assert set(losses[0]) == set(losses[1])
        for name, other in losses[1].items():
            torch.testing.assert_close(losses[0][name], other, rtol=5e-3, atol=1e-5)
    for total in (sum(each.values()) for each in losses):
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
    for mine, other in (
        (ours.backbone.backbone.body.conv1.weight, theirs.backbone.body.conv1.weight),
        (ours.backbone.pyramid.laterals[2].weight, theirs.backbone.fpn.inner_blocks[2][0].weight),
        (ours.rpn.head.reg.weight, theirs.rpn.head.bbox_pred.weight),
        (ours.roi_heads.mask_predictor.conv5_mask.weight, theirs.roi_heads.mask_predictor.conv5_mask.weight),
    ):
        assert other.grad.abs().max() > 0
        assert float((mine.grad - other.grad).norm() / other.grad.norm()) < 0.02
    ours.zero_grad()
    theirs.zero_grad()


@pytest.mark.parametrize("training", [True, False])
def test_what_the_second_stage_is_given(ours: Any, case: Case, training: bool) -> None:
    """As many proposals as the mode wants, without gradients; in training torchvision appends the ground truth."""
    given, sampled = [], []
    heads = ours.train(training).roi_heads
    hooks = [
        heads.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[1])),
        heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: sampled.extend(inputs[1])),
    ]
    ours(case.images, case.targets if training else None)
    for hook in hooks:
        hook.remove()
    assert [len(boxes) for boxes in given] == [KEPT_IN_TRAINING if training else KEPT] * 2
    assert not any(boxes.requires_grad for boxes in given)
    more = [len(each["boxes"]) if training else 0 for each in case.targets]
    assert [len(boxes) for boxes in sampled] == [len(boxes) + add for boxes, add in zip(given, more, strict=True)]


def test_a_model_of_another_pyramid(torchvision: ModuleType) -> None:
    """Its maps have other strides than ours, and its pool has seen them and remembers."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, rpn_post_nms_top_n_test=10
    )
    model.eval()([torch.rand(3, 64, 64)])
    network = RegionProposalNetwork(Config(backbone="resnet18", input=InputOptions(64, 96)))
    model = replace_rpn(model, network)
    model([torch.rand(3, 64, 96)])
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


# The two modules by themselves


@pytest.fixture
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(TINY)


@pytest.fixture
def model(torchvision: ModuleType, network: RegionProposalNetwork) -> Any:
    from torchvision.models.detection import FasterRCNN

    return replace_rpn(FasterRCNN(as_rpn(network).backbone, num_classes=3), network)


def test_features(network: RegionProposalNetwork) -> None:
    images = torch.randn(2, 3, 64, 96)
    features = as_rpn(network).backbone(images)
    assert list(features) == ["0", "1", "2", "3", "pool"]
    for mine, expected in zip(features.values(), network(images).features, strict=True):
        assert torch.equal(mine, expected)


def test_the_channels_of_a_bgr_network_are_turned() -> None:
    networks = [RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96)))]
    networks.append(
        RegionProposalNetwork(
            Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96, order="BGR")),
        )
    )
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(1, 3, 64, 96)
    rgb, bgr = (as_rpn(each).backbone for each in networks)
    torch.testing.assert_close(rgb(images)["0"], bgr(images.flip(1))["0"])
    assert not torch.allclose(rgb(images)["0"], bgr(images)["0"])


def test_proposals_lie_in_each_image_and_not_in_the_padding(network: RegionProposalNetwork) -> None:
    backbone, rpn = as_rpn(network.eval())
    images = SimpleNamespace(tensors=torch.randn(2, 3, 64, 128), image_sizes=[(64, 128), (40, 50)])
    boxes, losses = rpn(images, backbone(images.tensors))
    assert losses == {}
    assert [len(each) for each in boxes] == [30, 30]
    assert boxes[0][:, 2].max() > 50
    assert (boxes[1] <= torch.tensor([50, 40, 50, 40])).all()


def test_the_seed_decides_what_is_sampled(network: RegionProposalNetwork) -> None:
    backbone, rpn = as_rpn(network.train())
    images = SimpleNamespace(tensors=torch.randn(2, 3, 64, 96), image_sizes=[(64, 96), (64, 96)])
    targets = [{"boxes": torch.tensor([[10.0, 10, 50, 50]]).double()}, {"boxes": torch.zeros(0, 4)}]
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(rpn(images, backbone(images.tensors), targets)[1])
    assert losses[0] == losses[1]
    assert losses[0]["loss_objectness"] != losses[2]["loss_objectness"]
    with pytest.raises(TrainingError, match="training needs targets: call the model with images and targets"):
        rpn(images, backbone(images.tensors))


def test_each_weight_is_registered_once(model: Any, network: RegionProposalNetwork) -> None:
    first_stage = {name: value for name, value in model.state_dict().items() if not name.startswith("roi_heads.")}
    expected = {f"{'rpn' if name.startswith('head.') else 'backbone'}.{name}" for name in network.state_dict()}
    assert set(first_stage) == expected
    by_network = {id(parameter) for parameter in network.parameters()}
    assert {id(p) for name, p in model.named_parameters() if not name.startswith("roi_heads.")} == by_network

    state = {name: torch.full_like(value, 0.25) for name, value in model.state_dict().items()}
    assert not any(model.load_state_dict(state))
    assert all((value == 0.25).all() for value in network.state_dict().values())  # a model's weights are the network's


def test_a_copy_is_a_model_of_its_own(model: Any, network: RegionProposalNetwork) -> None:
    other = copy.deepcopy(model).eval()
    image = torch.rand(3, 60, 80)
    before = model.eval()([image])[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    for name, value in model([image])[0].items():
        assert torch.equal(value, before[name])
    assert not any(
        other.rpn(SimpleNamespace(tensors=image[None], image_sizes=[(60, 80)]), other.backbone(image[None]))[1]
    )
    model.double()
    assert network.head.reg.weight.dtype == torch.float64
    assert other.rpn.head.reg.weight.dtype == torch.float32


def test_replacing_keeps_the_models_mode(torchvision: ModuleType, network: RegionProposalNetwork) -> None:
    """A loaded network is in evaluation mode, a new model in training: the RPN must give losses then."""
    from torchvision.models.detection import FasterRCNN

    network.eval()
    model: Any = replace_rpn(FasterRCNN(as_rpn(network).backbone, num_classes=3), network)
    assert {module.training for module in model.modules()} == {True}
    targets = [{"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([1])}]
    assert {"loss_objectness", "loss_rpn_box_reg"} <= set(model([torch.rand(3, 60, 80)], targets))
    assert {module.training for module in replace_rpn(model.eval(), network).modules()} == {False}


def test_the_transform_prepares_the_networks_input(model: Any) -> None:
    image = torch.rand(3, 100, 160)
    images, _ = model.transform([image])
    assert images.image_sizes == [(60, 96)]  # the longer side reaches 96 before the shorter reaches 64
    assert images.tensors.shape == (1, 3, 64, 128)  # padded to multiples of 64
    options = TINY.input
    resized = nn.functional.interpolate(image[None], (60, 96), mode="bilinear")[0]
    expected = (resized - torch.tensor(options.mean)[:, None, None]) / torch.tensor(options.std)[:, None, None]
    torch.testing.assert_close(images.tensors[0, :, :60, :96], expected, rtol=1e-4, atol=1e-5)


# The options of the network that ships, and P3 to P7

CSPNET = Config.cspnet(
    pyramid_channels=8,
    input=InputOptions(64, 96, order="BGR"),
    selection=SelectionOptions(per_level=50, keep=30, keep_training=20, nms_iou=0.85, across_levels=True),
)
P3_TO_P7 = replace(
    CSPNET,
    separable_levels=(),
    anchors=AnchorOptions((40, 80, 160, 320, 640), (1.0,), (8, 16, 32, 64, 128), finest_level=3),
)


@pytest.fixture(params=[CSPNET, P3_TO_P7], ids=["P2 to P6", "P3 to P7"])
def cspnet(request: pytest.FixtureRequest) -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(request.param)


def test_levels_that_heads_pool_from(torchvision: ModuleType, cspnet: RegionProposalNetwork) -> None:
    """torchvision's own pooler takes what we pool: P2 or P3 to P5, and none of the levels beyond."""
    from torchvision.models.detection import FasterRCNN

    images = torch.randn(1, 3, 320, 512)
    features = as_rpn(cspnet).backbone(images)
    sides = torch.tensor([5.0, 50, 100, 200, 300, 500])  # of boxes for every level
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides.clamp(max=320)], dim=1)
    pool = FasterRCNN(as_rpn(cspnet).backbone, num_classes=2).roi_heads.box_roi_pool
    expected = pool(features, [boxes], [(320, 512)])
    first_level = cspnet.config.anchors.finest_level
    found = pool_features(list(features.values()), [boxes], first_level=first_level)
    torch.testing.assert_close(found, expected)
    assert list(features)[-2:] == (["3", "pool"] if first_level == 2 else ["pool", "pool2"])


def test_a_detector_on_it(torchvision: ModuleType, cspnet: RegionProposalNetwork) -> None:
    """Its losses and proposals are the network's own, whatever the seed; gradients reach all that is trained."""
    from torchvision.models.detection import FasterRCNN

    model: Any = replace_rpn(FasterRCNN(as_rpn(cspnet).backbone, num_classes=3), cspnet).train()
    photo = [torch.rand(3, 60, 90)]
    boxes = torch.tensor([[10.0, 10, 50, 50], [5, 5, 20, 15]])
    images, targets = model.transform(photo, [{"boxes": boxes, "labels": torch.tensor([1, 2])}])
    batch = Batch(images.tensors.flip(1), torch.tensor(images.image_sizes).float())  # BGR, as the network sees them
    truth = [Targets(targets[0]["boxes"], torch.zeros(0, 4))]
    objectness, box = cspnet.sum_losses(cspnet(batch.images), batch, truth, [0]).divide()
    losses = model.rpn(images, model.backbone(images.tensors), targets)[1]
    torch.testing.assert_close(losses["loss_objectness"], objectness)
    torch.testing.assert_close(losses["loss_rpn_box_reg"], box)

    model(photo, [{"boxes": boxes, "labels": torch.tensor([1, 2])}])["loss_rpn_box_reg"].backward()
    unreached = [name for name, each in cspnet.named_parameters() if each.requires_grad and each.grad is None]
    assert all(".cls." in name for name in unreached)  # its loss is the other one

    expected = cspnet.eval().propose(batch)[0].boxes
    [found] = model.eval().rpn(images, model.backbone(images.tensors))[0]
    assert 20 < len(found) <= 30
    torch.testing.assert_close(found, expected)


# What is refused


def test_only_a_model_with_an_rpn_is_taken(torchvision: ModuleType, network: RegionProposalNetwork) -> None:
    with pytest.raises(ConfigError, match=r"^Linear has no RPN to replace; pass a torchvision FasterRCNN, MaskRCNN or"):
        replace_rpn(nn.Linear(1, 1), network)


def test_heads_of_other_channels_are_refused(theirs: Any, network: RegionProposalNetwork) -> None:
    message = "the heads of this MaskRCNN take 32 channels, the network's pyramid has 8; make the model from as_rpn"
    with pytest.raises(ConfigError, match=message):
        replace_rpn(theirs, network)


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_torchvision_that_does_not_import(
    error: type[Exception], network: RegionProposalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build for another torch raises a RuntimeError: operator torchvision::nms does not exist."""

    class Broken(MetaPathFinder):
        def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            if name.split(".")[0] == "torchvision":
                raise error("operator torchvision::nms does not exist")
            return None

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ObjectnessError, match=r"^torchvision does not import beside torch .*; install the build that"):
        replace_rpn(nn.Linear(1, 1), network)
    assert len(as_rpn(network).backbone(torch.zeros(1, 3, 64, 64))) == 5
