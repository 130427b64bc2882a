"""Pickles of arrays, read without running anything that they ask for, and written so that every numpy reads them.

A pickle is a program for a small machine: it names functions, and the reader calls them. Here it may name those alone
that arrays and tensors are pickled with, and gets functions of ours in their place, which check what they are given:
numpy's own would change dtypes that the whole process shares, and torch's would unpickle anything. The first other
name ends the reading.
"""

from __future__ import annotations

import copyreg
import io
import math
import pickle
import re
import reprlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .errors import CheckpointError, ObjectnessError

if TYPE_CHECKING:
    from torch import Tensor

_CODE = re.compile("[biufcSU][0-9]{1,6}")  # numpy's codes of plain numbers and strings, with their bytes


class Inert:
    """What stands for an object whose class is not there.

    Attributes:
        args: what the object would have been made from.
        state: what it would have been given then, usually a dict of its attributes; None where nothing was given.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Inert:
        """Made as the class in its place would be; keywords are left out."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_arrays(path: Path, *, inert: Collection[str] = (), error: type[ObjectnessError] = CheckpointError) -> Any:
    """Read a pickle of arrays and plain values, of any protocol and of Python 2 as well.

    Args:
        path: of the file.
        inert: full names of classes (`package.module.Class`) whose objects become `Inert` ones.
        error: what to raise.

    Returns:
        Numbers, strings, bytes, lists, tuples, sets, dicts (ordered ones too), numpy's arrays (of a subclass) and
        scalars, torch's tensors, and `Inert` objects. Bytes that Python 2 wrote are strings, as latin-1 has them.

    Raises:
        ObjectnessError: the kind asked for: the file cannot be read, is no pickle or half a one, or asks for anything
            else. Nothing has been run then.
    """
    copyreg.clear_extension_cache()  # what is cached there would never be asked for by name
    try:
        with path.open("rb") as file:
            return _Reader(file, inert).load()
    except _RefusedError as refused:
        raise error(f"{path}: {refused}, which no file of arrays needs; nothing was run") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    except Exception as problem:  # a damaged pickle raises nearly anything
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise error(
            f"{path}: is no readable pickle of arrays ({reason}); it may be cut short, copy it again"
        ) from problem


def write_arrays(path: Path, value: Any) -> None:
    """Pickle arrays and plain values for readers of any age, Python 2 and numpy 1 as well.

    numpy 2 pickles its arrays by a name that numpy before 1.26 does not have; here they are made by `numpy.ndarray`.
    """
    with path.open("wb") as file:
        _Writer(file, protocol=2).dump(value)


class _RefusedError(Exception):
    """A pickle asks for what it shall not have; the message is half a sentence."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BufferedReader, inert: Collection[str]):
        super().__init__(file, encoding="latin1")  # Python 2's strings are bytes, and its arrays' values are strings
        self._inert = inert

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._inert:
            return Inert
        if full not in _KNOWN:
            raise _RefusedError(f"asks to run {reprlib.repr(full)[1:-1]}")
        return _KNOWN[full]


class _Writer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        state = (1, value.shape, value.dtype, False, value.tobytes())
        return np.ndarray, ((0,),), state


class _Maker:
    """A function that a pickle can call and do nothing else with."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a function is given a state")


class _Dtype:
    """A dtype in the making: numpy's own would take a byte order, a size or fields from anywhere."""

    __slots__ = ("value",)

    def __init__(self, code: str):
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state
        if (subarray, names, fields) != (None, None, None):
            raise _RefusedError("holds an array of records")
        self.value = self.value.newbyteorder(order)


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that is made empty and gets its values once, as numpy pickles it."""

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, is_fortran, values = state  # the first, if there is one, is a version
        if self.size or not _is_shape(shape) or not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without its shape, dtype or values")
        content = _take_bytes(values)
        if len(content) != math.prod(shape) * dtype.value.itemsize:
            raise pickle.UnpicklingError(f"{len(content)} bytes for an array of {shape}")
        known: Any = (1, shape, dtype.value, bool(is_fortran), bytes(content))
        super().__setstate__(known)


class _Mapping(dict[Any, Any]):
    """An ordered dict, which all are; the attributes that torch gives its own are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    """A tensor's values as one row."""

    __slots__ = ("row",)

    def __init__(self, row: Tensor):
        self.row = row

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a storage is given a state")


def _make_dtype(code: Any, *_: Any) -> _Dtype:
    if isinstance(code, str) and code.startswith("O"):
        raise _RefusedError("holds an array of Python objects")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise _RefusedError(f"holds an array of the type {reprlib.repr(code)}")
    return _Dtype(code)


def _make_array(*_: Any) -> _Array:
    return _Array(0)


def _make_array_from_buffer(values: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> Any:
    """As numpy has it for protocol 5; with the order K the axes are exchanged after the values are there."""
    flat = np.frombuffer(_take_bytes(values), _take_dtype(dtype))
    if order == "K" and axis_order is not None:
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order=order)


def _make_scalar(dtype: Any, value: Any) -> Any:
    (scalar,) = np.frombuffer(_take_bytes(value), _take_dtype(dtype))
    return scalar


def _encode(text: str, encoding: str) -> bytes:
    """How protocols before 3 write bytes that are not empty."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"asks to run an encoder of {reprlib.repr(encoding)}")
    return text.encode("latin-1")


def _make_bytes() -> bytes:
    """How protocols before 3 write empty bytes."""
    return b""


def _make_storage(content: Any) -> _Storage:
    import torch

    stored: Any = torch.load(io.BytesIO(_take_bytes(content)), map_location="cpu", weights_only=True)
    return _Storage(torch.empty(0, dtype=stored.dtype).set_(stored))


def _make_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return storage.row.as_strided(size, stride, offset)  # refuses what is out of bounds


def _take_bytes(value: Any) -> bytes | bytearray:
    if isinstance(value, str):  # Python 2
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):  # an array could let go of its memory later
        raise pickle.UnpicklingError(f"{type(value).__name__} in place of bytes")
    return value


def _take_dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _Dtype):
        raise pickle.UnpicklingError("an array without its dtype")
    return value.value


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(side) is int and side >= 0 for side in value)


_KNOWN: dict[str, Any] = {
    "numpy.ndarray": _Maker(_make_array),  # called by `write_arrays`, elsewhere only ever an argument
    "numpy.dtype": _Maker(_make_dtype),
    **{f"numpy.{core}.multiarray._reconstruct": _Maker(_make_array) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Maker(_make_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _Maker(_make_array_from_buffer) for core in ("core", "_core")},
    "collections.OrderedDict": _Mapping,
    **{f"{builtins}.set": set for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.bytes": _Maker(_make_bytes) for builtins in ("builtins", "__builtin__")},
    "_codecs.encode": _Maker(_encode),
    "torch._utils._rebuild_tensor_v2": _Maker(_make_tensor),
    "torch.storage._load_from_bytes": _Maker(_make_storage),
}
