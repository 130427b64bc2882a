"""Work on many things in threads: results in the order of the things, few of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, torch_threads: int = 1
) -> Iterator[Iterator[Future[Result]]]:
    """Call a function on each item, in threads, which end with the context, after what they are at.

    Args:
        function: called in any of the threads.
        items: taken in the caller's thread, as there is room: two a thread at most wait, so that memory stays flat.
        num_threads: that call it.
        torch_threads: that torch's operations take in each of them.

    Yields:
        An iterator over what becomes of each item, done or not, in the items' order.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, "ahead", initializer=torch.set_num_threads, initargs=(torch_threads,))
    try:
        yield _submit(pool, function, items, 2 * num_threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # each thread has its own number; threads to come get the one last set


def map_side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], at_once: int, torch_threads: int
) -> Iterator[Result]:
    """Call a function on each item, `at_once` of them side by side; results in the items' order.

    Args:
        function: called in as many threads, or in the caller's where one at a time is enough.
        items: of any number.
        at_once: one at least.
        torch_threads: that torch's operations take in each of the threads.
    """
    if min(at_once, len(items)) <= 1:
        yield from map(function, items)
        return
    with map_ahead(function, items, at_once, torch_threads) as results:
        for each in results:
            yield each.result()


def share_threads(at_once: int) -> int:
    """Those of torch's threads that fall to each of so many computations side by side; one at least."""
    return max(1, torch.get_num_threads() // at_once)


def _submit(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Future[Result]]:
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
