"""Shared by the tests of the kernels: a graph through the engine, between canaries, against the definition.

The lane count is a constant of the package `refnet.kernels`, so other lane counts are other copies of the package,
imported under names of their own. A check runs them all on what it has drawn.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest

import refnet.kernels
from refnet import reference
from refnet.builder import Builder
from refnet.graph import Graph
from refnet.kernels import compiler, guard, instructions, plan, simd
from refnet.random_weights import random_weights

__all__ = ["Plan", "UnsupportedError", "compile_plan", "random_weights", "run_guarded"]

Plan: TypeAlias = plan.Plan
UnsupportedError, compile_plan = compiler.UnsupportedError, compiler.compile_plan
run_guarded = guard.run_guarded

#: The lane counts that this host can run: any vector may be wider than its registers, but AVX-512's has more of them.
LANE_COUNTS = (4, 8, 16) if simd.LANES == 16 else (4, 8)
#: Design's tolerance for direct algorithms and for Winograd, relative to the largest output above 1.
DIRECT, WINOGRAD = 2e-5, 2e-4


@functools.cache
def at_lanes(lanes: int) -> ModuleType:
    """The package `refnet.kernels`, its compiler, executor, guard and runner imported, with vectors of so many lanes. Loaded, and
    compiled if need be, once a process."""
    package, name = refnet.kernels, "refnet.kernels"
    if lanes != simd.LANES:
        name = f"kernels_of_{lanes}_lanes"
        spec = importlib.util.spec_from_file_location(
            name, package.__file__, submodule_search_locations=list(package.__path__)
        )
        assert spec is not None and spec.loader is not None
        package = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFNET_LANES", str(lanes))
        for module in ("compiler", "executor", "guard", "partition", "runner"):
            importlib.import_module(f"{name}.{module}")
    assert lanes == package.simd.LANES
    return package


@contextlib.contextmanager
def only(side: int) -> Iterator[None]:
    """Winograd layers make patches of side x side, at every lane count."""
    with pytest.MonkeyPatch.context() as patch:
        for lanes in LANE_COUNTS:
            algorithm = at_lanes(lanes).algorithm
            patch.setattr(algorithm, "TRANSFORMS", {side: algorithm.TRANSFORMS[side]})
        yield


def image(
    shape: tuple[int, ...], seed: int = 0, images: int = 1
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Standard normal float32 (N, C, H, W)."""
    return np.random.default_rng(seed).standard_normal((images, *shape)).astype(np.float32)


class Net(Builder):
    """A builder whose convolutions take their window as plain numbers, with any kernel."""

    def conv(  # type: ignore[override]
        self,
        x: str,
        prefix: str,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> str:
        size = pair(kernel)
        weight = (f"{prefix}.weight", (channels, self.shape[x][0] // groups, *size))
        return self.add(
            "conv",
            prefix,
            x,
            parameters={"weight": weight, "bias": (f"{prefix}.bias", (channels,))},
            kernel=size,
            stride=pair(stride),
            padding=pair(padding),
            dilation=pair(dilation),
            groups=groups,
        )

    def conv_transpose(
        self,
        x: str,
        prefix: str,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        output_padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        weight = (f"{prefix}.weight", (self.shape[x][0], channels // groups, *kernel))
        parameters = {"weight": weight} | (
            {"bias": (f"{prefix}.bias", (channels,))} if bias else {}
        )
        return self.add(
            "conv_transpose",
            prefix,
            x,
            parameters=parameters,
            kernel=kernel,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
        )


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """A number for rows and columns alike as a pair."""
    return (size, size) if isinstance(size, int) else size


def window_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of positions of a window along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def graph_of(net: Builder, *outputs: str) -> Graph:
    """The graph that a builder has made."""
    return net.graph("drawn", outputs, {}, fixed_size=False)


def check(
    graph: Graph,
    tolerance: float,
    x: Any = None,
    weights: Mapping[str, Any] | None = None,
    runs: str = "",
) -> Plan:
    """Run `graph` in the engine, guarded, at every lane count, and compare every output with the float64 reference.

    `runs` names a kernel that the plans must hold. Returns the plan for the host's own lane count.
    """
    weights = random_weights(graph, 1) if weights is None else weights
    x = image(graph.input_shape) if x is None else x
    wide = {name: np.asarray(w, np.float64) for name, w in weights.items()}
    expected = reference.run(graph, wide, x.astype(np.float64))
    plans: dict[int, Plan] = {}
    for lanes in LANE_COUNTS:
        kernels = at_lanes(lanes)
        made = plans[lanes] = kernels.compiler.compile_plan(graph, weights, x.shape[1:], guard=16)
        assert not runs or runs in opcodes(made), f"{lanes} lanes: {made.explain()}"
        outputs = kernels.guard.run_guarded(made, x)
        for name, y, e in zip(graph.outputs, outputs, expected, strict=True):
            assert y.shape == e.shape, name
            error = np.abs(y - e).max() / max(1.0, np.abs(e).max())
            assert error <= tolerance, f"{name}, {lanes} lanes: {error:.2e}\n{made.explain()}"
    return plans[simd.LANES]


def opcodes(made: Plan) -> list[str]:
    """The kernels that a plan runs, in order."""
    return [instructions.OPCODES[i.opcode] for i in made.instructions]
