import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objectness.config import AnchorOptions, Config, InputOptions, LabelOptions, SelectionOptions
from objectness.errors import ConfigError
from objectness.geometry.losses import LossSums
from objectness.images.network_input import make_batch
from objectness.model.backbone import Backbone
from objectness.model.norm import FrozenBatchNorm2d
from objectness.network import RegionProposalNetwork
from objectness.structures import Batch, Output, Selection, Targets

NO_BOXES = torch.zeros(0, 4)
SMALL = Config(
    backbone="resnet18",
    pyramid_channels=16,
    anchors=AnchorOptions(sizes=(8, 16, 32, 64, 128)),
    labels=LabelOptions(anchors_per_image=32),
    selection=SelectionOptions(per_level=50, keep=60),
)


def make_network(config: Config = SMALL, seed: int = 0) -> RegionProposalNetwork:
    """A network at random whose outputs are not all alike."""
    torch.manual_seed(seed)
    network = RegionProposalNetwork(config)
    nn.init.normal_(network.head.cls.weight, std=1)
    nn.init.normal_(network.head.reg.weight, std=0.3)
    return network.eval()


def make_images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def make_two() -> tuple[Batch, list[Targets]]:
    """Two images of unequal sizes, the first with two boxes and a crowd, the second with one box."""
    batch = make_batch(make_images((90, 61), (64, 120)), InputOptions())
    first = Targets(torch.tensor([[10.0, 10, 30, 50], [40, 40, 60, 80]]), torch.tensor([[0.0, 60, 30, 90]]))
    return batch, [first, Targets(torch.tensor([[5.0, 5, 100, 60]]), NO_BOXES)]


def pick(batch: Batch, image: int) -> Batch:
    """One image on the same canvas."""
    return Batch(batch.images[image : image + 1], batch.sizes[image : image + 1])


def assert_close(ours: Selection, theirs: Selection) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("batch_norm", "without_affine"), [("trained", 0), ("frozen", 53_120)])
def test_number_of_parameters(batch_norm: str, without_affine: int) -> None:
    # body 23,508,032 (of which 53,120 in batch norms) + laterals 984,064 + outputs 2,360,320 + a head of 593,935,
    # which in the peers has 3 logits a cell; here it has 6, each of 256 weights and a bias
    assert 23_508_032 + 984_064 + 2_360_320 + 593_935 == 27_446_351
    with torch.device("meta"):
        network = RegionProposalNetwork(Config(backbone="resnet50", batch_norm=batch_norm))
    assert sum(p.numel() for p in network.parameters()) == 27_446_351 + 3 * 257 - without_affine


def test_default_is_resnet101() -> None:
    with torch.device("meta"):
        network = RegionProposalNetwork()
    assert len(network.backbone.body.layer3) == 23
    assert network.config == Config()


def test_names_of_the_weights() -> None:
    """A checkpoint's file depends on these names."""
    names = {name for name in make_network().state_dict() if not name.startswith("backbone.body.")}
    parts = [*(f"pyramid.{kind}.{i}" for kind in ("laterals", "outputs") for i in range(4))]
    parts += ["head.convs.0", "head.cls", "head.reg"]
    assert names == {f"{part}.{leaf}" for part in parts for leaf in ("weight", "bias")}
    assert "backbone.body.layer4.1.conv2.weight" in make_network().state_dict()


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (1, 1), (300, 300)])
def test_every_prediction_has_its_anchor(size: tuple[int, int]) -> None:
    network = make_network()
    images = torch.zeros(2, 3, *size)
    with torch.inference_mode():
        output = network(images)
    assert isinstance(output, Output)
    anchors = network.make_anchors(output, images)
    assert len(output.features) == len(output.logits) == len(output.deltas) == len(anchors.levels) == 5
    for features, logits, deltas, level in zip(*output, anchors.levels, strict=True):
        height, width = features.shape[2:]
        assert features.shape == (2, 16, height, width)
        assert logits.shape == (2, 6, height, width)
        assert deltas.shape == (2, 12, height, width)
        assert len(level) == 3 * height * width


