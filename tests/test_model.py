"""Loading and running a model: what it returns, and what it refuses and how."""

import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import reference
from refnet.errors import (
    BackendError,
    FileError,
    OptionError,
    ShapeError,
    UnknownNetworkError,
    WeightsError,
)
from refnet.model import graph_of
from refnet.random_weights import random_weights


@pytest.fixture(scope="module")
def tinynet() -> refnet.Model:
    return refnet.load("tinynet", random_weights(refnet.build("tinynet")), backend="numpy")


@pytest.fixture(scope="module")
def polaris() -> refnet.Model:
    graph = refnet.build("pfld-polaris", width=0.25)
    return refnet.load("pfld-polaris", random_weights(graph), width=0.25, backend="numpy")


def image(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def test_one_output_is_an_array(tinynet: refnet.Model) -> None:
    y = tinynet(image(2, 3, 31, 47))
    assert isinstance(y, np.ndarray)
    assert y.shape == (2, 64, 7, 11)
    assert y.dtype == np.float32


def test_several_outputs_are_a_tuple_in_the_order_of_the_graph(polaris: refnet.Model) -> None:
    features, landmarks = polaris(image(3, 3, 112, 112))
    assert polaris.graph.outputs == ("block3_5", "landmarks")
    assert features.shape == (3, 16, 28, 28)
    assert landmarks.shape == (3, 196)


def test_batch_is_the_images_one_by_one(polaris: refnet.Model) -> None:
    x = image(3, 3, 112, 112, dtype=np.float64)
    for whole, single in zip(
        polaris(x), zip(*(polaris(x[i : i + 1]) for i in range(3)), strict=True), strict=True
    ):
        np.testing.assert_allclose(whole, np.concatenate(single), rtol=1e-12, atol=1e-12)


def test_an_empty_batch_gives_empty_outputs(polaris: refnet.Model) -> None:
    features, landmarks = polaris(image(0, 3, 112, 112))
    assert features.shape == (0, 16, 28, 28)
    assert landmarks.shape == (0, 196)
    dx = polaris.vjp(image(0, 3, 112, 112), (features, landmarks))
    assert dx.shape == (0, 3, 112, 112)


def test_outputs_have_the_dtype_that_is_asked_for(tinynet: refnet.Model) -> None:
    x = image(1, 3, 15, 15)
    assert tinynet.run(x, dtype=np.float64).dtype == np.float64  # type: ignore[union-attr]
    assert tinynet.run(x.astype(np.float64)).dtype == np.float64  # type: ignore[union-attr]
    assert tinynet.run(x.astype(np.float64), dtype="float32").dtype == np.float32  # type: ignore[union-attr]


def test_input_is_not_written_to(tinynet: refnet.Model) -> None:
    x = image(1, 3, 15, 15)
    x.flags.writeable = False
    before = x.copy()
    tinynet(x)
    tinynet.vjp(x, np.ones((1, 64, 3, 3), np.float32))
    np.testing.assert_array_equal(x, before)


def test_a_non_contiguous_input_gives_the_same_outputs(tinynet: refnet.Model) -> None:
    x = image(1, 15, 15, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(tinynet(x), tinynet(np.ascontiguousarray(x)))


def test_the_gradient_is_linear_in_the_cotangents(polaris: refnet.Model) -> None:
    """The gradient is linear in the cotangents, and None stands for zeros."""
    x = image(1, 3, 112, 112, dtype=np.float64)
    a, b = (np.ones_like(y) for y in polaris(x))
    both = polaris.vjp(x, (a, b))
    np.testing.assert_allclose(
        polaris.vjp(x, (a, None)) + polaris.vjp(x, (None, b)), both, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_array_equal(polaris.vjp(x, (None, None)), np.zeros_like(x))


def test_activations_name_every_node(polaris: refnet.Model) -> None:
    x = image(1, 3, 112, 112)
    tensors = reference.activations(polaris.graph, polaris.weights, x)
    assert {n: a.shape[1:] for n, a in tensors.items()} == polaris.graph.shapes()
    np.testing.assert_array_equal(tensors["landmarks"], polaris(x)[1])


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ([[1.0]], "NumPy array"),
        (np.zeros((1, 3, 15, 15), np.uint8), "got uint8; convert it with"),
        (np.zeros((1, 3, 15, 15), np.float16), "got float16"),
        (np.zeros((3, 15, 15), np.float32), r"x\[None\]"),
        (np.zeros((1, 15, 15, 3), np.float32), "3 channels"),
        (np.zeros((1, 3, 5, 5), np.float32), "too small"),
        (np.full((1, 3, 15, 15), np.nan, np.float32), "675 values that are NaN"),
        (np.full((1, 3, 15, 15), np.inf), "NaN or infinite"),
    ],
)
def test_wrong_inputs_are_named(tinynet: refnet.Model, x: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        tinynet(x)
    with pytest.raises(ShapeError, match=says):
        tinynet.vjp(x, np.zeros((1, 64, 3, 3), np.float32))


def test_huge_finite_values_are_values(tinynet: refnet.Model) -> None:
    x = np.full((1, 3, 7, 7), 1e30, np.float32)
    assert np.isfinite(tinynet(x)).all()


def test_wrong_cotangents_are_named(polaris: refnet.Model) -> None:
    x = image(1, 3, 112, 112)
    features, landmarks = polaris(x)
    with pytest.raises(ShapeError, match="2 outputs"):
        polaris.vjp(x, landmarks)
    with pytest.raises(ShapeError, match=r"cotangent of output 'landmarks' has shape \(1, 195\)"):
        polaris.vjp(x, (features, landmarks[:, 1:]))


def test_a_wrong_dtype_or_backend_is_named(tinynet: refnet.Model) -> None:
    x = image(1, 3, 15, 15)
    with pytest.raises(OptionError, match="float32 or float64"):
        tinynet.run(x, dtype="float16")
    with pytest.raises(OptionError, match="auto, compiled, numpy"):
        tinynet.run(x, backend="cuda")
    for count in (0, 10**6):
        with pytest.raises(OptionError, match="threads is a whole number from 1 to 1,024"):
            refnet.load("tinynet", tinynet.weights, threads=count)


def test_weights_that_do_not_fit_are_listed() -> None:
    graph = refnet.build("tinynet")
    good = random_weights(graph)
    broken: dict[str, Any] = dict(good)
    del broken["block2.conv1.bias"]
    broken["conv1.weight"] = broken["conv1.weight"][:, :2]
    broken["conv2.bias"] = broken["conv2.bias"].astype(np.int64)
    broken["block1.conv1.bias"] = np.full(64, np.nan, np.float32)
    broken["extra.weight"] = np.zeros(3)
    with pytest.raises(WeightsError) as caught:
        refnet.load("tinynet", broken)
    text = str(caught.value)
    for part in (
        "missing block2.conv1.bias",
        "not known to the network extra.weight",
        "conv1.weight has shape (64, 2, 3, 3), expected (64, 3, 3, 3)",
        "conv2.bias has dtype int64",
        "block1.conv1.bias holds NaN",
    ):
        assert part in text
    with pytest.raises(WeightsError, match=r"missing conv1.weight, .* and 11 more"):
        refnet.load("tinynet", {})


def test_half_precision_weights_become_single() -> None:
    graph = refnet.build("tinynet")
    half = {n: w.astype(np.float16) for n, w in random_weights(graph).items()}
    model = refnet.load("tinynet", half)
    assert all(w.dtype == np.float32 for w in model.weights.values())
    np.testing.assert_array_equal(model.weights["conv1.weight"], half["conv1.weight"])


def test_weights_are_read_only(tinynet: refnet.Model) -> None:
    with pytest.raises(ValueError, match="read-only"):
        tinynet.weights["conv1.bias"][0] = 1


def test_what_load_cannot_find_is_named(tmp_path: Any) -> None:
    with pytest.raises(UnknownNetworkError, match="known: pfld"):
        refnet.load("pfdl-ultra")
    with pytest.raises(FileError, match="there is no file") as caught:
        refnet.load(tmp_path / "none.safetensors")
    assert caught.value.filename == str(tmp_path / "none.safetensors")
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), OSError)
    with pytest.raises(WeightsError, match="no released weights for pfld"):
        refnet.load("pfld")


