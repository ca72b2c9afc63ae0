"""Other engines get the same network: what they compute says so, not how fast they are."""

import importlib.util
import json
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.benchmark import PEERS, measure, peak_memory
from refnet.benchmark.ncnn_files import to_ncnn
from refnet.benchmark.tflite_file import to_tflite
from refnet.checkpoints.ncnn import read_ncnn
from refnet.cli import main
from refnet.graph import Graph
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "mnn": "MNN",
    "opencv": "cv2",
    "ncnn": "ncnn",
    "litert": "ai_edge_litert",
    "torch": "torch",
}
#: Depthwise, slices, concatenations and padded stride 2; two-channel softmax and residuals; ReLU6; vectors of maps.
NETWORKS: dict[str, dict[str, Any]] = {
    "pfld-ultralight": {"width": 0.25, "input_size": 64},
    "lffd-head": {"input_size": (96, 128)},
    "pfld-polaris": {"width": 0.5, "activation": "relu6"},
    "pfld-msfc": {"width": 0.25, "input_size": 64},
}


def small(name: str) -> Graph:
    return refnet.build(name, **NETWORKS[name])


@pytest.mark.filterwarnings("ignore")  # of the other engines, while they are imported
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("peer", MODULES)
def test_a_peer_computes_the_same(peer: str, network: str) -> None:
    if importlib.util.find_spec(MODULES[peer]) is None:
        pytest.skip(f"{peer} is not installed")
    pytest.importorskip("onnx")
    ours, theirs = measure(small(network), batch=2, peers=[peer], seconds=0.01)
    assert (ours.engine, theirs.engine) == ("refnet", peer)
    assert theirs.error < (1e-3 if peer == "mnn" else 2e-5)  # its Winograd is less exact


