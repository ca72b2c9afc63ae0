"""How long photos and videos take from their files to faces, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.detection.detections import Detections
from refnet.errors import ImageError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.tracking import FaceTracker
from refnet.media.background import Prefetch
from refnet.media.sources import Frame, Source, read_frames


@dataclass(frozen=True)
class MediaResult:
    """What was measured.

    Attributes:
        images: photos or frames that were read and analyzed.
        faces: faces found in all of them.
        read, analyze: median milliseconds of an image: decoding its file; finding its faces.
        per_second: images in a second, by the clock.
        stages: {stage: mean milliseconds of an image} of a video, see `STAGES`; empty for photos.
    """

    images: int
    faces: int
    read: float
    analyze: float
    per_second: float
    stages: Mapping[str, float]


#: What a frame's time goes to. "rest" is what tells cuts and puts faces and tracks together.
STAGES = ("decode", "search", "look", "landmarks", "smooth", "rest")


class TimedTracker(FaceTracker):
    """A tracker that notes what it spends on its stages.

    Attributes:
        spent: {stage: seconds}, without "decode" and "rest".
    """

    def __init__(self, analyzer: FaceAnalyzer) -> None:
        super().__init__(analyzer)
        self.clear()

    def clear(self) -> None:
        """Forget what was spent."""
        self.spent = dict.fromkeys(STAGES[1:-1], 0.0)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent[stage] += time.perf_counter() - start

    def _search(self, analyzer: FaceAnalyzer, image: Array) -> Detections:
        with self._timed("search"):
            return super()._search(analyzer, image)

    def _look(self, analyzer: FaceAnalyzer, image: Array, boxes: Array) -> Detections:
        with self._timed("look"):
            return super()._look(analyzer, image, boxes)

    def _describe(self, analyzer: FaceAnalyzer, image: Array, found: Detections) -> Faces:
        with self._timed("landmarks"):
            return super()._describe(analyzer, image, found)

    def _point(
        self, landmarker: FaceLandmarker, image: Array, faces: list[Face], tracks: list[Any]
    ) -> list[Face]:
        with self._timed("landmarks"):
            return super()._point(landmarker, image, faces, tracks)

    def _continued(self, *arguments: Any) -> Faces:
        with self._timed("smooth"):
            return super()._continued(*arguments)


def measure_media(
    sources: Iterable[Source],
    analyze: Callable[[Any], Any],
    tracker: TimedTracker,
    *,
    seconds: float,
    ahead: bool = False,
) -> MediaResult:
    """Read and analyze sources, once through or until the time is over; the first image is not counted.

    Args:
        analyze: called with photos, uint8 (H, W, 3) BGR.
        tracker: called with the frames of videos.
        seconds: when to stop.
        ahead: decode in a thread meanwhile, as `FaceTracker.video` does; else one after another.

    Raises:
        ImageError: fewer than two images can be read.
    """
    reading: list[float] = []
    analyzing: list[float] = []
    faces, begin, end, done = 0, 0.0, None, 0.0
    frames = _timed(read_frames(sources))
    with Prefetch(frames) if ahead else nullcontext(frames) as timed:
        for frame, read in timed:
            if frame.image is None:
                continue
            start = time.perf_counter()
            found = analyze(frame.image) if frame.time is None else tracker(frame.image, frame.time)
            done = time.perf_counter()
            if end is None:
                begin, end = done, done + seconds
                tracker.clear()
                continue
            reading.append(read)
            analyzing.append(done - start)
            faces += len(found)
            if done > end:
                break
    if not reading:
        raise ImageError("there are fewer than two images to measure with")
    stages: dict[str, float] = {}
    if any(tracker.spent.values()):
        parts = {"decode": sum(reading), **tracker.spent}
        parts["rest"] = sum(analyzing) - sum(tracker.spent.values())
        stages = {stage: spent / len(reading) * 1e3 for stage, spent in parts.items()}
    return MediaResult(
        images=len(reading),
        faces=faces,
        read=float(np.median(reading)) * 1e3,
        analyze=float(np.median(analyzing)) * 1e3,
        per_second=len(reading) / (done - begin),
        stages=stages,
    )


def _timed(frames: Iterator[Frame]) -> Iterator[tuple[Frame, float]]:
    """`frames`, each with the seconds that it took to read."""
    while True:
        start = time.perf_counter()
        if (frame := next(frames, None)) is None:
            return
        yield frame, time.perf_counter() - start
