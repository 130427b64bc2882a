"""Flip, scale jitter and crop: one image and its boxes onto a canvas of fixed size."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentOptions
from ..geometry.boxes import clip_boxes, compute_areas
from ..images.network_input import Size, resize_image
from ..structures import Targets

MIN_VISIBLE = 0.25  # an object cut down to less than this share of its box is neither positive nor negative
MIN_SIDE_PX = 1.0  # thinner boxes teach nothing


def augment(
    image: Tensor, targets: Targets, canvas: Size, options: AugmentOptions, rng: np.random.Generator
) -> tuple[Tensor, Targets]:
    """Resize, crop to the canvas where the image is larger, and perhaps mirror.

    Args:
        image: (3, h, w) uint8 on any device.
        targets: boxes in the image's own frame, on the same device.
        canvas: (height, width) that the result must fit into, px.
        options: how far to go.
        rng: the source of chance; the same state gives the same result.

    Returns:
        (3, h', w') uint8 with h', w' within the canvas, and the targets in its frame: clipped, without those outside;
        objects of which little is left are ignored.
    """
    size = (image.shape[-2], image.shape[-1])
    low, high = (math.log(limit) for limit in options.scale)
    fit = min(canvas[0] / size[0], canvas[1] / size[1])
    scale = fit * math.exp(rng.uniform(low, high))  # log-uniform: halving is as likely as doubling
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    top, left = (int(rng.integers(max(0, s - c) + 1)) for s, c in zip(scaled, canvas, strict=True))
    mirrored = rng.random() < options.flip

    image = resize_image(image, scaled)[:, top : top + canvas[0], left : left + canvas[1]]
    height, width = image.shape[-2:]
    if mirrored:
        image = image.flip(-1)

    def move(boxes: Tensor) -> Tensor:
        factor = torch.tensor([scaled[1] / size[1], scaled[0] / size[0]] * 2, device=boxes.device)
        boxes = boxes * factor - torch.tensor([left, top] * 2, device=boxes.device)
        return mirror_boxes(boxes, width) if mirrored else boxes

    return image, crop_targets(Targets(move(targets.boxes), move(targets.ignored)), (height, width))


def mirror_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) of the mirror image of an image of `width` px."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def crop_targets(targets: Targets, size: Size) -> Targets:
    """Clip targets to an image of `size`; objects mostly outside are ignored, those wholly outside go."""
    limits = torch.tensor(size, dtype=torch.float32, device=targets.boxes.device)
    boxes, ignored = clip_boxes(targets.boxes, limits), clip_boxes(targets.ignored, limits)
    whole = compute_areas(boxes) >= MIN_VISIBLE * compute_areas(targets.boxes)
    ignored = torch.cat([boxes[~whole], ignored])
    return Targets(_drop_thin(boxes[whole]), _drop_thin(ignored))


def _drop_thin(boxes: Tensor) -> Tensor:
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE_PX).all(dim=1)]
