"""torch itself, batch norms folded: the engine that is always there, and the only one on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import RegionProposalNetwork
from ..structures import Output


class TorchEngine:
    """The network in torch, on the device where its weights are. Threads may share one.

    Args:
        network: it stays as it is; a copy of it computes.
        narrow: compute in bfloat16, of which the maps keep three digits.
    """

    name = "torch"

    def __init__(self, network: RegionProposalNetwork, narrow: bool = False):
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.network = network.optimized().to(self.dtype)

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`; features too."""
        with torch.inference_mode():
            output: Output = self.network(images.to(self.dtype))
            return Output(*(self._widen(maps) for maps in output))

    def _widen(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(each.float() for each in maps)
