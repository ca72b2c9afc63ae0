"""What a run may replace and what it may continue: a user's files stay, whatever is typed."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.cli import main
from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.errors import OptionError, OutputError
from refnet.faces.face import Face, Faces
from refnet.media import sources
from refnet.media.mark import marked
from refnet.media.sources import find_sources, read_frames
from refnet.ops import Array
from refnet.results.copies import AnnotatedCopies, FaceCrops
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


def test_folders_that_cannot_be_read_are_said(holiday: Path, monkeypatch: Any) -> None:
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    (holiday / "secret").mkdir()
    before = find_sources([str(holiday)])
    monkeypatch.setattr(os, "scandir", scandir)
    sources = find_sources([str(holiday), str(holiday / "secret")])
    assert [s.path for s in sources] == [s.path for s in before] and before.notes == []
    assert sources.notes == [f"cannot read {holiday / 'secret'}: Permission denied"] * 2


def test_folders_with_nothing_to_look_at_are_named(tmp_path: Path, capsys: Any) -> None:
    empty, drawn = tmp_path / "empty", tmp_path / "drawn"
    for folder in (empty, drawn):
        folder.mkdir()
    (drawn / "a.jpg").touch()
    (drawn / ".refnet").write_text('"a.jpg"\n')
    assert main(["faces", str(empty), str(drawn), "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"refnet: no photo and no video in {empty}",
        f"refnet: no photo and no video in {drawn}, but drawings of refnet's",
    ]
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("words", [["97"], ["97", "gone.jpg"]])
def test_nothing_is_made_for_a_camera_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["faces", *words]) == 1
    assert "cannot read camera 97: there is no such camera here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_camera_that_linux_lists_is_not_opened_to_see_whether_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (camera,) = find_sources(["97"])
    assert "no such camera" in str(sources.absent(camera))
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/video97" or exists(path))
    monkeypatch.setattr(sources, "_opened", None)
    assert sources.absent(camera) is None


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


class Boxes(Detector):
    """A detector that finds one object in every image, with five key points where the image is wide."""

    def __init__(self) -> None:
        """Without a network."""

    def __call__(self, image: Any, **_: Any) -> Detections:
        size = (image.shape[0], image.shape[1])
        points = f32(np.arange(10)).reshape(1, 5, 2) if size[1] > 55 else None
        zero = np.zeros(1, np.int64)
        return Detections(f32([[1, 2, 30, 40]]), f32([0.5]), zero, ("=ball",), size, points)


@pytest.mark.parametrize("suffix", ALL)
def test_objects_go_where_faces_go(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    photos, path = tmp_path / "photos", tmp_path / f"r.{suffix}"
    for name, width in (("a.png", 60), ("b.png", 50)):
        refnet.write_image(photos / name, image_of(50, width))
    (photos / "c.png").write_text("broken")
    sources = find_sources([str(photos)])
    for seen, skipped in ((2, 0), (0, 2)):
        outcome = Job(Boxes(), str(path), settings={}).run(sources)
        assert (outcome.images, outcome.skipped, len(outcome.failed)) == (seen, skipped, 1)
    rows: list[dict[str, Any]]
    if suffix == "jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [r["objects"][0]["class"] for r in records[:2]] == ["=ball"] * 2
        assert "objects" not in records[2] and "cannot decode" in records[2]["error"]
        return
    if suffix == "csv":
        with open(path, newline="") as file:
            rows = [*csv.DictReader(file)]
        assert [r["class"] for r in rows] == ["'=ball", "'=ball", ""]
        assert [r["x_4"] for r in rows] == ["8.0", "", ""]
        assert [r["objects"] for r in rows] == ["1", "1", ""]
    else:
        rows = parquet_rows(path)
        assert [r["class"] for r in rows] == ["=ball", "=ball", None]
        assert [r["keypoints"] for r in rows] == [[*map(float, range(10))], None, None]
        assert [(r["objects"], r["object"]) for r in rows] == [(1, 0), (1, 0), (None, None)]
    assert [(str(r["x2"]), r["source"][-5:]) for r in rows[:2]] == [
        ("30.0", "a.png"),
        ("30.0", "b.png"),
    ]
    with pytest.raises(OptionError, match="has other columns than this run would write"):
        Job(analyzer_of_faces(), str(path), settings={}).run(sources)


def analyzer_of_faces() -> Any:
    return OneFace()


def hide(holiday: Path, out: Path, **options: Any) -> Outcome:
    """A run as `refnet blur` does it: copies and no results."""
    job = Job(analyzer_of_faces(), None, copies=AnnotatedCopies(out), **options)
    return job.run(find_sources([str(holiday)]))


def test_copies_alone_are_enough_to_go_on(holiday: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    solid = {"method": "solid"}
    first = hide(holiday, out, look=solid)
    assert (first.images, first.videos, first.skipped) == (2, 2, 0)
    before = contents(out)
    assert hide(holiday, out, look=solid).skipped == 4 and contents(out) == before
    (out / "a.jpg").unlink()
    (out / "d.mp4").unlink()
    again = hide(holiday, out, look=solid)
    assert (again.images, again.videos, again.skipped) == (1, 1, 2)
    assert {k: v for k, v in contents(out).items() if k[0] != "."} == {
        k: v for k, v in before.items() if k[0] != "."
    }
    with pytest.raises(OptionError, match="made with method solid, and this run has blur; --over"):
        hide(holiday, out, look={"method": "blur"})
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    holiday.rename(moved / "holiday")
    out.rename(moved / "out")
    assert hide(moved / "holiday", moved / "out", look=solid).skipped == 4
    assert hide(moved / "holiday", moved / "out", look={}, overwrite=True).images == 2


def test_a_video_that_was_interrupted_is_drawn_again(holiday: Path, tmp_path: Path) -> None:
    out, job = tmp_path / "out", Job(Stops(2), None, copies=AnnotatedCopies(tmp_path / "out"))
    assert job.run(find_sources([str(holiday / "d.avi")])).interrupted
    copy = cv2.VideoCapture(str(out / "d.mp4"))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 1
    assert hide(holiday / "d.avi", out).videos == 1
    assert hide(holiday / "d.avi", out).skipped == 1


class Stops(OneFace):
    """Ctrl-C arrives with image `last`, from 1."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self, image: Array) -> Faces:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__call__(image)


