"""Stages that overlap: all at work at once, errors where they belong, threads that end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from refnet.media.background import Aside, Background, Prefetch

COUNT = 15
FOREVER = (
    60.0  # seconds after which a wait has failed; nothing here depends on how long anything takes
)


def test_three_stages_are_at_work_at_once() -> None:
    """Reading of item i + 2, work on item i + 1 and writing of item i wait for each other, for every i: one after another,
    they would wait forever."""
    together = threading.Barrier(3, timeout=FOREVER)
    done: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(COUNT):
            if i >= 2:
                together.wait()
            yield i

    def write(i: int) -> None:
        if i < COUNT - 2:
            together.wait()
        done.append(i)

    with Prefetch(numbers()) as ahead, Background() as writer:
        for i in ahead:
            if 1 <= i < COUNT - 1:
                together.wait()
            writer.call(lambda i=i: write(i))  # type: ignore[misc]
    assert done == list(range(COUNT))


def test_several_writers_are_at_work_at_once_and_all_end() -> None:
    together = threading.Barrier(3, timeout=FOREVER)
    done: list[int] = []

    def write(i: int) -> None:
        together.wait()
        done.append(i)

    with Background(count=3) as writer:
        for i in range(6):
            writer.call(partial(write, i))
    assert sorted(done) == list(range(6))
    assert not [t for t in threading.enumerate() if t.name.startswith("refnet-background")]


def test_what_goes_wrong_ahead_is_raised_at_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    seen = []
    with pytest.raises(ValueError, match="two"), Prefetch(numbers()) as ahead:
        for number in ahead:
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
    ahead = Prefetch(endless(), depth=2)
    next(iter(ahead))
    ahead.close()
    assert let_go.is_set() and threading.active_count() == before


def test_it_reads_as_far_ahead_as_its_depth_and_no_further() -> None:
    made, ahead_by_depth = [], threading.Event()
    depth = 3

    def numbers() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == depth:
                ahead_by_depth.set()
            yield i

    with Prefetch(numbers(), depth=depth) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 0
        assert ahead_by_depth.wait(FOREVER), "it does not read ahead"
        for taken in range(2, 20):
            next(iterator)
            # depth of them wait in the queue, one waits to enter it
            assert len(made) <= taken + depth + 1


def test_what_goes_wrong_behind_is_raised_by_the_next_call() -> None:
    start, after = threading.Event(), threading.Event()
    called = []

    def fail() -> None:
        start.wait(FOREVER)
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"), Background() as writer:
        writer.call(fail)
        writer.call(after.set)  # runs when what went wrong before it is known
        start.set()
        assert after.wait(FOREVER)
        writer.call(lambda: called.append(1))
    assert not called


def test_what_goes_wrong_last_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"), Background() as writer:
        writer.call(fail)


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


def test_calls_run_at_once_in_as_many_threads_as_asked_for() -> None:
    """Each call waits for the other: with one thread neither would end."""
    aside, both = Aside(2), threading.Barrier(2, timeout=20)

    def met(number: int) -> int:
        both.wait()
        return number

    answers = [aside.start(partial(met, number)) for number in (3, 4)]
    assert [answer.wait() for answer in answers] == [3, 4]
    aside.close()


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
