"""From photos, videos and cameras to files: their faces as records, and copies with the faces drawn in.

Three stages overlap: one thread decodes frames ahead, others run the networks, or wait for the processes that do so for
many photos (`refnet.media.forks`), and others draw and encode copies; the caller's writes records, in the order of
the sources. The queues between them are short, so that memory stays bounded. Decoding, the networks and encoding all run without Python's lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.errors import OptionError, RefnetError, printable
from refnet.faces.face import Face, Faces, measure_together
from refnet.faces.smoothing import Smoothing
from refnet.faces.tracking import FaceTracker
from refnet.interrupts import undivided
from refnet.media.background import Answer, Aside, Background, Prefetch
from refnet.media.forks import AVAILABLE, Forks
from refnet.media.sources import Frame, Source, frame_count, is_path, read_frames, real_path
from refnet.ops import Array
from refnet.results.copies import AnnotatedCopies, FaceCrops
from refnet.results.records import OBJECTS, Record, faces_table
from refnet.results.settings import settings_of
from refnet.results.sinks import Sink, open_sink
from refnet.waiting import progress, waiting

#: The analysis of a frame, under way; None of one that could not be read.
Found = Answer[Faces | Detections] | None
#: Copies of photos that are written at once: each waits for the disk, which takes as long as the analysis of a photo.
WRITERS = 3
#: Photos from which on processes of their own pay, and the side of the image that is analyzed before there are any.
MANY, SMALL = 12, 64
#: How many faces of a photo a printed line shows.
SHOWN = 4


@dataclass
class Outcome:
    """What a job came to.

    Attributes:
        images: photos that were analyzed.
        frames, videos: frames of videos and cameras that were analyzed; videos that came to their end.
        faces: faces or other objects found, in every frame anew.
        what: what these are, "face" or "object".
        skipped: sources that an earlier run had finished.
        failed: {label of a source: why it could not be read, analyzed or drawn}.
        interrupted: whether Ctrl-C ended it; what was found until then is in the files.
    """

    images: int = 0
    frames: int = 0
    videos: int = 0
    faces: int = 0
    what: str = "face"
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Job:
    """Finds the faces of sources, and writes what it finds.

    Args:
        analyzer: finds the faces of one image, or with a `refnet.Detector` other objects.
        results: the file of records, .jsonl, .csv or .parquet; "-" prints JSON lines, None writes none.
            One that is there is continued, see `refnet.results.sinks.open_sink`.
        copies: where drawn copies go; None writes none. A source whose copy is missing is done again.
            Without results, one whose copy is there in full is done.
        crops: writes every face, cut out; None writes none. A source of which some are missing is done
            again.
        smoothing: takes jitter from boxes and points in videos; None leaves them as found.
        search_every, min_age: seconds between searches of a video's whole image, and from when on a face
            of a video counts, see `refnet.FaceTracker`.
        overwrite: start the results anew, and replace drawn copies of other runs.
        settings: what the results are made with, by name; what `settings_of` finds by default.
        look: what the copies are drawn with besides, plain values by name.
        progress: shows how far the job is, what is found and what fails; None shows nothing.
        workers: photos that are analyzed at once. With more than one the analyzer's networks should take
            one thread each; the frames of a video are analyzed one after another all the same.
        apart: analyze them in processes of their own where the system has forks, see
            `refnet.media.forks`; else in threads.

    Raises:
        OptionError: a setting of `smoothing` is out of range.
    """

    def __init__(
        self,
        analyzer: Callable[[Array], Faces | Detections],
        results: str | None,
        *,
        copies: AnnotatedCopies | None = None,
        crops: FaceCrops | None = None,
        smoothing: Smoothing | None = None,
        search_every: float = 0.0,
        min_age: float = 0.0,
        overwrite: bool = False,
        settings: Mapping[str, Any] | None = None,
        look: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        workers: int = 1,
        apart: bool = False,
    ) -> None:
        self.workers, self.apart = workers, apart and workers > 1 and AVAILABLE
        self.analyzer, self.results, self.copies = analyzer, results, copies
        self.smoothing, self.overwrite = smoothing, overwrite
        self.crops, self.search_every, self.min_age = crops, search_every, min_age
        self.settings = (
            settings_of(analyzer, smoothing, search_every, min_age)
            if settings is None
            else settings
        )
        self.settings = {**self.settings, **(look or {})}
        self.progress = progress if progress is not None else Progress(bar=False, failures=False)
        self.tracker = self._tracker()
        self._search: Callable[[Array], Faces | Detections] = self._photo
        self.outcome = Outcome()
        self._lock = threading.Lock()  # drawing fails in a thread of its own

    def run(self, sources: Sequence[Source]) -> Outcome:
        """Do all sources that an earlier run has not finished, unless Ctrl-C comes first.

        A source that fails is a record with its error, and the rest goes on.

        Raises:
            OptionError: the results' suffix is unknown, the file was made with other settings or is
                none of refnet's, or a file would be replaced that must stay.
            OutputError: the results cannot be written, or another run is writing them.
            DependencyError: Parquet without pyarrow.
        """
        self.outcome = Outcome()
        sink = self._open(sources)
        done = sink.done
        if self.copies is not None and not self.overwrite:
            if self.results is None:
                done = self.copies.done(sources)
            try:
                known = sink.known | done
                self.copies.check_made(s for s in sources if s.label not in known)
            except OptionError:
                sink.close()
                raise
        left = [source for source in sources if source.label not in done]
        self.outcome.skipped = len(sources) - len(left)
        with closing(self.progress), self._searching(left):
            self.progress.begin(left)
            self._run(left, sink)
        return self.outcome

    @contextmanager
    def _searching(self, sources: Sequence[Source]) -> Iterator[None]:
        """The processes that search photos, where they are wanted."""
        photos = sum(source.kind == "image" for source in sources)
        if not self.apart or photos < MANY:
            yield
            return
        self._photo(np.zeros((SMALL, SMALL, 3), np.uint8))  # compiles kernels once, for all
        forks = Forks(self._photo, min(self.workers, photos))
        self._search = forks
        try:
            yield
        finally:
            self._search = self._photo
            forks.close()

    def _open(self, sources: Sequence[Source]) -> Sink:
        """Open the results, when no input and no drawing stands in the way."""
        target = "" if self.results is None else os.path.realpath(self.results)
        if any(is_path(s.label) and real_path(s.path) == target for s in sources):
            raise OptionError(
                f"the results would replace {self.results}, which is one of the inputs"
            )
        lost: list[str] = []
        if self.copies is not None:
            self.copies.settings = self.settings
            self.copies.check(sources, overwrite=self.overwrite)
            lost = [s.label for s in sources if not self.copies.path(s).exists()]
        if self.crops is not None:
            there = self.crops.done(sources)
            lost += [s.label for s in sources if s.label not in there]
        return open_sink(
            self.results,
            asked=[source.label for source in sources],
            lost=lost,
            table=OBJECTS if self._of_objects else faces_table(_landmark_count(self.analyzer)),
            overwrite=self.overwrite,
            settings=self.settings,
        )

    def _run(self, sources: Sequence[Source], sink: Sink) -> None:
        frames = Prefetch(read_frames(sources))
        photos = all(source.kind == "image" for source in sources)
        writer, aside = Background(count=WRITERS if photos else 1), Aside(self.workers)
        try:
            for frame, answer in self._started(frames, aside):
                self._handle(frame, answer, sink, writer)
                self.progress.advance()
        except KeyboardInterrupt:
            self.outcome.interrupted = True
        finally:
            frames.close()
            aside.close()
            if self.copies is not None:
                writer.call(partial(self._finish_copies, self.copies))
            writer.close()
            sink.close()

    def _started(self, frames: Iterable[Frame], aside: Aside) -> Iterator[tuple[Frame, Found]]:
        """Every frame with the answer of its analysis, which runs ahead for as many photos as there are workers."""
        ahead: deque[tuple[Frame, Found]] = deque()
        for frame in frames:
            photo = frame.index is None
            while ahead and (len(ahead) > self.workers or not photo):
                yield ahead.popleft()
            answer = None if frame.image is None else aside.start(partial(self._found, frame))
            ahead.append((frame, answer))
            if not photo or self.workers == 1:
                yield ahead.popleft()
        yield from ahead

    def _handle(self, frame: Frame, answer: Found, sink: Sink, writer: Background) -> None:
        """Write the record of a frame when its analysis is done, and have its copy drawn."""
        label, copies = frame.source.label, self.copies
        record = Record(label, frame=frame.index, time=frame.time, last=frame.last)
        error = frame.error
        if frame.image is not None and answer is not None:
            record = replace(record, size=(frame.image.shape[0], frame.image.shape[1]))
            try:
                faces = answer.wait()
            except (RefnetError, MemoryError) as reason:
                error = f"cannot analyze {label}: {reason or 'out of memory'}"
        if error is not None or frame.image is None:
            self._fail(label, error or "")
            sink.write(replace(record, error=error))
            if copies is not None and frame.last:  # what there is of a video that fails at its end
                writer.call(partial(self._finish_copies, copies))
            return
        record = replace(record, faces=faces)
        with undivided():  # a video's copy has as many frames as it has records
            if copies is not None:
                writer.call(partial(self._draw, copies, frame, faces))
            if self.crops is not None and isinstance(faces, Faces):
                writer.call(partial(self._draw, self.crops, frame, faces))
            sink.write(record)
        self.progress.found(record, None if copies is None else copies.path(frame.source))
        self.outcome.faces += len(faces)
        self.outcome.what = record.what[:-1]
        if frame.index is None:
            self.outcome.images += 1
        else:
            self.outcome.frames += 1
            self.outcome.videos += frame.last

    @property
    def _of_objects(self) -> bool:
        """Whether it finds objects, and no faces with tracks."""
        return isinstance(self.analyzer, Detector)

    def _tracker(self) -> FaceTracker:
        analyzer: Any = self.analyzer
        return FaceTracker(
            analyzer,
            search_every=self.search_every,
            min_age=self.min_age,
            smoothing=self.smoothing,
        )

    def _found(self, frame: Frame) -> Faces | Detections:
        """What is in a frame; of a video the faces with their tracks."""
        assert frame.image is not None
        if frame.time is None or self._of_objects:
            return self._search(frame.image)
        if frame.index == 0:
            self.tracker = self._tracker()
        return self.tracker(frame.image, frame.time)

    def _photo(self, image: Array) -> Faces | Detections:
        """What is in a photo."""
        found = self.analyzer(image)
        if self.results is not None and isinstance(found, Faces):
            # Which has them: worked out here, photos do not wait for each other's.
            measure_together(found)
        return found

    def _draw(self, writer: AnnotatedCopies | FaceCrops, frame: Frame, faces: Any) -> None:
        try:
            writer.write(frame, faces)
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
    """Shows how far a job is and what fails, on standard error, and what it finds, on standard output.

    Args:
        bar: show a bar with rate and time left after two seconds, where standard error is a terminal.
        failures: print a line for every source that fails.
        lines: print a line to standard output for every photo, and for every video at its end.
    """

    def __init__(self, *, bar: bool = True, failures: bool = True, lines: bool = False) -> None:
        self._wanted, self._failures, self._lines = bar, failures, lines
        self._bar: Any = None
        self._start = ExitStack()  # open until the first image is done, which may compile kernels
        self._frames = self._most = 0

    def begin(self, sources: Sequence[Source]) -> None:
        """Open the bar for all frames of `sources`; without an end where a source does not give its length."""
        if not self._wanted or sys.stderr is None or not sys.stderr.isatty():
            return
        self._start.enter_context(waiting("preparing"))
        counts = [frame_count(source) for source in sources]
        total = None if None in counts else sum(c for c in counts if c is not None)
        self._bar = progress(total=total, unit="images")

    def advance(self) -> None:
        """Count one frame."""
        self._start.close()
        if self._bar is not None:
            self._bar.update()

    def report(self, message: str) -> None:
        """Print a failure, above the bar where there is one; from any thread."""
        if not self._failures:
            return
        self._print(f"refnet: {message}", sys.stderr)

    def found(self, record: Record, copy: Path | None) -> None:
        """Print what is in a photo, or at its end what was in a video; `copy` is its drawing."""
        faces = [] if record.faces is None else [*record.faces]
        self._frames, self._most = self._frames + 1, max(self._most, len(faces))
        if not record.last:
            return
        one = record.what[:-1]
        what = counted(len(faces), one)
        if record.time is not None:
            what = f"{counted(self._frames, 'frame')}, at most {counted(self._most, one)} at once"
        elif faces:
            what += f", {'; '.join(map(_place, faces[:SHOWN]))}"
            what += f"; and {len(faces) - SHOWN} more" if len(faces) > SHOWN else ""
        self._frames = self._most = 0
        if self._lines:
            made = "" if copy is None else f" → {copy}"
            self._print(f"{record.source}: {what}{made}", sys.stdout)

    def _print(self, line: str, file: TextIO | None) -> None:
        self._start.close()
        line = printable(line)
        if self._bar is not None:
            self._bar.write(line, file=file)
        else:
            print(line, file=file, flush=True)

    def close(self) -> None:
        """Close the bar."""
        self._start.close()
        if self._bar is not None:
            self._bar.close()


def counted(number: int, what: str) -> str:
    """A number and its noun: "1 face", "1,200 frames"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _place(found: Any) -> str:
    """Where a face or a detection is, for a reader: whole pixels, and the score."""
    box, score, name = (found.box, found.score, "") if isinstance(found, Face) else found
    place = f"{' '.join(str(round(float(v))) for v in box)} score {score:.2f}"
    return f"{name} {place}" if name else place


def _landmark_count(analyzer: Any) -> int:
    """The number of points that the analyzer finds in a face; 0 without a landmarker."""
    landmarker = getattr(analyzer, "landmarker", None)
    if landmarker is None:
        return 0
    graph = landmarker.model.graph
    count: int = graph.shapes()[graph.outputs[-1]][-1] // 2
    return count