def test_a_list_of_copies_that_was_cut_off(holiday: Path, tmp_path: Path) -> None:
    """At every byte: nothing is lost, nothing that is not whole is taken for done."""
    out = tmp_path / "out"
    hide(holiday / "a.jpg", out)
    hide(holiday / "b.png", out)
    listed = (out / ".refnet").read_bytes()
    whole = [*listed.splitlines(keepends=True)]
    for end in range(len(b"".join(whole[:-3])), len(listed)):
        (out / ".refnet").write_bytes(listed[:end])
        if b'"begun": "b.png", "of": "../holiday/b.png"}' not in listed[:end]:
            continue  # it is there and nothing says what it is of: refused, not replaced
        outcome = hide(holiday / "b.png", out)
        assert (outcome.images, outcome.skipped) in ((1, 0), (0, 1))
        assert outcome.skipped == (end >= len(listed) - 1)
        assert hide(holiday / "b.png", out).skipped == 1
        assert hide(holiday / "a.jpg", out).skipped == 1


def test_a_copy_whose_record_a_kill_prevented_is_made_again(holiday: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([holiday], out)
    lines = (out / "faces.jsonl").read_text().splitlines(keepends=True)
    (out / "faces.jsonl").write_text(lines[0])
    assert run([holiday], out).skipped == 1
    assert (out / "faces.jsonl").read_text().splitlines(keepends=True) == lines


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


def test_a_parquet_run_that_is_killed_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The folder of parts as it is after every step of two runs, and the run that goes on from it."""
    pytest.importorskip("pyarrow")
    from refnet.results import parquet

    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 3)
    names = [f"{letter}.jpg" for letter in "abcdefgh"]
    path, states = tmp_path / "now" / "r.parquet", tmp_path / "states"
    written: list[int] = []

    def keep(*_: Any) -> None:
        shutil.copytree(path.parent, states / str(len(written)))
        written.append(sum(1 for name in made))

    made: list[str] = []
    path.parent.mkdir()
    for asked in (names[:5], names):
        sink = open_sink(str(path), asked=asked, settings={})
        keep()
        for name in asked:
            if name not in sink.done:
                sink.write(record(name, 1 + names.index(name) % 3))
                made.append(name)
                keep()
        for step in ("unlink", "replace", "rmdir"):  # of the last merge
            watched(monkeypatch, step, keep)
        sink.close()
        monkeypatch.undo()
        monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 3)
        keep()
    whole = parquet_rows(path)
    assert [row["source"] for row in whole if row["face"] == 0] == names
    assert len(written) > 20
    for i, count in enumerate(written):
        again = states / str(i) / "r.parquet"
        sink = open_sink(str(again), asked=names, settings={})
        assert sink.done == set(names[:count]), i
        for name in names:
            if name not in sink.done:
                sink.write(record(name, 1 + names.index(name) % 3))
        sink.close()
        assert parquet_rows(again) == whole
        assert sorted(p.name for p in again.parent.iterdir()) == [".r.parquet.refnet", again.name]


def watched(monkeypatch: Any, step: str, keep: Any) -> None:
    """Call `keep` before every use of a function that changes the disk."""
    owner: Any = os if step == "replace" else Path
    before = getattr(owner, step)

    def watching(*arguments: Any, **options: Any) -> Any:
        keep()
        return before(*arguments, **options)

    monkeypatch.setattr(owner, step, watching)


def test_a_journal_of_rows_that_was_cut_off_or_is_odd(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "r.parquet"
    sink = open_sink(str(path), settings={})
    for name in ("a.jpg", "b.jpg"):
        sink.write(record(name, 2))
    copy = tmp_path / "copy"
    copy.mkdir()
    parts = shutil.copytree(tmp_path / ".r.parquet.parts", copy / ".r.parquet.parts")
    shutil.copy(tmp_path / ".r.parquet.refnet", copy)
    sink.close()
    journal = parts / "000000.jsonl"
    text = journal.read_bytes()
    again = copy / "r.parquet"
    for content, done in (
        (text, {"a.jpg", "b.jpg"}),
        (text[:-1], {"a.jpg"}),
        (text.splitlines()[0] + b'\n{"source": 1}\n', {"a.jpg"}),
        (text.splitlines()[0] + b"\n" + b"[" * 100_000 + b"\n", {"a.jpg"}),
        (b"\xff\xfe\n", set()),
    ):
        parts.mkdir(exist_ok=True)
        journal.write_bytes(content)
        again.unlink(missing_ok=True)
        sink = open_sink(str(again), asked=["a.jpg", "b.jpg"], settings={})
        assert sink.done == done
        sink.close()
    parts.mkdir(exist_ok=True)
    journal.write_bytes(b'[{"source": ["x"], "last": 3}]\n')
    with pytest.raises(OptionError, match="no results file of refnet"):
        open_sink(str(again), asked=["a.jpg"], settings={})
    shutil.rmtree(parts)
    parts.symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is a link"):
        open_sink(str(again), asked=["a.jpg"], settings={})


def test_faces_that_a_kill_left_uncut_are_cut(holiday: Path, tmp_path: Path) -> None:
    results, folder = tmp_path / "r.jsonl", tmp_path / "crops"

    def cut(aligned: int | None = None, **options: Any) -> Outcome:
        crops = FaceCrops(folder, aligned)
        job = Job(analyzer_of_faces(), str(results), crops=crops, **options)
        return job.run(find_sources([str(holiday)]))

    job = Job(analyzer_of_faces(), str(results))
    assert job.run(find_sources([str(holiday)])).images == 2
    assert cut().images == 2  # the results were there, and the faces were not
    names = {path.name for path in folder.glob("*.png")}
    assert {"a-1.png", "b-1.png", "c-000002-1.png"} <= names
    before = contents(folder)
    assert cut().skipped == 4 and contents(folder) == before
    listed = (folder / ".refnet").read_bytes()
    (folder / ".refnet").write_bytes(listed[: listed.rindex(b'{"cropped"') + 9])  # the last
    again = cut()
    assert (again.skipped, again.images + again.videos) == (3, 1)
    assert cut().skipped == 4
