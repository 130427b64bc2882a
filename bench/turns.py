"""Honest timing on a machine that others use too: systems take turns, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def take_turns(systems: Mapping[str, Callable[[], object]], num_runs: int) -> dict[str, float]:
    """Seconds of each system, the median of `num_runs`, one run of each after the other.

    Whatever slows the machine down for a while then slows all of them; each has run once before, untimed.
    """
    for run in systems.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(num_runs):
        for name, run in systems.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}
