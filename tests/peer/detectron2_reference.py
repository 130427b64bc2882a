"""What detectron2 proposes, worked out again from its sources, slowly and without any code of ours.

Weights go by detectron2's own names. Every step says which file of detectron2 it follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """The keys of a configuration that matter, by shorter names."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = True
    image_format: str = "BGR"
    pixel_mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    min_size_test: int = 800
    max_size_test: int = 1333
    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    pre_nms_topk: int = 1000
    post_nms_topk: int = 1000
    nms_thresh: float = 0.7
    fpn_norm: bool = False
    conv_depth: int = 1


class Maps(NamedTuple):
    """What the head says, finest level first."""

    logits: list[Tensor]  # (N, A, H, W)
    deltas: list[Tensor]  # (N, 4 A, H, W)


class Proposed(NamedTuple):
    """One image's proposals, best first, in the original image."""

    boxes: Tensor  # (n, 4)
    logits: Tensor  # (n,)


# Weights at random, as alive as trained ones


def make_weights(setting: Setting, *, folded: bool, seed: int = 0, channels: int = 256) -> Weights:
    """All tensors of an RPN, without a second stage; its frozen norms folded or with statistics."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def conv(name: str, out: int, inputs: int, kernel: int, gain: float = 2.0, bias: bool = False) -> None:
        deviation = math.sqrt(gain / (inputs * kernel * kernel))
        tensor = torch.randn(out, inputs, kernel, kernel, generator=generator) * deviation
        weights[f"{name}.weight"] = tensor.numpy()
        if bias:
            weights[f"{name}.bias"] = (torch.randn(out, generator=generator) * 0.1).numpy()

    def norm(name: str, channels: int, scale: float = 1.0, variance: float = 1.0, folded: bool = folded) -> None:
        values = {
            "weight": scale * (0.7 + 0.6 * torch.rand(channels, generator=generator)),
            "bias": 0.1 * torch.randn(channels, generator=generator),
            "running_mean": torch.zeros(channels),
            "running_var": torch.full((channels,), 1 - 1e-5),  # as the model zoo's files have it
        }
        if not folded:
            values["running_mean"] = 0.1 * torch.randn(channels, generator=generator) * math.sqrt(variance)
            values["running_var"] = variance * (0.5 + torch.rand(channels, generator=generator))
        weights.update({f"{name}.{leaf}": value.numpy() for leaf, value in values.items()})

    bottom_up = "backbone.bottom_up"
    # What enters has a deviation of about 58 where it is not divided: folded weights or the statistics take it back.
    is_whole_range = setting.pixel_std == (1.0, 1.0, 1.0)
    gain = 2.0 / 58**2 if folded and is_whole_range else 2.0
    conv(f"{bottom_up}.stem.conv1", 64, 3, 7, gain)
    norm(f"{bottom_up}.stem.conv1.norm", 64, variance=2 * 58**2 if is_whole_range else 0.2)
    inputs = 64
    for stage, count in enumerate(setting.blocks):
        inner = setting.groups * setting.width_per_group * 2**stage
        out = 256 * 2**stage
        for block in range(count):
            start = f"{bottom_up}.res{stage + 2}.{block}"
            if inputs != out:
                conv(f"{start}.shortcut", out, inputs, 1, 1.0)
                norm(f"{start}.shortcut.norm", out)
            conv(f"{start}.conv1", inner, inputs, 1)
            conv(f"{start}.conv2", inner, inner // setting.groups, 3)
            conv(f"{start}.conv3", out, inner, 1, 1.0)
            norm(f"{start}.conv1.norm", inner)
            norm(f"{start}.conv2.norm", inner)
            norm(f"{start}.conv3.norm", out, 0.3)  # so that the sum over blocks stays of order 1
            inputs = out
    for stage in range(4):
        has_bias = not setting.fpn_norm
        for name, width, kernel in (("lateral", 256 * 2**stage, 1), ("output", channels, 3)):
            conv(f"backbone.fpn_{name}{stage + 2}", channels, width, kernel, 0.5, has_bias)
            if setting.fpn_norm:
                norm(f"backbone.fpn_{name}{stage + 2}.norm", channels, folded=False)
    head = "proposal_generator.rpn_head"
    for depth in range(setting.conv_depth):
        name = f"{head}.conv" if setting.conv_depth == 1 else f"{head}.conv.conv{depth}"
        conv(name, channels, channels, 3, bias=True)
    num_anchors = len(setting.aspect_ratios)
    conv(f"{head}.objectness_logits", num_anchors, channels, 1, bias=True)
    conv(f"{head}.anchor_deltas", 4 * num_anchors, channels, 1, bias=True)
    return weights


def enliven(weights: Weights, setting: Setting, image: np.ndarray) -> None:
    """Spread the logits of an image over several units and its deltas over tenths, as trained ones are."""
    maps = predict(weights, setting, preprocess([image], setting)[0])
    head = "proposal_generator.rpn_head"
    for name, level, deviation in (("objectness_logits", maps.logits[0], 2.0), ("anchor_deltas", maps.deltas[0], 0.3)):
        weights[f"{head}.{name}.weight"] *= np.float32(deviation / level.std().item())


# From images to proposals


@torch.no_grad()
def propose(weights: Weights, setting: Setting, images: Sequence[np.ndarray]) -> list[Proposed]:
    """The proposals of a batch of (H, W, 3) uint8 RGB images (meta_arch/rcnn.py, ProposalNetwork)."""
    batch, sizes = preprocess(images, setting)
    maps = predict(weights, setting, batch)
    found = find_top_proposals(maps, setting, sizes)
    return [rescale(each, size, image.shape[:2]) for each, size, image in zip(found, sizes, images, strict=True)]


def preprocess(images: Sequence[np.ndarray], setting: Setting) -> tuple[Tensor, list[tuple[int, int]]]:
    """Resize, normalise, pad (data/transforms/augmentation_impl.py, structures/image_list.py)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (setting.pixel_mean, setting.pixel_std))
    tensors = []
    for rgb in images:
        pixels = rgb[:, :, ::-1] if setting.image_format == "BGR" else rgb
        resized = resize_shortest_edge(np.ascontiguousarray(pixels), setting.min_size_test, setting.max_size_test)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        tensors.append((tensor - mean) / std)
    sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
    height, width = (math.ceil(max(sides) / 32) * 32 for sides in zip(*sizes, strict=True))
    padded = [F.pad(tensor, (0, width - tensor.shape[2], 0, height - tensor.shape[1])) for tensor in tensors]
    return torch.stack(padded), sizes


