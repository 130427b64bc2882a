"""Boxes drawn on their image: the best on top, the doubtful faint, each between dark lines so that it shows anywhere.

Lines lie on whole pixels, which keeps them crisp, and grow with the image. Colours tell the pyramid level that a box
comes from, in tones that stay apart for colour-blind eyes too (after Okabe and Ito), or else its score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import AnnotationError, ImageError
from .reading import to_rgb

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


LEVEL_COLOURS = {2: (90, 190, 255), 3: (0, 220, 150), 4: (250, 235, 70), 5: (255, 150, 40), 6: (255, 110, 200)}
SCORE_COLOURS = ((110, 130, 255), (230, 90, 200), (255, 150, 70), (255, 225, 70))  # from the lowest to the highest
DARK = (12, 14, 20)  # the lines beside the coloured ones, and the text
FAINTEST = 0.4  # opacity of the lowest score that is drawn; the highest is drawn in full


class _Rectangle(NamedTuple):
    """Whole pixels from x1 and y1 up to, not with, x2 and y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    def inset(self, by: int) -> _Rectangle:
        return _Rectangle(self.x1 + by, self.y1 + by, self.x2 - by, self.y2 - by)

    def meets(self, other: _Rectangle) -> bool:
        return self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: ArrayLike | Tensor,
    scores: ArrayLike | Tensor | None = None,
    levels: ArrayLike | Tensor | None = None,
    *,
    max_boxes: int = 100,
    width: int | None = None,
    labels: int = 5,
) -> Image.Image:
    """Draw boxes on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image of any mode.
        boxes: (n, 4) xyxy, px in the image; best first where there are no scores. A box that reaches over the border
            is closed along it; those outside are not drawn.
        scores: (n,), in any range and order; they decide what is on top, what is faint, and the labels.
        levels: (n,) pyramid levels, 2..6, for the colours.
        max_boxes: how many to draw, the best.
        width: of the lines, px; None follows the size of the image.
        labels: how many of the best show their score; one that would cover a better one's is left out.
    Returns:
        A Pillow image, RGB, as large as `image`.
    Raises:
        AnnotationError: boxes that are not (n, 4), scores or levels that are not (n,), or any that is not finite.
        ImageError: an array that is not (H, W, 3) uint8.
    """
    pixels = copy_pixels(image)
    corners = _to_array("boxes", boxes, (-1, 4))
    ranks = np.zeros(len(corners)) if scores is None else _to_array("scores", scores, (len(corners),))
    order = np.argsort(-ranks, kind="stable")  # equals stay in their order
    best = order[_meet(corners, pixels.shape[:2])[order]][: max(max_boxes, 0)]
    strengths = _stretch(ranks[best])
    colours = _grade(strengths) if levels is None else _tell_apart(_to_array("levels", levels, (len(corners),))[best])
    line = width or max(1, round(float(np.hypot(*pixels.shape[:2])) / 350))
    frames = _snap(corners[best], line, pixels.shape[:2])
    for frame, colour, strength in reversed(list(zip(frames, colours, strengths, strict=True))):
        _draw_frame(pixels, frame, line, colour, FAINTEST + (1 - FAINTEST) * strength)
    picture = Image.fromarray(pixels)
    if scores is not None:
        _draw_labels(picture, list(zip(frames, colours, ranks[best], strict=True))[: max(labels, 0)], line)
    return picture


