"""Receptive fields in closed form, in exact integers, and the regions that layers read.

Along each axis, unit u of a layer sees the input pixels first + u·jump ... last + u·jump. The input
itself is (0, 0, 1). A window of k taps, stride s, padding p and dilation d takes (first, last, jump)
to

    (first - p·jump,  last + (d (k - 1) - p)·jump,  s·jump)

which is the recurrence of Araujo et al. 2019 (doi:10.23915/distill.00021) written for edges instead
of size and centre. Pixels before 0 or after the last one are padding. Paths that join see the union.
The size is an extent: windows whose stride or dilation outgrows the kernel before them leave pixels in
it unseen.

An operation of `refnet.ops` has three rules made of this, each a function of the node's attributes:

    field(inputs, shapes, **attributes)  -> field of the output, from the fields and shapes of the inputs
    reads(region, shape, **attributes)   -> region of an input that a region of the output depends on
    makes(region, shape, inputs, parameters, **attributes)
                                         -> region of the output that is made where `region` is asked for

`layer_field`, `layer_reads` and `same_makes` are the rules of all operations that either slide a window or
keep every unit in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple

from refnet.arrays import Pair, Shape

if TYPE_CHECKING:
    # Imported where it is needed: it takes 2.5 ms, and a model that only runs needs no fractions.
    from fractions import Fraction


def _no_offset() -> tuple[Fraction, Fraction]:
    from fractions import Fraction

    return Fraction(0), Fraction(0)


class Axis(NamedTuple):
    """Along one axis, unit u sees the input pixels first + u·jump ... last + u·jump, less its trim.

    Attributes:
        trims: after upsampling, neighbouring units see the same pixels and not one `jump` further: unit u sees
            less than that by the pixels trims[u mod p] = (at the front, at the end), p their number.
    """

    first: int
    last: int
    jump: int
    trims: tuple[Pair, ...] = ((0, 0),)

    @property
    def size(self) -> int:
        """Number of pixels that one unit sees; the most, where units differ."""
        return self.last - self.first + 1 - min(front + end for front, end in self.trims)

    @property
    def centre(self) -> Fraction:
        """Pixel coordinate of the middle of what unit 0 sees; the mean, where units differ."""
        from fractions import Fraction

        shifts = sum(front - end for front, end in self.trims)
        return Fraction(self.first + self.last, 2) + Fraction(shifts, 2 * len(self.trims))

    def span(self, unit: int) -> Pair:
        """(first, end) of the pixels that `unit` sees; `end` is the first pixel after them."""
        front, end = self.trims[unit % len(self.trims)]
        return self.first + unit * self.jump + front, self.last + unit * self.jump - end + 1

    def nearest(self, pixel: float, units: int) -> int:
        """Which of `units` units has its centre nearest to `pixel`; the lower one of two as near."""
        from fractions import Fraction

        if self.jump == 0:
            return 0
        exact = (Fraction(pixel) - self.centre) / self.jump
        return min(max(math.ceil(exact - Fraction(1, 2)), 0), units - 1)

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
        """The axis after a sliding window; a negative padding leaves out the first units."""
        period = len(self.trims) // math.gcd(len(self.trims), stride)
        reads = (
            range(
                u * stride - padding, u * stride - padding + dilation * (kernel - 1) + 1, dilation
            )
            for u in range(period)
        )
        return self._after(
            self.first - padding * self.jump,
            self.last + (dilation * (kernel - 1) - padding) * self.jump,
            stride * self.jump,
            reads,
        )

    def scaled(self, factor: int, least: int, most: int) -> Axis:
        """The axis of a map with `factor` times the units, of which unit u reads this one's units from
        (u + least) / factor to (u + most) / factor. The jump is a multiple of the factor."""
        jump = self.jump // factor
        reads = (
            range(
                -(-(u + least) // factor), max((u + most) // factor, -(-(u + least) // factor)) + 1
            )
            for u in range(factor * len(self.trims))
        )
        return self._after(self.first + jump * least, self.last + jump * most, jump, reads)

    def _after(self, first: int, last: int, jump: int, reads: Iterable[range]) -> Axis:
        """The axis of units that read `reads` units of this one, and then the same `jump` further."""
        trims = []
        for unit, read in enumerate(reads):
            spans = [self.span(i) for i in read]
            front = min(a for a, _ in spans) - (first + unit * jump)
            trims.append((front, last + unit * jump + 1 - max(b for _, b in spans)))
        return Axis(first, last, jump, _shortest(trims))

    def whole(self, units: int) -> Axis:
        """The union of all `units` units, as one unit without a neighbour."""
        some = min(len(self.trims), units)
        spans = [self.span(u) for u in (*range(some), *range(units - some, units))]
        return Axis(min(a for a, _ in spans), max(b for _, b in spans) - 1, 0)


def _shortest(trims: Sequence[Pair]) -> tuple[Pair, ...]:
    """`trims` over their shortest period."""
    for period in range(1, len(trims)):
        if len(trims) % period == 0 and all(
            trim == trims[i % period] for i, trim in enumerate(trims)
        ):
            return tuple(trims[:period])
    return tuple(trims)


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
    offset: tuple[Fraction, Fraction] = field(default_factory=_no_offset)

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


def of_pixels() -> ReceptiveField:
    """The field of the input itself: every pixel sees itself."""
    return ReceptiveField(Axis(0, 0, 1), Axis(0, 0, 1))


class Region(NamedTuple):
    """Rows top ... bottom - 1 and columns left ... right - 1 of a map; it may leave the map."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> Pair:
        """(rows, columns)."""
        return self.bottom - self.top, self.right - self.left

    def union(self, other: Region) -> Region:
        """The smallest region that holds both."""
        return Region(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def within(self, outer: Region) -> Region:
        """The part inside `outer`; empty where there is none."""
        return Region(
            min(max(self.top, outer.top), outer.bottom),
            max(min(self.bottom, outer.bottom), outer.top),
            min(max(self.left, outer.left), outer.right),
            max(min(self.right, outer.right), outer.left),
        )

    def of(self, outer: Region) -> tuple[EllipsisType, slice, slice]:
        """The slices of an array (..., rows, columns) of `outer` that hold this region."""
        top, left = self.top - outer.top, self.left - outer.left
        rows, columns = self.size
        return ..., slice(top, top + rows), slice(left, left + columns)


def whole(shape: Shape) -> Region:
    """All of a map of `shape` (C, H, W)."""
    return Region(0, shape[1], 0, shape[2])


# ------------------------------------------------------------------------------------- the rules


def layer_field(
    inputs: Sequence[ReceptiveField],
    shapes: Sequence[Shape],
    *,
    kernel: Pair | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    **attributes: Any,
) -> ReceptiveField | None:
    """The field after a window, where there is a `kernel`; else the union of the inputs' fields.

    None where paths of different jumps join.
    """
    if kernel is None:
        return _union(inputs)
    (seen,) = inputs
    rows = seen.rows.window(kernel[0], stride[0], padding[0], dilation[0])
    columns = seen.columns.window(kernel[1], stride[1], padding[1], dilation[1])
    return replace(seen, rows=rows, columns=columns)


def flattened_field(inputs: Sequence[ReceptiveField], shapes: Sequence[Shape]) -> ReceptiveField:
    """The field of a vector made of a map (C, H, W): all that its units see, without neighbours."""
    (seen,), (shape,) = inputs, shapes
    if len(shape) != 3:  # a vector already
        return seen
    return replace(seen, rows=seen.rows.whole(shape[1]), columns=seen.columns.whole(shape[2]))


def layer_reads(
    region: Region | None,
    shape: Shape,
    *,
    kernel: Pair | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    **attributes: Any,
) -> Region | None:
    """What a layer reads of an input of `shape` to make `region` of its output, padding included.

    None stands for all of a tensor that is no map, on either side.
    """
    if len(shape) != 3:
        return None
    if region is None:
        return whole(shape)
    if kernel is None:
        return region
    return Region(
        region.top * stride[0] - padding[0],
        (region.bottom - 1) * stride[0] - padding[0] + dilation[0] * (kernel[0] - 1) + 1,
        region.left * stride[1] - padding[1],
        (region.right - 1) * stride[1] - padding[1] + dilation[1] * (kernel[1] - 1) + 1,
    )


def all_reads(region: Region | None, shape: Shape, /, **attributes: Any) -> Region | None:
    """All of the input, whatever part of the output is asked for."""
    return whole(shape) if len(shape) == 3 else None


def same_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    /,
    **attributes: Any,
) -> Region:
    """Any region of the output can be made alone."""
    return region


