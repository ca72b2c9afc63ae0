"""What a run may replace and what it may continue: a user's files stay, whatever is typed."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.cli import main
from refnet.errors import OptionError, OutputError
from refnet.faces.face import Face, Faces
from refnet.media.mark import marked
from refnet.media.sources import find_sources, read_frames
from refnet.ops import Array
from refnet.results.copies import AnnotatedCopies
from refnet.results.job import Job, Outcome, Progress
from refnet.results.records import Record
from refnet.results.sinks import open_sink
from tests.detection_networks import f32, image_of

cv2 = pytest.importorskip("cv2")

ALL = ["jsonl", "csv", "parquet"]


class OneFace:
    """Finds one face in every image."""

    landmarker = None

    def __call__(self, image: Array) -> Faces:
        return Faces([Face(f32([1, 2, 30, 40]), 0.5, None, (image.shape[0], image.shape[1]))])


def run(
    words: list[Path | str], out: Path, results: Path | str | None = None, **options: Any
) -> Outcome:
    """One run with drawn copies in `out`."""
    analyzer: Any = OneFace()
    copies = AnnotatedCopies(out)
    job = Job(analyzer, str(results or out / "faces.jsonl"), copies=copies, **options)
    return job.run(find_sources(list(map(str, words))))


def clip(path: Path, frames: int = 3, code: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (60, 50))
    for i in range(frames):
        writer.write(image_of(50, 60, i))
    writer.release()
    return path


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    folder = tmp_path / "holiday"
    folder.mkdir()
    refnet.write_image(folder / "a.jpg", image_of(50, 60, 1))
    refnet.write_image(folder / "b.png", image_of(50, 60, 2))
    clip(folder / "c.mp4", code="mp4v")
    clip(folder / "d.avi")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("through", ["itself", "link", "dots"])
def test_no_input_is_replaced(holiday: Path, through: str, overwrite: bool) -> None:
    before = contents(holiday)
    out = {
        "itself": holiday,
        "link": holiday.parent / "link",
        "dots": holiday / "x" / "..",
    }[through]
    if through == "link":
        out.symlink_to(holiday)
    (holiday / "x").mkdir()
    for words in ([holiday], [holiday / "a.jpg"], [holiday / "c.mp4"]):
        with pytest.raises(OptionError, match="one of the inputs"):
            run([*words], out, overwrite=overwrite)
    assert contents(holiday) == before


def test_a_file_that_refnet_did_not_draw_is_not_replaced(holiday: Path, tmp_path: Path) -> None:
    before = contents(holiday)
    for overwrite in (
        False,
        True,
    ):  # d.avi becomes c.mp4's neighbour d.mp4, which is the user's own
        (holiday / "d.mp4").write_bytes(b"my own")
        with pytest.raises(OptionError, match="refnet did not draw it"):
            run([holiday / "d.avi"], holiday, tmp_path / "r.jsonl", overwrite=overwrite)
    assert contents(holiday) == before | {"d.mp4": b"my own"}


def test_drawings_of_another_file_of_the_same_name_stay(holiday: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    run([holiday / "a.jpg"], out)
    refnet.write_image(other / "a.jpg", image_of(50, 60, 7))
    before = (out / "a.jpg").read_bytes()
    with pytest.raises(OptionError, match="of another run"):
        run([other / "a.jpg"], out)
    assert (out / "a.jpg").read_bytes() == before
    assert run([other / "a.jpg"], out, overwrite=True).images == 1
    assert (out / "a.jpg").read_bytes() != before


def test_two_inputs_of_one_stem_have_a_copy_each(tmp_path: Path) -> None:
    folder, out = tmp_path / "twins", tmp_path / "out"
    folder.mkdir()
    for name in ("clip.avi", "clip.mkv"):
        clip(folder / name)
    refnet.write_image(folder / "p.png", image_of(50, 60))
    os.link(folder / "p.png", folder / "p.gif")  # decoded by its content
    (folder / "p").write_bytes((folder / "p.png").read_bytes())
    outcome = run([folder, folder / "p"], out)
    assert (outcome.images, outcome.videos) == (3, 2)
    drawn = sorted(path.name for path in out.iterdir() if path.suffix in (".mp4", ".png"))
    assert drawn == ["clip-2.mp4", "clip.mp4", "p-2.png", "p.gif.png", "p.png"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "labels.jsonl",
            '{"image": "a.jpg", "label": "cat"}\n{"image": "b.jpg", "label": "dog"}\n',
        ),
        ("list.jsonl", '[1, 2]\n"text"\n'),
        ("notes.jsonl", "these are my notes\n"),
        ("half.jsonl", "these are my notes"),
        ("odd.jsonl", '{"source": ["x"], "last": true, "faces": []}\n'),
        ("deep.jsonl", "[" * 200_000 + "\n"),
        ("labels.csv", "image,label\na.jpg,cat\n"),
        ("notes.csv", "these are my notes\n"),
        ("nul.csv", "source\0,x\n"),
        ("notes.parquet", "these are my notes\n"),
    ],
)
def test_results_that_are_not_refnets_stay(
    holiday: Path, tmp_path: Path, name: str, text: str, overwrite: bool
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="no results file of refnet") as caught:
        run([holiday / "a.jpg"], tmp_path / "out", tmp_path / name, overwrite=overwrite)
    assert str(caught.value).count("\n") == 0
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()


def test_results_are_no_input(tmp_path: Path) -> None:
    path = tmp_path / "photo.csv"  # a photo, whatever its name
    assert cv2.imwrite(str(tmp_path / "x.png"), image_of(50, 60))
    path.write_bytes((tmp_path / "x.png").read_bytes())
    with pytest.raises(OptionError, match="one of the inputs"):
        run([path], tmp_path / "out", path, overwrite=True)
    assert path.read_bytes() == (tmp_path / "x.png").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_pipes_are_skipped_and_said(holiday: Path, tmp_path: Path) -> None:
    os.mkfifo(holiday / "e.jpg")
    os.mkfifo(holiday / "f.mp4")
    sources = find_sources([str(holiday)])
    assert len(sources) == 4 and len(sources.notes) == 2
    assert "e.jpg: it is a pipe" in sources.notes[0]
    frames = [*read_frames(find_sources([str(holiday / "e.jpg"), str(holiday / "f.mp4")]))]
    assert [frame.image for frame in frames] == [None, None]
    assert all("it is a pipe, no file" in str(frame.error) for frame in frames)
    os.mkfifo(tmp_path / "r.jsonl")
    with pytest.raises(OptionError, match="a pipe"):
        open_sink(str(tmp_path / "r.jsonl"))


@pytest.mark.parametrize("suffix", ALL)
def test_a_second_run_is_refused_while_the_first_one_writes(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = str(tmp_path / f"r.{suffix}")
    first = open_sink(path)
    with pytest.raises(OutputError, match="being written by another run"):
        open_sink(path)
    first.close()
    open_sink(path).close()


def record(source: str, faces: int = 1, **fields: Any) -> Record:
    found = Faces(Face(f32([i, 0, 9.4321, 9]), 0.5, None, (20, 30)) for i in range(faces))
    return Record(source, found, (20, 30), **fields)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_record_that_is_cut_anywhere_is_made_again(tmp_path: Path, suffix: str) -> None:
    """At every byte of the last record, as a full disk or a killed process leaves it."""
    path = tmp_path / f"r.{suffix}"
    sink = open_sink(str(path))
    sink.write(record("a.jpg", 2))
    whole = path.stat().st_size
    sink.write(record("b.jpg", 3))
    sink.close()
    text = path.read_bytes()
    for end in range(whole, len(text)):
        path.write_bytes(text[:end])
        sink = open_sink(str(path), asked=["a.jpg", "b.jpg"])
        finished = suffix == "jsonl" and end == len(text) - 1  # all but the line's end
        assert sink.done == {"a.jpg"} | ({"b.jpg"} if finished else set()), end
        sink.close()
        if not finished:
            assert path.read_bytes() == text[:whole]
    path.write_bytes(text)
    sink = open_sink(str(path), asked=["a.jpg", "b.jpg"])
    assert sink.done == {"a.jpg", "b.jpg"}
    sink.close()
    assert path.read_bytes() == text


@pytest.mark.parametrize("name", ["=1+1.jpg", "+1.jpg", "-o.jpg", "@sum.jpg", "\tx.jpg", "'=1.jpg"])
def test_no_file_name_is_a_formula(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.csv"
    sink = open_sink(str(path))
    sink.write(record(name))
    sink.close()
    with open(path, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["source"] == "'" + name
    for _ in range(2):
        sink = open_sink(str(path), asked=[name])
        assert sink.done == {name}
        sink.close()


@pytest.mark.parametrize("suffix", ALL)
def test_a_source_is_known_however_its_path_is_written(
    holiday: Path, tmp_path: Path, suffix: str, monkeypatch: Any
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    results, out = tmp_path / f"r.{suffix}", tmp_path / "out"
    (tmp_path / "link").symlink_to(holiday)
    monkeypatch.chdir(tmp_path)
    assert run(["holiday/a.jpg"], out, results).images == 1
    for word in ("./holiday/a.jpg", str(holiday / "a.jpg"), "link/a.jpg"):
        assert run([word], out, results).skipped == 1, word
    monkeypatch.chdir(holiday)
    assert run(["a.jpg"], out, results).skipped == 1
    assert run(["b.png"], out, results).images == 1
    monkeypatch.chdir(tmp_path)
    assert run(["holiday/b.png"], out, results).skipped == 1
    if suffix == "jsonl":
        written = [json.loads(line)["source"] for line in results.read_text().splitlines()]
        assert written == ["holiday/a.jpg", os.path.join("holiday", "b.png")]


@pytest.mark.parametrize("suffix", ALL)
def test_results_of_other_settings_are_not_continued(
    holiday: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    results, out = tmp_path / f"r.{suffix}", tmp_path / "out"
    made: dict[str, Any] = {"threshold": 0.6, "scales": (1.0,), "detector weights": "ab"}
    assert run([holiday / "a.jpg"], out, results, settings=made).images == 1
    assert run([holiday / "a.jpg"], out, results, settings=made).skipped == 1
    before = results.read_bytes()
    for other, says in (
        ({"threshold": 0.1}, "was made with threshold 0.6, and this run has 0.1; --overwrite"),
        ({"detector weights": "cd"}, "was made with other detector weights"),
        ({"smoothing": {"beta": 1.0}}, "smoothing none, and this run has beta 1"),
    ):
        with pytest.raises(OptionError, match=says):
            run([holiday / "b.png"], out, results, settings=made | other)
    assert results.read_bytes() == before
    other = made | {"threshold": 0.1}
    assert run([holiday / "a.jpg"], out, results, settings=other, overwrite=True).images == 1
    assert run([holiday / "a.jpg"], out, results, settings=other).skipped == 1
    (tmp_path / f".r.{suffix}.refnet").unlink()
    with pytest.raises(OptionError, match="not known"):
        run([holiday / "a.jpg"], out, results, settings=other)


def test_what_was_drawn_is_left_out_of_searches_and_of_git(holiday: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(holiday)
    first = run(["."], Path("faces"))
    assert (first.images, first.videos) == (2, 2)
    assert (holiday / "faces" / ".gitignore").read_text() == "*\n"
    assert marked(holiday / "faces") == {"a.jpg", "b.png", "c.mp4", "d.mp4"}
    again = run(["."], Path("other"))
    assert (again.images, again.videos) == (2, 2)
    assert not find_sources(["faces"]) and len(find_sources(["faces/a.jpg"])) == 1
    run([holiday / "d.avi"], holiday, holiday / "r.jsonl")  # beside a user's own photos
    assert not (holiday / ".gitignore").exists()
    assert len(find_sources(["."])) == 4


def test_git_leaves_out_the_default_folder_also_where_nothing_is_drawn(
    holiday: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(holiday)
    assert main(["faces", "a.jpg", "--no-media"]) == 0
    assert (holiday / "faces" / ".gitignore").read_text() == "*\n"
    (holiday / "mine").mkdir()  # which a user may want to keep
    assert main(["faces", "a.jpg", "--no-media", "-o", "mine"]) == 0
    assert not (holiday / "mine" / ".gitignore").exists()
    capsys.readouterr()


def test_kinds_that_are_left_out_are_said(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.dng", "d.txt", "e.jpg"):
        (tmp_path / name).touch()
    sources = find_sources([str(tmp_path)])
    assert [source.name for source in sources] == ["e.jpg"]
    assert [note.partition(",")[0] for note in sources.notes] == [
        "left out 1 .dng file",
        "left out 2 .heic files",
    ]
    assert "pillow-heif" in sources.notes[1]
    (frame,) = read_frames(find_sources([str(tmp_path / "a.HEIC")]))
    assert "pillow-heif" in str(frame.error)


@pytest.mark.parametrize("suffix", [".gif", ".avif", ".jfif", ".jpe", ".pgm", ".webp", ".jp2"])
def test_rarer_formats_are_read(tmp_path: Path, suffix: str) -> None:
    image, written = image_of(50, 60), {".jfif": ".jpg", ".pgm": ".pnm"}.get(suffix, suffix)
    done, data = cv2.imencode(written, image)
    if not done:
        pytest.skip(f"this OpenCV does not write {written}")
    (tmp_path / f"a{suffix}").write_bytes(data.tobytes())
    (source,) = find_sources([str(tmp_path)])
    (frame,) = read_frames([source])
    assert frame.image is not None and frame.image.shape == (50, 60, 3)
    copies = AnnotatedCopies(tmp_path / "out")
    copies.write(frame, Faces())
    assert refnet.read_image(copies.path(source)).shape == (50, 60, 3)


def test_addresses_are_sources(tmp_path: Path) -> None:
    words = ["rtsp://me:secret@127.0.0.1:9/x", "http://h/a.mp4", "ftp://h/a.mp4"]
    sources = find_sources(words)
    assert [source.kind for source in sources] == ["stream"] * 3
    assert [source.label for source in sources] == ["rtsp://127.0.0.1:9/x", *words[1:]]
    assert [source.name for source in sources] == ["127.0.0.1-9-x", "h-a.mp4", "h-a-2.mp4"]
    (frame,) = read_frames(sources[2:])
    assert "ftp:// is no address of a video; known: http://" in str(frame.error)
    (frame,) = read_frames(sources[:1])
    assert "cannot be reached" in str(frame.error) and "secret" not in str(frame.error)


def test_a_video_that_is_cut_off_is_not_done(tmp_path: Path) -> None:
    data = clip(tmp_path / "whole.avi", frames=24).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    outcome = run([tmp_path / "cut.avi", tmp_path / "whole.avi"], out)
    (why,) = outcome.failed.values()
    assert "cut.avi is cut off: it ends after" in why and "of 24 frames" in why
    assert outcome.videos == 1 and 24 < outcome.frames < 48
    for name, frames in (("cut.mp4", outcome.frames - 24), ("whole.mp4", 24)):
        copy = cv2.VideoCapture(str(out / name))
        assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == frames
    assert run([tmp_path / "whole.avi"], out).skipped == 1
    assert run([tmp_path / "cut.avi"], out).failed


def test_a_file_of_ones_own_choice_is_replaced_only_when_asked(
    holiday: Path, tmp_path: Path
) -> None:
    target, analyzer = tmp_path / "out.png", OneFace()
    sources = find_sources([str(holiday / "a.jpg")])

    def draw(**options: Any) -> Outcome:
        copies = AnnotatedCopies(tmp_path, file=target)
        settings: Any = {"copies": copies, **options}
        return Job(analyzer, str(tmp_path / "r.jsonl"), **settings).run(sources)

    assert draw().images == 1 and refnet.read_image(target).shape == (50, 60, 3)
    target.write_bytes(b"my own")
    with pytest.raises(OptionError, match=r"out\.png is there; --overwrite"):
        draw()
    assert target.read_bytes() == b"my own"
    assert draw(overwrite=True).images == 1 and target.read_bytes() != b"my own"


def test_lines_about_photos_and_videos_name_faces_and_copies(
    holiday: Path, tmp_path: Path, capsys: Any
) -> None:
    evil = holiday / "a\x1b[2J\nb.png"
    refnet.write_image(evil, image_of(50, 60))
    progress = Progress(bar=False, lines=True)
    run([holiday / "a.jpg", evil, holiday / "d.avi"], tmp_path / "out", progress=progress)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{holiday}/a.jpg: 1 face, 1 2 30 40 score 0.50 → {tmp_path}/out/a.jpg"
    assert f"{holiday}/a\\x1b[2J\\nb.png: 1 face" in out[1]
    assert out[2] == f"{holiday}/d.avi: 3 frames, at most 1 face at once → {tmp_path}/out/d.mp4"


def test_times_are_those_of_the_file() -> None:
    from refnet.media.sources import _time

    stated = [0.0, 0.04, 0.08, 0.33, 0.58, 0.0, float("nan")]
    times = [0.0]
    for i, time in enumerate(stated[1:], 1):
        times.append(_time(time, i, times[-1], 25.0))
    np.testing.assert_allclose(times, [0, 0.04, 0.08, 0.33, 0.58, 0.62, 0.66])
