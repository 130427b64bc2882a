"""What people hold: the proposals of one image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import ImageError, ObjectnessError

if TYPE_CHECKING:
    import numpy as np
    import supervision
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Proposals:
    """Where the objects of one image are, best first, in the original image's own pixels.

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
    image: Path | Image.Image | np.ndarray | None = field(default=None, repr=False)
    features: Tensor | None = field(default=None, repr=False)

    @property
    def scores(self) -> Tensor:
        """(n,) float32 in [0, 1]: the probability that an object is there."""
        return torch.sigmoid(self.logits)

    def __len__(self) -> int:
        return len(self.boxes)

    def top(self, count: int) -> Proposals:
        """The best `count` of them, or all where there are fewer."""
        return self._take(slice(max(count, 0)))

    def above(self, min_score: float) -> Proposals:
        """Those whose score is at least `min_score`."""
        return self._take(slice(int((self.scores >= min_score).sum())))  # scores fall, so they are a prefix

    def draw(self, **style: Any) -> Image.Image:
        """The image with its boxes on it; it is read again if it is known by its path.

        Args:
            style: the keywords of `objectness.images.drawing.draw_boxes`.

        Raises:
            ImageError: there is no image, it cannot be read, or it no longer has the size that the proposals were made
                on.
        """
        from .images.drawing import copy_pixels, draw_boxes  # here, since only this method needs Pillow's drawing
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
        return draw_boxes(pixels, self.boxes, self.scores, self.levels, **style)

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
        try:
            from supervision import Detections
        except ImportError as error:
            raise ObjectnessError(
                "to_supervision() needs supervision: pip install 'objectness[supervision]'"
            ) from error
        return Detections(
            xyxy=self.boxes.numpy().copy(),
            confidence=self.scores.numpy(),
            class_id=torch.zeros_like(self.levels).numpy(),
            data={"level": self.levels.numpy().copy()},
        )

    def _take(self, part: slice) -> Proposals:
        features = None if self.features is None else self.features[part]
        return replace(
            self, boxes=self.boxes[part], logits=self.logits[part], levels=self.levels[part], features=features
        )
