"""The One Euro filter against its paper's formulas; tracks and smoothing on synthetic and real faces."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.detection.boxes import iou
from refnet.detection.detections import Candidates
from refnet.detection.detector import FaceDetector
from refnet.detection.lffd import LFFDHead
from refnet.errors import OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.looking import SQUARE, Looks
from refnet.faces.shots import Shots
from refnet.faces.smoothing import OneEuroFilter, Smoothing
from refnet.faces.tracking import FaceTracker
from refnet.media.sources import Source, video_frames
from tests.detection_networks import HEADS_AS_FACES
from tests.moving_faces import Agreement, Frame, clip_of, crossing, drawn_background
from tests.tracking_figures import Counting

FRAMES = 30  # a second


def face_at(x: float, y: float, size: float = 100, noise: np.ndarray | None = None) -> Face:
    """A face whose points fill its box, each moved by `noise` (98, 2)."""
    shape = np.random.default_rng(0).uniform(0.1, 0.9, (98, 2))
    points = shape * size + [x, y] + (0 if noise is None else noise)
    box = np.array([x, y, x + size, y + size], np.float32)
    return Face(box, 0.9, points.astype(np.float32), (480, 640))


def points_of(face: Face) -> np.ndarray:
    assert face.landmarks is not None
    return face.landmarks.astype(np.float64)


def clip(
    place: Callable[[float], tuple[float, float]], smoothing: Smoothing | None, seconds: float = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true, seen, tracked) points (T, 98, 2) of a noisy clip of one face that follows `place`.

    The noise is that of a real landmarker on a noisy camera: half a percent of the face for each
    point by itself, and half a percent for all together, since the crop jumps with the box.
    """
    generator, tracker = np.random.default_rng(1), FaceTracker(smoothing=smoothing)
    true, seen, tracked = [], [], []
    for frame in range(int(seconds * FRAMES)):
        time = frame / FRAMES
        noise = generator.normal(0, 0.5, (98, 2)) + generator.normal(0, 0.5, 2)
        face = face_at(*place(time), noise=noise)
        true.append(points_of(face_at(*place(time))))
        seen.append(points_of(face))
        tracked.append(points_of(tracker.update([face], time)[0]))
    return np.array(true), np.array(seen), np.array(tracked)


def place_of(speed: float) -> Callable[[float], tuple[float, float]]:
    """A face that stands for a second, and then moves by `speed` pixels a second."""
    return lambda time: (50 + speed * max(0.0, time - 1), 100.0)


def lag(true: np.ndarray, tracked: np.ndarray) -> float:
    """The delay in frames at which the true middle of the face fits the tracked one best."""
    path, followed = true[:, :, 0].mean(axis=1), tracked[:, :, 0].mean(axis=1)
    frames = np.arange(len(path))
    delays = np.arange(0, 10, 0.02)
    errors = [
        np.square(np.interp(frames - delay, frames, path) - followed)[15:].sum() for delay in delays
    ]
    return float(delays[int(np.argmin(errors))])


def test_one_euro_follows_its_formulas() -> None:
    """Casiez et al., algorithm 1, on one value, step by step; the derivative is of the filtered one."""
    times, values = [0.0, 0.1, 0.15, 0.3], [1.0, 2.0, 1.5, 4.0]
    filtered, slope = values[0], 0.0
    smooth = OneEuroFilter(1.3, 0.7, 0.9)
    assert smooth(np.array([values[0]]), times[0]) == values[0]
    for k in range(1, 4):
        step = times[k] - times[k - 1]
        a = 1 / (1 + 1 / (2 * math.pi * 0.9) / step)
        slope = a * (values[k] - filtered) / step + (1 - a) * slope
        a = 1 / (1 + 1 / (2 * math.pi * (1.3 + 0.7 * abs(slope))) / step)
        filtered = a * values[k] + (1 - a) * filtered
        assert smooth(np.array([values[k]]), times[k]) == pytest.approx(filtered)


