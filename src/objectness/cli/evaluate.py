"""`objectness evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigError
from ..files import write_text
from ..packages import require
from .app import AcrossLevels, EngineName, Precision, app
from .records import IgnoreClass, read_records
from .terminal import Meter, make_folder, say

PLOT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")


@app.command(sort_key=3)
def evaluate(
    data: Path,
    /,
    *,
    weights: str | None = None,
    proposals: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    ignore_class: IgnoreClass = (),
    ignore_difficult: bool = False,
    out: Path | None = None,
    plot: Path | None = None,
    device: str = "auto",
    engine: EngineName = "torch",
    precision: Precision = "float32",
    calibrate: str | None = None,
    at_once: int | None = None,
    nms_iou: float | None = None,
    across_levels: AcrossLevels = None,
) -> int:
    """Measure class-agnostic recall: AR@10, 100, 300 and 1000, by size, by IoU, and proposals against score.

    COCO's protocol with useCats = 0: ignored boxes and crowds left out, IoU 0.5:0.05:0.95, sizes by annotation area.

    Args:
        data: COCO, Pascal VOC or YOLO annotations.
        weights: A run folder, a checkpoint folder or its model.safetensors; by default the network that ships (cspnet).
        proposals: Measure this file of JSON Lines, as `objectness propose` writes it, instead of a network; other
            formats become such with `objectness convert proposals`.
        images: Where the images are, if not where they usually are.
        skip_bad: Leave out bad boxes and images instead of stopping at the first.
        ignore_class: Boxes of this class, by name or id, need not be found, as crowds need not; may be repeated.
        ignore_difficult: Nor need the objects that Pascal VOC calls difficult.
        out: Write the whole report as JSON.
        plot: Draw recall against IoU, number of proposals and score into this picture (needs matplotlib).
        device: cpu, cuda, ... or auto.
        engine: What computes: torch, ncnn, onnxruntime, openvino, or auto, the fastest that is installed. A network is
            converted at first, and kept in the user's cache.
        precision: bfloat16 (torch, openvino) and int8 (openvino, calibrated on photos like yours) are faster and less
            exact: measure with it and without.
        calibrate: A folder or glob of a hundred photos or more, for int8.
        at_once: Images computed side by side, each with its share of the cores; by default up to 4 on a CPU. More are
            done sooner and take more memory.
        nms_iou: Suppress boxes beyond this IoU with a better one: less finds more with the best ten, more with all. By
            default as the network's configuration says.
        across_levels: Whether boxes of all pyramid levels suppress each other, or only those of one level. By default
            as the network's configuration says.
    """
    if proposals is not None and weights is not None:
        raise ConfigError("evaluate: give either --weights or --proposals")
    if proposals is not None and (nms_iou, across_levels) != (None, None):
        raise ConfigError("evaluate: leave out --nms-iou and --across-levels; a file of proposals is measured as it is")
    for path in filter(None, (out, plot)):  # measuring takes long; what cannot be written is said before
        make_folder(path.parent)
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file in it")
    if plot is not None and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"--plot {plot}: must end with one of {' '.join(PLOT_SUFFIXES)}")
    if plot is not None:
        require("--plot", "matplotlib", "plot")
    from ..device import choose_at_once
    from ..evaluation.measure import measure_proposer
    from ..evaluation.recall import measure_recall
    from ..evaluation.report import plot_recall
    from ..images.finding import find_images
    from ..predict import load
    from ..proposal_files.jsonl import read_proposals
    from ..proposal_files.matching import match_proposals
    from ..weights.checkpoint import SHIPPED

    reading = {"images": images, "skip_bad": skip_bad, "ignore_classes": ignore_class}
    [records] = read_records([str(data)], {**reading, "ignore_difficult": ignore_difficult})
    if proposals is not None:
        report = measure_recall(records, match_proposals(read_proposals(proposals), records, str(proposals)))
    else:
        proposer = load(
            weights or SHIPPED,
            device=device,
            engine=engine,
            precision=precision,
            calibration=find_images([calibrate]) if calibrate else (),
            at_once=choose_at_once(len(records), device, engine) if at_once is None else at_once,
            nms_iou=nms_iou,
            across_levels=across_levels,
            say=say,
        )
        for note in proposer.notes:
            say(f"note: {note}")
        with Meter("evaluate", len(records)) as meter:
            report = measure_proposer(proposer, records, on_image=meter.advance)
    print(report.table())
    if out is not None:
        write_text(out, json.dumps(report.to_dict(), indent=2) + "\n")
    if plot is not None:
        plot_recall(report, plot)
    return 0
