"""The One Euro filter against its paper's formulas; tracks and smoothing on synthetic and real faces."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet.detection.boxes import iou
from refnet.detection.detector import FaceDetector
from refnet.errors import OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.tracking import FaceTracker, OneEuroFilter, Smoothing
from tests.detection_networks import HEADS_AS_FACES

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


def test_a_blink_is_kept() -> None:
    """Lids that close for a fifth of a second."""
    tracker, lowest = FaceTracker(), []
    open_lids = points_of(face_at(100, 100))
    for frame in range(60):
        face = face_at(100, 100)
        if 30 <= frame < 36:
            assert face.landmarks is not None
            face.landmarks[60:68, 1] += 5
        moved = tracker.update([face], frame / FRAMES)[0]
        lowest.append((points_of(moved) - open_lids)[60:68, 1].mean())
    assert max(lowest) > 0.75 * 5


def test_faces_keep_their_numbers_whatever_the_order() -> None:
    tracker = FaceTracker()
    for frame in range(20):
        left, right = face_at(50 + 3 * frame, 80), face_at(400 - 3 * frame, 90)
        faces, numbers = ([left, right], [1, 2]) if frame % 3 == 0 else ([right, left], [2, 1])
        assert [face.track_id for face in tracker.update(faces, frame / FRAMES)] == numbers


def test_a_face_that_was_hidden_briefly_keeps_its_number() -> None:
    tracker = FaceTracker(patience=0.5)
    assert tracker.update([face_at(50, 50)], 0.0)[0].track_id == 1
    assert tracker.update([], 0.2) == Faces()
    assert tracker.update([face_at(52, 50)], 0.4)[0].track_id == 1
    assert tracker.update([face_at(52, 50)], 1.2)[0].track_id == 2


def test_a_face_elsewhere_is_another_face_and_not_drawn_along() -> None:
    tracker = FaceTracker()
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


def test_between_searches_the_landmarks_alone_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(search_every=0.2, smoothing=None)
    searched: list[int] = []
    batch = FaceDetector.batch

    def counted(self: FaceDetector, images: list[np.ndarray]) -> object:
        searched.append(frame)
        return batch(self, images)

    monkeypatch.setattr(FaceDetector, "batch", counted)
    for frame in range(13):
        image = astronaut(4 * frame)
        (face,) = tracker(image, frame / FRAMES)
        assert face.track_id == 1
        if frame not in searched:
            (alone,) = FaceAnalyzer()(image)
            searched.pop()
            assert iou(face.box[None], alone.box[None]) > 0.8
            assert np.abs(points_of(face) - points_of(alone)).mean() < 2
    assert searched == [0, 6, 12]


def test_a_face_that_leaves_is_searched_for_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(search_every=10)
    assert len(tracker(astronaut(), 0.0)) == 1
    assert tracker(np.zeros((512, 512, 3), np.uint8), 0.1) is not None
    assert len(tracker(np.zeros((512, 512, 3), np.uint8), 10.1)) == 0
    tracker.reset()
    (face,) = tracker(astronaut())
    assert face.track_id == 1


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
