import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from objectness.config import InputOptions
from objectness.images.network_input import fit_size, make_batch, resize_image

PLAIN = InputOptions(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((427, 640), (800, 1199)),  # 640 * 800 / 427 = 1199.06
        ((640, 427), (1199, 800)),
        ((500, 500), (800, 800)),
        ((400, 1000), (533, 1333)),  # 1333 / 1000 is less than 800 / 400: 400 * 1.333 = 533.2
        ((1000, 400), (1333, 533)),
        ((1, 5000), (1, 1333)),  # 1 * 0.2666 is no pixel
        ((1, 1), (800, 800)),
    ],
)
def test_fit_size_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_size(size, InputOptions()) == expected


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 900), st.integers(0, 700))
def test_fit_size_keeps_the_limits_and_the_shape(height: int, width: int, short: int, more: int) -> None:
    options = InputOptions(short_side=short, long_side=short + more)
    fitted = fit_size((height, width), options)
    assert fit_size((width, height), options) == fitted[::-1]
    assert min(fitted) >= 1
    assert min(fitted) <= short
    assert max(fitted) <= short + more
    assert min(fitted) == short or max(fitted) == short + more
    # one scale explains both sides, each rounded to the nearest pixel, and up to 1
    sides = list(zip(fitted, (height, width), strict=True))
    least = max((new - 0.5) / old if new > 1 else 0 for new, old in sides)
    most = min((new + 0.5) / old for new, old in sides)
    assert least <= most * (1 + 1e-9)


@pytest.mark.parametrize("size", [(40, 30), (17, 90), (120, 160), (1, 1)])
def test_resizing_agrees_with_pillow(size: tuple[int, int]) -> None:
    """An independent implementation of the same filter; both smaller and larger than the image."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    resized = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size)
    assert resized.dtype == torch.uint8
    difference = resized.permute(1, 2, 0).numpy().astype(int) - expected
    assert abs(difference).max() <= 1


def test_resizing_to_the_same_size_is_nothing() -> None:
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert resize_image(image, (4, 5)) is image


def test_normalising_by_hand() -> None:
    options = InputOptions(mean=(0.5, 0.0, 0.2), std=(0.5, 0.1, 1.0), pad_multiple=1)
    image = torch.tensor([255, 51, 0], dtype=torch.uint8).reshape(3, 1, 1)
    # (1 - 0.5) / 0.5, 0.2 / 0.1, (0 - 0.2) / 1
    torch.testing.assert_close(make_batch([image], options).images.flatten(), torch.tensor([1.0, 2.0, -0.2]))


def test_padding_by_hand() -> None:
    """Source of the first: detectron2, test_imagelist.py: 15 x 20 padded to multiples of 4 is 16 x 20."""
    white = torch.full((3, 15, 20), 255, dtype=torch.uint8)
    batch = make_batch([white], InputOptions(mean=PLAIN.mean, std=PLAIN.std, pad_multiple=4))
    assert batch.images.shape == (1, 3, 16, 20)
    assert (batch.images[..., :15, :] == 1).all()
    assert (batch.images[..., 15:, :] == 0).all()
    assert batch.sizes.tolist() == [[15, 20]]


def test_padding_is_zero_after_normalising() -> None:
    black = torch.zeros(3, 5, 7, dtype=torch.uint8)
    images = make_batch([black], InputOptions()).images
    assert images.shape == (1, 3, 32, 32)
    assert (images[..., :5, :7] < 0).all()  # black is below the mean
    assert not images[..., 5:, :].any()
    assert not images[..., :, 7:].any()


def make_images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((33, 20), (10, 70))]


def test_images_of_unequal_sizes() -> None:
    images = make_images()
    batch = make_batch(images, PLAIN)
    assert batch.images.shape == (2, 3, 64, 96)  # 33 and 70, rounded up to multiples of 32
    assert batch.sizes.tolist() == [[33, 20], [10, 70]]
    assert batch.images.dtype == batch.sizes.dtype == torch.float32
    for padded, image in zip(batch.images, images, strict=True):
        height, width = image.shape[1:]
        torch.testing.assert_close(padded[:, :height, :width], image / 255)
        assert padded.count_nonzero() == image.count_nonzero()  # nothing else anywhere


def test_batch_of_two_is_two_of_one_on_the_same_canvas() -> None:
    images = make_images()
    both = make_batch(images, InputOptions())
    for i, image in enumerate(images):
        one = make_batch([image], InputOptions(), pad_to=(64, 96))
        assert torch.equal(one.images[0], both.images[i])
        assert torch.equal(one.sizes[0], both.sizes[i])


def test_pad_to_is_rounded_up_too() -> None:
    images = make_images()
    assert make_batch(images, PLAIN, pad_to=(33, 97)).images.shape == (2, 3, 64, 128)
    assert make_batch(images, PLAIN, pad_to=(64, 96)).images.shape == (2, 3, 64, 96)


def test_one_pixel() -> None:
    batch = make_batch([torch.full((3, 1, 1), 255, dtype=torch.uint8)], PLAIN)
    assert batch.images.shape == (1, 3, 32, 32)
    assert batch.images.sum() == 3
    assert batch.sizes.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("size", "nearest", "down"),
    [
        ((427, 640), (800, 1199), (800, 1199)),  # 1199.06
        ((425, 640), (800, 1205), (800, 1204)),  # 640 * 800 / 425 = 1204.7
    ],
)
def test_rounding_of_sizes_by_hand(size: tuple[int, int], nearest: tuple[int, int], down: tuple[int, int]) -> None:
    assert fit_size(size, InputOptions()) == nearest
    assert fit_size(size, InputOptions(size_rounding="down")) == down


def test_sides_rounded_twice() -> None:
    """Twice as wide as high: to 800 x 1600 first, then by 1333 / 1600 to 666.5 x 1333, where the last bit decides."""
    twice, once = (
        [fit_size((height, 2 * height), InputOptions(size_rounding=each)) for height in range(1, 2000)]
        for each in ("nearest_twice", "nearest")
    )
    assert set(twice) == set(once) == {(666, 1333), (667, 1333)}
    assert twice != once
    assert fit_size((427, 640), InputOptions(size_rounding="nearest_twice")) == (800, 1199)
    assert fit_size((640, 427), InputOptions(size_rounding="nearest_twice")) == (1199, 800)
    assert fit_size((7, 7), InputOptions(size_rounding="nearest_twice")) == (800, 800)


def test_resizing_without_antialias_by_hand() -> None:
    """Two to one: each new pixel's centre lies between two old ones; eight to one it sees the middle two alone."""
    image = torch.tensor([[0, 1, 8, 9]], dtype=torch.uint8).expand(3, 1, 4)
    assert resize_image(image, (1, 2), "bilinear")[0].tolist() == [[0.5, 8.5]]
    assert resize_image(image, (1, 1), "bilinear")[0].tolist() == [[4.5]]
    assert resize_image(image, (1, 2), "opencv")[0].tolist() == [[1, 9]]  # 0.5 and 8.5, halves up
    assert resize_image(image, (1, 2), "opencv").dtype == torch.uint8


