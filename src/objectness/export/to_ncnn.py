"""ncnn: a text of layers and a file of weights, converted by pnnx from a TorchScript trace."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from ..errors import ObjectnessError
from ..network import RegionProposalNetwork
from .maps import EXAMPLE_SIZE, Maps

PARAM_FILE, WEIGHTS_FILE = "network.param", "network.bin"
OTHER_SIZE = (96, 160)  # px; a second size tells the converter that height and width may change


def write_ncnn(network: RegionProposalNetwork, folder: Path) -> None:
    """Write `network.param` and `network.bin`, weights in float32.

    The input is `in0`, (3, H, W) of one image; the outputs are `out0` to `out9` in the order of `MAP_NAMES`.

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
