"""A network as a file for other runtimes, which appears only if it says what the network says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from ..config import InputOptions
from ..errors import ConfigError, ObjectnessError
from ..files import replace_file, replace_folder
from ..geometry.boxes import compute_iou
from ..images.network_input import fit_size, make_batch, resize_image
from ..images.reading import read_image
from ..network import RegionProposalNetwork
from ..packages import require
from ..structures import Batch, Output, Selection
from .agreement import MOST_DIFFERENCE, Agreement, copy_eager, measure_agreement
from .choose import load_runtime
from .description import describe_network
from .engine import EXTRAS, PACKAGES
from .maps import INPUT_NAME, name_maps
from .onnxruntime import MODEL_FILE

Format = Literal["onnx", "openvino", "ncnn"]

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}  # what runs each format
DESCRIPTION_FILE = "config.json"  # beside the files of OpenVINO and ncnn; inside ONNX
SAME_IOU = 0.99  # two proposals of one level that overlap so much are the same
LEAST_SAME = 0.99  # share of the proposals; ties and thresholds may fall the other way by rounding


@dataclass(frozen=True)
class Parity:
    """How the exported network compares with the trained one on a photo.

    Attributes:
        maps: differences of logits and deltas.
        same: share of the trained network's proposals that the exported one makes too.
        num_proposals: how many the trained network makes.
        photo: on which.
        input_size: (height, width) of the photo as the network saw it, padded, px.
    """

    maps: Agreement
    same: float
    num_proposals: int
    photo: Path
    input_size: tuple[int, int]

    def describe(self) -> str:
        """Two lines of text."""
        height, width = self.input_size
        return (
            f"compared with torch on {self.photo} at {height} x {width} px: logits differ by {self.maps.logits:.1e} of "
            f"the largest, deltas by {self.maps.deltas:.1e};\n"
            f"{self.same:.2%} of the {self.num_proposals} proposals are the same"
        )


def export_network(
    network: RegionProposalNetwork,
    to: Format,
    out: Path,
    photo: Path,
    *,
    selection: bool = False,
    overwrite: bool = False,
) -> Parity:
    """Write a network for another runtime, after comparing it with torch.

    Args:
        network: it stays as it is.
        to: the format.
        out: the .onnx file, or the folder for `network.xml` or `network.param`, its weights and `config.json`.
        photo: a real one, to compare on.
        selection: ONNX alone: with the selection inside, so that proposals come out instead of maps.
        overwrite: replace what is there.

    Returns:
        What the comparison found.

    Raises:
        ConfigError: something is there already, or the network or its selection cannot be exported so.
        ObjectnessError: packages are missing, or the exported network says something else; nothing is written then.
        ImageError: the photo cannot be read.
    """
    _check_request(to, out, selection, overwrite)
    require(f"export to {to}", PACKAGES[ENGINES[to]], EXTRAS[ENGINES[to]])
    batch = _prepare(photo, network.config.input)
    if to != "onnx":
        with replace_folder(out) as folder:
            return _write_and_compare(network, to, folder, batch, photo, selection)
    with replace_file(out) as partial, TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        parity = _write_and_compare(network, to, Path(work), batch, photo, selection)
        Path(work, MODEL_FILE).replace(partial)
    return parity


def _check_request(to: str, out: Path, selection: bool, overwrite: bool) -> None:
    if to not in ENGINES:
        raise ConfigError(f"format {to!r} is none of {', '.join(ENGINES)}")
    if selection and to != "onnx":
        raise ConfigError(f"the selection can go into an ONNX file alone, not into {to}'s; leave it out")
    if to == "onnx" and out.suffix != ".onnx":
        raise ConfigError(f"{out}: an ONNX file's name must end with .onnx")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: is there already; name another place, or overwrite it")
    if out.is_dir() and (to == "onnx" or any(not _is_ours(path) for path in out.iterdir())):
        raise ConfigError(f"{out}: is a folder with other files than an exported network's; name another place")
    if out.is_file() and to != "onnx":
        raise ConfigError(f"{out}: is a file; name a folder")


def _is_ours(path: Path) -> bool:
    return path.name == DESCRIPTION_FILE or path.stem == "network"


def _prepare(photo: Path, options: InputOptions) -> Batch:
    """A photo as the network takes it."""
    pixels = torch.from_numpy(read_image(photo)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    size = fit_size((pixels.shape[1], pixels.shape[2]), options)
    return make_batch([resize_image(pixels, size, options.resize)], options)


def _write_and_compare(
    network: RegionProposalNetwork, to: Format, folder: Path, batch: Batch, photo: Path, selection: bool
) -> Parity:
    """Write into an empty folder and compare.

    Raises:
        ObjectnessError: too large a difference.
    """
    found, proposals = _write(network, to, folder, batch, selection)
    eager = copy_eager(network)
    expected = eager(batch.images)
    wanted = eager.select(expected, batch)[0]
    if proposals is None:
        proposals = eager.select(found, batch)[0]
    parity = Parity(
        maps=measure_agreement(found, expected),
        same=share_same(wanted, proposals),
        num_proposals=len(wanted.boxes),
        photo=photo,
        input_size=(batch.images.shape[-2], batch.images.shape[-1]),
    )
    if not (parity.maps.worst <= MOST_DIFFERENCE and parity.same >= LEAST_SAME):
        raise ObjectnessError(f"export to {to}: nothing is written, since it says something else; {parity.describe()}")
    return parity


def _write(
    network: RegionProposalNetwork, to: Format, folder: Path, batch: Batch, selection: bool
) -> tuple[Output, Selection | None]:
    """Write into an empty folder; the maps of a batch of one image, and the proposals if they are made inside."""
    make, write = load_runtime(ENGINES[to])
    if to != "onnx":
        write(network, folder)
        maps = name_maps(network.config.anchors)
        names = {INPUT_NAME: "in0", **{name: f"out{i}" for i, name in enumerate(maps)}} if to == "ncnn" else {}
        description = describe_network(network.config, names=names, batched=to != "ncnn")
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        return make(folder)(batch.images), None
    from .onnxruntime import convert_to_onnx, propose_with_onnx, save_onnx, set_metadata

    model = convert_to_onnx(network)
    set_metadata(model, describe_network(network.config, selection=selection))
    save_onnx(model, folder)
    found = make(folder)(batch.images)
    if not selection:
        return found, None
    from .onnx_selection import append_selection

    append_selection(model, network.config)
    save_onnx(model, folder)
    return found, propose_with_onnx(folder / MODEL_FILE, batch)[0]


def share_same(wanted: Selection, found: Selection) -> float:
    """The share of the wanted proposals that are among those found; 1 where none is wanted and none found."""
    if not len(wanted.boxes):
        return float(not len(found.boxes))
    if not len(found.boxes):
        return 0.0
    same_level = wanted.levels[:, None] == found.levels[None, :]
    same = (compute_iou(wanted.boxes, found.boxes) > SAME_IOU) & same_level
    return float(same.any(dim=1).float().mean())
