"""`refnet landmarks`: the points of faces whose boxes are known."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from refnet.cli.arguments import add_threads, naming, network, numbers
from refnet.cli.media import add_output, add_paths, run_job
from refnet.cli.parser import add_verb
from refnet.errors import OptionError
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.networks.defaults import LANDMARKER
from refnet.ops import Array
from refnet.results.drawing import draw_faces

#: No pixel of a photo, or of a face at its border, is farther away.
FARTHEST = 1e6

_EPILOG = """\
examples:
  refnet landmarks photo.jpg --box 363,134,473,272
  refnet landmarks crops/ --json              each photo is one face

`refnet faces` finds the boxes as well.
"""


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "landmarks",
        "PHOTO... [--box X1,Y1,X2,Y2]... [-o DIR|FILE] [--json]",
        epilog=_EPILOG,
    )
    add_paths(parser)
    parser.add_argument(
        "--box",
        action="append",
        type=numbers("--box", "X1,Y1,X2,Y2"),
        metavar="X1,Y1,X2,Y2",
        help="a face in pixels of the photo, which may leave it; repeat it for several faces "
        "(default: the whole image is one face)",
    )
    output = parser.add_argument_group("output")
    add_output(output, "landmarks", ".jsonl, .csv or .parquet (default: DIR/landmarks.jsonl)")
    output.add_argument("--no-media", action="store_true", help="draw nothing")
    group = parser.add_argument_group("network: a name, name:option=value, or a file")
    group.add_argument("--landmarker", default=LANDMARKER, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--margin",
        type=float,
        default=1.0,
        metavar="F",
        help="side of the crop over the longer side of the box: 1 for boxes from forehead to chin, "
        "1.2 for boxes that hug the points (default: %(default)s)",
    )
    add_threads(group)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    for x1, y1, x2, y2 in arguments.box or ():
        if not (x2 > x1 and y2 > y1) or max(map(abs, (x1, y1, x2, y2))) > FARTHEST:
            raise OptionError(
                f"--box is X1,Y1,X2,Y2 with X2 > X1 and Y2 > Y1, in pixels, not {x1:g},{y1:g},{x2:g},{y2:g}"
            )
    return run_job(
        arguments,
        make_analyzer,
        folder="landmarks",
        render=draw_faces,
        results="landmarks.jsonl",
    )


def make_analyzer(arguments: argparse.Namespace) -> KnownFaces:
    """The analyzer that the arguments ask for. Raises as `refnet.FaceLandmarker`."""
    with naming({"--landmarker": arguments.landmarker}):
        landmarker = FaceLandmarker(
            network(arguments.landmarker), margin=arguments.margin, threads=arguments.threads
        )
    return KnownFaces(landmarker, arguments.box)


class KnownFaces:
    """An analyzer of faces whose boxes are known, with the score 1."""

    def __init__(self, landmarker: FaceLandmarker, boxes: list[tuple[float, ...]] | None) -> None:
        self.landmarker, self.boxes = landmarker, boxes

    def __call__(self, image: Array) -> Faces:
        """The faces of an image, uint8 (H, W, 3) BGR, with their landmarks."""
        height, width = image.shape[:2]
        boxes = np.array(self.boxes or [(0, 0, width, height)], np.float32)
        found = self.landmarker(image, boxes)
        return Faces(
            Face(box, 1.0, one, (height, width), landmark_confidence=found.confidence_at(i))
            for i, (box, one) in enumerate(zip(boxes, found, strict=True))
        )
