"""`refnet bench`, `refnet warmup` and `refnet info --plan`: what they print, not how fast anything is."""

import json
import math
from pathlib import Path

import pytest

import refnet
from refnet.benchmark import measure, startup
from refnet.cli import main
from refnet.engine import peak

CALL = ["bench", "pfld:width=0.25,input_size=64", "--seconds", "0.05"]


def test_the_table_and_its_json_name_network_and_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CALL) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["network", "batch", "engine"]
    assert line.split()[:3] == [CALL[1], "1", "refnet"]
    assert main([*CALL, "--json", "--batch", "2", "--threads", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["batch"] == 2 and result["ratio"] == 1 and result["error"] == 0
    assert 0 < result["p10"] <= result["median"] <= result["p90"]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([*CALL, "--plot", str(tmp_path / "ratios.png")]) == 0
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_layers_are_timed_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ms in" in lines[0] and "planar" in lines[1] and "conv1" in lines[1]


def test_a_peer_computes_the_same() -> None:
    pytest.importorskip("onnxruntime")
    graph = refnet.build("pfld", width=0.25, input_size=64)
    ours, theirs = measure(graph, peers=["onnxruntime"], seconds=0.05)
    assert (ours.engine, theirs.engine) == ("refnet", "onnxruntime")
    assert theirs.error < 2e-5
    assert math.isclose(theirs.ratio, theirs.median / ours.median)


def test_starts_are_measured_in_fresh_processes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert main([*CALL, "--startup", "--peers", "onnxruntime", "--json"]) == 0
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ours["engine"], theirs["engine"]) == ("refnet", "onnxruntime")
    assert 10 < ours["p10"] <= ours["median"] <= ours["p90"]
    assert ours["ratio"] == 1 and theirs["ratio"] == theirs["median"] / ours["median"]
    assert main([*CALL, "--startup"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["network", "engine"] and line.split()[:2] == [CALL[1], "refnet"]


def test_starts_that_cannot_be_measured_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(refnet.OptionError, match="which read ONNX; not of 'ncnn'"):
        startup("tinynet", {"input_size": (16, 16)}, peers=["ncnn"])
    monkeypatch.setenv("REFNET_LANES", "3")
    with pytest.raises(refnet.BackendError, match=r"start of refnet failed: .*REFNET_LANES"):
        startup("tinynet", {"input_size": (16, 16)})


def test_an_unknown_peer_is_an_error() -> None:
    with pytest.raises(refnet.RefnetError, match="no 'nothing'"):
        measure(refnet.build("tinynet", input_size=(16, 16)), peers=["nothing"], seconds=0.01)


def test_the_peak_is_a_plausible_number_of_operations() -> None:
    assert 0.1 < peak() < 2000


def test_warmup_and_plan_say_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup"]) == 0
    assert "kernels" in capsys.readouterr().out
    assert main(["info", "tinynet:input_size=64x64", "--plan"]) == 0
    assert "F(4x4,3x3)" in capsys.readouterr().out
