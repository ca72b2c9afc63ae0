"""Whole networks through the engine: agreement with the reference, identical bits, threads, fork, memory."""

import ctypes
import multiprocessing
import os
import resource
import threading
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import refnet
from refnet import reference
from refnet.kernels import executor, machine_code
from refnet.kernels import runner as runners
from refnet.networks.lffd import LAYERS
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"width": 0.25}) for name in refnet.networks() if name.startswith("pfld")),
    ("pfld", {"input_size": 96}),
    ("pfld-ultralight", {}),
    ("pfld-ultralight-slim", {"width": 0.125, "input_size": 64}),
    ("pfld-ghostone", {"input_size": 80}),
    ("pfld-polaris", {"activation": "relu6", "conv2": "depthwise", "bn8": "applied"}),
    *((name, {"input_size": (141, 133)}) for name in LAYERS),
    ("lffd-light", {"input_size": (192, 256)}),
    ("lffd-face-v1", {"input_size": (127, 160), "residual": "post-activation"}),
    ("basketnet", {"input_size": (150, 131)}),
    ("tinynet", {"input_size": (61, 47)}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_every_network_equals_the_float64_reference(name: str, options: dict[str, Any]) -> None:
    """Between canaries and on memory full of NaN. Winograd's error stays inside of the direct tolerance."""
    graph = refnet.build(name, **options)
    weights = random_weights(graph)
    x = checks.image(graph.input_shape)
    if "lffd" in name:
        x = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.float32)
    folded, narrow = fold(graph, weights)
    plan = checks.compile_plan(folded, narrow, guard=16)
    wide = {key: w.astype(np.float64) for key, w in weights.items()}
    expected = reference.run(graph, wide, x.astype(np.float64))
    for y, e in zip(checks.run_guarded(plan, x), expected, strict=True):
        assert np.abs(y - e).max() <= checks.DIRECT * max(1.0, np.abs(e).max())


@pytest.fixture(scope="module")
def model() -> refnet.Model:
    graph = refnet.build("pfld-ultralight", width=0.25)
    return refnet.load("pfld-ultralight", random_weights(graph), width=0.25)


@pytest.fixture(scope="module")
def detector() -> refnet.Model:
    graph = refnet.build("lffd-face-v2", input_size=(140, 150))
    return refnet.load("lffd-face-v2", random_weights(graph), input_size=(140, 150))


def test_thread_counts_give_identical_bits(model: refnet.Model) -> None:
    x = checks.image((3, 112, 112), images=7)
    expected = model(x)
    for threads in (2, 3, 8):
        many = refnet.Model(model.graph, model.weights, threads=threads)
        assert_array_equal(many(x), expected)


def test_rows_of_one_large_image_are_split_with_identical_bits(detector: refnet.Model) -> None:
    x = checks.image((3, 430, 570))
    many = refnet.Model(detector.graph, detector.weights, threads=3)
    for y, e in zip(many(x), detector(x), strict=True):
        assert_array_equal(y, e)
    phases = many.engine.runner(x.shape[1:])._partitioned().phases
    assert sum(shared for _, _, shared in phases) > 20


def test_a_batch_is_its_images_one_by_one(detector: refnet.Model) -> None:
    x = checks.image((3, 140, 150), images=3)
    for i, outputs in enumerate(zip(*detector(x), strict=True)):
        for y, e in zip(outputs, detector(x[i : i + 1]), strict=True):
            assert_array_equal(y, e[0])


def test_a_runner_refuses_another_shape(model: refnet.Model) -> None:
    runner = model.engine.runner((3, 112, 112))
    for shape in ((1, 3, 112, 111), (3, 112, 112), (1, 1, 112, 112)):
        with pytest.raises(ValueError, match="this plan is for images"):
            runner.run(np.zeros(shape, np.float32))


def test_no_images_give_no_results(model: refnet.Model) -> None:
    assert model(np.zeros((0, 3, 112, 112), np.float32)).shape == (0, 196)  # type: ignore[union-attr]


