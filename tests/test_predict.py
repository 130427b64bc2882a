import json
import re
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import objectness
from objectness.config import Config, InputOptions, SelectionOptions
from objectness.device import choose_device
from objectness.errors import CheckpointError, ConfigError, ImageError
from objectness.geometry.boxes import compute_iou
from objectness.images.network_input import make_batch, resize_image
from objectness.images.reading import read_image
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer, load, to_tensor
from objectness.proposals import Proposals
from objectness.structures import Output
from objectness.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]

TINY = Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96), selection=SelectionOptions(keep=20))


@pytest.fixture(scope="module")
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(TINY)


@pytest.fixture(scope="module")
def proposer(network: RegionProposalNetwork) -> Proposer:
    return Proposer(network)


@pytest.fixture(scope="module")
def photo(photos: list[Path]) -> Path:
    return next(path for path in photos if path.stem == "coffee")  # 600 x 400 px


def assert_same(one: Proposals, other: Proposals) -> None:
    assert one.image_size == other.image_size
    for name in ("boxes", "logits", "levels"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_repr_is_short(proposer: Proposer) -> None:
    assert re.fullmatch(
        r"<Proposer: resnet18, 1\d\.\d million weights, input 64 x 96 px, torch on cpu>",
        repr(proposer),
    )


def test_load_takes_another_suppression(tmp_path: Path, network: RegionProposalNetwork, photo: Path) -> None:
    save_checkpoint(tmp_path, network.state_dict(), TINY)
    for nms_iou, across_levels in ((0.3, False), (0.3, True), (0.95, None)):
        proposer = load(tmp_path, nms_iou=nms_iou, across_levels=across_levels)
        selection = replace(TINY.selection, nms_iou=nms_iou, across_levels=bool(across_levels))
        expected = RegionProposalNetwork(replace(TINY, selection=selection))
        expected.load_state_dict(network.state_dict())
        proposals = proposer(photo)
        assert_same(proposals, Proposer(expected)(photo))
        assert len(proposals.nms(nms_iou, across_levels=bool(across_levels))) == len(proposals)
        assert proposer.network.config.selection == selection
    assert len(load(tmp_path, nms_iou=0.3, across_levels=False)(photo).nms(0.3)) < 20  # levels do overlap
    assert load(tmp_path).network.config == TINY
    with pytest.raises(ConfigError, match="nms_iou = 2 is not in"):
        load(tmp_path, nms_iou=2)


# --- what goes in ---


def test_every_kind_of_image_gives_the_same_proposals(proposer: Proposer, photo: Path) -> None:
    expected = proposer(photo)
    array = read_image(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    read_only = np.asarray(Image.open(photo))
    assert not read_only.flags.writeable
    for image in (
        str(photo),
        Image.open(photo),
        array,
        read_only,
        array[::-1][::-1],  # strides are negative
        np.asfortranarray(array),
        tensor,
        tensor.contiguous(),
        tensor.float() / 255,
        tensor.double() / 255,
        (tensor.float() / 255).requires_grad_(),
    ):
        assert_same(proposer(image), expected)
    for images in ([photo, array], (tensor, str(photo))):
        each = proposer(images)
        assert isinstance(each, list)
        assert len(each) == 2
        for proposals in each:
            assert_same(proposals, expected)
    assert proposer([]) == []


def test_a_path_is_turned_upright_and_a_pil_image_is_taken_as_it_is(
    proposer: Proposer, photo: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    turned = tmp_path / "turned.png"
    Image.open(photo).save(turned, exif=exif)
    assert proposer(turned).image_size == (600, 400)
    assert proposer(Image.open(turned)).image_size == (400, 600)
    assert_same(proposer(Image.open(turned)), proposer(photo))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"\(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\) uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"must be \(H, W, 3\) uint8 RGB; this one is \(3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"must be \(3, H, W\) RGB; this one is \(4, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4), r"\(1, 3, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"\(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), 255.0), r"must be in \[0, 1\]"),
        (torch.full((3, 4, 4), -0.1), r"must be in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"must be in \[0, 1\]"),
        (None, "not NoneType"),
        (b"photo.jpg", "not bytes"),
        ("gone.jpg", "gone.jpg: cannot be opened"),
    ],
)
def test_what_is_no_image_is_said(proposer: Proposer, image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        proposer.propose(image)  # type: ignore[arg-type]


def test_floats_round_to_the_nearest_value() -> None:
    values = torch.arange(256).repeat(3, 1, 1)
    for dtype in (torch.float64, torch.float32, torch.float16):
        torch.testing.assert_close(to_tensor((values / 255).to(dtype)), values.to(torch.uint8))


# --- what comes out ---


def test_boxes_are_the_networks_own_in_the_frame_of_the_image(proposer: Proposer) -> None:
    # 100 x 34 px: scale min(64 / 34, 96 / 100) = 0.96 -> 96 x 33 px, since 34 * 0.96 = 32.64
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 34, 100), dtype=np.uint8))
    with torch.inference_mode():
        (own,) = proposer.network.propose(make_batch([resize_image(image, (33, 96))], TINY.input))
    proposals = proposer.propose(image)
    expected = own.boxes * torch.tensor([100 / 96, 34 / 33, 100 / 96, 34 / 33])
    torch.testing.assert_close(proposals.boxes, expected)
    torch.testing.assert_close(proposals.logits, own.logits)
    torch.testing.assert_close(proposals.levels, own.levels)
    assert proposals.image_size == (34, 100)


def test_scaling_the_image_scales_the_boxes(proposer: Proposer, photo: Path) -> None:
    grey = np.full((48, 90, 3), 90, np.uint8)  # resized, it is the same at any scale
    small = proposer.propose(grey)
    large = proposer.propose(grey.repeat(2, axis=0).repeat(2, axis=1))
    torch.testing.assert_close(large.boxes, 2 * small.boxes)
    torch.testing.assert_close(large.logits, small.logits)

    array = read_image(photo)  # resized, it is nearly the same
    small, large = proposer.propose(array), proposer.propose(array.repeat(2, axis=0).repeat(2, axis=1))
    best = compute_iou(2 * small.boxes, large.boxes).amax(dim=1)
    assert (best > 0.95).float().mean() > 0.8
    torch.testing.assert_close(large.scores[0], small.scores[0], atol=1e-3, rtol=0)


# The last two are among the sizes at which rounding in float32 would carry boxes over the border.
@pytest.mark.parametrize("size", [(1, 1), (10, 2000), (2000, 10), (1, 500), (64, 96), (65, 97), (20, 28), (22, 99)])
def test_images_of_any_shape_have_proposals_inside(proposer: Proposer, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    proposals = proposer.propose(image)
    assert 0 < len(proposals) <= 20
    assert proposals.image_size == size
    height, width = size
    x1, y1, x2, y2 = proposals.boxes.unbind(1)
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 <= width).all()
    assert (y2 <= height).all()
    assert (x2 > x1).all()
    assert (y2 > y1).all()


def test_proposals_are_ordinary_and_best_first(proposer: Proposer, photo: Path) -> None:
    proposals = proposer.propose(photo)
    assert len(proposals) == 20
    shapes = [(20, 4), (20,), (20,), (20,)]
    values: Sequence[Tensor] = (proposals.boxes, proposals.logits, proposals.scores, proposals.levels)
    assert [tuple(value.shape) for value in values] == shapes
    assert [value.dtype for value in values] == [torch.float32, torch.float32, torch.float32, torch.int64]
    assert (proposals.logits.diff() <= 0).all()
    torch.testing.assert_close(proposals.scores, torch.sigmoid(proposals.logits))
    assert set(proposals.levels.tolist()) <= {2, 3, 4, 5, 6}
    for value in values:  # they can be changed in place and differentiated through
        assert not value.is_inference()
        assert not value.requires_grad


def test_top_above_and_draw(proposer: Proposer, photo: Path) -> None:
    proposals = proposer.propose(photo)
    assert_same(proposals.top(100), proposals)
    assert len(proposals.top(0)) == 0
    best = proposals.top(3)
    torch.testing.assert_close(best.boxes, proposals.boxes[:3])
    assert best.levels.tolist() == proposals.levels[:3].tolist()
    threshold = float(proposals.scores[4])
    assert len(proposals.above(threshold)) == int((proposals.scores >= threshold).sum())
    assert len(proposals.above(0)) == 20
    assert len(proposals.above(1)) == 0
    pictures = [proposer.propose(image).top(3).draw() for image in (photo, str(photo), read_image(photo))]
    pictures += [proposer.propose(to_tensor(photo)).top(3).draw(), proposer.propose(Image.open(photo)).top(3).draw()]
    for picture in pictures:
        assert picture.size == (600, 400)
        assert picture.tobytes() == pictures[0].tobytes()
    assert pictures[0].tobytes() != Image.open(photo).convert("RGB").tobytes()


def test_threads_share_a_proposer(proposer: Proposer, photos: list[Path]) -> None:
    images = [read_image(photo) for photo in photos] * 3
    expected = [proposer.propose(image) for image in images]
    with ThreadPoolExecutor(2) as pool:
        for found, own in zip(pool.map(proposer.propose, images), expected, strict=True):
            assert_same(found, own)


def test_images_of_a_list_are_computed_side_by_side(network: RegionProposalNetwork, photos: list[Path]) -> None:
    one, two = Proposer(network), Proposer(network, at_once=2)
    together = threading.Barrier(2, timeout=10)
    engine = two.engine

    def meet(images: Tensor) -> Output:
        together.wait()
        return engine(images)

    two.engine = meet
    expected = one(photos[:4], keep=5)
    for found, other in zip(two(photos[:4], keep=5), expected, strict=True):
        assert found.image_size == other.image_size
        torch.testing.assert_close(found.boxes, other.boxes, rtol=1e-4, atol=1e-3)
    assert two([]) == []


def test_the_network_is_set_to_evaluation_and_its_gradients_left_alone(photo: Path) -> None:
    torch.manual_seed(0)
    network = RegionProposalNetwork(TINY).train()
    proposer = Proposer(network)
    assert not network.training
    proposer.propose(photo)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.head.parameters())


# --- where from, and where ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, network: RegionProposalNetwork) -> Path:
    """A run folder whose best checkpoint is `network`, and whose last is another one."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    save_checkpoint(folder / "best", network.state_dict(), TINY)
    torch.manual_seed(1)
    save_checkpoint(folder / "last", RegionProposalNetwork(TINY).state_dict(), TINY)
    return folder


def test_loads_a_run_a_checkpoint_or_a_file(proposer: Proposer, run: Path, photo: Path) -> None:
    expected = proposer.propose(photo)
    for source in (run, str(run), run / "best", run / "best" / "model.safetensors"):
        assert_same(load(source, device="cpu")(photo), expected)
    assert not torch.equal(load(run / "last", device="cpu").propose(photo).boxes, expected.boxes)


@pytest.mark.parametrize("name", ["cspnet", "lite0"])
def test_loads_the_networks_that_ship(photo: Path, name: str) -> None:
    proposals = objectness.load(name, device="cpu").propose(photo)
    assert len(proposals) > 100
    assert proposals.scores.diff().le(0).all()
    if name == "cspnet":
        assert_same(objectness.load(device="cpu").propose(photo), proposals)


def test_the_default_finds_what_a_person_sees() -> None:
    """A cup on a saucer, 600 x 400 px: the cup's box, drawn by hand on the photo, is the best find or nearly so."""
    proposals = objectness.load(device="cpu")(ROOT / "examples" / "photos" / "coffee.jpg")
    height, width = proposals.image_size
    cup = torch.tensor([[0.27, 0.05, 0.68, 0.67]]) * torch.tensor([width, height, width, height])
    assert objectness.iou(cup, proposals[:5].boxes).max() > 0.8


def test_says_what_cannot_be_loaded(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone: there is no such file or folder"):
        load(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(tmp_path)
    shutil.copytree(run / "best", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "pyramid_channels": 16}))
    with pytest.raises(CheckpointError, match="weights of another network"):
        load(tmp_path / "other")


def test_devices(run: Path, photo: Path) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load(run).device == choose_device()
    for name in ("nonsense", "", "meta", "cuda:99", "cpu:x"):
        with pytest.raises(ConfigError, match=rf"device '?{name}'?: .*; pass cpu"):
            load(run, device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_proposals_on_the_cpu(run: Path, photo: Path) -> None:
    expected, found = load(run, device="cpu").propose(photo), load(run, device="cuda").propose(photo)
    assert found.boxes.device.type == found.logits.device.type == found.levels.device.type == "cpu"
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-3, rtol=0)
    assert_same(load(run, device="cuda").propose(to_tensor(photo).cuda()), found)
