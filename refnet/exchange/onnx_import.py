"""A model from an ONNX file; see `refnet.exchange.onnx_network` for how the file is read."""

from __future__ import annotations

import os

from refnet.exchange.onnx_network import read_network
from refnet.model import Model
from refnet.ops import Pair


def from_onnx(
    path: str | os.PathLike[str],
    input_size: int | Pair | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
) -> Model:
    """The network in an ONNX file, with its weights.

    Args:
        input_size: a side or (height, width) of the image, where the file does not fix it.
        backend, threads: as in `refnet.load`.

    Raises:
        DependencyError: the package onnx is absent.
        CheckpointError: the file cannot be read.
        OptionError: the network uses what the vocabulary does not hold; all of it is named.
        ShapeError: the size of the image is not one that the network takes, or is open and has to be given.
        WeightsError: a weight is NaN or infinite.
    """
    graph, weights = read_network(path, input_size)
    return Model(graph, weights, backend=backend, threads=threads)
