"""The application that every command is added to."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from ..version import __version__

# As in runtimes.engine, which would import torch.
EngineName = Literal["torch", "auto", "ncnn", "onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]

AcrossLevels = Annotated[bool | None, Parameter(negative="--within-levels")]


def show_default(value: object) -> str | None:
    """A default as one would type it; none where leaving the option out is not the same as typing something."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is None or value is False else str(value)


app = App(
    name="objectness",
    help="Find where the objects in an image are, before anyone says what they are.",
    version=__version__,
    default_parameter=Parameter(consume_multiple=True, negative=(), show_default=show_default),
    suppress_keyboard_interrupt=False,
)
