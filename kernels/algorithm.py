"""Which kernel computes a convolution or linear layer.

1x1, stride 1               pointwise
depthwise 3x3               depthwise
any other depthwise         depthwise_window
3x3, stride 1, padding 1    winograd where the cost model says so
the image, few channels     planar
anything else with groups=1 dense
linear                      pointwise with one pixel
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from refnet.graph import Graph, Node

from .layout import blocks_of

#: Most channels of an image that is read as the caller gives it, plane by plane.
PLANAR_CHANNELS = 4
# Both constants were measured on a Zen 5 core with 16 lanes, 2026-11-22.
#: {side: cycles per patch and block that the two Winograd transforms take, in and out}.
TRANSFORMS = {4: (110, 100), 6: (230, 210)}
#: {side: patches whose products take as long as it takes to fetch the matrices that side 4 does not have}.
FETCHED = {4: 0, 6: 12}
#: What the ways to compute a layer are called, by the side of its patches; 0 is the direct product.
WAYS = {0: "direct", 4: "F(4x4,3x3)", 6: "F(6x6,3x3)"}


class UnsupportedError(Exception):
    """The engine has no kernel for a layer; the caller runs the network with NumPy instead.

    `layer` is its name, where the lowering has got as far as that.
    """

    layer: str | None = None


class Algorithm(NamedTuple):
    """How a layer is computed.

    Attributes:
        name: a key of `lower_convolution.ALGORITHMS`.
        side: rows and columns of outputs that a Winograd patch makes; 0 for everything else.
        note: what each way was estimated to take, for people.
    """

    name: str
    side: int = 0
    note: str = ""


def choose(node: Node, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Algorithm:
    """The algorithm of a convolution or linear layer.

    Raises:
        UnsupportedError: there is none.
    """
    a, source = node.attributes, node.inputs[0]
    if node.op == "linear":
        if len(shapes[source]) != 1:
            raise UnsupportedError(f"{node.name} is linear over a map; flatten it first")
        return Algorithm("pointwise")
    if is_by_channel(node, graph):
        return Algorithm("depthwise" if is_depthwise(node, graph, shapes) else "depthwise_window")
    # Of other groups, `rewrites.py` makes convolutions without.
    if a["groups"] != 1 or a["stride"][0] != a["stride"][1]:
        raise UnsupportedError(
            f"{node.name} is a convolution with kernel {a['kernel']}, stride {a['stride']}, "
            f"padding {a['padding']}, dilation {a['dilation']} and {a['groups']} groups; the "
            "engine has kernels for one stride, and for any in depthwise convolutions"
        )
    if is_image(source, graph) and shapes[source][0] <= PLANAR_CHANNELS:
        return Algorithm("planar")
    # A 3x3 layer of few pixels or channels is faster without the transforms, see `winograd_costs`.
    costs = winograd_costs(node, shapes)
    side, note = _cheapest(costs), _note(costs)
    if side:
        return Algorithm("winograd", side, note)
    window = (tuple(a["kernel"]), tuple(a["stride"]), tuple(a["padding"]))
    name = "pointwise" if window == ((1, 1), (1, 1), (0, 0)) else "dense"
    return Algorithm(name, note=note)


def is_image(name: str, graph: Graph) -> bool:
    """Whether a tensor is the caller's image, normalised at most: kernels that load it can do that on the way."""
    if name == graph.input:
        return True
    node = graph.node.get(name)
    return node is not None and node.op == "normalize" and node.inputs[0] == graph.input


def is_by_channel(node: Node, graph: Graph) -> bool:
    """Whether a layer is a convolution of each channel by itself, which then stays in its lane."""
    if node.op != "conv" or node.attributes["groups"] == 1:
        return False
    made, taken, *_ = graph.state_dict[node.parameters["weight"]]
    return bool(node.attributes["groups"] == made and taken == 1)


def is_depthwise(node: Node, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the kernel of depthwise 3x3 convolutions takes this layer."""
    a = node.attributes
    return (
        is_by_channel(node, graph)
        and tuple(a["kernel"]) == (3, 3)
        and tuple(a["dilation"]) == (1, 1)
        and tuple(a["stride"]) in ((1, 1), (2, 2))
        and tuple(a["padding"]) in ((0, 0), (1, 1))
        # The kernel keeps three columns in flight; narrower maps would have windows over both edges.
        and shapes[node.inputs[0]][2] >= 3
    )


def winograd_costs(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> dict[int, float]:
    """Cycles that a layer takes, by the side of its Winograd patches, 0 being the direct product; empty where Winograd
    does not fit the layer."""
    a = node.attributes
    if node.op != "conv" or a["groups"] != 1 or tuple(a["dilation"]) != (1, 1):
        return {}
    if (a["kernel"], a["stride"], a["padding"]) != ((3, 3), (1, 1), (1, 1)):
        return {}
    taken, (made, rows, columns) = shapes[node.inputs[0]][0], shapes[node.name]
    if taken <= PLANAR_CHANNELS:
        return {}
    # A core makes two multiply-adds of vectors in a cycle, hence the halves here and below.
    costs = {0: 9 * taken * blocks_of(made) * rows * columns / 2}
    for side, (into, out) in TRANSFORMS.items():
        patches = -(-rows // side) * -(-columns // side)
        transforms = into * blocks_of(taken) + out * blocks_of(made)
        product = (side + 2) ** 2 * taken * blocks_of(made) / 2
        # A tile of few patches streams all weights for little work: at least seven patches' worth of time.
        costs[side] = patches * transforms + max(patches + FETCHED[side], 7) * product
    return costs


def winograd_side(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """4 or 6 for a layer that runs as F(4x4, 3x3) or F(6x6, 3x3), whichever takes fewer cycles; 0 where neither
    takes fewer than the direct product."""
    return _cheapest(winograd_costs(node, shapes))


def _cheapest(costs: Mapping[int, float]) -> int:
    return min(costs, key=lambda side: costs[side], default=0)


def _note(costs: Mapping[int, float]) -> str:
    """What each way was estimated to take, the chosen one first."""
    ordered = sorted((cost, side) for side, cost in costs.items())
    estimates = ", ".join(f"{WAYS[side]} {cost / 1e6:.2f}" for cost, side in ordered)
    return f"; million cycles: {estimates}" if costs else ""
