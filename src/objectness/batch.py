"""From uint8 images to the network's input frame: resize, normalise, pad; one file knows the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import InputOptions, Resize
from .structures import Batch

Size = tuple[int, int]  # (height, width), px


def fit_size(size: Size, options: InputOptions) -> Size:
    """The size that an image is resized to: shorter side to `short_side` unless the longer would pass `long_side`.

    Args:
        size: (height, width) of the original image, px.
        options: the two limits, and how sides are rounded.

    Returns:
        (height, width), px; at least 1.
    """
    scale = min(options.short_side / min(size), options.long_side / max(size))
    half = 0.5 if options.size_rounding == "nearest" else 0.0
    height, width = (max(1, math.floor(side * scale + half)) for side in size)
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
    if method == "antialias" and image.device.type == "cpu":  # uint8 resizing is a kernel of the CPU alone
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=method == "antialias")[0]
    return resized if method == "bilinear" else resized.round().to(torch.uint8)


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