def all_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    /,
    **attributes: Any,
) -> Region:
    """All of an output of `shape` is made at once."""
    return whole(shape)


def scaled_field(
    seen: ReceptiveField, factor: Pair, reach: tuple[Pair, Pair]
) -> ReceptiveField | None:
    """The field of a map with `factor` times the units of the one that `seen` belongs to.

    Args:
        reach: for rows and columns (least, most): unit u depends on the input's units from
            (u + least) / factor to (u + most) / factor.

    Returns:
        None where the distance of units is no whole number of pixels.
    """
    if any(jump % f for jump, f in zip(seen.jump, factor, strict=True)):
        return None
    rows, columns = (
        axis.scaled(f, least, most)
        for axis, f, (least, most) in zip((seen.rows, seen.columns), factor, reach, strict=True)
    )
    return replace(seen, rows=rows, columns=columns)


def moved_field(seen: ReceptiveField, start: Pair, step: Pair) -> ReceptiveField:
    """The field of the units start, start + step, ... of a map; a negative start is a border."""
    rows = seen.rows.window(1, step[0], -start[0], 1)
    columns = seen.columns.window(1, step[1], -start[1], 1)
    return replace(seen, rows=rows, columns=columns)


def broadcast_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], **attributes: Any
) -> ReceptiveField | None:
    """The union; all of the image, where one value for a whole map enters every unit."""
    if all(len(shape) == 3 for shape in shapes) and not all(all(seen.jump) for seen in inputs):
        inputs = [
            replace(seen, rows=seen.rows.whole(shape[1]), columns=seen.columns.whole(shape[2]))
            for seen, shape in zip(inputs, shapes, strict=True)
        ]
    return _union(inputs)


