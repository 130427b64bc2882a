"""Annotated images, for the commands that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .terminal import say

if TYPE_CHECKING:
    from ..data.records import ImageRecord


def read_records(source: str, sources: dict[str, Any], say_notes: bool = True) -> tuple[ImageRecord, ...]:
    """One data set's images; what was left out is said."""
    from ..data.dataset import read_dataset

    dataset = read_dataset(source, images=sources["images"], skip_bad=sources["skip_bad"])
    for note in dataset.notes if say_notes else ():
        say(note)
    return dataset.records