def test_misspelt_options_are_named(tinynet: refnet.Model, tmp_path: Any) -> None:
    """Before weights are looked for; of a file, whose network is not known yet, against all networks."""
    with pytest.raises(OptionError, match="pfld has no option widht; did you mean width"):
        refnet.load("pfld", widht=1)
    with pytest.raises(OptionError, match="lffd-head has no option residual; it takes width, inp"):
        refnet.load("lffd-head", residual="pre-activation")
    np.savez(tmp_path / "tinynet.npz", **tinynet.weights)  # type: ignore[arg-type]
    path = tmp_path / "tinynet.npz"
    assert refnet.load(path, input_size=32).graph.input_shape == (3, 32, 32)
    with pytest.raises(
        OptionError, match="no network has an option inputsize; did you mean input_s"
    ):
        refnet.load(path, inputsize=32)
    with pytest.raises(WeightsError, match="tinynet has no option width"):
        refnet.load(path, width=1)


def test_a_model_survives_pickling(tinynet: refnet.Model) -> None:
    """Process pools send models to their workers, also after a run."""
    x = image(1, 3, 15, 15)
    for model in (tinynet, refnet.load("tinynet", tinynet.weights)):
        y = model(x)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(x), y)


def test_weights_are_the_models_own(tinynet: refnet.Model) -> None:
    """Writing to the arrays that a model was made from does not change the model."""
    mine = {name: w.copy() for name, w in tinynet.weights.items()}
    model = refnet.load("tinynet", mine, backend="numpy")
    mine["conv1.weight"][:] = 0
    np.testing.assert_array_equal(model(image(1, 3, 15, 15)), tinynet(image(1, 3, 15, 15)))


