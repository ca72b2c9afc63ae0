"""Random graphs of the vocabulary, for tests that hold for any graph."""

from typing import Any

from hypothesis import strategies as st

from refnet.graph import Graph
from tests import kernel_checks as checks

ELEMENTWISE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("relu", {}),
    ("relu6", {}),
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {"slope": 0.1}),
    ("leaky_relu", {"slope": -0.5}),
    ("prelu", {}),
    ("hard_swish", {}),
    ("silu", {}),
    ("hard_sigmoid", {"slope": 0.2, "shift": 0.5}),
    ("clip", {"low": -0.5, "high": float("inf")}),
    ("sigmoid", {}),
    ("softmax", {"axis": 1}),
    ("softmax", {"axis": 1}),
    ("normalize", {"mean": 0.5, "std": 2.0}),
)


class Drawing:
    """Grows a random graph, one operation at a time; with `norms`, also what folding takes away."""

    def __init__(self, data: st.DataObject, norms: bool = False) -> None:
        self.data, self.norms = data, norms
        channels, height, width = (self.draw(1, 20), self.draw(3, 14), self.draw(3, 14))
        self.net = checks.Net((channels, height, width))
        self.names = ["input"]

    def draw(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def graph(self, most: int = 2) -> Graph:
        """The graph, of which some of the last nodes are outputs."""
        count = min(len(self.names) - 1, self.draw(1, most))
        return checks.graph_of(self.net, *dict.fromkeys(self.names[-count:]))

    def grow(self) -> None:
        """One more operation, of a recent tensor, unless that is too small for it."""
        x = self.names[-1 - min(self.draw(0, 3), len(self.names) - 1)]
        name, kind = f"n{len(self.names)}", self.draw(0, 19 if self.norms else 16)
        channels, *size = self.net.shape[x]
        if kind <= 2:
            self._conv(x, name)
        elif kind == 3 and channels > 1 and min(size) >= 3:
            window = {"stride": self.draw(1, 2), "padding": self.draw(0, 1), "groups": channels}
            self.names.append(self.net.conv(x, name, channels, 3, **window))
        elif kind in (4, 9):
            op, attributes = ELEMENTWISE[self.draw(0, len(ELEMENTWISE) - 1)]
            slopes: Any = {"slope": (f"{name}.slope", (channels,))} if op == "prelu" else {}
            self.names.append(self.net.add(op, name, x, parameters=slopes, **attributes))
        elif kind in (5, 6):
            same = [n for n in self.names if self.net.shape[n] == self.net.shape[x]]
            self.names.append(self.net.add("add", name, x, same[self.draw(0, len(same) - 1)]))
        elif kind == 16:
            gate = self.net.add("reduce", f"{name}.gate", x, kind="mean", axes=(2, 3))
            self.names.append(
                self.net.add("multiply", name, *((gate, x), (x, gate), (x, x))[self.draw(0, 2)])
            )
        elif kind == 7:
            fitting = [n for n in self.names if [*self.net.shape[n][1:]] == size]
            other = fitting[self.draw(0, len(fitting) - 1)]
            if channels + self.net.shape[other][0] <= 60:
                self.names.append(self.net.add("concat", name, x, other, axis=1))
        elif kind == 8:
            start = self.draw(0, channels - 1)
            stop = self.draw(start + 1, channels)
            self.names.append(self.net.add("slice", name, x, start=start, stop=stop))
        elif kind == 10 and min(size) >= 2:
            op = ("average_pool", "max_pool")[self.draw(0, 1)]
            stride = self.draw(1, 2)
            pool: Any = {"kernel": (2, 2), "stride": (stride, stride), "padding": (0, 0)}
            self.names.append(self.net.add(op, name, x, **pool))
        elif kind == 11 and max(size) <= 14:
            factor = (self.draw(1, 3), self.draw(1, 2))
            placed: Any = {"coordinates": "half_pixel"} if self.draw(0, 1) else {}
            op = "upsample_linear" if placed else "upsample"
            self.names.append(self.net.add(op, name, x, factor=factor, **placed))
        elif kind == 12 and max(size) <= 14 and channels >= 4:
            start = channels % 4
            x = self.net.add("slice", f"{name}.cut", x, start=start, stop=channels)
            first = bool(self.draw(0, 1))
            self.names.append(self.net.add("depth_to_space", name, x, block=2, depth_first=first))
        elif kind == 13 and channels > 1:
            rows, columns = self.draw(1, 4), self.draw(1, 4)
            step = (self.draw(1, 2), self.draw(1, 2))
            around: Any = {"stride": step, "padding": (rows - 1, columns - 1), "groups": channels}
            self.names.append(self.net.conv(x, name, channels, (rows, columns), **around))
        elif kind == 14 and max(size) <= 14:
            groups = 2 if channels % 2 == 0 else 1
            taps, step = ((self.draw(1, n), self.draw(1, n)) for n in (4, 2))
            made = groups * self.draw(1, 9)
            y = self.net.conv_transpose(x, name, made, taps, stride=step, groups=groups)
            self.names.append(y)
        elif kind == 15 and max(size) <= 14:
            widths = ((0, 0), (self.draw(0, 1), self.draw(0, 2)), (self.draw(0, 1), 0))
            mode = ("constant", "edge")[self.draw(0, 1)]
            border: Any = {"widths": widths, "mode": mode, "value": 0.5}
            self.names.append(self.net.add("pad", name, x, **border))
        elif kind in (17, 18):
            self.names.append(self.net.batch_norm(x, name))
        elif kind == 19:
            self._branches(x, name)

    def _conv(self, x: str, name: str) -> None:
        kernel, padding, stride = self.draw(1, 4), self.draw(0, 1), self.draw(1, 2)
        sizes = self.net.shape[x][1:]
        if min(checks.window_size(s, kernel, stride, padding) for s in sizes) >= 1:
            made = self.draw(1, 24)
            self.names.append(self.net.conv(x, name, made, kernel, stride=stride, padding=padding))

    def _branches(self, x: str, name: str) -> None:
        """Parallel convolutions and batch norms of one input, added; some of them are seen by others as well."""
        channels = self.net.shape[x][0]
        parts = [self.net.conv(x, f"{name}.wide", channels, 3, padding=1)]
        for i in range(self.draw(1, 2)):
            parts.append(self.net.conv(x, f"{name}.narrow{i}", channels, 1))
        if self.draw(0, 1):
            parts = [self.net.batch_norm(part, f"{part}.norm") for part in parts]
        if self.draw(0, 1):
            parts.append(self.net.batch_norm(x, f"{name}.identity"))
        if self.draw(0, 3) == 0:
            self.names.append(parts[self.draw(0, len(parts) - 1)])
        self.names.append(self.net.add("add", name, *parts))
