"""What an engine is, and which there are."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from ..packages import find_missing, require
from ..structures import Output

EngineName = Literal["auto", "torch", "ncnn", "openvino", "onnxruntime"]
Precision = Literal["float32", "bfloat16", "int8"]

# What each engine needs beside torch, its converter included, and the extra of this package that brings it.
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "ncnn": ("ncnn", "pnnx"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
}
EXTRAS = {"ncnn": "ncnn", "onnxruntime": "export", "openvino": "openvino"}
FASTEST_FIRST = ("ncnn", "openvino", "onnxruntime", "torch")  # measured; see docs/engines.md
NARROW = ("openvino", "torch")  # those that compute in bfloat16, fastest first


class Engine(Protocol):
    """A network on some runtime, ready for images of any size."""

    name: str

    def __call__(self, images: Tensor) -> Output:
        """Predict.

        Args:
            images: (N, 3, H, W) float32, normalised, and padded to a multiple of 32 px (`network_input.make_batch`).

        Returns:
            Logits (N, A, H_l, W_l), object minus no object, and deltas (N, 4 A, H_l, W_l) of every level, as
            `select_proposals` takes them. Features of the pyramid from torch alone; () from the others.
        """
        ...


def find_installed() -> tuple[str, ...]:
    """The engines whose packages are installed, fastest first."""
    return tuple(name for name in FASTEST_FIRST if not find_missing(PACKAGES[name]))


def require_engine(name: str) -> None:
    """Raise unless an engine's packages are installed.

    Raises:
        ObjectnessError: they are not; the message names the extra that brings them.
    """
    require(f"engine {name}", PACKAGES[name], EXTRAS.get(name, ""))
