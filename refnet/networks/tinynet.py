"""TinyNet: the first branch of LFFD's trunk alone, for experiments on receptive fields.

Two 3×3 convolutions of stride 2 and three residual blocks, y = ReLU(x + ReLU(conv(ReLU(conv(x))))),
64 channels throughout. Its receptive field is 55 pixels and its stride 4, as those of LFFD's conv8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from refnet.arrays import Array
from refnet.builder import Builder, Window
from refnet.graph import Graph
from refnet.networks.options import check_size


def tinynet(input_size: Any = (640, 640)) -> Graph:
    """One output, (N, 64, h, w); any input size."""
    height, width = check_size("tinynet", input_size)
    net = Builder((3, height, width))

    def conv_relu(x: str, prefix: str, window: Window) -> str:
        return net.add("relu", f"{prefix}.relu", net.conv(x, prefix, 64, window))

    x = conv_relu("input", "conv1", Window(3, stride=2))
    x = conv_relu(x, "conv2", Window(3, stride=2))
    for i in (1, 2, 3):
        y = conv_relu(x, f"block{i}.conv1", Window(3, padding=1))
        y = conv_relu(y, f"block{i}.conv2", Window(3, padding=1))
        x = net.add("relu", f"block{i}", net.add("add", f"block{i}.sum", x, y))
    return net.graph("tinynet", (x,), {"input_size": [height, width]}, fixed_size=False)


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """See `refnet.networks.options_of`; TinyNet has none but its input size, which is free."""
    if "block1.conv1.weight" in tensors:
        yield {}
