"""ncnn: the fastest in float32 where 3x3 convolutions prevail, since it computes them by Winograd's algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ObjectnessError
from ..export.maps import MAP_NAMES, join_maps
from ..export.to_ncnn import PARAM_FILE, WEIGHTS_FILE
from ..structures import Output

# ncnn halves the precision of weights and maps where a processor is good at it; proposals should not depend on that.
NARROW_TYPES = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_inference",
)


class NcnnEngine:
    """A network that `write_ncnn` wrote, on the CPU; the images of a batch one after another. Threads may share one.

    Args:
        folder: with `network.param` and `network.bin`.
        num_threads: to compute with; by default as many as torch does.
        at_once: calls that are to be computed side by side, each with its share of the threads.

    Raises:
        ObjectnessError: the files cannot be read.
    """

    name = "ncnn"

    def __init__(self, folder: Path, num_threads: int | None = None, at_once: int = 1):
        import ncnn

        self._make_mat = ncnn.Mat
        self._net = ncnn.Net()
        for option in NARROW_TYPES:
            setattr(self._net.opt, option, False)
        self._net.opt.num_threads = max(1, (num_threads or torch.get_num_threads()) // at_once)
        files = folder / PARAM_FILE, folder / WEIGHTS_FILE
        if self._net.load_param(str(files[0])) or self._net.load_model(str(files[1])):
            raise ObjectnessError(f"{folder}: ncnn cannot read the network in it; delete the folder and try again")

    def __call__(self, images: Tensor) -> Output:
        """See `Engine.__call__`."""
        per_image = [self._run(image) for image in images.cpu().contiguous().numpy()]
        return join_maps([torch.stack(maps) for maps in zip(*per_image, strict=True)])

    def _run(self, image: np.ndarray) -> list[Tensor]:
        """Every map of one image (3, H, W), in the order of `MAP_NAMES`."""
        extractor = self._net.create_extractor()
        extractor.input("in0", self._make_mat(image))
        maps = []
        for i in range(len(MAP_NAMES)):
            failed, found = extractor.extract(f"out{i}")
            assert not failed, f"ncnn could not compute {MAP_NAMES[i]}"
            maps.append(torch.from_numpy(np.array(found)))  # a copy, since what is found goes with the extractor
        return maps
