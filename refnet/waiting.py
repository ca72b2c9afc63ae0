"""What a terminal shows while something takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TextIO

#: Seconds after which a wait is shown.
PATIENCE = 2.0
#: Seconds between two looks at whether there is something new to show.
_PERIOD = 0.1


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that something takes long, and how long so far, until the block ends."""
    if not _terminal():
        yield
        return
    with _shown(_Wait(what, monotonic(), PATIENCE)):
        yield


@contextmanager
def long_wait(what: str, expected: str) -> Iterator[None]:
    """Say that something takes long which is sure to.

    On a terminal a line counts the seconds from the start; elsewhere, as in a log, there is a line at the start and one
    at the end, unless the block raises.

    Args:
        what: what is done, such as "compiling the kernels".
        expected: how long it takes, in words.
    """
    start = monotonic()
    if _terminal():
        with _shown(_Wait(f"refnet: {what} ({expected})", start, 0.0)):
            yield
    else:
        _print(f"refnet: {what} ({expected}) ...\n")
        yield
    with _changed:  # a wait around this one may be shown again by now
        _clear()
        _print(f"refnet: {what} took {monotonic() - start:.0f} s\n")


def progress(items: Iterable[Any] | None = None, *, total: int | None = None, unit: str) -> Any:
    """A bar with rate and time left on standard error, after two seconds and where that is a terminal: tqdm's, or
    without that package a line that counts.

    Args:
        items: what iterating over the bar gives; without it, `update()` counts.
        total: how many there are, where that is known and `items` does not say.
        unit: what is counted, such as "images".
    """
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return Count(items, total=total, unit=unit)
    return tqdm(
        items,
        total=total,
        unit=f" {unit}",
        dynamic_ncols=True,
        file=sys.stderr,
        delay=PATIENCE,
        leave=False,
        disable=None,
    )


class Count:
    """What of tqdm's bar is used here, in a line such as "12 of 40 images, 3.1 a second, 9 s left"."""

    def __init__(self, items: Iterable[Any] | None, *, total: int | None, unit: str) -> None:
        self._items, self._unit = items, unit
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._done, self._start = 0, monotonic()
        self._due = self._start + PATIENCE
        self._lock = threading.Lock()
        self._visible = False

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self._items or ():
                yield item
                self.update()
        finally:
            self.close()

    def update(self) -> None:
        """Count one more."""
        with self._lock:
            self._done += 1
            now = monotonic()
            if now < self._due or not _terminal():
                return
            self._due, rate = now + _PERIOD, self._done / (now - self._start)
            of = "" if self._total is None else f" of {self._total:,}"
            left = (
                "" if self._total is None else f", {(self._total - self._done) / rate:.0f} s left"
            )
            _print(f"\r\x1b[K{self._done:,}{of} {self._unit}, {rate:.1f} a second{left}")
            self._visible = True

    def write(self, line: str, file: TextIO | None = None) -> None:
        """Print a line, from any thread; the count comes again with the next `update`."""
        with self._lock:
            self._clear()
            print(line, file=file, flush=True)

    def close(self) -> None:
        """Take the line away."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._visible:
            _print("\r\x1b[K")
            self._visible = False


@dataclass(eq=False)
class _Wait:
    what: str
    start: float
    patience: float


#: What is being waited for, the innermost last: that one is shown, by one thread for all.
_waits: list[_Wait] = []
_changed = threading.Condition()
_line, _running = "", False


@contextmanager
def _shown(wait: _Wait) -> Iterator[None]:
    """Show `wait` while the block runs."""
    global _running
    with _changed:
        _waits.append(wait)
        if not _running:
            threading.Thread(target=_show, name="refnet-waiting", daemon=True).start()
            _running = True
    try:
        yield
    finally:
        with _changed:
            _waits.remove(wait)
            _clear()  # before the caller prints anything
            _changed.notify_all()


def _show() -> None:
    global _line, _running
    with _changed:
        while _waits:
            wait = _waits[-1]
            seconds = monotonic() - wait.start
            line = f"{wait.what}, {seconds:.0f} s"
            if seconds >= wait.patience and line != _line:
                _clear()
                _print(line)
                _line = line
            _changed.wait(_PERIOD)
        _running = False


def _clear() -> None:
    global _line
    if _line:
        _print("\r\x1b[K")
        _line = ""


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _print(text: str) -> None:
    if sys.stderr is not None:
        print(text, end="", file=sys.stderr, flush=True)
