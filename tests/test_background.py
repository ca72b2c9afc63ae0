"""Stages that overlap: the time of the slowest, errors where they belong, threads that end."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from refnet.media.background import Aside, Background, Prefetch

STEP, COUNT = 0.02, 15


def slow_numbers() -> Iterator[int]:
    for i in range(COUNT):
        time.sleep(STEP)
        yield i


def test_three_stages_take_the_time_of_the_slowest() -> None:
    """One after another they would take 3 · COUNT steps; overlapped, COUNT and two to fill up."""
    done: list[int] = []

    def write(i: int) -> None:
        time.sleep(STEP)
        done.append(i)

    start = time.perf_counter()
    with Prefetch(slow_numbers()) as numbers, Background() as writer:
        for i in numbers:
            time.sleep(STEP)
            writer.call(lambda i=i: write(i))  # type: ignore[misc]
    seconds = time.perf_counter() - start
    assert done == list(range(COUNT))
    assert seconds < 2 * COUNT * STEP


def test_what_goes_wrong_while_reading_ahead_is_raised_at_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    seen = []
    with pytest.raises(ValueError, match="two"), Prefetch(numbers()) as prefetched:
        for number in prefetched:
            seen.append(number)
    assert seen == [1]


def test_closing_stops_the_thread_and_lets_go_of_what_it_read() -> None:
    let_go = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            let_go.set()

    before = threading.active_count()
    prefetched = Prefetch(endless(), depth=2)
    next(iter(prefetched))
    prefetched.close()
    assert let_go.is_set() and threading.active_count() == before


def test_it_reads_no_further_ahead_than_its_depth() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with Prefetch(numbers(), depth=3) as prefetched:
        next(iter(prefetched))
        time.sleep(0.1)
        assert len(made) <= 6


def test_what_goes_wrong_in_the_background_is_raised_at_the_end() -> None:
    called = []

    def fail() -> None:
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"), Background() as writer:
        writer.call(fail)
        for i in range(3):
            time.sleep(0.02)
            writer.call(lambda i=i: called.append(i))  # type: ignore[misc]
    assert len(called) < 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_ctrl_c_does_not_wait_for_what_runs_aside() -> None:
    aside = Aside()
    assert aside.call(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        aside.call(lambda: 1 // 0)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        aside.call(lambda: time.sleep(3))
    aside.close()
    assert time.perf_counter() - start < 2


def test_closing_does_not_wait_for_what_never_comes() -> None:
    comes = threading.Event()

    def never() -> Iterator[int]:
        yield 1
        comes.wait(20)

    prefetched = Prefetch(never())
    next(iter(prefetched))
    start = time.perf_counter()
    prefetched.close()
    assert time.perf_counter() - start < 5
    comes.set()
