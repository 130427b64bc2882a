"""Boxes drawn on their image, the best on top, each between dark lines so that it shows anywhere.

Lines lie on whole pixels, which keeps them crisp, and grow with the image. Colours tell boxes apart if they are few, or
they show a box's pyramid level or score, and then doubtful boxes are faint. The tones of boxes and levels stay apart
for colour-blind eyes too (after Okabe and Ito).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import AnnotationError, ConfigError, ImageError
from ..files import replace_file
from .reading import to_rgb

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


ColourBy = Literal["box", "level", "score"]

# At least 23 apart in CIELAB for normal, protan, deutan and tritan eyes (Machado and others, 2009).
BOX_COLOURS = (
    (55, 180, 255),
    (255, 176, 0),
    (10, 246, 170),
    (250, 116, 182),
    (255, 255, 255),
    (250, 98, 50),
    (86, 110, 255),
    (246, 219, 117),
)
LEVEL_COLOURS = {2: (90, 190, 255), 3: (0, 220, 150), 4: (250, 235, 70), 5: (255, 150, 40), 6: (255, 110, 200)}
SCORE_COLOURS = ((110, 130, 255), (230, 90, 200), (255, 150, 70), (255, 225, 70))  # from the lowest to the highest
DARK = (12, 14, 20)  # the lines beside the coloured ones, and the text
FAINTEST = 0.4  # opacity of the lowest score that is drawn, where many are; the highest is drawn in full
LINES_ACROSS = {"box": 250, "level": 350, "score": 350}  # line widths in a picture's diagonal
LABEL_SHARE = 1 / 25  # of a picture that a label covers at most
SLIDES = (0.0, 1.0, 0.5, 0.25, 0.75)  # where along its box's edge a label may stand, in the order of preference


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

    def holds(self, other: _Rectangle) -> bool:
        return self.x1 <= other.x1 and other.x2 <= self.x2 and self.y1 <= other.y1 and other.y2 <= self.y2

    @property
    def area(self) -> int:
        return max(self.x2 - self.x1, 0) * max(self.y2 - self.y1, 0)


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: ArrayLike | Tensor,
    scores: ArrayLike | Tensor | None = None,
    levels: ArrayLike | Tensor | None = None,
    *,
    max_boxes: int = 100,
    colour_by: ColourBy | None = None,
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
        colour_by: "box" gives boxes that overlap different colours, and draws all in full: for few boxes. "level" and
            "score" colour by these, and draw low scores faint. By default "level" if levels are given, else "score".
        width: of the lines, px; None follows the size of the image.
        labels: how many of the best show their score. Labels lie within the picture and never cover each other; one for
            which there is no room, or which would hide much of a small picture, is left out.
    Returns:
        A Pillow image, RGB, as large as `image`.
    Raises:
        AnnotationError: boxes that are not (n, 4), scores or levels that are not (n,), or any that is not finite.
        ConfigError: an unknown `colour_by`, or "level" without levels.
        ImageError: an array that is not (H, W, 3) uint8.
    """
    pixels = copy_pixels(image)
    size = pixels.shape[:2]
    corners = _to_array("boxes", boxes, (-1, 4))
    ranks = np.zeros(len(corners)) if scores is None else _to_array("scores", scores, (len(corners),))
    found_on = np.zeros(len(corners)) if levels is None else _to_array("levels", levels, (len(corners),))
    order = np.argsort(-ranks, kind="stable")  # equals stay in their order
    best = order[_meet(corners, size)[order]][: max(max_boxes, 0)]
    by = colour_by or ("score" if levels is None else "level")
    if by not in LINES_ACROSS or (by == "level" and levels is None):
        raise ConfigError(f'colour_by must be "box", "score", or "level" with levels, got {by!r}')
    line = width or max(1, round(float(np.hypot(*size)) / LINES_ACROSS[by]))
    frames = _snap(corners[best], line, size)
    strengths = np.ones(len(best)) if by == "box" else _stretch(ranks[best])
    colours = {
        "box": lambda: _tell_apart(frames),
        "level": lambda: _tell_levels_apart(found_on[best]),
        "score": lambda: _grade(strengths),
    }[by]()
    for frame, colour, strength in reversed(list(zip(frames, colours, strengths, strict=True))):
        _draw_frame(pixels, frame, line, colour, FAINTEST + (1 - FAINTEST) * strength)
    picture = Image.fromarray(pixels)
    if scores is not None:
        _draw_labels(picture, frames, colours, [f"{score:.2f}" for score in ranks[best][: max(labels, 0)]], line)
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


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending, whole or not at all; missing folders are made.

    Raises:
        OSError: it cannot be written.
    """
    with replace_file(path, sync=False) as partial:
        picture.save(partial, Image.registered_extensions()[path.suffix.lower()], quality=90, subsampling=0)


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


def _tell_apart(frames: Sequence[_Rectangle]) -> np.ndarray:
    """Colours (n, 3) that tell boxes apart: each the one least used by those that it meets, then by all before it."""
    given: list[int] = []
    for frame in frames:
        near = Counter(colour for colour, other in zip(given, frames, strict=False) if frame.meets(other))
        used = Counter(given)
        given.append(min(range(len(BOX_COLOURS)), key=lambda colour: (near[colour], used[colour])))
    return np.array([BOX_COLOURS[colour] for colour in given]).reshape(-1, 3)


def _tell_levels_apart(levels: np.ndarray) -> np.ndarray:
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


def _draw_labels(
    picture: Image.Image, frames: Sequence[_Rectangle], colours: np.ndarray, texts: Sequence[str], line: int
) -> None:
    """Write texts on the first of the boxes, in their order, each where it covers no other."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(11, 6 * line))
    pad = max(2, line)
    placed: list[_Rectangle] = []
    for index, (text, colour) in enumerate(zip(texts, colours, strict=False)):
        left, top, right, bottom = map(round, draw.textbbox((0, 0), text, font))
        size = (right - left + 2 * pad, bottom - top + 2 * pad)
        if size[0] * size[1] > LABEL_SHARE * picture.width * picture.height:
            continue
        label = _place_label(index, frames, size, picture.size, line, placed)
        if label is not None:
            placed.append(label)
            draw.rectangle((label.x1, label.y1, label.x2 - 1, label.y2 - 1), fill=tuple(map(round, colour)))
            draw.text((label.x1 + pad - left, label.y1 + pad - top), text, DARK, font)


