"""The same face from frame to frame, and its points without jitter.

Association: every detection of a frame goes to the track whose last box overlaps it most. Smoothing:
the One Euro filter (Casiez, Roussel and Vogel 2012), a low-pass filter whose cutoff grows with speed,
so that a still face stands still and a moving one is not left behind.

A face's points are filtered in two parts: their middle, which all of them share and whose speed is
therefore known well, and each point's place about the middle. Lengths are in face sizes, so that the
same settings suit a face near and far.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refnet.arguments import CalledWithImages, explicit
from refnet.arrays import Array
from refnet.detection.boxes import clip, iou
from refnet.detection.detections import Detections
from refnet.errors import ImageError, OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Face, Faces
from refnet.media.images import Image, as_image
from refnet.media.sources import Source, video_frames


class OneEuroFilter:
    """The One Euro filter over an array of values, each along its last axis one point.

    The cutoff frequency of a point is min_cutoff + beta · speed, in Hz; the speed is the length of
    the filtered derivative along the last axis.

    Args:
        min_cutoff: cutoff at rest, Hz. Lower: less jitter, more lag at the start of a motion.
        beta: growth of the cutoff with speed. Higher: less lag in motion.
        derivative_cutoff: cutoff for the derivative itself, Hz.
    """

    def __init__(
        self, min_cutoff: float = 1.0, beta: float = 0.0, derivative_cutoff: float = 1.0
    ) -> None:
        if min_cutoff <= 0 or beta < 0 or derivative_cutoff <= 0:
            raise OptionError(
                "min_cutoff and derivative_cutoff are positive and beta is not negative, not "
                f"{min_cutoff!r}, {derivative_cutoff!r} and {beta!r}"
            )
        self.min_cutoff, self.beta = min_cutoff, beta
        self.derivative_cutoff = derivative_cutoff
        self._value: Array | None = None
        self._derivative: Array | None = None
        self._time = 0.0

    def __call__(self, value: Array, time: float, scale: float = 1.0) -> Array:
        """The filtered value at `time`.

        Args:
            value: the same shape at every call.
            time: seconds; a call that is not later than the one before changes nothing.
            scale: what counts as a length of 1 in the speed.
        """
        value = np.asarray(value, np.float64)
        if self._value is None or self._derivative is None:
            self._value, self._derivative = value, np.zeros_like(value)
        elif time > self._time:
            step = time - self._time
            a = smoothing_factor(np.array(self.derivative_cutoff), step)
            self._derivative = self._derivative + a * (
                (value - self._value) / step - self._derivative
            )
            speed = np.linalg.norm(self._derivative, axis=-1, keepdims=True) / scale
            a = smoothing_factor(self.min_cutoff + self.beta * speed, step)
            self._value = self._value + a * (value - self._value)
        self._time = max(time, self._time)
        return self._value


def smoothing_factor(cutoff: Array, step: float) -> Array:
    """Weight of the new value in exponential smoothing of `cutoff` Hz at a time step in seconds."""
    turn = 2 * math.pi * cutoff * step
    return np.asarray(turn / (turn + 1))


@dataclass(frozen=True)
class Smoothing:
    """Settings of the smoothing; see `OneEuroFilter`. Speeds are in face sizes per second.

    The defaults take three quarters of the jitter from a still face, and follow a face that moves by
    half its size in a second with less than a frame of lag at 30 frames per second.

    Attributes:
        min_cutoff: Hz.
        beta: for the middle of the face.
        point_beta: for the points' places about the middle; higher keeps more of a quick blink.
        derivative_cutoff: Hz.
    """

    min_cutoff: float = 0.3
    beta: float = 10.0
    point_beta: float = 6.0
    derivative_cutoff: float = 1.0


class _PointsFilter:
    """Smooths (n, 2) points: their middle, and their places about it."""

    def __init__(self, smoothing: Smoothing) -> None:
        cutoff, derivative = smoothing.min_cutoff, smoothing.derivative_cutoff
        self.middle = OneEuroFilter(cutoff, smoothing.beta, derivative)
        self.about = OneEuroFilter(cutoff, smoothing.point_beta, derivative)

    def __call__(self, points: Array, time: float, size: float) -> Array:
        middle = points.mean(axis=0, keepdims=True)
        smooth = self.middle(middle, time, size) + self.about(points - middle, time, size)
        return smooth.astype(np.float32)


class _Track:
    """One face through time."""

    def __init__(self, number: int, smoothing: Smoothing | None) -> None:
        self.number = number
        self.smoothing = smoothing
        self.box: Array = np.zeros(4)
        self.seen = 0.0
        self.last: Face | None = None
        self.filters: dict[tuple[str, int], _PointsFilter] = {}

    def follow(self, face: Face, time: float) -> Face:
        """The face with this track's number, smoothed."""
        self.box, self.seen, self.last = face.box, time, face
        face = replace(face, track_id=self.number)
        if self.smoothing is None:
            return face
        corners = self.smooth("box", face.box.reshape(2, 2), time)
        landmarks, keypoints = face.landmarks, face.keypoints
        if landmarks is not None:
            landmarks = self.smooth("landmarks", landmarks, time)
        if keypoints is not None:
            keypoints = self.smooth("keypoints", keypoints, time)
        box = clip(corners.reshape(4), face.image_size)
        return replace(face, box=box, landmarks=landmarks, keypoints=keypoints)

    def smooth(self, what: str, points: Array, time: float) -> Array:
        assert self.smoothing is not None
        size = max(float((self.box[2:] - self.box[:2]).max()), 1.0)
        key = what, len(points)  # another number of points is another set of points
        if key not in self.filters:
            self.filters[key] = _PointsFilter(self.smoothing)
        return self.filters[key](points, time, size)


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """A frame of a video and its faces.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        faces: with their track_id.
        index: number of the frame, from 0.
        time: seconds from the start.
    """

    image: Array
    faces: Faces
    index: int
    time: float


