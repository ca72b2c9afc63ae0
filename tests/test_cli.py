"""The command line, as a person types it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import refnet
from refnet.cli import VERBS, main
from refnet.random_weights import random_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small landmark network's weights in a file that does not tell its network."""
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    np.savez(tmp_path / "slim.npz", **random_weights(graph))  # type: ignore[arg-type]
    return tmp_path / "slim.npz"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    return tmp_path / "photo.png"


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: refnet {verb}")


def test_overview_and_version(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"refnet {refnet.__version__}\n"


def test_no_verb_is_a_wrong_call(capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2


def test_models(capsys: Any) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in refnet.networks())
    assert main(["models", "lffd-p*", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["network"] for m in listed] == ["lffd-pedestrian", "lffd-plate", "lffd-plate-small"]
    assert listed[1]["parameters"] == 948_498
    assert main(["models", "yolo*"]) == 1
    assert "no network matches 'yolo*'" in capsys.readouterr().err


def test_info(capsys: Any) -> None:
    assert main(["info", "lffd-head", "--option", "input_size=255x333"]) == 0
    text = capsys.readouterr().out
    assert "3 × 255 × 333" in text
    assert "335" in text
    assert main(["info", "pfld", "--option", "width=0.25", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["macs"] == 20_400_464
    assert described["layers"][0]["output_shape"] == [16, 56, 56]
    assert main(["info", "pfld", "--option", "width"]) == 1
    assert "KEY=VALUE" in capsys.readouterr().err


def test_run(tmp_path: Path, weights: Path, capsys: Any) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 112, 112)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    call = ["run", "pfld-ultralight-slim", "--weights", str(weights), "--option", "width=0.25"]
    call += ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npz")]
    assert main([*call, "--backend", "numpy"]) == 0
    assert "landmarks" in capsys.readouterr().out
    with np.load(tmp_path / "y.npz") as outputs:
        model = refnet.load("pfld-ultralight-slim", weights, width=0.25, backend="numpy")
        np.testing.assert_array_equal(outputs["landmarks"], model(x))

    for wrong, says in ((tmp_path / "none.npy", "No such file"), (weights, "several arrays")):
        call[call.index("--input") + 1] = str(wrong)
        assert main(call) == 1
        assert says in capsys.readouterr().err


def test_landmarks(tmp_path: Path, weights: Path, photo: Path, capsys: Any) -> None:
    drawing = tmp_path / "out" / "faces.png"
    call = ["landmarks", str(photo), "--weights", str(weights), "--network", "pfld-ultralight-slim"]
    call += ["--option", "width=0.25", "--output", str(drawing)]
    assert main([*call, "--boxes", *["10", "10", "60", "70", "-5", "0", "30", "30"]]) == 0
    assert capsys.readouterr().out.startswith("2 faces, 98 points each")
    assert refnet.read_image(drawing).shape == (90, 120, 3)
    found = json.loads(drawing.with_suffix(".json").read_text())
    assert (found["width"], found["height"]) == (120, 90)
    assert [len(face["points"]) for face in found["faces"]] == [98, 98]
    assert found["faces"][0]["box"] == [10, 10, 60, 70]

    assert main([*call, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["faces"][0]["box"] == [0, 0, 120, 90]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--boxes", "10", "10", "60"], "four numbers a face"),
        (["--boxes", "10", "10", "5", "5"], "x2 > x1"),
        (["--output", "photo.png"], "is the photo itself"),
        (["--output", "drawing.txt"], "names no image format"),
        (["--margin", "-1"], "margin"),
    ],
)
def test_landmarks_refuses(
    tmp_path: Path, weights: Path, photo: Path, capsys: Any, monkeypatch: Any, extra: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = photo.read_bytes()
    call = [
        "landmarks",
        "photo.png",
        "--weights",
        str(weights),
        "--network",
        "pfld-ultralight-slim",
    ]
    assert main([*call, "--option", "width=0.25", *extra]) == 1
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert photo.read_bytes() == before


def test_landmarks_of_bad_files(tmp_path: Path, weights: Path, photo: Path, capsys: Any) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for call, says in (
        (["landmarks", str(tmp_path / "bad.jpg"), "--weights", str(weights)], "bad.jpg"),
        (["landmarks", str(photo), "--weights", str(photo)], "photo.png"),
        (["landmarks", str(photo), "--weights", str(tmp_path / "none.pth")], "none.pth"),
    ):
        assert main(call) == 1
        assert says in capsys.readouterr().err


def test_doctor(capsys: Any) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["refnet"] == refnet.__version__
    assert report["numpy"] == np.__version__
    assert "agrees with float64 NumPy" in report["self-test"]


def test_doctor_where_nothing_compiles(capsys: Any, monkeypatch: Any) -> None:
    """A machine without Numba is a machine that works, and the report says which backend runs."""
    monkeypatch.setattr("refnet.engine.unavailable", lambda: "llvmlite is not installed")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "numpy, since the compiled backend cannot run here: llvmlite is not installed" in text
