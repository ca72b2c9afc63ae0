"""`refnet run`: a network on an array."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from refnet.cli.arguments import (
    NETWORK,
    add_backend,
    add_json,
    add_overwrite,
    add_threads,
    check_new,
    print_json,
    read_model,
)
from refnet.cli.parser import add_verb
from refnet.errors import OptionError, ShapeError
from refnet.files import reading, write_file
from refnet.media.sources import PHOTO_SUFFIXES
from refnet.ops import Array
from refnet.waiting import waiting


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "run",
        "NETWORK IN.npy OUT.npz [--overwrite] [--json]",
        description="Run a network on an array (N, C, H, W) and write its outputs, by name, to a .npz "
        "file.",
    )
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("input", metavar="IN.npy", help="float32 or float64, (N, C, H, W)")
    parser.add_argument("output", metavar="OUT.npz", help="where the outputs go")
    add_overwrite(parser, "OUT.npz")
    add_json(parser)
    add_threads(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.suffix.lower() != ".npz":
        raise OptionError(f"the outputs are written as .npz, not as {output}")
    check_new([output], [arguments.input, arguments.network], overwrite=arguments.overwrite)
    x = _read_array(arguments.input)
    model = read_model(arguments.network, backend=arguments.backend, threads=arguments.threads)
    with waiting("running"):
        outputs = model(x)
    named = dict(
        zip(model.graph.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True)
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # as np.savez, which takes no array called "file"
        for name, array in named.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    write_file(output, [buffer.getvalue()])
    for name, array in named.items():
        if arguments.json:
            limits = [float(array.min()), float(array.max())] if array.size else None
            shape = {"output": name, "shape": array.shape, "dtype": str(array.dtype)}
            print_json(shape | {"range": limits})
        else:
            shown = " × ".join(map(str, array.shape))
            print(f"{name:12s} {shown:24s} {array.dtype}, {_range(array)}")
    return 0


def _range(array: Array) -> str:
    return f"{array.min():.6g} to {array.max():.6g}" if array.size else "empty"


def _read_array(path: str) -> Array:
    if Path(path).suffix.lower() in PHOTO_SUFFIXES:
        raise OptionError(f"{path} is no .npy array; photos go to refnet faces {path}")
    try:
        with reading(path):
            # Mapped, so that a file which claims more numbers than it holds is refused before they are made.
            x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        why = "it holds Python objects" if "Python objects" in str(error) else str(error)
        raise ShapeError(f"cannot read an array from {path}: {why}") from error
    if not isinstance(x, np.ndarray):
        x.close()
        raise ShapeError(f"{path} holds several arrays; IN.npy is a file of one")
    return np.array(x)
