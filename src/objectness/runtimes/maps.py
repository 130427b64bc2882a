"""The network as converters and runtimes know it: a tensor in, named maps out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import NUM_LEVELS, AnchorOptions
from ..errors import ConfigError
from ..network import RegionProposalNetwork
from ..structures import Output

NUM_MAPS = 2 * NUM_LEVELS  # logits of every level, then deltas of every level
INPUT_NAME, SIZES_NAME = "images", "sizes"  # the second where the selection is inside
COARSEST_STRIDE = 32  # of C5: inputs that are no multiple of it would need maps cut to each other's sizes
EXAMPLE_SIZE = (192, 320)  # px; what converters trace with: height and width of every map differ, down to P7's 2 x 3


class Maps(nn.Module):
    """What is converted: the network for inference, on the CPU, its output flat and without the features.

    Args:
        network: stays as it is.

    Raises:
        ConfigError: the network's inputs are padded to no multiple of 32 px, so that no fixed graph fits them all.
    """

    def __init__(self, network: RegionProposalNetwork):
        super().__init__()
        multiple = network.config.input.pad_multiple
        if multiple % COARSEST_STRIDE:
            raise ConfigError(
                f"input.pad_multiple = {multiple}: only networks whose inputs are padded to a multiple of "
                f"{COARSEST_STRIDE} px can be converted; take the torch engine"
            )
        optimized = network.optimized().cpu().float()
        self.network = optimized.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W), H and W multiples of 32 -> (N, A, H_l, W_l) of every level, then (N, 4 A, H_l, W_l)."""
        output = self.network(images)
        return (*output.logits, *output.deltas)

    def trace(self) -> torch.jit.ScriptModule:
        """A TorchScript trace, which holds for every size that is a multiple of 32."""
        with torch.no_grad(), quiet_conversion():
            traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                self, make_example(), check_trace=False
            )
        return traced


def make_example(num_images: int = 1) -> Tensor:
    """Images to trace with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_images, 3, *EXAMPLE_SIZE, generator=generator)


def name_maps(anchors: AnchorOptions) -> tuple[str, ...]:
    """What files call the maps, in the order in which `Maps` returns them: logits2, ... and deltas2, ... from P2 on."""
    return tuple(f"{kind}{level}" for kind in ("logits", "deltas") for level in anchors.levels)


def join_maps(maps: Sequence[Tensor]) -> Output:
    """The maps in the order of `name_maps` as what `select_proposals` takes; without features."""
    return Output((), tuple(maps[:NUM_LEVELS]), tuple(maps[NUM_LEVELS:]))


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """Without the warnings of tracers and exporters about themselves.

    Of values that a trace takes for constants there are two kinds here, and both are: the head's order of channels,
    and whether a side is even where a map is padded.
    """
    with warnings.catch_warnings(action="ignore"):
        yield
