"""What a network can see: the receptive field of every layer, in closed form, in exact integers.

Along each axis, unit u of a layer sees the input pixels first + u·jump ... last + u·jump. The input
itself is (0, 0, 1). A window of k taps, stride s, padding p and dilation d takes (first, last, jump)
to

    (first - p·jump,  last + (d (k - 1) - p)·jump,  s·jump)

which is the recurrence of Araujo et al. 2019 (doi:10.23915/distill.00021) written for edges instead
of size and centre. Pixels before 0 or behind the image are padding. Paths that join see the union;
where their centres differ the join is out of line, and `misalignments` names it. The size is an extent,
as is usual: windows whose stride or dilation outgrows the kernel before them leave pixels in it unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from refnet.graph import Graph, Node
from refnet.ops import Pair, Shape


@dataclass(frozen=True)
class Axis:
    """Along one axis, unit u sees the input pixels first + u·jump ... last + u·jump."""

    first: int
    last: int
    jump: int

    @property
    def size(self) -> int:
        """Number of pixels that one unit sees."""
        return self.last - self.first + 1

    @property
    def centre(self) -> Fraction:
        """Pixel coordinate of the middle of what unit 0 sees."""
        return Fraction(self.first + self.last, 2)

    def span(self, unit: int) -> Pair:
        """(first, end) of the pixels that `unit` sees; `end` is the first pixel behind them."""
        return self.first + unit * self.jump, self.last + unit * self.jump + 1

    def nearest(self, pixel: float, units: int) -> int:
        """Which of `units` units has its centre nearest to `pixel`; the lower one of two as near."""
        if self.jump == 0:
            return 0
        exact = (Fraction(pixel) - self.centre) / self.jump
        return min(max(math.ceil(exact - Fraction(1, 2)), 0), units - 1)

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
        """The axis behind a sliding window."""
        return Axis(
            self.first - padding * self.jump,
            self.last + (dilation * (kernel - 1) - padding) * self.jump,
            stride * self.jump,
        )

    def whole(self, units: int) -> Axis:
        """The union of all `units` units, as one unit without a neighbour."""
        return Axis(self.first, self.last + (units - 1) * self.jump, 0)


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of a layer's units.

    Attributes:
        rows, columns: what unit 0 sees along each axis, and the jump from unit to unit.
        offset: (rows, columns) in pixels, the greatest distance between the centres of paths that join
            on the way to this layer; (0, 0) in a network whose paths are all in line.
    """

    rows: Axis
    columns: Axis
    offset: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))

    @property
    def size(self) -> Pair:
        """(rows, columns) of pixels that one unit sees."""
        return self.rows.size, self.columns.size

    @property
    def jump(self) -> Pair:
        """(rows, columns) of pixels between neighbouring units; 0 where a unit has no neighbour."""
        return self.rows.jump, self.columns.jump

    @property
    def start(self) -> tuple[Fraction, Fraction]:
        """(row, column), in pixels, of the centre of what unit (0, 0) sees."""
        return self.rows.centre, self.columns.centre

    @property
    def aligned(self) -> bool:
        """Whether all paths to this layer have one centre; if not, a sum mixes different places."""
        return not any(self.offset)

    def box(self, unit: Pair = (0, 0)) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) in pixels of what the unit (row, column) sees, x2 and y2 exclusive.

        It leaves the image where the unit sees padding.
        """
        (y1, y2), (x1, x2) = self.rows.span(unit[0]), self.columns.span(unit[1])
        return x1, y1, x2, y2


@dataclass(frozen=True)
class Misalignment:
    """A join of paths that do not look at one place.

    Attributes:
        node: the name of the node that joins them.
        fields: {input of the node: its receptive field}.
    """

    node: str
    fields: dict[str, ReceptiveField]

    def __str__(self) -> str:
        seen = ", ".join(
            f"{name} (jump {f.jump[0]}×{f.jump[1]}, unit (0, 0) centred at {f.start[0]}, {f.start[1]})"
            for name, f in self.fields.items()
        )
        return f"{self.node} joins {seen}"


def misalignments(graph: Graph, input_shape: Shape | None = None) -> tuple[Misalignment, ...]:
    """The joins of `graph` whose paths differ in jump or centre, in execution order.

    Lists of cells, which keep their places apart, and vectors, which have none, are never out of line.

    Args:
        input_shape: (C, H, W); matters to vectors only. The graph's own by default.
    """
    fields = receptive_field(graph, input_shape)
    shapes = graph.shapes(input_shape)
    found = []
    for node in graph.nodes:
        known = {name: field for name in node.inputs if (field := fields[name]) is not None}
        places = {(f.jump, f.start) for f in known.values()}
        if len(places) > 1 and len(shapes[node.name]) == 3:
            found.append(Misalignment(node.name, known))
    return tuple(found)


def receptive_field(
    graph: Graph, input_shape: Shape | None = None
) -> dict[str, ReceptiveField | None]:
    """{tensor name: receptive field} of the input and every node.

    A vector behind `flatten` sees all that its map sees; its jump is 0. None stands where no single
    field exists: where paths of different jumps join, as in a list of cells from several maps.

    Args:
        input_shape: (C, H, W); matters to vectors only. The graph's own by default.
    """
    shapes = graph.shapes(input_shape)
    fields: dict[str, ReceptiveField | None] = {
        graph.input: ReceptiveField(Axis(0, 0, 1), Axis(0, 0, 1))
    }
    for node in graph.nodes:
        inputs = [fields[name] for name in node.inputs]
        known = [field for field in inputs if field is not None]
        fields[node.name] = (
            _behind(node, known, shapes[node.inputs[0]]) if len(known) == len(inputs) else None
        )
    return fields


def _behind(node: Node, inputs: Sequence[ReceptiveField], shape: Shape) -> ReceptiveField | None:
    """The field behind `node`, whose first input has `shape`."""
    field = inputs[0]
    if "kernel" in node.attributes:
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        padding, dilation = node.attributes["padding"], node.attributes.get("dilation", (1, 1))
        windows = zip(kernel, stride, padding, dilation, strict=True)
        rows, columns = (
            axis.window(*window)
            for axis, window in zip((field.rows, field.columns), windows, strict=True)
        )
        return replace(field, rows=rows, columns=columns)
    if node.op == "flatten":
        rows, columns = field.rows.whole(shape[1]), field.columns.whole(shape[2])
        return replace(field, rows=rows, columns=columns)
    return _union(inputs)


def _union(inputs: Sequence[ReceptiveField]) -> ReceptiveField | None:
    """What joined paths see together; None where their jumps differ."""
    if len({field.jump for field in inputs}) > 1:
        return None
    rows, columns = [f.rows for f in inputs], [f.columns for f in inputs]
    return ReceptiveField(
        Axis(min(a.first for a in rows), max(a.last for a in rows), rows[0].jump),
        Axis(min(a.first for a in columns), max(a.last for a in columns), columns[0].jump),
        (
            max(_spread(rows), *(f.offset[0] for f in inputs)),
            max(_spread(columns), *(f.offset[1] for f in inputs)),
        ),
    )


def _spread(axes: Sequence[Axis]) -> Fraction:
    """How far the centres lie apart; vectors have no place, so nothing about them can be out of line."""
    centres = [axis.centre for axis in axes if axis.jump]
    return max(centres) - min(centres) if centres else Fraction(0)
