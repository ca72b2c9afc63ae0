"""Networks from ONNX files: the same outputs as onnxruntime's, and errors that say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.errors import CheckpointError, DependencyError, OptionError, ShapeError
from refnet.exchange.onnx_import import from_onnx
from refnet.fields.receptive_field import receptive_field
from refnet.ops import Array

pytest.importorskip("onnx", reason="ONNX files need the extra `onnx`")

import onnx
from onnx import TensorProto, helper, numpy_helper

GENERATOR = np.random.default_rng(0)


def _file(
    path: Path,
    nodes: list[Any],
    outputs: list[str],
    constants: dict[str, Any],
    shape: tuple[Any, ...] = (1, 4, 24, 20),
    opset: int = 17,
) -> Path:
    """An ONNX file of these nodes; its input is "image"."""
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    operators = [helper.make_opsetid("", opset)]
    version = max(8, helper.find_min_ir_version_for(operators))
    model = helper.make_model(graph, opset_imports=operators, ir_version=version)
    onnx.save(model, str(path))
    return path


def _draw(*shape: int) -> Array:
    return GENERATOR.normal(size=shape).astype(np.float32)


def _compare(path: Path, x: Array) -> refnet.Model:
    """The imported model, after its outputs were held to onnxruntime's."""
    onnxruntime = pytest.importorskip("onnxruntime")
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"image": x})
    model = from_onnx(path)
    found = model(x)
    for a, b in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())
    return model


