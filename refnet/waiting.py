"""What a terminal shows while something takes long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

#: Seconds after which a wait is shown.
PATIENCE = 2.0


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that something takes long, and how long so far, until the block ends."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    ended, start = threading.Event(), monotonic()

    def show() -> None:
        shown, wait = False, PATIENCE
        while not ended.wait(wait):
            print(f"\r{what}, {monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True)
            shown, wait = True, 1.0
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, name="refnet-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
