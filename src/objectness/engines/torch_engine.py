"""torch itself, batch norms folded: the engine that is always there, and the only one on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network import RegionProposalNetwork
from ..structures import Output


class TorchEngine:
    """The network in torch, on the device where its weights are. Threads may share one."""

    name = "torch"

    def __init__(self, network: RegionProposalNetwork):
        self.network = network.optimized()

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`; features too."""
        with torch.inference_mode():
            output: Output = self.network(images)
        return output
