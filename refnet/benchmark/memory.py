"""Peak memory of one network, measured in a process of its own: a process can only ever report its own maximum."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refnet.engine import Engine
from refnet.errors import BackendError
from refnet.networks import build
from refnet.random_weights import random_weights


def peak_memory(
    network: str, options: Mapping[str, Any], *, batch: int = 1, threads: int = 1
) -> tuple[float, float]:
    """(before the network is made, at most) megabytes resident in a fresh process that runs it twice.

    The first is Python with NumPy and refnet; the input, the weights and the outputs are in the second.

    Raises:
        BackendError: the process failed; the message is its last line.
    """
    request = json.dumps([network, dict(options), batch, threads])
    command = [sys.executable, "-m", "refnet.benchmark.memory", request]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"measuring the memory of {network} failed: {last}")
    before, peak = json.loads(done.stdout)
    return before, peak


def resident_peak() -> float:
    """The most megabytes that were ever resident in this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Run what the first argument asks for, and print the two figures as JSON."""
    network, options, batch, threads = json.loads(sys.argv[1])
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    before = resident_peak()
    graph = build(network, **options)
    engine = Engine(graph, random_weights(graph), threads)
    x = np.zeros((batch, *graph.input_shape), np.float32)
    for _ in range(2):
        engine.run(x)
    print(json.dumps([before, resident_peak()]))


if __name__ == "__main__":
    main()
