"""Networks from ONNX files: the same outputs as onnxruntime's, and errors that say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.cli import main
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


def _compare(path: Path, x: Array, input_size: int | tuple[int, int] | None = None) -> refnet.Model:
    """The imported model, after its outputs were held to onnxruntime's."""
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    expected = onnxruntime.InferenceSession(str(path), settings).run(None, {"image": x})
    model = from_onnx(path, input_size, backend="numpy")
    found = model(x)
    for a, b in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())
    return model


def test_every_operation_equals_onnxruntime(tmp_path: Path) -> None:
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
        *("average_pool", "global_average_pool", "sigmoid", "softmax", "flatten", "linear"),
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
def test_every_gate_equals_onnxruntime(
    tmp_path: Path, op: str, nodes: list[Any], slopes: list[str]
) -> None:
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


def test_cells_written_either_way_are_one_operation(tmp_path: Path) -> None:
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


def test_an_open_size_stays_open(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["map"], strides=[2, 2], pads=[2, 2, 2, 2])]
    weight = {"w": _draw(3, 4, 5, 5)}
    path = _file(tmp_path / "open.onnx", nodes, ["map"], weight, (1, 4, "height", "width"))
    assert not from_onnx(path).graph.fixed_size  # any size will do to describe it
    model = from_onnx(path, (30, 41))
    assert model.graph.input_shape == (4, 30, 41)
    field = refnet.effective_receptive_field(model.graph)
    assert field.map.shape == (5, 5)
    assert (field.map == 1).all()
    fixed = _file(tmp_path / "fixed.onnx", nodes, ["map"], weight)
    assert from_onnx(fixed, 32).graph.input_shape == (
        4,
        32,
        32,
    )  # nothing in it depends on its size


