"""The command line, as a person types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import refnet
from refnet.checkpoints import save
from refnet.cli import VERBS, main
from refnet.random_weights import random_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small landmark network in a file that says what it is."""
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    save(tmp_path / "slim.safetensors", graph.name, graph.options, random_weights(graph))
    return tmp_path / "slim.safetensors"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    return tmp_path / "photo.png"


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_screen(verb: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([verb, "--help"], ["help", verb]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: refnet {verb}")
        assert text.count("\n") <= 50


def test_the_overview_names_every_verb_and_the_version(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS) and text.count("\n") <= 50
    assert main([]) == 0  # somebody who types the name alone wants to know what it does
    assert capsys.readouterr().out == text
    with pytest.raises(SystemExit):
        main(["--version"])
    version, backend, weights = capsys.readouterr().out.splitlines()
    assert version == f"refnet {refnet.__version__}"
    assert backend.startswith("backend: compiled, ")
    assert "lffd-face-v2" in weights and "pfld-ultralight-slim" in weights


def test_a_call_imports_the_file_of_its_own_verb_alone() -> None:
    """Else the overview would import all of refnet, and take twice as long."""
    code = (
        "import sys; from refnet.cli import parser_of; parser_of(sys.argv[1:]); "
        "print(*sorted(sys.modules))"
    )
    for words in (["--help"], ["warmup"], ["run", "pfld"]):
        called = [sys.executable, "-c", code, *words]
        loaded = subprocess.run(called, check=True, capture_output=True, text=True).stdout.split()
        assert {verb for verb in VERBS if f"refnet.cli.{verb}" in loaded} == {*words} & {*VERBS}
        assert not [
            name for name in loaded if name.startswith(("refnet.faces", "refnet.detection"))
        ]


def test_first_faces_wait_for_no_module_that_they_do_not_need(tmp_path: Path) -> None:
    """NumPy's masked arrays, the reader of ONNX, browsers: 10 milliseconds of processor time each."""
    photo = Path(__file__).parents[1] / "docs" / "astronaut.jpg"
    code = (
        "import sys; from refnet.cli import main; code = main(sys.argv[1:]); "
        "print(*sorted(sys.modules)); sys.exit(code)"
    )
    called = [sys.executable, "-c", code, "faces", str(photo), "-o", str(tmp_path), "-q"]
    # The first run compiles the kernels where there are none yet.
    subprocess.run(called, check=True, capture_output=True)
    loaded = subprocess.run(called, check=True, capture_output=True, text=True).stdout.split()
    assert "refnet.faces.analyzer" in loaded
    needless = {"numpy.ma", "refnet.exchange.onnx_network", "webbrowser", "onnx", "torch"}
    assert not needless & set(loaded)


def test_networks_lists_every_network_and_its_figures(capsys: Any) -> None:
    assert main(["networks"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in refnet.networks())
    assert main(["networks", "lffd-p*", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["network"] for m in listed] == ["lffd-pedestrian", "lffd-plate", "lffd-plate-small"]
    assert listed[1]["parameters"] == 948_498 and listed[1]["weights"] is None
    assert main(["networks", "--released", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["network"] for m in listed] == list(refnet.networks(released=True))
    assert all(m["weights"].startswith("width=") and m["bytes"] > 10_000 for m in listed)
    assert main(["networks", "yolo*"]) == 2
    assert "no network matches 'yolo*'" in capsys.readouterr().err


def test_info_shows_layers_counts_and_options(capsys: Any, weights: Path) -> None:
    assert main(["info", "lffd-head:input_size=255x333"]) == 0
    text = capsys.readouterr().out
    assert "3 × 255 × 333" in text
    assert "335" in text
    assert main(["info", "pfld:width=0.25", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["macs"] == 20_400_464
    assert described["layers"][0]["output_shape"] == [16, 56, 56]
    assert main(["info", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["width"] == 0.25
    assert main(["info", "pfld:width"]) == 2
    assert "such as width=0.25" in capsys.readouterr().err


def test_a_name_means_the_network_that_has_weights(capsys: Any) -> None:
    for name in refnet.networks(released=True):
        assert main(["info", name, "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["parameters"] == refnet.load(name).graph.parameter_count


def test_run_writes_the_outputs_by_name(tmp_path: Path, weights: Path, capsys: Any) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 112, 112)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    call = ["run", str(weights), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    assert main([*call, "--backend", "numpy"]) == 0
    assert "landmarks" in capsys.readouterr().out
    with np.load(tmp_path / "y.npz") as outputs:
        model = refnet.load(weights, backend="numpy")
        np.testing.assert_array_equal(outputs["landmarks"], model(x))

    assert main(call) == 2
    assert "y.npz is there; --overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "photo.jpg").touch()
    np.savez(tmp_path / "two.npz", x, x)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 3, 300, 320), }"
    claims = b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117).encode() + b"\n"
    (tmp_path / "claims.npy").write_bytes(claims)
    (tmp_path / "cut.npy").write_bytes(claims[:40])
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    for wrong, says in (
        ("claims.npy", "greater than file size"),
        ("cut.npy", "cannot read an array"),
        ("empty.npy", "cannot read an array"),
        ("objects.npy", "it holds Python objects"),
        ("none.npy", "No such file"),
        ("two.npz", "several arrays"),
        ("photo.jpg", "photos go to refnet faces"),
    ):
        call[2] = str(tmp_path / wrong)
        assert main([*call, "--overwrite"]) != 0
        assert says in capsys.readouterr().err


def test_landmarks_draws_and_writes_every_box(
    tmp_path: Path, weights: Path, photo: Path, capsys: Any
) -> None:
    drawing = tmp_path / "out" / "faces.png"
    call = ["landmarks", str(photo), "--landmarker", str(weights)]
    boxes = ["--box", "10,10,60,70", "--box", "-5,0,30,30"]
    assert main([*call, "--output", str(drawing), *boxes]) == 0
    assert capsys.readouterr().out.startswith(f"{photo}: 2 faces, 10 10 60 70")
    assert refnet.read_image(drawing).shape == (90, 120, 3)
    assert main([*call, "-o", str(tmp_path / "folder"), *boxes]) == 0
    found = json.loads((tmp_path / "folder" / "landmarks.jsonl").read_text())
    assert (found["width"], found["height"]) == (120, 90)
    assert [len(face["landmarks"]) for face in found["faces"]] == [98, 98]
    assert found["faces"][0]["box"] == [10, 10, 60, 70]
    assert main([*call, "-o", str(tmp_path / "folder"), "--box", "0,0,9,9"]) == 2
    assert "was made with boxes" in capsys.readouterr().err

    assert main([*call, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["faces"][0]["box"] == [0, 0, 120, 90]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--box", "10,10,60"], "--box is X1,Y1,X2,Y2, not '10,10,60'"),
        (["--box", "10,10,5,5"], "X2 > X1"),
        (["--box", "1e40,1e40,2e40,2e40"], "--box"),
        (["-o", "photo.png"], "one of the inputs"),
        (["-o", "drawing.mp4"], "a photo's drawing ends in"),
        (["-o", "drawing.json"], "--results drawing.json"),
        (["--margin", "-1"], "margin"),
    ],
)
def test_landmarks_refuses_wrong_words_in_a_line(
    tmp_path: Path, weights: Path, photo: Path, capsys: Any, monkeypatch: Any, extra: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = photo.read_bytes()
    code = run_main(["landmarks", "photo.png", "--landmarker", str(weights), *extra])
    captured = capsys.readouterr()
    assert says in captured.err.splitlines()[0]
    assert code in (1, 2) and "internal" not in captured.err
    assert photo.read_bytes() == before


def run_main(words: list[str]) -> int:
    """The exit code of the command line, however it ends."""
    try:
        return main(words)
    except SystemExit as left:
        return int(left.code or 0)


def test_landmarks_of_bad_files_end_in_a_line(
    tmp_path: Path, weights: Path, photo: Path, capsys: Any
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for call, code, says in (
        (
            ["landmarks", str(tmp_path / "bad.jpg"), "--landmarker", str(weights), "--json"],
            1,
            "bad.jpg",
        ),
        (
            ["landmarks", str(photo), "--landmarker", str(photo)],
            2,
            "photo.png is a photo or a video",
        ),
        (["landmarks", str(photo), "--landmarker", str(tmp_path / "none.pth")], 2, "none.pth"),
    ):
        assert main(call) == code
        assert says in capsys.readouterr().err


def test_doctor_reports_versions_and_a_self_test(capsys: Any) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["refnet"] == refnet.__version__
    assert report["numpy"] == np.__version__
    assert "agrees with float64 NumPy" in report["self-test"]


def test_doctor_says_which_backend_runs_where_nothing_compiles(
    capsys: Any, monkeypatch: Any
) -> None:
    """A machine without Numba is a machine that works, and the report says which backend runs."""
    monkeypatch.setattr("refnet.engine.unavailable", lambda: "llvmlite is not installed")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "numpy, since the compiled backend cannot run here: llvmlite is not installed" in text


@pytest.mark.parametrize("verb", ["faces", "detect", "blur", "evaluate detection"])
def test_how_outputs_are_read_may_be_said(
    verb: str, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    words = {
        "faces": ["faces", str(photo), "--detector"],
        "detect": ["detect", str(photo), "--detector"],
        "blur": ["blur", str(photo), "-o", str(out), "--detector"],
        "evaluate detection": ["evaluate", "detection", "--data", str(tmp_path)],
    }[verb]
    assert main([*words, "lffd-face-v2", "--decoder", "yunet"]) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith("refnet: the outputs of lffd-face-v2 are not those of yunet; for")
    assert not out.exists()
    with pytest.raises(SystemExit):
        main([*words, "lffd-face-v2", "--decoder", "yolo"])
    assert "--decoder is one of yunet, scrfd," in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["info", "rf", "bench", "run", "export"])
def test_a_name_says_which_network_it_stands_for(verb: str, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 128, 128), np.float32))
    more = {
        "bench": ["--seconds", "0.01"],
        "run": [str(tmp_path / "x.npy"), str(tmp_path / "y.npz")],
        "export": [str(tmp_path / "x.onnx")],
    }.get(verb, [])
    assert main([verb, "lffd-face-v2", *more]) == 0
    line, *_ = capsys.readouterr().err.splitlines()  # bench may add that others use the machine
    assert line == "refnet: lffd-face-v2 is lffd-face-v2:width=0.5, the released one"
    for plain in ("lffd-face-v2:width=0.5", "basketnet"):
        if verb in ("info", "rf"):
            assert main([verb, plain]) == 0
            assert capsys.readouterr().err == ""


def test_blur_goes_on_without_results(tmp_path: Path, capsys: Any, astronaut: Path) -> None:
    out = tmp_path / "out"
    words = ["blur", str(astronaut), "-o", str(out), "--threads", "1"]
    for method, code, says in (
        ("solid", 0, ""),
        ("solid", 0, "1 done before"),
        ("pixelate", 2, "was made with method solid, and this run has pixelate; --overwrite"),
    ):
        assert main([*words, "--method", method]) == code
        assert says in capsys.readouterr().err
    before = (out / "astronaut.jpg").read_bytes()
    assert main([*words, "--method", "pixelate", "--overwrite"]) == 0
    assert (out / "astronaut.jpg").read_bytes() != before
    results = tmp_path / "r.csv"
    assert main([*words, "--method", "pixelate", "--results", str(results)]) == 0
    capsys.readouterr()
    assert main([*words, "--method", "pixelate", "--results", str(results)]) == 0
    assert "1 done before" in capsys.readouterr().err


@pytest.fixture
def astronaut() -> Path:
    return Path(__file__).parents[1] / "docs" / "astronaut.jpg"
