"""Which kernel runs a convolution or linear layer.

1x1, stride 1               POINTWISE
depthwise 3x3               DEPTHWISE
3x3, stride 1, padding 1    WINOGRAD where the cost model says so
the image, few channels     PLANAR
anything else with groups=1 DENSE
linear                      POINTWISE with one pixel
"""

from __future__ import annotations

from collections.abc import Mapping

from refnet.graph import Graph, Node

from .products import PLANAR_CHANNELS
from .simd import LANES
from .steps import UnsupportedError

#: {side: cycles per patch and block that the two Winograd transforms take, in and out}; measured.
TRANSFORMS = {4: (110, 100), 6: (230, 210)}
#: {side: patches whose products take as long as it takes to fetch the matrices that side 4 does not have}; measured.
FETCHED = {4: 0, 6: 12}
#: The names of the ways to run a layer, by the side of its patches; 0 is the direct product.
WAYS = {0: "direct", 4: "F(4x4,3x3)", 6: "F(6x6,3x3)"}


def blocks_of(channels: int) -> int:
    """Planes that hold so many channels."""
    return -(-channels // LANES)


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
    costs = winograd_costs(node, shapes)
    return min(costs, key=lambda side: costs[side], default=0)


def winograd_note(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why a layer runs as it does, for people: what each way was estimated to take, the chosen one first."""
    costs = sorted((cost, side) for side, cost in winograd_costs(node, shapes).items())
    estimates = ", ".join(f"{WAYS[side]} {cost / 1e6:.2f}" for cost, side in costs)
    return f"; million cycles: {estimates}" if costs else ""


class Choice:
    """The choice for every layer of one graph, for one input shape."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.graph, self.shapes = graph, shapes
        #: {tensor: (scale, shift)}: normalised images, which their readers normalise.
        self.images: dict[str, tuple[float, float]] = {}

    def is_depthwise(self, node: Node) -> bool:
        """Whether the depthwise kernel takes this layer."""
        a = node.attributes
        if node.op != "conv" or a["groups"] == 1 or tuple(a["kernel"]) != (3, 3):
            return False
        channels = self.graph.state_dict[node.parameters["weight"]][0]
        taken = self.shapes[node.inputs[0]][0]
        return (
            a["groups"] == channels == taken
            and tuple(a["dilation"]) == (1, 1)
            and tuple(a["stride"]) in ((1, 1), (2, 2))
            and tuple(a["padding"]) in ((0, 0), (1, 1))
            and self.shapes[node.inputs[0]][2] >= 3
        )

    def kind(self, node: Node) -> str:
        """Which kernel runs this layer: pointwise, depthwise, planar, winograd or dense.

        Raises:
            UnsupportedError: none does.
        """
        a = node.attributes
        if node.op == "linear":
            if len(self.shapes[node.inputs[0]]) != 1:
                raise UnsupportedError(f"{node.name} is linear over a map; flatten it first")
            return "pointwise"
        if self.is_depthwise(node):
            return "depthwise"
        if a["groups"] != 1 or tuple(a["dilation"]) != (1, 1) or a["stride"][0] != a["stride"][1]:
            raise UnsupportedError(
                f"{node.name} is a convolution with kernel {a['kernel']}, stride {a['stride']}, "
                f"padding {a['padding']}, dilation {a['dilation']} and {a['groups']} groups; the "
                "engine has kernels for groups=1 and for depthwise 3x3, without dilation, of one stride"
            )
        name = node.inputs[0]
        image = name == self.graph.input or name in self.images
        if image and self.shapes[name][0] <= PLANAR_CHANNELS:
            return "planar"
        if winograd_side(node, self.shapes):
            return "winograd"
        window = (tuple(a["kernel"]), tuple(a["stride"]), tuple(a["padding"]))
        return "pointwise" if window == ((1, 1), (1, 1), (0, 0)) else "dense"
