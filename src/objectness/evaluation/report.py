"""What a recall measurement says, and how it is shown: as numbers, JSON, plain text and a picture.

Letters beside those of `structures.py`: T IoU thresholds, R area ranges, M values of k, S score thresholds.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import replace_file
from ..packages import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # (T,), bit for bit pycocotools'
AREA_RANGES = {  # px^2 of the annotation, both ends counted in, as in COCO
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}

DEFINITION = (
    "AR@k: the share of the annotated boxes that the k best-scored proposals of each image find, each proposal at most "
    "one box, averaged over IoU 0.50:0.05:0.95. Class-agnostic (COCOeval with useCats=0). Crowds and other ignored "
    "regions are left out; the boxes of an image without proposals are missed. By annotated area: small to 32 x 32 px, "
    "medium to 96 x 96 px."
)


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """What a score threshold costs and saves, boxes of every size; only the best max(k) of an image are looked at.

    Attributes:
        thresholds: (S,) a proposal stays if its score is at least this.
        proposals_per_image: (S,) how many stay, mean over the images; NaN without images.
        recall_50: (S,) share of the boxes found at IoU 0.5; NaN without boxes.
        average_recall: (S,) mean recall over IOU_THRESHOLDS; NaN without boxes.
    """

    thresholds: Floats
    proposals_per_image: Floats
    recall_50: Floats
    average_recall: Floats


@dataclass(frozen=True, eq=False)
class RecallReport:
    """Everything that `measure_recall` measures in one go.

    Attributes:
        recall: (T, R, M) in [0, 1], over IOU_THRESHOLDS, AREA_RANGES and `tops`; NaN where a range holds no box.
        tops: the M values of k, rising.
        num_boxes: boxes to be found in each area range, ignored ones left out.
        proposals_per_image: (N,) as many as were given, also beyond the largest k.
        score_curve: proposals and recall against the score threshold.
        num_ignored: annotated boxes that were neither to be found nor missed, such as crowds.
    """

    recall: Floats
    tops: tuple[int, ...]
    num_boxes: dict[str, int]
    proposals_per_image: NDArray[np.int64]
    score_curve: ScoreCurve
    num_ignored: int = 0

    @property
    def num_images(self) -> int:
        """N, with the images that have no boxes or no proposals."""
        return len(self.proposals_per_image)

    def __repr__(self) -> str:
        recalls = ", ".join(f"AR@{top} {_show(self.average_recall(top))}" for top in self.tops)
        return f"<RecallReport: {self.num_images} images, {self.num_boxes['all']} boxes; {recalls}>"

    def average_recall(self, top: int, area: str = "all") -> float:
        """AR@top of one area range; NaN if it holds no box, where pycocotools says -1."""
        return float(self.recall_by_iou(top, area).mean())

    def recall_by_iou(self, top: int, area: str = "all") -> Floats:
        """(T,) recall among the best `top` proposals at each of IOU_THRESHOLDS.

        Raises:
            ConfigError: `top` or `area` was not measured.
        """
        if top not in self.tops or area not in AREA_RANGES:
            measured = f"k = {', '.join(map(str, self.tops))} of {', '.join(AREA_RANGES)}"
            raise ConfigError(f"AR@{top} of {area!r} was not measured; there is {measured}.")
        return self.recall[:, list(AREA_RANGES).index(area), self.tops.index(top)]

    def count_short_images(self, top: int) -> int:
        """Images with fewer than `top` proposals, where AR@top asks for more than there is."""
        return int((self.proposals_per_image < top).sum())

    def describe_kept(self, top: int) -> str | None:
        """A sentence to print beside AR@top if some image has fewer than `top` proposals; else None."""
        short = self.count_short_images(top)
        if not short:
            return None
        fewest, most = self.proposals_per_image.min(), self.proposals_per_image.max()
        if most == 0:
            return f"AR@{top}: no image has a proposal."
        if most < top:
            return f"AR@{top}: no image has more than {most} proposals, so this is AR@{most}."
        have = "has" if short == 1 else "have"
        return f"AR@{top}: {short} of {self.num_images} images {have} fewer than {top} proposals (fewest: {fewest})."

    def notes(self) -> list[str]:
        """What belongs beside the numbers: their definition, and a sentence for each k beyond what was kept."""
        return [DEFINITION, *filter(None, map(self.describe_kept, self.tops))]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types; None for NaN."""
        by_iou = {area: {top: self.recall_by_iou(top, area) for top in self.tops} for area in AREA_RANGES}
        return {
            "definition": DEFINITION,
            "images": self.num_images,
            "boxes": dict(self.num_boxes),
            "ignored": self.num_ignored,
            "average_recall": {
                area: {str(top): _to_json(recall.mean()) for top, recall in by_top.items()}
                for area, by_top in by_iou.items()
            },
            "iou_thresholds": [round(iou, 2) for iou in IOU_THRESHOLDS.tolist()],
            "recall_by_iou": {
                area: {str(top): list(map(_to_json, recall)) for top, recall in by_top.items()}
                for area, by_top in by_iou.items()
            },
            "kept": {
                str(top): {"images_with_fewer": self.count_short_images(top), "note": self.describe_kept(top)}
                for top in self.tops
            },
            "score_curve": {name: list(map(_to_json, values)) for name, values in vars(self.score_curve).items()},
        }

    def table(self) -> str:
        """The report as plain text: AR by size, recall by IoU, the score curve, the notes."""
        by_area = [
            [area, str(self.num_boxes[area]), *(_show(self.average_recall(top, area)) for top in self.tops)]
            for area in AREA_RANGES
        ]
        by_iou = [
            [f"{iou:.2f}", *map(_show, recall)] for iou, recall in zip(IOU_THRESHOLDS, self.recall[:, 0], strict=True)
        ]
        by_score = [
            [f"{score:.2f}", f"{count:.1f}", _show(recall_50), _show(average)]
            for score, count, recall_50, average in zip(*vars(self.score_curve).values(), strict=True)
        ]
        ignored = f"; {self.num_ignored} boxes ignored" if self.num_ignored else ""
        blocks = [
            f"Average recall over {self.num_images} images{ignored}",
            _align(["size", "boxes", *(f"AR@{top}" for top in self.tops)], by_area),
            "Recall at each IoU, every size",
            _align(["IoU", *(f"@{top}" for top in self.tops)], by_iou),
            f"Of the best {self.tops[-1]}, those with at least a score, every size",
            _align(["score", "per image", "recall at IoU 0.50", "AR"], by_score),
            *(textwrap.fill(note, 100) for note in self.notes()),
        ]
        return "\n\n".join(blocks)


