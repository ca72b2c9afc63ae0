"""Windows as ONNX writes them: strides, dilations, and paddings that may differ from side to side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refnet.errors import OptionError
from refnet.exchange.onnx_proto import OnnxNode
from refnet.ops import Pair

#: Kernels, strides and dilations are no larger; paddings neither.
WIDEST = 1 << 12


@dataclass(frozen=True)
class OnnxWindow:
    """A window over rows and columns.

    Attributes:
        before, after: padding at the top and left, at the bottom and right.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    after: Pair

    @property
    def symmetric(self) -> bool:
        return self.before == self.after

    def positions(self, size: Sequence[int], *, ceil: bool = False) -> list[int]:
        """How many windows ONNX counts along rows and columns of a map of `size`."""
        counts = []
        for a in (0, 1):
            room = (
                size[a]
                + self.before[a]
                + self.after[a]
                - self.dilation[a] * (self.kernel[a] - 1)
                - 1
            )
            count = room // self.stride[a] + 1
            if ceil and room % self.stride[a] and count * self.stride[a] < size[a] + self.before[a]:
                count += 1
            counts.append(count)
        return counts


def window(node: OnnxNode, size: Sequence[int], kernel: Sequence[int] | None = None) -> OnnxWindow:
    """The window of `node` over a map of `size` (rows, columns); `kernel` is that of the weights.

    Raises:
        OptionError: an attribute is missing, out of range or not understood.
    """
    given = node.integers("kernel_shape", kernel, count=2, low=1, high=WIDEST)
    if given is None or len(given) != 2 or min(given) < 1:
        raise OptionError(
            "only windows over rows and columns are supported, and they need a kernel_shape"
        )
    if kernel is not None and given != tuple(kernel):
        raise OptionError(f"kernel_shape is {given}, and the weights are of {tuple(kernel)}")
    stride = _pair(node, "strides", 1)
    dilation = _pair(node, "dilations", 1)
    pads = node.integers("pads", (0, 0, 0, 0), count=4, low=0, high=WIDEST) or (0,) * 4
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(size, given, stride, dilation, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
    elif mode == "VALID":
        pads = (0, 0, 0, 0)
    elif mode not in ("NOTSET", ""):
        raise OptionError(f"auto_pad is {mode[:40]!r}")
    return OnnxWindow(
        (given[0], given[1]), stride, dilation, (pads[0], pads[1]), (pads[2], pads[3])
    )


def _pair(node: OnnxNode, name: str, default: int) -> Pair:
    values = node.integers(name, (default, default), count=2, low=1, high=WIDEST)
    assert values is not None  # there is a default
    return values[0], values[1]
