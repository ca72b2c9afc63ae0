"""`refnet faces`: faces in photos, folders, videos and cameras."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from refnet.cli.arguments import add_backend, add_resize_scale, scales_of
from refnet.detection.detector import FaceDetector
from refnet.errors import RefnetError, WeightsError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.tracking import FaceTracker, Smoothing
from refnet.media.annotated import AnnotatedCopies
from refnet.media.pipeline import Ahead, Behind
from refnet.media.sinks import Record, Sink, open_sink
from refnet.media.sources import Frame, Source, find_sources, frame_count, read_frames
from refnet.networks.defaults import DETECTOR, LANDMARKER

_DESCRIPTION = """\
Find faces and their landmarks in photos, folders, videos or a camera. Writes copies with the faces
drawn in, and their boxes, scores, points and measures as JSON lines, CSV or Parquet.
"""

_EPILOG = """\
examples:
  refnet faces photo.jpg
  refnet faces holiday/ clip.mp4 '*.png' -o found --results found/faces.csv
  refnet faces 0                              camera 0, until Ctrl-C
  find . -name '*.jpg' | refnet faces - --results - --no-media
  refnet faces photo.jpg --detector-weights face.params --landmarks-weights pfld.onnx

The exit code is 0; 1 where something could not be read or written; 130 after Ctrl-C, with what was
found until then complete in the results. A second run goes on where the first one ended.
"""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "faces",
        help="find faces and their landmarks in photos, folders, videos or a camera",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a video, a folder (searched through), a pattern, a camera's number, or - for "
        "a list of these from standard input",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        default="faces",
        metavar="DIR",
        help="folder of the drawn copies (default: %(default)s)",
    )
    output.add_argument(
        "--results",
        metavar="FILE",
        help="the results, .jsonl, .csv or .parquet; - prints JSON lines (default: DIR/faces.jsonl)",
    )
    output.add_argument("--no-media", action="store_true", help="write no drawn copies")
    output.add_argument(
        "--overwrite", action="store_true", help="start anew; else finished files are skipped"
    )
    output.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    _add_networks(parser)
    video = parser.add_argument_group("video")
    video.add_argument(
        "--smooth",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take jitter from boxes and points in videos, never in photos (default: on)",
    )
    video.add_argument(
        "--min-cutoff",
        type=float,
        default=Smoothing.min_cutoff,
        metavar="HZ",
        help="lower is smoother where a face is still (default: %(default)s)",
    )
    video.add_argument(
        "--beta",
        type=float,
        default=Smoothing.beta,
        help="higher follows motion faster (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("networks")
    group.add_argument("--detector-weights", metavar="FILE", help="a checkpoint of the detector")
    group.add_argument(
        "--detector",
        metavar="NAME",
        help="its network, where the file does not tell: lffd-face-v2, lffd-head, ... "
        f"(`refnet models` lists them; without a file: {DETECTOR})",
    )
    group.add_argument("--landmarks-weights", metavar="FILE", help="a checkpoint of the landmarker")
    group.add_argument(
        "--landmarks",
        metavar="NAME",
        help=f"its network, where the file does not tell (without a file: {LANDMARKER})",
    )
    group.add_argument("--boxes-only", action="store_true", help="find no landmarks")
    group.add_argument(
        "--threshold", type=float, metavar="SCORE", help="least score (default: the network's)"
    )
    add_resize_scale(group)
    group.add_argument(
        "--margin",
        type=float,
        default=1.0,
        help="side of a face's crop over the longer side of its box (default: %(default)s)",
    )
    group.add_argument(
        "--passes",
        type=int,
        choices=(1, 2),
        default=2,
        help="2 looks for landmarks again in a crop about those of the first pass, which is closer; 1 "
        "is faster (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=int, default=1, help="threads of a network (default: %(default)s)"
    )
    add_backend(group)


def run(arguments: argparse.Namespace) -> int:
    # FFmpeg's own lines about broken files say less than ours, and more of them.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    smoothing = (
        Smoothing(min_cutoff=arguments.min_cutoff, beta=arguments.beta)
        if arguments.smooth
        else None
    )
    FaceTracker(smoothing)  # wrong settings are to be told before anything is written
    analyzer = make_analyzer(arguments)
    folder = Path(arguments.output)
    sources = find_sources(
        arguments.paths,
        sys.stdin if "-" in arguments.paths else (),
        exclude=None if arguments.no_media else folder,
    )
    results = arguments.results or str(folder / "faces.jsonl")
    landmarks = 0 if analyzer.landmarker is None else _points(analyzer.landmarker)
    copies = None if arguments.no_media else AnnotatedCopies(folder)
    sink = open_sink(
        results,
        asked=[source.label for source in sources],
        lost=[s.label for s in sources if copies is not None and not copies.path(s).exists()],
        landmarks=landmarks,
        overwrite=arguments.overwrite,
    )
    left = [source for source in sources if source.label not in sink.done]
    with ExitStack() as stack:
        job = _Job(analyzer, sink, copies, smoothing, _Progress(left, arguments.quiet))
        stack.callback(job.progress.close)
        code = job.run(left)
    if not arguments.quiet:
        print(job.summary(len(sources) - len(left), results), file=sys.stderr)
    return code


def make_analyzer(arguments: argparse.Namespace) -> FaceAnalyzer:
    """The analyzer that the arguments of `_add_networks` ask for.

    Raises:
        WeightsError: neither given nor released; the message names the option to give.
    """
    options = {"backend": arguments.backend, "threads": arguments.threads}
    detector = _loaded(
        partial(
            FaceDetector,
            threshold=arguments.threshold,
            resize_scale=scales_of(arguments.resize_scale),
            clip=False,
            **options,
        ),
        arguments.detector,
        arguments.detector_weights,
        DETECTOR,
        "--detector-weights FILE",
    )
    if arguments.boxes_only:
        return FaceAnalyzer(detector, None)
    landmarker = _loaded(
        partial(FaceLandmarker, margin=arguments.margin, passes=arguments.passes, **options),
        arguments.landmarks,
        arguments.landmarks_weights,
        LANDMARKER,
        "--landmarks-weights FILE, or --boxes-only",
    )
    return FaceAnalyzer(detector, landmarker)


def _loaded(
    make: Callable[..., Any], name: str | None, weights: str | None, default: str, option: str
) -> Any:
    if weights is not None:
        return make(name or weights, weights if name else None)
    try:
        return make(name or default)
    except WeightsError as error:
        raise WeightsError(
            f"refnet comes without weights for {name or default}; give {option} "
            "(PyTorch, ONNX, MXNet, safetensors, ...)"
        ) from error


def _points(landmarker: FaceLandmarker) -> int:
    graph = landmarker.model.graph
    return graph.shapes()[graph.outputs[-1]][-1] // 2


class _Job:
    """Sources in, results out; reading and drawing overlap with the networks."""

    def __init__(
        self,
        analyzer: FaceAnalyzer,
        sink: Sink,
        copies: AnnotatedCopies | None,
        smoothing: Smoothing | None,
        progress: _Progress,
    ) -> None:
        self.analyzer, self.sink, self.copies = analyzer, sink, copies
        self.smoothing, self.progress = smoothing, progress
        self.tracker = FaceTracker(smoothing)
        self.count: Counter[str] = Counter()
        self.failed: set[str] = set()
        self.lock = threading.Lock()

    def run(self, sources: Iterable[Source]) -> int:
        """All sources, unless Ctrl-C comes first; the exit code."""
        code = 0
        frames = Ahead(read_frames(sources))
        writer = Behind()
        try:
            for frame in frames:
                self.handle(frame, writer)
                self.progress.advance()
        except KeyboardInterrupt:
            code = 130
        finally:
            frames.close()
            if self.copies is not None:
                writer.call(self.finish_copies)
            writer.close()
            self.sink.close()
        return code or int(bool(self.failed))

    def handle(self, frame: Frame, writer: Behind) -> None:
        """Analyze one frame, and have it written."""
        path = frame.source.label
        record = Record(path, frame=frame.index, time=frame.time, last=frame.last)
        if frame.image is None:
            self.fail(path, frame.error or "")
            self.sink.write(replace(record, error=frame.error))
            return
        record = replace(record, size=(frame.image.shape[0], frame.image.shape[1]))
        try:
            faces = self.track(frame, self.analyzer(frame.image))
        except (RefnetError, MemoryError) as error:
            message = f"cannot analyze {path}: {error or 'out of memory'}"
            self.fail(path, message)
            self.sink.write(replace(record, error=message))
            return
        if self.copies is not None:
            writer.call(partial(self.draw, self.copies, frame, faces))
        self.sink.write(replace(record, faces=faces))
        self.count["faces"] += len(faces)
        self.count["images" if frame.index is None else "frames"] += 1
        self.count["videos"] += frame.last and frame.index is not None

    def track(self, frame: Frame, faces: Faces) -> Faces:
        if frame.index is None or frame.time is None:
            return faces
        if frame.index == 0:
            self.tracker = FaceTracker(self.smoothing)
        return self.tracker.update(faces, frame.time)

    def draw(self, copies: AnnotatedCopies, frame: Frame, faces: Faces) -> None:
        try:
            copies.write(frame, faces)
        except RefnetError as error:
            self.fail(frame.source.label, str(error))

    def finish_copies(self) -> None:
        assert self.copies is not None
        try:
            self.copies.close()
        except RefnetError as error:
            self.fail("", str(error))

    def fail(self, path: str, message: str) -> None:
        """Say what failed, once a source."""
        with self.lock:
            if path not in self.failed:
                self.failed.add(path)
                self.progress.say(f"refnet: {message}")

    def summary(self, skipped: int, results: str) -> str:
        """One line about the run."""
        count = self.count
        parts = [_counted(count["images"], "image")] if count["images"] else []
        if count["frames"]:
            parts.append(
                f"{_counted(count['frames'], 'frame')} of {_counted(count['videos'], 'video')}"
            )
        parts = [*(parts or ["nothing new"]), _counted(count["faces"], "face")]
        if skipped:
            parts.append(f"{skipped} done before")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        return f"{', '.join(parts)}: {'printed' if results == '-' else results}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Progress:
    """A bar with rate and time left, where standard error is a terminal and tqdm is there."""

    def __init__(self, sources: list[Source], quiet: bool) -> None:
        self.bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            return
        counts = [frame_count(source) for source in sources]
        total = None if None in counts else sum(c for c in counts if c is not None)
        self.bar = tqdm(total=total, unit=" images", dynamic_ncols=True, file=sys.stderr)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
