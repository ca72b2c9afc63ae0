"""A process that has imported everything, and starts runs of the command line by forking: `python -m tests.kill.server`.

A run then takes a tenth of the time. It has no threads and has called nothing of OpenCV, so that what it
forks is as good as new. Standard input is a socket: a message holds in JSON what to run and how to end
it, and the two streams of a run; the answer, when it is over, is its code.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import signal
import socket
import sys
import threading
from typing import TextIO

import cv2  # noqa: F401
import pyarrow.compute  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore] # noqa: F401

from refnet.cli import main
from refnet.results import parquet

#: Parts so short that a run has several.
ROWS_AT_ONCE = 12
#: A run that is still there after so many seconds hangs, and ends with this code.
PATIENCE, HANGS = 300, 99


def serve(line: socket.socket) -> None:
    """Answer messages until there are no more."""
    while True:
        text, streams, _, _ = socket.recv_fds(line, 1 << 16, 2)
        if not text:
            return
        asked = json.loads(text)
        pid = os.fork()
        if pid == 0:
            line.close()
            _run(streams, **asked)
        for stream in streams:
            os.close(stream)
        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _run(
    streams: list[int],
    words: list[str],
    largest: int | None,
    kill: int | None,
    lines: int,
    delay: float,
) -> None:
    """Be the run, and end.

    Args:
        largest: bytes of the largest file that it may write.
        kill: the signal that ends it, `delay` seconds after its first `lines` lines.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGALRM, lambda *_: os._exit(HANGS))
    signal.alarm(PATIENCE)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if kill is not None:
        timer = threading.Timer(delay, os.kill, (os.getpid(), kill))
        timer.daemon = True
        if lines:
            sys.stdout = Counting(sys.stdout, lines, timer)
        else:
            timer.start()
    parquet.ROWS_AT_ONCE = ROWS_AT_ONCE
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


class Counting(io.TextIOBase):
    """Standard output that starts a timer at a line."""

    def __init__(self, stream: TextIO, lines: int, timer: threading.Timer) -> None:
        self.stream, self.left, self.timer = stream, lines, timer

    def write(self, text: str) -> int:
        count = self.stream.write(text)
        if text.endswith("\n"):
            self.left -= 1
            if self.left == 0:
                self.stream.flush()
                self.timer.start()
        return count

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()


if __name__ == "__main__":
    for module in (
        "refnet.kernels.compiler",
        "refnet.cli.faces",
        "refnet.cli.detect",
        "refnet.cli.blur",
    ):
        importlib.import_module(module)
    serve(socket.socket(fileno=os.dup(0)))
