"""Ctrl-C before the command line is there to answer it, and while two things must be done together.

A program that is imported cannot catch it, and Python prints where it was. While refnet is the program that
starts, and no library of another, Ctrl-C therefore ends the process at once and without a word, as it ends a
program in C; from `refnet.cli.main` on it ends a run in order.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: What `sys.argv` begins with while `python -m refnet` imports the package, and as a script.
_PROGRAMS = frozenset({"-m", "refnet", "refnet.exe", "refnet-script.py"})
_changed = False


def end_at_once() -> None:
    """Have Ctrl-C end the process, where refnet is the program that starts."""
    global _changed
    if os.path.basename(next(iter(getattr(sys, "argv", ())), "")) not in _PROGRAMS:
        return
    import signal
    import threading

    in_main = threading.current_thread() is threading.main_thread()  # which alone has handlers
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _changed = True


def raise_again() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, if it was `end_at_once` that changed it."""
    global _changed
    if _changed:
        import signal

        signal.signal(signal.SIGINT, signal.default_int_handler)
        _changed = False


@contextmanager
def undivided() -> Iterator[None]:
    """Have Ctrl-C, or a request to end, wait until what is inside has been done, and take effect then."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():  # no handler runs in it
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        handler = signal.getsignal(number)
        if callable(handler):  # and not what the system does by itself
            handlers[number] = handler
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in came[:1]:
        handlers[number](number, frame)
