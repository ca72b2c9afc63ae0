"""ONNX export: every network, checked by onnx and run by OpenCV or ONNX Runtime as an oracle of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import reference
from refnet.cli import main
from refnet.exchange.onnx_export import to_onnx
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


def test_the_command_writes_a_file_that_refnet_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = refnet.build("pfld", width=0.25)
    weights = random_weights(graph)
    file = tmp_path / "weights.npz"
    np.savez(file, **weights)  # type: ignore[arg-type]
    target = tmp_path / "pfld.onnx"
    call = ["export", "pfld", str(target), "--weights", str(file), "--option", "width=0.25"]
    assert main(call) == 0
    assert "opset 13" in capsys.readouterr().out
    assert target.stat().st_size > 100_000
