"""Where to compute, and on how many images side by side."""

from __future__ import annotations

import torch

from .errors import ConfigError

MOST_AT_ONCE = 4  # by default; each image takes memory, with a ResNet-50 at 800 x 1333 px some 250 MB


def choose_device(device: torch.device | str = "auto") -> torch.device:
    """The device that a name means; "auto" is the GPU where there is one.

    Raises:
        ConfigError: it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {str(device)!r}: there is no such kind; pass cpu, cuda, cuda:1, ... or auto"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device}: torch finds {torch.cuda.device_count()} CUDA devices; pass cpu or auto")
    try:
        torch.ones(1, device=chosen).tolist()
    except (RuntimeError, AssertionError) as error:  # what torch says of it can be pages long
        raise ConfigError(f"device {device}: torch cannot compute there; pass cpu or auto") from error
    return chosen


def choose_at_once(num_images: int, device: torch.device | str = "auto", engine: str = "torch") -> int:
    """How many images to compute side by side, where nothing was asked for: on a CPU up to four, a core each."""
    if choose_device_of(engine, device).type != "cpu":
        return 1
    return max(1, min(MOST_AT_ONCE, torch.get_num_threads(), num_images))


def choose_device_of(engine: str, device: torch.device | str) -> torch.device:
    """As `choose_device`; "auto" is the CPU for engines that compute nowhere else."""
    return choose_device(device if engine in ("torch", "auto") or device != "auto" else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, without which it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's
