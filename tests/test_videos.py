"""Videos as phones, cameras and the web have them: times, lengths, and copies of both."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet.faces.face import Faces
from refnet.media.mp4_times import set_times, uneven
from refnet.media.sources import find_sources, read_frames
from refnet.ops import Array
from refnet.results.copies import AnnotatedCopies
from tests.detection_networks import image_of

cv2 = pytest.importorskip("cv2")

#: Twelve frames as a phone takes them: in a dark room it waits longer.
STEADY = [i / 24 for i in range(12)]
SLOWER = [*(i / 24 for i in range(6)), *(0.25 + i / 4 for i in range(6))]


def recorded(path: Path, codec: str, times: list[float], pixels: str = "yuv420p") -> Path:
    """A video of frames at `times`, in seconds, written by FFmpeg."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        try:
            stream = file.add_stream(codec, rate=24)
        except Exception:
            pytest.skip(f"this FFmpeg does not write {codec}")
        stream.width, stream.height, stream.pix_fmt = 176, 144, pixels
        # MPEG-2 knows a few constant rates alone.
        base = Fraction(1, 24) if codec == "mpeg2video" else Fraction(1, 1000)
        stream.time_base = stream.codec_context.time_base = base
        for i, time in enumerate(times):
            image = np.roll(image_of(144, 176), 4 * i, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:, :, ::-1]), "rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = round(time / base), base
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


def read(path: Path) -> tuple[list[float], int]:
    """The times of a video's frames as FFmpeg tells them, and how many frames it has."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
    return [time - times[0] for time in times], len(times)


@pytest.mark.parametrize(
    ("name", "codec", "times"),
    [
        ("a.mp4", "mpeg4", STEADY),
        ("a.ts", "mpeg2video", STEADY),
        ("a.3gp", "h263", STEADY),
        ("a.mkv", "mpeg4", STEADY),
        ("a.mp4", "mpeg4", SLOWER),
        ("a.mp4", "mpeg4", [i / 119.88 for i in range(12)]),  # slow motion
        ("a.mkv", "mpeg4", SLOWER),
    ],
)
def test_times_and_copies_follow_the_file(
    tmp_path: Path, name: str, codec: str, times: list[float]
) -> None:
    path = recorded(tmp_path / name, codec, times)
    told, count = read(path)
    assert count == len(times)
    (source,) = find_sources([str(tmp_path)])
    assert source.kind == "video"
    frames = [*read_frames([source])]
    assert [frame.error for frame in frames] == [None] * count
    assert [frame.time for frame in frames] == pytest.approx(told, abs=2e-3)
    copies = AnnotatedCopies(tmp_path / "out")
    for frame in frames:
        copies.write(frame, Faces())
    copied, drawn = read(tmp_path / "out" / "a.mp4")
    assert drawn == count
    assert copied == pytest.approx(told, abs=25e-3)
    assert [*read_frames(find_sources([str(tmp_path / "out" / "a.mp4")]))][-1].error is None


def length(path: Path) -> float:
    """Seconds that a file's own word gives it."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        return float(file.duration / av.time_base)


def written(path: Path, frames: int, rate: float = 25) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (64, 48))
    for i in range(frames):
        writer.write(image_of(48, 64, i))
    writer.release()
    return path


@pytest.mark.parametrize("frames", [1, 2, 30])
def test_frames_are_shown_when_they_are_to_be(tmp_path: Path, frames: int) -> None:
    rng = np.random.default_rng(frames)
    times = [0.5, *(0.5 + rng.uniform(0.001, 0.4, frames - 1).cumsum())]
    path = written(tmp_path / "a.mp4", frames)
    before = images(path)
    assert set_times(path, times)
    told, count = read(path)
    assert count == frames
    assert told == pytest.approx([time - 0.5 for time in times], abs=2e-5)
    last = times[-1] - times[-2] if frames > 1 else 1 / 30
    assert length(path) == pytest.approx(times[-1] - 0.5 + last, abs=2e-3)
    for one, other in zip(before, images(path), strict=True):
        np.testing.assert_array_equal(one, other)


def images(path: Path) -> list[Array]:
    capture = cv2.VideoCapture(str(path))
    reads = (capture.read() for _ in itertools.count())
    return [image for _, image in itertools.takewhile(lambda found: found[0], reads)]


def test_steady_times_need_no_change() -> None:
    assert not uneven([0.2 + i / 29.97 for i in range(500)], 29.97)
    assert not uneven([0.0], 25) and not uneven([0.0, 0.0401, 0.0799], 25)
    assert uneven(SLOWER, 8) and uneven([i / 29.97 for i in range(1000)], 30)


@pytest.mark.parametrize("damage", ["cut", "moved", "longer", "count", "version", "zero"])
def test_a_file_of_another_build_stays_as_it_is(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "a.mp4", 5)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"stts") - 4
    if damage == "cut":
        del data[-3:]
    elif damage == "moved":  # a box after the last one
        data += b"\0\0\0\x08free"
    elif damage == "longer":  # than its container
        data[at : at + 4] = (10**6).to_bytes(4, "big")
    elif damage == "count":
        data[at + 19] += 1
    elif damage == "version":
        data[data.rindex(b"mdhd") + 4] = 1
    else:
        data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    assert not set_times(path, SLOWER[:5])
    assert path.read_bytes() == data


def gif(path: Path, count: int, durations: Any) -> Path:
    image = pytest.importorskip("PIL.Image")
    made = [image.fromarray(image_of(48, 64, i)) for i in range(count)]
    made[0].save(path, save_all=True, append_images=made[1:], duration=durations, loop=0)
    return path


def test_a_gif_that_moves_is_a_video(tmp_path: Path) -> None:
    moving = gif(tmp_path / "a.gif", 4, [100, 300, 100, 100])
    still = gif(tmp_path / "b.gif", 1, 100)
    cut = tmp_path / "c.gif"
    cut.write_bytes(moving.read_bytes()[:40])
    (tmp_path / "d.gif").write_text("no GIF")
    (tmp_path / "e.gif").touch()
    sources = find_sources([str(tmp_path)])
    assert [source.kind for source in sources] == ["video", *["image"] * 4]
    frames = [*read_frames([s for s in sources if s.path == str(moving)])]
    assert [frame.image is not None for frame in frames] == [True] * 4
    assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.4, 0.5], abs=2e-3)
    (photo,) = read_frames([s for s in sources if s.path == str(still)])
    assert photo.image is not None and photo.time is None
