"""How far an engine's maps are from those of torch."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import ObjectnessError
from ..network import RegionProposalNetwork
from ..structures import Output

if TYPE_CHECKING:
    from .engine import Engine

MOST_DIFFERENCE = 1e-3  # of the largest value; runtimes in float32 differ by 1e-5 at most, other functions by more
CHECK_SIZES = ((1, 96, 160), (2, 64, 128))  # images, height, width: other sizes than a converter traces with


class Agreement(NamedTuple):
    """Largest difference on any level, as a share of the largest absolute value."""

    logits: float
    deltas: float

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.logits, self.deltas)


def copy_eager(network: RegionProposalNetwork) -> RegionProposalNetwork:
    """The network as it was trained, on the CPU in float32, for inference: what an engine is compared with."""
    return copy.deepcopy(network).cpu().float().eval().requires_grad_(False)


def check_engine(engine: Engine, network: RegionProposalNetwork) -> None:
    """Compare an engine with torch on noise of several sizes.

    Raises:
        ObjectnessError: it computes something else, or what is not a number.
    """
    eager = copy_eager(network)
    generator = torch.Generator().manual_seed(0)
    for num_images, height, width in CHECK_SIZES:
        images = torch.randn(num_images, 3, height, width, generator=generator)
        worst = measure_agreement(engine(images), eager(images)).worst
        if not worst <= MOST_DIFFERENCE:
            raise ObjectnessError(
                f"{engine.name}: what it computes differs from torch by {worst:.1e} of the largest value, more than "
                f"{MOST_DIFFERENCE:.0e}; take another engine or format"
            )


def measure_agreement(output: Output, expected: Output) -> Agreement:
    """Compare the maps of two outputs, each with its logits in pairs or folded."""
    return Agreement(
        logits=max(_compare(*pair) for pair in zip(fold_maps(output), fold_maps(expected), strict=True)),
        deltas=max(_compare(*pair) for pair in zip(output.deltas, expected.deltas, strict=True)),
    )


def fold_maps(output: Output) -> tuple[Tensor, ...]:
    """The logits of every level as (N, A, H_l, W_l), object minus no object where they are in pairs."""
    return tuple(
        logits if 4 * logits.shape[1] == deltas.shape[1] else logits[:, 0::2] - logits[:, 1::2]
        for logits, deltas in zip(output.logits, output.deltas, strict=True)
    )


def _compare(found: Tensor, expected: Tensor) -> float:
    """Inf, which is no agreement, where shapes differ or something is not a number."""
    if found.shape != expected.shape:
        return torch.inf
    found, expected = found.detach().float(), expected.detach().float()
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    difference = float((found - expected).abs().max() / largest)
    return torch.inf if math.isnan(difference) else difference
