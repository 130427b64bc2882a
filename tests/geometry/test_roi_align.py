from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import Config, InputOptions, SelectionOptions
from objectness.errors import ConfigError
from objectness.geometry.roi_align import choose_levels, pool_features
from objectness.images.network_input import fit_size, make_batch, resize_image
from objectness.images.reading import read_image
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer, to_tensor
from objectness.structures import Output

HEIGHT, WIDTH = 96, 160  # of the input, px
TINY = Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96), selection=SelectionOptions(keep=20))


def make_maps(num_images: int = 1, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> list[Tensor]:
    """P2..P6 at random."""
    return [torch.randn(num_images, channels, -(-height // 2**level), -(-width // 2**level)) for level in range(2, 7)]


def make_ramps() -> list[Tensor]:
    """P2..P6 whose two channels say where a cell is, in px: x and y."""
    ramps = []
    for level in range(2, 7):
        y, x = torch.meshgrid(torch.arange(HEIGHT / 2**level), torch.arange(WIDTH / 2**level), indexing="ij")
        ramps.append(torch.stack([x, y])[None] * 2**level)
    return ramps


def make_awkward_boxes() -> Tensor:
    """(12, 4): at the borders, one pixel, thin, without area, beyond the image."""
    return torch.tensor(
        [
            [0, 0, WIDTH, HEIGHT],
            [WIDTH - 5, HEIGHT - 5, WIDTH, HEIGHT],
            [0, 0, 3, 90],
            [WIDTH - 1, 0, WIDTH, 1],
            [50, 40, 51, 41],
            [50, 40, 50, 40],
            [WIDTH, 20, WIDTH, 60],
            [0, HEIGHT - 0.5, WIDTH, HEIGHT],
            [20, 0.25, 20.5, 95],
            [-30, -20, 40, 50],
            [100, 50, 400, 300],
            [700, 500, 800, 600],
        ]
    ).float()


# Levels


def test_levels_by_hand() -> None:
    """Floor of 4 + log2(side / 224), from 2 to 5: 112 -> 3, 224 -> 4, 448 -> 5."""
    sides = [0, 1, 56, 111.9, 112, 223.9, 224, 447.9, 448, 896, 5000]
    boxes = torch.tensor([[10.0, 20, 10 + side, 20 + side] for side in sides])
    assert choose_levels(boxes).tolist() == [2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert choose_levels(torch.tensor([[0.0, 0, 56, 896]])).tolist() == [4]  # the area counts: 56 x 896 = 224^2


# Values


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 100), st.floats(0, 50), st.floats(4, 48), st.floats(4, 36), st.integers(1, 8), st.integers(1, 3))
def test_on_a_ramp_each_bin_says_where_its_middle_is(
    x: float, y: float, width: float, height: float, size: int, samples: int
) -> None:
    """Bilinear samples of a linear map are exact, and so is the mean of those that lie evenly around a middle."""
    pooled = pool_features(make_ramps(), [torch.tensor([[x, y, x + width, y + height]])], size, samples=samples)
    middles = (torch.arange(size) + 0.5) / size
    torch.testing.assert_close(pooled[0, 0], (x + width * middles).expand(size, -1), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(pooled[0, 1], (y + height * middles)[:, None].expand(-1, size), rtol=1e-5, atol=1e-3)


def test_the_border_by_hand() -> None:
    """A map of ones, 8 cells wide; one bin, two samples each way; less than a cell counts as a cell."""
    ones = [torch.ones(1, 1, 8 >> i, 8 >> i) for i in range(4)]
    boxes = torch.tensor(
        [
            [28.0, 0, 32, 8],  # cells 7 to 8: samples at 7.25 and 7.75 take the last cell
            [30.0, 0, 32, 8],  # cells 7.5 to 8, taken as 7.5 to 8.5: samples at 7.75, and at 8.25, which counts nothing
            [32.0, 0, 32, 8],  # 8.25 and 8.75: nothing
            [-6.0, 0, -2, 8],  # -1.25, nothing, and -0.75, the first cell
        ]
    )
    assert pool_features(ones, [boxes], 1).flatten().tolist() == [1, 0.5, 0, 0.5]


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 2), (1, 1), (3, 4)])
def test_torchvision_agrees(torchvision: ModuleType, size: int, samples: int) -> None:
    torch.manual_seed(0)
    height, width = 736, 960
    features = make_maps(2, 5, height, width)
    corners = torch.rand(2, 200, 2) * torch.tensor([width, height]) / 2
    boxes = torch.cat([corners, corners + torch.rand(2, 200, 2).mul(6.5).exp()], dim=2)  # up to 665 px
    boxes[..., 0::2].clamp_(max=width)
    boxes[..., 1::2].clamp_(max=height)
    per_image = [torch.cat([boxes[0], make_awkward_boxes()]), boxes[1, :150]]
    assert set(choose_levels(boxes[0]).tolist()) == {2, 3, 4, 5}
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], size, samples)
    named = dict(zip(("0", "1", "2", "3", "pool"), features, strict=True))
    expected = pooler(named, per_image, [(height, width)] * 2)
    torch.testing.assert_close(pool_features(features, per_image, size, samples=samples), expected, rtol=0, atol=1e-5)


