"""`refnet doctor`: what a bug report needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from typing import Any

import numpy as np

from refnet import __version__, engine
from refnet.cli.arguments import add_json, print_json
from refnet.cli.parser import add_verb
from refnet.errors import BackendError, DependencyError
from refnet.media.images import opencv
from refnet.model import load
from refnet.networks import build
from refnet.random_weights import random_weights
from refnet.waiting import waiting

PACKAGES = ("numpy", "numba", "llvmlite", "tqdm", "onnx")
#: Those that provide `cv2`. The one that was installed last has replaced the files of the others.
OPENCV = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
#: How far the compiled backend may be from the float64 reference.
TOLERANCE = 2e-4


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "doctor",
        "[--json]",
        description="Show what a bug report needs: versions, CPU, backend and why, which machine code "
        "runs and where it is, and whether both backends agree here. Exits with 1 where the self-test fails.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with waiting("testing"):
        tested, healthy = _self_test()
    report = {
        "refnet": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{package: _version(package) for package in PACKAGES},
        "opencv": _opencv(),
        **_backend(),
        "self-test": tested,
    }
    if arguments.json:
        print_json(report)
    else:
        width = max(map(len, report))
        print("\n".join(f"{key:{width}}  {value}" for key, value in report.items()))
    return 0 if healthy else 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _opencv() -> str:
    """The builds of OpenCV that are installed, and whether one can be imported."""
    there = [f"{name} {_version(name)}" for name in OPENCV if _version(name) != "not installed"]
    try:
        opencv()
    except DependencyError as error:
        return "; ".join([*there, str(error)])
    return ", ".join(there) or "of an unknown package"


def _backend() -> dict[str, str | int]:
    try:
        return {"backend": "compiled", **engine.host()}
    except BackendError as error:
        return {"backend": f"numpy, since {error}"}


def _self_test() -> tuple[str, bool]:
    """One sentence on a small network run by both backends, and whether it went well."""
    graph = build("lffd-plate-small")
    model = load(graph.name, random_weights(graph))
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 161, 198)).astype(np.float32)
    exact = model.run(x.astype(np.float64), backend="numpy")
    started = time.perf_counter()
    try:
        found = model.run(x, backend="compiled")
    except BackendError as error:
        return f"the compiled backend did not run: {error}", engine.unavailable() is not None
    seconds = time.perf_counter() - started
    difference = max(float(np.abs(a - b).max()) for a, b in zip(found, exact, strict=True))
    verdict = "agrees" if difference <= TOLERANCE else "DISAGREES"
    return (
        f"the compiled backend {verdict} with float64 NumPy to {difference:.1e} ({seconds:.2f} s, "
        "loading or compiling included)",
        difference <= TOLERANCE,
    )