def copy_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """A copy (H, W, 3) uint8 RGB to draw on.

    Raises:
        ImageError: an array that is not (H, W, 3) uint8.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an array to draw on is (H, W, 3) uint8, and this one is {image.shape} {image.dtype}")
    return image.copy()


def _to_array(name: str, values: ArrayLike | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 == len(array):
        array = array.reshape(0, *shape[1:])  # [] are no boxes
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        wanted = str(shape).replace("-1", "n")
        raise AnnotationError(f"{name} to draw are {wanted}, and these are {array.shape}")
    if not np.isfinite(array).all():
        raise AnnotationError(f"{name} to draw are finite, and one of these is not; leave it out")
    return array


def _meet(boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(n,) bool: which of boxes (n, 4) touch an image of `size` (height, width)."""
    meets = (boxes[:, 2:] >= 0) & (boxes[:, :2] <= size[::-1])  # (n, 2): across and down
    return meets[:, 0] & meets[:, 1]


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values (n,) moved to 0..1; all 1 where they are all the same."""
    spread = np.ptp(values) if len(values) else 0
    return (values - values.min()) / spread if spread > 0 else np.ones_like(values)


def _grade(strengths: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of strengths (n,) in 0..1."""
    stops = np.linspace(0, 1, len(SCORE_COLOURS))
    return np.stack([np.interp(strengths, stops, channel) for channel in zip(*SCORE_COLOURS, strict=True)], axis=-1)


def _tell_apart(levels: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of levels (n,); those below 2 and above 6 look like their nearest."""
    return np.array([LEVEL_COLOURS[int(level)] for level in levels.clip(2, 6)]).reshape(-1, 3)


def _snap(boxes: np.ndarray, line: int, size: tuple[int, ...]) -> list[_Rectangle]:
    """The outer edges of lines drawn on the edges of boxes (n, 4), kept within an image of `size` (height, width)."""
    half = np.array([-line, -line, line, line]) / 2
    limits = np.array([size[1], size[0], size[1], size[0]])
    return [_Rectangle(*map(int, box)) for box in np.rint(boxes + half).clip(0, limits)]


def _draw_frame(pixels: np.ndarray, frame: _Rectangle, line: int, colour: np.ndarray, opacity: float) -> None:
    """Blend a coloured line, with dark ones outside and inside, into pixels (H, W, 3)."""
    rim = max(1, line // 3)
    _draw_ring(pixels, frame.inset(-rim), rim, np.array(DARK), 0.6 * opacity)
    _draw_ring(pixels, frame, line, colour, opacity)
    _draw_ring(pixels, frame.inset(line), rim, np.array(DARK), 0.6 * opacity)


def _draw_ring(pixels: np.ndarray, ring: _Rectangle, line: int, colour: np.ndarray, opacity: float) -> None:
    """Blend a frame of `line` px within a rectangle into pixels (H, W, 3), every pixel once."""
    x1, y1, x2, y2 = ring
    if x1 >= x2 or y1 >= y2:
        return  # the inner ring of a small box
    top, bottom = min(y1 + line, y2), max(y2 - line, y1 + line)
    for strip in (
        _Rectangle(x1, y1, x2, top),
        _Rectangle(x1, bottom, x2, y2),
        _Rectangle(x1, top, min(x1 + line, x2), bottom),
        _Rectangle(max(x2 - line, x1 + line), top, x2, bottom),
    ):
        left, upper, right, lower = (max(edge, 0) for edge in strip)  # a negative index would count from the end
        part = pixels[upper:lower, left:right]
        part[:] = np.rint(part * (1 - opacity) + colour * opacity)


def _draw_labels(picture: Image.Image, marks: list[tuple[_Rectangle, np.ndarray, float]], line: int) -> None:
    """Write each score on its box, the best first, where no label stands yet."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(11, 6 * line))
    placed: list[_Rectangle] = []
    for frame, colour, score in marks:
        text, pad = f"{score:.2f}", max(2, line)
        left, top, right, bottom = map(round, draw.textbbox((0, 0), text, font))
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x = max(0, min(frame.x1, picture.width - width))
        y = frame.y1 - height if frame.y1 >= height else frame.y1
        label = _Rectangle(x, y, x + width, y + height)
        if not any(label.meets(other) for other in placed):
            placed.append(label)
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=tuple(map(round, colour)))
            draw.text((x + pad - left, y + pad - top), text, DARK, font)
