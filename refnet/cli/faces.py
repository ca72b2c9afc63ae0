"""`refnet faces`: faces in photos, folders, videos and cameras."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refnet.cli.arguments import naming, network, positive, whole_number
from refnet.cli.media import (
    add_detection,
    add_detector,
    add_output,
    add_paths,
    make_detector,
    run_job,
)
from refnet.cli.parser import add_verb
from refnet.detection.detector import FaceDetector
from refnet.errors import OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.smoothing import Smoothing
from refnet.faces.tracking import MIN_AGE, SEARCH_EVERY
from refnet.networks.defaults import LANDMARKER
from refnet.results.copies import FaceCrops
from refnet.results.drawing import draw_faces

_EPILOG = """\
examples:
  refnet faces photo.jpg                      draws faces/photo.jpg
  refnet faces holiday/ clip.mp4 -o found --results found.csv
  refnet faces 0 -o me.mp4                    camera 0, until Ctrl-C
  find . -name '*.jpg' | refnet faces - --json

A second run goes on where the first one ended: files done with the same settings are skipped.
"""


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "faces",
        "PATH... [-o DIR|FILE] [--json] [--threshold 0..1] [...]",
        epilog=_EPILOG,
    )
    add_paths(parser)
    output = parser.add_argument_group("output")
    add_output(output, "faces", ".jsonl, .csv or .parquet (default: DIR/faces.jsonl)")
    output.add_argument("--no-media", action="store_true", help="draw nothing")
    output.add_argument("--crops", metavar="DIR", help="write every face, cut out, as PNG")
    output.add_argument(
        "--aligned",
        type=whole_number("--aligned", 8, 4096),
        metavar="PX",
        help="crops turned upright, of this side, as recognition networks take them",
    )
    networks = parser.add_argument_group("networks: a name, name:option=value, or a file")
    add_detector(networks)
    networks.add_argument(
        "--landmarker", default=LANDMARKER, metavar="N", help="or none (default: %(default)s)"
    )
    add_detection(networks)
    video = parser.add_argument_group("video")
    video.add_argument(
        "--every-frame", action="store_true", help="search every frame, not ten times a second"
    )
    video.add_argument(
        "--min-age",
        type=positive("--min-age"),
        default=MIN_AGE,
        metavar="S",
        help="seconds until a new face counts (default: %(default)s)",
    )
    video.add_argument(
        "--no-smooth", action="store_true", help="leave boxes and points as they are found"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.aligned is not None and arguments.crops is None:
        raise OptionError(
            "--aligned is the side of the crops that --crops DIR writes; name a folder"
        )
    crops = None if arguments.crops is None else FaceCrops(Path(arguments.crops), arguments.aligned)
    return run_job(
        arguments,
        make_analyzer,
        folder="faces",
        render=draw_faces,
        results="faces.jsonl",
        crops=crops,
        smoothing=None if arguments.no_smooth else Smoothing(),
        search_every=0.0 if arguments.every_frame else SEARCH_EVERY,
        min_age=arguments.min_age,
    )


def make_analyzer(arguments: argparse.Namespace) -> FaceAnalyzer:
    """The analyzer that the arguments ask for. Raises as `refnet.FaceAnalyzer`."""
    detector = make_detector(arguments, FaceDetector)
    landmarker = None if arguments.landmarker == "none" else network(arguments.landmarker)
    with naming({"--landmarker": arguments.landmarker}):
        return FaceAnalyzer(detector, landmarker, threads=arguments.threads)
