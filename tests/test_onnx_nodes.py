"""ONNX's own tests of its operators, which the package onnx carries, on the reference and on the engine.

Every case whose first input is an image (N, C, H, W) is read; its other inputs become constants of the file, as
they are in a network. A case may be refused with one of our errors; none may come out wrong or crash. What the engine
has no kernels for it leaves to the reference: whole networks, or their last layers.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet.engine import Engine
from refnet.errors import BackendError, RefnetError
from refnet.exchange.onnx_network import read_network
from refnet.exchange.onnx_ops import READERS
from refnet.graph import Graph
from refnet.model import Model
from refnet.ops import Array

onnx = pytest.importorskip("onnx", reason="ONNX files need the extra `onnx`")

#: How many cases come out right, at least, and how many of them by kernels alone.
RIGHT, BY_KERNELS = 135, 77


def _cases() -> Iterator[tuple[Any, Any, list[Array], list[Array]]]:
    """(case, model, inputs, outputs) of every case of the package."""
    from onnx.backend.test.loader import load_model_tests

    for kind in ("node", "pytorch-operator", "pytorch-converted", "simple"):
        for case in load_model_tests(kind=kind):
            if case.model is not None:
                for inputs, outputs in case.data_sets or ():
                    yield case, case.model, list(inputs), list(outputs)
            elif case.model_dir is not None:
                folder = Path(case.model_dir)
                for data in sorted(folder.glob("test_data_set_*")):
                    model = onnx.load(folder / "model.onnx")
                    arrays = [
                        [_array(path) for path in sorted(data.glob(f"{part}_*.pb"))]
                        for part in ("input", "output")
                    ]
                    yield case, model, arrays[0], arrays[1]


def _array(path: Path) -> Array:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    array: Array = onnx.numpy_helper.to_array(tensor)
    return array


def _with_constants(model: Any, inputs: list[Array]) -> bytes:
    """The model, with all its inputs but the first as constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    held = {tensor.name for tensor in graph.initializer}
    free = [value.name for value in graph.input if value.name not in held]
    for name, array in zip(free[1:], inputs[1:], strict=False):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    data: bytes = changed.SerializeToString()
    return data


def _differs(case: Any, made: tuple[Array, ...], outputs: list[Array]) -> str:
    """What is wrong with the outputs of a case; nothing where they are right."""
    close = len(made) == len(outputs) and all(
        a.size == b.size and np.allclose(a.reshape(b.shape), b, rtol=case.rtol, atol=1e-6)
        for a, b in zip(made, outputs, strict=True)
    )
    return "" if close else f"{[a.shape for a in made]} for {[b.shape for b in outputs]}"


def _by_engine(
    graph: Graph, weights: dict[str, Array], x: Array
) -> tuple[str, str, tuple[Array, ...]]:
    """(what ran the graph, why it was not the engine alone, outputs)."""
    engine = Engine(graph, weights)
    try:
        (made, _), plan = engine.run(x), engine.plan(x.shape[1:])
    except BackendError as error:
        # As a model does that asks for no backend: it warns and runs by NumPy.
        with pytest.warns(RuntimeWarning, match="compiled backend cannot run"):
            found = Model(graph, weights)(x)
        return "by the reference", str(error), found if isinstance(found, tuple) else (found,)
    if plan.rest:
        return "last layers by the reference", ", ".join(node.op for node in plan.rest), made
    return "by kernels", "", made


def test_no_case_of_onnxs_own_comes_out_wrong(tmp_path: Path, say: Callable[[str], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases themselves, which overflow on purpose
        cases = list(_cases())
    path = tmp_path / "case.onnx"
    counts: Counter[str] = Counter()
    engine: Counter[str] = Counter()
    wrong, refused, left = [], [], []
    for case, model, inputs, outputs in cases:
        name = case.name
        if not {node.op_type for node in model.graph.node} & set(READERS) or not inputs:
            continue
        plain = all(isinstance(array, np.ndarray) for array in (*inputs, *outputs))
        if not plain or inputs[0].ndim != 4 or inputs[0].dtype not in (np.float32, np.float64):
            continue
        try:
            path.write_bytes(_with_constants(model, inputs))
            graph, weights = read_network(path)
            found = Model(graph, weights, backend="numpy")(inputs[0])
        except RefnetError as error:
            assert "\n" not in str(error), name
            counts["refused"] += 1
            refused.append(f"{name}: {error}")
            continue
        except Exception as error:
            counts["crashed"] += 1
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        difference = _differs(case, found if isinstance(found, tuple) else (found,), outputs)
        counts["wrong" if difference else "right"] += 1
        if difference:
            wrong.append(f"{name}: {difference}")
        try:
            how, why, made = _by_engine(graph, weights, inputs[0].astype(np.float32))
        except Exception as error:
            engine["crashed"] += 1
            wrong.append(f"{name} on the engine: {type(error).__name__}: {error}")
            continue
        difference = _differs(case, made, outputs)
        engine["wrong" if difference else how] += 1
        if difference:
            wrong.append(f"{name} on the engine: {difference}")
        if why:
            left.append(f"{name}, {how}: {why}")
    # Which cases, where standard output is shown; how many, in the summary of every run.
    print("\n".join([*refused, *left]))
    say(
        f"ONNX's own tests with an image, by the reference: {counts['right']} right, "
        f"{counts['wrong']} wrong, {counts['crashed']} crashed, {counts['refused']} refused"
    )
    say(
        f"and by the engine: {engine['by kernels']} right by kernels alone, "
        f"{engine['last layers by the reference'] + engine['by the reference']} with the reference's help, "
        f"{engine['wrong']} wrong, {engine['crashed']} crashed"
    )
    assert not wrong, "\n".join(wrong)
    assert counts["right"] >= RIGHT
    assert sum(engine.values()) == counts["right"]
    assert engine["by kernels"] >= BY_KERNELS