def test_a_batch_of_two_is_two_of_one() -> None:
    features, boxes = make_maps(2), make_awkward_boxes()
    both = pool_features(features, [boxes[:5], boxes[5:]])
    one = pool_features([level[:1] for level in features], [boxes[:5]])
    other = pool_features([level[1:] for level in features], [boxes[5:]])
    assert torch.equal(both, torch.cat([one, other]))


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert pool_features(make_maps(), [none]).shape == (0, 3, 7, 7)
    features, boxes = make_maps(2), make_awkward_boxes()
    pooled = pool_features(features, [none, boxes], 2)
    assert torch.equal(pooled, pool_features([level[1:] for level in features], [boxes], 2))


def test_half_precision_gives_float32() -> None:
    features = [level.bfloat16() for level in make_maps()]
    pooled = pool_features(features, [make_awkward_boxes()])
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool_features([level.float() for level in features], [make_awkward_boxes()]))


def test_gradients_reach_the_maps() -> None:
    """Every bin is a weighted mean, so that a sum over them gives each box's map as much as it has bins."""
    features = [level.requires_grad_() for level in make_maps(channels=2)]
    pool_features(features, [torch.tensor([[10.0, 10, 40, 60], [0, 0, 150, 90], [30, 30, 31, 31]])], 5).sum().backward()
    assert features[0].grad is not None
    assert features[1].grad is not None
    torch.testing.assert_close(features[0].grad.sum(dim=(0, 2, 3)), torch.tensor([50.0, 50]))  # two boxes from P2
    torch.testing.assert_close(features[1].grad.sum(dim=(0, 2, 3)), torch.tensor([25.0, 25]))  # 116^2 px from P3
    assert features[4].grad is None  # P6 is for anchors alone


def test_boxes_of_other_images_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^1 lists of boxes for 2 images; pass one for each image$"):
        pool_features(make_maps(2), [make_awkward_boxes()])


# Of proposals


@pytest.fixture(scope="module")
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(TINY)


@pytest.fixture(scope="module")
def photo(photos: Sequence[Path]) -> Path:
    return next(path for path in photos if path.stem == "coffee")  # 600 x 400 px


def test_features_of_proposals(network: RegionProposalNetwork, photo: Path) -> None:
    """Pooled in the input frame, where the pyramid is."""
    proposals = Proposer(network)(photo, pool=3)
    assert proposals.features is not None
    assert proposals.features.shape == (20, 8, 3, 3)
    assert not proposals.features.is_inference()  # they can be trained on
    image = to_tensor(read_image(photo))
    size = fit_size((400, 600), TINY.input)
    with torch.no_grad():
        features = network(make_batch([resize_image(image, size)], TINY.input).images).features
    boxes = proposals.boxes * torch.tensor([size[1] / 600, size[0] / 400] * 2)
    torch.testing.assert_close(proposals.features, pool_features(features, [boxes], 3), rtol=1e-3, atol=1e-3)


def test_features_go_with_their_proposals(network: RegionProposalNetwork, photo: Path) -> None:
    proposals = Proposer(network)(photo, pool=2)
    assert proposals.features is not None
    top = proposals.top(5).features
    assert top is not None
    assert torch.equal(top, proposals.features[:5])
    above = proposals.above(float(proposals.scores[2])).features
    assert above is not None
    assert torch.equal(above, proposals.features[:3])


def test_features_only_where_asked_for(network: RegionProposalNetwork, photo: Path) -> None:
    proposer = Proposer(network)
    assert proposer(photo).features is None
    assert proposer(photo).top(3).features is None
    first, second = proposer([photo, photo], keep=4, pool=1)
    assert len(first) == len(second) == 4
    assert torch.equal(first.boxes, proposer(photo).top(4).boxes)
    assert first.features is not None
    assert first.features.shape == (4, 8, 1, 1)


def test_what_cannot_be_pooled(network: RegionProposalNetwork, photo: Path) -> None:
    proposer = Proposer(network)
    with pytest.raises(ConfigError, match=r"^pool = 0 must be at least 1$"):
        proposer(photo, pool=0)
    with pytest.raises(ConfigError, match=r"^keep = 0 must be at least 1$"):
        proposer(photo, keep=0)

    def engine(images: Tensor) -> Output:
        return network(images)._replace(features=())

    with pytest.raises(
        ConfigError, match=r"^this engine gives no features to pool; load the network without an engine"
    ):
        Proposer(network, engine=engine)(photo, pool=7)
