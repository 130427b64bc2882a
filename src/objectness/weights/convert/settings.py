"""What the weights of detectron2 and mmdetection stand with: settings read from a configuration, or told by a body.

Both programs start from ResNets of two houses. Caffe2's had their batch norms folded into affine layers before anyone
fine-tuned them (running means of 0, variances of 1) and see BGR; torchvision's kept their statistics and see RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...config import AnchorOptions, ChannelOrder, InputOptions, SelectionOptions
from ...model.resnet import DESIGNS, Bottleneck

SMALLEST = float(np.finfo(np.float32).tiny)  # as a least size it drops what has none
FOLDED_TOLERANCE = 1e-3  # a folded variance is 1, or 1 less batch norm's epsilon
WHOLE_RANGE = 3.0  # variance per squared weight of the first convolution: ImageNet's ResNets have 0.03..0.13 where the
# input was divided by its standard deviation, and 58^2 times as much where it was not

BGR_MEAN = (103.53, 116.28, 123.675)  # of ImageNet, in 0..255
BGR_STD = (57.375, 57.12, 58.395)
UNIT_STD = (1.0, 1.0, 1.0)


class Settings(NamedTuple):
    """What decides, beside the weights, what a network proposes."""

    stride_in_1x1: bool
    input: InputOptions
    anchors: AnchorOptions
    selection: SelectionOptions
    norm_eps: float | None = None
    notes: tuple[str, ...] = ()  # what was assumed, one sentence each


class Style(NamedTuple):
    """How a body's house makes its input, and where its strides are."""

    origin: str  # half a sentence: what the body tells, and whose habit that is
    stride_in_1x1: bool
    order: ChannelOrder
    mean: Sequence[float]  # in that order, of 0..255
    std: Sequence[float]

    def explain(self, remedy: str) -> str:
        """The note on what was assumed."""
        stride = "1x1" if self.stride_in_1x1 else "3x3"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return (
            f"{self.origin}: strides in the {stride} convolutions, {self.order} input, mean {mean} and standard "
            f"deviation {std} are assumed; {remedy}"
        )


def find(values: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a dotted key in nested dicts, or the default where it is not there."""
    value: Any = values
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def recognise_style(body: Mapping[str, Tensor], backbone: str) -> Style:
    """Whose habits a body has, by its statistics.

    Args:
        body: tensors under torchvision's names.
        backbone: its name in `resnet.DESIGNS`.
    """
    is_grouped, is_bottleneck = DESIGNS[backbone].groups > 1, has_bottlenecks(backbone)
    if is_folded(body):
        if is_grouped:
            return Style("its batch norms are folded, as in Caffe2's ResNeXts", False, "BGR", BGR_MEAN, BGR_STD)
        return Style("its batch norms are folded, as in Caffe's ResNets", is_bottleneck, "BGR", BGR_MEAN, UNIT_STD)
    if sees_whole_range(body):
        origin = "its statistics are those of an input in 0..255, as detectron2's own training has it"
        return Style(origin, is_bottleneck and not is_grouped, "BGR", BGR_MEAN, UNIT_STD)
    origin = "its batch norms keep their statistics, as in torchvision's ResNets"
    return Style(origin, False, "RGB", BGR_MEAN[::-1], BGR_STD[::-1])


def has_bottlenecks(backbone: str) -> bool:
    """Whether a body of `resnet.DESIGNS` has 1x1 convolutions that a stride could be in."""
    return DESIGNS[backbone].block is Bottleneck


def is_folded(body: Mapping[str, Tensor]) -> bool:
    """Whether every batch norm is an affine layer, its mean 0 and its variance 1."""
    means = [tensor for name, tensor in body.items() if name.endswith(".running_mean")]
    variances = [tensor for name, tensor in body.items() if name.endswith(".running_var")]
    return not any(mean.any() for mean in means) and all(
        bool(((variance - 1).abs() < FOLDED_TOLERANCE).all()) for variance in variances
    )


def sees_whole_range(body: Mapping[str, Tensor]) -> bool:
    """Whether the statistics after the first convolution are those of an input that no one divided."""
    power = body["conv1.weight"].square().sum(dim=(1, 2, 3))  # (out,)
    return bool((body["bn1.running_var"] / power).median() > WHOLE_RANGE)


def to_unit_rgb(values: Sequence[float], order: ChannelOrder) -> tuple[float, float, float]:
    """A mean or standard deviation of 0..255, in the network's order of channels, as `InputOptions` has it."""
    first, second, third = (float(value) / 255 for value in values)
    return (first, second, third) if order == "RGB" else (third, second, first)


def least_above(size: float) -> float:
    """The least size that exceeds `size` in float32, px: where others ask for more, `min_size` asks for at least."""
    return max(SMALLEST, float(np.nextafter(np.float32(size), np.float32(np.inf))))
