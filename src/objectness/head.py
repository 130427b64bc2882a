"""The head that scans every level of the pyramid with the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """A 3x3 convolution, then for each of A anchors two logits (object, no object) and four deltas.

    Source: Faster R-CNN, section 3.1; initialised from N(0, 0.01) with biases 0, as stated there.
    """

    def __init__(self, channels: int = 256, num_anchors: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls = nn.Conv2d(channels, 2 * num_anchors, 1)
        self.reg = nn.Conv2d(channels, 4 * num_anchors, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per level (N, channels, H, W) -> per level logits (N, 2 A, H, W) and deltas (N, 4 A, H, W)."""
        hidden = [F.relu_(self.conv(level)) for level in levels]
        return tuple(self.cls(h) for h in hidden), tuple(self.reg(h) for h in hidden)