def test_a_repeated_time_changes_nothing() -> None:
    smooth = OneEuroFilter()
    smooth(np.zeros((3, 2)), 1.0)
    assert not smooth(np.ones((3, 2)), 1.0).any()


def test_a_still_face_jitters_a_third_as_much() -> None:
    _, seen, tracked = clip(lambda time: (200.0, 100.0), Smoothing())
    before, after = (points[FRAMES:].std(axis=0).mean() for points in (seen, tracked))
    assert before > 3 * after
    # From frame to frame, which is what the eye sees, it is far less still.
    steps = [np.diff(points[FRAMES:], axis=0).std() for points in (seen, tracked)]
    assert steps[0] > 6 * steps[1]


@pytest.mark.parametrize(
    "place",
    [
        lambda time: (50 + 60 * time, 100.0),  # steadily, by 0.6 of its size in a second
        lambda time: (200 + 60 * math.sin(2 * math.pi * 0.5 * time), 100.0),  # to and fro
    ],
    ids=["steady", "to and fro"],
)
def test_a_moving_face_lags_less_than_a_frame(
    place: Callable[[float], tuple[float, float]],
) -> None:
    true, _, tracked = clip(place, Smoothing())
    assert lag(true, tracked) < 1
    # The measure itself: a path delayed by two frames has a lag of two.
    assert lag(true[2:], true[:-2]) == pytest.approx(2, abs=0.05)


def test_without_smoothing_points_stay_as_found() -> None:
    _, seen, tracked = clip(lambda time: (200.0, 100.0), None, seconds=0.2)
    np.testing.assert_array_equal(seen, tracked)


@pytest.mark.parametrize("frames", [3, 4])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_blink_of_a_tenth_of_a_second_is_kept(frames: int, noise: float) -> None:
    """Lids that close by 2 % of the face, as real ones do, under the noise of the default network."""
    tracker, seen, generator = FaceTracker(), [], np.random.default_rng(2)
    open_lids = points_of(face_at(100, 100))
    for frame in range(75):
        face = face_at(100, 100, noise=generator.normal(0, max(noise, 1e-9), (98, 2)))
        if 60 <= frame < 60 + frames:
            assert face.landmarks is not None
            face.landmarks[60:68, 1] += 2
        moved = tracker.update([face], frame / FRAMES)[0]
        seen.append((points_of(moved) - open_lids)[60:68, 1].mean())
    # Shut in every frame in which they are, and open again in the next.
    assert min(seen[60 : 60 + frames]) > 0.6 * 2
    assert max(seen[61 : 60 + frames]) > 0.75 * 2
    assert max(seen[60 + frames :]) < 0.4 * 2


@pytest.mark.parametrize("shift", [0, 40])
def test_after_a_cut_to_another_face_nothing_of_the_old_one_shows(shift: float) -> None:
    tracker, generator = FaceTracker(), np.random.default_rng(0)
    other = generator.normal(0, 8, (98, 2))
    for frame in range(40):
        noise = generator.normal(0, 0.2, (98, 2))
        face = face_at(100, 100, noise=noise)
        if frame >= 30:
            face = face_at(100 + shift, 100, noise=noise + other)
        (found,) = tracker.update([face], frame / FRAMES)
        if frame == 30:
            np.testing.assert_allclose(points_of(found), points_of(face), atol=1e-3)
        if frame >= 30:
            assert np.abs(points_of(found) - points_of(face)).max() < 1


def test_a_jump_is_followed_at_once_and_a_ramp_within_a_frame() -> None:
    """A step of a tenth of the face; ramps from a fifth of its size in a second on."""
    true, _, tracked = clip(lambda time: (200.0 + 10 * (time >= 2), 100.0), Smoothing())
    off = np.abs(tracked - true).mean(axis=(1, 2))
    assert off[2 * FRAMES] < 1 and off[2 * FRAMES :].max() < 1.5
    for speed in (20, 60, 200):
        true, _, tracked = clip(place_of(speed), Smoothing())
        behind = (true - tracked)[FRAMES:, :, 0].mean(axis=1)
        assert (
            behind.max() < max(speed / FRAMES, 1) + 1
        )  # a frame, or a hundredth of the face; and noise
        assert behind[FRAMES:].mean() < speed / FRAMES


