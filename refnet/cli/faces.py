"""`refnet faces`: faces in photos, folders, videos and cameras."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from refnet.cli.arguments import add_backend, add_crops, add_resize_scale, model_of, scales_of
from refnet.detection.detector import FaceDetector
from refnet.errors import WeightsError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.tracking import Smoothing
from refnet.media.sources import find_sources
from refnet.networks.defaults import DETECTOR, LANDMARKER
from refnet.results.copies import AnnotatedCopies
from refnet.results.job import Job, Outcome, Progress

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
        help="its network, where the file does not tell: lffd-face-v2, lffd-head, ...; or an ONNX file "
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
    add_crops(group, passes=2)
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
    folder = Path(arguments.output)
    results = arguments.results or str(folder / "faces.jsonl")
    job = Job(
        make_analyzer(arguments),
        results,
        copies=None if arguments.no_media else AnnotatedCopies(folder),
        smoothing=smoothing,
        overwrite=arguments.overwrite,
        progress=Progress(bar=not arguments.quiet),
    )
    sources = find_sources(
        arguments.paths,
        sys.stdin if "-" in arguments.paths else (),
        exclude=None if arguments.no_media else folder,
    )
    outcome = job.run(sources)
    if not arguments.quiet:
        print(_summary(outcome, results), file=sys.stderr)
    return 130 if outcome.interrupted else int(bool(outcome.failed))


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
            scales=scales_of(arguments.resize_scale),
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
        partial(FaceLandmarker, margin=arguments.margin, refine=arguments.passes == 2, **options),
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
        return make(*model_of(name, weights, default))
    try:
        return make(name or default)
    except WeightsError as error:
        raise WeightsError(
            f"refnet comes without weights for {name or default}; give {option} "
            "(PyTorch, ONNX, MXNet, safetensors, ...)"
        ) from error


def _summary(outcome: Outcome, results: str) -> str:
    """One line about the run."""
    parts = [_counted(outcome.images, "image")] if outcome.images else []
    if outcome.frames:
        parts.append(f"{_counted(outcome.frames, 'frame')} of {_counted(outcome.videos, 'video')}")
    parts = [*(parts or ["nothing new"]), _counted(outcome.faces, "face")]
    if outcome.skipped:
        parts.append(f"{outcome.skipped} done before")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    return f"{', '.join(parts)}: {'printed' if results == '-' else results}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
