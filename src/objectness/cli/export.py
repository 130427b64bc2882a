"""`objectness export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from .app import app
from .terminal import make_folder

EXAMPLE_PHOTO = Path(__file__).parents[3] / "examples" / "photos" / "rocket.jpg"  # beside a checkout alone


@app.command(sort_key=6)
def export(
    *,
    to: Literal["onnx", "openvino", "ncnn"],
    out: Path,
    weights: str = "cspnet",
    photo: Path | None = None,
    selection: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a network as a file for programs that know nothing of Objectness.

    Before the file appears it is run on a photo and compared with torch; where it says something else, nothing is
    written. docs/engines.md shows how to use each kind of file in a few lines of Python.

    Args:
        to: The format.
        out: An .onnx file, or a folder for OpenVINO's or ncnn's two files and their description, config.json.
        weights: A network that ships (cspnet, lite0), a run folder, a checkpoint folder or its model.safetensors.
        photo: A photo to compare on; in a checkout of the project, one of its examples by default.
        selection: ONNX alone: with the selection inside, so that boxes and scores come out instead of maps.
        overwrite: Replace what is at --out.
    """
    if photo is None and not EXAMPLE_PHOTO.is_file():
        raise ConfigError("export: name a photo to compare the exported network on, with --photo")
    from ..runtimes.export import export_network
    from ..weights.opening import open_network

    make_folder(out.parent)
    parity = export_network(
        open_network(weights)[0], to, out, photo or EXAMPLE_PHOTO, selection=selection, overwrite=overwrite
    )
    print(f"{out}: {parity.describe()}")
    return 0
