"""From a fresh process to the first result: importing an engine, reading a file of weights, running one image.

Engines take turns, each round one process of each. Before the first round every engine runs once uncounted, so that
machine code, bytecode and files are where a second start finds them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet.checkpoints import save
from refnet.errors import BackendError, OptionError, UnsupportedError
from refnet.exchange.onnx_export import export_onnx
from refnet.networks import build
from refnet.optional import require
from refnet.random_weights import random_weights

#: What a process of each engine does, the array `x` and the texts `file` and `threads` given.
_SCRIPTS = {
    "refnet": "import refnet; refnet.load(file, backend='compiled', threads=int(threads))(x)",
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: x})
""",
    "openvino": """
import openvino
hints = {"INFERENCE_NUM_THREADS": int(threads), "INFERENCE_PRECISION_HINT": "f32"}
openvino.Core().compile_model(file, "CPU", hints)([x])
""",
    "opencv": """
import cv2
cv2.setNumThreads(int(threads))
net = cv2.dnn.readNetFromONNX(file)
net.setInput(x)
net.forward()
""",
}
_BEFORE = """
import sys
import numpy as np
file, threads, *shape = sys.argv[1:]
x = np.zeros([int(size) for size in shape], np.float32)
"""
_AFTER = "\nprint('done', flush=True)"
#: Module and package of the peers.
_PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "opencv": ("cv2", "opencv-python-headless"),
}
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Startup:
    """One engine on one network.

    Attributes:
        network: its label.
        engine: "refnet" or a peer's name.
        median, p10, p90: milliseconds from starting a process to its first result.
        ratio: this engine's median over refnet's: above 1, refnet is faster.
    """

    network: str
    engine: str
    median: float
    p10: float
    p90: float
    ratio: float


def startup(
    network: str,
    options: Mapping[str, Any],
    *,
    threads: int = 1,
    peers: Sequence[str] = (),
    seconds: float = 3.0,
    label: str | None = None,
) -> list[Startup]:
    """Measure how long a fresh process takes to the first result, refnet's and its peers'.

    refnet reads safetensors and its peers ONNX, with the same seeded weights.

    Args:
        peers: those of `PEERS` that read ONNX: onnxruntime, openvino, opencv.
        seconds: time for the rounds, of which there are at least five.
        label: what the results call the network; its name by default.

    Raises:
        OptionError: the start of such a peer cannot be measured. DependencyError: a peer is missing.
        BackendError: a process failed; the message is its last line.

    Warns:
        RuntimeWarning: ONNX lacks an operation of the network, and the peers are left out.
    """
    for peer in peers:
        if peer not in _SCRIPTS:
            able = ", ".join(name for name in _SCRIPTS if name != "refnet")
            raise OptionError(f"starts are measured of {able}, which read ONNX; not of {peer!r}")
        module, package = _PACKAGES[peer]
        require(module, f"comparing with {peer}", package)
    graph = build(network, **options)
    weights = random_weights(graph)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "network.safetensors"), Path(folder, "network.onnx")
        save(ours, network, options, weights)
        if peers:
            try:
                export_onnx(graph, weights, theirs)
            except UnsupportedError as error:
                left_out = f"{', '.join(peers)} left out: {error}"
                warnings.warn(left_out, RuntimeWarning, stacklevel=2)
                peers = ()
        times: dict[str, list[float]] = {engine: [] for engine in ("refnet", *peers)}
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode"))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages have theirs
        texts = [str(threads), "1", *map(str, graph.input_shape)]
        end = float("inf")
        while len(times["refnet"]) <= LEAST_ROUNDS or time.perf_counter() < end:
            for engine, taken in times.items():
                file = str(ours if engine == "refnet" else theirs)
                taken.append(_one(engine, [file, *texts], environment))
            if end == float("inf"):
                end = time.perf_counter() + seconds
    reference = float(np.median(times["refnet"][1:]))
    results = []
    for engine, taken in times.items():
        p10, median, p90 = (float(q) for q in np.percentile(taken[1:], (10, 50, 90)))
        results.append(Startup(label or network, engine, median, p10, p90, median / reference))
    return results


def _one(engine: str, arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """Milliseconds from starting a process to its first result."""
    command = [sys.executable, "-c", _BEFORE + _SCRIPTS[engine] + _AFTER, *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            said = process.stdout.read(4) if process.stdout else ""
            taken = time.perf_counter() - start
        if said != "done":
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise BackendError(f"measuring the start of {engine} failed: {last}")
    return taken * 1e3
