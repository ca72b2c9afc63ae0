"""Threads that read ahead and write in the background, so that both overlap with the network.

Decoding and encoding run in C without Python's lock, so that on two cores a video takes as long as
its slowest stage. Queues are short: a stage that is ahead waits, and memory stays bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
#: Seconds that `Prefetch.close` waits for the item that is being made, and `Aside.close` for what was started.
PATIENCE = 0.5


class Prefetch(Generic[Item]):
    """Iterates over `items` as its thread makes them, up to `depth` ahead.

    What the thread raises is raised at the item where it happened. `close`, or leaving the `with`
    block, stops the thread after the item it is at.
    """

    def __init__(self, items: Iterable[Item], depth: int = 4) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="refnet-prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Prefetch[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        while True:
            kind, value = self._queue.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread, and wait for it, for `PATIENCE` at most: what it reads may never come."""
        self._stopped.set()
        end = monotonic() + PATIENCE
        while self._thread.is_alive() and monotonic() < end:
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _fill(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                self._queue.put(("item", item))
                if self._stopped.is_set():
                    break
            self._queue.put(("end", None))
        except BaseException as error:
            self._queue.put(("error", error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()


class Background:
    """Calls functions in a thread, one after another, or in `count` threads, in any order; up to `depth` of them wait.

    `close`, or leaving the `with` block, waits until all calls are done. What a call raises is raised
    by the next `call` or by `close`, once; functions that can fail are better off to report it.
    """

    def __init__(self, depth: int = 4, count: int = 1) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._drain, name=f"refnet-background-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called after those before it; waits while too many are waiting."""
        self._raise()
        self._queue.put(function)

    def close(self) -> None:
        """Wait for all calls, and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _drain(self) -> None:
        while (function := self._queue.get()) is not None:
            try:
                function()
            except BaseException as error:
                self._error = self._error or error


class Answer(Generic[Item]):
    """What a call that is under way will return."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def give(self, value: Item | None, error: BaseException | None = None) -> None:
        self._queue.put((value, error))

    def wait(self) -> Item:
        """What the call returns or raises, once; Ctrl-C ends the waiting."""
        value, error = self._queue.get()
        if error is not None:
            raise error
        result: Item = value
        return result


class Aside:
    """Calls functions in `count` threads of its own, in the order in which they come.

    Python handles signals in its main thread only, between two of its own steps. While compiled code
    runs there, Ctrl-C waits; while it runs here, Ctrl-C ends the waiting at once.
    """

    def __init__(self, count: int = 1) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Answer[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._threads = [
            threading.Thread(target=self._serve, name=f"refnet-aside-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, function: Callable[[], Item]) -> Answer[Item]:
        """Have `function` called; it may wait for others that were started before."""
        answer: Answer[Item] = Answer()
        self._calls.put((function, answer))
        return answer

    def call(self, function: Callable[[], Item]) -> Item:
        """What `function` returns or raises. After KeyboardInterrupt here, call no more."""
        return self.start(function).wait()

    def close(self) -> None:
        """End the threads after what was started, and wait for it, for `PATIENCE` at most.

        Compiled code that still runs in a thread while Python ends can end the process with a crash.
        """
        for _ in self._threads:
            self._calls.put(None)
        end = monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            function, answer = call
            try:
                answer.give(function())
            except BaseException as error:
                answer.give(None, error)
