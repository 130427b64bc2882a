"""What people hold: the proposals of one image."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError, ImageError
from .files import write_text
from .geometry.boxes import compute_areas, compute_intersections
from .geometry.nms import keep_greedily, nms
from .lines import make_line
from .packages import require

if TYPE_CHECKING:
    import pandas
    import supervision
    from PIL import Image

COCO_CATEGORY = 1  # of every box: proposals have no class
PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # endings of what `save` draws
NOTEBOOK_SIDE = 720  # the longer side of a notebook's picture at most, px

# What `highlights` keeps; looked at on photos, with scores that estimate how well a box fits. Such scores are low by
# nature, and lower in hard photos: where the best has 0.5, right boxes have 0.2 to 0.5 and wrong ones less.
HIGHLIGHTS = 10
HIGHLIGHT_SCORE = 0.4  # of the best one's
HIGHLIGHT_IOU = 0.4
PART_INSIDE = 0.8  # a part, or what surrounds one: so much of the smaller box is in the larger,
PART_AREA = 0.25  # of which it is at least this share; what is smaller is taken for a thing of its own,
PART_SCORE = 0.8  # and so is what is nearly as sure

Rows = slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


class Proposal(NamedTuple):
    """One proposal: a box in the original image, and how likely an object is there."""

    box: tuple[float, float, float, float]  # xyxy, px in the original image
    score: float  # in [0, 1]
    logit: float
    level: int  # of the pyramid, 2..6


class Arrays(NamedTuple):
    """Proposals as numpy arrays."""

    boxes: np.ndarray  # (n, 4) float32 xyxy, px in the original image
    scores: np.ndarray  # (n,) float32 in [0, 1]
    logits: np.ndarray  # (n,) float32
    levels: np.ndarray  # (n,) int64


@dataclass(frozen=True, eq=False, repr=False)
class Proposals:
    """Where the objects of one image are, best first, in the original image's own pixels.

        len(proposals), proposals[0].box, proposals[:10], proposals[proposals.scores > 0.5]
        for box, score, logit, level in proposals: ...

    Attributes:
        boxes: (n, 4) float32 xyxy, px in the original image, on the CPU.
        logits: (n,) float32, unbounded, falling.
        levels: (n,) int64, the pyramid level that each proposal comes from, 2..6.
        image_size: (height, width) of the original image, px.
        image: what the proposals were made from, kept for drawing: a path, a PIL image or a (H, W, 3) uint8 array.
        features: (n, C, size, size) float32, on the CPU: what the pyramid saw in each box, where that was asked for.
    """

    boxes: Tensor
    logits: Tensor
    levels: Tensor
    image_size: tuple[int, int]
    image: Path | Image.Image | np.ndarray | None = field(default=None)
    features: Tensor | None = field(default=None)

    @property
    def scores(self) -> Tensor:
        """(n,) float32 in [0, 1]: the probability that an object is there."""
        return torch.sigmoid(self.logits)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Proposal]:
        columns = (each.tolist() for each in (self.boxes, self.scores, self.logits, self.levels))
        for box, score, logit, level in zip(*columns, strict=True):
            yield Proposal(tuple(box), score, logit, level)

    @overload
    def __getitem__(self, rows: int) -> Proposal: ...

    @overload
    def __getitem__(self, rows: Rows) -> Proposals: ...

    def __getitem__(self, rows: int | Rows) -> Proposal | Proposals:
        """One proposal, or those of a slice, a mask (n,) of bool or indices (m,), in their order.

        Raises:
            IndexError: a place that is not there, or a mask of another length.
        """
        if isinstance(rows, (int, np.integer)):
            return next(iter(self._take(_find_rows([int(rows)], len(self)))))
        return self._take(_find_rows(rows, len(self)))

    def top(self, count: int) -> Proposals:
        """The best `count` of them, or all where there are fewer."""
        return self[: max(count, 0)]

    def above(self, min_score: float) -> Proposals:
        """Those whose score is at least `min_score`."""
        return self[self.scores >= min_score]

    def nms(self, iou_threshold: float, across_levels: bool = True) -> Proposals:
        """Those that no better one overlaps by more than a threshold, best first.

        Args:
            iou_threshold: in [0, 1]; a network's own suppression, within each level, is usually at 0.7.
            across_levels: whether boxes of different levels suppress each other.

        Raises:
            ConfigError: a threshold beyond [0, 1].
        """
        return self._take(nms(self.boxes, self.logits, iou_threshold, None if across_levels else self.levels))

    def highlights(self, count: int = HIGHLIGHTS) -> Proposals:
        """The few that a person wants to see: none far less sure than the best, and no two on the same thing.

        Best first, a proposal is left out if its score is below 0.4 of the best one's; if it overlaps one that stays by
        an IoU above 0.4, on whatever level; or if it is taken for a part of such a one, or for it and its surroundings:
        with a score below 0.8 of that one's, and 0.8 of the smaller box in the larger, up to four times as large.
        """
        sure = self.above(HIGHLIGHT_SCORE * float(self.scores.max())) if len(self) else self
        few = sure.nms(HIGHLIGHT_IOU)
        return few[keep_greedily(_find_parts(few.boxes, few.scores).triu(diagonal=1))].top(count)

    def draw(self, max_boxes: int | None = None, **style: Any) -> Image.Image:
        """The image with boxes on it; it is read again if it is known by its path.

        Args:
            max_boxes: draw so many, the best, coloured by their level; by default `highlights`, each in a colour of its
                own and with its score.
            style: other keywords of `objectness.draw_boxes`.

        Raises:
            ImageError: there is no image, it cannot be read, or it no longer has the size that the proposals were made
                on.
        """
        from .images.drawing import draw_boxes  # here, since only pictures need Pillow's drawing

        chosen, style = self._choose(max_boxes, style)
        return draw_boxes(self._read_image(), chosen.boxes, chosen.scores, chosen.levels, **style)

    def show(self, max_boxes: int | None = None, **style: Any) -> None:
        """Open the picture that `draw` makes in the desktop's viewer."""
        self.draw(max_boxes, **style).show()

    def save(self, path: str | Path, max_boxes: int | None = None, **style: Any) -> None:
        """Write the picture that `draw` makes, or the numbers, as the ending says.

        Args:
            path: of a picture (.png, .jpg, .jpeg, .webp), or of a file with the line that `objectness propose` writes
                (.json, .jsonl), which names the image if it is known by its path.
            max_boxes: see `draw`; by default all numbers are written.
            style: see `draw`.

        Raises:
            ConfigError: another ending.
            ImageError: see `draw`.
        """
        from .images.drawing import save_picture

        path = Path(path)
        ending = path.suffix.lower()
        if ending in PICTURES:
            save_picture(self.draw(max_boxes, **style), path)
        elif ending in (".json", ".jsonl"):
            chosen = self if max_boxes is None else self.top(max_boxes)
            file = self.image.as_posix() if isinstance(self.image, Path) else None
            write_text(path, make_line(file, chosen.to_dict()) + "\n")
        else:
            raise ConfigError(f"{path}: pictures end with {' '.join(PICTURES)}, numbers with .json or .jsonl")

    def numpy(self) -> Arrays:
        """Copies as numpy arrays: `boxes, scores, logits, levels = proposals.numpy()`."""
        return Arrays(*(each.numpy().copy() for each in (self.boxes, self.scores, self.logits, self.levels)))

    def to_dict(self) -> dict[str, Any]:
        """What `objectness propose` writes of an image: boxes px to 2 decimals, scores to 5, in plain JSON types.

        Returns:
            `width`, `height`, `boxes`, `scores`, `levels`.
        """
        return {
            "width": self.image_size[1],
            "height": self.image_size[0],
            "boxes": (self.boxes.double().round(decimals=2) + 0.0).tolist(),  # + 0.0 makes -0.0 a plain 0
            "scores": self.scores.double().round(decimals=5).tolist(),
            "levels": self.levels.tolist(),
        }

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO results, which pycocotools' `loadRes` reads: `image_id`, `category_id` (1), `bbox` (xywh), `score`."""
        corners = self.boxes.double()  # so that x + width is exactly x2
        bboxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
        return [
            {"image_id": image_id, "category_id": COCO_CATEGORY, "bbox": bbox, "score": score}
            for bbox, score in zip(bboxes, self.scores.tolist(), strict=True)
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each: x1, y1, x2, y2, score, logit, level.

        Raises:
            ObjectnessError: pandas is not installed.
        """
        require("to_pandas()", "pandas")
        from pandas import DataFrame

        boxes, scores, logits, levels = self.numpy()
        columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))
        return DataFrame({**columns, "score": scores, "logit": logits, "level": levels})

    def to_detectron2(self) -> dict[str, Any]:
        """Copies under the names that detectron2's `Instances` of proposals have; docs/second-stage.md makes one.

        Returns:
            `proposal_boxes` (n, 4) and `objectness_logits` (n,) tensors; `image_size` (height, width), px.
        """
        return {
            "proposal_boxes": self.boxes.clone(),  # its Boxes.scale() works in place
            "objectness_logits": self.logits.clone(),
            "image_size": self.image_size,
        }

    def to_supervision(self) -> supervision.Detections:
        """Copies as `supervision.Detections`, all of class 0, each one's pyramid level in `data["level"]`.

        Raises:
            ObjectnessError: supervision is not installed.
        """
        require("to_supervision()", "supervision", "supervision")
        from supervision import Detections

        return Detections(
            xyxy=self.boxes.numpy().copy(),
            confidence=self.scores.numpy(),
            class_id=torch.zeros_like(self.levels).numpy(),
            data={"level": self.levels.numpy().copy()},
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        name = f" of {self.image}" if isinstance(self.image, Path) else ""
        scores = f", scores {self.scores.max():.2f} to {self.scores.min():.2f}" if len(self) else ""
        return f"<{len(self)} proposals{name}, {width} x {height} px{scores}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the highlights, as a picture and as a table."""
        chosen, style = self._choose(None, {})
        try:
            shown = f'<img alt="" src="data:image/jpeg;base64,{_encode(self._read_image(), chosen, style)}">'
        except ImageError as error:
            shown = f"<p>{html.escape(str(error))}</p>"
        rows = "".join(
            f"<tr><td>{score:.2f}</td>{''.join(f'<td>{edge:.0f}</td>' for edge in box)}<td>{level}</td></tr>"
            for box, score, _, level in chosen
        )
        head = "".join(f"<th>{name}</th>" for name in ("score", "x1", "y1", "x2", "y2", "level"))
        caption = f"{html.escape(repr(self)[1:-1])}; {len(chosen)} shown"
        return f"{shown}<table><caption>{caption}</caption><tr>{head}</tr>{rows}</table>"

    def _choose(self, max_boxes: int | None, style: dict[str, Any]) -> tuple[Proposals, dict[str, Any]]:
        """The proposals to draw, and the keywords of `draw_boxes` with them."""
        if max_boxes is None:
            return self.highlights(), {"colour_by": "box", "labels": HIGHLIGHTS} | style
        return self, {"max_boxes": max_boxes} | style

    def _read_image(self) -> np.ndarray:
        """The pixels (H, W, 3) uint8, a copy; raises `ImageError` where `draw` does."""
        from .images.drawing import copy_pixels
        from .images.reading import read_image

        image = self.image
        if image is None:
            raise ImageError(
                "these proposals do not know their image; draw them with draw_boxes(image, proposals.boxes)"
            )
        pixels = read_image(image) if isinstance(image, (str, Path)) else copy_pixels(image)
        if pixels.shape[:2] != tuple(self.image_size):
            sizes = "{} x {} px high and wide, and was {} x {}".format(*pixels.shape[:2], *self.image_size)
            raise ImageError(f"the image is {sizes} when the proposals were made; propose on it again")
        return pixels

    def _take(self, rows: slice | Tensor) -> Proposals:
        features = None if self.features is None else self.features[rows]
        return replace(
            self, boxes=self.boxes[rows], logits=self.logits[rows], levels=self.levels[rows], features=features
        )


def _find_rows(rows: Rows, count: int) -> slice | Tensor:
    """What tensors of `count` rows are indexed with; raises `IndexError` where `Proposals[...]` does."""
    if isinstance(rows, slice):
        if rows.step is None or rows.step > 0:
            return rows
        rows = range(*rows.indices(count))  # torch takes no negative steps
    places = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))
    if places.shape == (0,) and places.dtype != torch.bool:
        places = places.long()  # [] is of floats
    if places.ndim != 1 or places.is_floating_point() or places.is_complex():
        raise IndexError(f"proposals are indexed by (n,) bool or integers, not {tuple(places.shape)} {places.dtype}")
    if places.dtype == torch.bool:
        if len(places) != count:
            raise IndexError(f"a mask of {len(places)} for {count} proposals; give one value for each")
        return places
    places = places.long()  # torch takes uint8 for a mask
    beyond = places[(places < -count) | (places >= count)]
    if len(beyond):
        raise IndexError(f"there is no proposal {int(beyond[0])}; there are {count}")
    return places


