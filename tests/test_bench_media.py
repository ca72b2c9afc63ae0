"""`refnet bench --photos` and `--video` without peers: what is counted and printed, not how fast it is."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet.benchmark.media import STAGES, TimedTracker, measure_media
from refnet.cli import main
from refnet.media.sources import Source, find_sources

ROOT = Path(__file__).parents[1]
FRAMES = 12


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """The astronaut, a little further right in each frame."""
    cv2 = pytest.importorskip("cv2")
    photo = refnet.read_image(ROOT / "docs" / "astronaut.jpg")
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (512, 512)
    )
    for i in range(FRAMES):
        writer.write(np.roll(photo, i, axis=1))
    writer.release()
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("ahead", [False, True])
def test_the_stages_of_a_video_add_up_to_its_frames(video: Path, ahead: bool) -> None:
    analyzer = refnet.FaceAnalyzer(threads=1)
    tracker = TimedTracker(analyzer)
    start = time.perf_counter()
    result = measure_media(find_sources([str(video)]), analyzer, tracker, seconds=60, ahead=ahead)
    passed = time.perf_counter() - start
    assert result.images == result.faces == FRAMES - 1  # the first is not counted
    assert tuple(result.stages) == STAGES and all(spent > 0 for spent in result.stages.values())
    total = sum(result.stages.values()) / 1e3 * result.images
    assert total <= passed * (2 if ahead else 1)
    assert result.images / result.per_second <= passed
    if not ahead:
        assert total > 0.7 * result.images / result.per_second


def test_the_figures_are_those_of_a_tracker(video: Path) -> None:
    """The clocks change nothing in what is found."""
    timed, tracker = TimedTracker(refnet.FaceAnalyzer(threads=1)), refnet.FaceTracker()
    for frame in tracker.video(video):
        (face,), (other,) = frame.faces, timed(frame.image, frame.time)
        np.testing.assert_array_equal(face.box, other.box)
        np.testing.assert_array_equal(face.landmarks, other.landmarks)


def test_the_command_prints_stages_of_videos_alone(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--video", str(video), "--threads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{FRAMES - 1} images, {FRAMES - 1} faces: ")
    assert all(f" {stage} " in lines[1] for stage in STAGES)
    assert main(["bench", "--video", str(video), "--threads", "2", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["stages"]) == set(STAGES)
    for name in ("a.png", "b.png"):
        refnet.write_image(video.parent / "photos" / name, np.zeros((64, 64, 3), np.uint8))
    assert main(["bench", "--photos", str(video.parent / "photos"), "--threads", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_clip_of_one_person_shows_one() -> None:
    pytest.importorskip("cv2")
    from tests.one_person import frames

    images = list(frames(0.1))
    assert [image.shape for image in images] == [(1080, 1920, 3)] * 3
    assert len(refnet.FaceDetector()(images[0])) == 1
    assert (
        2 < (images[0][:40].astype(float) - images[1][:40]).std() < 40
    )  # the camera and the grain move


def test_one_image_is_too_few() -> None:
    photo = str(ROOT / "docs" / "astronaut.jpg")
    analyzer = refnet.FaceAnalyzer(threads=1)
    with pytest.raises(refnet.ImageError, match="fewer than two images"):
        measure_media(
            [Source("image", photo, "a.jpg")], analyzer, TimedTracker(analyzer), seconds=1
        )
