"""BasketNet: LFFD's 25-layer trunk of depthwise-separable convolutions, for basketballs and volleyballs.

Facts and names are those of aoru45/BasketNet. Input is RGB scaled to [0, 1]; outputs are the class
logits (N, cells, classes) and the locations (N, cells, 4), branch by branch, cells in row-major order.
Class 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refnet.arrays import Array
from refnet.builder import POINTWISE, Builder, Window
from refnet.graph import Graph
from refnet.networks.options import check_count, check_size, size_of

CLASSES = ("background", "basketball", "volleyball")


class _Blocks(Builder):
    def conv_relu6(self, x: str, prefix: str, channels: int, window: Window) -> str:
        return self.add("relu6", f"{prefix}.relu6", self.conv(x, prefix, channels, window))

    def separable(self, x: str, prefix: str, channels: int, stride: int, padding: int) -> str:
        """Depthwise 3×3 directly followed by pointwise 1×1, both with a bias, then ReLU6."""
        taken = self.shape[x][0]
        y = self.conv(x, f"{prefix}.conv.0", taken, Window(3, stride, padding, taken))
        return self.add(
            "relu6", f"{prefix}.relu6", self.conv(y, f"{prefix}.conv.1", channels, POINTWISE)
        )

    def residual(self, x: str, name: str) -> str:
        """ReLU6(x + ReLU6(separable(ReLU6(separable(x)))))."""
        channels = self.shape[x][0]
        y = self.separable(x, f"{name}.conv2dRelu.0", channels, stride=1, padding=1)
        y = self.separable(y, f"{name}.conv2dRelu.2", channels, stride=1, padding=1)
        return self.add("relu6", name, self.add("add", f"{name}.sum", x, y))

    def head(self, x: str, name: str, classes: int) -> tuple[str, str]:
        """The class logits and the locations of a branch, one row for every cell."""
        shared = self.conv_relu6(x, f"{name}.conv1x1relu.0", 64, POINTWISE)

        def tower(part: str, channels: int) -> str:
            y = self.conv_relu6(shared, f"{name}.{part}.0", 64, POINTWISE)
            return self.add(
                "cells", f"{name}.{part}", self.conv(y, f"{name}.{part}.2", channels, POINTWISE)
            )

        return tower("score", classes), tower("locations", 4)


# (down-sampling convolution, its channels, blocks with whether a branch hangs on each)
STAGES: Sequence[tuple[str | None, int, dict[str, bool]]] = (
    (None, 64, dict.fromkeys(("tinypart1.0", "tinypart1.1"), False)),
    (None, 64, dict.fromkeys(("tinypart1.2", "tinypart2"), True)),
    ("c11.0", 64, dict.fromkeys(("smallpart1", "smallpart2"), True)),
    ("c16.0", 128, {"mediumpart": True}),
    ("c19.0", 128, dict.fromkeys(("largepart1", "largepart2", "largepart3"), True)),
)


def basketnet(input_size: Any = (640, 640), classes: int = len(CLASSES)) -> Graph:
    """Eight branches at strides 4 to 32; two outputs; any input size."""
    height, width = check_size("basketnet", input_size)
    check_count("basketnet", "classes", classes)
    net = _Blocks((3, height, width))
    x = net.separable("input", "c1.0", 64, stride=2, padding=0)
    x = net.separable(x, "c2.0", 64, stride=2, padding=0)
    logits: list[str] = []
    boxes: list[str] = []
    for down, channels, blocks in STAGES:
        if down is not None:
            x = net.conv_relu6(x, down, channels, Window(3, stride=2))
        for block, branch in blocks.items():
            x = net.residual(x, block)
            if branch:
                score, box = net.head(x, f"lossbranch{len(logits) + 1}", classes)
                logits.append(score)
                boxes.append(box)
    outputs = (
        net.add("concat", "logits", *logits, axis=1),
        net.add("concat", "locations", *boxes, axis=1),
    )
    # The original declares its trunk before its branches.
    net.state_dict = dict(
        sorted(net.state_dict.items(), key=lambda item: item[0].startswith("lossbranch"))
    )
    options = {"input_size": [height, width], "classes": classes}
    return net.graph("basketnet", outputs, options, fixed_size=False)


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`: the classes from a branch's last layer."""
    if (score := tensors.get("lossbranch1.score.2.weight")) is not None:
        yield {"classes": size_of(score, 0)}
