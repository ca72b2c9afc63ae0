"""What a network can see: the receptive field of every layer, in closed form, in exact integers.

Along each axis, unit u of a layer sees the input pixels first + u·jump ... last + u·jump. The input
itself is (0, 0, 1). A window of k taps, stride s, padding p and dilation d takes (first, last, jump)
to

    (first - p·jump,  last + (d (k - 1) - p)·jump,  s·jump)

which is the recurrence of Araujo et al. 2019 (doi:10.23915/distill.00021) written for edges instead
of size and centre. Pixels before 0 or behind the image are padding. Paths that join see the union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        aligned: whether all paths to this layer have the same centre; where not, a residual sum adds
            features of different places.
    """

    rows: Axis
    columns: Axis
    aligned: bool = True

    @property
    def size(self) -> Pair:
        """(rows, columns) of pixels that one unit sees."""
        return self.rows.size, self.columns.size

    @property
    def jump(self) -> Pair:
        """(rows, columns) of pixels between neighbouring units; 0 where a unit has no neighbour."""
        return self.rows.jump, self.columns.jump


def receptive_field(
    graph: Graph, input_shape: Shape | None = None
) -> dict[str, ReceptiveField | None]:
    """{tensor name: receptive field} of the input and every node.

    A vector behind `flatten` sees all that its map sees; its jump is 0. None stands where no single
    field exists: a list of cells from maps of different jumps.

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
        return ReceptiveField(rows, columns, field.aligned)
    if node.op == "flatten":
        return ReceptiveField(
            field.rows.whole(shape[1]), field.columns.whole(shape[2]), field.aligned
        )
    return _union(inputs)


def _union(inputs: Sequence[ReceptiveField]) -> ReceptiveField | None:
    """What joined paths see together; None where their jumps differ."""
    if len({field.jump for field in inputs}) > 1:
        return None
    rows, columns = [f.rows for f in inputs], [f.columns for f in inputs]
    # Vectors have no place, so nothing about them can be out of line.
    centres = {(f.rows.centre, f.columns.centre) for f in inputs if f.jump != (0, 0)}
    return ReceptiveField(
        Axis(min(a.first for a in rows), max(a.last for a in rows), rows[0].jump),
        Axis(min(a.first for a in columns), max(a.last for a in columns), columns[0].jump),
        len(centres) <= 1 and all(field.aligned for field in inputs),
    )