class FaceTracker(CalledWithImages):
    """Finds the faces of a video, numbers them, and takes the jitter from them.

        tracker = refnet.FaceTracker()
        for frame in tracker.video("clip.mp4"):      # or 0, the first camera
            frame.image, frame.faces

    In a loop of one's own, `tracker(frame, time)` gives the faces of the next frame; `update` does the
    same for faces that were found elsewhere. The image is searched every now and then; between
    searches the landmark network alone follows the faces that are known.

    Args:
        analyzer: finds the faces; the default of `FaceAnalyzer` where it is first needed.
        search_every: seconds from a search of the whole image to the next; 0 searches every frame, as
            does an analyzer without a landmarker. A new face appears with the next search.
        patience: seconds after which a track that was not seen has ended.
        overlap: a face continues a track where its box overlaps the track's last one by this
            intersection over union or more.
        smoothing: settings of the smoothing; None leaves boxes and points as they were found.

    Raises:
        OptionError: a setting is out of range.
    """

    @explicit
    def __init__(
        self,
        analyzer: FaceAnalyzer | None = None,
        *,
        search_every: float = 0.2,
        patience: float = 0.5,
        overlap: float = 0.3,
        smoothing: Smoothing | None = Smoothing(),
    ) -> None:
        if isinstance(analyzer, Smoothing):
            raise OptionError("the first argument is a FaceAnalyzer; pass smoothing=Smoothing(...)")
        if analyzer is not None and not callable(analyzer):
            raise OptionError(f"analyzer is a FaceAnalyzer, not {type(analyzer).__name__}")
        if not 0 < overlap <= 1 or patience < 0 or search_every < 0:
            raise OptionError(
                "overlap lies in (0, 1], patience and search_every are not negative, not "
                f"{overlap!r}, {patience!r} and {search_every!r}"
            )
        if smoothing is not None:
            _PointsFilter(smoothing)  # raises now what it would raise at the first face
        self.smoothing, self.overlap, self.patience = smoothing, overlap, patience
        self.search_every = search_every
        self._analyzer = analyzer
        self.reset()

    def __repr__(self) -> str:
        own = {
            "search_every": (self.search_every, 0.2),
            "patience": (self.patience, 0.5),
            "overlap": (self.overlap, 0.3),
            "smoothing": (self.smoothing, Smoothing()),
        }
        settings = ", ".join(f"{k}={v!r}" for k, (v, default) in own.items() if v != default)
        return f"FaceTracker({settings})"

    @property
    def analyzer(self) -> FaceAnalyzer:
        """What finds the faces."""
        if self._analyzer is None:
            self._analyzer = FaceAnalyzer()
        return self._analyzer

    def reset(self) -> None:
        """Forget all tracks: what comes next is another video."""
        self._tracks: list[_Track] = []
        self._count = 0
        self._time: float | None = None
        self._searched: float | None = None

    @explicit
    def __call__(self, frame: Image, time: float | None = None, *, rgb: bool = False) -> Faces:
        """The faces of the next frame, with their tracks, smoothed.

        Args:
            frame: an image, as everywhere.
            time: of the frame, in seconds; grows from frame to frame. By default 1/30 after the last.
            rgb: the array's channels are in the order R, G, B.

        Raises:
            FileError: there is no such file. ImageError: it is no image.
        """
        image = as_image(frame, rgb=rgb)
        if time is None:
            time = 0.0 if self._time is None else self._time + 1 / 30
        followed = self._followed(image, time)
        if followed is not None:
            return followed
        self._searched = time
        return self.update(self.analyzer(image), time)

    @explicit
    def video(self, source: str | os.PathLike[str] | int) -> Iterator[TrackedFrame]:
        """The frames of a video with their faces, one after another; memory stays flat.

        Tracks of an earlier video are forgotten.

        Args:
            source: a video's path, or the number of a camera.

        Raises:
            FileError: there is no such file. ImageError: it is no video.
        """
        self.reset()
        path = str(source) if isinstance(source, int) else os.fspath(source)
        kind = "camera" if path.isdigit() and not os.path.exists(path) else "video"
        for frame in video_frames(Source(kind, path, path)):
            assert frame.index is not None and frame.time is not None
            if frame.image is None:
                raise ImageError(frame.error or "")
            yield TrackedFrame(frame.image, self(frame.image, frame.time), frame.index, frame.time)

    @explicit
    def update(self, faces: Sequence[Face], time: float) -> Faces:
        """The faces of the next frame with their tracks, smoothed, in the order given.

        Args:
            faces: what was found in the frame.
            time: of the frame, in seconds; grows from frame to frame.

        Raises:
            OptionError: these are no faces.
        """
        if isinstance(faces, Detections) or not all(isinstance(face, Face) for face in faces):
            raise OptionError(
                f"update takes the Faces of a FaceAnalyzer, not {type(faces).__name__}; "
                "FaceAnalyzer(detector, None) finds faces without landmarks"
            )
        self._time = time
        self._tracks = [t for t in self._tracks if time - t.seen <= self.patience]
        matched = self._matched(faces)
        found = Faces()
        for i, face in enumerate(faces):
            if i not in matched:
                self._count += 1
                matched[i] = _Track(self._count, self.smoothing)
                self._tracks.append(matched[i])
            found.append(matched[i].follow(face, time))
        return found

    def _followed(self, image: Array, time: float) -> Faces | None:
        """The faces of the frame before, found again by their landmarks; None where a search is due.

        Each is looked for in a crop about its last points, and its box moves and grows with them. A
        face whose points have collapsed or left the image asks for a search.
        """
        landmarker = self.analyzer.landmarker
        due = self._searched is None or not 0 <= time - self._searched < self.search_every
        if landmarker is None or due:
            return None
        live = [track for track in self._tracks if track.seen == self._time]
        before = [(t, t.last) for t in live if t.last is not None and t.last.landmarks is not None]
        if len(before) != len(live) or any(f.image_size != image.shape[:2] for _, f in before):
            return None
        if not live:
            self._time = time
            return Faces()
        about = [_about(face) for _, face in before]
        largest = max(float((box[2:] - box[:2]).max()) for box in about)
        if largest > max(image.shape[:2]):
            return None
        points = landmarker.refined(image, np.stack(about))
        found = Faces()
        for (track, face), old, new in zip(before, about, points, strict=True):
            moved = _moved(face, old, new)
            if moved is None:
                return None
            found.append(track.follow(moved, time))
        self._time = time
        return found

    def _matched(self, faces: Sequence[Face]) -> dict[int, _Track]:
        """{index of a face: its track}; the pairs that overlap most are matched first."""
        overlaps = iou(
            np.array([face.box for face in faces], np.float64).reshape(-1, 4),
            np.array([track.box for track in self._tracks], np.float64).reshape(-1, 4),
        )
        matched: dict[int, _Track] = {}
        taken: set[int] = set()
        for flat in np.argsort(-overlaps, axis=None, kind="stable"):
            i, j = divmod(int(flat), overlaps.shape[1])
            if overlaps[i, j] < self.overlap:
                break
            if i not in matched and j not in taken:
                matched[i] = self._tracks[j]
                taken.add(j)
        return matched


def _about(face: Face) -> Array:
    """(4,): the box about the landmarks of `face`."""
    assert face.landmarks is not None
    return np.concatenate([face.landmarks.min(axis=0), face.landmarks.max(axis=0)])


def _moved(face: Face, old: Array, points: Array) -> Face | None:
    """`face` at its new `points` (K, 2), its box moved as they are against the box `old` about the last.

    None where they are not about a face of the image any more.
    """
    new = np.concatenate([points.min(axis=0), points.max(axis=0)])
    growth = float((new[2:] - new[:2]).max() / max(float((old[2:] - old[:2]).max()), 1e-6))
    if not 0.7 < growth < 1.4:
        return None
    middle, before = (new[:2] + new[2:]) / 2, (old[:2] + old[2:]) / 2
    corners = (face.box.reshape(2, 2) - before) * growth + middle
    box = clip(corners.reshape(4), face.image_size).astype(np.float32)
    left = 0.25 * float((face.box[2:] - face.box[:2]).prod())
    if not (box[2:] > box[:2]).all() or float((box[2:] - box[:2]).prod()) < left:
        return None
    return replace(face, box=box, landmarks=points, keypoints=None)
