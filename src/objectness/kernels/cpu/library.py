"""Find the C library that installation built, choose among its variants, and hand tensors over to it.

The environment variable OBJECTNESS_KERNELS names what may run: "off" nothing, so that every call takes the plain torch
path; "plain" ordinary C; "avx2" and "avx512" (x86-64 alone) loops compiled for these instructions. Without it the best
that the processor has is taken, and so with "require", which refuses to go on without kernels. It is read at every
call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError

FOLDER = Path(__file__).parent
ENVIRONMENT = "OBJECTNESS_KERNELS"
OFF, REQUIRE = "off", "require"
VARIANTS = ("plain", "avx2", "avx512")  # in the order of native.h
ABI = 4  # of native.h; a library with another one was built from other sources than these
ERROR_MEMORY = -1  # of native.h


class Build(NamedTuple):
    """What is to be found beside this file."""

    library: ctypes.CDLL | None
    complaint: str  # why there is none


def find_library() -> ctypes.CDLL | None:
    """The kernels' library, or None where there is none or OBJECTNESS_KERNELS=off.

    Raises:
        ConfigError: OBJECTNESS_KERNELS has an unknown value, or requires what is not there.
    """
    wanted = _read_environment()
    if wanted == OFF:
        return None
    build = _load(FOLDER)
    if build.library is None and wanted == REQUIRE:
        raise ConfigError(f"{ENVIRONMENT}={REQUIRE}: {build.complaint}")
    return build.library


def choose_variant() -> int:
    """The variant that runs, as its position in `VARIANTS`: every kernel's first argument.

    Raises:
        ConfigError: OBJECTNESS_KERNELS has an unknown value, or names a variant that this processor cannot run.
    """
    library, wanted = find_library(), _read_environment()
    best = 0 if library is None else int(library.objectness_best_variant())
    if wanted in (None, OFF, REQUIRE):
        return best
    variant = VARIANTS.index(wanted)
    if variant > best:
        raise ConfigError(f"{ENVIRONMENT}={wanted}: this processor can run {VARIANTS[best]} at best; set that or none")
    return variant


def get_function(name: str, arguments: tuple[type, ...], result: type | None = ctypes.c_int64) -> Callable[..., Any]:
    """An exported function, ready to be called.

    Args:
        name: what the library calls it.
        arguments: the ctypes of what it takes.
        result: the ctype of what it returns; None if it returns nothing.

    Raises:
        ConfigError: OBJECTNESS_KERNELS has an unknown value.
        RuntimeError: no kernel was built, or they are switched off.
    """
    library = find_library()
    if library is None:
        raise RuntimeError(f"there is no {name}: {describe()}")
    return _declare(library, name, arguments, result)


def describe() -> str:
    """One sentence: which kernels run, or why none does."""
    if _read_environment() == OFF:
        return f"kernels are switched off by {ENVIRONMENT}={OFF}; everything takes the plain torch path"
    build = _load(FOLDER)
    if build.library is None:
        return f"{build.complaint}; everything takes the plain torch path"
    return f"kernels in C run, compiled for {VARIANTS[choose_variant()]}"


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The tensor itself, if a kernel can read it by its strides.

    Args:
        name: what messages call it.
        tensor: what a caller handed over.
        shape: what it must have; None stands for any number.
        dtype: what it must have.

    Raises:
        TypeError: another kind of tensor: a subclass, sparse, or of another dtype.
        ValueError: another shape, or another device than the CPU.
    """
    if tensor.dtype != dtype or tensor.layout != torch.strided:
        raise TypeError(f"{name} is a {tensor.dtype} tensor ({tensor.layout}); a kernel needs a dense {dtype}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}; a kernel needs it on the CPU")
    if tensor.shape != shape and not _fits(tensor.shape, shape):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}; a kernel needs ({expected})")
    return tensor


def get_pointer(name: str, tensor: Tensor, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32) -> int:
    """The address of a tensor that lies in memory in order; the caller keeps it alive during the call.

    Raises:
        TypeError: as `check_tensor`.
        ValueError: as `check_tensor`, or the tensor is not contiguous.
    """
    if not check_tensor(name, tensor, shape, dtype).is_contiguous():
        raise ValueError(f"{name} is not contiguous; a kernel needs it in order: call contiguous()")
    return tensor.data_ptr()


def check_result(result: int) -> int:
    """A kernel's count, or what its error means.

    Raises:
        MemoryError: the kernel could not allocate what it needs.
    """
    if result == ERROR_MEMORY:
        raise MemoryError("a kernel could not allocate its working memory")
    assert result >= 0, f"a kernel returned {result}"
    return result


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(b in (a, None) for a, b in zip(shape, wanted, strict=True))


def _read_environment() -> str | None:
    value = os.environ.get(ENVIRONMENT) or None
    if value is not None and value not in (OFF, REQUIRE, *VARIANTS):
        raise ConfigError(f"{ENVIRONMENT}={value} is none of {', '.join((OFF, REQUIRE, *VARIANTS))}")
    return value


@cache
def _declare(library: ctypes.CDLL, name: str, arguments: tuple[type, ...], result: type | None) -> Callable[..., Any]:
    """A function with its types; remembered, since of a hundred boxes a call takes a few microseconds."""
    function = library[name]
    function.argtypes, function.restype = arguments, result
    return function


@cache
def _load(folder: Path) -> Build:
    files = [folder / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        return Build(None, "no kernel was built: there was no C compiler when the package was installed")
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        return Build(None, f"the kernels' library {file.name} cannot be loaded ({error})")
    found = int(library.objectness_abi()) if hasattr(library, "objectness_abi") else None
    if found != ABI:
        return Build(None, f"the kernels' library {file.name} was built from other sources; install the package again")
    return Build(library, "")
