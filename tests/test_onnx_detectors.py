"""Published light detectors, as their authors exported them: what onnxruntime computes, the reference computes.

The files are not part of the repository; see CONTRIBUTING.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.cli import main

onnx = pytest.importorskip("onnx", reason="ONNX files need the extra `onnx`")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="the outputs are compared with onnxruntime's"
)

FOLDER = (
    Path(os.environ.get("REFNET_ASSETS", Path(__file__).parents[2] / "shared/assets")) / "detectors"
)
#: {file: whether it runs at any size}.
FREE = {
    "centerface": True,
    "retinaface_mobilenet025": False,
    "rfb320": True,
    "rfb640": False,
    "scrfd_2.5g_kps": True,
    "scrfd_500m_kps": True,
    "slim320": True,
    "yunet_n_640": True,
    "yunet_n_dynamic": True,
    "yunet_s_640": True,
    "yunet_s_dynamic": True,
}


def _file(name: str) -> Path:
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def _session(path: Path) -> Any:
    """A session whose image may have any size, whatever the file declares."""
    proto = onnx.load(path)
    held = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in held:
            for axis in (0, 2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), settings)


@pytest.mark.parametrize("name", FREE)
def test_outputs_are_those_of_onnxruntime(name: str) -> None:
    path = _file(name)
    model = refnet.load(path, backend="numpy")
    assert model.graph.name == name
    assert model.graph.fixed_size != FREE[name]
    session = _session(path)
    assert model.graph.outputs == tuple(value.name for value in session.get_outputs())
    size = (160, 96) if FREE[name] else model.graph.input_shape[1:]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, *size))
    if not name.startswith(("yunet", "center")):
        pixels = (pixels - 127) / 128
    x = pixels.astype(np.float32)
    source = next(value.name for value in session.get_inputs())
    expected = session.run(None, {source: x})
    for found, want in zip(model(x), expected, strict=True):
        assert found.shape == want.shape
        assert np.abs(found - want).max() <= 1e-5 * max(1, np.abs(want).max())


@pytest.mark.parametrize("name", ["yunet_n_dynamic", "scrfd_500m_kps"])
def test_the_fields_of_a_detector_have_its_strides(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the units of its three levels see lies at strides of 8, 16 and 32 pixels."""
    path = _file(name)
    assert main(["rf", str(path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    strides = [row[3] for row in rows if len(row) > 4 and row[1] == "conv"]
    assert strides == ["8", "16", "32"]


def test_the_effective_field_of_a_detector_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The image is chosen so that the levels of its pyramid fit each other."""
    path = _file("yunet_n_640")
    assert main(["erf", str(path), "--branch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["receptive_field"]
