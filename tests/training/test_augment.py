import numpy as np
import pytest
import torch

from objectness.config import AugmentOptions
from objectness.errors import ConfigError
from objectness.structures import Targets
from objectness.training.augment import augment, crop_targets, mirror_boxes

NO_BOXES = torch.zeros(0, 4)


def paint(size, box, value=255):
    """A black image with one bright box."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = value
    return image


def find_bright(image):
    """The smallest box around what is bright."""
    ys, xs = (image[0] > 127).nonzero(as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def test_mirror_by_hand():
    # In an image 100 px wide [10, 20] becomes [100 - 20, 100 - 10]; mirroring twice changes nothing.
    boxes = torch.tensor([[10.0, 5.0, 20.0, 50.0]])
    assert mirror_boxes(boxes, 100).tolist() == [[80, 5, 90, 50]]
    assert torch.equal(mirror_boxes(mirror_boxes(boxes, 100), 100), boxes)


def test_crop_by_hand():
    targets = Targets(
        torch.tensor([[0.0, 0, 10, 10], [-30, 0, 10, 10], [-5, 0, 5, 10], [20, 0, 30, 10], [0, 0, 0.5, 9]]),
        torch.tensor([[5.0, 5, 40, 40], [25, 0, 30, 10]]),
    )
    boxes, crowds = crop_targets(targets, (10, 20))
    # 1: inside. 2: 10 of 40 px are inside, exactly a quarter, stays. 3: half, stays. 4: outside, goes. 5: too thin.
    assert boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 5, 10]]
    assert crowds.tolist() == [[5, 5, 20, 10]]


def test_an_object_mostly_cut_off_is_neither_positive_nor_negative():
    boxes, crowds = crop_targets(Targets(torch.tensor([[-31.0, 0, 9, 10]]), NO_BOXES), (10, 20))
    assert len(boxes) == 0
    assert crowds.tolist() == [[0, 0, 9, 10]]


@pytest.mark.parametrize("seed", range(20))
def test_box_and_image_move_together(seed):
    box = [20, 30, 70, 60]
    image, (boxes, _) = augment(
        paint((100, 140), box),
        Targets(torch.tensor([box], dtype=torch.float32), NO_BOXES),
        (64, 96),
        AugmentOptions(flip=0.5, scale=(0.6, 1.6)),
        np.random.default_rng(seed),
    )
    assert image.shape[1] <= 64
    assert image.shape[2] <= 96
    if len(boxes):
        np.testing.assert_allclose(find_bright(image), boxes[0].numpy(), atol=1.5)  # half a pixel of blur at each side


def test_same_state_same_result():
    image, targets = paint((50, 50), [5, 5, 20, 20]), Targets(torch.tensor([[5.0, 5, 20, 20]]), NO_BOXES)
    options = AugmentOptions(scale=(0.5, 2))
    first, again = (augment(image, targets, (32, 32), options, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes, again[1].boxes)


def test_no_boxes_and_one_pixel():
    image, targets = augment(
        torch.zeros(3, 1, 1, dtype=torch.uint8),
        Targets(NO_BOXES, NO_BOXES),
        (32, 64),
        AugmentOptions(),
        np.random.default_rng(0),
    )
    assert image.shape == (3, 32, 32)
    assert targets.boxes.shape == targets.ignored.shape == (0, 4)


@pytest.mark.parametrize("options", [{"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"flip": 1.5}])
def test_bad_options(options):
    with pytest.raises(ConfigError):
        AugmentOptions(**options)
