"""Whether a kernel computes a call, decided in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from .cpu.library import find_library


def take(*tensors: Tensor | None) -> bool:
    """Whether a kernel applies to these tensors; the caller takes its plain torch function otherwise.

    It does if kernels were built and are not switched off, and every tensor is an ordinary one on the CPU whose
    gradient nobody asks for. While torch.compile traces, the plain function is what it should see.

    Args:
        tensors: all that the kernel would read; None for those that a call leaves out.

    Raises:
        ConfigError: of OBJECTNESS_KERNELS, as `library.find_library`.
    """
    for each in tensors:
        if each is None:
            continue
        if type(each) is not Tensor or not each.is_cpu or (each.requires_grad and torch.is_grad_enabled()):
            return False
    return not torch.compiler.is_compiling() and find_library() is not None