def test_one_forward_in_every_mode() -> None:
    network = make_network()
    images = make_two()[0].images
    evaluating, training = network.eval()(images), network.train()(images)
    for ours, theirs in zip(evaluating, training, strict=True):
        for level, other in zip(ours, theirs, strict=True):
            assert torch.equal(level, other)


@pytest.mark.parametrize("config", [SMALL, Config.article(backbone="resnet18", pyramid_channels=16)])
def test_batch_of_two_is_two_of_one(config: Config) -> None:
    network = make_network(config)
    batch, targets = make_two()
    with torch.inference_mode():
        both = network.propose(batch)
        losses = network.sum_losses(network(batch.images), batch, targets, seeds=[3, 4])
        apart: list[LossSums] = []
        for i in range(2):
            one = pick(batch, i)
            (alone,) = network.propose(one)
            assert len(alone.boxes) > 20
            assert_close(alone, both[i])
            apart.append(network.sum_losses(network(one.images), one, targets[i : i + 1], seeds=[3 + i]))
    for together, first, second in zip(losses, *apart, strict=True):
        torch.testing.assert_close(together, first + second, rtol=1e-4, atol=1e-4)


def test_proposals_lie_in_their_images() -> None:
    network = make_network()
    batch, _ = make_two()
    with torch.inference_mode():
        for selection, (height, width) in zip(network.propose(batch), batch.sizes.tolist(), strict=True):
            assert len(selection.boxes) == SMALL.selection.keep
            assert (selection.boxes >= 0).all()
            assert (selection.boxes <= torch.tensor([width, height, width, height])).all()
            assert (selection.logits.diff() <= 0).all()
            assert set(selection.levels.tolist()) <= {2, 3, 4, 5, 6}
        assert [len(selection.boxes) for selection in network.propose(batch, keep=7)] == [7, 7]


def test_options_reach_their_places() -> None:
    batch, targets = make_two()
    network = make_network()
    output = network(batch.images)
    losses = network.sum_losses(output, batch, targets, seeds=[0, 0])
    assert losses.normaliser == 2 * 32
    for name, value, changes_objectness, changes_box in (
        ("objectness_loss", "squared", True, False),
        ("box_coding", "absolute", False, True),
    ):
        other = make_network(Config(**{**vars(SMALL), name: value}))
        other.load_state_dict(network.state_dict())
        changed = other.sum_losses(other(batch.images), batch, targets, seeds=[0, 0])
        assert torch.equal(losses.objectness, changed.objectness) is not changes_objectness
        assert torch.equal(losses.box, changed.box) is not changes_box
    adjacent = make_network(Config(**{**vars(SMALL), "top_down": "adjacent"}))
    assert not torch.equal(adjacent(batch.images).features[0], output.features[0])
    rounded = make_network(Config(**{**vars(SMALL), "anchors": AnchorOptions(rounded=True, strides_from_shape=True)}))
    grid = rounded.make_anchors(output, batch.images)
    assert torch.equal(grid.join(), grid.join().round())
    assert grid.strides[-1] == (48, 64)  # 96 // 2, 128 // 2


def test_seeds_decide_the_sampled_anchors() -> None:
    network = make_network()
    batch, targets = make_two()
    output = network(batch.images)

    def objectness(*seeds: int) -> float:
        return network.sum_losses(output, batch, targets, seeds).objectness.item()

    assert objectness(1, 2) == objectness(1, 2)
    assert objectness(1, 2) != objectness(1, 3)


def test_everything_learns() -> None:
    network = make_network(Config(**{**vars(SMALL), "batch_norm": "trained"})).train()
    batch, targets = make_two()
    losses = network.sum_losses(network(batch.images), batch, targets, seeds=[0, 0])
    assert losses.num_positive > 0
    ((losses.objectness + losses.box) / losses.normaliser).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("objectness_loss", ["cross_entropy", "squared"])
