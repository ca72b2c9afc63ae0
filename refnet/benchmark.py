"""How fast networks run here, next to other engines: measured in turn, in one process, on one core.

A round measures the core's peak, then every engine once in turn; rounds repeat until time is up. So a slow moment of
the machine meets all engines alike, and ratios hold where times do not.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet.engine import Engine, peak
from refnet.errors import DependencyError, OptionError
from refnet.exchange.onnx_export import to_onnx
from refnet.graph import Graph
from refnet.ops import Array
from refnet.passes import fold
from refnet.random_weights import random_weights

Run = Callable[[], Sequence[Array]]


@dataclass(frozen=True)
class Result:
    """One engine on one network.

    Attributes:
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
) -> list[Result]:
    """Measure refnet's engine and its peers on one network with seeded weights.

    Args:
        peers: of `PEERS`.
        seconds: time to measure for, after warming up.

    Raises:
        OptionError: no such peer. DependencyError: a peer, or onnx to hand it the network, is missing.
    """
    folded, weights = fold(graph, random_weights(graph))
    x = np.random.default_rng(0).uniform(0, 1, (batch, *graph.input_shape)).astype(np.float32)
    engine = Engine(folded, weights, threads)
    runs: dict[str, Run] = {"refnet": lambda: engine.run(x)}
    for name in peers:
        if name not in PEERS:
            raise OptionError(f"peers are {', '.join(PEERS)}; there is no {name!r}")
        runs[name] = PEERS[name](folded, weights, x, threads)
    outputs = {name: list(run()) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(peaks) < 5:
        peaks.append(peak())
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
                network=graph.name,
                batch=batch,
                engine=name,
                median=median * 1e3,
                p10=p10 * 1e3,
                p90=p90 * 1e3,
                gflops=gflops,
                peak_share=gflops / float(np.median(peaks)),
                ratio=median / reference,
                error=_difference(outputs["refnet"], outputs[name]),
            )
        )
    return results


def layers(graph: Graph, *, seconds: float = 2.0) -> list[tuple[str, str, str, float]]:
    """(layer, kernel, note, microseconds) of every step of the engine's plan, the best of many runs."""
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


def _difference(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    pairs = list(zip(ours, theirs, strict=True))
    return max(
        float(np.abs(a - b.reshape(a.shape)).max() / max(1.0, np.abs(a).max())) for a, b in pairs
    )


def _onnxruntime(graph: Graph, weights: Any, x: Array, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    model = to_onnx(graph, weights, fold_first=False)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(list(graph.outputs), {graph.input: x})


def _openvino(graph: Graph, weights: Any, x: Array, threads: int) -> Run:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    model = core.read_model(to_onnx(graph, weights, fold_first=False))
    model.reshape(list(x.shape))
    # Without the hint it would compute in bfloat16 where the CPU can.
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()

    def run() -> Sequence[Array]:
        made = request.infer([x])
        return [made[compiled.output(name)] for name in graph.outputs]

    return run


def _opencv(graph: Graph, weights: Any, x: Array, threads: int) -> Run:
    import cv2

    cv2.setNumThreads(threads)
    data = np.frombuffer(to_onnx(graph, weights, fold_first=False), np.uint8)
    net = cv2.dnn.readNetFromONNX(data)

    def run() -> Sequence[Array]:
        net.setInput(x)
        return list(net.forward(list(graph.outputs)))

    return run


def _mnn(graph: Graph, weights: Any, x: Array, threads: int) -> Run:
    # The converter's own module; importing MNN.tools instead would run pip behind the caller's back.
    converter, mnn = importlib.import_module("_tools"), importlib.import_module("MNN")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "model.mnn")
        source.write_bytes(to_onnx(graph, weights, fold_first=False))
        files = ["--modelFile", str(source), "--MNNModel", str(target)]
        converter.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "refnet"])
        # Without "high" it would compute in lower precision where the CPU can.
        setting = {"backend": 0, "numThread": threads, "precision": "high"}
        manager = mnn.nn.create_runtime_manager((setting,))
        names = [graph.input], list(graph.outputs)
        net = mnn.nn.load_module_from_file(str(target), *names, runtime_manager=manager)
    planar = mnn.expr.const(x, list(x.shape), mnn.expr.NCHW)
    source_value = mnn.expr.convert(planar, mnn.expr.NC4HW4)

    def run() -> Sequence[Array]:
        made = net.forward([source_value])
        return [np.array(mnn.expr.convert(y, mnn.expr.NCHW).read()) for y in made]

    return run


def plot(results: Sequence[Result], path: Path) -> None:
    """A bar per engine and network: its time over refnet's, so that refnet is the line at 1.

    Raises:
        DependencyError: matplotlib is missing.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise DependencyError("--plot needs matplotlib: pip install 'refnet[plot]'") from error
    networks = list(dict.fromkeys(r.network for r in results))
    engines = list(dict.fromkeys(r.engine for r in results))
    figure = figures.Figure(figsize=(2 + 1.6 * len(networks), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        shown = [r for r in results if r.engine == engine]
        places = [networks.index(r.network) + (i - (len(engines) - 1) / 2) * width for r in shown]
        axes.bar(places, [r.ratio for r in shown], width, label=engine)
    axes.set_xticks(range(len(networks)), networks, rotation=20, ha="right")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("median time / refnet's")
    axes.legend(frameon=False)
    figure.savefig(path)


def _needing(package: str, peer: Callable[..., Run]) -> Callable[..., Run]:
    def make(*arguments: Any) -> Run:
        try:
            return peer(*arguments)
        except ImportError as error:
            raise DependencyError(
                f"comparing with {package} needs it installed: pip install {package} ({error})"
            ) from error

    return make


PEERS: dict[str, Callable[..., Run]] = {
    "onnxruntime": _needing("onnxruntime", _onnxruntime),
    "openvino": _needing("openvino", _openvino),
    "mnn": _needing("MNN", _mnn),
    "opencv": _needing("opencv-python-headless", _opencv),
}