def test_one_model_gives_the_same_bits_from_many_threads(model: refnet.Model) -> None:
    images = [checks.image((3, 112, 112), seed) for seed in range(8)]
    expected = [model(x) for x in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(model(images[i]), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_runs_too(model: refnet.Model) -> None:
    """Also with threads whose pool stayed with the parent."""
    many = refnet.Model(model.graph, model.weights, threads=2)
    x = checks.image((3, 112, 112), images=4)
    expected = many(x)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        theirs.send(bool(np.array_equal(many(x), expected)))

    process = context.Process(target=child)
    process.start()
    assert ours.poll(60) and ours.recv() is True
    process.join()


def test_strides_and_byte_order_of_the_input_do_not_matter(model: refnet.Model) -> None:
    x = checks.image((3, 112, 112), images=2)
    expected = model(x)
    assert_array_equal(model(np.asfortranarray(x)), expected)
    assert_array_equal(model(np.repeat(x, 2, axis=3)[..., ::2]), expected)


def test_results_are_fresh_memory_whether_the_input_can_be_written_or_not(
    model: refnet.Model,
) -> None:
    x = checks.image((3, 112, 112), images=2)
    first = model(x)
    kept = np.copy(first)
    x.flags.writeable = False
    second = model(x)
    assert not np.shares_memory(first, second)
    model(np.zeros_like(x))
    assert_array_equal(first, kept)
    assert_array_equal(second, kept)


@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
def test_the_entry_counts_images_that_are_not_finite(lanes: int) -> None:
    """Drawn sizes at drawn places in memory full of NaN, so that a read beyond an image shows too."""
    kernels = checks.at_lanes(lanes)
    entry, random = kernels.machine_code.entry(), np.random.default_rng(lanes)
    for size in (0, 1, lanes - 1, lanes, 4 * lanes, *random.integers(1, 12 * lanes, 200)):
        images, shift = random.integers(1, 4), random.integers(0, lanes)
        _, memory = kernels.guard.guarded(images * size + shift)
        x = memory[shift:].reshape(images, size)
        x[:] = random.standard_normal(x.shape) * random.choice([1.0, 1e-42, 3e38 / 8], x.shape)
        for _ in range(random.integers(0, 3) if size else 0):
            x.flat[random.integers(x.size)] = random.choice([np.nan, np.inf, -np.inf])
        place = x.ctypes.data
        for check, expected in ((1, np.sum(~np.isfinite(x).all(1))), (0, 0)):
            # A program without instructions.
            call = kernels.machine_code.Call(place, 0, 0, place, place, size, 0, check)
            assert entry(ctypes.byref(call), place, images, place) == expected


def test_the_entry_is_plain_python_too() -> None:
    """Every argument of `execute` comes from its place in a call."""
    net = checks.Net((3, 4, 5))
    graph = checks.graph_of(net, net.conv("input", "conv", 5, 1))
    plan = checks.compile_plan(graph, checks.random_weights(graph))
    x = checks.image((3, 4, 5), images=2)
    x[1, 0, 0, 0] = np.inf
    arena, output = np.zeros(plan.arena, np.float32), np.zeros((2, plan.output_size), np.float32)
    call = machine_code.Call(
        *(
            plan.program.ctypes.data,
            0,
            len(plan.instructions),
            plan.weights.ctypes.data,
            arena.ctypes.data,
        ),
        *(x[0].size, plan.output_size, 1),
    )
    with np.errstate(invalid="ignore"):
        assert (
            executor.enter(np.frombuffer(memoryview(call), np.int64), x.ravel(), 2, output.ravel())
            == 1
        )
    (expected,), finite = runners.Runner(plan).run(x)
    assert not finite
    np.testing.assert_allclose(output.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_value_that_is_not_finite_is_found_in_any_image(
    detector: refnet.Model, threads: int, images: int
) -> None:
    """However the batch is dealt out, also a large image to several threads; and the model goes on."""
    many = refnet.Model(detector.graph, detector.weights, threads=threads)
    x = checks.image((3, 141, 133), images=images)
    expected = many(x)
    for bad, position in [(np.nan, 0), (np.inf, x.size // 2), (-np.inf, x.size - 1)]:
        spoilt = x.copy()
        spoilt.flat[position] = bad
        for given in (spoilt, np.asfortranarray(spoilt)):
            with pytest.raises(refnet.ShapeError, match="got 1 values that are NaN or infinite"):
                many(given)
    for y, e in zip(many(x), expected, strict=True):
        assert_array_equal(y, e)


def test_a_large_image_on_several_threads_is_looked_at_once(detector: refnet.Model) -> None:
    runner = refnet.Model(detector.graph, detector.weights, threads=3).engine.runner((3, 430, 570))
    x = checks.image((3, 430, 570), images=2)
    assert runner.run(x)[1] and runner._partition is not None
    x[1, 2, -1, -1] = np.nan
    assert runner._shared(x, np.empty((2, runner.plan.output_size), np.float32), 1) == 1
    assert not runner.run(x)[1]


def test_numpy_looks_at_the_values_only_where_the_engine_does_not(
    model: refnet.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(x: object) -> None:
        raise AssertionError("looked at twice")

    monkeypatch.setattr(model, "_check_values", refuse)
    x = checks.image((3, 112, 112))
    model(x)
    for options in ({"backend": "numpy"}, {"dtype": np.float64}):
        with pytest.raises(AssertionError, match="looked at twice"):
            model.run(x, **options)


def test_values_come_before_any_other_error(model: refnet.Model) -> None:
    x = checks.image((3, 112, 112)).astype(np.float64)
    x[0, 0, 0, :2] = np.nan
    for given, options in (
        (x, {"backend": "compiled"}),
        (x, {"backend": "cuda"}),
        (x[:, :1].astype(np.float32), {}),
        (x, {"dtype": "float32"}),
    ):
        with pytest.raises(refnet.ShapeError, match="got 2 values that are NaN") as caught:
            model.run(given, **options)
        assert caught.value.__suppress_context__


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_the_values_that_count_are_the_callers(model: refnet.Model) -> None:
    """A float64 beyond float32 is finite; in float32 it runs as infinity."""
    x = np.full((1, 3, 112, 112), 1e300)
    assert np.shape(model.run(x, dtype="float32")) == (1, 196)


def test_float64_takes_the_reference_and_says_so_when_asked_otherwise(model: refnet.Model) -> None:
    x = checks.image((3, 112, 112)).astype(np.float64)
    assert model(x).dtype == np.float64  # type: ignore[union-attr]
    with pytest.raises(refnet.BackendError, match="computes in float32"):
        model.run(x, backend="compiled")


def test_runs_do_not_grow_memory(model: refnet.Model) -> None:
    x = checks.image((3, 112, 112))
    for _ in range(50):
        model(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2000):
        model(x)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2048, f"2000 runs grew memory by {grown} KiB"
