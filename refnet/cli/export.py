"""`refnet export`: a network with its weights as an ONNX file."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.cli.arguments import add_options, parse_options
from refnet.exchange.onnx_export import export_onnx
from refnet.model import load


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export",
        help="write a network with its weights as ONNX",
        description="Write a network with its weights as an ONNX file, batch norms folded and branches "
        "merged. Batch is free, and so is the image's size where the network allows it.",
    )
    parser.add_argument("network", help="a name that `refnet models` lists, or a checkpoint")
    parser.add_argument("output", metavar="OUT.onnx", help="where the file goes")
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint; needed where NETWORK is a name"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    options = parse_options(arguments.option)
    model = load(arguments.network, arguments.weights, backend="numpy", **options)
    size = export_onnx(model.graph, model.weights, arguments.output)
    print(f"{arguments.output}: {model.graph.name}, {size:,} bytes, ONNX opset 13")
    return 0
