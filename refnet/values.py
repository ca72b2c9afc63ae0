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
    if not np.isfinite(array).all():
        return "holds NaN or infinite values"
    if array.size and max(float(array.max()), -float(array.min())) > LARGEST:
        return f"holds values beyond {LARGEST:g}, with which nothing can be computed in float32"
    if variance and (array < 0).any():
        return f"holds negative variances, such as {array.min():g}"
    return ""
