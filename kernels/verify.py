"""The proof that a plan may run: every range that a row reads or writes lies inside its buffer, and nothing is read
that was not written before.

The ranges are computed from the integers of the row alone, as the kernels do, not from what the planner meant. Reads
are checked against the value that is meant to live there: memory that was given to another value meanwhile counts as
never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import executor as ops
from .dense import (
    BAND,
    COLUMNS,
    COPY,
    INPUTS,
    LEFT,
    NORMALIZATION,
    OUT_COLUMNS,
    PHASE,
    PLANES,
    ROWS,
    SCRATCH,
    STRIDE,
    TAP_ROWS,
    TOP,
)
from .executor import ROW
from .pointwise import RESIDUAL_FIRST, RESIDUAL_SECOND, STORE_FIRST, STORE_SECOND
from .simd import LANES
from .winograd import BIAS, GROUP, PRODUCT, SIDE, product_row

if TYPE_CHECKING:
    from .plan import Plan
    from .steps import Step

Row: TypeAlias = NDArray[np.int64]
Range: TypeAlias = tuple[int, int]


class PlanError(AssertionError):
    """A plan would leave its buffers or read what nothing wrote: a defect of the planner, not of its input."""


class Access:
    """What one row touches: ranges [start, stop) in floats, by buffer."""

    def __init__(self) -> None:
        self.reads: list[Range] = []
        self.writes: list[Range] = []
        self.scratch: list[Range] = []
        self.weights: list[Range] = []
        self.image: list[Range] = []
        self.output: list[Range] = []


def accessed(row: Row, program: Row) -> Access:
    """What a row touches, from its integers and the lists that they point to.

    Raises:
        PlanError: the integers contradict each other.
    """
    access = Access()
    _ACCESS[int(row[0])](row, program, access)
    return access


def verify(plan: Plan) -> None:
    """Prove a plan.

    Raises:
        PlanError: with the row and the range that break the rule.
    """
    owner = np.full(plan.arena // LANES + 1, -1, np.int64)
    image = int(np.prod(plan.input_shape))
    for number, step in enumerate(plan.steps):
        access = accessed(plan.program[number * ROW : (number + 1) * ROW], plan.program)
        limits = (
            (access.reads, plan.arena),
            (access.writes, plan.arena),
            (access.scratch, plan.arena),
            (access.weights, len(plan.weights)),
            (access.image, image),
            (access.output, plan.output_size),
        )
        for ranges, size in limits:
            for start, stop in ranges:
                if not 0 <= start <= stop <= size:
                    raise PlanError(
                        f"row {number} ({step.name}) touches {start}:{stop} of {size} floats"
                    )
        for start, stop in access.reads:
            seen = owner[start // LANES : -(-stop // LANES)]
            if not any(
                v.offset <= start and stop <= v.offset + v.floats and (seen == id(v)).all()
                for v in (*step.reads, *step.writes)
            ):
                raise PlanError(
                    f"row {number} ({step.name}) reads {start}:{stop}, which nothing wrote"
                )
        _separate(step, access)
        for ranges, mine in ((access.scratch, step.scratch), (access.writes, step.writes)):
            for start, stop in ranges:
                value = next(
                    (v for v in mine if v.offset <= start and stop <= v.offset + v.floats), None
                )
                if value is None:
                    raise PlanError(
                        f"row {number} ({step.name}) writes {start}:{stop}, not its own"
                    )
                owner[start // LANES : -(-stop // LANES)] = id(value)


def _separate(step: Step, access: Access) -> None:
    """A row writes nowhere where it reads; only its residual may lie under the result, plane upon plane, and then
    nothing else of the row reads it."""
    read, written, scratch = (
        np.array(ranges, np.int64).reshape(-1, 2)
        for ranges in (access.reads, access.writes, access.scratch)
    )
    overlaps = _overlaps(read, written)
    same = (read[:, None] == written[None]).all(axis=2)
    wrong = (overlaps & ~same).any() or overlaps.sum() > (len(written) if step.in_place else 0)
    if wrong or _overlaps(np.concatenate([read, written]), scratch).any():
        raise PlanError(f"{step.name} writes where it reads, or into its own scratch")


def _overlaps(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ranges of the one list overlap which of the other."""
    overlaps: NDArray[np.bool_] = (a[:, None, 0] < b[None, :, 1]) & (b[None, :, 0] < a[:, None, 1])
    return overlaps