def resize_shortest_edge(pixels: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Pillow's bilinear of uint8 (ResizeShortestEdge, ResizeTransform)."""
    height, width = find_size(pixels.shape[0], pixels.shape[1], shortest, longest)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def find_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) after resizing (ResizeShortestEdge)."""
    scale = shortest * 1.0 / min(height, width)
    new_height, new_width = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(new_height, new_width) > longest:
        scale = longest * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


# The network


def predict(weights: Mapping[str, np.ndarray], setting: Setting, images: Tensor) -> Maps:
    """Backbone, pyramid and head (backbone/resnet.py, backbone/fpn.py, proposal_generator/rpn.py)."""
    stages = run_backbone(weights, setting, images)
    laterals = [run_layer(weights, f"backbone.fpn_lateral{i + 2}", stage) for i, stage in enumerate(stages)]
    merged = [laterals[3]]
    for lateral in laterals[2::-1]:
        merged.insert(0, lateral + F.interpolate(merged[0], scale_factor=2.0, mode="nearest"))
    levels = [run_layer(weights, f"backbone.fpn_output{i + 2}", level, padding=1) for i, level in enumerate(merged)]
    levels.append(F.max_pool2d(levels[3], kernel_size=1, stride=2, padding=0))
    head = "proposal_generator.rpn_head"
    logits, deltas = [], []
    for level in levels:
        hidden = level
        for depth in range(setting.conv_depth):
            name = f"{head}.conv" if setting.conv_depth == 1 else f"{head}.conv.conv{depth}"
            hidden = F.relu(run_layer(weights, name, hidden, padding=1))
        logits.append(run_layer(weights, f"{head}.objectness_logits", hidden))
        deltas.append(run_layer(weights, f"{head}.anchor_deltas", hidden))
    return Maps(logits, deltas)


def run_backbone(weights: Mapping[str, np.ndarray], setting: Setting, images: Tensor) -> list[Tensor]:
    """res2..res5."""
    x = F.relu(run_layer(weights, "backbone.bottom_up.stem.conv1", images, stride=2, padding=3))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    stages = []
    for stage, count in enumerate(setting.blocks):
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 else 1
            stride_1x1, stride_3x3 = (stride, 1) if setting.stride_in_1x1 else (1, stride)
            start = f"backbone.bottom_up.res{stage + 2}.{block}"
            y = F.relu(run_layer(weights, f"{start}.conv1", x, stride=stride_1x1))
            y = F.relu(run_layer(weights, f"{start}.conv2", y, stride=stride_3x3, padding=1, groups=setting.groups))
            y = run_layer(weights, f"{start}.conv3", y)
            if f"{start}.shortcut.weight" in weights:
                x = run_layer(weights, f"{start}.shortcut", x, stride=stride)
            x = F.relu(x + y)
        stages.append(x)
    return stages


def run_layer(
    weights: Mapping[str, np.ndarray], name: str, x: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """A convolution and the norm that may follow it (layers/wrappers.py, layers/batch_norm.py)."""
    bias = weights.get(f"{name}.bias")
    y = F.conv2d(
        x,
        torch.as_tensor(weights[f"{name}.weight"]),
        None if bias is None else torch.as_tensor(bias),
        stride=stride,
        padding=padding,
        groups=groups,
    )
    if f"{name}.norm.weight" not in weights:
        return y
    mean, variance, weight, shift = (
        torch.as_tensor(weights[f"{name}.norm.{leaf}"]).view(1, -1, 1, 1)
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (y - mean) / torch.sqrt(variance + 1e-5) * weight + shift


# Anchors, boxes, selection


def make_cell_anchors(size: float, aspect_ratios: Sequence[float]) -> Tensor:
    """(A, 4) (anchor_generator.py, generate_cell_anchors); float64, then float32."""
    anchors = []
    for ratio in aspect_ratios:
        width = math.sqrt(size**2.0 / ratio)
        height = ratio * width
        anchors.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(anchors)


def make_anchors(setting: Setting, map_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Per level (H * W * A, 4); offset 0."""
    levels = []
    for (height, width), size, stride in zip(map_sizes, setting.sizes, (4, 8, 16, 32, 64), strict=True):
        cells = make_cell_anchors(size, setting.aspect_ratios)
        rows = [
            cells + torch.tensor([x * stride, y * stride, x * stride, y * stride], dtype=torch.float32)
            for y in range(height)
            for x in range(width)
        ]
        levels.append(torch.cat(rows))
    return levels