def _place_label(
    index: int,
    frames: Sequence[_Rectangle],
    size: tuple[int, int],
    limits: tuple[int, int],
    line: int,
    placed: Sequence[_Rectangle],
) -> _Rectangle | None:
    """Where the label of one of the boxes stands: at its edge, in the picture, on no other label.

    Of the places left it takes that where it hides the fewest other boxes' lines, and no small box of its own.

    Args:
        index: of the box among `frames`.
        frames: outer edges of all boxes' lines.
        size: (width, height) of the label, px.
        limits: (width, height) of the picture, px.
        line: width of the lines, px.
        placed: the labels that stand already.
    """
    frame = frames[index]
    others = [*frames[:index], *frames[index + 1 :]]
    best, fewest = None, len(frames) + 2
    for label in _list_places(frame, size, limits):
        if any(label.inset(-1).meets(other) for other in placed):  # a pixel between them, so that none looks longer
            continue
        hidden = sum(label.meets(other) and not other.inset(line).holds(label) for other in others)
        hidden += label.meets(frame) and 4 * size[0] * size[1] > frame.area
        if hidden < fewest:
            best, fewest = label, hidden
    return best


def _list_places(frame: _Rectangle, size: tuple[int, int], limits: tuple[int, int]) -> Iterator[_Rectangle]:
    """Places for a label within the picture: above its box, below it, inside at the top, inside at the bottom."""
    width, height = size
    for y in (frame.y1 - height, frame.y2, frame.y1, frame.y2 - height):
        for slide in SLIDES:
            x = min(max(round(frame.x1 + slide * (frame.x2 - frame.x1 - width)), 0), limits[0] - width)
            if x >= 0 <= y <= limits[1] - height:
                yield _Rectangle(x, y, x + width, y + height)
