"""Which numbers weights may hold."""

from __future__ import annotations

import numpy as np

from refnet.graph import Graph
from refnet.ops import Array

#: The product of two larger numbers overflows float32. The weights of trained networks are below a million.
LARGEST = 1e18


def variances(graph: Graph) -> frozenset[str]:
    """The parameters of `graph` that are variances of batch norms."""
    return frozenset(
        node.parameters["running_var"] for node in graph.nodes if "running_var" in node.parameters
    )


def objection(array: Array, *, variance: bool) -> str:
    """Why a float array cannot be weights, as a clause; empty if it can.

    Args:
        variance: whether these are the running variances of a batch norm, whose square root is taken.
    """
    if not array.size:
        return ""
    # Both are NaN where one of the values is, and no comparison with NaN holds.
    least, most = float(array.min()), float(array.max())
    if not (least >= -LARGEST and most <= LARGEST):
        if not np.isfinite(array).all():
            return "holds NaN or infinite values"
        return f"holds values beyond {LARGEST:g}, with which nothing can be computed in float32"
    if variance and least < 0:
        return f"holds negative variances, such as {least:g}"
    return ""