def _results(row: Row, access: Access, first: int, last: int) -> None:
    """Outputs and residual of a row with a tile's epilogue, pixels first to last of every plane."""
    flags = int(row[8])
    for block in range(int(row[3])):
        start, stop = (int(row[1]) + block * int(row[2]) + p * LANES for p in (first, last))
        if flags & STORE_FIRST:
            access.writes.append((start, stop))
        if flags & STORE_SECOND:
            access.writes.append((start + int(row[9]), stop + int(row[9])))
        if flags & (RESIDUAL_FIRST | RESIDUAL_SECOND):
            access.reads.append((start + int(row[10]), stop + int(row[10])))


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise PlanError(otherwise)


def _extent(first: int, last: int, most: int) -> None:
    _require(0 <= first <= last <= most, f"a row goes from {first} to {last} of {most}")


def _list(program: Row, start: int, size: int) -> Row:
    """The integers of a list that a row points to."""
    inside = 0 <= start <= start + size <= len(program)
    _require(inside, f"a list at {start} of {size} integers leaves the table")
    return program[start : start + size]


def _steps(row: Row, program: Row) -> NDArray[np.int64]:
    steps = _list(program, int(row[5]), 2 * int(row[6])).reshape(-1, 2)
    least, most = (1, 1) if row[0] == ops.PLANAR else (0, LANES)
    fits = ((least <= steps[:, 1]) & (steps[:, 1] <= most)).all()
    _require(fits, f"a step reads {steps[:, 1]} lanes, not {least} to {most}")
    return steps


def _packed(row: Row, steps: NDArray[np.int64]) -> Range:
    depth = int(steps[:, 1].sum())
    _require(depth == row[7], f"a row counts {row[7]} input channels and its steps {depth}")
    return int(row[4]), int(row[4]) + (depth + 1) * int(row[3]) * LANES


def _pointwise(row: Row, program: Row, access: Access) -> None:
    steps = _steps(row, program)
    first, last = int(row[12]), int(row[13])
    _extent(first, last, last)
    _require(row[14] >= 1, "a group has no pixels")
    _require(row[11] == 0 or last - first <= 1, "a layer of a single pixel has several")
    for offset, _ in steps:
        # A pixel's last lanes are not read; whole vectors are counted all the same.
        access.reads.append((int(offset) + first * LANES, int(offset) + last * LANES))
    access.weights.append(_packed(row, steps))
    _results(row, access, first, last)


def _taps(
    row: Row, steps: NDArray[np.int64], pitch: int, base: int, width: int, rows: Range
) -> list[Range]:
    """What the steps of a window read for output rows of a band: `width` floats a pixel."""
    columns = int(row[OUT_COLUMNS])
    first, last = rows
    return [
        (
            base + int(o) + first * pitch,
            base + int(o) + last * pitch + (columns - 1) * width + int(n),
        )
        for o, n in steps
    ]


def _window(row: Row, program: Row, access: Access, width: int) -> None:
    """DENSE and PLANAR: the band that is copied, and the taps that read it."""
    steps = _steps(row, program)
    band, stride = int(row[BAND]), int(row[STRIDE])
    _require(min(stride, *row[TAP_ROWS : OUT_COLUMNS + 1]) >= 1, "a window has no size")
    rows = (band - 1) * stride + int(row[TAP_ROWS])
    pitch = stride * int(row[PHASE]) * width
    size = int(row[PLANES]) * rows * pitch
    base = int(row[SCRATCH])
    access.scratch.append((base, base + size))
    for start, stop in _taps(row, steps, pitch * stride, base, width, (0, band - 1)):
        inside = base <= start <= stop <= base + size
        _require(inside, f"a tap reads {start}:{stop} of a band at {base}:{base + size}")
    reach = stride * int(row[PHASE]) - int(row[LEFT])
    _require(min(*row[TOP : LEFT + 1], reach) >= 0, "a window's padding is negative")
    access.weights.append(_packed(row, steps))
    _results(
        row, access, int(row[12]) * int(row[OUT_COLUMNS]), int(row[13]) * int(row[OUT_COLUMNS])
    )


