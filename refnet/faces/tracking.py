"""The same face from frame to frame: searched for every now and then, looked for where it was between.

Association is that of ByteTrack (Zhang et al. 2022, section 3): what scores above the detector's threshold goes to
the track whose predicted box overlaps it most; then what scores lower, such as a face that turns away,
goes to the tracks that are left, and never begins one. The pairs of most overlap times score are first, as in its
authors' code. Last, faces without a track go to tracks that were lost, when their boxes, grown, overlap
(as in Yang et al. 2023, "Hard to track objects with irregular motions and similar appearances?").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refnet.arguments import CalledWithImages, explicit
from refnet.arrays import Array
from refnet.detection.boxes import clip, iou
from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.errors import ImageError, OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker, lean
from refnet.faces.looking import Looks
from refnet.faces.measures import LEAST_CONFIDENCE
from refnet.faces.shots import Shots
from refnet.faces.smoothing import PointsFilter, Smoothing, smoothing_factor
from refnet.media.background import Prefetch
from refnet.media.images import Image, as_image
from refnet.media.sources import Source, video_frames

#: The defaults of `FaceTracker`, in seconds.
SEARCH_EVERY, MIN_AGE = 0.1, 0.1
#: Faces of a lower score than the threshold, down to this share of it, continue tracks.
LOW = 1 / 3
#: While a track is lost, new or of a low score, the whole image is searched after this share of `search_every`.
SOONEST = 1 / 3
#: Hz: cutoff of a track's velocity. For longer than this many seconds nothing moves on unseen.
VELOCITY_CUTOFF, COASTING = 2.0, 0.3
#: Where the points of two crops are further apart than this share of the face, they are taken for those of no face: about 12 %
#: of 410 faces were, which costs a search each, and all but about 9 % of 750 other places.
FOLLOWED = 0.04
#: By so much of a face's size the middles of its boxes from a look and from a search may differ; what is more is motion that
#: was not foreseen.
ASIDE = 0.1
#: Seconds by which times that should be equal may differ.
EPSILON = 1e-6
#: By this share of their sides on each side boxes grow to be found again after a gap.
REACH = 0.3


class _Track:
    """One face through time.

    Attributes:
        number: None until the track counts.
        born, seen: times of the first and of the last frame with the face.
        missed: time of the first frame without it since then; None where there is none.
        box: the last one, as it was found.
        velocity: (2,), pixels a second, of the middle of the box.
        last: the face as it was last found.
        look: the first box of a look after the last search, and the one that was expected there.
    """

    def __init__(self, face: Face, time: float, smoothing: Smoothing | None) -> None:
        self.number: int | None = None
        self.smoothing = smoothing
        self.born = self.seen = time
        self.missed: float | None = None
        self.box, self.last = face.box.astype(np.float64), face
        self.velocity: Array = np.zeros(2)
        self.look: tuple[Array, Array] | None = None
        self.filters: dict[tuple[str, int], PointsFilter] = {}

    @property
    def size(self) -> float:
        """The longer side of the box in pixels."""
        return max(float((self.box[2:] - self.box[:2]).max()), 1.0)

    def predicted(self, time: float) -> Array:
        """(4,): where the box should be at `time`."""
        moved = self.velocity * min(max(time - self.seen, 0.0), COASTING)
        return self.box + np.tile(moved, 2)

    def seen_at(self, look: Array, time: float) -> Array:
        """(4,) float32: where the box `look` of a look shows the one that a search would find.

        A detector's boxes of a face differ with the scale at which it sees the face, and here they must not
        jump from a search to the next look. What they differ by, the first look tells.
        """
        if self.look is None:
            self.look = look, self.predicted(time)
        first, expected = self.look
        scale = (look[2:] - look[:2]) / (first[2:] - first[:2])
        aside = (expected[:2] + expected[2:] - first[:2] - first[2:]) / 2
        middle = (look[:2] + look[2:]) / 2 + aside.clip(-ASIDE * self.size, ASIDE * self.size)
        sides = (expected[2:] - expected[:2]) * scale
        box = np.concatenate([middle - sides / 2, middle + sides / 2])
        return np.asarray(clip(box, self.last.image_size), np.float32)

    def follow(self, face: Face, time: float) -> Face:
        """The face at `time`, smoothed, with the number of this track."""
        box = face.box.astype(np.float64)
        if time > self.seen:
            step = time - self.seen
            velocity = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / (2 * step)
            share = smoothing_factor(np.array(VELOCITY_CUTOFF), step)
            self.velocity = self.velocity + share * (velocity - self.velocity)
        self.box, self.seen, self.missed, self.last = box, time, None, face
        if self.smoothing is None:
            return replace(face, track_id=self.number)
        corners = self._smooth("box", face.box.reshape(2, 2), time)
        landmarks, keypoints = face.landmarks, face.keypoints
        if landmarks is not None:
            landmarks = self._smooth("landmarks", landmarks, time)
        if keypoints is not None:
            keypoints = self._smooth("keypoints", keypoints, time)
        return replace(
            face,
            box=clip(corners.reshape(4), face.image_size),
            landmarks=landmarks,
            keypoints=keypoints,
            track_id=self.number,
        )

    def _smooth(self, what: str, points: Array, time: float) -> Array:
        assert self.smoothing is not None
        key = what, len(points)  # another number of points is another set of points
        if key not in self.filters:
            self.filters[key] = PointsFilter(self.smoothing)
        return self.filters[key](points, time, self.size)


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
    same for faces that were found elsewhere.

    The whole image is searched every now and then, after a cut, and when a face is lost from sight.
    In between the detector looks for the known faces alone, in small squares where they should be, and
    the landmark network follows their points. A face that the detector does not see there is not given. With
    a detector that sees all images at one size there is nothing to gain by small squares: then a face is
    followed as long as its landmarks in two crops agree.

    Args:
        analyzer: finds the faces; the default of `FaceAnalyzer` where it is first needed.
        search_every: seconds from a search of the whole image to the next; 0 searches every frame, as
            does an analyzer that is no `FaceAnalyzer`. A new face appears with the next search.
        min_age: seconds for which a face must have been seen without a gap before it counts: before that it is
            not given, and has no number. 0 counts every face at once. At 30 frames a second, 0.1 are
            three frames after the first; ByteTrack asks for one, supervision's `minimum_consecutive_frames` is this
            in frames. Faces of the first frame of a video, and after a cut, count at once, as in ByteTrack.
        patience: a face that is hidden for no more seconds keeps its number.
        overlap: a face continues a track where its box overlaps the box that the track should have by this
            intersection over union or more.
        smoothing: settings of the smoothing; None leaves boxes and points as they were found.

    Attributes:
        count: how many faces have counted since the start of the video; the highest number of a track.

    Raises:
        OptionError: a setting is out of range.
    """

    @explicit
    def __init__(
        self,
        analyzer: FaceAnalyzer | None = None,
        *,
        search_every: float = SEARCH_EVERY,
        min_age: float = MIN_AGE,
        patience: float = 0.5,
        overlap: float = 0.3,
        smoothing: Smoothing | None = Smoothing(),
    ) -> None:
        if isinstance(analyzer, Smoothing):
            raise OptionError("the first argument is a FaceAnalyzer; pass smoothing=Smoothing(...)")
        if analyzer is not None and not callable(analyzer):
            raise OptionError(f"analyzer is a FaceAnalyzer, not {type(analyzer).__name__}")
        if not 0 < overlap <= 1 or not min(patience, search_every, min_age) >= 0:
            raise OptionError(
                "overlap lies in (0, 1], patience, search_every and min_age are not negative, not "
                f"{overlap!r}, {patience!r}, {search_every!r} and {min_age!r}"
            )
        if smoothing is not None:
            PointsFilter(smoothing)  # raises now what it would raise at the first face
        self.smoothing, self.overlap, self.patience = smoothing, overlap, patience
        self.search_every, self.min_age = search_every, min_age
        self._analyzer = analyzer
        self._low: Detector | None = None
        self._looks: Looks | None = None
        self.reset()

    def __repr__(self) -> str:
        own = {
            "search_every": (self.search_every, SEARCH_EVERY),
            "min_age": (self.min_age, MIN_AGE),
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
        self.count = 0
        self._time: float | None = None
        self._shots = Shots()
        self._begin_shot()

    def _begin_shot(self) -> None:
        self._tracks: list[_Track] = []
        self._searched: float | None = None
        self._opening = True  # what is found next counts at once

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
        if self._shots.cut(image):
            self._begin_shot()
        followed = self._followed(image, time)
        return self._searched_for(image, time) if followed is None else followed

    @explicit
    def video(self, source: str | os.PathLike[str] | int) -> Iterator[TrackedFrame]:
        """The frames of a video with their faces, one after another; memory stays flat.

        Meanwhile a thread decodes those that come next. Tracks of an earlier video are forgotten.

        Args:
            source: a video's path, or the number of a camera.

        Raises:
            FileError: there is no such file. ImageError: it is no video.
        """
        self.reset()
        path = str(source) if isinstance(source, int) else os.fspath(source)
        kind = "camera" if path.isdigit() and not os.path.exists(path) else "video"
        with Prefetch(video_frames(Source(kind, path, path))) as frames:
            for frame in frames:
                assert frame.index is not None and frame.time is not None
                if frame.image is None:
                    raise ImageError(frame.error or "")
                faces = self(frame.image, frame.time)
                yield TrackedFrame(frame.image, faces, frame.index, frame.time)

    @explicit
    def update(self, faces: Sequence[Face], time: float) -> Faces:
        """Those of the faces of the next frame that count, with their tracks, smoothed, in the order given.

        Args:
            faces: what was found in the frame. Those that score no higher than the threshold of the
                tracker's analyzer, where it was given one, continue tracks and begin none.
            time: of the frame, in seconds; grows from frame to frame.

        Raises:
            OptionError: these are no faces.
        """
        if isinstance(faces, Detections) or not all(isinstance(face, Face) for face in faces):
            raise OptionError(
                f"update takes the Faces of a FaceAnalyzer, not {type(faces).__name__}; "
                "FaceAnalyzer(detector, None) finds faces without landmarks"
            )
        boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        scores = np.array([face.score for face in faces], np.float64)
        high, matched = self._high(scores), self._matched(boxes, scores, time)
        kept = [i for i in range(len(faces)) if i in matched or high[i]]
        return self._continued([faces[i] for i in kept], [matched.get(i) for i in kept], time)

    def _searched_for(self, image: Array, time: float) -> Faces:
        """The faces of a frame that is searched as a whole."""
        self._searched = time
        analyzer = self.analyzer
        if not isinstance(analyzer, FaceAnalyzer):
            return self.update(analyzer(image), time)
        found = self._search(analyzer, image)
        high, matched = self._high(found.scores), self._matched(found.boxes, found.scores, time)
        kept = [i for i in range(len(found)) if i in matched or high[i]]
        faces = self._describe(analyzer, image, found[kept])
        for track in self._tracks:
            track.look = None
        return self._continued(faces, [matched.get(i) for i in kept], time)

    def _search(self, analyzer: FaceAnalyzer, image: Array) -> Detections:
        """The faces of a whole frame."""
        return analyzer.usable(self._low_detector(analyzer).detect(image))

    def _describe(self, analyzer: FaceAnalyzer, image: Array, found: Detections) -> Faces:
        """The faces that were `found` by a search, with their landmarks."""
        return analyzer.described([image], [found])[0]

    def _look(self, analyzer: FaceAnalyzer, image: Array, boxes: Array) -> Detections:
        """The faces about `boxes` (F, 4)."""
        if self._looks is None:
            self._looks = Looks(self._low_detector(analyzer))
        return analyzer.usable(self._looks(image, boxes))

    def _point(
        self, landmarker: FaceLandmarker, image: Array, faces: list[Face], tracks: list[_Track]
    ) -> list[Face]:
        """The `faces` of looks with their landmarks."""
        return _with_points(image, faces, tracks, landmarker)

    def _followed(self, image: Array, time: float) -> Faces | None:
        """The faces of a frame, found where they were; None where the whole frame is to be searched."""
        analyzer = self.analyzer
        if not isinstance(analyzer, FaceAnalyzer) or self._searched is None:
            return None
        since = time - self._searched
        if not 0 <= since < self.search_every * self._pace() - EPSILON:
            return None
        if any(track.last.image_size != image.shape[:2] for track in self._tracks):
            return None
        tracks = self._known(time)
        if not tracks:
            return self._continued([], [], time)
        if not Looks.possible(analyzer.detector):
            return self._followed_by_points(image, time, tracks)
        expected = np.stack([track.predicted(time) for track in tracks])
        found = self._look(analyzer, image, expected)
        matched = self._matched(found.boxes, found.scores, time, looked=True)
        lost = any(self._live(track) and track not in matched.values() for track in tracks)
        if lost and since >= self.search_every * SOONEST - EPSILON:
            return None
        faces = [
            replace(
                track.last,
                box=track.seen_at(found.boxes[i].astype(np.float64), time),
                score=float(found.scores[i]),
            )
            for i, track in matched.items()
        ]
        kept = list(matched.values())
        if analyzer.landmarker is not None:
            faces = self._point(analyzer.landmarker, image, faces, kept)
        elif found.keypoints is not None:
            points = found.keypoints[list(matched)]
            faces = [replace(face, keypoints=p) for face, p in zip(faces, points, strict=True)]
        return self._continued(faces, kept, time)

    def _followed_by_points(
        self, image: Array, time: float, tracks: Sequence[_Track]
    ) -> Faces | None:
        """The faces of a frame by their landmarks alone; None where one of them is not sure."""
        landmarker = self.analyzer.landmarker
        live = [track for track in tracks if self._live(track)]
        if landmarker is None:
            return None
        about = np.array([_about(track.last) for track in live]).reshape(-1, 4)
        if (about[:, 2:] - about[:, :2]).max(initial=0) > max(image.shape[:2]):
            return None
        points, off = landmarker.followed(image, about, _leans([t.last for t in live]))
        faces = [_moved(track.last, own) for track, own in zip(live, points, strict=True)]
        if (off > FOLLOWED).any() or None in faces:
            return None
        return self._continued([face for face in faces if face is not None], live, time)

    def _low_detector(self, analyzer: FaceAnalyzer) -> Detector:
        """The analyzer's detector, which here gives low scores as well."""
        if self._low is None:
            self._low = analyzer.detector.adjusted(threshold=analyzer.detector.threshold * LOW)
        return self._low

    def _high(self, scores: Array | float) -> Array:
        """Which of `scores` are above the threshold of the analyzer; all where there is none."""
        detector = getattr(self._analyzer, "detector", None)
        least = detector.threshold if isinstance(detector, Detector) else -np.inf
        return np.asarray(scores) > least

    def _pace(self) -> float:
        """The share of `search_every` after which the whole image is searched again."""
        sure = all(
            self._live(track) and track.number is not None and self._high(track.last.score)
            for track in self._tracks
        )
        return 1.0 if sure else SOONEST

    def _live(self, track: _Track) -> bool:
        """Whether `track` was seen in the frame before."""
        return track.seen == self._time

    def _known(self, time: float) -> list[_Track]:
        """The tracks that have not ended at `time`: those that do not count yet end with the first gap."""
        return [
            track
            for track in self._tracks
            if (track.number is not None or self._live(track))
            and time - (track.seen if track.missed is None else track.missed)
            <= self.patience + EPSILON
        ]

    def _matched(
        self, boxes: Array, scores: Array, time: float, *, looked: bool = False
    ) -> dict[int, _Track]:
        """{index of a box: the track that it continues}.

        Args:
            looked: the boxes are of looks at the tracks, which found as much less of a face as they see of what is
                about it; tracks that do not count yet are continued by low scores as well.
        """
        matched: dict[int, _Track] = {}
        tracks, high = self._known(time), self._high(scores)
        expected = np.array([track.predicted(time) for track in tracks]).reshape(-1, 4)
        counted = np.array([track.number is not None for track in tracks], bool)
        live = np.array([self._live(track) for track in tracks], bool)
        # Who was out of sight may have stopped there as well as gone on.
        left = np.array([track.box for track in tracks]).reshape(-1, 4)
        overlaps, grown = iou(boxes, expected), _grown(boxes)
        every = np.ones(len(tracks), bool)
        for one, other, pairs in (
            (high, every, overlaps),
            (~high, live if looked else live & counted, overlaps),
            (high, counted, np.maximum(iou(grown, _grown(expected)), iou(grown, _grown(left)))),
        ):
            free_boxes = [i for i in np.flatnonzero(one) if i not in matched]
            free = [j for j in np.flatnonzero(other) if tracks[j] not in matched.values()]
            worth = np.asarray(scores)[free_boxes]
            for i, j in best_pairs(pairs[np.ix_(free_boxes, free)], self.overlap, worth):
                matched[int(free_boxes[i])] = tracks[free[j]]
        return matched

    def _continued(
        self, faces: Sequence[Face], tracks: Sequence[_Track | None], time: float
    ) -> Faces:
        """Those of `faces` that count, smoothed, each with its track of `tracks`, or a new one for None."""
        self._tracks = self._known(time)
        found = Faces()
        for face, known in zip(faces, tracks, strict=True):
            track = known
            if track is None:
                track = _Track(face, time, self.smoothing)
                self._tracks.append(track)
            if track.number is None and (
                self._opening or time - track.born >= self.min_age - EPSILON
            ):
                self.count += 1
                track.number = self.count
            followed = track.follow(face, time)
            if track.number is not None:
                found.append(followed)
        for track in self._tracks:
            if track.seen != time and track.missed is None:
                track.missed = time
        self._time, self._opening = time, False
        return found


def best_pairs(
    overlaps: Array, least: float, worth: Array | None = None
) -> Iterator[tuple[int, int]]:
    """(row, column) of the pairs of `overlaps` (N, M) of `least` or more, each in one pair, largest first.

    Args:
        worth: (N,), by which the overlaps of each row count; 1 by default.
    """
    rows: set[int] = set()
    columns: set[int] = set()
    ranks = overlaps if worth is None else overlaps * worth[:, None]
    for flat in np.argsort(-ranks, axis=None, kind="stable"):
        i, j = divmod(int(flat), overlaps.shape[1])
        if overlaps[i, j] < least:
            continue
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            yield i, j


def _grown(boxes: Array) -> Array:
    """`boxes` (N, 4), larger by `REACH` of their sides on each side."""
    more = (boxes[:, 2:] - boxes[:, :2]) * REACH
    return np.concatenate([boxes[:, :2] - more, boxes[:, 2:] + more], axis=1)


def _about(face: Face) -> Array:
    """(4,): the box about the landmarks of `face`."""
    assert face.landmarks is not None
    return np.concatenate([face.landmarks.min(axis=0), face.landmarks.max(axis=0)])


def _leans(faces: Sequence[Face]) -> Array:
    """(F,): by how many degrees `faces` lean, where their landmarks tell it."""
    points = [face.landmarks for face in faces]
    return np.array([lean(p[None])[0] if p is not None and len(p) == 98 else 0.0 for p in points])


def _sure(face: Face) -> bool:
    """Whether nothing speaks against the landmarks of `face`."""
    confidence = face.landmark_confidence
    return confidence is None or confidence >= LEAST_CONFIDENCE


def _with_points(
    image: Array, faces: Sequence[Face], tracks: Sequence[_Track], landmarker: FaceLandmarker
) -> list[Face]:
    """`faces` with their landmarks in `image`, found about those that their `tracks` had last.

    Where the landmarks are to be trusted the boxes move as they do, which is steadier than what a look tells.
    """
    if not faces:
        return []
    about = []
    for face, track in zip(faces, tracks, strict=True):
        moved = (face.box[:2] + face.box[2:] - track.box[:2] - track.box[2:]) / 2
        # Within a tenth of the face the last points tell its place better than two boxes do.
        far = float(np.abs(moved).max()) > 0.1 * track.size
        box = _about(track.last) + (np.tile(moved, 2) if far else 0)
        # Points of what is hardly a face can be anywhere.
        about.append(face.box if float((box[2:] - box[:2]).max()) > 2 * track.size else box)
    leans = _leans([track.last for track in tracks])
    points = landmarker.refined(image, np.stack(about), leans)
    found = []
    for face, track, own in zip(faces, tracks, points, strict=True):
        moved_box = _moved(track.last, own)
        box = face.box if moved_box is None or not _sure(face) else moved_box.box
        found.append(replace(face, box=box, landmarks=own))
    return found


def _moved(face: Face, points: Array) -> Face | None:
    """`face` at its new `points` (K, 2), its box moved as they are.

    None where they are not about a face of the image any more.
    """
    old = _about(face)
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
