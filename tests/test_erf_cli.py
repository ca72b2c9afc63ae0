"""`refnet rf` and `refnet erf`, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import refnet
from refnet.checkpoints import save
from refnet.cli import main
from refnet.random_weights import random_weights

Output = pytest.CaptureFixture[str]


def test_rf_lists_branches(capsys: Output) -> None:
    assert main(["rf", "lffd-face-v2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lffd-face-v2"
    assert lines[-1].split() == [
        "score_5",
        "slice",
        "655",
        "64",
        "63",
        "-264",
        *["160", "to", "320", "px"],
    ]
    assert len(lines) == 4 + 5


def test_rf_lists_layers_as_json(capsys: Output) -> None:
    assert main(["rf", "tinynet:input_size=95x127", "--layers", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["input_shape"] == [3, 95, 127]
    assert data["misalignments"] == []
    last = data["fields"][-1]
    assert (last["tensor"], last["size"], last["jump"]) == ("block3", [55, 55], [4, 4])
    assert (last["centre"], last["first"], last["aligned"]) == ([3.0, 3.0], [-24, -24], True)


def test_rf_of_cells_is_by_branch(capsys: Output) -> None:
    assert main(["rf", "basketnet", "--layers"]) == 0
    assert "by branch" in capsys.readouterr().out
    assert main(["rf", "basketnet"]) == 0
    assert capsys.readouterr().out.count("lossbranch") == 8


@pytest.mark.parametrize(
    ("experiment", "printed"),
    [("as-published", "(55, 55), (15, 15), (11, 11)"), ("corrected", "55, 11, 7")],
)
def test_the_experiment_prints_the_published_and_the_true_sizes(
    capsys: Output, experiment: str, printed: str
) -> None:
    assert main(["erf", "tinynet", "--experiment", experiment]) == 0
    first, _, *explanation = capsys.readouterr().out.splitlines()
    assert first == printed
    assert " ".join(explanation).count(". ") == 3  # four sentences


def test_the_experiment_as_json_has_the_true_sizes(capsys: Output) -> None:
    assert main(["erf", "tinynet", "--experiment", "corrected", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "experiment": "corrected",
        "receptive_field": 55,
        "above_0.75": 11,
        "above_0.85": 7,
    }


def test_the_table_has_the_figures_of_every_branch(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refnet.fields import threshold_experiment

    monkeypatch.setattr(threshold_experiment, "TABLE", {"lffd-pedestrian": "ped"})  # the quickest
    assert main(["erf", "--table"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("ped-1"))
    assert row.split() == [
        *("ped-1", "143", "119", "123", "43/27/23", "31", "5", "(12)", "70.2", "75.4", "85")
    ]
    assert main(["erf", "--table", "--json"]) == 0
    data = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["receptive_field"] for row in data] == [143, 223, 383, 703]
    assert data[0]["script"]["above_0.85"] == {"size": [5, 5], "contours": 12}


def test_erf_measures_every_branch(capsys: Output) -> None:
    assert main(["erf", "lffd-head"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lffd-head, every weight 0.05"
    assert lines[-4].split()[:9] == ["1", "score_1", "55", "19", "11", "7", "32.2", "32.8", "37"]


def test_erf_measures_random_networks_at_any_layer(capsys: Output) -> None:
    command = ["erf", "tinynet", "--tensor", "block1", "--draws", "2", "--json", "--channel", "3"]
    assert main(command) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["output"], data["samples"], data["receptive_field"]) == ("block1", 2, [23, 23])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 4))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "head.safetensors"
    graph = refnet.build("lffd-head", width=0.25)
    save(path, graph.name, graph.options, random_weights(graph))
    return path


def test_erf_draws_trained_weights_on_an_image(
    capsys: Output, photo: Path, weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra `plot`")
    written = {flag: tmp_path / f"{flag}.png" for flag in ("heat-map", "compare", "sheet")}
    written |= {"profile": tmp_path / "profile.svg", "explorer": tmp_path / "explorer.html"}
    command = ["erf", str(weights), "--trained"]
    command += ["--image", str(photo), "--branch", "2", "--unit", "9,14"]
    figures = [word for flag, path in written.items() for word in (f"--{flag}", str(path))]
    assert main([*command, *figures, "--face", "10,10,60,70", "--compact"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("lffd-head, trained, on 1 image(s)")
    assert all(path.stat().st_size > 3000 for path in written.values())
    before = photo.read_bytes()
    for words in ((str(written["compare"]),), (str(photo), "--overwrite")):
        assert main([*command, "--heat-map", *words]) == 2
    assert photo.read_bytes() == before
    said = capsys.readouterr().err.splitlines()
    assert "--overwrite replaces it" in said[0] and "is read here" in said[1]
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["unit"] == [9, 14]


def test_networks_in_onnx_files_are_measured_too(
    capsys: Output, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(4, 3, 5, 3)).astype(np.float32)
    conv = helper.make_node("Conv", ["image", "w"], ["map"], strides=[2, 2])
    graph = helper.make_graph(
        [conv],
        "drawn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    path = str(tmp_path / "own.onnx")
    onnx.save(helper.make_model(graph, ir_version=8), path)
    sized = f"{path}:input_size=180x240"
    assert main(["rf", sized]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:6] == [
        "map",
        "conv",
        *["5", "×", "3", "2"],
    ]
    image = [
        "--trained",
        "--image",
        str(photo),
        "--scaling",
        "0.01,-1",
        "--rgb",
        "--channel",
        "2",
    ]
    assert main(["erf", sized, *image, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["peak"] == pytest.approx(np.abs(weight[2]).sum(0).max(), rel=1e-6)
    assert main(["rf", path]) == 0  # a size that the file leaves open is chosen
    assert capsys.readouterr().out.splitlines()[-1].split()[:5] == ["map", "conv", "5", "×", "3"]
    assert main(["rf", f"{path}:width=2"]) == 2
    assert "only input_size" in capsys.readouterr().err


def test_scaling_is_the_networks_own() -> None:
    from refnet.cli.erf import network_input

    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :, 0] = 255  # blue
    for network, blue in (("lffd-head", 255), ("basketnet", 0), ("tinynet", 1), ("pfld", 1)):
        x = network_input(refnet.build(network), image)
        assert x.shape == (3, 8, 8)
        assert x[0, 0, 0] == pytest.approx(blue)
    assert network_input(refnet.build("pfld"), image)[1, 0, 0] == -1
    assert network_input(refnet.build("basketnet"), image)[2, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["erf"], "name a network"),
        (["erf", "lffd-face-v2:width=0.5", "--branch", "6"], "branches 1 to 5"),
        (["erf", "lffd-face-v2:width=0.5", "--tensor", "conv99"], "no tensor 'conv99'"),
        (["erf", "lffd-head", "--trained"], "goes with --image"),
        (["erf", "lffd-head", "--heat-map", "x.png"], "choose it with --branch"),
        (["erf", "lffd-head", "--branch", "1", "--compare", "x.png"], "pass --trained and --image"),
        (["erf", "pfld", "--experiment", "as-published"], "an experiment on tinynet"),
        (["erf", "tinynet", "--channel", "64"], "channels 0 to 63"),
        (["rf", "lffd-face-v3"], "did you mean"),
        (["rf", "absent.onnx"], "absent.onnx"),
    ],
)
def test_errors_are_one_line(capsys: Output, command: list[str], words: str) -> None:
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("refnet: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--unit", "3"], ["--channel", "x"], ["--face", "1,2,3"]])
def test_wrong_words_are_wrong_calls(capsys: Output, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["erf", "tinynet", *words])
    assert stop.value.code == 2
    assert f"{words[0]} is " in capsys.readouterr().err
