"""From uint8 images to the network's input frame: resize, normalise, pad; one file knows the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config import InputOptions, Resize
from ..structures import Batch

Size = tuple[int, int]  # (height, width), px


def fit_size(size: Size, options: InputOptions) -> Size:
    """The size that an image is resized to: shorter side to `short_side` unless the longer would pass `long_side`.

    Args:
        size: (height, width) of the original image, px.
        options: the two limits, and how sides are rounded.

    Returns:
        (height, width), px; at least 1.
    """
    half = 0.0 if options.size_rounding == "down" else 0.5
    if options.size_rounding == "nearest_twice":
        scale = options.short_side / min(size)
        sides = [float(options.short_side) if side == min(size) else side * scale for side in size]
        shrink = options.long_side / max(sides) if max(sides) > options.long_side else 1.0
        sides = [side * shrink for side in sides]
    else:
        scale = min(options.short_side / min(size), options.long_side / max(size))
        sides = [side * scale for side in size]
    height, width = (max(1, math.floor(side + half)) for side in sides)
    return height, width


def resize_image(image: Tensor, size: Size, method: Resize = "antialias") -> Tensor:
    """Bilinear; by default with antialiasing, so that a large photo made small keeps its thin objects.

    Args:
        image: (3, h, w) uint8.
        size: (height, width), px.
        method: see `InputOptions.resize`.

    Returns:
        (3, height, width) uint8; float32 in 0..255 for "bilinear", which does not round.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    if method == "pillow":
        return _resize_with_pillow(image, size)
    if method == "opencv":
        return _resize_as_opencv(image, size)
    if method == "antialias" and image.device.type == "cpu":  # uint8 resizing is a kernel of the CPU alone
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=method == "antialias")[0]
    return resized if method == "bilinear" else resized.round().to(torch.uint8)


def _resize_with_pillow(image: Tensor, size: Size) -> Tensor:
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())  # (3, h, w) -> (h, w, 3)
    resized = np.array(pixels.resize(size[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)


def _resize_as_opencv(image: Tensor, size: Size) -> Tensor:
    """OpenCV's INTER_LINEAR of uint8: weights in 2048ths, across and then down, and the sums cut in two steps.

    Beyond the first and the last pixel it takes the nearest one: across alone, down as both of two rows, whose halves
    are cut apart, so that the sum may be one less than the pixel.
    """
    left, right, of_left, of_right = _find_neighbours(image.shape[2], size[1], image.device, halves_apart=False)
    top, bottom, of_top, of_bottom = _find_neighbours(image.shape[1], size[0], image.device, halves_apart=True)
    values = image.int()
    across = values[:, :, left] * of_left + values[:, :, right] * of_right  # (3, h, width)
    upper = (of_top[:, None] * (across[:, top] >> 4)) >> 16
    lower = (of_bottom[:, None] * (across[:, bottom] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _find_neighbours(
    old: int, new: int, device: torch.device, *, halves_apart: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two old pixels around each new one along an axis, (new,) each, and their weights in 2048ths.

    Args:
        old: pixels before.
        new: pixels after.
        device: of the tensors.
        halves_apart: beyond the border, weigh the nearest pixel twice with what the two would have had.
    """
    places = ((torch.arange(new, dtype=torch.float64, device=device) + 0.5) * (1 / (new / old)) - 0.5).float()
    first = places.floor()
    share = places - first
    if not halves_apart:
        share = torch.where((first < 0) | (first >= old - 1), 0.0, share)
    before, after = (each.clamp(0, old - 1) for each in (first.long(), first.long() + 1))
    weights = [(2048 * each).round().int() for each in (1 - share, share)]
    return before, after, weights[0], weights[1]


def make_batch(images: Sequence[Tensor], options: InputOptions, pad_to: Size | None = None) -> Batch:
    """Normalise images and lay them side by side, padded with 0 at the bottom and right.

    Args:
        images: N of (3, h, w) RGB in 0..255, already resized, on the device where the batch shall lie.
        options: mean, standard deviation, the order of channels and the multiple to pad to.
        pad_to: (height, width) to pad to, where every batch shall have one shape; the smallest that fits by default.
    """
    multiple = options.pad_multiple
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = pad_to or (max(h for h, _ in sizes), max(w for _, w in sizes))
    height, width = -(-height // multiple) * multiple, -(-width // multiple) * multiple

    device = images[0].device
    mean, std = _scale_statistics(options, device)
    padded = torch.zeros(len(images), 3, height, width, device=device)
    for place, image in zip(padded, images, strict=True):
        normalised = (image - mean) / std
        place[:, : image.shape[-2], : image.shape[-1]] = normalised if options.order == "RGB" else normalised.flip(0)
    return Batch(padded, torch.tensor(sizes, dtype=torch.float32, device=device))


@lru_cache(maxsize=8)
def _scale_statistics(options: InputOptions, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in 0..255, RGB, (3, 1, 1) each; kept on the device, since to send them is to wait."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (options.mean, options.std))
    return mean, std
