"""A network by its name, or out of a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refnet.errors import OptionError
from refnet.exchange.onnx_import import from_onnx
from refnet.graph import Graph
from refnet.model import Model, load
from refnet.networks import NETWORKS, build


def read_graph(name_or_file: str, options: Mapping[str, Any]) -> Graph:
    """The network of a name, built with `options`, or the one in an ONNX file or a checkpoint.

    Raises:
        As `refnet.build`, `read_onnx` or `refnet.load`.
    """
    if name_or_file.lower().endswith(".onnx"):
        return read_onnx(name_or_file, options).graph
    if name_or_file not in NETWORKS and Path(name_or_file).is_file():
        return load(name_or_file, backend="numpy", **options).graph
    return build(name_or_file, **options)


def read_onnx(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Model:
    """The network in an ONNX file, with its weights; `options` may hold input_size.

    Raises:
        OptionError: there are other options. And as `from_onnx`.
    """
    if unknown := [key for key in options if key != "input_size"]:
        raise OptionError(
            f"of an ONNX file only input_size can be chosen, not {', '.join(unknown)}"
        )
    return from_onnx(path, **options)
