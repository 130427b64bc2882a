"""How a run changes with its steps: the learning rate, the averaged weights; and in which precision it computes."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..config import Precision, TrainOptions

STEP_SHARES = (2 / 3, 8 / 9)  # of the run, as in the peers' 60k and 80k of 90k steps


def compute_learning_rate(step: int, num_steps: int, options: TrainOptions) -> float:
    """The learning rate of a step: linear warm-up, then steps or a cosine."""
    peak = options.peak_learning_rate
    if options.schedule == "cosine":
        rate = peak * 0.5 * (1 + math.cos(math.pi * step / num_steps))
    else:
        rate = peak * 0.1 ** sum(step >= num_steps * share for share in STEP_SHARES)
    return rate * min(1.0, 1e-3 + (step + 1) / max(1, min(options.warmup_steps, num_steps // 4)))


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move an exponential moving average of a module's weights and buffers towards the current ones."""
    for mean, value in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if value.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means here: bfloat16 where the device has instructions for it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"
