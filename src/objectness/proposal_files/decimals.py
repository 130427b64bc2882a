"""Numbers between precisions, without the digits that only look like more: 12.34 stays 12.34.

A float32 of 12.34 is 12.34000015258789 as a float64, and 30.34 - 18.0 is 12.34 with an error in the sixteenth digit.
Both are replaced by the number with the fewest decimals that says the same where it came from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_MOST_DECIMALS = 10


def shorten(exact: np.ndarray, is_same: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """For each number the one with the fewest decimals, up to ten, that is the same; itself where there is none.

    Args:
        exact: float64 of any shape.
        is_same: tells for numbers in their places whether each may stand for the exact one.
    """
    shortened, is_open = exact.copy(), np.ones(exact.shape, dtype=bool)
    for decimals in range(_MOST_DECIMALS + 1):
        rounded = exact.round(decimals)
        found = is_open & is_same(rounded)
        shortened[found] = rounded[found]
        is_open &= ~found
        if not is_open.any():
            break
    return shortened


def add(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The sum of two float64 arrays, without the digits that are its rounding error alone."""
    total = values + others
    with np.errstate(invalid="ignore"):  # what is not finite has no neighbours, and stays
        error = 2 * np.spacing(np.max([abs(values), abs(others), abs(total)], axis=0))
        return shorten(total, lambda rounded: abs(rounded - total) <= error)


def widen(values: np.ndarray) -> np.ndarray:
    """Numbers of any precision as float64; narrower ones as the shortest decimals that are these very numbers."""
    exact = values.astype(np.float64)
    if values.dtype.kind != "f" or values.dtype.itemsize >= 8:
        return exact
    return shorten(exact, lambda rounded: rounded.astype(values.dtype) == values)
