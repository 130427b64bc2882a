"""The feature pyramid: C2..C5 in, P2..P6 out (or C3..C5 in, P3..P7 out)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NUM_LEVELS, TopDown
from .convolution import list_convs, make_conv3x3
from .norm import NormFactory, convolve, fold_norm

COARSEST_STAGE = 5  # C5
NEGATIVE_SLOPE = 0.1  # of the activation, NanoDet's


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path, a 3x3 convolution on every merged map.

    Source: FPN, section 3, and section 4.1 for P6.

    Args:
        in_channels: channels of the stages that it is built on, finest first; the last is C5.
        channels: channels of every map of the pyramid.
        top_down: "cumulative", M_l = I_l + up(M_{l+1}) (the paper); "adjacent", M_l = I_l + up(I_{l+1}) (the article).
        norm: makes a norm for every convolution, which then has no bias; none by default.
        bottom_up: then also N_{l+1} = M_{l+1} + down(N_l), means of 2 x 2 cells, from the second level up (PANet,
            arXiv 1803.01534, section 3.1, without convolutions, as in the detector NanoDet, which has no P2).
        activation: LeakyReLU behind the output convolutions.
        separable_levels: levels with a separable output convolution.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        top_down: TopDown = "cumulative",
        norm: NormFactory | None = None,
        *,
        bottom_up: bool = False,
        activation: bool = False,
        separable_levels: Collection[int] = (),
    ):
        super().__init__()
        self.top_down, self.bottom_up, self.activation = top_down, bottom_up, activation
        self.upsampling = "nearest"
        has_bias = norm is None
        make_norm: NormFactory = norm or (lambda _: nn.Identity())
        levels = range(COARSEST_STAGE + 1 - len(in_channels), COARSEST_STAGE + 1)
        kinds = ["separable" if level in separable_levels else "dense" for level in levels]
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=has_bias) for c in in_channels)
        self.lateral_norms = nn.ModuleList(make_norm(channels) for _ in in_channels)
        self.outputs = nn.ModuleList(make_conv3x3(channels, kind, bias=has_bias) for kind in kinds)  # type: ignore[arg-type]
        self.output_norms = nn.ModuleList(make_norm(channels) for _ in in_channels)
        for conv in [*list_convs(self.laterals), *list_convs(self.outputs)]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def fold_norms(self) -> None:
        """Fold the norms into the convolutions, in place; for inference."""
        for convs, norms in ((self.laterals, self.lateral_norms), (self.outputs, self.output_norms)):
            for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
                if not isinstance(norm, nn.Identity):
                    convs[i], norms[i] = fold_norm(conv, norm), nn.Identity()

    def forward(self, stages: Sequence[Tensor], *, consume: bool = False) -> tuple[Tensor, ...]:
        """The stages (N, C_l, H_l, W_l), finest first -> five levels (N, channels, H_l, W_l).

        The levels beyond C5's are every second cell of the one before. With `consume` a list is emptied, so that the
        memory of each map is free as soon as the map has been used.
        """
        waiting = stages if consume and isinstance(stages, list) else list(stages)
        levels: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(self.laterals))):  # a level at a time, so that few maps are held at once
            lateral = merged = convolve(self.laterals[i], self.lateral_norms[i], waiting.pop())
            if above is not None:
                merged = F.interpolate(above, size=lateral.shape[-2:], mode=self.upsampling).add_(lateral)
            above = merged if self.top_down == "cumulative" else lateral
            del lateral
            levels.insert(0, merged if self.bottom_up else self._finish(i, merged))
        if self.bottom_up:
            levels = self._go_up(levels)
        while len(levels) < NUM_LEVELS:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)

    def _go_up(self, merged: list[Tensor]) -> list[Tensor]:
        """The bottom-up path over the merged maps, whose finest takes no part, and the output convolutions."""
        for i in range(len(merged) - 2, len(merged)):
            merged[i] = merged[i] + F.avg_pool2d(merged[i - 1], kernel_size=2, ceil_mode=True)
        return [self._finish(i, each) for i, each in enumerate(merged)]

    def _finish(self, i: int, merged: Tensor) -> Tensor:
        """The output convolution of level i."""
        output = convolve(self.outputs[i], self.output_norms[i], merged)
        return F.leaky_relu_(output, NEGATIVE_SLOPE) if self.activation else output
