"""What a conversion could not keep, counted and said."""

from __future__ import annotations

from collections import Counter


class Notes:
    """Counts what happens to images, by sentences that have `{images}` where the count belongs."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, sentence: str) -> None:
        """It happened to one more image."""
        self._counts[sentence] += 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each sentence once, in the order in which they came first."""
        return tuple(sentence.replace("{images}", _count_images(count)) for sentence, count in self._counts.items())


def _count_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