def test_faces_keep_their_numbers_whatever_the_order() -> None:
    tracker = FaceTracker()
    for frame in range(20):
        left, right = face_at(50 + 3 * frame, 80), face_at(400 - 3 * frame, 90)
        faces, numbers = ([left, right], [1, 2]) if frame % 3 == 0 else ([right, left], [2, 1])
        assert [face.track_id for face in tracker.update(faces, frame / FRAMES)] == numbers


def test_a_face_that_was_hidden_briefly_keeps_its_number() -> None:
    tracker = FaceTracker(patience=0.5, min_age=0)
    assert tracker.update([face_at(50, 50)], 0.0)[0].track_id == 1
    assert tracker.update([], 0.2) == Faces()
    assert tracker.update([face_at(52, 50)], 0.4)[0].track_id == 1
    assert tracker.update([face_at(52, 50)], 1.2)[0].track_id == 2


def test_a_face_elsewhere_is_another_face_and_not_drawn_along() -> None:
    tracker = FaceTracker(min_age=0)
    tracker.update([face_at(50, 50)], 0.0)
    cut = face_at(300, 200)
    (found,) = tracker.update([cut], 1 / FRAMES)
    assert found.track_id == 2
    np.testing.assert_array_equal(points_of(found), points_of(cut))


def test_faces_without_landmarks_are_tracked_by_their_boxes() -> None:
    tracker = FaceTracker()
    for frame in range(3):
        (found,) = tracker.update([replace(face_at(50, 50), landmarks=None)], frame / FRAMES)
    assert found.track_id == 1 and found.landmarks is None


def test_overlaps_are_those_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]], float)
    expected = np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou(boxes, boxes), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FaceTracker(overlap=0),
        lambda: FaceTracker(patience=-1),
        lambda: FaceTracker(min_age=-0.1),
        lambda: FaceTracker(smoothing=Smoothing(noise=0)),
        lambda: FaceTracker(smoothing=Smoothing(min_cutoff=0)),
        lambda: OneEuroFilter(beta=-1),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object]) -> None:
    with pytest.raises(OptionError, match="not negative"):
        make()


def test_a_real_face_before_a_noisy_camera(assets: Path) -> None:
    """Detector and landmarker on a photo with new noise in every frame, standing still and moving."""
    cv2 = pytest.importorskip("cv2")
    weights = assets / "lffd/weights/head_10_160_17L_4scales_v1_iter_800000.params"
    detector = FaceDetector(
        "lffd-head", weights, scales=(0.4,), threshold=0.3, defaults=HEADS_AS_FACES
    )
    file = assets / "pfld/onnx/PFLD_GhostOne_112_1_opt_sim.onnx"
    analyzer = FaceAnalyzer(detector, FaceLandmarker(file, margin=1.2, refine=False))
    photo = refnet.read_image(assets / "photos/skimage_astronaut.png")[:340, 64:464]
    generator = np.random.default_rng(0)
    for speed in (0, 3):
        tracker, seen, tracked = FaceTracker(), [], []
        for frame in range(40):
            shift = np.array([[1, 0, speed * frame - 40], [0, 1, 0]], np.float32)
            image = cv2.warpAffine(photo, shift, (400, 340), borderMode=cv2.BORDER_REFLECT)
            noisy = np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
            best = max(analyzer(noisy), key=lambda face: face.score)
            seen.append(points_of(best))
            (face,) = tracker.update([best], frame / FRAMES)
            tracked.append(points_of(face))
            assert face.track_id == 1
        before, after = np.array(seen)[15:], np.array(tracked)[15:]
        if speed:
            assert (before - after)[:, :, 0].mean() / speed < 1  # frames behind
        else:
            assert before.std(axis=0).mean() > 3 * after.std(axis=0).mean()


