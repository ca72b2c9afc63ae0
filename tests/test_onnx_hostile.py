"""ONNX files that lie, loop, grow or come from elsewhere: refused in a line, in less than a second, with our own errors."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.errors import RefnetError
from refnet.exchange.onnx_network import read_network

onnx = pytest.importorskip("onnx", reason="ONNX files need the extra `onnx`")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WEIGHT = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")


def _model(
    nodes: list[Any],
    constants: list[Any] | None = None,
    shape: tuple[Any, ...] = (1, 3, 16, 16),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [WEIGHT] if constants is None else constants,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def _node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _numbers(name: str, values: Any, dtype: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _conv(**attributes: Any) -> Any:
    return _model([_node("Conv", "x w", **attributes)])


def _pool(**attributes: Any) -> Any:
    return _model([_node("MaxPool", "x", **attributes)])


def _doubled(times: int) -> Any:
    """A constant that doubles its size with every node."""
    nodes = [_node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(times)]
    nodes.append(_node("Reshape", f"x c{times}"))
    return _model(nodes, [_numbers("c0", [1, -1])])


def _short() -> Any:
    tensor = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    tensor.raw_data = tensor.raw_data[:-4]
    return _model([_node("Conv", "x w")], [tensor])


def _typed(kind: int) -> Any:
    tensor = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    tensor.data_type = kind
    return _model([_node("Conv", "x w")], [tensor])


def _with_function() -> Any:
    model = _conv()
    model.functions.append(
        helper.make_function(
            "own", "F", ["a"], ["b"], [_node("Relu", "a", "b")], [helper.make_opsetid("", 17)]
        )
    )
    return model


FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "cycle of one": (lambda: _model([_node("Relu", "y")]), "a cycle"),
    "cycle of two": (lambda: _model([_node("Relu", "b"), _node("Relu", "y", "b")]), "a cycle"),
    "made twice": (lambda: _model([_node("Relu", "x"), _node("Relu", "x")]), "two of its nodes"),
    "made by none": (lambda: _model([_node("Relu", "nothing")]), "no node makes"),
    "no outputs": (lambda: _model([_node("Conv", "x w")], outputs=()), "no outputs"),
    "no graph": (lambda: onnx.ModelProto(ir_version=8), "no graph|no known format|does not hold"),
    "constant output": (lambda: _model([_node("Relu", "x", "z")], outputs=("w",)), "does not depend"),
    "stride 0": (lambda: _conv(strides=[0, 0]), "strides"),
    "one stride": (lambda: _conv(strides=[1]), "2 numbers"),
    "groups 0": (lambda: _conv(group=0), "group is 0"),
    "groups 7": (lambda: _conv(group=7), "groups"),
    "dilation 0": (lambda: _conv(dilations=[0, 0]), "dilations"),
    "padding -1": (lambda: _conv(pads=[-1] * 4), "pads"),
    "padding 2^31": (lambda: _conv(pads=[2**31] * 4), "pads"),
    "padding of text": (lambda: _conv(pads="many"), "pads"),
    "stride of floats": (lambda: _conv(strides=[1.0, 1.0]), "strides"),
    "kernel 0": (lambda: _pool(kernel_shape=[0, 0]), "kernel_shape"),
    "kernel -3": (lambda: _pool(kernel_shape=[-3, -3]), "kernel_shape"),
    "kernel missing": (lambda: _pool(), "kernel_shape"),
    "kernel larger than the map": (lambda: _pool(kernel_shape=[40, 40]), "does not fit"),
    "padding as large as the kernel": (lambda: _pool(kernel_shape=[2, 2], pads=[2, 2, 2, 2]), "as large"),
    "image of 2^40": (lambda: _model([_node("Relu", "x")], shape=(1, 3, 2**40, 2**40)), "too large"),
    "channels 2^31": (lambda: _model([_node("Relu", "x")], shape=(1, 2**31, 8, 8)), "too large"),
    "negative size": (lambda: _model([_node("Conv", "x w")], shape=(1, -3, 8, 8)), "images"),
    "two dimensions": (lambda: _model([_node("Relu", "x")], shape=(1, 3)), "images"),
    "upsampled to a terabyte": (
        lambda: _model([_node("Resize", "x a s")], [_numbers("a", [], np.float32), _numbers("s", [1, 1, 4096, 4096], np.float32)]),
        "too large",
    ),
    "upsampled by NaN": (
        lambda: _model([_node("Resize", "x a s")], [_numbers("a", [], np.float32), _numbers("s", [1, 1, np.nan, np.inf], np.float32)]),
        "whole factors",
    ),
    "constant of a terabyte": (
        lambda: _model([_node("ConstantOfShape", "s", "c"), _node("Add", "x c")], [_numbers("s", [2**20, 2**20])]),
        "too large",
    ),
    "constant expanded": (
        lambda: _model([_node("Expand", "w s", "c"), _node("Add", "x c")], [WEIGHT, _numbers("s", [2**30, 4, 3, 3, 3])]),
        "too large",
    ),
    "constant tiled": (
        lambda: _model([_node("Tile", "w s", "c"), _node("Add", "x c")], [WEIGHT, _numbers("s", [2**40, 1, 1, 1])]),
        "too large",
    ),
    "constant doubled": (lambda: _doubled(60), "too large"),
    "endless range": (
        lambda: _model([_node("Range", "a b c", "r"), _node("Reshape", "x r")], [_numbers(k, v) for k, v in (("a", 0), ("b", 2**62), ("c", 1))]),
        "too large",
    ),
    "range of steps of 0": (
        lambda: _model([_node("Range", "a b c", "r"), _node("Reshape", "x r")], [_numbers(k, v) for k, v in (("a", 0), ("b", 9), ("c", 0))]),
        "cannot be computed",
    ),
    "division by zero": (
        lambda: _model([_node("Div", "a b", "r"), _node("Reshape", "x r")], [_numbers("a", [8]), _numbers("b", [0])]),
        "divides by zero",
    ),
    "reshape to -1, -1": (lambda: _model([_node("Reshape", "x s")], [_numbers("s", [-1, -1])]), "cannot be reshaped"),
    "reshape to 2^62": (lambda: _model([_node("Reshape", "x s")], [_numbers("s", [2**62, 4])]), "cannot be reshaped"),
    "squeeze of a row": (lambda: _model([_node("Squeeze", "x s")], [_numbers("s", [2])]), "squeezed"),
    "axis 9": (lambda: _model([_node("Softmax", "x", axis=9)]), "no axis 9"),
    "order of two": (lambda: _model([_node("Transpose", "x", perm=[0, 0, 1, 2])]), "no order"),
    "slice of nothing": (
        lambda: _model([_node("Slice", "x a a b")], [_numbers("a", [3]), _numbers("b", [1])]),
        "takes nothing",
    ),
    "slice by 0": (
        lambda: _model([_node("Slice", "x a b c d")], [_numbers(k, [v]) for k, v in (("a", 0), ("b", 2), ("c", 1), ("d", 0))]),
        "do not fit",
    ),
    "no inputs": (lambda: _model([_node("Relu", "")]), "missing"),
    "no weight": (lambda: _model([_node("Conv", "x")]), "missing"),
    "weight cut off": (_short, "does not hold the numbers"),
    "weight of strings": (lambda: _typed(8), "element type 8"),
    "weight of no known type": (lambda: _typed(99), "element type 99"),
    "version 400": (lambda: _model([_node("Conv", "x w")], opset=400), "version 400"),
    "version 1": (lambda: _model([_node("Conv", "x w")], opset=1), "version 1"),
    "functions": (_with_function, "functions of its own"),
}  # fmt: skip


def _refused(path: Path, words: str) -> None:
    for read in (read_network, refnet.load):
        start = time.process_time()
        with pytest.raises(RefnetError, match=words) as caught:
            read(path)
        assert time.process_time() - start < 1
        text = str(caught.value)
        assert text.isprintable()
        assert len(text) < 1500


@pytest.mark.parametrize("case", FILES)
def test_graphs_that_no_network_has_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    make, words = FILES[case]
    path = tmp_path / "file.onnx"
    path.write_bytes(make().SerializeToString())
    _refused(path, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"ORTM\x00\x00\x00\x00", "ONNX Runtime's own"),
        (b"", "no graph"),
        (b"\xff\xfe no protobuf", "damaged"),
    ],
)
def test_files_that_are_something_else_are_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    with pytest.raises(RefnetError, match=words):
        read_network(path)
    with pytest.raises(RefnetError):
        refnet.load(path)


def _beside(folder: Path, **record: str) -> Path:
    """A convolution whose weight lies in another file, as `record` says."""
    tensor = TensorProto(name="w", data_type=1, dims=[4, 3, 3, 3], data_location="EXTERNAL")
    for key, value in record.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    path = folder / "net.onnx"
    path.write_bytes(_model([_node("Conv", "x w")], [tensor]).SerializeToString())
    return path


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    (tmp_path / "net.onnx.data").write_bytes(b"\0" * 64 + weight.tobytes())
    path = _beside(tmp_path, location="net.onnx.data", offset="64", length="432")
    model = refnet.load(path, backend="numpy")
    assert (model.weights["w"] == weight).all()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"location": "../secret"}, "outside of the model's folder"),
        ({"location": "/etc/passwd"}, "outside of the model's folder"),
        ({"location": "link"}, "outside of the model's folder"),
        ({"location": "absent"}, "no such file beside it"),
        ({"location": "."}, "no such file beside it"),
        ({"location": "data", "length": "5"}, "is said to be bytes"),
        ({"location": "data", "offset": "-4"}, "is said to be bytes"),
        ({"location": "data", "offset": "4"}, "is said to be bytes"),
        ({"location": "data", "offset": "many"}, "cannot be read"),
        ({"location": "da\0ta"}, "cannot be read|outside"),
        ({}, "lies in another file"),
    ],
)
def test_weights_outside_of_the_folder_are_refused(
    tmp_path: Path, record: dict[str, str], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(432))
    (folder / "data").write_bytes(bytes(432))
    (folder / "link").symlink_to(tmp_path / "secret")
    _refused(_beside(folder, **record), words)


def test_names_are_shown_as_a_terminal_may_show_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b]0;owned\x07\x1b[31mred\n2"
    model = _model([helper.make_node("Conv", ["x", "w"], [name])], outputs=(name,))
    path = tmp_path / "escape.onnx"
    path.write_bytes(model.SerializeToString())
    graph, _ = read_network(path)
    assert all(text.isprintable() for text in (*graph.outputs, *graph.node))
    from refnet.cli import main

    assert main(["rf", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def _small() -> Any:
    """A little of everything, to be damaged."""
    nodes = [
        _node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        _node("BatchNormalization", "c n b n n", "n1", epsilon=1e-3),
        _node("Clip", "n1 low high", "k"),
        _node("MaxPool", "k", "p", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Resize", "p e s", "u"),
        _node("Add", "u k", "sum"),
        _node("Shape", "sum", "shape"),
        _node("Gather", "shape zero", "first", axis=0),
        _node("Concat", "first rest", "target", axis=0),
        _node("Transpose", "sum", "turned", perm=[0, 2, 3, 1]),
        _node("Reshape", "turned target", "list"),
        _node("Softmax", "list", "y", axis=-1),
        _node("GlobalAveragePool", "sum", "g"),
        _node("Flatten", "g", "f"),
        _node("Gemm", "f m b", "z", transB=1),
    ]
    constants = [
        WEIGHT, _numbers("b", [1, 2, 3, 4], np.float32), _numbers("n", [1, 2, 3, 4], np.float32),
        _numbers("low", 0, np.float32), _numbers("high", 6, np.float32), _numbers("e", [], np.float32),
        _numbers("s", [1, 1, 2, 2], np.float32), _numbers("zero", [0]), _numbers("rest", [-1, 4]),
        _numbers("m", np.eye(4), np.float32),
    ]  # fmt: skip
    return _model(nodes, constants, outputs=("y", "z"))


def _damage(model: Any, chance: random.Random) -> None:
    """Change something in the graph itself: names, sizes, attributes, types, operators."""
    graph = model.graph
    node, tensor = chance.choice(graph.node), chance.choice(graph.initializer)
    large = chance.choice((-1, 0, 1, 2**31, 2**62))
    kind = chance.randrange(13)
    if kind == 0:
        node.input[chance.randrange(len(node.input))] = chance.choice(graph.node).output[0]
    elif kind == 1:
        node.input[chance.randrange(len(node.input))] = chance.choice(graph.initializer).name
    elif kind == 2:
        del node.input[-1]
    elif kind == 3 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = large
    elif kind == 4:
        node.op_type = chance.choice(
            [other.op_type for other in graph.node] + ["Split", "Slice", "Pad"]
        )
    elif kind == 5 and node.attribute:
        attribute = chance.choice(node.attribute)
        attribute.ints[:] = [large] * len(attribute.ints)
        attribute.i = large
    elif kind == 6 and node.attribute:
        del node.attribute[chance.randrange(len(node.attribute))]
    elif kind == 7:
        chance.choice(graph.input[0].type.tensor_type.shape.dim).dim_value = large
    elif kind == 8:
        node.output[0] = chance.choice(graph.node).output[0]
    elif kind == 9:
        del graph.initializer[chance.randrange(len(graph.initializer))]
    elif kind == 10:
        tensor.data_type = chance.choice((0, 2, 7, 8, 10, 11, 14, 16, 99))
    elif kind == 11:
        tensor.raw_data = tensor.raw_data[: -chance.choice((1, 4, 8))]
    else:
        with contextlib.suppress(ValueError, TypeError):  # damaged before
            values = numpy_helper.to_array(tensor)
            changed = (values * 0 + large % 97 - 1).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def test_damaged_graphs_are_refused_or_run(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    outcomes = {True: 0, False: 0}
    for seed in range(600):
        chance, model = random.Random(seed), _small()
        for _ in range(chance.choice((1, 1, 2, 3))):
            _damage(model, chance)
        data = model.SerializeToString()
        if seed % 4 == 0:  # and of its bytes
            at = chance.randrange(len(data))
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randrange(3) :]
        path.write_bytes(data)
        start = time.process_time()
        try:
            graph, weights = read_network(path)
            small = np.prod(graph.input_shape) < 10**6
            if small:
                refnet.Model(graph, weights, backend="numpy")(
                    np.ones((1, *graph.input_shape), np.float32)
                )
        except RefnetError as error:
            assert str(error).isprintable()
            outcomes[False] += 1
        else:
            outcomes[True] += 1
        assert time.process_time() - start < 1, seed
    assert min(outcomes.values()) > 30