def _find_parts(boxes: Tensor, scores: Tensor) -> Tensor:
    """Mask (n, n): row i is clearly surer than column j, and one a part of the other; see `highlights`."""
    areas = compute_areas(boxes)
    smaller, larger = torch.minimum(areas[:, None], areas), torch.maximum(areas[:, None], areas)  # (n, n)
    is_inside = compute_intersections(boxes, boxes) >= PART_INSIDE * smaller
    return is_inside & (smaller >= PART_AREA * larger) & (scores < PART_SCORE * scores[:, None])


def _encode(pixels: np.ndarray, chosen: Proposals, style: dict[str, Any]) -> str:
    """A picture of at most NOTEBOOK_SIDE px, as a JPEG in base 64. It is made small before boxes are drawn: crisp."""
    from PIL import Image

    from .images.drawing import draw_boxes

    picture = Image.fromarray(pixels)
    picture.thumbnail((NOTEBOOK_SIDE, NOTEBOOK_SIDE))
    height, width = chosen.image_size
    boxes = chosen.boxes * torch.tensor([picture.width / width, picture.height / height] * 2)
    stream = io.BytesIO()
    draw_boxes(picture, boxes, chosen.scores, **style).save(stream, "JPEG", quality=90, subsampling=0)
    return base64.b64encode(stream.getvalue()).decode("ascii")
