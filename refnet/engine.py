"""The one place where refnet calls its compiled kernels.

`Engine` runs a graph with its weights through `refnet.kernels`, imported when the first plan is made: batch norms are
folded and weights are packed once, a plan is compiled for every input shape that comes along, the newest plans are kept.

Layers without a kernel, and all that need them, run by the reference on what the engine has made, if no convolution or
linear layer is among them: the decoding at the end of a detector is arithmetic on lists of a few thousand numbers.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from refnet import reference
from refnet.errors import BackendError
from refnet.graph import Graph
from refnet.ops import Array
from refnet.passes import fold

if TYPE_CHECKING:
    from refnet.kernels import compiler as compilers
    from refnet.kernels import plan as plans
    from refnet.kernels import runner as runners

#: Bytes that the plans of a model may take. The oldest goes first; the newest is kept whatever it takes.
PLAN_MEMORY = 32 << 20
#: Bytes that an arena may have beyond what the newest plan needs, because an older one that is kept needs them.
ARENA_MEMORY = 256 << 20


def unavailable() -> str | None:
    """Why the compiled backend cannot run here, as a sentence; None where it can."""
    if importlib.util.find_spec("llvmlite") is not None:
        return None
    try:
        from refnet.kernels import machine_code

        found = machine_code.prebuilt_file()
    except Exception as error:  # such as a REFNET_LANES that no CPU has
        return str(error)
    if found is not None and found.exists():
        return None
    return (
        "this installation has no compiled kernels for this CPU, and nothing to compile them with; "
        "pip install numba brings that"
    )


class Engine:
    """The compiled backend of one model.

    Safe to use from many Python threads at once: each has its own scratch memory, and runs hold no
    lock and no GIL.

    Raises:
        BackendError: Numba is missing or fails, or the network has a layer without a kernel before its last convolution.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array], threads: int = 1) -> None:
        if reason := unavailable():
            raise BackendError(f"the compiled backend cannot run here: {reason}")
        self.graph, folded = fold(graph, weights)
        self.threads = threads
        self._weights: Mapping[str, Array] = folded  # until the compiler has them
        self._compiler: compilers.Compiler | None = None
        self._arenas: runners.Arenas | None = None
        self._runners: OrderedDict[tuple[int, ...], runners.Runner] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, x: Array) -> tuple[tuple[Array, ...], bool]:
        """The outputs for `x` (N, C, H, W) float32, in the order of the graph's outputs, and whether all of
        `x` is finite.

        Raises:
            ShapeError: the network cannot take this shape.
            BackendError: the engine cannot run this network, or not here; the message says why.
        """
        shape = x.shape[1:]
        runner = self._runners.get(shape) or self.runner(shape)
        outputs, finite = runner.run(x)
        return (self._finish(runner.plan, outputs) if runner.plan.rest else outputs), finite

    def _finish(self, plan: plans.Plan, made: tuple[Array, ...]) -> tuple[Array, ...]:
        """The graph's outputs, after the layers that the engine has no kernels for."""
        assert self._compiler is not None  # since there is a plan
        tensors = {output.name: array for output, array in zip(plan.outputs, made, strict=True)}
        reference.finish(plan.rest, self._compiler.weights, tensors)
        return tuple(tensors[name] for name in self.graph.outputs)

    def runner(self, shape: tuple[int, ...]) -> runners.Runner:
        """The plan for images of `shape` (C, H, W), compiled once, with its memory."""
        runner = self._runners.get(shape)
        if runner is None:
            with self._lock:
                runner = self._runners.get(shape) or self._compile(shape)
                self._runners[shape] = runner
                self._forget()
        return runner

    def _forget(self) -> None:
        """Drop the oldest plans until the others fit into PLAN_MEMORY and ARENA_MEMORY."""
        runners = self._runners
        *_, newest = runners.values()

        def fit() -> bool:
            plans = sum(runner.plan.nbytes for runner in runners.values())
            arena = max(runner.arena for runner in runners.values())
            return plans <= PLAN_MEMORY and 4 * (arena - newest.arena) <= ARENA_MEMORY

        while len(runners) > 1 and not fit():
            runners.popitem(last=False)
        assert self._arenas is not None  # since there is a plan
        self._arenas.most = max(runner.arena for runner in runners.values())

    def plan(self, shape: tuple[int, ...] | None = None) -> plans.Plan:
        """The plan for images of `shape` (C, H, W), by default the graph's own; `plan.explain()` shows it."""
        return self.runner(self.graph.input_shape if shape is None else shape).plan

    def _compile(self, shape: tuple[int, ...]) -> runners.Runner:
        try:
            from refnet.kernels import compiler as compilers
            from refnet.kernels import runner as runners
        except Exception as error:  # such as a REFNET_LANES that no CPU has
            raise BackendError(f"the compiled backend cannot run here: {error}") from error
        channels, height, width = shape
        if self._compiler is None:
            self._compiler = compilers.Compiler(self.graph, self._weights)
            self._arenas, self._weights = runners.Arenas(), {}
        try:
            plan = self._compiler.plan((channels, height, width), partial=True)
        except compilers.UnsupportedError as error:
            raise BackendError(
                f"the compiled backend cannot run {self.graph.name}: {error}"
            ) from None
        try:
            return runners.Runner(plan, self.threads, self._arenas)
        except Exception as error:  # whatever a compiler may raise: the caller can do without it
            raise BackendError(
                f"the compiled backend cannot run here: {type(error).__name__}: {error}"
            ) from error


def warmup() -> str:
    """Load the kernels, compiling them if no cached machine code fits; a sentence that says what was done."""
    from refnet.kernels import machine_code

    return machine_code.warmup()


def peak() -> float:
    """GFLOP/s of nothing but fused multiply-adds on this core, now: what benchmarks are compared with."""
    from refnet.kernels import runner as runners

    return runners.peak()


def host() -> dict[str, str | int]:
    """What the compiled backend sees and does here: CPU, lanes, and which machine code runs.

    Raises:
        BackendError: it cannot run here; the message says why.
    """
    if reason := unavailable():
        raise BackendError(f"the compiled backend cannot run here: {reason}")
    try:
        from refnet.kernels import host as this
        from refnet.kernels import machine_code, simd

        return {"cpu": this.cpu(), "lanes": simd.LANES, "machine code": machine_code.described()}
    except Exception as error:  # such as a REFNET_LANES that no CPU has
        raise BackendError(f"the compiled backend cannot run here: {error}") from error
