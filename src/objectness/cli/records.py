"""Annotated images, for the commands that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .terminal import say

if TYPE_CHECKING:
    from ..data.records import ImageRecord

# A name each, so that what follows it may be a data set.
IgnoreClass = Annotated[tuple[str, ...], Parameter(consume_multiple=False)]


def read_records(
    sources: Sequence[str], reading: Mapping[str, Any], say_notes: bool = True
) -> list[tuple[ImageRecord, ...]]:
    """The images of each data set; what was left out or ignored is said.

    Args:
        sources: data sets that are used together.
        reading: how to read them: arguments of `read_datasets`.
        say_notes: False for all processes of a run but the first.
    """
    from ..data.dataset import read_datasets

    datasets = read_datasets(sources, **reading)
    notes = dict.fromkeys(note for dataset in datasets for note in dataset.notes)  # a set named twice is noted once
    for note in notes if say_notes else ():
        say(note)
    return [dataset.records for dataset in datasets]