def test_images_without_boxes_train(objectness_loss: str) -> None:
    network = make_network(Config(**{**vars(SMALL), "objectness_loss": objectness_loss})).train()
    batch, (first, _) = make_two()
    only_crowd = Targets(NO_BOXES, first.ignored)
    losses = network.sum_losses(network(batch.images), batch, [Targets(NO_BOXES, NO_BOXES), only_crowd], seeds=[0, 0])
    assert losses.normaliser == 64
    assert losses.num_positive == losses.box == 0
    (losses.objectness + losses.box).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.head.cls.weight.grad is not None
    assert network.head.cls.weight.grad.any()
    half = network.sum_losses(network(batch.images), batch, [first, only_crowd], seeds=[0, 0])
    assert half.box > 0


def test_inference_does_not_spoil_training() -> None:
    """The anchors of both are the same tensors, which autograd must be able to use."""
    network = make_network().train()
    batch, targets = make_two()
    with torch.inference_mode():
        network.propose(batch)
    network.sum_losses(network(batch.images), batch, targets, seeds=[0, 0]).box.backward()


def test_one_pixel_and_odd_sizes() -> None:
    network = make_network()
    with torch.inference_mode():
        for options in (InputOptions(), InputOptions(pad_multiple=1)):
            for size in ((1, 1), (1, 77), (33, 2), (101, 67)):
                batch = make_batch(make_images(size), options)
                (selection,) = network.propose(batch)
                assert len(selection.boxes) > 0
                assert selection.boxes.isfinite().all()
                assert (selection.boxes <= torch.tensor([size[1], size[0]] * 2)).all()


def test_broken_input_gives_no_proposals() -> None:
    network = make_network()
    batch, _ = make_two()
    batch.images[1] = torch.nan
    with torch.inference_mode():
        fine, broken = network.propose(batch)
    assert len(fine.boxes) == SMALL.selection.keep
    assert len(broken.boxes) == 0


def test_lower_precision_gives_float32_proposals() -> None:
    network = make_network()
    batch, targets = make_two()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert network(batch.images).logits[0].dtype == torch.bfloat16
        (selection, _) = network.propose(batch)
        losses = network.sum_losses(network(batch.images), batch, targets, seeds=[0, 0])
    assert selection.boxes.dtype == selection.logits.dtype == torch.float32
    assert losses.objectness.dtype == losses.box.dtype == torch.float32


def test_threads_and_copies_propose_the_same() -> None:
    network = make_network()
    batch, _ = make_two()
    clones = [network, network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))]

    def propose(job: int) -> Selection:
        with torch.inference_mode():
            return clones[job % 4].propose(pick(batch, job % 2))[0]

    expected = [propose(0), propose(1)]
    with ThreadPoolExecutor(4) as pool:
        for job, selection in enumerate(pool.map(propose, range(8))):
            assert_close(selection, expected[job % 2])