def astronaut(shift: float = 0) -> np.ndarray:
    """The astronaut's face, moved to the right by `shift` pixels."""
    photo = refnet.read_image(Path(__file__).parents[1] / "docs" / "astronaut.jpg")
    return np.roll(photo, round(shift), axis=1)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all images that detectors see from here on."""
    seen: list[tuple[int, ...]] = []
    candidates = LFFDHead.candidates

    def noted(self: LFFDHead, images: Sequence[np.ndarray], **options: Any) -> list[Candidates]:
        seen.extend(image.shape[:2] for image in images)
        return candidates(self, images, **options)

    monkeypatch.setattr(LFFDHead, "candidates", noted)
    return seen


def searches_of(searched: list[tuple[int, ...]]) -> int:
    """How many whole images were among what was `searched` since the last call."""
    count = sum(shape != (SQUARE, SQUARE) for shape in searched)
    searched.clear()
    return count


@pytest.fixture(scope="module")
def lffd() -> FaceAnalyzer:
    """The analyzer of these tests, whatever the default is."""
    return FaceAnalyzer("lffd-face-v2", "pfld-ultralight-slim")


def test_between_searches_a_face_is_looked_for_where_it_was(
    lffd: FaceAnalyzer, searched: list[tuple[int, ...]]
) -> None:
    tracker, when = FaceTracker(lffd, search_every=0.2, smoothing=None), []
    for frame in range(13):
        image = astronaut(4 * frame)
        (face,) = tracker(image, frame / FRAMES)
        if searches_of(searched):
            when.append(frame)
        (alone,) = lffd(image)
        searched.clear()
        assert face.track_id == 1
        assert iou(face.box[None], alone.box[None]) > 0.85
        assert np.abs(points_of(face) - points_of(alone)).mean() < 2
    assert when == [0, 6, 12]


def test_boxes_alone_are_followed_by_looks(searched: list[tuple[int, ...]]) -> None:
    analyzer = FaceAnalyzer("lffd-face-v2", None)
    tracker, count = FaceTracker(analyzer, search_every=10, smoothing=None), 0
    for frame in range(10):
        (face,) = tracker(astronaut(4 * frame), frame / FRAMES)
        count += searches_of(searched)
        (alone,) = analyzer(astronaut(4 * frame))
        searched.clear()
        assert face.landmarks is None and iou(face.box[None], alone.box[None]) > 0.65
    assert count == 1


def test_a_detector_of_one_input_size_is_run_on_whole_images_alone(
    lffd: FaceAnalyzer, searched: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then landmarks tell whether there still is a face, and a doubt is a search."""
    monkeypatch.setattr(Looks, "possible", lambda detector: False)
    tracker, counts = FaceTracker(lffd, search_every=10), []
    for frame in range(6):
        image = astronaut(4 * frame) if frame < 5 else with_hidden_face(astronaut(16))
        faces = tracker(image, frame / FRAMES)
        counts.append((len(faces), searches_of(searched)))
    assert counts == [(1, 1), (1, 0), (1, 0), (1, 0), (1, 0), (0, 1)]


def with_hidden_face(image: np.ndarray) -> np.ndarray:
    """`image` with noise where the astronaut's face is: the shot stays, the face goes."""
    hidden = image.copy()
    noise = np.random.default_rng(0).integers(60, 120, (180, 160, 3))
    hidden[40:220, 160:320] = noise
    return hidden


def test_a_face_that_goes_between_searches_ends_at_once_and_comes_back_as_it_was(
    lffd: FaceAnalyzer,
) -> None:
    """Hidden for half a second, and then for longer."""
    tracker, ids = FaceTracker(lffd, search_every=10, min_age=0), []
    for frame in range(60):
        hidden = 10 <= frame < 25 or 40 <= frame < 57
        image = with_hidden_face(astronaut()) if hidden else astronaut()
        ids.append([face.track_id for face in tracker(image, frame / FRAMES)])
    assert ids[:57] == [[1]] * 10 + [[]] * 15 + [[1]] * 15 + [[]] * 17
    assert [1] not in ids[57:]


