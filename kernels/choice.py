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

#: Cycles per patch and block that the two Winograd transforms take, in vector operations; measured.
TRANSFORM_IN, TRANSFORM_OUT = 110, 100


def blocks_of(channels: int) -> int:
    """Planes that hold so many channels."""
    return -(-channels // LANES)


def runs_as_winograd(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a layer runs as F(4x4, 3x3): only where it takes fewer cycles than the direct product."""
    a = node.attributes
    if node.op != "conv" or a["groups"] != 1 or tuple(a["dilation"]) != (1, 1):
        return False
    if (a["kernel"], a["stride"], a["padding"]) != ((3, 3), (1, 1), (1, 1)):
        return False
    taken, (made, rows, columns) = shapes[node.inputs[0]][0], shapes[node.name]
    if taken <= PLANAR_CHANNELS:
        return False
    direct = 9 * taken * blocks_of(made) * rows * columns / 2
    patches = -(-rows // 4) * -(-columns // 4)
    transforms = TRANSFORM_IN * blocks_of(taken) + TRANSFORM_OUT * blocks_of(made)
    product = 36 * taken * blocks_of(made) / 2
    # A tile of few patches streams all weights for little work: at least seven patches' worth of time.
    return patches * transforms + max(patches, 7) * product < direct


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
        if runs_as_winograd(node, self.shapes):
            return "winograd"
        window = (tuple(a["kernel"]), tuple(a["stride"]), tuple(a["padding"]))
        return "pointwise" if window == ((1, 1), (1, 1), (0, 0)) else "dense"
