"""The command line as people guess it, from other programs: it works, or one line names what is meant."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import refnet
from refnet.cli import main
from tests.detection_networks import image_of

cv2 = pytest.importorskip("cv2")

PHOTO = Path(__file__).parent.parent / "docs" / "astronaut.jpg"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with a photo of a face, as the current one."""
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(words: str) -> int:
    try:
        return main(words.split())
    except SystemExit as left:
        return int(left.code or 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        # insightface
        ("faces photo.jpg --det-size 640", "did you mean --min-size?"),
        ("faces photo.jpg --det_thresh 0.5", "did you mean --threshold?"),
        ("faces photo.jpg --ctx-id 0", "runs on the CPU"),
        ("faces photo.jpg --providers CPUExecutionProvider", "runs on the CPU"),
        ("faces --input photo.jpg", "stands without an option: refnet faces PATH"),
        # uniface
        ("detect --source photo.jpg", "stands without an option: refnet detect PATH"),
        ("detect photo.jpg --save-dir out", "did you mean -o?"),
        ("detect photo.jpg --confidence 0.5", "did you mean --threshold?"),
        ("anonymize photo.jpg", "did you mean refnet blur?"),
        # ultralytics
        ("predict source=photo.jpg", "did you mean refnet detect?"),
        ("detect photo.jpg --conf 0.5", "did you mean --threshold?"),
        ("detect photo.jpg --model yolov8n.pt", "did you mean --detector?"),
        ("detect photo.jpg --imgsz 640", "did you mean --min-size?"),
        ("detect photo.jpg --device cpu", "runs on the CPU"),
        ("detect photo.jpg --iou 0.5", "nms_threshold"),
        ("detect photo.jpg --save-txt", "did you mean --results?"),
        ("faces photo.jpg --save-crop", "did you mean --crops?"),
        ("faces photo.jpg --aligned 112", "that --crops DIR writes"),
        ("val lffd-face-v2", "did you mean refnet evaluate?"),
        ("benchmark lffd-face-v2", "did you mean refnet bench?"),
        # deface
        ("blur photo.jpg -o out.jpg -t 0.2", "did you mean --threshold?"),
        ("blur photo.jpg -o out.jpg --thresh 0.2", "did you mean --threshold?"),
        ("blur photo.jpg -o out.jpg --mask-scale 1.3", "did you mean --margin?"),
        ("blur photo.jpg -o out.jpg --replacewith mosaic", "did you mean --method?"),
        ("blur photo.jpg -o out.jpg --boxes", "did you mean --shape box?"),
        ("blur photo.jpg -o out.jpg --keep-audio", "have no sound"),
        (
            "blur photo.jpg -o out.jpg --method mosaic",
            "--method is one of blur, pixelate, solid, not 'mosaic'",
        ),
        ("blur photo.jpg", "needs -o"),
        # OpenCV and the rest
        ("faces photo.jpg --score_threshold 0.9", "did you mean --threshold?"),
        ("faces photo.jpg --nms_threshold 0.3", "nms_threshold"),
        ("faces photo.jpg --top_k 5000", "top_k"),
        ("faces photo.jpg --threshold 50", "for 50 % write 0.5"),
        ("faces photo.jpg --threshold 50%", "for 50 % write 0.5"),
        ("faces photo.jpg --threshold high", "--threshold lies in 0 to 1, not 'high'"),
        ("faces photo.jpg --threads 1000000", "--threads is a whole number from 1 to"),
        ("faces photo.jpg --min-size 0", "--min-size is a whole number"),
        ("faces photo.jpg --boxes-only", "did you mean --landmarker none?"),
        ("faces photo.jpg --show", "did you mean --open?"),
        ("faces photo.jpg --tresholt 0.5", "did you mean --threshold?"),
        ("landmarks photo.jpg --bbox 1,2,3,4", "did you mean --box?"),
        ("info lffd-face-v2 --option width=0.5", "lffd-face-v2:width=0.5"),
        ("info lffd-face", "did you mean"),
        ("convert a.pth b.safetensors -f", "did you mean --overwrite?"),
        ("run pfld --input x.npy", "stands without an option: refnet run NETWORK"),
        ("models", "did you mean refnet networks?"),
        ("faecs photo.jpg", "did you mean refnet faces?"),
        ("photo.jpg", "refnet faces photo.jpg?"),
        (".", "refnet faces .?"),
        ("faces", "PATH is missing"),
        ("evaluate faces --data x", "KIND is one of landmarks, detection, not 'faces'"),
    ],
)
def test_a_guess_is_answered_in_one_line(here: Path, capsys: Any, words: str, says: str) -> None:
    assert call(words) == 2
    captured = capsys.readouterr()
    first, *usage = captured.err.splitlines()
    assert captured.out == "" and says in first and first.startswith("refnet")
    assert not usage or (len(usage) == 1 and usage[0].startswith("usage: refnet "))
    assert sorted(path.name for path in here.iterdir()) == ["photo.jpg"]


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("faces photo.jpg", {"faces"}),
        ("faces photo.jpg -o out.png", {"out.png"}),
        ("faces photo.jpg --output out", {"out"}),
        ("faces photo.jpg --json", set()),
        ("faces photo.jpg -q --crops crops --aligned 112 --no-media", {"crops", "faces"}),
        ("faces photo.jpg --landmarker none --threshold=.6", {"faces"}),
        ("detect photo.jpg", {"detected"}),
        ("blur photo.jpg -o blurred.jpg --method pixelate --shape box", {"blurred.jpg"}),
        ("landmarks photo.jpg --box 175,66,269,180", {"landmarks"}),
        ("faces *.jpg", {"faces"}),
    ],
)
def test_right_guesses_write_what_they_name(
    here: Path, capsys: Any, words: str, made: set[str]
) -> None:
    assert call(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert {path.name for path in here.iterdir()} == {"photo.jpg"} | made
    if "--json" in words:
        assert len(json.loads(captured.out)["faces"]) == 1
    elif "-q" in words:
        (crop,) = (here / "crops").glob("*.png")
        assert refnet.read_image(crop).shape == (112, 112, 3) and captured.out == ""
    else:
        assert captured.out.startswith("photo.jpg: 1 ") and captured.out.count("\n") == 1


def test_blurred_faces_are_not_found_again(here: Path, capsys: Any) -> None:
    assert call("blur photo.jpg -o blurred.png --method solid") == 0
    assert call("faces blurred.png --json") == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(out)["faces"] == []


def test_other_objects_have_a_class(here: Path, capsys: Any) -> None:
    assert call("detect photo.jpg -o out --results r.jsonl") == 0
    (line,) = (here / "r.jsonl").read_text().splitlines()
    (found,) = json.loads(line)["objects"]
    assert found["class"] == "face" and found["score"] > 0.5
    assert call("detect photo.jpg -o out --results r.jsonl") == 0
    assert "1 done before" in capsys.readouterr().err
    assert call("detect photo.jpg -o out --results r.csv") == 0
    assert "face,0.9" in (here / "r.csv").read_text().splitlines()[1]
    assert call("detect photo.jpg -o out --results r.txt") == 2
    assert "results end in .jsonl, .csv, .parquet" in capsys.readouterr().err


def test_other_settings_do_not_keep_old_results(here: Path, capsys: Any) -> None:
    assert call("faces photo.jpg") == 0
    assert call("faces photo.jpg --threshold 0.1") == 2
    said = capsys.readouterr().err
    assert "was made with threshold 0.5, and this run has 0.1; --overwrite" in said
    assert call("faces photo.jpg --threshold 0.1 --overwrite") == 0
    assert call("faces photo.jpg --threshold 0.1 --landmarker none") == 2


def test_what_is_not_there_writes_nothing(here: Path, capsys: Any) -> None:
    assert call("faces gone.jpg away.mp4") == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "refnet: cannot read gone.jpg: No such file or directory",
        "refnet: cannot read away.mp4: No such file or directory",
    ]
    assert sorted(path.name for path in here.iterdir()) == ["photo.jpg"]


