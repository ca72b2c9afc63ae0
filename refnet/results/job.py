"""From photos, videos and cameras to files: their faces as records, and copies with the faces drawn in.

Three stages overlap: one thread decodes frames ahead, the caller's runs the networks and writes
records, one draws and encodes copies. The queues between them are short, so that memory stays bounded.
Decoding, the networks and encoding all run without Python's lock.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from refnet.errors import RefnetError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Faces
from refnet.faces.tracking import FaceTracker, Smoothing
from refnet.media.background import Background, Prefetch
from refnet.media.sources import Frame, Source, frame_count, read_frames
from refnet.results.copies import AnnotatedCopies
from refnet.results.records import Record
from refnet.results.sinks import Sink, open_sink


@dataclass
class Outcome:
    """What a job came to.

    Attributes:
        images: photos that were analyzed.
        frames, videos: frames of videos and cameras that were analyzed; videos that came to their end.
        faces: faces found, in every frame anew.
        skipped: sources that an earlier run had finished.
        failed: {label of a source: why it could not be read, analyzed or drawn}.
        interrupted: whether Ctrl-C ended it; what was found until then is in the files.
    """

    images: int = 0
    frames: int = 0
    videos: int = 0
    faces: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Job:
    """Finds the faces of sources, and writes what it finds.

    Args:
        analyzer: finds the faces of one image.
        results: the file of records, .jsonl, .csv or .parquet; "-" prints JSON lines. One that is there
            is continued, see `refnet.results.sinks.open_sink`.
        copies: where drawn copies go; None writes none. A source whose copy is missing is done again.
        smoothing: takes jitter from boxes and points in videos; None leaves them as found.
        overwrite: start the results anew.
        progress: shows how far the job is, and what fails; None shows nothing.

    Raises:
        OptionError: a setting of `smoothing` is out of range.
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer,
        results: str,
        *,
        copies: AnnotatedCopies | None = None,
        smoothing: Smoothing | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.analyzer, self.results, self.copies = analyzer, results, copies
        self.smoothing, self.overwrite = smoothing, overwrite
        self.progress = progress if progress is not None else Progress(bar=False, failures=False)
        self.tracker = FaceTracker(smoothing=smoothing)
        self.outcome = Outcome()
        self._lock = threading.Lock()  # drawing fails in a thread of its own

    def run(self, sources: Sequence[Source]) -> Outcome:
        """Do all sources that an earlier run has not finished, unless Ctrl-C comes first.

        A source that fails is a record with its error, and the rest goes on.

        Raises:
            OptionError: the results' suffix is unknown, or the file has other columns.
            OutputError: the results cannot be written.
            DependencyError: Parquet without pyarrow.
        """
        self.outcome = Outcome()
        sink = self._open(sources)
        left = [source for source in sources if source.label not in sink.done]
        self.outcome.skipped = len(sources) - len(left)
        with closing(self.progress):
            self.progress.begin(left)
            self._run(left, sink)
        return self.outcome

    def _open(self, sources: Sequence[Source]) -> Sink:
        lost = (
            [] if self.copies is None else [s for s in sources if not self.copies.path(s).exists()]
        )
        return open_sink(
            self.results,
            asked=[source.label for source in sources],
            lost=[source.label for source in lost],
            landmarks=_landmark_count(self.analyzer),
            overwrite=self.overwrite,
        )

    def _run(self, sources: Sequence[Source], sink: Sink) -> None:
        frames = Prefetch(read_frames(sources))
        writer = Background()
        try:
            for frame in frames:
                self._handle(frame, sink, writer)
                self.progress.advance()
        except KeyboardInterrupt:
            self.outcome.interrupted = True
        finally:
            frames.close()
            if self.copies is not None:
                writer.call(partial(self._finish_copies, self.copies))
            writer.close()
            sink.close()

    def _handle(self, frame: Frame, sink: Sink, writer: Background) -> None:
        """Analyze one frame, write its record, and have its copy drawn."""
        label = frame.source.label
        record = Record(label, frame=frame.index, time=frame.time, last=frame.last)
        if frame.image is None:
            self._fail(label, frame.error or "")
            sink.write(replace(record, error=frame.error))
            return
        record = replace(record, size=(frame.image.shape[0], frame.image.shape[1]))
        try:
            faces = self._tracked(frame, self.analyzer(frame.image))
        except (RefnetError, MemoryError) as error:
            message = f"cannot analyze {label}: {error or 'out of memory'}"
            self._fail(label, message)
            sink.write(replace(record, error=message))
            return
        if self.copies is not None:
            writer.call(partial(self._draw, self.copies, frame, faces))
        sink.write(replace(record, faces=faces))
        self.outcome.faces += len(faces)
        if frame.index is None:
            self.outcome.images += 1
        else:
            self.outcome.frames += 1
            self.outcome.videos += frame.last

    def _tracked(self, frame: Frame, faces: Faces) -> Faces:
        """The faces of a video's frame with their tracks; those of a photo as they are."""
        if frame.index is None or frame.time is None:
            return faces
        if frame.index == 0:
            self.tracker = FaceTracker(smoothing=self.smoothing)
        return self.tracker.update(faces, frame.time)

    def _draw(self, copies: AnnotatedCopies, frame: Frame, faces: Faces) -> None:
        try:
            copies.write(frame, faces)
        except RefnetError as error:
            self._fail(frame.source.label, str(error))

    def _finish_copies(self, copies: AnnotatedCopies) -> None:
        try:
            copies.close()
        except RefnetError as error:
            self._fail("", str(error))

    def _fail(self, label: str, message: str) -> None:
        """Note and report what failed, once a source."""
        with self._lock:
            if label not in self.outcome.failed:
                self.outcome.failed[label] = message
                self.progress.report(message)


class Progress:
    """Shows on standard error how far a job is, and what fails.

    Args:
        bar: show a bar with rate and time left, where standard error is a terminal and tqdm is
            installed.
        failures: print a line for every source that fails.
    """

    def __init__(self, *, bar: bool = True, failures: bool = True) -> None:
        self._wanted, self._failures = bar, failures
        self._bar: Any = None

    def begin(self, sources: Sequence[Source]) -> None:
        """Open the bar for all frames of `sources`; without an end where a source does not give its length."""
        if not self._wanted or not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            return
        counts = [frame_count(source) for source in sources]
        total = None if None in counts else sum(c for c in counts if c is not None)
        self._bar = tqdm(total=total, unit=" images", dynamic_ncols=True, file=sys.stderr)

    def advance(self) -> None:
        """Count one frame."""
        if self._bar is not None:
            self._bar.update()

    def report(self, message: str) -> None:
        """Print a failure, above the bar where there is one; from any thread."""
        if not self._failures:
            return
        line = f"refnet: {message}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _landmark_count(analyzer: FaceAnalyzer) -> int:
    """The number of points that the analyzer finds in a face; 0 without a landmarker."""
    if analyzer.landmarker is None:
        return 0
    graph = analyzer.landmarker.model.graph
    return graph.shapes()[graph.outputs[-1]][-1] // 2
