"""`refnet faces` as people run it: photos good and bad, folders, videos, interruptions, full disks."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.checkpoints import save
from refnet.cli import main
from refnet.faces.face import Face, Faces
from refnet.media.sources import find_sources, read_frames
from refnet.random_weights import random_weights
from refnet.results.records import Record, faces_table
from refnet.results.sinks import open_sink
from tests.detection_networks import f32, image_of, median_threshold, seeded

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: Any) -> list[str]:
    """The options that name a detector and a landmarker of seeded weights."""
    folder = tmp_path_factory.mktemp("networks")
    detector = seeded("lffd-face-v2", width=0.25)
    made = detector.graph
    save(folder / "detector.safetensors", made.name, made.options, dict(detector.weights))
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    save(folder / "landmarker.safetensors", graph.name, graph.options, random_weights(graph))
    threshold = median_threshold(detector, image_of(140, 150), units=40)
    return [
        *("--detector", str(folder / "detector.safetensors"), "--threshold", str(threshold)),
        *("--landmarker", str(folder / "landmarker.safetensors"), "--every-frame"),
    ]


def video(path: Path, frames: int = 6, size: tuple[int, int] = (150, 140)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, size)
    for i in range(frames):
        writer.write(np.roll(image_of(size[1], size[0]), i, axis=1))
    writer.release()
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Good photos in every format that cameras and scanners make, among what is none."""
    image_module = pytest.importorskip("PIL.Image")
    album, image = tmp_path / "album", image_of(140, 150)
    (album / "more").mkdir(parents=True)
    (album / ".hidden").mkdir()
    pil = image_module.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    for name, made in {
        "plain.png": pil,
        "more/plain.png": pil,
        ".hidden/plain.png": pil,
        "rgba.png": pil.convert("RGBA"),
        "gray.png": pil.convert("L"),
        "cmyk.jpg": pil.convert("CMYK"),
        "one.png": pil.resize((1, 1)),
    }.items():
        made.save(album / name)
    turned = image_module.Exif()
    turned[0x112] = 6
    pil.save(album / "turned.jpg", exif=turned)
    cv2.imwrite(str(album / "deep.png"), image.astype(np.uint16) * 257)
    (album / "cut.jpg").write_bytes((album / "cmyk.jpg").read_bytes()[:600])
    (album / "empty.jpg").touch()
    (album / "text.png").write_text("no image")
    (album / "text.mp4").write_text("no video")
    (album / "notes.txt").write_text("not looked at")
    return album


