"""ncnn: the fastest in float32 where 3x3 convolutions prevail, since it computes them by Winograd's algorithm.

A network is a text of layers and a file of weights, converted by pnnx from a TorchScript trace.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ObjectnessError
from ..network import RegionProposalNetwork
from ..structures import Output
from .maps import EXAMPLE_SIZE, NUM_MAPS, Maps, join_maps

PARAM_FILE, WEIGHTS_FILE = "network.param", "network.bin"
OTHER_SIZE = (96, 160)  # px; a second size tells the converter that height and width may change

# ncnn halves the precision of weights and maps where a processor is good at it; proposals should not depend on that.
NARROW_TYPES = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_inference",
)


def write_ncnn(network: RegionProposalNetwork, folder: Path) -> None:
    """Write `network.param` and `network.bin`, weights in float32.

    The input is `in0`, (3, H, W) of one image; the outputs are `out0` to `out9` in the order of `name_maps`.

    Args:
        network: what to convert.
        folder: where; it must be there.

    Raises:
        ConfigError: a network that cannot be converted.
        ObjectnessError: the converter failed.
    """
    import pnnx

    maps = Maps(network)
    with tempfile.TemporaryDirectory(dir=folder, prefix="pnnx-") as work:
        maps.trace().save(str(Path(work, "network.pt")))
        shapes = [f"inputshape{suffix}=[1,3,{h},{w}]f32" for suffix, (h, w) in (("", EXAMPLE_SIZE), ("2", OTHER_SIZE))]
        command = [pnnx.EXEC_PATH, "network.pt", *shapes, "fp16=0"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, errors="replace", check=False)
        try:
            Path(work, "network.ncnn.param").replace(folder / PARAM_FILE)
            Path(work, "network.ncnn.bin").replace(folder / WEIGHTS_FILE)
        except FileNotFoundError:
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise ObjectnessError(
                f"ncnn: its converter pnnx could not convert this network (exit code {done.returncode}: {last}); "
                "take another engine or format"
            ) from None


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
        """Every map of one image (3, H, W), in the order of `name_maps`."""
        extractor = self._net.create_extractor()
        extractor.input("in0", self._make_mat(image))
        maps = []
        for i in range(NUM_MAPS):
            failed, found = extractor.extract(f"out{i}")
            assert not failed, f"ncnn could not compute out{i}"
            maps.append(torch.from_numpy(np.array(found)))  # a copy, since what is found goes with the extractor
        return maps
