"""`refnet detect`: boxes of anything that a network finds."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.cli.arguments import naming, network
from refnet.cli.media import add_detection, add_output, add_paths, run_job
from refnet.cli.parser import add_verb
from refnet.detection.detector import Detector
from refnet.networks.defaults import DETECTOR
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
    group.add_argument("--detector", default=DETECTOR, metavar="N", help="default: %(default)s")
    add_detection(group)
    output = parser.add_argument_group("output")
    add_output(output, "detected", ".jsonl, .csv or .parquet (default: DIR/objects.jsonl)")
    output.add_argument("--no-media", action="store_true", help="draw nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_job(
        arguments, make_detector, folder="detected", render=draw_detections, results="objects.jsonl"
    )


def make_detector(arguments: argparse.Namespace) -> Detector:
    """The detector that the arguments ask for. Raises as `refnet.Detector`."""
    with naming({"--detector": arguments.detector}):
        return Detector(
            network(arguments.detector),
            threshold=arguments.threshold,
            min_size=arguments.min_size,
            threads=arguments.threads,
        )