def test_an_album_gives_a_record_for_every_file_good_or_bad(
    album: Path, tmp_path: Path, networks: list[str], capsys: Any
) -> None:
    out = tmp_path / "out"
    missing = str(tmp_path / "missing.jpg")
    assert main(["faces", str(album), missing, "-o", str(out), *networks]) == 1
    records = {
        Path(r["source"]).relative_to(tmp_path).as_posix(): r for r in lines(out / "faces.jsonl")
    }
    bad = {"album/cut.jpg", "album/empty.jpg", "album/text.png", "album/text.mp4", "missing.jpg"}
    assert {name for name, r in records.items() if "error" in r} == bad
    good = {"plain.png", "rgba.png", "gray.png", "cmyk.jpg", "one.png", "turned.jpg", "deep.png"}
    assert set(records) - bad == {f"album/{name}" for name in (*good, "more/plain.png")}
    assert records["album/turned.jpg"]["width"] == 140  # upright: 150 wide before
    plain = records["album/plain.png"]["faces"]
    assert len(plain) > 0 and len(plain[0]["landmarks"]) == 98 and "track_id" not in plain[0]
    for name in ("rgba.png", "deep.png", "more/plain.png"):
        assert records[f"album/{name}"]["faces"] == plain, name
    for name in (*good, "more/plain.png"):
        drawn, seen = refnet.read_image(out / name), refnet.read_image(album / name)
        assert drawn.shape == seen.shape, name
    assert not (
        refnet.read_image(out / "plain.png") == refnet.read_image(album / "plain.png")
    ).all()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6, said  # a line a bad file, and the summary
    assert all(line.startswith("refnet: cannot ") for line in said[:5])
    assert "8 images" in said[-1] and "5 failed" in said[-1]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_second_run_does_what_is_left(
    tmp_path: Path, networks: list[str], capsys: Any, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    photos = tmp_path / "photos"
    photos.mkdir()
    refnet.write_image(photos / "a.png", image_of(140, 150, 1))
    (photos / "b.png").write_text("broken")
    results = tmp_path / f"r.{suffix}"
    call = ["faces", str(photos), "-o", str(tmp_path / "out"), "--results", str(results), *networks]
    assert main(call) == 1
    (photos / "b.png").unlink()
    refnet.write_image(photos / "b.png", image_of(140, 150, 2))
    refnet.write_image(photos / "c.png", image_of(140, 150, 3))
    assert main(call) == 0
    assert "2 images" in (said := capsys.readouterr().err) and "1 done before" in said
    assert sorted(Path(s).name for s in sources_in(results)) == ["a.png", "b.png", "c.png"]
    assert main(call) == 0 and "nothing new" in capsys.readouterr().err
    (tmp_path / "out" / "a.png").unlink()  # a copy that was lost is made again, without doubles
    assert main(call) == 0 and "1 image," in capsys.readouterr().err
    assert len(sources_in(results)) == len(set(sources_in(results))) == 3
    assert main([*call, "--overwrite"]) == 0 and "3 images" in capsys.readouterr().err


def sources_in(results: Path) -> list[str]:
    """The sources of a results file, once for each image."""
    if results.suffix == ".jsonl":
        return [row["source"] for row in lines(results)]
    if results.suffix == ".csv":
        with open(results, newline="") as file:
            rows: list[Any] = list(csv.DictReader(file))
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(results).to_pylist()
    assert not any(row["error"] for row in rows if row["face"] not in ("", None))
    return [row["source"] for row in rows if row["face"] in ("0", 0, "", None)]


def test_a_video_gives_a_record_for_every_frame_and_a_copy(
    tmp_path: Path, networks: list[str], capsys: Any
) -> None:
    clip, out = video(tmp_path / "clip.mp4"), tmp_path / "out"
    assert main(["faces", str(clip), "-o", str(out), *networks]) == 0
    records = lines(out / "faces.jsonl")
    assert [r["frame"] for r in records] == list(range(6))
    assert [r["time"] for r in records] == [round(i / 25, 4) for i in range(6)]
    assert [r["last"] for r in records] == [False] * 5 + [True]
    assert all(face["track_id"] >= 1 for r in records for face in r["faces"])
    copy = cv2.VideoCapture(str(out / "clip.mp4"))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert copy.read()[1].shape == (140, 150, 3)
    assert "clip.mp4: 6 frames, at most " in capsys.readouterr().out


def test_smoothing_is_for_videos_and_can_be_off(tmp_path: Path, networks: list[str]) -> None:
    clip = video(tmp_path / "clip.mp4")
    found = {}
    for switch in ("-q", "--no-smooth"):
        results = tmp_path / f"{switch}.jsonl"
        call = ["faces", str(clip), "--no-media", "--results", str(results), switch, *networks]
        assert main(call) == 0
        found[switch] = [face["box"] for r in lines(results) for face in r["faces"]]
    assert len(found["-q"]) == len(found["--no-smooth"]) > 0
    assert found["-q"] != found["--no-smooth"]


def test_lists_from_standard_input_are_printed_as_json(
    tmp_path: Path, networks: list[str], capsys: Any, monkeypatch: Any
) -> None:
    refnet.write_image(tmp_path / "a b.png", image_of(140, 150))
    monkeypatch.setattr("sys.stdin", [f"{tmp_path / 'a b.png'}\n", "\n"])
    assert main(["faces", "-", "--json", *networks, "--landmarker", "none"]) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["source"].endswith("a b.png") and "landmarks" not in record["faces"][0]


def run_and_interrupt(call: list[str], results: Path, size: int) -> tuple[int, str]:
    """A process of its own that gets Ctrl-C when its results have grown to `size` bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "refnet", *call],
        stderr=subprocess.PIPE,
        text=True,
        # A shell has its background jobs ignore Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not results.exists() or results.stat().st_size < size:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_leaves_valid_results_and_the_next_run_makes_them_whole(
    tmp_path: Path, networks: list[str]
) -> None:
    clip, out = video(tmp_path / "clip.mp4", frames=400), tmp_path / "out"
    call = ["faces", str(clip), "-o", str(out), *networks, "--landmarker", "none"]
    code, said = run_and_interrupt(call, out / "faces.jsonl", 2000)
    assert code == 130 and "Traceback" not in said, said
    records = lines(out / "faces.jsonl")
    assert 0 < len(records) < 400 and not records[-1]["last"]
    copy = cv2.VideoCapture(str(out / "clip.mp4"))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == len(records)
    short = video(tmp_path / "clip.mp4", frames=3)
    assert main(["faces", str(short), "-o", str(out), *networks, "--landmarker", "none"]) == 0
    assert [r["frame"] for r in lines(out / "faces.jsonl")] == [0, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path, networks: list[str], capsys: Any) -> None:
    refnet.write_image(tmp_path / "a.png", image_of(140, 150))
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    call = ["faces", str(tmp_path / "a.png"), "--no-media", *networks]
    assert main([*call, "--results", str(tmp_path / "full.jsonl")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "full.jsonl: No space left on device" in said


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--results", "x.txt"], "results end in .jsonl"),
        (["--json", "--results", "x.jsonl"], "one of the two"),
        (["-o", "x.csv"], "numbers go to --results x.csv"),
        (["-o", "x.png"], "a video's drawing ends in .mp4, not in .png"),
    ],
)
def test_wrong_options_end_in_a_line(
    tmp_path: Path, networks: list[str], capsys: Any, extra: list[str], message: str
) -> None:
    clip = video(tmp_path / "clip.mp4", frames=1)
    assert main(["faces", str(clip), "-o", str(tmp_path / "out"), *networks, *extra]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("refnet: ") and message in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--detector", "lffd-pedestrian"], "no faces"),
        (
            ["--detector", "lffd-face-v1"],
            "without weights for lffd-face-v1; give --detector the file",
        ),
        (["--detector", "pfld-ultralight-slim"], "pfld-ultralight-slim"),
        (["--landmarker", "lffd-face-v2"], "landmark networks: pfld"),
        (["--detector", "gone.onnx"], "there is no file gone.onnx"),
        (["--detector", "a.png"], "a.png is a photo or a video by its name, and no network"),
    ],
)
def test_what_is_no_such_network_ends_in_a_line(
    tmp_path: Path, capsys: Any, monkeypatch: Any, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refnet.write_image(tmp_path / "a.png", image_of(140, 150))
    assert main(["faces", "a.png", *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said and not (tmp_path / "faces").exists()


def test_sources_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg", "y/b.mp4", "y/out/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    words = [str(tmp_path / "x"), str(tmp_path / "y"), str(tmp_path / "*" / "a.jpg"), "3"]
    found = find_sources(words, exclude=tmp_path / "y" / "out")
    assert [s.kind for s in found] == ["image", "image", "video", "camera"]
    assert [s.name for s in found[:3]] == ["a.jpg", "a-2.jpg", "b.mp4"]
    assert found[3].label == found[3].name and found[3].path == "3"


def test_no_camera_is_one_error() -> None:
    (frame,) = read_frames(find_sources(["97"]))
    assert frame.image is None and "camera 97" in str(frame.error)


def record(source: str, *, last: bool = True, error: str | None = None) -> Record:
    points = np.zeros((98, 2), np.float32)
    faces = Faces(Face(f32([i, 0, 9, 9]), 0.5, points, (20, 30)) for i in range(2))
    return Record(source, None if error else faces, (20, 30), error, 0, 0.0, last)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_sinks_keep_what_is_done_and_drop_what_is_not(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = str(tmp_path / f"r.{suffix}")
    sink = open_sink(path, table=faces_table(98))
    for made in (
        record("done"),
        record("cut off", last=False),
        record("failed", error="why"),
        record("lost"),
        record("of another run", last=False),
    ):
        sink.write(made)
    sink.close()
    asked = ["done", "cut off", "failed", "lost", "new"]
    sink = open_sink(path, asked=asked, lost=["lost"], table=faces_table(98))
    assert sink.done == {"done"}
    sink.write(record("new"))
    sink.close()
    assert sources_in(Path(path)) == ["done", "of another run", "new"]


def test_a_line_that_a_killed_run_left_unfinished_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = json.dumps(record("a").to_dict())
    path.write_text(whole + "\n" + whole[:90])
    sink = open_sink(str(path), asked=["a"])
    sink.write(record("b"))
    sink.close()
    assert sources_in(path) == ["a", "b"]


def test_columns_of_another_run_are_not_mixed(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "r.csv"
    path.write_text("name,age\nx,3\n")
    with pytest.raises(refnet.OptionError, match="other columns"):
        open_sink(str(path), table=faces_table(98))
    assert path.read_text() == "name,age\nx,3\n"


def test_the_first_drawing_is_shown(
    monkeypatch: Any, tmp_path: Path, networks: list[str], capsys: Any
) -> None:
    """Where something shows it; else it is said where the drawing is, and where there is none."""
    photo = tmp_path / "a.png"
    refnet.write_image(photo, image_of(140, 150))
    shown: list[str] = []

    def show(address: str) -> bool:
        shown.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", show)
    call = ["faces", str(photo), "-o", str(tmp_path / "out"), *networks, "--open"]
    assert main(call) == 0
    assert shown == [(tmp_path / "out/a.png").resolve().as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert main([*call, "--overwrite"]) == 0
    assert f"the drawing is {tmp_path / 'out/a.png'}" in capsys.readouterr().err
    assert main(["faces", str(photo), "--no-media", "--json", *networks, "--open"]) == 0
    assert "there is no drawing to show" in capsys.readouterr().err


def test_the_codec_of_videos_is_said_where_it_is_the_lesser(
    monkeypatch: Any, tmp_path: Path, networks: list[str], capsys: Any
) -> None:
    clip = video(tmp_path / "a.mp4", frames=2)
    monkeypatch.setattr("refnet.results.copies.CODECS", ("mp4v",))
    call = ["faces", str(clip), "-o", str(tmp_path / "out"), *networks, "--overwrite"]
    assert main(call) == 0
    assert "this OpenCV writes no H.264" in capsys.readouterr().err
    assert main([*call, "--quiet"]) == 0
    assert "H.264" not in capsys.readouterr().err
