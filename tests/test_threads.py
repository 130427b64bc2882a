import threading
import time
from collections.abc import Iterator

import pytest
import torch

from objectness.threads import map_ahead


def test_results_keep_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number * number

    with map_ahead(work, range(50), 4) as results:
        assert [each.result() for each in results] == [number * number for number in range(50)]
    with map_ahead(work, [], 4) as results:
        assert list(results) == []


def test_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with map_ahead(lambda number: number, items(), 3) as results:
        for done, each in enumerate(results):
            assert each.result() == done
            assert len(taken) <= done + 7  # this one, and two a thread


def test_a_failure_is_its_items_own() -> None:
    with map_ahead(lambda number: 6 // number, [3, 0, 2], 2) as results:
        first, second, third = results
        assert (first.result(), third.result()) == (2, 3)
        with pytest.raises(ZeroDivisionError):
            second.result()


def test_threads_end_with_the_context_and_what_waits_is_left() -> None:
    before, done, go = threading.enumerate(), list[int](), threading.Event()

    def work(number: int) -> None:
        go.wait(10)
        done.append(number)

    def stop() -> None:
        with map_ahead(work, range(100), 2) as results:
            next(results)
            threading.Timer(0.3, go.set).start()  # once those that wait have been called off
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert [each for each in threading.enumerate() if each.name.startswith("ahead") and each not in before] == []
    assert sorted(done) == [0, 1]


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    with map_ahead(lambda _: torch.get_num_threads(), range(4), 2, torch_threads=1) as results:
        assert {each.result() for each in results} == {1}
    assert torch.get_num_threads() == before
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [before]