def refnet_process(words: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.Popen(
        words,
        shell=True,
        executable="/bin/bash",
        env=environment,
        stderr=subprocess.PIPE,
        **options,
    )


REFNET = f"{sys.executable} -m refnet"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("networks > /dev/full", 1, "No space left on device"),
        ("faces photo.jpg --json > /dev/full", 1, "No space left on device"),
        ("networks >&-", 0, ""),
        ("faces photo.jpg --no-media -q --results r.jsonl >&- 2>&- <&-", 0, ""),
        ("faces - <&-", 2, "standard input, which is closed"),
        ("faces - < photo.jpg", 2, "standard input holds a JPEG"),
        ("networks | head -1 > /dev/null", 0, ""),
        ("networks 2>&-", 0, ""),
    ],
)
def test_streams_that_take_nothing_end_in_a_line_and_a_code(
    here: Path, words: str, code: int, says: str
) -> None:
    process = refnet_process(f"set -o pipefail; {REFNET} {words}", stdout=subprocess.PIPE)
    _, said = process.communicate(timeout=120)
    text = said.decode()
    assert process.returncode == code, text
    assert says in text and "Traceback" not in text and text.count("\n") <= 1


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_a_terminal_that_has_only_ascii_gets_ascii(here: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii"}
    process = refnet_process(f"{REFNET} faces photo.jpg", env=environment, stdout=subprocess.PIPE)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0 and said == b""
    assert printed.isascii() and printed.startswith(b"photo.jpg: 1 face")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_signals_end_a_run_in_order(here: Path, number: int, code: int, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 25, (320, 240))
    for i in range(600):
        writer.write(image_of(240, 320, i % 3))
    writer.release()
    process = subprocess.Popen(
        [*REFNET.split(), "faces", "clip.mp4", "-o", "out.mp4", "--results", f"r.{suffix}"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not list(here.glob(".refnet-*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == code and "Traceback" not in said, said
    assert re.search(r"refnet: interrupted, \d+ frames? of 0 videos, ", said)
    assert cv2.VideoCapture("out.mp4").read()[0]
    if suffix == "jsonl":
        assert all(json.loads(line) for line in Path("r.jsonl").read_text().splitlines())
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table("r.parquet").num_rows > 0


@pytest.mark.parametrize(
    ("program", "before", "during"),
    [
        ("-m", "default_int_handler", "SIG_DFL"),
        ("/usr/bin/refnet", "default_int_handler", "SIG_DFL"),
        ("-m", "SIG_IGN", "SIG_IGN"),  # in the background of a script
        ("my_program.py", "default_int_handler", "default_int_handler"),
    ],
)
def test_ctrl_c_while_refnet_is_imported(program: str, before: str, during: str) -> None:
    """It ends the process at once, without a traceback; from the verb on it raises KeyboardInterrupt."""
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.{before})
sys.argv = [{program!r}]
import refnet
assert signal.getsignal(signal.SIGINT) == signal.{during}, "imported"
from refnet.cli import main
assert main(["networks", "tinynet"]) == 0
assert signal.getsignal(signal.SIGINT) == signal.{before}, "run"
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_errors_of_refnets_own_ask_for_a_report(here: Path, capsys: Any, monkeypatch: Any) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr("refnet.cli.networks.run", broken)
    assert call("networks") == 70
    (said,) = capsys.readouterr().err.splitlines()
    assert "internal error, ZeroDivisionError: one" in said and "--debug" in said
    assert call("networks --debug") == 70
    assert "Traceback" in capsys.readouterr().err


def test_names_do_not_reach_the_terminal_raw(here: Path, capsys: Any) -> None:
    for words in (["faces", "a\x1b[2J\nb.jpg"], ["a\x1b[2J"], ["info", "a\x1b[2J"]):
        assert main(words) in (1, 2)
        said = capsys.readouterr().err
        assert "\x1b" not in said and said.count("\n") == 1 and "\\x1b" in said
    assert main(["faces", "a\0b.jpg", "photo.jpg", "--json"]) == 1
    assert "zero byte" in capsys.readouterr().err
