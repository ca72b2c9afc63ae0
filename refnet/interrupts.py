"""Ctrl-C before the command line is there to answer it.

A program that is imported cannot catch it, and Python prints where it was. While refnet is the program that
starts, and no library of another, Ctrl-C therefore ends the process at once and without a word, as it ends a
program in C; from `refnet.cli.main` on it ends a run in order.
"""

import os
import sys

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
