"""Running a plan: arenas, batches and threads.

Every thread that runs a plan has an arena of its own, so one plan may be used from many threads at once; the compiled
code holds no state and releases the GIL. With `threads` above 1 a batch is split by image. An image's result does not
depend on who computes it, so any thread count gives identical bits.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from . import machine_code
from .executor import PROBE, ROW
from .plan import Plan
from .simd import LANES

_ALIGNMENT = 64


def aligned(floats: int) -> NDArray[np.float32]:
    """Uninitialised float32 memory that begins at a cache line."""
    buffer = np.empty(floats * 4 + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + floats * 4].view(np.float32)


class Runner:
    """A plan with memory, ready to run.

    `run(x)` takes (N, C, H, W) float32 of the plan's shape and returns its outputs as arrays, in order.
    """

    def __init__(self, plan: Plan, threads: int = 1) -> None:
        self.plan = plan
        self.threads = threads
        self._entry = machine_code.entry()
        self._weights = aligned(len(plan.weights))
        self._weights[:] = plan.weights
        self._program = plan.program.ctypes.data, 0, plan.rows, self._weights.ctypes.data
        self._local = threading.local()
        self._image = int(np.prod(plan.input_shape))

    def run(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """The outputs for a batch of any size."""
        x = np.ascontiguousarray(x, np.float32)
        images = len(x)
        results = np.empty((images, self.plan.output_size), np.float32)
        parts = min(self.threads, images)
        if parts > 1:
            bounds = [images * i // parts for i in range(parts + 1)]
            ranges = list(itertools.pairwise(bounds))
            pool = _pool(self.threads)
            futures = [pool.submit(self._images, x, results, *r) for r in ranges[1:]]
            self._images(x, results, *ranges[0])
            for future in futures:
                future.result()
        else:
            self._images(x, results, 0, images)
        if len(self.plan.outputs) == 1:
            return (results.reshape(images, *self.plan.outputs[0].shape),)
        return tuple(
            np.ascontiguousarray(results[:, o.offset : o.offset + o.size]).reshape(images, *o.shape)
            for o in self.plan.outputs
        )

    def _images(
        self, x: NDArray[np.float32], results: NDArray[np.float32], first: int, last: int
    ) -> None:
        """Run images first to last in this thread."""
        arena = getattr(self._local, "arena", None)
        if arena is None:
            memory = aligned(max(self.plan.arena, LANES))
            arena = self._local.arena = (memory, memory.ctypes.data)
        image, size = self._image, self.plan.output_size
        source = x.ctypes.data + first * image * 4
        target = results.ctypes.data + first * size * 4
        self._entry(*self._program, arena[1], source, image, last - first, target, size)


def _pool(threads: int) -> ThreadPoolExecutor:
    """One pool a process and size, shared by all models; a forked child starts its own."""
    key = (os.getpid(), threads)
    with _lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads - 1, "refnet")
        return _pools[key]


_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def peak() -> float:
    """GFLOP/s of this core, now, by a kernel of fused multiply-adds alone; takes a fraction of a millisecond."""
    rounds = 20_000
    program = np.zeros(ROW, np.int64)
    program[:3] = PROBE, 0, rounds
    arena = aligned(4 * LANES)
    arena[:] = 0.5
    entry = machine_code.entry()
    pointers = program.ctypes.data, 0, 1, arena.ctypes.data, arena.ctypes.data
    start = time.perf_counter()
    entry(*pointers, arena.ctypes.data, 0, 1, arena.ctypes.data, 0)
    return rounds * 24 * LANES * 2 / (time.perf_counter() - start) / 1e9
