"""`refnet export`: a network with its weights as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refnet.cli.arguments import NETWORK, add_json, add_overwrite, check_new, print_json, read_model
from refnet.cli.parser import add_verb
from refnet.errors import OptionError
from refnet.exchange.onnx_export import export_onnx


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "export",
        "NETWORK OUT.onnx [--overwrite] [--json]",
        description="Write a network with its weights as an ONNX file, batch norms folded and branches "
        "merged. Batch is free, and so is the image's size where the network allows it.",
    )
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("output", metavar="OUT.onnx", help="where the file goes")
    add_overwrite(parser, "OUT.onnx")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() != ".onnx":
        raise OptionError(f"ONNX is what is written; let {output} end in .onnx")
    check_new([output], [arguments.network], overwrite=arguments.overwrite)
    model = read_model(arguments.network, backend="numpy")
    size = export_onnx(model.graph, model.weights, output)
    if arguments.json:
        print_json({"output": str(output), "network": model.graph.name, "bytes": size, "opset": 13})
    else:
        print(f"{output}: {model.graph.name}, {size:,} bytes, ONNX opset 13")
    return 0
