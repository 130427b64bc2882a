"""The feature pyramid: C2..C5 in, P2..P6 out."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TopDown
from .norm import NormFactory, convolve, fold_norm


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path, a 3x3 convolution on every merged map.

    Source: FPN, section 3, and section 4.1 for P6.

    Args:
        in_channels: of C2..C5, finest first.
        channels: of every map of the pyramid.
        top_down: "cumulative", M_l = I_l + up(M_{l+1}) (the paper); "adjacent", M_l = I_l + up(I_{l+1}) (the article).
        norm: makes a norm for every convolution, which then has no bias; none by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        top_down: TopDown = "cumulative",
        norm: NormFactory | None = None,
    ):
        super().__init__()
        self.top_down = top_down
        has_bias = norm is None
        make_norm: NormFactory = norm or (lambda _: nn.Identity())
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=has_bias) for c in in_channels)
        self.lateral_norms = nn.ModuleList(make_norm(channels) for _ in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=has_bias) for _ in in_channels)
        self.output_norms = nn.ModuleList(make_norm(channels) for _ in in_channels)
        for conv in [*self.laterals, *self.outputs]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if has_bias:
                nn.init.zeros_(conv.bias)

    def fold_norms(self) -> None:
        """Fold the norms into the convolutions, in place; for inference."""
        for convs, norms in ((self.laterals, self.lateral_norms), (self.outputs, self.output_norms)):
            for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
                if not isinstance(norm, nn.Identity):
                    convs[i], norms[i] = fold_norm(conv, norm), nn.Identity()

    def forward(self, stages: Sequence[Tensor], *, consume: bool = False) -> tuple[Tensor, ...]:
        """C2..C5, (N, C_l, H_l, W_l) each -> P2..P6, (N, channels, H_l, W_l) each; P6 is every second cell of P5.

        With `consume` a list is emptied, so that the memory of each map is free as soon as the map has been used.
        """
        waiting = stages if consume and isinstance(stages, list) else list(stages)
        levels: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(self.laterals))):  # a level at a time, so that few maps are held at once
            lateral = merged = convolve(self.laterals[i], self.lateral_norms[i], waiting.pop())
            if above is not None:
                merged = F.interpolate(above, size=lateral.shape[-2:], mode="nearest").add_(lateral)
            above = merged if self.top_down == "cumulative" else lateral
            del lateral
            levels.insert(0, convolve(self.outputs[i], self.output_norms[i], merged))
        return (*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2))
