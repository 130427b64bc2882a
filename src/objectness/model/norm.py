"""Batch norm, frozen or trained, applied together with the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine part never change; names as in `nn.BatchNorm2d`.

    Detection trains on too few images a step for statistics of its own, so the pretrained ones stay.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as y = x * scale + shift, each (C,)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None] + shift[:, None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # nn.BatchNorm2d counts, this one does not
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def convolve(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """norm(conv(x)), with a frozen norm folded into the convolution's weights on the way.

    Scaling a few thousand weights replaces two passes over the whole map, forward and backward: the same function
    to rounding, a third of an inference's memory traffic less. Gradients reach the weights as if nothing were folded.

    Args:
        conv: a convolution padded with zeros; without bias where a frozen norm follows.
        norm: what follows it; `nn.Identity` where nothing does.
        x: (N, C, H, W).
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        y: Tensor = norm(conv(x))
        return y
    assert isinstance(conv, nn.Conv2d)
    scale, shift = norm.scale_and_shift()
    weight = conv.weight * scale[:, None, None, None]  # (out,) over (out, in, kernel, kernel)
    assert not isinstance(conv.padding, str)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def fold_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """One convolution with bias that does what `norm(conv(x))` does in evaluation mode; the two stay as they are."""
    assert isinstance(conv, nn.Conv2d)
    scale, shift = FrozenBatchNorm2d.scale_and_shift(norm)  # type: ignore[arg-type]  # of either kind: same names
    folded = copy.copy(conv)
    folded._parameters = dict(conv._parameters)
    folded.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).detach(), requires_grad=False)
    folded.bias = nn.Parameter((shift if conv.bias is None else shift + conv.bias * scale).detach(), False)
    return folded


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm into the convolution declared just before it, in place, and `nn.Identity` takes its place.

    For modules that declare their norms so and apply them with `convolve`, as all of ours do.
    """
    before: tuple[str, nn.Module] = ("", module)
    for name, child in list(module.named_children()):
        if isinstance(child, (FrozenBatchNorm2d, nn.BatchNorm2d)) and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fold_norm(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold_norms(child)
        before = (name, child)


def make_norm(kind: str, eps: float | None = None) -> NormFactory:
    """A maker of norms: "frozen" or "trained"; torch's usual 1e-5 where no epsilon is given."""
    eps = 1e-5 if eps is None else eps
    if kind == "frozen":
        return lambda channels: FrozenBatchNorm2d(channels, eps)
    return lambda channels: nn.BatchNorm2d(channels, eps)
