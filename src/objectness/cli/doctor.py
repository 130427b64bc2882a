"""`objectness doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from ..version import __version__
from .app import app

NEEDED = ("torch", "numpy", "pillow", "safetensors")
RUNTIMES = ("ncnn", "pnnx", "onnxruntime", "onnx", "onnxscript", "openvino", "nncf")
OPTIONAL = ("torchvision", "huggingface_hub", "pyarrow", "matplotlib", "tensorboard", "supervision", *RUNTIMES)


@app.command(sort_key=9)
def doctor() -> int:
    """Say what this machine has, and what makes proposals slower here than they could be.

    The first thing to look at when something is slow or goes wrong, and what to send along with a question.
    """
    import torch

    from ..device import choose_device, computes_bfloat16
    from ..kernels.cpu.library import describe
    from ..runtimes.cache import find_cache_folder

    chosen = choose_device()
    rows = {
        "objectness": f"{__version__}, Python {platform.python_version()} on {platform.platform()}",
        "processor": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; torch computes with "
        f"{torch.get_num_threads()} threads",
        "bfloat16": "faster than float32 here (--precision bfloat16)"
        if computes_bfloat16(chosen)
        else f"{chosen} has no instructions for it; float32 is faster",
        "device": _describe_device(chosen),
        "kernels": describe(),
        "engines": _describe_engines(),
        "conversions": str(find_cache_folder()),
        "packages": _list_versions(NEEDED),
        "optional": _list_versions(OPTIONAL) or "none",
    }
    width = max(map(len, rows))
    for name, text in rows.items():
        sys.stdout.write(f"{name:<{width}}  {text}\n")
    return 0


def _describe_engines() -> str:
    from ..runtimes.engine import EXTRAS, find_installed

    found = find_installed()
    missing = ",".join(extra for name, extra in EXTRAS.items() if name not in found)
    return ", ".join(found) + " (fastest first)" + (missing and f"; pip install 'objectness[{missing}]' brings more")


def _describe_device(device: object) -> str:
    import torch

    if str(device) == "cpu":
        return "cpu; torch finds no GPU"
    properties = torch.cuda.get_device_properties(0)
    return f"{device}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _list_versions(packages: tuple[str, ...]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