def heads() -> Graph:
    """What published detectors have at their ends: enlarged maps, and boxes decoded from a list of cells."""
    net = checks.Net((3, 12, 16))
    x = net.conv("input", "stem", 8, 3, padding=1)
    small = net.add("max_pool", "small", x, kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    near = net.add("upsample", "near", small, factor=(2, 2))
    learnt = net.conv_transpose(small, "learnt", 8, (2, 2), stride=(2, 2))
    total = net.add("add", "total", near, learnt)
    sizes = net.conv(total, "sizes", 8, 1)
    rows = net.add("reshape", "rows", net.add("cells", "cells", sizes), shape=(-1, 4))
    count = net.shape[rows][0]
    first = net.add("take", "first", rows, axis=2, start=0, stop=2, step=1)
    last = net.add("take", "last", rows, axis=2, start=2, stop=None, step=1)
    scale, shift, prior = ((name, (count, 2)) for name in ("scale", "shift", "prior"))
    centres = net.add("affine", "centres", first, parameters={"weight": scale, "bias": shift})
    grown = net.add("exp", "grown", last)
    halves = net.add("affine", "halves", grown, parameters={"weight": prior})
    corner = net.add("subtract", "corner", centres, halves)
    other = net.add("add", "other", centres, halves)
    return checks.graph_of(net, net.add("concat", "boxes", corner, other, axis=2), learnt)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", [peer for peer in MODULES if peer != "torch"])  # it lacks some
def test_a_peer_computes_the_same_for_the_heads_of_published_detectors(peer: str) -> None:
    if importlib.util.find_spec(MODULES[peer]) is None:
        pytest.skip(f"{peer} is not installed")
    pytest.importorskip("onnx")
    _, theirs = measure(heads(), peers=[peer], seconds=0.01)
    assert theirs.engine == peer and theirs.error < (1e-3 if peer == "mnn" else 2e-5)


def test_every_peer_is_tested() -> None:
    assert set(MODULES) == set(PEERS)


@pytest.mark.parametrize("network", NETWORKS)
def test_ncnn_files_hold_every_weight_and_every_blob_has_one_reader(network: str) -> None:
    graph, weights = fold(small(network), random_weights(small(network)))
    param, data = to_ncnn(graph, weights)
    tensors, _ = read_ncnn(param.encode(), data)
    assert len(tensors) == len(graph.parameters)
    for node in graph.nodes:
        for role, name in node.parameters.items():
            np.testing.assert_array_equal(tensors[f"{node.name}.{role}"], weights[name])
    read: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for line in param.splitlines()[2:]:
        words = line.split()
        inputs = int(words[2])
        read.update(words[4 : 4 + inputs])
        made.update(words[4 + inputs : 4 + inputs + int(words[3])])
    assert set(made.values()) == {1} and set(read.values()) == {1}
    assert set(made) - set(read) == set(graph.outputs)


def test_names_with_spaces_are_no_ncnn_file() -> None:
    net = checks.Net((3, 4, 4))
    graph = checks.graph_of(net, net.add("relu", "of two words", "input"))
    with pytest.raises(refnet.UnsupportedError, match="'of two words'"):
        to_ncnn(graph, {})


def test_weights_lie_aligned_in_the_tflite_file() -> None:
    pytest.importorskip("ai_edge_litert")
    graph, weights = fold(small("pfld-msfc"), random_weights(small("pfld-msfc")))
    model = to_tflite(graph, weights, 1)
    assert model[4:8] == b"TFL3"
    for node in graph.nodes:
        if node.op == "linear":
            kernel = weights[node.parameters["weight"]].tobytes()
            assert model.find(kernel) >= 0 and model.find(kernel) % 16 == 0


@pytest.mark.parametrize("peer", MODULES)
def test_an_absent_peer_is_one_line(
    peer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == MODULES[peer]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, MODULES[peer], None)
    call = ["bench", "tinynet:input_size=16", "--peers", peer, "--seconds", "0.01"]
    monkeypatch.setattr("refnet.benchmark.quiet.others", lambda: None)  # whatever else runs here
    assert main(call) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("refnet: ") and "pip install" in line


def test_a_peer_that_computes_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = refnet.build("tinynet", input_size=(16, 16))
    (shape,) = [graph.shapes()[name] for name in graph.outputs]
    monkeypatch.setitem(PEERS, "torch", lambda *_: lambda: [np.full((1, *shape), 7, np.float32)])
    with pytest.raises(refnet.RefnetError, match="torch computes something else"):
        measure(graph, peers=["torch"], seconds=0.01)


def test_a_peer_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setitem(PEERS, "torch", broken)
    with pytest.raises(refnet.RefnetError, match="torch cannot run tinynet here: no such layer"):
        measure(refnet.build("tinynet", input_size=(16, 16)), peers=["torch"], seconds=0.01)


def test_options_of_one_network_follow_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    labels = ["pfld:width=0.25,input_size=64", "pfld:width=0.5,input_size=32"]
    shared = ["--seconds", "0.01", "--json"]
    peers = ["--peers", "mnn"] if importlib.util.find_spec("MNN") else []
    assert main(["bench", *labels, *shared, *peers]) == 0
    # nothing that an engine prints gets in between
    results = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert list(dict.fromkeys(r["network"] for r in results)) == labels
    for label, size, width in zip(labels, (64, 32), (0.25, 0.5), strict=True):
        macs = sum(fold_macs(refnet.build("pfld", width=width, input_size=size)).values())
        (ours,) = [r for r in results if r["network"] == label and r["engine"] == "refnet"]
        assert ours["gflops"] * ours["median"] * 1e6 == pytest.approx(2 * macs)


def fold_macs(graph: Graph) -> dict[str, int]:
    return fold(graph, random_weights(graph))[0].macs()


def test_peak_memory_counts_one_network(capsys: pytest.CaptureFixture[str]) -> None:
    before, small_peak = peak_memory("tinynet", {"input_size": (64, 64)})
    _, large_peak = peak_memory("tinynet", {"input_size": (2048, 2048)})
    assert 5 < before < small_peak < large_peak
    assert large_peak - small_peak > 3 * 2048 * 2048 * 4 / 2**20  # at least its input
    assert main(["bench", "tinynet:input_size=64", "--memory", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["network"] == "tinynet:input_size=64" and row["before"] < row["peak"]


def test_a_failing_measurement_of_memory_says_why() -> None:
    with pytest.raises(refnet.RefnetError, match=r"memory of tinynet failed: .*nonsense"):
        peak_memory("tinynet", {"nonsense": 1})
