"""SIMD operations: what they mean in NumPy, and the same kernels at every lane count."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import refnet
from refnet.kernels import elementwise, simd
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

LANES = simd.LANES
ROOT = Path(__file__).parents[1]

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("pfld-ultralight", {"width": 0.25, "input_size": 64}),
    ("lffd-face-v2", {"input_size": (140, 150)}),
    ("pfld", {"width": 0.25, "input_size": 96}),
    ("basketnet", {"input_size": (133, 160)}),
    ("pfld-polaris-auxiliary", {}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_networks_agree_at_every_lane_count(name: str, options: dict[str, Any]) -> None:
    graph = refnet.build(name, **options)
    folded, weights = fold(graph, random_weights(graph))
    checks.check(folded, checks.DIRECT, weights=weights)


def test_the_environment_chooses_the_lane_count() -> None:
    for lanes in checks.LANE_COUNTS:
        done = subprocess.run(
            [sys.executable, "-c", "from refnet.kernels import simd; print(simd.LANES)"],
            env={**os.environ, "REFNET_LANES": str(lanes)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [str(lanes)], done.stderr


def test_a_wrong_lane_count_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from refnet.kernels import simd"],
        env={**os.environ, "REFNET_LANES": "7"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "REFNET_LANES is '7'; expected 4, 8 or 16" in done.stderr


def test_the_definitions_in_numpy_are_those_of_their_formulas() -> None:
    memory = np.arange(4 * LANES, dtype=np.float32)
    vector = simd.load(memory, 3)
    assert_array_equal(vector, memory[3 : 3 + LANES])
    assert_array_equal(simd.broadcast(simd.at(memory, 2), 1), np.full(LANES, 3))
    assert_array_equal(simd.fma(vector, vector, simd.splat(1.0)), vector * vector + 1)
    assert_array_equal(simd.power_of_two(simd.splat(-3.0)), np.full(LANES, 0.125))
    assert_array_equal(simd.evens(vector, vector + LANES), np.arange(3, 3 + 2 * LANES, 2))
    assert_array_equal(simd.floats_of(memory.ctypes.data)[: memory.size], memory)
    table = np.arange(5)
    assert_array_equal(simd.integers_of(table.ctypes.data)[: table.size], table)
    assert [simd.any_nan(simd.splat(value)) for value in (np.nan, np.inf, 0.0)] == [1, 0, 0]
    simd.store(memory, 0, simd.splat(7.0))
    assert_array_equal(memory[:LANES], np.full(LANES, 7))


def test_a_window_is_nine_taps_of_every_pixel() -> None:
    """Columns 0, 2, 4 ... of five rows of nine, then their odd ones: two rows of four windows of stride 2."""
    image = np.random.default_rng(0).integers(-9, 9, (5, 9)).astype(np.float32)
    phases = np.zeros((5, 2, 5), np.float32)
    phases[:, 0], phases[:, 1, :4] = image[:, ::2], image[:, 1::2]
    taps = np.random.default_rng(1).integers(-9, 9, (3, 3, LANES)).astype(np.float32)
    tile = simd.tile_window(
        np.ones((8, 1, LANES), np.float32), 2, phases.ravel(), 0, 10, 5, taps.ravel(), 0
    )
    for r, p in np.ndindex(2, 4):
        window = image[2 * r : 2 * r + 3, 2 * p : 2 * p + 3]
        assert_array_equal(tile[4 * r + p, 0], 1 + np.tensordot(window, taps, 2))
    assert_array_equal(simd.tile_part(tile, 4, 4), tile[4:])


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


def test_reductions_over_lanes_give_every_lane_the_same_bits() -> None:
    vector = np.random.default_rng(0).standard_normal(LANES).astype(np.float32)
    assert_array_equal(simd.largest(vector), np.full(LANES, vector.max()))
    np.testing.assert_allclose(
        simd.total(vector), np.full(LANES, vector.astype(np.float64).sum()), rtol=1e-5
    )
    assert len(set(simd.total(vector).tolist())) == 1