def broadcast_reads(region: Region | None, shape: Shape, **attributes: Any) -> Region | None:
    """The same region, and all of a side of 1, which is repeated."""
    if len(shape) != 3:
        return None
    if region is None:
        return whole(shape)
    top, bottom = (0, 1) if shape[1] == 1 else (region.top, region.bottom)
    left, right = (0, 1) if shape[2] == 1 else (region.left, region.right)
    return Region(top, bottom, left, right)


def _union(inputs: Sequence[ReceptiveField]) -> ReceptiveField | None:
    """What joined paths see together; None where their jumps differ."""
    if len({seen.jump for seen in inputs}) > 1:
        return None
    rows, columns = [seen.rows for seen in inputs], [seen.columns for seen in inputs]
    return ReceptiveField(
        _joined(rows),
        _joined(columns),
        (
            max(_spread(rows), *(seen.offset[0] for seen in inputs)),
            max(_spread(columns), *(seen.offset[1] for seen in inputs)),
        ),
    )


def _joined(axes: Sequence[Axis]) -> Axis:
    """What units of one jump see together."""
    first, last = min(axis.first for axis in axes), max(axis.last for axis in axes)
    jump = axes[0].jump
    trims = []
    for unit in range(math.lcm(*(len(axis.trims) for axis in axes))):
        spans = [axis.span(unit) for axis in axes]
        front = min(a for a, _ in spans) - (first + unit * jump)
        trims.append((front, last + unit * jump + 1 - max(b for _, b in spans)))
    return Axis(first, last, jump, _shortest(trims))


def _spread(axes: Sequence[Axis]) -> Fraction:
    """How far the centres lie apart; vectors have no place, so nothing about them can be out of line."""
    from fractions import Fraction

    centres = [axis.centre for axis in axes if axis.jump]
    return max(centres) - min(centres) if centres else Fraction(0)