def test_a_size_that_layers_depend_on_has_to_be_given(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    path = _file(tmp_path / "open.onnx", nodes, ["y"], {"w": _draw(2, 480)}, (1, 4, "h", "w"))
    with pytest.raises(ShapeError, match="pass input_size="):
        from_onnx(path)
    model = from_onnx(path, (12, 10))
    assert model.graph.fixed_size
    with pytest.raises(ShapeError, match="built for"):
        model(_draw(1, 4, 10, 12))
    fixed = _file(tmp_path / "fixed.onnx", nodes, ["y"], {"w": _draw(2, 480)}, (1, 4, 12, 10))
    with pytest.raises(ShapeError, match="fixed to 12 × 10"):
        from_onnx(fixed, (10, 12))


def test_shapes_that_the_file_computes_leave_the_size_open(tmp_path: Path) -> None:
    """A head as PyTorch writes it for free sizes: (N, C, H, W) to (N, H · W · 2, C / 2), and an upsampled sum."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["map"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Shape", ["map"], ["shape"]),
        *(node("Gather", ["shape", str(i)], [f"s{i}"]) for i in range(4)),
        node("MaxPool", ["map"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        *(node("Unsqueeze", [f"s{i}", "axes"], [f"u{i}"]) for i in range(4)),
        node("Concat", ["u0", "u1", "u2", "u3"], ["sizes"], axis=0),
        node("Resize", ["small", "", "", "sizes"], ["large"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", ["large", "map"], ["sum"]),
        node("Transpose", ["sum"], ["last"], perm=[0, 2, 3, 1]),
        node("Mul", ["s2", "s3"], ["cells"]),
        node("Mul", ["cells", "two"], ["boxes"]),
        node("Unsqueeze", ["boxes", "axes"], ["count"]),
        node("Concat", ["u0", "count", "rest"], ["target"], axis=0),
        node("Reshape", ["last", "target"], ["list"]),
        node("Softmax", ["list"], ["scores"], axis=2),
    ]  # fmt: skip
    constants = {
        "w": _draw(6, 4, 3, 3), "axes": np.array([0]), "two": np.array(2), "rest": np.array([3]),
        **{str(i): np.array(i) for i in range(4)},
    }  # fmt: skip
    path = _file(tmp_path / "head.onnx", nodes, ["scores", "sum"], constants, ("n", 4, "h", "w"))
    model = _compare(path, _draw(1, 4, 24, 40), (24, 40))
    assert [n.op for n in model.graph.nodes] == [
        *("conv", "max_pool", "upsample", "add", "cells", "reshape", "softmax"),
    ]
    assert not model.graph.fixed_size
    two = model(_draw(2, 4, 32, 16))
    assert [y.shape for y in two] == [(2, 256, 3), (2, 6, 16, 8)]


def test_a_size_that_is_written_down_is_kept(tmp_path: Path) -> None:
    """Resized to the image's own size, which the file computes: at other sizes the factor is another one."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["image"], ["all"]),
        helper.make_node("Slice", ["all", "two", "four"], ["sizes"]),
        helper.make_node("Slice", ["all", "zero", "two"], ["n"]),
        helper.make_node("Slice", ["channels", "zero", "one"], ["c"]),
        helper.make_node("Slice", ["n", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "c", "sizes"], ["target"], axis=0),
        helper.make_node("Resize", ["map", "", "", "target"], ["y"], mode="linear"),
    ]
    constants = {
        "w": _draw(3, 4, 4, 4), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
        "four": np.array([4]), "channels": np.array([3]),
    }  # fmt: skip
    path = _file(tmp_path / "mask.onnx", nodes, ["y"], constants, (1, 4, "h", "w"))
    model = _compare(path, _draw(1, 4, 24, 40), (24, 40))
    assert model.graph.fixed_size


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "softmax, opset 9, no axis": ([("Softmax", ["x"], {})], {"opset": 9}),
    "softmax, opset 11, axis 1": ([("Softmax", ["x"], {"axis": 1})], {"opset": 11}),
    "softmax, opset 11, axis 2": ([("Softmax", ["x"], {"axis": 2})], {"opset": 11}),
    "softmax, opset 13, axis 1": ([("Softmax", ["x"], {"axis": 1})], {"opset": 13}),
    "softmax, opset 13, no axis": ([("Softmax", ["x"], {})], {"opset": 13}),
    "clip, opset 9": ([("Clip", ["x"], {"max": 0.5})], {"opset": 9}),
    "clip": ([("Clip", ["x", "low", "high"], {})], {}),
    "clip, no bounds": ([("Clip", ["x"], {})], {}),
    "split, opset 11": ([("Split", ["x"], {"axis": 1}, 2), ("Mul", ["x", "x.1"], {})], {"opset": 11}),
    "split, opset 18": ([("Split", ["x"], {"axis": -3, "num_outputs": 2}, 2), ("Add", ["x", "x.1"], {})], {"opset": 18}),
    "slice, opset 9": ([("Slice", ["x"], {"starts": [1], "ends": [-1], "axes": [2]})], {"opset": 9}),
    "slice by steps": ([("Slice", ["x", "zero", "huge", "three", "two"], {})], {}),
    "slice backwards": ([("Slice", ["x", "huge", "least", "two", "minus"], {})], {}),
    "squeeze and unsqueeze, opset 11": ([("Unsqueeze", ["x"], {"axes": [1, 4]}), ("Squeeze", ["x"], {"axes": [4]})], {"opset": 11}),
    "flatten, axis -3": ([("Flatten", ["x"], {"axis": -3})], {}),
    "flatten, axis 2": ([("Flatten", ["x"], {"axis": 2}), ("Relu", ["x"], {})], {}),
    "reshape, 0": ([("Reshape", ["x", "keep"], {})], {}),
    "batch folded and back": ([("Reshape", ["x", "rows"], {}), ("Softmax", ["x"], {"axis": 1}), ("Reshape", ["x", "back"], {})], {}),
    "batch last": ([("Transpose", ["x"], {"perm": [2, 3, 0, 1]}), ("Reshape", ["x", "pairs"], {})], {}),
    "channels shuffled": ([("Reshape", ["x", "grouped"], {}), ("Transpose", ["x"], {"perm": [0, 2, 1, 3, 4]}), ("Reshape", ["x", "whole"], {})], {}),
    "x + x": ([("Add", ["x", "x"], {})], {}),
    "sum of three": ([("Sum", ["x", "x", "image"], {})], {}),
    "a map of constants": ([("Add", ["x", "map"], {}), ("Mul", ["vector", "x"], {}), ("Sub", ["map", "x"], {})], {}),
    "quotients": ([("Exp", ["x"], {}), ("Div", ["vector", "x"], {}), ("Div", ["x", "vector"], {}), ("Div", ["low", "x"], {})], {}),
    "one number": ([("Sub", ["low", "x"], {}), ("Mul", ["x", "scale"], {}), ("Add", ["scale", "x"], {}), ("Mul", ["x", "none"], {})], {}),
    "squeeze and excite": ([("GlobalAveragePool", ["x"], {}), ("HardSigmoid", ["x"], {}), ("Mul", ["x", "image"], {})], {}),
    "one factor for each pixel": ([("ReduceMax", ["x"], {"axes": [1]}), ("Mul", ["image", "x"], {})], {}),
    "sigmoid times": ([("Sigmoid", ["x"], {}), ("Mul", ["image", "x"], {})], {}),
    "hard swish by hand": ([("Add", ["x", "three_f"], {}), ("Clip", ["x", "none", "six"], {}), ("Mul", ["image", "x"], {}), ("Div", ["x", "six"], {})], {}),
    "asymmetric conv": ([("Conv", ["x", "w"], {"pads": [0, 1, 2, 0], "strides": [2, 1]})], {}),
    "depthwise 5x3": ([("Conv", ["x", "deep"], {"pads": [2, 1, 2, 1], "strides": [2, 1], "group": 4})], {}),
    "dilated groups": ([("Conv", ["x", "half"], {"dilations": [2, 3], "group": 2, "pads": [2, 3, 1, 0]})], {}),
    "transposed 2x2": ([("ConvTranspose", ["x", "t2"], {"strides": [2, 2]})], {}),
    "transposed depthwise 4x4": ([("ConvTranspose", ["x", "t4"], {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 4})], {}),
    "transposed, asymmetric": ([("ConvTranspose", ["x", "t3"], {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 1], "group": 2})], {}),
    "max pool, asymmetric": ([("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]})], {}),
    "max pool, ceil": ([("MaxPool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})], {}),
    "max pool, dilated": ([("MaxPool", ["x"], {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]})], {}),
    "mean, padding left out": ([("AveragePool", ["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], {}),
    "mean, padding counts": ([("AveragePool", ["x"], {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1})], {}),
    "mean, SAME_UPPER": ([("AveragePool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"})], {}),
    "mean, ceil": ([("AveragePool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1})], {"opset": 19}),
    "global max": ([("GlobalMaxPool", ["x"], {})], {}),
    "bare batch norm": ([("BatchNormalization", ["x", "n1", "n2", "n1", "n3"], {"epsilon": 1e-3})], {}),
    "batch norm of features": ([("GlobalAveragePool", ["x"], {}), ("Flatten", ["x"], {}), ("BatchNormalization", ["x", "n1", "n2", "n1", "n3"], {})], {}),
    "upsample, opset 7": ([("Upsample", ["x"], {"scales": [1.0, 1.0, 2.0, 3.0]})], {"opset": 7}),
    "upsample, opset 9, linear": ([("Upsample", ["x", "scales"], {"mode": "linear"})], {"opset": 9}),
    "resize, opset 10": ([("Resize", ["x", "scales"], {})], {"opset": 10}),
    "resize, nearest": ([("Resize", ["x", "", "scales"], {})], {"opset": 13}),
    "resize, opset 11": ([("Resize", ["x", "scales", "scales"], {})], {"opset": 11}),
    "resize, linear": ([("Resize", ["x", "", "scales"], {"mode": "linear"})], {}),
    "resize, corners": ([("Resize", ["x", "", "scales"], {"mode": "linear", "coordinate_transformation_mode": "align_corners"})], {}),
    "resize, asymmetric": ([("Resize", ["x", "", "scales"], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"})], {}),
    "pad": ([("Pad", ["x", "pads", "low"], {})], {}),
    "pad, edge": ([("Pad", ["x", "pads"], {"mode": "edge"})], {}),
    "pad, opset 9": ([("Pad", ["x"], {"pads": [0, 0, 1, -2, 0, 0, -1, 2], "mode": "reflect"})], {"opset": 9}),
    "pad channels": ([("Pad", ["x", "more"], {})], {}),
    "pixel shuffle": ([("DepthToSpace", ["x"], {"blocksize": 2, "mode": "CRD"})], {}),
    "depth to space": ([("DepthToSpace", ["x"], {"blocksize": 2})], {}),
    "space to depth": ([("SpaceToDepth", ["x"], {"blocksize": 2})], {}),
    "prelu": ([("PRelu", ["x", "slopes"], {})], {}),
    "leaky relu": ([("LeakyRelu", ["x"], {"alpha": 0.2})], {}),
    "norm of channels": ([("Pow", ["x", "two_f"], {}), ("ReduceSum", ["x", "one"], {}), ("Sqrt", ["x"], {}), ("Div", ["image", "x"], {})], {}),
    "matmul over a list": ([("Reshape", ["x", "cells"], {}), ("MatMul", ["x", "mm"], {}), ("Add", ["x", "mmb"], {})], {}),
    "gather one channel": ([("Gather", ["x", "first"], {"axis": 1})], {}),
    "channels turned round": ([("Gather", ["x", "bgra"], {"axis": 1})], {}),
    "identity of a constant": ([("Identity", ["w"], {}, "kernel"), ("Conv", ["x", "kernel"], {})], {}),
    "weights that are computed": ([("Mul", ["w", "low"], {}, "kernel"), ("Conv", ["x", "kernel"], {})], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators_of_every_version_equal_onnxruntime(tmp_path: Path, case: str) -> None:
    """Each case is a chain of nodes on the image; "x" is the last one's result, "x.1" its second."""
    chain, settings = CASES[case]
    constants: dict[str, Any] = {
        "low": np.float32(-0.5), "high": np.float32(1), "none": np.float32(0), "six": np.float32(6),
        "three_f": np.float32(3), "two_f": np.float32(2), "scale": np.array([[[0.7]]], np.float32),
        "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
        "huge": np.array([2**63 - 1]), "least": np.array([-(2**63)]), "minus": np.array([-2]),
        "keep": np.array([0, -1]), "rows": np.array([-1, 4]), "back": np.array([1, -1, 4]),
        "pairs": np.array([-1, 2]), "grouped": np.array([1, 2, 2, 24, 20]),
        "whole": np.array([1, 4, 24, 20]), "map": _draw(1, 4, 24, 20), "vector": _draw(1, 4, 1, 1) + 4,
        "w": _draw(6, 4, 3, 3), "deep": _draw(4, 1, 5, 3), "half": _draw(6, 2, 3, 3),
        "t2": _draw(4, 5, 2, 2), "t4": _draw(4, 1, 4, 4), "t3": _draw(4, 3, 3, 3),
        "n1": _draw(4), "n2": _draw(4), "n3": _draw(4) ** 2 + 0.1,
        "scales": np.array([1, 1, 2, 3], np.float32), "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0]),
        "more": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "slopes": _draw(4, 1, 1),
        "cells": np.array([1, -1, 4]), "mm": _draw(4, 3), "mmb": _draw(3),
        "first": np.array(1), "bgra": np.array([3, 2, 1, 0]),
    }  # fmt: skip
    nodes, last, extra = [], "image", ""
    for i, (op, inputs, attributes, *more) in enumerate(chain):
        named = more[0] if more and isinstance(more[0], str) else f"node{i}"
        made = [named, f"{named}.1"] if more == [2] else [named]
        inputs = [{"x": last, "x.1": extra}.get(name, name) for name in inputs]
        nodes.append(helper.make_node(op, inputs, made, **attributes))
        if named == f"node{i}":
            last, extra = made[0], made[-1]
    read = {name for node in nodes for name in node.input}
    used = {name: array for name, array in constants.items() if name in read}
    path = _file(tmp_path / "case.onnx", nodes, [last], used, opset=settings.get("opset", 17))
    onnxruntime = pytest.importorskip("onnxruntime")
    x = _draw(1, 4, 24, 20)
    session = onnxruntime.InferenceSession(str(path), _quiet(onnxruntime))
    (expected,) = session.run(None, {"image": x})
    model = from_onnx(path, backend="numpy")
    found = _only(model(x))
    # Where the file folds the batch axis away, ours is still in front.
    assert found.shape == expected.shape or found.shape == (1, *expected.shape)
    assert np.abs(found.reshape(expected.shape) - expected).max() <= 1e-5 * max(
        1, np.abs(expected).max()
    )
    pair = np.concatenate([x, _draw(1, 4, 24, 20)])
    np.testing.assert_allclose(_only(model(pair))[:1], found, rtol=1e-5, atol=1e-5)


def _only(outputs: Array | tuple[Array, ...]) -> Array:
    """The output of a network that has one."""
    assert isinstance(outputs, np.ndarray)
    return outputs


def _quiet(onnxruntime: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    return settings


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_can_be_written(tmp_path: Path, case: str) -> None:
    """Exported, every case is computed by onnxruntime as here, and reads back."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from refnet.exchange.onnx_export import to_onnx

    test_operators_of_every_version_equal_onnxruntime(tmp_path, case)
    model = from_onnx(tmp_path / "case.onnx", backend="numpy")
    data = to_onnx(model.graph, model.weights)
    x = _draw(2, 4, 24, 20)
    session = onnxruntime.InferenceSession(data, _quiet(onnxruntime))
    (made,) = session.run(None, {"input": x})
    expected = _only(model(x))
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    (tmp_path / "again.onnx").write_bytes(data)
    again = _only(from_onnx(tmp_path / "again.onnx", backend="numpy")(x))
    assert np.abs(again - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([("Gelu", ["image"], {})], "Gelu, which refnet's vocabulary does not hold"),
        ([("Erf", ["image"], {}), ("NonZero", ["out0"], {})], "it uses Erf, NonZero"),
        ([("QuantizeLinear", ["image", "high"], {}), ("DequantizeLinear", ["out0", "high"], {})], "quantised"),
        ([("If", ["flag"], {})], "branches and loops"),
        ([("Clip", ["image", "vector"], {})], "each of its bounds is one number"),
        ([("Softmax", ["image"], {"axis": 0})], "images of a batch together"),
        ([("Cast", ["image"], {"to": 7})], "whole numbers"),
        ([("Resize", ["image", "", "odd"], {})], "whole factors"),
        ([("Resize", ["image", "", "two"], {"mode": "cubic"})], "cubic"),
        ([("Softmax", ["image"], {"axis": 1}), ("Conv", ["out0", "out0"], {})], "is computed"),
        ([("Reshape", ["image", "target"], {})], "cannot be reshaped"),
        ([("Conv", ["image", "w"], {"pads": [-1, 0, 0, 0]}), ("Conv", ["image", "w"], {"group": 0})], "pads is .*group is 0"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(tmp_path: Path, nodes: list[Any], words: str) -> None:
    made = [
        helper.make_node(op, inputs, [f"out{i}"], **attributes)
        for i, (op, inputs, attributes) in enumerate(nodes)
    ]
    constants = {
        "high": np.float32(1), "vector": _draw(1, 4, 1, 1), "w": _draw(4, 4, 3, 3),
        "odd": np.array([1, 1, 1.5, 2], np.float32), "two": np.array([1, 1, 2, 2], np.float32),
        "target": np.array([7, -1]), "flag": np.array(True),
    }  # fmt: skip
    outputs = [f"out{i}" for i in range(len(nodes))]
    path = _file(tmp_path / "odd.onnx", made, outputs, constants)
    with pytest.raises(OptionError, match=words) as caught:
        from_onnx(path)
    assert "\n" not in str(caught.value)


def test_load_takes_any_network(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["input"], pads=[1, 1, 1, 1]),
        helper.make_node("Identity", ["input"], ["file"]),
        helper.make_node("Relu", ["input"], ["a/b"]),
        helper.make_node("Identity", ["a/b"], ["again"]),
    ]
    path = _file(
        tmp_path / "my net.onnx", nodes, ["file", "a/b", "again", "image"], {"w": _draw(3, 4, 3, 3)}
    )
    model = refnet.load(path, backend="numpy")
    assert model.graph.name == "my net"
    assert model.graph.outputs == ("file", "a/b", "again", "image")
    x = _draw(1, 4, 24, 20)
    first, second, third, same = model(x)
    assert (second == np.maximum(first, 0)).all()
    assert (third == second).all()
    assert (same == x).all()
    with pytest.raises(OptionError, match="only input_size"):
        refnet.load(path, width=0.5)
    np.save(tmp_path / "x.npy", x)
    assert main(["run", str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz") as written:
        assert sorted(written) == sorted(model.graph.outputs)
        np.testing.assert_allclose(written["file"], first, rtol=1e-5, atol=1e-5)  # on the engine
    assert main(["info", str(path)]) == 0
    assert main(["export", str(path), str(tmp_path / "out.onnx")]) == 0


def test_files_that_are_no_networks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        from_onnx(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_bytes(b"\xff\xfe no protobuf")
    with pytest.raises(CheckpointError, match="as ONNX"):
        from_onnx(tmp_path / "text.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"refnet\[onnx\]"):
        from_onnx(tmp_path / "text.onnx")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_engine_computes_the_same_or_leaves_it_to_numpy(tmp_path: Path, case: str) -> None:
    pytest.importorskip("llvmlite")
    test_operators_of_every_version_equal_onnxruntime(tmp_path, case)
    model = refnet.load(tmp_path / "case.onnx")
    x = _draw(2, 4, 24, 20)
    found, expected = _only(model(x)), _only(model.run(x, backend="numpy"))
    assert np.abs(found - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
