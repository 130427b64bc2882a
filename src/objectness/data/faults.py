"""What is done about bad boxes and images: raise at the first, or leave them out and keep count."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from ..errors import AnnotationError

_PLURALS = {"box": "boxes", "image": "images"}


class Faults:
    """What is wrong in a data set: raised at once, or counted where the bad is to be left out."""

    def __init__(self, *, skip_bad: bool) -> None:
        self._skip_bad = skip_bad
        self._counts: Counter[str] = Counter()
        self._firsts: dict[str, str] = {}

    def reject(self, noun: Literal["box", "image"], what: str, count: int = 1) -> None:
        """Leave out `count` boxes or images; `what` describes the first.

        Raises:
            AnnotationError: unless the bad is to be left out.
        """
        plural = _PLURALS[noun]
        if not self._skip_bad:
            total = f" ({count} bad {plural} in all)" if count > 1 else ""
            raise AnnotationError(f"{what}{total}; mend it, or pass --skip-bad to leave such {plural} out")
        self.note(f"{plural} left out", what, count)

    def note(self, deed: str, what: str, count: int = 1) -> None:
        """Count what was left out, mended or ignored; `what` describes the first."""
        self._counts[deed] += count
        self._firsts.setdefault(deed, what)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of thing left out, mended or ignored."""
        return tuple(f"{deed}: {count}; the first is {self._firsts[deed]}" for deed, count in self._counts.items())
