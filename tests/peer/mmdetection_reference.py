"""What mmdetection proposes, worked out again from its sources, slowly and without any code of ours.

Weights go by mmdetection's own names. Every step says which file of mmdetection 3 it follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """The values of a configuration that matter."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    groups: int = 1
    base_width: int = 64
    style: str = "pytorch"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    bgr_to_rgb: bool = True
    scale: tuple[int, int] = (1333, 800)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_scale: float = 8
    use_sigmoid: bool = True
    object_index: int = 0  # of two logits: 0 since 2.5, 1 before
    target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    nms_pre: int = 1000
    max_per_img: int = 1000
    iou_threshold: float = 0.7
    neck_norm: bool = False
    num_convs: int = 1
    rescale_first: bool = True  # the RPN detector of version 3; the head of two stages and version 2 rescale at the end


class Maps(NamedTuple):
    """What the head says, finest level first."""

    scores: list[Tensor]  # (N, A or 2 A, H, W), before sigmoid or softmax
    deltas: list[Tensor]  # (N, 4 A, H, W)


class Proposed(NamedTuple):
    """One image's proposals, best first, in the original image."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,) in [0, 1]


# Weights at random, as alive as trained ones


def make_weights(
    setting: Setting, *, folded: bool, seed: int = 0, head: str = "rpn_head", channels: int = 256
) -> Weights:
    """All tensors of an RPN, without a second stage; its norms folded or with statistics."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def conv(name: str, out: int, inputs: int, kernel: int, gain: float = 2.0, bias: bool = False) -> None:
        deviation = math.sqrt(gain / (inputs * kernel * kernel))
        weights[f"{name}.weight"] = torch.randn(out, inputs, kernel, kernel, generator=generator) * deviation
        if bias:
            weights[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1

    def norm(name: str, width: int, scale: float = 1.0, variance: float = 1.0, folded: bool = folded) -> None:
        mean, spread = torch.zeros(width), torch.ones(width)
        if not folded:
            mean = 0.1 * torch.randn(width, generator=generator)
            spread = variance * (0.5 + torch.rand(width, generator=generator))
        weights[f"{name}.weight"] = scale * (0.7 + 0.6 * torch.rand(width, generator=generator))
        weights[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        weights[f"{name}.running_mean"], weights[f"{name}.running_var"] = mean, spread
        weights[f"{name}.num_batches_tracked"] = torch.tensor(1)

    conv("backbone.conv1", 64, 3, 7, 2.0 / 58**2 if setting.std == (1.0, 1.0, 1.0) else 2.0)
    norm("backbone.bn1", 64, variance=0.2)
    inputs = 64
    for layer, count in enumerate(setting.blocks):
        inner, out = setting.groups * setting.base_width * 2**layer, 256 * 2**layer
        for block in range(count):
            start = f"backbone.layer{layer + 1}.{block}"
            conv(f"{start}.conv1", inner, inputs, 1)
            norm(f"{start}.bn1", inner)
            conv(f"{start}.conv2", inner, inner // setting.groups, 3)
            norm(f"{start}.bn2", inner)
            conv(f"{start}.conv3", out, inner, 1, 1.0)
            norm(f"{start}.bn3", out, 0.3)  # so that the sum over blocks stays of order 1
            if inputs != out:
                conv(f"{start}.downsample.0", out, inputs, 1, 1.0)
                norm(f"{start}.downsample.1", out)
            inputs = out
    for i in range(4):
        for name, width, kernel in (("lateral", 256 * 2**i, 1), ("fpn", channels, 3)):
            conv(f"neck.{name}_convs.{i}.conv", channels, width, kernel, 0.5, not setting.neck_norm)
            if setting.neck_norm:
                norm(f"neck.{name}_convs.{i}.bn", channels, folded=False)
    for i in range(setting.num_convs):
        name = f"{head}.rpn_conv" if setting.num_convs == 1 else f"{head}.rpn_conv.{i}.conv"
        conv(name, channels, channels, 3, bias=True)
    num_anchors = len(setting.ratios)
    conv(f"{head}.rpn_cls", num_anchors * (1 if setting.use_sigmoid else 2), channels, 1, bias=True)
    conv(f"{head}.rpn_reg", 4 * num_anchors, channels, 1, bias=True)
    return weights


def enliven(weights: Weights, setting: Setting, image: np.ndarray, head: str = "rpn_head") -> None:
    """Spread the logits of an image over several units and its deltas over tenths, as trained ones are."""
    maps = predict(weights, setting, preprocess([image], setting)[0])
    for name, level, deviation in (("rpn_cls", maps.scores[0], 2.0), ("rpn_reg", maps.deltas[0], 0.3)):
        factor = deviation / level.std()
        if name == "rpn_reg":
            factor = factor / max(setting.target_stds)
        weights[f"{head}.{name}.weight"] *= factor


# From images to proposals


@torch.no_grad()
def propose(weights: Mapping[str, Tensor], setting: Setting, images: Sequence[np.ndarray]) -> list[Proposed]:
    """The proposals of a batch of (H, W, 3) uint8 RGB images (models/detectors/rpn.py or two_stage.py)."""
    batch, sizes = preprocess(images, setting)
    maps = predict(weights, setting, batch)
    anchors = make_anchors(setting, [(level.shape[2], level.shape[3]) for level in maps.scores])
    return [
        select(maps, i, anchors, setting, size, (image.shape[0], image.shape[1]))
        for i, (size, image) in enumerate(zip(sizes, images, strict=True))
    ]


def preprocess(images: Sequence[np.ndarray], setting: Setting) -> tuple[Tensor, list[tuple[int, int]]]:
    """Resize, normalise, pad (transforms/processing.py; data_preprocessors/data_preprocessor.py)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (setting.mean, setting.std))
    tensors = []
    for rgb in images:
        resized = resize_as_opencv(rgb[:, :, ::-1], *find_size(rgb.shape[0], rgb.shape[1], setting.scale))
        pixels = resized[:, :, ::-1] if setting.bgr_to_rgb else resized
        tensors.append((torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)) - mean) / std)
    sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
    height, width = (math.ceil(max(sides) / 32) * 32 for sides in zip(*sizes, strict=True))
    padded = [F.pad(tensor, (0, width - tensor.shape[2], 0, height - tensor.shape[1])) for tensor in tensors]
    return torch.stack(padded), sizes


def find_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """(height, width) after resizing (mmcv, image/geometric.py, rescale_size)."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize_as_opencv(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's INTER_LINEAR of uint8: weights of 11 bits, and what they leave is rounded in two steps.

    Equal to OpenCV 4.10 and 5.0 at every value of images of 1 to 640 px made 1 to 1,067 px large.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    left, right, left_weights, right_weights = _find_taps(pixels.shape[1], width, at_border=0)
    top, bottom, top_weights, bottom_weights = _find_taps(pixels.shape[0], height, at_border=None)
    values = pixels.astype(np.int64)
    rows = values[:, left] * left_weights[None, :, None] + values[:, right] * right_weights[None, :, None]
    upper = (top_weights[:, None, None] * (rows[top] >> 4)) >> 16
    lower = (bottom_weights[:, None, None] * (rows[bottom] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clip(0, 255).astype(np.uint8)


def _find_taps(old: int, new: int, at_border: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two neighbours of each new pixel along one axis, and their weights in 2048ths (imgproc/src/resize.cpp)."""
    place = ((np.arange(new) + 0.5) * (1.0 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    if at_border is not None:
        share[(first < 0) | (first >= old - 1)] = at_border
    weights = [np.rint(each * np.float32(2048)).astype(np.int64) for each in (np.float32(1) - share, share)]
    return first.clip(0, old - 1), (first + 1).clip(0, old - 1), weights[0], weights[1]


# The network


def predict(weights: Mapping[str, Tensor], setting: Setting, images: Tensor) -> Maps:
    """Backbone, neck and head (backbones/resnet.py, necks/fpn.py, dense_heads/rpn_head.py)."""
    stages = run_backbone(weights, setting, images)
    laterals = [run_module(weights, f"neck.lateral_convs.{i}", stage) for i, stage in enumerate(stages)]
    for i in (3, 2, 1):
        size = laterals[i - 1].shape[2:]
        laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
    levels = [run_module(weights, f"neck.fpn_convs.{i}", lateral, padding=1) for i, lateral in enumerate(laterals)]
    levels.append(F.max_pool2d(levels[-1], 1, stride=2))
    head = "rpn_head" if "rpn_head.rpn_cls.weight" in weights else "bbox_head"
    scores, deltas = [], []
    for level in levels:
        hidden = level
        for i in range(setting.num_convs):
            name = f"{head}.rpn_conv" if setting.num_convs == 1 else f"{head}.rpn_conv.{i}.conv"
            hidden = F.relu(F.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))
        scores.append(F.conv2d(hidden, weights[f"{head}.rpn_cls.weight"], weights[f"{head}.rpn_cls.bias"]))
        deltas.append(F.conv2d(hidden, weights[f"{head}.rpn_reg.weight"], weights[f"{head}.rpn_reg.bias"]))
    return Maps(scores, deltas)


def run_backbone(weights: Mapping[str, Tensor], setting: Setting, images: Tensor) -> list[Tensor]:
    """The four stages; where the stride is, the style says."""

    def convolve(name: str, norm: str, x: Tensor, **options: int) -> Tensor:
        return run_norm(weights, norm, F.conv2d(x, weights[f"{name}.weight"], **options))

    x = F.relu(convolve("backbone.conv1", "backbone.bn1", images, stride=2, padding=3))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    stages = []
    for layer, count in enumerate(setting.blocks):
        for block in range(count):
            stride = 2 if block == 0 and layer > 0 else 1
            first, second = (stride, 1) if setting.style == "caffe" else (1, stride)
            start = f"backbone.layer{layer + 1}.{block}"
            y = F.relu(convolve(f"{start}.conv1", f"{start}.bn1", x, stride=first))
            y = F.relu(convolve(f"{start}.conv2", f"{start}.bn2", y, stride=second, padding=1, groups=setting.groups))
            y = convolve(f"{start}.conv3", f"{start}.bn3", y)
            if f"{start}.downsample.0.weight" in weights:
                x = convolve(f"{start}.downsample.0", f"{start}.downsample.1", x, stride=stride)
            x = F.relu(x + y)
        stages.append(x)
    return stages


def run_module(weights: Mapping[str, Tensor], name: str, x: Tensor, padding: int = 0) -> Tensor:
    """A ConvModule without activation."""
    y = F.conv2d(x, weights[f"{name}.conv.weight"], weights.get(f"{name}.conv.bias"), padding=padding)
    return run_norm(weights, f"{name}.bn", y) if f"{name}.bn.weight" in weights else y


def run_norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Batch norm in evaluation, its epsilon torch's."""
    mean, variance, weight, bias = (
        weights[f"{name}.{leaf}"].view(1, -1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


# Anchors, boxes, selection


def make_base_anchors(stride: int, setting: Setting) -> Tensor:
    """(A, 4), ratio by ratio (prior_generators/anchor_generator.py); float32 throughout."""
    height_ratios = torch.tensor(setting.ratios).sqrt()
    widths = stride * (1 / height_ratios) * setting.anchor_scale
    heights = stride * height_ratios * setting.anchor_scale
    return torch.stack([0 - 0.5 * widths, 0 - 0.5 * heights, 0 + 0.5 * widths, 0 + 0.5 * heights], dim=-1)


def make_anchors(setting: Setting, map_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Per level (H * W * A, 4)."""
    levels = []
    for (height, width), stride in zip(map_sizes, (4, 8, 16, 32, 64), strict=True):
        base = make_base_anchors(stride, setting)
        cells = [(x * stride, y * stride) for y in range(height) for x in range(width)]
        levels.append(torch.cat([base + torch.tensor([x, y, x, y], dtype=torch.float32) for x, y in cells]))
    return levels


def decode(deltas: Tensor, anchors: Tensor, setting: Setting, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) clipped to `size` (coders/delta_xywh_bbox_coder.py, delta2bbox)."""
    deltas = deltas * torch.tensor(setting.target_stds) + torch.tensor(setting.target_means)
    centres, sides = (anchors[:, :2] + anchors[:, 2:]) * 0.5, anchors[:, 2:] - anchors[:, :2]
    limit = abs(math.log(16 / 1000))
    new_centres = centres + sides * deltas[:, :2]
    new_sides = sides * deltas[:, 2:].clamp(min=-limit, max=limit).exp()
    boxes = torch.cat([new_centres - new_sides * 0.5, new_centres + new_sides * 0.5], dim=-1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(min=0, max=size[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(min=0, max=size[0])
    return boxes


def select(
    maps: Maps,
    image: int,
    anchors: Sequence[Tensor],
    setting: Setting,
    size: tuple[int, int],
    original: tuple[int, int],
) -> Proposed:
    """One image's proposals (dense_heads/rpn_head.py, _predict_by_feat_single and _bbox_post_process)."""
    from torchvision.ops import nms

    all_deltas, all_anchors, all_scores, levels = [], [], [], []
    for level, (score_map, delta_map) in enumerate(zip(maps.scores, maps.deltas, strict=True)):
        deltas = delta_map[image].permute(1, 2, 0).reshape(-1, 4)
        scores = score_map[image].permute(1, 2, 0)
        if setting.use_sigmoid:
            scores = scores.reshape(-1).sigmoid()
        else:
            scores = scores.reshape(-1, 2).softmax(-1)[:, setting.object_index]
        places = scores.sort(descending=True).indices[: setting.nms_pre]  # the best, then decoded
        all_deltas.append(deltas[places])
        all_anchors.append(anchors[level][places])
        all_scores.append(scores[places])
        levels.append(torch.full_like(places, level))
    boxes = decode(torch.cat(all_deltas), torch.cat(all_anchors), setting, size)
    scores, level_ids = torch.cat(all_scores), torch.cat(levels)
    to_original = torch.tensor([1 / (size[1] / original[1]), 1 / (size[0] / original[0])]).repeat(2)
    if setting.rescale_first:
        boxes = boxes * to_original
    full = (boxes[:, 2] - boxes[:, 0] > 0) & (boxes[:, 3] - boxes[:, 1] > 0)
    boxes, scores, level_ids = boxes[full], scores[full], level_ids[full]
    apart = boxes + (level_ids.to(boxes) * (boxes.max() + 1))[:, None]  # mmcv, ops/nms.py, batched_nms
    kept = nms(apart, scores, setting.iou_threshold)[: setting.max_per_img]
    found = boxes[kept] if setting.rescale_first else boxes[kept] * to_original
    return Proposed(found, scores[kept])