def test_every_operation(tmp_path: Path) -> None:
    node = helper.make_node
    constants = {
        "c1.weight": _draw(6, 2, 3, 2), "c1.bias": _draw(6), "c2.weight": _draw(6, 6, 3, 3),
        "n.weight": _draw(6), "n.bias": _draw(6), "n.mean": _draw(6), "n.var": _draw(6) ** 2 + 1,
        "zero": np.float32(0), "six": np.float32(6), "mean": np.float32(0.3), "std": np.float32(2),
        "begin": np.array([1]), "end": np.array([5]), "axis": np.array([1]),
        "sizes": np.array([2, 4]), "rank2": np.array([0, -1]),
        "fc.weight": _draw(10, 5), "fc.bias": _draw(5), "mm.weight": _draw(5, 3), "mm.bias": _draw(3),
    }  # fmt: skip
    nodes = [
        node("Sub", ["image", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["scaled"]),
        node("Conv", ["scaled", "c1.weight", "c1.bias"], ["c1"], group=2, strides=[2, 1], pads=[1, 0, 1, 0], dilations=[1, 2]),
        node("BatchNormalization", ["c1", "n.weight", "n.bias", "n.mean", "n.var"], ["n"], epsilon=1e-3),
        node("Clip", ["n", "zero", "six"], ["clipped"]),
        node("Conv", ["clipped", "c2.weight"], ["c2"], auto_pad="SAME_UPPER"),
        node("Add", ["c2", "clipped"], ["sum"]),
        node("Relu", ["sum"], ["active"]),
        node("Slice", ["active", "begin", "end", "axis"], ["sliced"]),
        node("Split", ["active", "sizes"], ["first", "second"], axis=1),
        node("Concat", ["sliced", "second", "first"], ["joined"], axis=1),
        node("MaxPool", ["joined"], ["largest"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
        node("AveragePool", ["largest"], ["mixed"], kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
        node("Identity", ["mixed"], ["same"]),
        node("Sigmoid", ["same"], ["squashed"]),
        node("Softmax", ["same"], ["shares"], axis=1),
        node("Add", ["squashed", "shares"], ["both"]),
        node("GlobalAveragePool", ["both"], ["pooled"]),
        node("ReduceMean", ["both"], ["means"], axes=[2, 3], keepdims=0),
        node("Flatten", ["pooled"], ["flat"]),
        node("Reshape", ["pooled", "rank2"], ["flat2"]),
        node("Add", ["flat", "flat2"], ["vector"]),
        node("Add", ["vector", "means"], ["vector2"]),
        node("Concat", ["vector2"], ["features"], axis=1),
        node("Gemm", ["features", "fc.weight", "fc.bias"], ["fc"]),
        node("MatMul", ["fc", "mm.weight"], ["mm"]),
        node("Add", ["mm", "mm.bias"], ["answer"]),
    ]  # fmt: skip
    path = _file(tmp_path / "all.onnx", nodes, ["answer", "both"], constants)
    model = _compare(path, _draw(1, 4, 24, 20))
    assert {n.op for n in model.graph.nodes} == {
        *("normalize", "conv", "batch_norm", "relu6", "add", "relu", "slice", "concat", "max_pool"),
        *("average_pool", "sigmoid", "softmax", "flatten", "linear"),
    }
    field = receptive_field(model.graph)["c1"]
    assert field is not None
    assert (field.size, field.jump) == ((3, 3), (2, 1))


GATES: list[tuple[str, list[Any], list[str]]] = [
    ("leaky_relu", [("LeakyRelu", ["image"], {"alpha": 0.2})], []),
    ("leaky_relu", [("LeakyRelu", ["image"], {})], []),
    ("prelu", [("PRelu", ["image", "by_channel"], {})], ["by_channel"]),
    ("prelu", [("PRelu", ["image", "for_all"], {})], ["for_all"]),
    ("elu", [("Elu", ["image"], {})], []),
    ("elu", [("Elu", ["image"], {"alpha": 0.3})], []),
    ("hard_sigmoid", [("HardSigmoid", ["image"], {})], []),
    ("hard_sigmoid", [("HardSigmoid", ["image"], {"alpha": 1 / 6, "beta": 0.5})], []),
    ("hard_swish", [("HardSwish", ["image"], {})], []),
    (
        "hard_swish",
        [
            ("HardSigmoid", ["image"], {"alpha": 1 / 6, "beta": 0.5}),
            ("Mul", ["image", "out0"], {}),
        ],
        [],
    ),
    ("silu", [("Sigmoid", ["image"], {}), ("Mul", ["image", "out0"], {})], []),
    ("silu", [("Sigmoid", ["image"], {}), ("Mul", ["out0", "image"], {})], []),
    ("tanh", [("Tanh", ["image"], {})], []),
    ("exp", [("Exp", ["image"], {})], []),
]


@pytest.mark.parametrize(("op", "nodes", "slopes"), GATES)
def test_gates(tmp_path: Path, op: str, nodes: list[Any], slopes: list[str]) -> None:
    """One operation each, however the file writes it; ONNX Runtime and onnx's own reference agree."""
    from onnx.reference import ReferenceEvaluator

    made = [
        helper.make_node(kind, inputs, [f"out{i}"], **attributes)
        for i, (kind, inputs, attributes) in enumerate(nodes)
    ]
    drawn = {"by_channel": _draw(4, 1, 1), "for_all": _draw(1)}
    constants = {name: drawn[name] for name in slopes}
    x = 4 * _draw(2, 4, 24, 20)
    x[0, 0, 0, :4] = 0, -0.0, 3, -3
    outputs = [f"out{len(nodes) - 1}"]
    path = _file(tmp_path / "gate.onnx", made, outputs, constants, ("batch", 4, 24, 20))
    model = _compare(path, x)
    assert [node.op for node in model.graph.nodes] == [op]
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"image": x})
    found = model(x)
    assert isinstance(found, np.ndarray)
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_a_gate_that_others_read_stays(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["image"], ["gate"]),
        helper.make_node("Mul", ["image", "gate"], ["product"]),
        helper.make_node("Add", ["product", "gate"], ["sum"]),
    ]
    model = _compare(_file(tmp_path / "read.onnx", nodes, ["sum"], {}), _draw(1, 4, 24, 20))
    assert [node.op for node in model.graph.nodes] == ["sigmoid", "silu", "add"]


def test_cells_either_way(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"]),
        helper.make_node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "cells"], ["by_transpose"]),
        helper.make_node("Reshape", ["map", "lines"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["by_reshape"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["by_transpose", "by_reshape"], ["list"], axis=1),
    ]
    constants = {
        "w": _draw(3, 4, 5, 5),
        "cells": np.array([1, -1, 3]),
        "lines": np.array([1, 3, -1]),
    }
    model = _compare(
        _file(tmp_path / "cells.onnx", nodes, ["list"], constants), _draw(1, 4, 24, 20)
    )
    assert [node.op for node in model.graph.nodes] == ["conv", "cells", "cells", "concat"]
    assert not model.graph.fixed_size


def test_open_size(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["map"], strides=[2, 2], pads=[2, 2, 2, 2])]
    weight = {"w": _draw(3, 4, 5, 5)}
    path = _file(tmp_path / "open.onnx", nodes, ["map"], weight, (1, 4, "height", "width"))
    with pytest.raises(ShapeError, match="pass input_size="):
        from_onnx(path)
    model = from_onnx(path, (30, 41))
    assert model.graph.input_shape == (4, 30, 41)
    field = refnet.effective_receptive_field(model.graph)
    assert field.map.shape == (5, 5)
    assert (field.map == 1).all()
    fixed = _file(tmp_path / "fixed.onnx", nodes, ["map"], weight)
    with pytest.raises(ShapeError, match="fixed to 24 × 20"):
        from_onnx(fixed, 32)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([("Gelu", ["image"], {})], "Gelu, which refnet's vocabulary does not hold"),
        ([("Clip", ["image", "low", "high"], {})], "only ReLU6"),
        ([("Mul", ["image", "image"], {})], "only sums of tensors"),
        ([("Add", ["image", "vector"], {})], "only a single number"),
        ([("Sub", ["low", "image"], {})], "only a single number"),
        ([("Conv", ["image", "w"], {"pads": [0, 0, 1, 1]})], "equal padding"),
        ([("AveragePool", ["image"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], "its count"),
        ([("MaxPool", ["image"], {"kernel_shape": [3, 3], "ceil_mode": 1})], "rounding up"),
        ([("Transpose", ["image"], {"perm": [0, 1, 3, 2]})], "order"),
        ([("PRelu", ["image", "by_column"], {})], "one a channel"),
        ([("Sigmoid", ["image"], {}), ("Mul", ["out0", "out0"], {})], "only sums of tensors"),
        ([("HardSigmoid", ["image"], {}), ("Mul", ["image", "out0"], {})], "only sums of tensors"),
        ([("Softmax", ["image"], {"axis": 1}), ("Conv", ["out0", "out0"], {})], "is computed"),
        ([("Transpose", ["image"], {"perm": [0, 2, 3, 1]}), ("Relu", ["out0"], {})], "rearranged"),
    ],
)
def test_what_is_not_known(tmp_path: Path, nodes: list[Any], words: str) -> None:
    made = [
        helper.make_node(op, inputs, [f"out{i}"], **attributes)
        for i, (op, inputs, attributes) in enumerate(nodes)
    ]
    constants = {
        "low": np.float32(-1), "high": np.float32(1),
        "vector": _draw(1, 4, 1, 1), "w": _draw(4, 4, 3, 3),
        "by_column": _draw(20),
    }  # fmt: skip
    path = _file(tmp_path / "odd.onnx", made, [f"out{len(nodes) - 1}"], constants)
    with pytest.raises(OptionError, match=words):
        from_onnx(path)


def test_files_that_are_no_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        from_onnx(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_bytes(b"\xff\xfe no protobuf")
    with pytest.raises(CheckpointError, match="as ONNX"):
        from_onnx(tmp_path / "text.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"refnet\[onnx\]"):
        from_onnx(tmp_path / "text.onnx")
