"""Running a plan: arenas, batches and threads.

Every Python thread has an arena of its own, so one plan may be used from many threads at once; the compiled code holds
no state and releases the GIL. With `threads` above 1 a batch is split by image, and a large image by rows
(`partition.py`). A result does not depend on who computes it, so any thread count gives identical bits.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import machine_code
from .instructions import OPCODE, OPCODES, PROBE, ROUNDS, WIDTH
from .packing import aligned
from .plan import Plan
from .simd import LANES

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from .partition import Partition

FLOAT32 = np.dtype(np.float32)
_byte_of: Callable[..., ctypes.c_byte] = ctypes.c_byte.from_buffer
_address_of = ctypes.addressof


def address(array: NDArray[np.float32]) -> int:
    """Where the values of a contiguous array begin."""
    try:  # a fifth of the time of `array.ctypes.data`
        return _address_of(_byte_of(array))
    except (TypeError, ValueError):  # read-only, or empty
        return int(array.ctypes.data)


class Arenas:
    """The working memory of a model: one arena for each Python thread. All plans of the model share it, since a thread
    runs one of them at a time, and what a run leaves there means nothing to the next one.

    Attributes:
        most: floats that the largest of these plans needs; an arena beyond it, of a plan that is gone, is given back.
    """

    def __init__(self) -> None:
        self.most = 1 << 62
        #: Of each thread: `memory`, its `floats` and, counting its replacements, its `version`.
        self.local = threading.local()

    def reserve(self, floats: int) -> int:
        """The address of this thread's arena, of at least so many floats."""
        local = self.local
        held = getattr(local, "floats", 0)
        if held < floats or held > max(floats, self.most):
            local.version = getattr(local, "version", 0) + 1
            # Given back before its successor is there, so that memory never holds both.
            local.memory, local.floats = None, 0
            local.memory = aligned(max(floats, LANES))
            local.floats = len(local.memory)
        return address(local.memory)