@pytest.mark.parametrize("size", [(40, 30), (17, 90), (120, 160), (1, 1)])
def test_resizing_with_pillow_is_pillows(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    resized = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size, "pillow")
    assert np.array_equal(resized.permute(1, 2, 0).numpy(), expected)


def test_resizing_as_opencv_in_numbers_that_it_gave() -> None:
    """Source: OpenCV 4.10 and 5.0, INTER_LINEAR. Beyond the border it weighs the same row twice, each cut apart."""
    image = torch.tensor([[59, 81], [222, 44]], dtype=torch.uint8).expand(3, 2, 2)
    assert resize_image(image, (5, 4), "opencv")[1].tolist() == [
        [59, 64, 75, 81],  # 64.5 and 75.5 cut: with the whole row's weight they would be 65 and 76
        [75, 76, 77, 77],
        [141, 121, 82, 63],
        [206, 166, 87, 48],
        [222, 177, 88, 44],
    ]


SIZES = [(1, 1), (2, 2), (7, 9), (1, 100), (100, 1), (64, 64), (375, 500)]


@pytest.mark.parametrize("old", SIZES)
def test_resizing_as_opencv_is_opencvs(old: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    for new in (*SIZES, (13, 29), (66, 100), (5, 300), (300, 5), (800, 1067)):
        expected = cv2.resize(pixels, new[::-1], interpolation=cv2.INTER_LINEAR)
        resized = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), new, "opencv")
        assert np.array_equal(resized.permute(1, 2, 0).numpy(), expected), new


def test_opencvs_whole_numbers_are_near_the_exact_ones() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for size in ((40, 30), (17, 90), (120, 160), (1, 1)):
        difference = resize_image(image, size, "opencv").float() - resize_image(image, size, "bilinear")
        assert difference.abs().max() <= 1  # it cuts twice on its way


def test_the_order_of_channels() -> None:
    """Mean and deviation are given in RGB; the network sees what it was trained with."""
    options = InputOptions(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), pad_multiple=1, order="BGR")
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)  # red
    blue, green, red = make_batch([image], options).images.flatten().tolist()
    assert (red, green, blue) == pytest.approx((0.9, -0.1, -0.075))
