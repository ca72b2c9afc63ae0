"""How fast networks run here, next to other engines: measured in turn, in one process, on one core.

A round measures the core's peak, then every engine once in turn; rounds repeat until time is up. So a slow moment of
the machine meets all engines alike, and ratios hold where times do not.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refnet.benchmark.peers import PEERS, Run
from refnet.engine import Engine, peak
from refnet.errors import BackendError, OptionError, RefnetError, UnsupportedError
from refnet.graph import Graph
from refnet.ops import Array
from refnet.passes import fold
from refnet.random_weights import random_weights

#: An engine whose outputs are further off, relative to the largest magnitude where above 1, runs another network.
AGREEMENT = 0.01


@dataclass(frozen=True)
class Result:
    """One engine on one network.

    Attributes:
        network: its label.
        engine: "refnet" or a peer's name.
        median, p10, p90: milliseconds a run.
        gflops: at the median, two per multiply-accumulate of the direct algorithms.
        peak_share: gflops over the core's own peak of fused multiply-adds, the median of this run's probes.
        ratio: this engine's median over refnet's: above 1, refnet is faster.
        error: largest difference from the first engine's outputs, relative above 1.
    """

    network: str
    batch: int
    engine: str
    median: float
    p10: float
    p90: float
    gflops: float
    peak_share: float
    ratio: float
    error: float


def measure(
    graph: Graph,
    *,
    batch: int = 1,
    threads: int = 1,
    peers: Sequence[str] = (),
    seconds: float = 3.0,
    label: str | None = None,
) -> list[Result]:
    """Measure refnet's engine and its peers on one network with seeded weights.

    Args:
        peers: of `PEERS`.
        seconds: time to measure for, after warming up.
        label: what the results call the network; its name by default.

    Raises:
        OptionError: no such peer. DependencyError: a peer, or onnx to hand it the network, is missing.
        BackendError: a peer fails to run the network, or its outputs differ.

    Warns:
        RuntimeWarning: a peer lacks an operation of the network, and is left out.
    """
    if unknown := [name for name in peers if name not in PEERS]:
        raise OptionError(f"peers are {', '.join(PEERS)}; there is no {unknown[0]!r}")
    folded, weights = fold(graph, random_weights(graph))
    x = np.random.default_rng(0).uniform(0, 1, (batch, *graph.input_shape)).astype(np.float32)
    engine = Engine(folded, weights, threads)
    runs: dict[str, Run] = {"refnet": lambda: engine.run(x)[0]}
    errors = {"refnet": 0.0}
    expected = list(engine.run(x)[0])
    for name in peers:
        try:
            runs[name], errors[name] = _checked(name, folded, weights, x, threads, expected)
        except UnsupportedError as error:
            warnings.warn(f"{name} is left out: {error}", RuntimeWarning, stacklevel=2)
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(peaks) < 5:
        peaks.append(max(peak() for _ in range(3)))  # the first finds the caches cold
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    flops = 2.0 * batch * sum(folded.macs().values())
    reference = float(np.median(times["refnet"]))
    results = []
    for name, taken in times.items():
        p10, median, p90 = (float(q) for q in np.percentile(taken, (10, 50, 90)))
        gflops = flops / median / 1e9
        results.append(
            Result(
                network=label or graph.name,
                batch=batch,
                engine=name,
                median=median * 1e3,
                p10=p10 * 1e3,
                p90=p90 * 1e3,
                gflops=gflops,
                peak_share=gflops / float(np.median(peaks)),
                ratio=median / reference,
                error=errors[name],
            )
        )
    return results


def layers(graph: Graph, *, seconds: float = 2.0) -> list[tuple[str, str, str, float]]:
    """(layer, kernel, note, microseconds) of every instruction of the engine's plan, the best of many runs."""
    folded, weights = fold(graph, random_weights(graph))
    runner = Engine(folded, weights).runner(graph.input_shape)
    x = np.random.default_rng(0).uniform(0, 1, (1, *graph.input_shape)).astype(np.float32)
    return runner.profile(x, seconds)


def pin() -> bool:
    """Keep this process on one core; False where the system has no such call."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return True


def _checked(
    name: str,
    graph: Graph,
    weights: dict[str, Array],
    x: Array,
    threads: int,
    expected: Sequence[Array],
) -> tuple[Run, float]:
    """A peer ready to run, and how far its outputs are from those expected."""
    try:
        run = PEERS[name](graph, weights, x, threads)
        difference = _difference(expected, run())
    except RefnetError:
        raise
    except Exception as error:  # whatever another engine may raise
        raise BackendError(f"{name} cannot run {graph.name} here: {error}") from error
    if not difference < AGREEMENT:
        raise BackendError(
            f"{name} computes something else for {graph.name}: its outputs differ by {difference:.2g}, "
            "so its time would say nothing"
        )
    return run, difference


def _difference(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    pairs = list(zip(ours, theirs, strict=True))
    return max(
        float(np.abs(a - b.reshape(a.shape)).max() / max(1.0, np.abs(a).max())) for a, b in pairs
    )
