"""Threads that read ahead and write in the background, so that both overlap with the network.

Decoding and encoding run in C without Python's lock, so that on two cores a video takes as long as
its slowest stage. Queues are short: a stage that is ahead waits, and memory stays bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


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
        """Stop the thread and wait for it."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

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
    """Calls functions one after another in a thread; up to `depth` of them wait.

    `close`, or leaving the `with` block, waits until all calls are done. What a call raises is raised
    by the next `call` or by `close`, once; functions that can fail are better off to report it.
    """

    def __init__(self, depth: int = 4) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, name="refnet-background", daemon=True)
        self._thread.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called after those before it; waits while too many are waiting."""
        self._raise()
        self._queue.put(function)

    def close(self) -> None:
        """Wait for all calls, and end the thread."""
        self._queue.put(None)
        self._thread.join()
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