class Tiny(nn.Module):
    """A backbone of somebody else's: strides 4, 8, 16 and 32, other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 4, stride=4)
        self.b = nn.Conv2d(5, 6, 2, stride=2)
        self.c = nn.Conv2d(6, 7, 2, stride=2)
        self.d = nn.Conv2d(7, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.d(self.c(self.b(self.a(x))))
        return y


def test_any_backbone_serves() -> None:
    network = RegionProposalNetwork(SMALL, Backbone(Tiny(), ("a", "b", "c", "d")))
    assert [lateral.in_channels for lateral in network.pyramid.laterals] == [5, 6, 7, 8]
    batch, targets = make_two()
    assert network.sum_losses(network(batch.images), batch, targets, seeds=[0, 0]).num_positive > 0
    assert len(network.propose(batch)) == 2


def test_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match="backbone 'vgg' is unknown"):
        RegionProposalNetwork(Config(backbone="vgg"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm": "trained", "pyramid_norm": "batch", "head_depth": 2, "class_order": "object_last"},
        {"backbone": "resnet50", "stride_in_1x1": True, "norm_eps": 0.0, "delta_order": "yxhw"},
        {"backbone": "efficientnet_lite0", "top_down": "adjacent"},
    ],
)
def test_optimized_says_the_same(changes: dict[str, Any]) -> None:
    network = make_network(dataclasses.replace(SMALL, **changes))
    for module in network.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimized = network.optimized()
    batch, _ = make_two()
    with torch.inference_mode():
        output, same = network(batch.images), optimized(batch.images)
    for pairs, folded in zip(output.logits, same.logits, strict=True):
        torch.testing.assert_close(folded, pairs[:, 0::2] - pairs[:, 1::2], rtol=1e-3, atol=1e-3)
    for mine, other in zip([*output.deltas, *output.features], [*same.deltas, *same.features], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d)) for m in optimized.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])  # the original stays as it was


def test_optimized_leaves_the_norms_of_a_foreign_backbone() -> None:
    """Where its norms stand among its convolutions is its own affair: this one normalises first."""
    body = nn.Sequential()
    channels = 3
    for i in range(4):
        stage = nn.Sequential(
            nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 4 if i == 0 else 2, 1)
        )
        channels = 4
        body.append(stage)
    network = RegionProposalNetwork(SMALL, Backbone(body, ("0", "1", "2", "3"))).eval()
    optimized = network.optimized()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for mine, other in zip(network(images).features, optimized(images).features, strict=True):
            torch.testing.assert_close(mine, other)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in optimized.modules()) == 4


SMALL_CSPNET = Config.cspnet(
    pyramid_channels=8,
    frozen_stages=0,
    anchors=AnchorOptions(sizes=(20, 40, 80, 160, 320), ratios=(1.0,)),
    selection=SelectionOptions(per_level=50, keep=60, across_levels=True),
)


def make_example(config: Config) -> tuple[RegionProposalNetwork, Batch, list[Targets]]:
    """A network, two images at random, the second without objects."""
    torch.manual_seed(0)
    network = RegionProposalNetwork(config)
    batch = Batch(torch.randn(2, 3, 96, 128), torch.tensor([[96.0, 128], [80, 128]]))
    boxes = torch.tensor([[10.0, 10, 60, 50], [70, 20, 90, 90]])
    return network, batch, [Targets(boxes, NO_BOXES), Targets(NO_BOXES, boxes[:1])]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objectness_target": "label"},
        {"objectness_loss": "cross_entropy", "box_loss": "smooth_l1"},
        {"labels": LabelOptions(assignment="iou")},
        {"head_shared": True, "head_depth": 1, "head_convolution": "separable", "box_bins": 0},
        {"anchors": AnchorOptions((40, 80, 160, 320, 640), (0.5, 1.0, 2.0), (8, 16, 32, 64, 128), finest_level=3)}
        | {"separable_levels": (3,)},
    ],
)
def test_every_option_learns_and_proposes(changes: dict[str, Any]) -> None:
    network, batch, targets = make_example(dataclasses.replace(SMALL_CSPNET, **changes))
    assert Config.from_dict(network.config.to_dict()) == network.config
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    first = last = None
    for _ in range(15):
        losses = network.sum_losses(network(batch.images), batch, targets, [0, 1])
        last = sum(losses.divide())
        first = last if first is None else first
        optimizer.zero_grad()
        last.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
    assert last < first
    with torch.inference_mode():
        network.eval()
        selections, faster = network.propose(batch), network.optimized().propose(batch)
    finest = network.config.anchors.finest_level
    for plain, optimized in zip(selections, faster, strict=True):
        assert 0 < len(plain.boxes) <= 60
        assert set(plain.levels.tolist()) <= set(range(finest, finest + 5))
        torch.testing.assert_close(optimized.logits, plain.logits, rtol=1e-3, atol=1e-3)


def test_two_images_are_two_of_one_with_alignment() -> None:
    network, batch, targets = make_example(SMALL_CSPNET)
    together = network.sum_losses(network(batch.images), batch, targets, [0, 1])
    apart = []
    for i in range(2):
        one = Batch(batch.images[i : i + 1], batch.sizes[i : i + 1])
        apart.append(network.sum_losses(network(one.images), one, targets[i : i + 1], [i]))
    for joint, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(joint, first + second, rtol=1e-4, atol=1e-4)
