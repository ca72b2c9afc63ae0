"""ONNX export: every network, checked by onnx and run by OpenCV or ONNX Runtime as an oracle of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import reference
from refnet.builder import Builder, Window
from refnet.checkpoints import save
from refnet.cli import main
from refnet.errors import OptionError
from refnet.exchange.onnx_export import to_onnx
from refnet.exchange.onnx_import import from_onnx
from refnet.ops import Array
from refnet.random_weights import random_weights

pytest.importorskip("onnx")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("pfld", {"width": 0.25, "input_size": 64}),
    ("pfld-msfc", {"width": 0.25, "input_size": 64}),
    ("pfld-ultralight-slim", {"width": 0.125, "input_size": 64}),
    ("pfld-ghostone", {"width": 0.25, "input_size": 64}),
    ("pfld-polaris", {"width": 0.25, "activation": "relu6"}),
    ("pfld-polaris-auxiliary", {}),
    ("lffd-face-v2", {"input_size": (130, 140)}),
    ("basketnet", {"input_size": (64, 96)}),
    ("tinynet", {"input_size": (40, 32)}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
@pytest.mark.parametrize("folded", [True, False])
def test_a_runtime_computes_the_same(name: str, options: dict[str, Any], folded: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = refnet.build(name, **options)
    weights = random_weights(graph)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        to_onnx(graph, weights, fold_first=folded), settings, providers=["CPUExecutionProvider"]
    )
    assert tuple(o.name for o in session.get_outputs()) == graph.outputs or folded
    x = np.random.default_rng(0).uniform(0, 1, (2, *graph.input_shape)).astype(np.float32)
    wide = {key: w.astype(np.float64) for key, w in weights.items()}
    expected = reference.run(graph, wide, x.astype(np.float64))
    for y, e in zip(session.run(None, {"input": x}), expected, strict=True):
        assert y.shape == e.shape
        assert np.abs(y - e).max() <= 2e-5 * max(1.0, np.abs(e).max())


def gates() -> tuple[refnet.Graph, dict[str, Array]]:
    """A network of every gate, on maps and on a vector, and its weights."""
    net = Builder((3, 6, 5))
    x = net.conv("input", "conv", 4, Window(3, padding=1))
    kinds: dict[str, dict[str, Any]] = {
        "leaky_relu": {"slope": 0.25},
        "hard_swish": {},
        "elu": {"alpha": 1.5},
        "silu": {},
        "tanh": {},
        "exp": {},
        "hard_sigmoid": {"slope": 0.2, "shift": 0.5},
    }
    for op, attributes in kinds.items():
        x = net.add(op, f"{op}1", x, **attributes)
        x = net.conv(x, f"{op}2", 4, Window(1))
    x = net.add("prelu", "prelu1", x, parameters={"slope": ("prelu1.slope", (4,))})
    x = net.linear(net.add("flatten", "flat", x), "linear", 7)
    x = net.add("prelu", "prelu2", x, parameters={"slope": ("prelu2.slope", (7,))})
    x = net.add("hard_swish", "last", x)
    graph = net.graph("gates", (x, "silu1"), {}, fixed_size=True)
    rng = np.random.default_rng(3)
    return graph, {n: rng.normal(size=s).astype(np.float32) for n, s in graph.parameters.items()}


@pytest.mark.parametrize("opset", [13, 14, 18, 22, 24])
def test_gates_of_every_opset_run_elsewhere_and_read_back(opset: int, tmp_path: Path) -> None:
    """Written for an opset, run by ONNX Runtime and by onnx's own reference, and read back."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    onnxruntime = pytest.importorskip("onnxruntime")
    graph, weights = gates()
    written = to_onnx(graph, weights, opset=opset)
    proto = onnx.load_from_string(written)
    kinds = {node.op_type for node in proto.graph.node}
    assert proto.opset_import[0].version == opset
    assert ("HardSwish" in kinds, "Swish" in kinds) == (opset >= 14, opset >= 24)
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    wide = {name: w.astype(np.float64) for name, w in weights.items()}
    expected = reference.run(graph, wide, x.astype(np.float64))
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    for found in (
        session.run(None, {"input": x}),
        ReferenceEvaluator(proto).run(None, {"input": x}),
    ):
        for y, e in zip(found, expected, strict=True):
            assert y.shape == e.shape
            assert np.abs(y - e).max() <= 2e-5 * max(1.0, np.abs(e).max())
    path = tmp_path / "gates.onnx"
    path.write_bytes(written)
    model = from_onnx(path, backend="numpy")
    assert [node.op for node in model.graph.nodes] == [node.op for node in graph.nodes]
    assert model.graph.parameters == graph.parameters
    for y, e in zip(model(x), expected, strict=True):
        assert np.abs(y - e).max() <= 2e-5 * max(1.0, np.abs(e).max())


def test_opsets_that_are_not_written_are_refused() -> None:
    graph, weights = gates()
    for opset in (12, 25):
        with pytest.raises(OptionError, match="13 to 24"):
            to_onnx(graph, weights, opset=opset)


def test_the_command_writes_a_file_that_refnet_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = refnet.build("pfld", width=0.25)
    weights = random_weights(graph)
    file = tmp_path / "weights.safetensors"
    save(file, graph.name, graph.options, weights)
    target = tmp_path / "pfld.onnx"
    assert main(["export", str(file), str(target)]) == 0
    assert "opset 13" in capsys.readouterr().out
    assert target.stat().st_size > 100_000