class Runner:
    """A plan with memory, ready to run.

    `run(x)` takes (N, C, H, W) float32 of the plan's shape and returns its outputs as arrays, in order, and whether
    all of `x` is finite: the compiled code looks at every image just before it computes on it.
    """

    def __init__(self, plan: Plan, threads: int = 1, arenas: Arenas | None = None) -> None:
        self.plan = plan
        self.threads = threads
        #: Floats of arena that a run may need.
        self.arena = plan.arena + (threads - 1) * plan.per_thread
        self._entry = machine_code.entry()
        self._single = len(plan.outputs) == 1
        self._result = plan.outputs[0].shape if self._single else (plan.output_size,)
        self._shape = plan.input_shape
        self._arenas = Arenas() if arenas is None else arenas
        self._current = self._arenas.local
        #: Of each thread: the `entry` for its arena, and the `version` of that.
        self._prepared = threading.local()
        self._lock = threading.Lock()
        self._partition: Partition | None = None

    def run(self, x: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32], ...], bool]:
        """The outputs for a batch of any size, and whether it is free of NaN and infinity.

        Raises:
            ValueError: `x` is not (N, C, H, W) of the plan's image shape.
        """
        x = np.ascontiguousarray(x, FLOAT32)
        if x.shape[1:] != self._shape:
            raise ValueError(f"this plan is for images {self._shape}, not {x.shape[1:]}")
        images = len(x)
        # Fresh memory for every call: what a caller got before stays as it is.
        results = np.empty((images, *self._result), FLOAT32)
        if self.threads == 1:
            refused = self._images(x, results)
        # Images one by one keep all threads busy only if there are enough of them.
        elif self.threads > images and self._large:
            refused = sum(self._shared(x, results, n) for n in range(images))
        elif images > 1:
            count = min(self.threads, images)
            bounds = [images * i // count for i in range(count + 1)]
            ranges = itertools.pairwise(bounds)
            refused = self._together(
                [partial(self._images, x[a:b], results[a:b]) for a, b in ranges]
            )
        else:
            refused = self._images(x, results)
        # The compiled code writes the outputs of an image side by side; a single output needs no copy.
        if self._single:
            return (results,), not refused
        # Several lie one after the other within each image, so each is cut out of all images and copied.
        outputs = (
            np.ascontiguousarray(results[:, o.offset : o.offset + o.size]).reshape(images, *o.shape)
            for o in self.plan.outputs
        )
        return tuple(outputs), not refused

    def profile(self, x: NDArray[np.float32], seconds: float) -> list[tuple[str, str, str, float]]:
        """(layer, kernel, note, best microseconds) of every instruction, each called by itself, for `seconds`."""
        instructions, x = self.plan.instructions, np.ascontiguousarray(x[:1], np.float32)
        program = self.plan.program
        results = np.empty(self.plan.output_size, np.float32)
        arena = self._arenas.reserve(self.plan.arena)
        count = len(instructions)
        calls = [self._call(program, i, i + 1, arena, check=False) for i in range(count)]
        best = [float("inf")] * count
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or best[0] == float("inf"):
            for i, call in enumerate(calls):
                start = time.perf_counter()
                self._entry(ctypes.byref(call), x.ctypes.data, 1, results.ctypes.data)
                best[i] = min(best[i], time.perf_counter() - start)
        return [
            (instruction.name, OPCODES[instruction.opcode], instruction.note, micros * 1e6)
            for instruction, micros in zip(instructions, best, strict=True)
        ]

    def _together(self, tasks: Sequence[Callable[[], int]]) -> int:
        """Run the first task here and the others in the pool; the sum of what they return."""
        pool = _pool(self.threads)
        futures = [pool.submit(task) for task in tasks[1:]]
        return tasks[0]() + sum(future.result() for future in futures)

    @cached_property
    def _large(self) -> bool:
        """Whether an image is worth the threads' waiting for each other."""
        from . import partition

        work = sum(partition.work(instruction) for instruction in self.plan.instructions)
        return work >= 100 * partition.LEAST_WORK

    def _partitioned(self) -> Partition:
        """The plan for all threads, made once."""
        from . import partition

        if self._partition is None:
            with self._lock:
                if self._partition is None:
                    self._partition = partition.partition(self.plan, self.threads)
        return self._partition

    def _shared(self, x: NDArray[np.float32], results: NDArray[np.float32], n: int) -> int:
        """Run image n on all threads; 1 if it is not finite."""
        split = self._partitioned()
        # One arena for all threads, that of the thread that waits for the others.
        arena = self._arenas.reserve(split.arena)
        source, target = address(x[n]), address(results[n])

        def task(thread: int, first: int, last: int) -> int:
            # One thread looks at the image, in the first phase.
            check = first == thread == 0
            call = self._call(split.programs[thread], first, last, arena, check=check)
            return self._entry(ctypes.byref(call), source, 1, target)

        refused = 0
        for first, last, shared in split.phases:
            workers = range(self.threads) if shared else range(1)
            refused += self._together([partial(task, thread, first, last) for thread in workers])
        return refused

    def _call(
        self, program: NDArray[np.int64], first: int, last: int, arena: int, *, check: bool
    ) -> machine_code.Call:
        """What the entry needs for instructions first to last besides images and results."""
        sizes = math.prod(self.plan.input_shape), self.plan.output_size
        weights = self.plan.weights.ctypes.data
        return machine_code.Call(program.ctypes.data, first, last, weights, arena, *sizes, check)

    def _prepare(self) -> machine_code.Entry:
        """The entry for this Python thread, but for the images and results."""
        plan, arena = self.plan, self._arenas.reserve(self.plan.arena)
        call = self._call(plan.program, 0, len(plan.instructions), arena, check=True)
        entry: machine_code.Entry = partial(self._entry, ctypes.byref(call))
        self._prepared.entry, self._prepared.version = entry, self._current.version
        return entry

    def _images(self, x: NDArray[np.float32], results: NDArray[np.float32]) -> int:
        """Run all images of `x` in this thread; how many are not finite."""
        prepared = self._prepared
        try:
            # Another plan may have replaced the arena since.
            fits = prepared.version == self._current.version
        except AttributeError:
            fits = False
        entry: machine_code.Entry = prepared.entry if fits else self._prepare()
        return entry(address(x), len(x), address(results))


def _pool(threads: int) -> ThreadPoolExecutor:
    """One pool a process and size, shared by all models; a forked child starts its own."""
    from concurrent.futures import ThreadPoolExecutor  # 15 ms that one thread need not spend

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
    program = np.zeros(WIDTH, np.int64)
    program[OPCODE], program[ROUNDS] = PROBE, rounds
    arena = aligned(4 * LANES)
    arena[:] = 0.5
    entry = machine_code.entry()
    place = arena.ctypes.data
    call = machine_code.Call(program.ctypes.data, 0, 1, place, place, 0, 0, 0)
    start = time.perf_counter()
    entry(ctypes.byref(call), place, 1, place)
    return rounds * 24 * LANES * 2 / (time.perf_counter() - start) / 1e9
