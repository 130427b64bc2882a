from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from objectness.model.backbone import make_backbone
from objectness.model.norm import make_norm
from objectness.model.resnet import DESIGNS, ResNet

# Source: torchvision's documentation, "num_params" of each, with the classifier
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
}


def make_empty(name: str) -> ResNet:
    """One without weights: shapes alone."""
    with torch.device("meta"):
        return ResNet(DESIGNS[name], make_norm("trained"))


def test_designs() -> None:
    assert DESIGNS.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", DESIGNS)
def test_number_of_parameters(name: str) -> None:
    channels = 512 if name in ("resnet18", "resnet34") else 2048
    classifier = channels * 1000 + 1000
    assert sum(p.numel() for p in make_empty(name).parameters()) == PARAMETERS[name] - classifier


@pytest.mark.parametrize("name", DESIGNS)
def test_state_dict_is_torchvisions(name: str, torchvision: ModuleType) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
    expected = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in make_empty(name).state_dict().items()} == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_features_are_torchvisions(name: str, batch_norm: str, torchvision: ModuleType) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training, so that their place and epsilon matter
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, 0, 0.1)
    ours = make_backbone(name, batch_norm).eval()
    state = theirs.state_dict()
    ours.body.load_state_dict({key: state[key] for key in ours.body.state_dict()})
    images = torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        x: Tensor = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for found, name in zip(ours(images), ("layer1", "layer2", "layer3", "layer4"), strict=True):
            x = getattr(theirs, name)(x)
            assert x.std() > 0.01  # something is there to compare
            torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))]
)
def test_shapes_of_the_stages(name: str, channels: tuple[int, ...]) -> None:
    backbone = make_backbone(name).eval()
    with torch.inference_mode():
        stages = backbone(torch.zeros(1, 3, 70, 33))
        # halved and rounded up: 70, 35, 18, 9, 5, 3 and 33, 17, 9, 5, 3, 2
        assert [tuple(stage.shape) for stage in stages] == [
            (1, count, *size) for count, size in zip(channels, [(18, 9), (9, 5), (5, 3), (3, 2)], strict=True)
        ]
        assert [tuple(stage.shape[2:]) for stage in backbone(torch.zeros(1, 3, 1, 1))] == [(1, 1)] * 4


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_random_maps_with_frozen_norms_stay_of_order_one(name: str) -> None:
    """Without care each of 16 blocks would double the variance, and 2^8 be the standard deviation of the last."""
    torch.manual_seed(0)
    with torch.inference_mode():
        for stage in make_backbone(name)(torch.randn(1, 3, 96, 96)):
            assert 0.05 < stage.std() < 5


def test_initial_statistics() -> None:
    torch.manual_seed(0)
    net = ResNet(DESIGNS["resnet18"], make_norm("trained"))
    # Kaiming normal by fan out: variance 2 / (out channels * kernel area)
    for conv, fan_out in ((net.conv1, 64 * 49), (net.layer4[1].conv2, 512 * 9), (net.layer2[0].downsample[0], 128)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert conv.bias is None
    assert all((norm.weight == 1).all() for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))


def test_the_stride_of_a_bottleneck() -> None:
    """In the 3x3 by default; in the first 1x1 as in Caffe's weights, with the same shapes and names."""
    inner, first = (ResNet(DESIGNS["resnet50"], make_norm("frozen"), where) for where in (False, True))
    for net, strides in ((inner, (1, 2)), (first, (2, 1))):
        for stage in (net.layer2, net.layer3, net.layer4):
            assert (stage[0].conv1.stride[0], stage[0].conv2.stride[0]) == strides
        assert (net.layer1[0].conv1.stride[0], net.layer1[0].conv2.stride[0]) == (1, 1)
    assert {n: p.shape for n, p in inner.state_dict().items()} == {n: p.shape for n, p in first.state_dict().items()}
    assert inner(torch.zeros(1, 3, 65, 97)).shape == first(torch.zeros(1, 3, 65, 97)).shape
