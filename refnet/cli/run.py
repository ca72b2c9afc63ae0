"""`refnet run`: a network on an array."""

from __future__ import annotations

import argparse
import io
import zipfile
from typing import Any

import numpy as np

from refnet.cli.arguments import add_backend, add_options, parse_options
from refnet.errors import ShapeError
from refnet.files import write_file
from refnet.model import load
from refnet.ops import Array


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="run a network on an array in a .npy file",
        description="Run a network on an array (N, C, H, W) and write its outputs, by name, to a .npz "
        "file.",
    )
    parser.add_argument(
        "network",
        help="a name that `refnet models` lists, a file made by `refnet convert`, or an ONNX file",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint; needed where NETWORK is a name"
    )
    parser.add_argument(
        "--input", required=True, metavar="X.npy", help="float32 or float64, (N, C, H, W)"
    )
    parser.add_argument("--output", required=True, metavar="Y.npz", help="where the outputs go")
    add_options(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    x = _read_array(arguments.input)
    options = parse_options(arguments.option)
    model = load(arguments.network, arguments.weights, backend=arguments.backend, **options)
    outputs = model(x)
    named = dict(
        zip(model.graph.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True)
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # as np.savez, which takes no array called "file"
        for name, array in named.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    write_file(arguments.output, [buffer.getvalue()])
    for name, array in named.items():
        shape = " × ".join(map(str, array.shape))
        print(f"{name:12s} {shape:24s} {array.dtype}, {_range(array)}")
    return 0


def _range(array: Array) -> str:
    return f"{array.min():.6g} to {array.max():.6g}" if array.size else "empty"


def _read_array(path: str) -> Array:
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShapeError(f"cannot read an array from {path}: {error}") from error
    if not isinstance(x, np.ndarray):
        raise ShapeError(f"{path} holds several arrays; --input takes a .npy file of one")
    return x
