"""`refnet landmarks`: the points of the faces in a photo."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from refnet.cli.arguments import (
    add_backend,
    add_channel_order,
    add_crops,
    add_options,
    model_of,
    parse_options,
)
from refnet.errors import OptionError, ShapeError
from refnet.faces.landmarks import FaceLandmarker
from refnet.files import write_file
from refnet.media.images import read_image, write_image
from refnet.model import load
from refnet.networks.defaults import LANDMARKER
from refnet.results.drawing import draw_landmarks


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "landmarks",
        help="find the landmarks of the faces in a photo",
        description="Find the landmarks of faces whose boxes are known, draw them over the photo, and "
        "write them as JSON: for each face its box, its crop, and its points in image pixels.",
    )
    parser.add_argument("photo", help="an image file")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint of a PFLD-family network (PyTorch, ONNX, safetensors, ...); without it the "
        "released weights of --network",
    )
    parser.add_argument(
        "--network",
        help="its network, where the file does not tell (`refnet models` lists them; without a file: "
        f"{LANDMARKER})",
    )
    parser.add_argument(
        "--boxes",
        nargs="+",
        type=float,
        metavar=("X1 Y1 X2 Y2", "X1 Y1 X2 Y2"),
        help="the faces' boxes in pixels, four numbers each, which may leave the image; without them "
        "the whole image is one face",
    )
    add_crops(parser, passes=1)
    add_channel_order(parser)
    parser.add_argument(
        "--output", metavar="IMAGE", help="the drawing (default: PHOTO-landmarks.png, here)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="the points; - prints them (default: OUTPUT's name, .json)"
    )
    add_options(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    photo = Path(arguments.photo)
    output = Path(arguments.output or f"{photo.stem}-landmarks.png")
    if output.resolve() == photo.resolve():
        raise OptionError(f"--output {output} is the photo itself; name another file")
    image = read_image(photo)
    boxes = _boxes(arguments.boxes)
    model, weights = model_of(arguments.network, arguments.weights, LANDMARKER)
    options = parse_options(arguments.option)
    landmarker = FaceLandmarker(
        load(model, weights, backend=arguments.backend, **options),
        margin=arguments.margin,
        channel_order=arguments.channel_order,
        refine=arguments.passes == 2,
    )
    landmarks = landmarker(image, boxes)
    height, width = image.shape[:2]
    found = {
        "image": str(photo),
        "width": width,
        "height": height,
        "network": landmarker.model.graph.name,
        "faces": landmarks.to_dicts(),
    }
    text = json.dumps(found) + "\n"
    write_image(output, draw_landmarks(image, landmarks))
    if arguments.json == "-":
        print(text, end="")
        return 0
    target = Path(arguments.json) if arguments.json else output.with_suffix(".json")
    write_file(target, [text.encode()])
    faces = len(landmarks)
    points = landmarks.points.shape[1]
    print(f"{faces} face{'s' * (faces != 1)}, {points} points each: {output}, {target}")
    return 0


def _boxes(numbers: list[float] | None) -> list[list[float]] | None:
    if numbers is None:
        return None
    if len(numbers) % 4:
        raise ShapeError(
            f"--boxes takes four numbers a face, X1 Y1 X2 Y2 in pixels; got {len(numbers)} in all"
        )
    return [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