def test_an_exported_model_gives_the_same_outputs_elsewhere(
    tmp_path: Any, polaris: refnet.Model
) -> None:
    """The file gives the model's own outputs in ONNX Runtime, in order, for any batch size."""
    runtime = pytest.importorskip("onnxruntime")
    polaris.export(tmp_path / "polaris.onnx")
    session = runtime.InferenceSession(
        tmp_path / "polaris.onnx", providers=["CPUExecutionProvider"]
    )
    x = image(2, 3, 112, 112)
    for got, want in zip(session.run(None, {"input": x}), polaris(x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_model_gives_the_same_outputs_from_many_threads(tinynet: refnet.Model) -> None:
    inputs = [image(1, 3, 15 + 4 * i, 31) for i in range(4)]
    expected = [tinynet(x) for x in inputs]
    results: list[Any] = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            results[i] = tinynet(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_repr_names_network_input_and_backend(tinynet: refnet.Model) -> None:
    assert repr(tinynet) == "<refnet.Model tinynet, input (N, 3, 640, 640), backend numpy>"


def test_backends_are_named() -> None:
    assert BackendError.__mro__[1] is refnet.RefnetError


def test_a_backend_that_cannot_load_gives_way_to_numpy_once(tinynet: refnet.Model) -> None:
    """In a process of its own, since kernels load once: a lane count that no CPU has."""
    code = (
        "import warnings, numpy, refnet; from refnet.random_weights import random_weights\n"
        "model = refnet.load('tinynet', random_weights(refnet.build('tinynet')))\n"
        "x = numpy.zeros((1, 3, 15, 15), 'float32')\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always'); model(x); model(x)\n"
        "print(model.backend, len(seen), seen[0].message)\n"
    )
    environment = {**os.environ, "REFNET_LANES": "5"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.startswith("numpy 1 the compiled backend cannot run here: REFNET_LANES is '5'")


# --- numbers that no weights are


def test_impossible_numbers_are_refused_by_name() -> None:
    graph = refnet.build("pfld", width=0.25)
    good = random_weights(graph)
    refnet.Model(graph, good)
    for name, value, reason in (
        ("conv1.1.running_var", -1.0, "negative variances"),
        ("conv1.1.running_var", -1e-5, "negative variances"),  # minus epsilon: division by zero
        ("conv1.1.running_var", -1e-30, "negative variances"),
        ("conv1.0.weight", 1e38, "beyond 1e"),
        ("fc.bias", -1e38, "beyond 1e"),
        ("fc.bias", np.nan, "NaN"),
        ("conv1.1.running_mean", np.inf, "infinite"),
    ):
        for dtype in (np.float32, np.float64):
            bad = good[name].astype(dtype)
            bad.flat[-1] = value
            with pytest.raises(WeightsError, match=f"{name} holds .*{reason}") as caught:
                refnet.Model(graph, {**good, name: bad})
            assert str(caught.value).isprintable()
    zero = np.zeros_like(good["conv1.1.running_var"])  # a channel that never varied
    model = refnet.Model(graph, {**good, "conv1.1.running_var": zero})
    x = np.full((1, *graph.input_shape), 0.5, np.float32)
    np.testing.assert_allclose(model(x), model.run(x, backend="numpy"), rtol=2e-3, atol=2e-3)


def test_inputs_and_outputs_have_names_and_shapes(
    tinynet: refnet.Model, polaris: refnet.Model
) -> None:
    """None where any size will do; a run returns the outputs in this order."""
    assert polaris.inputs == {"input": (None, 3, 112, 112)}
    outputs = polaris(image(2, 3, 112, 112))
    for (name, shape), output in zip(polaris.outputs.items(), outputs, strict=True):
        assert shape == (None, *output.shape[1:]), name
    assert tinynet.inputs == {"input": (None, 3, None, None)}
    (shape,) = tinynet.outputs.values()
    assert shape[0] is None and shape[1] == np.shape(tinynet(image(1, 3, 15, 15)))[1]


def test_options_may_stand_in_the_name() -> None:
    weights = random_weights(refnet.build("pfld", width=0.25))
    model = refnet.load("pfld:width=0.25", weights)
    assert model.graph.options == refnet.build("pfld", width=0.25).options
    assert refnet.build("lffd-head:input_size=255x333").input_shape == (3, 255, 333)
    for name, says in {
        "pfld:widht=1": "did you mean width",
        "pfld:width": "KEY=VALUE",
        "pfdl:width=1": "no network is named 'pfdl'",
    }.items():
        with pytest.raises(OptionError, match=says):
            refnet.load(name)
        with pytest.raises(OptionError, match=says):
            refnet.build(name)


def test_a_name_means_the_released_variant() -> None:
    """In `load` and wherever a network is asked for; `build` has defaults of its own."""
    name = "lffd-face-v2"
    assert refnet.load(name).graph.options["width"] == graph_of(name).options["width"] == 0.5
    assert graph_of(f"{name}:width=0.25").options["width"] == 0.25
    assert refnet.build(name).options["width"] == 1
    assert graph_of("pfld").options == refnet.build("pfld").options


def test_networks_are_found_by_pattern() -> None:
    assert refnet.networks("lffd-plate*") == ("lffd-plate", "lffd-plate-small")
    assert set(refnet.networks(released=True)) < set(refnet.networks())
    assert refnet.networks("lffd-*", released=True) == ("lffd-face-v2", "lffd-light")


def test_images_are_told_from_inputs(tinynet: refnet.Model) -> None:
    for array in (np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.float32)):
        with pytest.raises(ShapeError, match=r"looks like an image: .*transpose\(2, 0, 1\)"):
            tinynet(array)
