"""Processes that search photos beside this one.

Python runs one thread at a time. What a photo takes of it, for head poses above all, does not overlap between threads,
so that two cores in threads were 1.27 times as fast as one. Processes do not wait for each other. They are forks of this one, which starts them at once and shares the weights and the compiled kernels.
"""

from __future__ import annotations

import mmap
import os
import pickle
import queue
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import numpy as np

from refnet.arrays import Array
from refnet.errors import RefnetError
from refnet.media.images import opencv

Found = TypeVar("Found")
#: Bytes that a process shares with this one for its photo; they take memory only where a photo has been.
ROOM = 128 << 20
#: Whether this system has them that may be used: on macOS, the libraries that OpenCV builds on refuse to run in a fork.
AVAILABLE = sys.platform == "linux"


class Forks(Generic[Found]):
    """`function` of an image, called in `count` processes; from as many threads they run at once.

    Make it before any thread is started: a fork has one thread only, and would wait for ever for what another held.

    Args:
        function: of a uint8 array (H, W, 3), which it does not keep. What it returns is copied by pickle.
        count: number of processes.
    """

    def __init__(self, function: Callable[[Array], Found], count: int) -> None:
        self._forks: list[_Fork[Found]] = []
        self._idle: queue.SimpleQueue[_Fork[Found]] = queue.SimpleQueue()
        for _ in range(count):
            self._forks.append(_Fork(function, self._forks))
            self._idle.put(self._forks[-1])

    def __call__(self, image: Array) -> Found:
        """What `function` returns or raises; waits while all processes are at work.

        Raises:
            RefnetError: the process was ended from outside. Later images in its place are searched in this one.
        """
        fork = self._idle.get()
        try:
            return fork(image)
        finally:
            self._idle.put(fork)

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        for fork in self._forks:
            fork.close()


class _Fork(Generic[Found]):
    """One of the processes, and this one's end of the pipe to it."""

    def __init__(self, function: Callable[[Array], Found], before: list[_Fork[Found]]) -> None:
        self._function, self._room = function, mmap.mmap(-1, ROOM)
        self._pipe, far = Pipe()
        with warnings.catch_warnings():
            # Python warns of threads that it sees, such as those of a test runner; they hold nothing that is needed.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if self._process == 0:
            try:
                # An open end of another's pipe would keep that one alive when this process is gone.
                for end in (self._pipe, *(other._pipe for other in before)):
                    end.close()
                self._serve(far)
            finally:
                os._exit(0)
        far.close()

    def __call__(self, image: Array) -> Found:
        if self._pipe.closed:
            return self._function(image)
        shared = image.nbytes <= ROOM
        if shared:
            self._pixels(image.shape)[...] = image
        try:
            self._pipe.send(image.shape if shared else image)
            value, error = self._pipe.recv()
        except (EOFError, OSError):
            # What ends a process may be the image itself, which is not tried here again for that reason.
            self.close()
            raise RefnetError(
                "the process that searched it was ended, as the system does when memory runs short"
            ) from None
        if error is not None:
            raise error
        found: Found = value
        return found

    def close(self) -> None:
        if not self._pipe.closed:
            self._pipe.close()  # its reading ends, and so does it
            os.waitpid(self._process, 0)

    def _pixels(self, shape: tuple[int, ...]) -> Array:
        count = int(np.prod(shape))
        return np.frombuffer(self._room, np.uint8, count).reshape(shape)

    def _serve(self, pipe: Connection) -> None:
        """In the process: answer until the pipe is closed. Ctrl-C, which all processes of a terminal get, is for the
        one that writes the results."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        opencv().setNumThreads(1)
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                return
            image = self._pixels(asked) if isinstance(asked, tuple) else asked
            answer: tuple[Found | None, BaseException | None]
            try:
                answer = (self._function(image), None)
            except BaseException as error:
                answer = (None, _sendable(error))
            pipe.send(answer)


def _sendable(error: BaseException) -> BaseException:
    """`error`, or one that says the same where it cannot be copied to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
