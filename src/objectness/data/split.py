"""Images kept apart from training, to measure recall on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from .records import ImageRecord

USUAL_SHARE, MOST_BY_DEFAULT = 0.1, 200  # measuring takes time, and training wants the rest


def count_held_out(num_images: int, share: float | None) -> int:
    """How many images to keep apart.

    Args:
        num_images: all there are.
        share: of them, rounded, and at least one unless it is 0; None takes a tenth, rounded down and at most 200.

    Raises:
        ConfigError: the share is not in [0, 1), or leaves nothing to train on.
    """
    if share is None:
        return min(int(num_images * USUAL_SHARE), MOST_BY_DEFAULT)
    if not 0 <= share < 1:
        raise ConfigError(f"the share of images to measure on, {share:g}, is not in [0, 1)")
    count = max(1, round(num_images * share)) if share else 0
    if count >= num_images:
        raise ConfigError(f"a share of {share:g} of {num_images} images to measure on leaves none to train on")
    return count


def split_records(
    records: Sequence[ImageRecord], num_held_out: int, seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Keep some images apart, chosen at random.

    Args:
        records: of one data set or several; an image that is there more than once is kept apart altogether.
        num_held_out: how many images, at most as many as there are.
        seed: the same one chooses the same images of the same records.

    Returns:
        The records to train on, and those kept apart, each image once; both in the given order.
    """
    first = {record.path: record for record in reversed(records)}
    paths = list(dict.fromkeys(record.path for record in records))
    chosen = np.random.default_rng(seed).permutation(len(paths))[:num_held_out]
    held_out = {paths[place] for place in chosen.tolist()}
    return [each for each in records if each.path not in held_out], [first[path] for path in paths if path in held_out]
