"""Honest timing on a machine that others use too: systems take turns, and medians are compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

MOST_RUNS = 200


def take_turns(
    systems: Mapping[str, Callable[[], object]],
    num_runs: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    at_least_s: float = 0.0,
    at_most_s: float = math.inf,
    warm_up: bool = True,
) -> dict[str, float]:
    """Seconds of each system, the median of its runs, one run of each after the other.

    Whatever slows the machine down for a while then slows all of them.

    Args:
        systems: what to time, by name.
        num_runs: of each.
        clock: seconds; `time.process_time` where the machine is busy with other work.
        at_least_s: what is done sooner runs more often than `num_runs`, up to `MOST_RUNS` times.
        at_most_s: what has taken longer by the end of a turn does not run again.
        warm_up: run each once before, untimed.
    """
    if warm_up:
        for run in systems.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    begin, turns = time.perf_counter(), 0
    while turns < num_runs or (turns < MOST_RUNS and time.perf_counter() - begin < at_least_s):
        for name, run in systems.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
        turns += 1
        if time.perf_counter() - begin > at_most_s:
            break
    return {name: statistics.median(each) for name, each in seconds.items()}
