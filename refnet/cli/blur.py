"""`refnet blur`: photos and videos in which faces cannot be recognised."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from refnet.cli.arguments import positive
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
from refnet.faces.face import Faces
from refnet.ops import Array

METHODS, SHAPES = ("blur", "pixelate", "solid"), ("ellipse", "box")

_EPILOG = """\
examples:
  refnet blur photo.jpg -o blurred.jpg
  refnet blur holiday/ clip.mp4 -o hidden --method pixelate --shape box

Every frame of a video is searched. No detector finds all faces: look at the result before you
publish it; a lower --threshold hides more. Copies of videos have no sound. A second run goes on where
the first one ended.
"""


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "blur",
        "PATH... -o DIR|FILE [--method M] [--shape S] [--threshold 0..1] [...]",
        epilog=_EPILOG,
    )
    add_paths(parser)
    look = parser.add_argument_group("look")
    look.add_argument("--method", choices=METHODS, default="blur", help="default: %(default)s")
    look.add_argument("--shape", choices=SHAPES, default="ellipse", help="default: %(default)s")
    look.add_argument(
        "--margin",
        type=positive("--margin"),
        default=0.3,
        metavar="F",
        help="share of the box by which the shape is larger on each side (default: %(default)s)",
    )
    add_output(
        parser.add_argument_group("output"), None, "where the faces were: .jsonl, .csv, .parquet"
    )
    group = parser.add_argument_group("network: a name, name:option=value, or a file")
    add_detector(group)
    add_detection(group)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.output is None:
        raise OptionError("refnet blur needs -o, a folder or a file for the copies")
    look = {"method": arguments.method, "shape": arguments.shape, "margin": arguments.margin}
    return run_job(arguments, make_analyzer, folder=None, render=partial(hidden, **look), look=look)


def make_analyzer(arguments: argparse.Namespace) -> FaceAnalyzer:
    """The analyzer of boxes that the arguments ask for. Raises as `refnet.FaceAnalyzer`."""
    return FaceAnalyzer(make_detector(arguments, FaceDetector), None)


def hidden(image: Array, faces: Faces, **settings: Any) -> Array:
    """`image`, uint8 (H, W, 3) BGR, with `faces` hidden."""
    covered: Array = faces.blur(image, **settings)
    return covered