def apply_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) (box_regression.py, Box2BoxTransform with weights of 1)."""
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    centre_x, centre_y = anchors[:, 0] + 0.5 * width, anchors[:, 1] + 0.5 * height
    dx, dy, dw, dh = deltas.unbind(-1)
    limit = math.log(1000.0 / 16)
    new_x, new_y = dx * width + centre_x, dy * height + centre_y
    new_width, new_height = dw.clamp(max=limit).exp() * width, dh.clamp(max=limit).exp() * height
    corners = (new_x - 0.5 * new_width, new_y - 0.5 * new_height, new_x + 0.5 * new_width, new_y + 0.5 * new_height)
    return torch.stack(corners, dim=-1)


def find_top_proposals(maps: Maps, setting: Setting, sizes: Sequence[tuple[int, int]]) -> list[Proposed]:
    """Proposals in the network's input (proposal_utils.py, find_top_rpn_proposals)."""
    from torchvision.ops import batched_nms

    anchors = make_anchors(setting, [(level.shape[2], level.shape[3]) for level in maps.logits])
    found = []
    for image, (height, width) in enumerate(sizes):
        boxes, scores, levels = [], [], []
        for level, (logits, deltas) in enumerate(zip(maps.logits, maps.deltas, strict=True)):
            flat_logits = logits[image].permute(1, 2, 0).flatten()  # (A, H, W) -> (H * W * A,)
            num_anchors, rows, columns = logits[image].shape
            by_anchor = deltas[image].view(num_anchors, 4, rows, columns).permute(2, 3, 0, 1).reshape(-1, 4)
            decoded = apply_deltas(by_anchor, anchors[level])  # all of them, then the best
            best, places = flat_logits.topk(min(setting.pre_nms_topk, len(flat_logits)))
            boxes.append(decoded[places])
            scores.append(best)
            levels.append(torch.full_like(places, level))
        joined, logit, level_ids = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        x1, y1, x2, y2 = joined.unbind(1)
        joined = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=1)
        full = (joined[:, 2] - joined[:, 0] > 0) & (joined[:, 3] - joined[:, 1] > 0)
        joined, logit, level_ids = joined[full], logit[full], level_ids[full]
        kept = batched_nms(joined, logit, level_ids, setting.nms_thresh)[: setting.post_nms_topk]
        found.append(Proposed(joined[kept], logit[kept]))
    return found


def rescale(found: Proposed, size: tuple[int, int], original: Sequence[int]) -> Proposed:
    """To the original image (postprocessing.py, detector_postprocess)."""
    height, width = original
    scale_x, scale_y = width / size[1], height / size[0]
    boxes = found.boxes * torch.tensor([scale_x, scale_y, scale_x, scale_y])
    x1, y1, x2, y2 = boxes.unbind(1)
    boxes = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=1)
    full = (boxes[:, 2] - boxes[:, 0] > 0) & (boxes[:, 3] - boxes[:, 1] > 0)
    return Proposed(boxes[full], found.logits[full])
