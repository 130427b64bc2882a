import math

import pytest
from synthetic import make_records

from objectness.data.split import count_held_out, split_records
from objectness.errors import ConfigError


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("photos"), 20)


@pytest.mark.parametrize(
    ("num_images", "share", "count"),
    [
        (9, None, 0),
        (10, None, 1),
        (199, None, 19),
        (5000, None, 200),
        (5000, 0.1, 500),
        (4, 0.1, 1),
        (25, 0.1, 2),
        (4, 0.0, 0),
        (2, 0.5, 1),
    ],
)
def test_counts_by_hand(num_images, share, count):
    assert count_held_out(num_images, share) == count


@pytest.mark.parametrize("share", [-0.1, 1.0, 7.0, math.nan, math.inf])
def test_shares_that_cannot_be(share):
    with pytest.raises(ConfigError, match=r"is not in \[0, 1\)"):
        count_held_out(10, share)


def test_something_must_be_left():
    with pytest.raises(ConfigError, match=r"0\.9 of 2 images to measure on leaves none to train on"):
        count_held_out(2, 0.9)
    with pytest.raises(ConfigError, match="leaves none"):
        count_held_out(1, 0.1)


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_every_image_is_on_one_side(records, count):
    train, held_out = split_records(records, count, seed=3)
    assert (len(train), len(held_out)) == (20 - count, count)
    assert sorted([*train, *held_out], key=records.index) == records
    assert [records.index(each) for each in held_out] == sorted(records.index(each) for each in held_out)


def test_the_seed_decides(records):
    first, again, other = (split_records(records, 7, seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_an_image_that_counts_twice_is_kept_apart_altogether(records):
    train, held_out = split_records([*records, *records, *records[:5]], 7, seed=0)
    assert len(held_out) == 7
    assert not {record.path for record in train} & {record.path for record in held_out}
    assert len(train) + sum(3 if records.index(each) < 5 else 2 for each in held_out) == 45
