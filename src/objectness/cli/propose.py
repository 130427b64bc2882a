"""`objectness propose`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .app import AcrossLevels, EngineName, Precision, app
from .terminal import Meter, advise, make_folder, say

if TYPE_CHECKING:
    from ..bulk.run import Result
    from ..network import RegionProposalNetwork


@app.command(sort_key=1)
def propose(
    *sources: str,
    out: Path | None = None,
    draw: Path | None = None,
    top: int | None = None,
    min_score: float = 0.0,
    weights: str = "cspnet",
    device: str = "auto",
    engine: EngineName = "torch",
    precision: Precision = "float32",
    calibrate: str | None = None,
    at_once: int | None = None,
    nms_iou: float | None = None,
    across_levels: AcrossLevels = None,
    reduce_jpeg: bool = False,
    overwrite: bool = False,
) -> int:
    """Propose where the objects of images are.

    One line of JSON an image: {"file", "width", "height", "boxes": [[x1, y1, x2, y2], ...], "scores", "levels"}, best
    first, in the image's own pixels. A file that cannot be read gives {"file", "error"}; the others are done and the
    exit code is 1. With --out, a stopped run goes on where it stopped.

    Args:
        sources: Image files, folders (with all that is below them) and globs.
        out: Where the lines go; standard output by default.
        draw: A folder for pictures: of the best finds, ten at most, or with --top of all that is written.
        top: At most so many proposals an image; all by default (2,000 in a network's usual configuration).
        min_score: Leave out proposals with less, 0 to 1.
        weights: A network that ships (cspnet, lite0), a run folder, a checkpoint folder or its model.safetensors;
            weights of torchvision, detectron2 or mmdetection, by file or published name; or a network on the hub
            (owner/name).
        device: cpu, cuda, cuda:1, ... or auto.
        engine: What computes: torch, ncnn, onnxruntime, openvino, or auto, the fastest that is installed. A network is
            converted at first, and kept in the user's cache.
        precision: bfloat16 (torch, openvino) and int8 (openvino, calibrated on photos like yours) are faster and less
            exact; `objectness evaluate` says how much.
        calibrate: A folder or glob of a hundred photos or more, for int8.
        at_once: Images computed side by side, each with its share of the cores; by default up to 4 on a CPU. More are
            done sooner and take more memory.
        nms_iou: Suppress boxes beyond this IoU with a better one: less gives fewer that differ more. By default as the
            network's configuration says.
        across_levels: Whether boxes of all pyramid levels suppress each other, or only those of one level. By default
            as the network's configuration says.
        reduce_jpeg: Decode a JPEG of more than twice the size that the network sees to a half, quarter or eighth:
            faster for photos of many megapixels, with nearly the same proposals.
        overwrite: Begin again, whatever is in --out.
    """
    if not sources:
        raise ConfigError("propose: name at least one image file, folder or glob")
    if top is not None and top < 1:
        raise ConfigError(f"--top {top}: must be at least 1")
    if not 0 <= min_score <= 1:
        raise ConfigError(f"--min-score {min_score:g}: must be in [0, 1]")
    from ..bulk.run import run
    from ..device import choose_at_once
    from ..predict import load

    files = _find_images(sources, draw)
    if draw is not None:
        make_folder(draw)
    proposer = load(
        weights,
        device=device,
        engine=engine,
        precision=precision,
        calibration=_find_images([calibrate], None) if calibrate else (),
        at_once=choose_at_once(len(files), device, engine) if at_once is None else at_once,
        nms_iou=nms_iou,
        across_levels=across_levels,
        say=say,
    )
    for note in proposer.notes:
        say(f"note: {note}")
    settings: dict[str, object] = {}
    if out is not None:  # what a run that goes on must have in common with itself
        settings["weights_sha256"] = _hash_weights(proposer.network)
        settings |= {"reduce_jpeg": True} if reduce_jpeg else {}
        settings |= {"precision": precision, "calibrate": calibrate} if precision != "float32" else {}
        settings |= {"nms_iou": nms_iou} if nms_iou is not None else {}
        settings |= {"across_levels": across_levels} if across_levels is not None else {}
    lines_are_seen = out is None and sys.stdout.isatty()  # they are progress enough, and a bar would mix with them
    advice = "the same command goes on from here" if out else None
    with advise(advice), Meter("propose", len(files), hidden=lines_are_seen) as meter:

        def on_result(result: Result, num_done: int) -> None:
            for message in (result.error, result.drawing_error):
                if message:
                    say(f"objectness: {message}")
            meter.advance(num_done)

        counts = run(
            proposer.propose,
            files,
            out or sys.stdout,
            prepare=partial(proposer.prepare, reduce=reduce_jpeg),
            at_once=proposer.at_once,
            torch_threads=proposer.torch_threads,
            settings=settings,
            top=top,
            min_score=min_score,
            overwrite=overwrite,
            draw_dir=draw,
            on_result=on_result,
        )
    kept = f", {counts.kept} of them before" if counts.kept else ""
    undrawn = f"; {counts.undrawn} pictures could not be drawn" if counts.undrawn else ""
    say(f"{counts.done} of {len(files)} images done{kept}; {counts.failed} failed{undrawn}")
    return 1 if counts.failed or counts.undrawn else 0


def _find_images(sources: Sequence[str], draw: Path | None) -> list[Path]:
    """The images to propose on; without the pictures that an earlier run drew into a folder below a source."""
    from ..images.finding import find_images

    def is_drawn(path: Path) -> bool:
        return draw is not None and draw.absolute() in (path.absolute(), *path.absolute().parents)

    files = find_images(sources)
    if any(is_drawn(Path(source)) for source in sources):
        return files  # they are meant
    return [file for file in files if not is_drawn(file)]


def _hash_weights(network: RegionProposalNetwork) -> str:
    """What tells a network from every other, so that no file holds the proposals of two."""
    digest = hashlib.sha256(json.dumps(network.config.to_dict()).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
