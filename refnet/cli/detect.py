"""`refnet detect`: boxes of anything that a network finds."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from refnet.cli.media import (
    add_detection,
    add_detector,
    add_output,
    add_paths,
    make_detector,
    run_job,
)
from refnet.cli.parser import add_verb
from refnet.detection.detector import Detector
from refnet.results.drawing import draw_detections

_EPILOG = """\
examples:
  refnet detect photo.jpg --detector yunet_n.onnx
  refnet detect game.mp4 --detector basketnet.safetensors -o out.mp4

`refnet faces` finds landmarks as well, and follows faces through videos.
"""


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "detect",
        "PATH... --detector N [-o DIR|FILE] [--json] [--threshold 0..1] [...]",
        epilog=_EPILOG,
    )
    add_paths(parser)
    group = parser.add_argument_group("network: a name, name:option=value, or a file")
    add_detector(group)
    add_detection(group)
    output = parser.add_argument_group("output")
    add_output(output, "detected", ".jsonl, .csv or .parquet (default: DIR/objects.jsonl)")
    output.add_argument("--no-media", action="store_true", help="draw nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_job(
        arguments,
        partial(make_detector, kind=Detector),
        folder="detected",
        render=draw_detections,
        results="objects.jsonl",
    )