def plot_recall(report: RecallReport, path: Path | str) -> None:
    """Draw recall against IoU, AR against k, and the cost of a score threshold side by side into a picture file.

    Raises:
        ObjectnessError: matplotlib is not installed.
    """
    require("a plot", "matplotlib", "plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    by_iou, by_top, by_score = figure.subplots(1, 3)
    _plot_by_iou(by_iou, report)
    _plot_by_top(by_top, report)
    _plot_by_score(by_score, report.score_curve)
    with replace_file(Path(path)) as partial:
        figure.savefig(partial, dpi=120, format=Path(path).suffix[1:] or None)


SHARE_LIMITS = (0, 1.03)  # a line at 1 stays in sight


def _plot_by_iou(axes: Axes, report: RecallReport) -> None:
    for top in report.tops:
        axes.plot(IOU_THRESHOLDS, report.recall_by_iou(top), marker=".", label=f"{top} proposals")
    axes.set(title="Recall against IoU", xlabel="IoU at least", ylabel="recall")
    _finish(axes)


def _plot_by_top(axes: Axes, report: RecallReport) -> None:
    for area, num_boxes in report.num_boxes.items():
        average = [report.average_recall(top, area) for top in report.tops]
        axes.plot(report.tops, average, marker="o", label=f"{area} ({num_boxes} boxes)")
    axes.set(title="AR against the number of proposals", xlabel="proposals per image", ylabel="AR")
    axes.set_xscale("log")
    axes.set_xticks(report.tops, labels=map(str, report.tops))
    axes.minorticks_off()
    _finish(axes)


def _plot_by_score(axes: Axes, curve: ScoreCurve) -> None:
    shares = axes.twinx()
    lines = [
        *axes.plot(curve.thresholds, curve.proposals_per_image, color="black", label="proposals per image (left)"),
        *shares.plot(curve.thresholds, curve.recall_50, color="tab:blue", linestyle="--", label="recall at IoU 0.50"),
        *shares.plot(curve.thresholds, curve.average_recall, color="tab:orange", linestyle="--", label="AR"),
    ]
    axes.set(title="What a score threshold leaves", xlabel="score at least", ylabel="proposals per image")
    axes.set_ylim(bottom=0)
    shares.set(ylabel="recall", ylim=SHARE_LIMITS)
    axes.grid(alpha=0.3)
    shares.legend(handles=lines, fontsize="small")  # of the upper axes: no line runs through it


def _finish(axes: Axes) -> None:
    axes.set_ylim(SHARE_LIMITS)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _to_json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _show(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.3f}"


def _align(header: list[str], rows: list[list[str]]) -> str:
    """One line a row, every column flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in [header, *rows])
