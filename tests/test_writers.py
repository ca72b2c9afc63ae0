"""Writers of graphs refuse what they cannot write by the name of the operation and of a layer."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.benchmark import PEERS, measure, ncnn_files, startup, tflite_file, torch_script
from refnet.errors import BackendError, UnsupportedError
from refnet.exchange import onnx_export, torch_ops
from refnet.graph import Graph, Node
from refnet.ops import OPS, Array
from refnet.passes import fold
from refnet.random_weights import random_weights

X = np.zeros((1, 3, 16, 16), np.float32)
Write = Callable[[Graph, dict[str, Array]], Any]


def with_cosines(base: Graph) -> Graph:
    """The graph with an operation after its outputs that no other format is written with here."""
    nodes = [Node(f"{name}/cosine", "cosine", (name,), {}, {}) for name in base.outputs]
    outputs = tuple(node.name for node in nodes)
    return replace(base, nodes=(*base.nodes, *nodes), outputs=outputs)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, dict[str, Array]]:
    relu = OPS["relu"]
    monkeypatch.setitem(OPS, "cosine", relu)
    graph = with_cosines(refnet.build("tinynet", input_size=16))
    return fold(graph, random_weights(graph))


WRITES: dict[str, Write] = {
    "onnx": onnx_export.to_onnx,
    "ncnn": ncnn_files.to_ncnn,
    "ai_edge_litert": lambda graph, weights: tflite_file.to_tflite(graph, weights, 1),
    "torch": lambda graph, weights: torch_script.to_torch_script(graph, weights, X),
}


@pytest.mark.parametrize("form", WRITES)
def test_an_operation_without_a_writer_is_named(
    network: tuple[Graph, dict[str, Array]], form: str
) -> None:
    if form in ("onnx", "torch"):  # the others refuse before they need their package
        pytest.importorskip(form)
    with pytest.raises(UnsupportedError, match=r"'cosine' \(.*/cosine\)"):
        WRITES[form](*network)


def test_a_module_to_train_names_what_it_lacks_too(network: tuple[Graph, dict[str, Array]]) -> None:
    pytest.importorskip("torch")
    from weights.recipes.torch_graph import GraphModule

    with pytest.raises(UnsupportedError, match=r"a torch module, which lacks 'cosine' \(layer "):
        GraphModule(network[0])


def test_tables_name_operations_of_the_vocabulary() -> None:
    for table in (onnx_export.WRITERS, tflite_file.WRITERS, torch_ops.WRITERS):
        assert set(table) <= set(OPS)


def test_a_benchmark_leaves_out_a_peer_that_lacks_an_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(*_: object) -> None:
        raise UnsupportedError("it lacks 'cosine'")

    monkeypatch.setitem(PEERS, "torch", lacking)
    graph = refnet.build("tinynet", input_size=(16, 16))
    with pytest.warns(RuntimeWarning, match="torch is left out: it lacks 'cosine'"):
        (ours,) = measure(graph, peers=["torch"], seconds=0.01)
    assert ours.engine == "refnet"
    assert issubclass(UnsupportedError, BackendError)


def test_a_measurement_of_starts_leaves_out_a_peer_that_lacks_an_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnx or onnxruntime is not installed")
    writers = {op: write for op, write in onnx_export.WRITERS.items() if op != "conv"}
    monkeypatch.setattr(onnx_export, "WRITERS", writers)
    with pytest.warns(RuntimeWarning, match=r"onnxruntime left out: .*'conv' \(layer "):
        (ours,) = startup("tinynet", {"input_size": (16, 16)}, peers=["onnxruntime"], seconds=0.01)
    assert ours.engine == "refnet"
