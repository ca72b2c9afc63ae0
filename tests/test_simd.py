"""SIMD operations: what they mean in NumPy, and the same kernels at every lane count."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from refnet.kernels import elementwise, simd

LANES = simd.LANES
ROOT = Path(__file__).parents[1]

SAME_AT_ANY_WIDTH = """
import numpy as np, sys
import refnet
from refnet.passes import fold
from refnet.random_weights import random_weights
from refnet import reference
from refnet.kernels import guard, plan, simd
assert simd.LANES == int(sys.argv[1])
cases = [("pfld-ultralight", {"width": 0.25, "input_size": 64}), ("lffd-face-v2", {"input_size": (140, 150)}),
         ("pfld", {"width": 0.25, "input_size": 96}), ("basketnet", {"input_size": (133, 160)}),
         ("pfld-polaris-auxiliary", {})]
for name, options in cases:
    graph = refnet.build(name, **options)
    weights = random_weights(graph)
    x = np.random.default_rng(0).standard_normal((1, *graph.input_shape)).astype("f4")
    compiled = plan.compile_plan(*fold(graph, weights), guard=16)
    expected = reference.run(graph, {k: w.astype("f8") for k, w in weights.items()}, x.astype("f8"))
    for y, e in zip(guard.run_guarded(compiled, x), expected):
        error = abs(y - e).max() / max(1, abs(e).max())
        assert error < 2e-5, (name, error)
print("agreed")
"""


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_networks_agree_at_every_lane_count(lanes: int) -> None:
    if lanes == LANES:
        pytest.skip("the host's own lane count is what all other tests run at")
    if lanes == 16 and LANES != 16:
        pytest.skip("this host has no AVX-512")
    environment = {**os.environ, "REFNET_LANES": str(lanes)}
    done = subprocess.run(
        [sys.executable, "-c", SAME_AT_ANY_WIDTH, str(lanes)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "agreed"


def test_a_wrong_lane_count_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from refnet.kernels import simd"],
        env={**os.environ, "REFNET_LANES": "7"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "REFNET_LANES is '7'; expected 4, 8 or 16" in done.stderr


def test_definitions_in_numpy() -> None:
    memory = np.arange(4 * LANES, dtype=np.float32)
    vector = simd.load(memory, 3)
    assert_array_equal(vector, memory[3 : 3 + LANES])
    assert_array_equal(simd.broadcast(simd.at(memory, 2), 1), np.full(LANES, 3))
    assert_array_equal(simd.fma(vector, vector, simd.splat(1.0)), vector * vector + 1)
    assert_array_equal(simd.power_of_two(simd.splat(-3.0)), np.full(LANES, 0.125))
    assert_array_equal(simd.evens(vector, vector + LANES), np.arange(3, 3 + 2 * LANES, 2))
    simd.store(memory, 0, simd.splat(7.0))
    assert_array_equal(memory[:LANES], np.full(LANES, 7))


def test_bounds_keep_nan() -> None:
    nan = simd.splat(float("nan"))
    assert np.isnan(simd.maximum(simd.splat(0.0), nan)).all()
    assert np.isnan(simd.minimum(simd.splat(6.0), nan)).all()
    assert np.isnan(simd.tile_clamp(nan.reshape(1, 1, LANES), 0.0, 6.0)).all()


def test_exponential_is_accurate_in_plain_python_too() -> None:
    x = np.linspace(-80, 80, 40 * LANES).astype(np.float32)
    for i in range(0, x.size, LANES):
        expected = np.exp(x[i : i + LANES].astype(np.float64))
        error = np.abs(elementwise.exponential(x[i : i + LANES]) / expected - 1)
        assert error.max() < 5e-7
