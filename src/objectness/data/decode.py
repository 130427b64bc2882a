"""A record's image as a tensor, checked against its annotations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import AnnotationError
from ..images.reading import read_image
from .records import ImageRecord


def decode_record(record: ImageRecord) -> Tensor:
    """An image (3, H, W) uint8, checked against the size that its annotations are made for.

    Raises:
        ImageError: it cannot be read.
        AnnotationError: its size is another one.
    """
    image = torch.from_numpy(read_image(record.path)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    found = (image.shape[1], image.shape[2])
    if found != (record.height, record.width):
        turned = found == (record.width, record.height)
        reason = "it was turned upright and its boxes were not" if turned else "boxes and image do not belong together"
        raise AnnotationError(
            f"{record.path}: the image is {found[1]} x {found[0]} px, its annotations are for "
            f"{record.width} x {record.height}; {reason}"
        )
    return image