def _bands(row: Row) -> None:
    """DENSE and PLANAR: how the rows are cut."""
    _extent(int(row[12]), int(row[13]), int(row[13]))
    _require(row[BAND] >= 1, "a band has no rows")
    _require(row[11] == 0 or row[OUT_COLUMNS] == 1, "a layer of a single column has several")


def _dense(row: Row, program: Row, access: Access) -> None:
    _bands(row)
    if row[COPY]:
        _window(row, program, access, LANES)
        inputs = _list(program, int(row[INPUTS]), int(row[PLANES]))
        start = max(int(row[12]) * int(row[STRIDE]) - int(row[TOP]), 0)
        stop = (int(row[13]) - 1) * int(row[STRIDE]) - int(row[TOP]) + int(row[TAP_ROWS])
        stop = max(min(stop, int(row[ROWS])), start)
        line = int(row[COLUMNS]) * LANES
        if start < stop:
            access.reads += [(int(x) + start * line, int(x) + stop * line) for x in inputs]
        return
    steps = _steps(row, program)
    rows = (int(row[12]), int(row[13]) - 1)
    for start, stop in _taps(row, steps, int(row[COLUMNS]) * LANES, 0, LANES, rows):
        access.reads.append((start // LANES * LANES, -(-stop // LANES) * LANES))
    access.weights.append(_packed(row, steps))
    _results(
        row, access, int(row[12]) * int(row[OUT_COLUMNS]), int(row[13]) * int(row[OUT_COLUMNS])
    )


def _planar(row: Row, program: Row, access: Access) -> None:
    _bands(row)
    _window(row, program, access, 1)
    access.image.append((0, int(row[PLANES]) * int(row[ROWS]) * int(row[COLUMNS])))
    access.weights.append((int(row[NORMALIZATION]), int(row[NORMALIZATION]) + 2))


def _depthwise(row: Row, program: Row, access: Access) -> None:
    rows, columns, out_rows, out_columns, stride, padding = (int(x) for x in row[5:11])
    _require(stride in (1, 2) and padding in (0, 1), f"stride {stride} and padding {padding}")
    for size, made in ((rows, out_rows), (columns, out_columns)):
        reach = (made - 1) * stride + 3 - padding
        _require(made >= 1 and reach <= size + padding, f"{made} windows leave {size} pixels")
    _extent(int(row[13]), int(row[14]), out_rows)
    for block in range(int(row[3])):
        x = int(row[2]) + block * rows * columns * LANES
        start, stop = (
            int(row[1]) + (block * out_rows + int(r)) * out_columns * LANES for r in row[13:15]
        )
        access.reads.append((x, x + rows * columns * LANES))
        access.writes.append((start, stop))
        if row[11] & RESIDUAL_FIRST:
            access.reads.append((start + int(row[12]), stop + int(row[12])))
    access.weights += [(int(row[4]), int(row[4]) + int(row[3]) * 10 * LANES), (0, columns * LANES)]


def _winograd(row: Row, program: Row, access: Access) -> None:
    steps = _steps(row, program)
    planes, blocks, group = int(row[PLANES]), int(row[3]), int(row[GROUP])
    rows, columns = int(row[ROWS]), int(row[COLUMNS])
    pixels = rows * columns
    _require(min(rows, columns, group) >= 1 and row[11] == 0, "a map or a group is empty")
    side = int(row[SIDE])
    _require(side in (4, 6), f"patches make {side} x {side} outputs")
    patches, points = -(-rows // side) * -(-columns // side), (side + 2) ** 2
    _require(row[12] == 0 and row[13] == patches, f"a row does not make all {patches} patches")
    for x in _list(program, int(row[INPUTS]), planes):
        access.reads.append((int(x), int(x) + pixels * LANES))
    for offset, _ in steps:
        inside = 0 <= offset <= (planes - 1) * group * LANES
        _require(inside, f"a product reads {offset} of its patches")
    product = product_row(group, blocks, int(row[6]), int(row[7]))
    same = _list(program, int(row[PRODUCT]), len(product)).tolist() == product
    _require(same, "the products of a layer are not those of its patches")
    start = int(row[SCRATCH])
    access.scratch.append((start, start + points * ((planes + blocks) * group + 2) * LANES))
    first, stop = _packed(row, steps)
    access.weights.append((first, first + points * (stop - first)))
    access.weights.append((int(row[BIAS]), int(row[BIAS]) + blocks * LANES))
    _results(row, access, 0, pixels)


def _blocks(row: Row, program: Row, access: Access, pixels: int, made: int) -> None:
    """Pooling rows: planes of `pixels` into planes of `made`, one behind the other."""
    for x in _list(program, int(row[5]), int(row[3])):
        access.reads.append((int(x), int(x) + pixels * LANES))
    access.writes.append((int(row[1]), int(row[1]) + int(row[3]) * made * LANES))
    access.weights.append((int(row[4]), int(row[4]) + 1))


def _window_pool(row: Row, program: Row, access: Access) -> None:
    rows, columns, out_rows, out_columns, kh, kw, sh, sw = (int(x) for x in row[6:14])
    _require(min(row[6:14]) >= 1, "a pooling window has no size")
    inside = (out_rows - 1) * sh + kh <= rows and (out_columns - 1) * sw + kw <= columns
    _require(inside, "a pooling window reaches outside of its map")
    _blocks(row, program, access, rows * columns, out_rows * out_columns)


def _vectors(row: Row, program: Row, access: Access) -> None:
    """SIGMOID, COMBINE and AFFINE."""
    size = int(row[3]) * LANES
    access.writes.append((int(row[1]), int(row[1]) + size))
    access.reads.append((int(row[2]), int(row[2]) + size))
    if row[0] == ops.COMBINE and row[4] >= 0:
        access.reads.append((int(row[4]), int(row[4]) + size))
    if row[0] == ops.AFFINE:
        access.weights.append((int(row[4]), int(row[4]) + 2))


def _softmax(row: Row, program: Row, access: Access) -> None:
    pixels, blocks, first, last = (int(row[i]) for i in (2, 3, 6, 7))
    _extent(first, last, pixels)
    for block, x in enumerate(_list(program, int(row[5]), blocks)):
        access.reads.append((int(x) + first * LANES, int(x) + last * LANES))
        y = int(row[1]) + block * pixels * LANES
        access.writes.append((y + first * LANES, y + last * LANES))
    access.weights.append((int(row[4]), int(row[4]) + blocks * LANES))


def _strided(sources: Iterable[int], pixels: int, access: Access) -> None:
    """One lane of every pixel of some planes."""
    for x in sources:
        if x >= 0:
            start = int(x) // LANES * LANES
            access.reads.append((start, start + pixels * LANES))


def _gather(row: Row, program: Row, access: Access) -> None:
    _require(row[3] % LANES == 0, f"{row[3]} lanes are no whole blocks")
    _strided(_list(program, int(row[4]), int(row[3])), int(row[2]), access)
    access.writes.append((int(row[1]), int(row[1]) + int(row[3]) * int(row[2])))


def _block(row: Row, program: Row, access: Access) -> None:
    blocks = -(-int(row[3]) // LANES)
    access.image.append((0, int(row[2]) * int(row[3])))
    access.writes.append((int(row[1]), int(row[1]) + blocks * int(row[2]) * LANES))
    access.weights.append((int(row[4]), int(row[4]) + 2))


def _unblock(row: Row, program: Row, access: Access) -> None:
    sources = _list(program, int(row[4]), int(row[3]))
    _require(min(sources, default=-1) >= 0, "an output has channels of no place")
    _require(min(row[5:7]) >= 1, "an output's pitches are not positive")
    _extent(int(row[7]), int(row[8]), int(row[2]))
    _strided(sources, int(row[2]), access)
    last = (int(row[3]) - 1) * int(row[5]) + (int(row[8]) - 1) * int(row[6])
    access.output.append((int(row[1]), int(row[1]) + last + 1))


_ACCESS: dict[int, Callable[[Row, Row, Access], None]] = {
    ops.POINTWISE: _pointwise,
    ops.DENSE: _dense,
    ops.PLANAR: _planar,
    ops.DEPTHWISE: _depthwise,
    ops.WINOGRAD: _winograd,
    ops.GLOBAL_AVERAGE: lambda row, program, access: _blocks(row, program, access, int(row[2]), 1),
    ops.WINDOW_POOL: _window_pool,
    ops.SIGMOID: _vectors,
    ops.SOFTMAX: _softmax,
    ops.COMBINE: _vectors,
    ops.AFFINE: _vectors,
    ops.GATHER: _gather,
    ops.BLOCK: _block,
    ops.UNBLOCK: _unblock,
}
