"""How a run changes with its steps: the learning rate, the averaged weights; and in which precision it computes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..config import Precision, TrainOptions
from ..device import computes_bfloat16
from ..network import RegionProposalNetwork

STEP_SHARES = (2 / 3, 8 / 9)  # of the run, as in the peers' 60k and 80k of 90k steps


def compute_learning_rate(step: int, num_steps: int, options: TrainOptions) -> float:
    """The learning rate of a step: linear warm-up, then steps or a cosine."""
    peak = options.peak_learning_rate
    if options.schedule == "cosine":
        rate = peak * 0.5 * (1 + math.cos(math.pi * step / num_steps))
    else:
        rate = peak * 0.1 ** sum(step >= num_steps * share for share in STEP_SHARES)
    return rate * min(1.0, 1e-3 + (step + 1) / max(1, min(options.warmup_steps, num_steps // 4)))


def make_optimizer(network: RegionProposalNetwork, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser of all weights that learn; the backbone's in a group of their own if they learn at another rate."""
    learning = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": learning, "rate": 1.0}]
    if options.backbone_rate != 1:
        body = set(network.backbone.parameters())
        groups = [
            {"params": [p for p in learning if p not in body], "rate": 1.0},
            {"params": [p for p in learning if p in body], "rate": options.backbone_rate},
        ]
        groups = [group for group in groups if group["params"]]
    peak, decay = options.peak_learning_rate, options.weight_decay
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=peak, weight_decay=decay)
    return torch.optim.SGD(groups, lr=peak, momentum=options.momentum, weight_decay=decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let every group learn at its own share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)  # checkpoints of earlier versions have no share


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
    return "bfloat16" if computes_bfloat16(device) else "float32"
