import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectness.proposal_files.decimals import add, widen


@given(st.integers(-(10**6), 10**6), st.integers(0, 6))
def test_short_decimals_come_back_from_float32(digits: int, decimals: int) -> None:
    """float32 keeps every number of six digits."""
    value = digits / 10**decimals
    assert widen(np.array([value], np.float32)).tolist() == [value]


@given(st.floats(width=32))
def test_widened_numbers_are_the_same_float32(value: float) -> None:
    narrow = np.array([value], np.float32)
    np.testing.assert_array_equal(widen(narrow).astype(np.float32), narrow)


def test_what_is_wide_stays() -> None:
    for values in (np.array([0.1 + 0.2, 1 / 3]), np.array([1, 2**40]), np.array([True, False])):
        np.testing.assert_array_equal(widen(values), values)
        assert widen(values).dtype == np.float64


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (0.3, -0.1, 0.2),  # 0.19999999999999998
        (0.1, 0.2, 0.3),  # 0.30000000000000004
        (1 / 3, 1 / 3, 2 / 3),
        (0.0, 1e-12, 1e-12),
        (-5.5, 5.5, 0.0),
        (np.inf, 1.0, np.inf),
    ],
)
def test_sums_have_no_digits_of_rounding(first: float, second: float, total: float) -> None:
    assert add(np.array([first]), np.array([second])).tolist() == [total]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_sums_are_right_but_for_rounding(first: float, second: float) -> None:
    error = 2 * np.spacing(max(abs(first), abs(second), abs(first + second)))
    assert abs(add(np.array([first]), np.array([second]))[0] - (first + second)) <= error