def test_a_cut_ends_all_tracks(lffd: FaceAnalyzer, searched: list[tuple[int, ...]]) -> None:
    tracker = FaceTracker(lffd, search_every=10)
    for frame in range(5):
        (face,) = tracker(astronaut(), frame / FRAMES)
    other = drawn_background(512, 512, 0)
    searched.clear()
    assert tracker(other, 5 / FRAMES) == Faces()
    assert searches_of(searched) == 1  # in this very frame
    mirrored = np.ascontiguousarray(astronaut()[:, ::-1])
    (face,) = tracker(mirrored, 6 / FRAMES)
    assert face.track_id == 2
    (alone,) = lffd(mirrored)
    np.testing.assert_array_equal(points_of(face), points_of(alone))


def test_light_and_motion_are_no_cuts() -> None:
    shots = Shots()
    assert not shots.cut(astronaut())
    for image in (astronaut() // 2, astronaut() // 2 + 60, astronaut(15), astronaut(45)):
        assert not shots.cut(image)
    assert shots.cut(np.zeros((512, 512, 3), np.uint8))
    assert not shots.cut(np.zeros((512, 512, 3), np.uint8))
    assert shots.cut(astronaut())


def test_a_face_counts_from_its_minimum_age_on() -> None:
    """But for those of a first frame, which ByteTrack counts at once too."""
    tracker, first, late = FaceTracker(min_age=0.1), face_at(50, 50), face_at(300, 50)
    numbers = []
    for frame in range(8):
        faces = [late, first] if frame >= 2 else [first]
        numbers.append([face.track_id for face in tracker.update(faces, frame / FRAMES)])
    assert numbers == [[1]] * 5 + [[2, 1]] * 3
    # A gap before the age is reached starts anew; afterwards it is bridged.
    tracker = FaceTracker(min_age=0.1)
    tracker.update([], 0.0)
    seen = [1, 1, 0, 1, 1, 1, 1, 0, 1]
    given = [len(tracker.update([first] * n, (i + 1) / FRAMES)) for i, n in enumerate(seen)]
    assert given == [0, 0, 0, 0, 0, 0, 1, 0, 1]


def test_low_scores_continue_tracks_and_begin_none(lffd: FaceAnalyzer) -> None:
    tracker = FaceTracker(lffd, min_age=0)
    low = lffd.detector.threshold / 2
    assert tracker.update([face_at(50, 50)], 0.0)[0].track_id == 1
    for frame in range(1, 4):
        faces = [replace(face_at(x, 50), score=low) for x in (50, 300)]
        (found,) = tracker.update(faces, frame / FRAMES)
        assert found.track_id == 1 and found.score == low
    # Of two that overlap it the higher score is first, though it overlaps less.
    faces = [replace(face_at(50, 50), score=low), replace(face_at(70, 50), score=0.9)]
    (found,) = tracker.update(faces, 4 / FRAMES)
    assert found.score == 0.9
    # A lost track needs a high score to come back.
    tracker.update([], 5 / FRAMES)
    assert tracker.update([replace(face_at(50, 50), score=low)], 6 / FRAMES) == Faces()
    assert tracker.update([face_at(60, 50)], 7 / FRAMES)[0].track_id == 1


def test_a_face_that_moves_while_it_is_hidden_keeps_its_number() -> None:
    """By one and a half of its sizes in a second: its last box and its next one do not overlap enough."""
    tracker = FaceTracker(min_age=0)
    for frame in range(40):
        hidden = 20 <= frame < 34
        faces = [] if hidden else [face_at(20 + 5 * frame, 50)]
        assert [face.track_id for face in tracker.update(faces, frame / FRAMES)] == [1] * len(faces)


def test_a_face_that_comes_fast_and_stops_out_of_sight_keeps_its_number() -> None:
    """It comes by four of its sizes in a second and has just stopped, so that its average velocity leads away."""
    tracker = FaceTracker(min_age=0)
    for frame in range(36):
        faces = [] if 14 <= frame < 26 else [face_at(50, max(250 - 20 * frame, 50), 50)]
        found = tracker.update(faces, frame / FRAMES)
        assert [face.track_id for face in found] == [1] * len(faces)


def test_of_two_boxes_of_low_scores_about_a_face_the_clearer_one_goes_on(
    lffd: FaceAnalyzer,
) -> None:
    """The other one overlaps the last box a little more."""
    tracker, low = FaceTracker(lffd, min_age=0, smoothing=None), lffd.detector.threshold
    tracker.update([face_at(50, 50)], 0.0)
    faces = [replace(face_at(x, 50), score=s) for x, s in ((40, 0.5 * low), (65, 0.95 * low))]
    (found,) = tracker.update(faces, 1 / FRAMES)
    assert found.score == 0.95 * low


def test_a_jump_after_a_search_is_followed_by_a_look(searched: list[tuple[int, ...]]) -> None:
    """By 40 % of the face's width, which no velocity foretold: it is no difference of looks and searches."""
    analyzer = FaceAnalyzer("lffd-face-v2", None)
    tracker = FaceTracker(analyzer, search_every=10, smoothing=None)
    tracker(astronaut(), 0.0)
    searched.clear()
    for frame in range(1, 4):
        (face,) = tracker(astronaut(40), frame / FRAMES)
        assert searches_of(searched) == 0
        (alone,) = analyzer(astronaut(40))
        searched.clear()
        assert iou(face.box[None], alone.box[None]) > 0.65


@pytest.fixture(scope="module")
def crossing_clip() -> list[Frame]:
    return list(clip_of(crossing(270, 480)))


@pytest.mark.parametrize("detector", ["lffd-face-v2", "lffd-light"])
def test_tracking_agrees_with_searching_every_frame(
    detector: str, crossing_clip: list[Frame]
) -> None:
    """People who enter, leave, turn, are hidden for 0.4 s, and two cuts: six people, and as many numbers."""
    analyzer = FaceAnalyzer(detector, "pfld-ultralight-slim")
    every, tracker = FaceTracker(analyzer, search_every=0), Counting(analyzer)
    figures = Agreement()
    for frame in crossing_clip:
        expected = every(frame.image, frame.time)
        figures.add(expected, tracker(frame.image, frame.time), frame.truth)
    assert figures.agreement >= 0.98
    assert figures.seen_of_truth > 0.95  # and what both find is what is there
    assert figures.numbers == {person: {figures.first(person)} for person in range(6)}
    assert tracker.searches < 0.5 * len(crossing_clip)


def test_tracking_agrees_on_a_broadcast(assets: Path) -> None:
    """Cuts, people who come near, turn to the side and are seen through a moving camera."""
    pytest.importorskip("cv2")
    clip = assets / "video/interview_clip.mp4"
    if not clip.exists():
        pytest.skip(f"no {clip}")
    analyzer, figures = FaceAnalyzer("lffd-light"), Agreement()
    every, tracker = FaceTracker(analyzer, search_every=0), Counting(analyzer)
    frames = 0
    for frame in video_frames(Source("video", str(clip), clip.name)):
        assert frame.image is not None and frame.time is not None
        expected = every(frame.image, frame.time)
        figures.add(expected, tracker(frame.image, frame.time), {})
        frames += 1
    assert figures.expected > 400 and figures.agreement >= 0.98
    assert tracker.count <= 1.1 * every.count
    assert tracker.searches < 0.5 * frames


def test_a_video_is_a_generator_of_frames_with_faces(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (512, 512))
    for i in range(7):
        writer.write(astronaut(3 * i))
    writer.release()
    tracker = FaceTracker()
    for _ in range(2):  # a second video starts anew
        frames = list(tracker.video(path))
        assert [frame.index for frame in frames] == list(range(7))
        assert [frame.faces[0].track_id for frame in frames] == [1] * 7
        assert frames[5].time == pytest.approx(0.2)
    with pytest.raises(refnet.FileError, match="No such file"):
        next(tracker.video(tmp_path / "gone.mp4"))
