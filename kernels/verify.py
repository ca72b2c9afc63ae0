"""The proof that a plan may run: every range that an instruction reads or writes lies inside its buffer, and nothing is
read that was not written before.

The ranges are computed from the integers of the program alone, as the kernels do, never from the operands that the
lowering named. Reads are checked against the buffer that is meant to live there: memory that was given to another
buffer meanwhile counts as never written.

`verify` proves a plan, `verify_partition` the programs of its threads.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .assembler import Instruction
from .depthwise import TILE
from .epilogue import (
    LEAKY,
    RESIDUAL_FIRST,
    RESIDUAL_SECOND,
    STORE_FIRST,
    STORE_SECOND,
    slope_rows,
)
from .instructions import (
    ADD,
    AFFINE,
    BIAS,
    BLOCK_PITCH,
    BLOCKS,
    CHANNEL_PITCH,
    COLUMNS,
    CONSTANTS,
    COPY,
    DENSE,
    DEPTH,
    DEPTH_TO_SPACE,
    DEPTHWISE,
    DEPTHWISE_WINDOW,
    DILATION,
    DILATION_COLUMNS,
    FIELDS,
    FIRST,
    FLAGS,
    GATHER,
    GLOBAL_AVERAGE,
    GROUP,
    INPUT_BLOCKS,
    INPUT_PITCH,
    INPUTS,
    KERNEL_COLUMNS,
    KERNEL_ROWS,
    LAST,
    LEFT,
    LOAD_IMAGE,
    MULTIPLY,
    NAMES,
    NOTHING,
    OPCODE,
    OPCODES,
    OTHER,
    OUT_COLUMNS,
    PHASE,
    PIXEL_PITCH,
    PIXELS,
    PLACES,
    PLANAR,
    POINTWISE,
    PRODUCT,
    REPEAT_COLUMNS,
    REPEAT_ROWS,
    RESAMPLE,
    RESIDUAL,
    ROWS,
    SCRATCH,
    SECOND,
    SEGMENT_COUNT,
    SEGMENTS,
    SIDE,
    SIGMOID,
    SINGLE,
    SOFTMAX,
    SPREAD,
    STEP,
    STORE_OUTPUT,
    STRIDE,
    STRIDE_COLUMNS,
    TOP,
    UPSAMPLE,
    WEIGHTS,
    WIDTH,
    WINDOW_POOL,
    WINOGRAD,
    ZEROS,
    X,
    Y,
)
from .layout import Buffer
from .plan import Plan
from .simd import LANES
from .winograd import product

#: The integers of one instruction.
Fields: TypeAlias = Sequence[int]
#: [start, stop) in floats.
Range: TypeAlias = tuple[int, int]


class PlanError(AssertionError):
    """A plan would leave its buffers or read what nothing wrote: a defect of the planner, not of its input."""


def _require(holds: bool, message: str, *values: object) -> None:
    """Raise PlanError with the values put into the message, unless the condition holds. The message is formatted only
    then: a plan has thousands of conditions, and all of them hold."""
    if not holds:
        raise PlanError(message % values)


class Access:
    """What one instruction touches, by memory."""

    __slots__ = ("image", "output", "reads", "scratch", "weights", "writes")

    def __init__(self) -> None:
        # Each memory has offsets and a size of its own. Scratch lies in the arena, and is dead after the instruction.
        self.reads: list[Range] = []
        self.writes: list[Range] = []
        self.scratch: list[Range] = []
        self.weights: list[Range] = []
        self.image: list[Range] = []
        self.output: list[Range] = []


class Segments:
    """The segments of a product, and what the verifier needs of them.

    Attributes:
        offsets, counts: of each segment.
        depth: lanes of all of them.
    """

    def __init__(self, integers: Sequence[int], fewest: int, lanes: int) -> None:
        # Pairs follow each other in the list: (offset, lanes), (offset, lanes), ... A block of padding has 0 lanes.
        self.offsets, self.counts = integers[::2], integers[1::2]
        self.depth = sum(self.counts)
        fits = (
            fewest <= min(self.counts, default=fewest) <= max(self.counts, default=lanes) <= lanes
        )
        _require(fits, "a segment has not %d to %d lanes", fewest, lanes)

    @cached_property
    def least(self) -> int:
        """The smallest offset."""
        return min(self.offsets, default=0)

    @cached_property
    def most(self) -> int:
        """The largest offset."""
        return max(self.offsets, default=0)

    @cached_property
    def end(self) -> int:
        """The largest offset plus lanes."""
        return max(map(int.__add__, self.offsets, self.counts), default=0)


class Program:
    """The integers of a program as Python's, which are quicker one by one, and its lists, each looked at once."""

    def __init__(self, program: NDArray[np.int64], count: int) -> None:
        self.count = count
        self._integers: list[int] = program.tolist()
        self._segments: dict[tuple[int, int, bool], Segments] = {}
        heads = program[: count * WIDTH]
        _require(len(heads) == count * WIDTH, "a program has fewer than %d instructions", count)
        self._check(heads.reshape(count, WIDTH))

    def _check(self, heads: NDArray[np.int64]) -> None:
        """Check that opcodes are known, and that fields which an opcode does not use are zero."""
        opcodes = heads[:, OPCODE]
        # Both ends: a negative opcode would index _UNUSED from its end.
        known = not len(opcodes) or (opcodes.min() >= NOTHING and opcodes.max() < len(_UNUSED))
        _require(bool(known), "a program has an unknown opcode")
        # A field that its kernel never reads would hide a mistake of the lowering.
        spoilt = np.argwhere((heads != 0) & _UNUSED[opcodes])
        if len(spoilt):
            number, column = (int(x) for x in spoilt[0])
            name = NAMES.get(column, column)
            _require(False, "instruction %d has no use for its field %s", number, name)

    def __getitem__(self, number: int) -> list[int]:
        return self._integers[number * WIDTH : (number + 1) * WIDTH]

    def list(self, start: int, size: int) -> list[int]:
        """The integers of a list that an instruction points to."""
        # Lists lie after all instructions: one that began among them would be read as something else.
        inside = self.count * WIDTH <= start <= start + size <= len(self._integers)
        _require(inside, "a list at %d of %d integers leaves the program", start, size)
        return self._integers[start : start + size]

    def segments(self, i: Fields, count: int) -> Segments:
        """The segments of a product, whose lanes are as many as it counts."""
        # Bands of a stream share their lists, which are looked at once.
        planar = i[OPCODE] == PLANAR
        key = (i[SEGMENTS], count, planar)
        segments = self._segments.get(key)
        if segments is None:
            integers = self.list(i[SEGMENTS], 2 * count)
            segments = self._segments[key] = Segments(integers, *((1, 1) if planar else (0, LANES)))
        _require(
            segments.depth == i[DEPTH],
            *("%d input channels are counted, and the segments have %d", i[DEPTH], segments.depth),
        )
        return segments


def accessed(program: Program, number: int) -> Access:
    """What an instruction touches, from its integers and the lists that they point to.

    Raises:
        PlanError: the integers contradict each other.
    """
    return _accessed(program[number], program)


def _accessed(i: Fields, program: Program) -> Access:
    access = Access()
    _ACCESS[i[OPCODE]](i, program, access)
    return access


# ------------------------------------------------------------------------------------- the proofs


def verify(plan: Plan) -> None:
    """Prove a plan.

    Raises:
        PlanError: with the instruction and the range that break the rule.
    """
    program = Program(plan.program, len(plan.instructions))
    arena, weights, image = plan.arena, len(plan.weights), math.prod(plan.input_shape)
    # In program order: what an instruction may read is what those before it wrote.
    owners = _Owners()
    for number, instruction in enumerate(plan.instructions):
        fields = program[number]
        if fields[OPCODE] != instruction.opcode:
            _fail(number, instruction, "is not a %s", OPCODES[instruction.opcode])
        access = _accessed(fields, program)
        reads, writes, scratch = map(_merged, (access.reads, access.writes, access.scratch))
        # Memory as a whole first. That also bounds FIRST, LAST and counts, whose products these ranges are.
        for ranges, size in (
            (reads, arena),
            (writes, arena),
            (scratch, arena),
            (access.weights, weights),
            (access.image, image),
            (access.output, plan.output_size),
        ):
            for start, stop in ranges:
                if not 0 <= start <= stop <= size:
                    _fail(number, instruction, "touches %d:%d of %d floats", start, stop, size)
        # The buffers that the planner meant. That others' floats lie at the same place is no excuse.
        known = (*instruction.reads, *instruction.writes)
        # Scratch is not looked up: an instruction fills it itself. `tests/test_verify.py` watches kernels do so.
        # A merged range that crosses from one buffer into a neighbour may consist of two that are right.
        missing = owners.missing(reads, known) and owners.missing(access.reads, known)
        if missing:
            _fail(number, instruction, "reads %d:%d, which nothing wrote", *missing)
        # Only now are the writes noted: no instruction may read what only it is going to write.
        _separate(number, instruction, access, reads, writes, scratch)
        for raw, merged, own in (
            (access.scratch, scratch, instruction.scratch),
            (access.writes, writes, instruction.writes),
        ):
            # Blocks of one buffer are neighbours: merged, they are one range to look up.
            if not merged:
                continue
            placed = [_buffer_around(start, stop, own) for start, stop in merged]
            ranges = merged
            if None in placed:
                ranges, placed = raw, [_buffer_around(start, stop, own) for start, stop in raw]
            for (start, stop), buffer in zip(ranges, placed, strict=True):
                if buffer is None:
                    _fail(number, instruction, "writes %d:%d, not its own", start, stop)
                else:
                    owners.write(start, stop, buffer)


def verify_partition(
    plan: Plan,
    programs: Sequence[NDArray[np.int64]],
    phases: Iterable[tuple[int, int, bool]],
) -> None:
    """Prove the programs of several threads, given that of `plan`: each instruction touches nothing that the plan's own
    does not, all together write what that writes, and between two waits no thread touches what another one writes.

    Args:
        plan: a plan that `verify` has proved.
        programs: one for each thread; thread t has its own buffers `t * plan.per_thread` floats further.
        phases: (first, last instruction, whether all threads run it); the threads wait for each other in between.

    Raises:
        PlanError: with the instruction and the rule that it breaks.
    """
    count = len(plan.instructions)
    # Nothing is taken from the shares that were meant: each program is read as any other.
    whole, parts = Program(plan.program, count), [Program(p, count) for p in programs]
    for first, last, together in phases:
        reads: list[list[Range]] = [[] for _ in parts]
        writes: list[list[Range]] = [[] for _ in parts]
        output: list[list[Range]] = [[] for _ in parts]
        for number in range(first, last):
            # Once for all threads; each share is held against it.
            proved, written, returned = accessed(whole, number), list[Range](), list[Range]()
            for thread, part in enumerate(parts if together else parts[:1]):
                opcode = part[number][OPCODE]
                if opcode == NOTHING:
                    continue
                same = opcode == whole[number][OPCODE]
                _require(same, "instruction %d of thread %d is another one", number, thread)
                access = _moved_back(accessed(part, number), plan, thread)
                contained(access, proved, number)
                written += access.writes
                returned += access.output
                reads[thread] += access.reads
                writes[thread] += access.writes
                output[thread] += access.output
            # A thread that writes too little would leave floats of an earlier run.
            complete = _merged(written) == _merged(proved.writes)
            complete &= _merged(returned) == _merged(proved.output)
            _require(complete, "the threads leave gaps in instruction %d", number)
        # Memory that the threads have in common comes before their own.
        shared = plan.arena - plan.per_thread
        for thread in range(len(parts)):
            mine = [r for r in writes[thread] if r[0] < shared]
            others = [t for t in range(len(parts)) if t != thread]
            # Within a phase threads run at any speed: what one writes, no other one may even read.
            theirs = [r for t in others for r in reads[t] + writes[t] if r[0] < shared]
            apart = not _overlap(_merged(mine), _merged(theirs))
            results = [r for t in others for r in output[t]]
            apart &= not _overlap(_merged(output[thread]), _merged(results))
            _require(apart, "thread %d writes what another one touches", thread)


def contained(part: Access, whole: Access, number: int = 0) -> None:
    """Check that all ranges of `part` lie in those of `whole`.

    Raises:
        PlanError: one does not.
    """
    for name in Access.__slots__:
        # Neighbouring ranges are joined first: a share may cross the border between two blocks that were proved.
        around = _merged(getattr(whole, name))
        starts = [start for start, _ in around]
        for start, stop in _merged(getattr(part, name)):
            at = bisect_right(starts, start) - 1
            _require(
                at >= 0 and stop <= around[at][1],
                "a thread's share of instruction %d touches %d:%d of the %s, which was not proved",
                *(number, start, stop, name),
            )


def _moved_back(access: Access, plan: Plan, thread: int) -> Access:
    """The access of a thread's instruction with its own buffers where those of the first thread lie."""
    start = plan.arena - plan.per_thread
    shift = thread * plan.per_thread

    def move(ranges: list[Range]) -> list[Range]:
        moved = []
        for first, last in ranges:
            if last > start:
                # Not half in the shared memory and half in its own, and not in another thread's.
                own = start + shift <= first and last <= start + shift + plan.per_thread
                _require(own, "thread %d touches %d:%d, not its own", thread, first, last)
                first, last = first - shift, last - shift
            moved.append((first, last))
        return moved

    access.reads, access.writes = move(access.reads), move(access.writes)
    access.scratch = move(access.scratch)
    return access


def _fail(number: int, instruction: Instruction, message: str, *values: object) -> None:
    raise PlanError(f"instruction {number} ({instruction.name}) {message % values}")


class _Owners:
    """Which buffer was last written to, for every stretch of the arena: sorted intervals without overlaps, neighbours
    of one buffer joined."""

    # Intervals rather than an owner for each float: an arena has millions of floats, a plan thousands of ranges.
    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._buffers: list[Buffer] = []

    def hold(self, start: int, stop: int, buffers: Sequence[Buffer]) -> bool:
        """Whether one of the buffers has written all of a range and no other one has since."""
        # The first interval that ends after `start`; it must cover all of the range, since neighbours are joined.
        at = bisect_right(self._stops, start)
        return start == stop or (
            at < len(self._starts)
            and self._starts[at] <= start
            and stop <= self._stops[at]
            and self._buffers[at] in buffers
        )

    def missing(self, ranges: Iterable[Range], buffers: Sequence[Buffer]) -> Range | None:
        """The first of the ranges that none of the buffers holds."""
        for start, stop in ranges:
            if not self.hold(start, stop, buffers):
                return start, stop
        return None

    def write(self, start: int, stop: int, buffer: Buffer) -> None:
        """Note that a buffer has written to a range."""
        if start == stop:
            return
        # Intervals first to last - 1 overlap the range or touch its ends.
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first == last:
            self._starts.insert(first, start)
            self._stops.insert(first, stop)
            self._buffers.insert(first, buffer)
            return
        if last == first + 1 and self._buffers[first] is buffer:
            self._starts[first] = min(self._starts[first], start)
            self._stops[first] = max(self._stops[first], stop)
            return
        # What is left of other buffers' intervals on both sides; those of the same buffer are joined with it.
        kept: list[tuple[int, int, Buffer]] = []
        after: list[tuple[int, int, Buffer]] = []
        for at in range(first, last):
            begin, end, owner = self._starts[at], self._stops[at], self._buffers[at]
            if owner is buffer:
                start, stop = min(start, begin), max(stop, end)
                continue
            if begin < start:
                kept.append((begin, min(end, start), owner))
            if end > stop:
                after.append((max(begin, stop), end, owner))
        kept += [(start, stop, buffer), *after]
        self._starts[first:last] = [begin for begin, _, _ in kept]
        self._stops[first:last] = [end for _, end, _ in kept]
        self._buffers[first:last] = [owner for _, _, owner in kept]


def _buffer_around(start: int, stop: int, buffers: Sequence[Buffer]) -> Buffer | None:
    """The buffer that a range lies in."""
    for buffer in buffers:
        if buffer.offset <= start and stop <= buffer.offset + buffer.floats:
            return buffer
    return None


def _merged(ranges: Sequence[Range]) -> list[Range]:
    """The same floats in sorted ranges that neither overlap nor touch. A range that ends before it starts is kept."""
    if len(ranges) < 2:
        return [*ranges]
    # A range of negative length is kept, so that the check of bounds sees and refuses it.
    ordered = sorted(ranges)
    merged = ordered[:1]
    for start, stop in ordered[1:]:
        before, end = merged[-1]
        if start <= end and start <= stop:
            if stop > end:
                merged[-1] = (before, stop)
        else:
            merged.append((start, stop))
    return merged


def _overlap(a: Sequence[Range], b: Sequence[Range]) -> bool:
    """Whether two lists of merged ranges have a float in common."""
    if not a or not b or a[-1][1] <= b[0][0] or b[-1][1] <= a[0][0]:
        return False
    starts = [start for start, _ in b]
    for start, stop in a:
        # The last range of b that begins before this one ends is the one that reaches furthest.
        at = bisect_left(starts, stop) - 1
        if at >= 0 and b[at][1] > start and start < stop:
            return True
    return False


def _separate(
    number: int,
    instruction: Instruction,
    access: Access,
    reads: Sequence[Range],
    writes: Sequence[Range],
    scratch: Sequence[Range],
) -> None:
    """Check that an instruction's writes do not overlap its reads. One exception: a result may occupy exactly the
    blocks of its residual, because each pixel is loaded just before it is stored."""
    wrong = _overlap(reads, writes) and _wrong_overlaps(access, bool(instruction.in_place))
    if wrong or (scratch and (_overlap(reads, scratch) or _overlap(writes, scratch))):
        _fail(number, instruction, "writes where it reads, or into its own scratch")


def _wrong_overlaps(access: Access, in_place: bool) -> bool:
    """Whether reads and writes overlap other than block upon block of a residual, which nothing else reads."""
    # Every pair of ranges. Only instructions that write over their residual get here.
    read, written = (np.array(r, np.int64).reshape(-1, 2) for r in (access.reads, access.writes))
    overlaps = (read[:, None, 0] < written[None, :, 1]) & (written[None, :, 0] < read[:, None, 1])
    same = (read[:, None] == written[None]).all(axis=2)
    most = len(written) if in_place else 0
    return bool((overlaps & ~same).any() or overlaps.sum() > most)


# -------------------------------------------------------------------- what each instruction touches


def _results(i: Fields, access: Access, pixels: Iterable[Range]) -> None:
    """Results and residual of an instruction with an epilogue, for ranges of pixels of every block."""
    flags, pitch, y = i[FLAGS], i[BLOCK_PITCH], i[Y]
    # The epilogue's own order does not matter here: what is touched is the same before and after the first store.
    adds = flags & (RESIDUAL_FIRST | RESIDUAL_SECOND)
    for first, last in pixels:
        for block in range(i[BLOCKS]):
            start, stop = y + block * pitch + first * LANES, y + block * pitch + last * LANES
            if flags & STORE_FIRST:
                access.writes.append((start, stop))
            if flags & STORE_SECOND:
                access.writes.append((start + i[SECOND], stop + i[SECOND]))
            if adds:
                access.reads.append((start + i[RESIDUAL], stop + i[RESIDUAL]))


def _extent(i: Fields, most: int) -> None:
    first, last = i[FIRST], i[LAST]
    _require(0 <= first <= last <= most, "it goes from %d to %d of %d", first, last, most)


def _packed(i: Fields, access: Access, matrices: int = 1) -> None:
    """The weights of a product: a bias, DEPTH channels and slopes, if there are any, for each block."""
    rows = matrices * (i[DEPTH] + 1)
    # A Winograd layer has its slopes behind its biases.
    if i[OPCODE] != WINOGRAD:
        rows += slope_rows(i[FLAGS])
    floats = rows * i[BLOCKS] * LANES
    access.weights.append((i[WEIGHTS], i[WEIGHTS] + floats))


def _pointwise(i: Fields, program: Program, access: Access) -> None:
    segments, first, last = program.segments(i, i[SEGMENT_COUNT]), i[FIRST], i[LAST]
    _extent(i, last)
    _require(i[GROUP] >= 1, "a group has no pixels")
    _require(i[SINGLE] == 0 or last - first <= 1, "a layer of a single pixel has several")
    # A pixel's last lanes are not read; whole vectors are counted all the same.
    access.reads += [(o + first * LANES, o + last * LANES) for o in segments.offsets]
    _packed(i, access)
    _results(i, access, [(first, last)])


def _window(i: Fields, segments: Segments, access: Access, width: int) -> None:
    """DENSE and PLANAR: the rows that are copied, `width` floats a pixel, and the taps that read the copy."""
    group, stride, phase = i[GROUP], i[STRIDE], i[PHASE]
    _require(min(stride, i[KERNEL_ROWS], phase) >= 1, "a window has no size")
    pitch = stride * phase * width
    # A whole group, though the last one may have fewer rows: the pitch between blocks is that of a whole one.
    size = i[INPUT_BLOCKS] * ((group - 1) * stride + i[KERNEL_ROWS]) * pitch
    access.scratch.append((i[SCRATCH], i[SCRATCH] + size))
    # From a tap's first pixel to its last one, which is the last column of the last row.
    # The copy is [blocks][rows][phases][columns]; a tap is a constant distance in it.
    extent = (group - 1) * stride * pitch + (i[OUT_COLUMNS] - 1) * width
    inside = segments.least >= 0 and segments.end + extent <= size
    _require(inside, "taps read %d to %d of %d floats", segments.least, segments.end + extent, size)
    reach = stride * phase - i[LEFT]
    _require(min(i[TOP], i[LEFT], reach) >= 0, "a window's padding is negative")


def _rows(i: Fields, access: Access) -> None:
    """DENSE and PLANAR: the rows that are done, and their results."""
    columns = i[OUT_COLUMNS]
    _extent(i, i[LAST])
    _require(i[GROUP] >= 1 and columns >= 1, "a group has no rows, or they have no columns")
    _require(i[SINGLE] == 0 or columns == 1, "a layer of a single column has several")
    _packed(i, access)
    _results(i, access, [(i[FIRST] * columns, i[LAST] * columns)])


def _dense(i: Fields, program: Program, access: Access) -> None:
    segments, first, last = program.segments(i, i[SEGMENT_COUNT]), i[FIRST], i[LAST]
    line = i[COLUMNS] * LANES
    if i[COPY]:
        _window(i, segments, access, LANES)
        start, stop = _covered(i, i[KERNEL_ROWS])
        inputs = program.list(i[INPUTS], i[INPUT_BLOCKS])
        if start < stop:
            access.reads += [(x + start * line, x + stop * line) for x in inputs]
    else:
        begin, end = first * line, (last - 1) * line + (i[OUT_COLUMNS] - 1) * LANES
        pairs = zip(segments.offsets, segments.counts, strict=True)
        taps = ((o + begin, o + end + n) for o, n in pairs)
        whole = ((a // LANES * LANES, -(-b // LANES) * LANES) for a, b in taps)
        # Windows overlap: a 7x7 one has 49 ranges a block, which are a few when joined.
        access.reads += _merged([*whole])
    _rows(i, access)


def _planar(i: Fields, program: Program, access: Access) -> None:
    _window(i, program.segments(i, i[SEGMENT_COUNT]), access, 1)
    # All of the caller's image, whichever rows this band reads: it is never written, so nothing finer is needed.
    access.image.append((0, i[INPUT_BLOCKS] * i[ROWS] * i[COLUMNS]))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + 2))
    _rows(i, access)


def _covered(i: Fields, taps: int) -> Range:
    """The rows of a map that the windows of rows FIRST to LAST cover; rows of padding are not read."""
    start = max(i[FIRST] * i[STRIDE] - i[TOP], 0)
    stop = (i[LAST] - 1) * i[STRIDE] - i[TOP] + taps
    return start, max(min(stop, i[ROWS]), start)


def _depthwise(i: Fields, program: Program, access: Access) -> None:
    rows, columns, stride, flags = i[ROWS], i[COLUMNS], i[STRIDE], i[FLAGS]
    out_columns = i[OUT_COLUMNS]
    _extent(i, i[LAST])
    for size, made, padding in ((rows, i[LAST], i[TOP]), (columns, out_columns, i[LEFT])):
        _require(stride in (1, 2) and padding in (0, 1), "stride %d, padding %d", stride, padding)
        # The last window may hang over the far edge by as much as is padded.
        reach = (made - 1) * stride + 3 - padding
        fits = made >= 1 and reach <= size + padding
        _require(fits, "%d windows leave %d pixels", made, size)
    top, bottom = _covered(i, 3)
    for block in range(i[BLOCKS]):
        x, y = i[X] + block * i[INPUT_PITCH], i[Y] + block * i[BLOCK_PITCH]
        start, stop = y + i[FIRST] * out_columns * LANES, y + i[LAST] * out_columns * LANES
        access.reads.append((x + top * columns * LANES, x + bottom * columns * LANES))
        access.writes.append((start, stop))
        if flags & RESIDUAL_FIRST:
            access.reads.append((start + i[RESIDUAL], stop + i[RESIDUAL]))
    # A bias and nine taps for each block, and its slope; and the row of zeros that stands for rows outside of the map.
    size = (10 + slope_rows(flags)) * LANES
    access.weights.append((i[WEIGHTS], i[WEIGHTS] + i[BLOCKS] * size))
    access.weights.append((i[ZEROS], i[ZEROS] + columns * LANES))


def _depthwise_window(i: Fields, program: Program, access: Access) -> None:
    first, last, line, out_columns = i[FIRST], i[LAST], i[COLUMNS] * LANES, i[OUT_COLUMNS]
    down, across = i[DILATION], i[DILATION_COLUMNS]
    _extent(i, last)
    sizes = (i[KERNEL_ROWS], i[KERNEL_COLUMNS], i[STRIDE], i[STRIDE_COLUMNS], down, across)
    _require(min(out_columns, *sizes) >= 1, "a window has no size")
    # All outputs of a tile are made, though the last ones may not be stored.
    tiles = -(-out_columns // TILE)
    reach = (tiles * TILE - 1) * i[STRIDE_COLUMNS] + i[KERNEL_COLUMNS]
    _require(reach <= i[COLUMNS], "tiles read %d of %d columns", reach, i[COLUMNS])
    if first < last:
        top, bottom = first * i[STRIDE], (last - 1) * i[STRIDE] + i[KERNEL_ROWS]
        for block in range(i[BLOCKS]):
            x = i[X] + block * i[INPUT_PITCH]
            access.reads.append((x + top * line, x + bottom * line))
    taps = -(-i[KERNEL_ROWS] // down) * -(-i[KERNEL_COLUMNS] // across)
    size = (taps + 1 + slope_rows(i[FLAGS])) * LANES
    access.weights.append((i[WEIGHTS], i[WEIGHTS] + i[BLOCKS] * size))
    _results(i, access, [(first * out_columns, last * out_columns)])


def _winograd(i: Fields, program: Program, access: Access) -> None:
    segments, inputs, blocks = program.segments(i, i[INPUT_BLOCKS]), i[INPUT_BLOCKS], i[BLOCKS]
    rows, columns, group, side = i[ROWS], i[COLUMNS], i[GROUP], i[SIDE]
    _require(min(rows, columns, group) >= 1, "a map or a group is empty")
    _require(side in (4, 6), "patches make %d x %d outputs", side, side)
    _extent(i, -(-rows // side) * -(-columns // side))
    # Whole maps: patches overlap by two pixels, and the planner gives no part of an input away while a layer runs.
    for x in program.list(i[INPUTS], inputs):
        access.reads.append((x, x + rows * columns * LANES))
    inside = segments.least >= 0 and segments.most <= (inputs - 1) * group * LANES
    _require(inside, "products read %d to %d of their patches", segments.least, segments.most)
    # The products are an instruction of their own, which must be that of these patches to the last integer.
    expected = product(group, blocks, inputs, i[DEPTH])
    same = tuple(program.list(i[PRODUCT], WIDTH)) == expected
    _require(same, "the products of a layer are not those of its patches")
    points, start = (side + 2) ** 2, i[SCRATCH]
    access.scratch.append((start, start + points * ((inputs + blocks) * group + 2) * LANES))
    _packed(i, access, points)
    access.weights.append((i[BIAS], i[BIAS] + (1 + slope_rows(i[FLAGS])) * blocks * LANES))
    _results(i, access, _patches(i[FIRST], i[LAST], side, rows, columns))


def _patches(first: int, last: int, side: int, rows: int, columns: int) -> list[Range]:
    """The pixels that patches first to last make, as ranges. Patches are numbered row by row."""
    across = -(-columns // side)
    pixels = []
    # A strip is a row of patches. All of it is one range of pixels; part of it one range in each row.
    for strip in range(first // across, -(-last // across)):
        left = max(first - strip * across, 0) * side
        right = min(min(last - strip * across, across) * side, columns)
        top, bottom = strip * side, min((strip + 1) * side, rows)
        if (left, right) == (0, columns):
            pixels.append((top * columns, bottom * columns))
        else:
            pixels += [(r * columns + left, r * columns + right) for r in range(top, bottom)]
    return _merged(pixels)


def _global_average(i: Fields, program: Program, access: Access) -> None:
    for x in program.list(i[INPUTS], i[BLOCKS]):
        access.reads.append((x, x + i[PIXELS] * LANES))
    access.writes.append((i[Y], i[Y] + i[BLOCKS] * LANES))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + 1))


def _window_pool(i: Fields, program: Program, access: Access) -> None:
    rows, columns, out_columns = i[ROWS], i[COLUMNS], i[OUT_COLUMNS]
    _extent(i, i[LAST])
    sizes = (i[KERNEL_ROWS], i[KERNEL_COLUMNS], i[STRIDE], i[STRIDE_COLUMNS])
    _require(min(rows, columns, i[LAST], out_columns, *sizes) >= 1, "a window has no size")
    inside = (i[LAST] - 1) * i[STRIDE] + i[KERNEL_ROWS] <= rows
    inside &= (out_columns - 1) * i[STRIDE_COLUMNS] + i[KERNEL_COLUMNS] <= columns
    _require(inside, "a pooling window reaches outside of its map")
    top, bottom = _covered(i, i[KERNEL_ROWS])
    line, made = columns * LANES, out_columns * LANES
    for block, x in enumerate(program.list(i[INPUTS], i[BLOCKS])):
        y = i[Y] + block * i[BLOCK_PITCH]
        access.reads.append((x + top * line, x + bottom * line))
        access.writes.append((y + i[FIRST] * made, y + i[LAST] * made))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + 1))


def _vectors(i: Fields, program: Program, access: Access) -> None:
    """SIGMOID, ADD, MULTIPLY and AFFINE."""
    floats = i[PIXELS] * LANES
    access.writes.append((i[Y], i[Y] + floats))
    access.reads.append((i[X], i[X] + floats))
    # -1 stands for no second operand.
    if i[OPCODE] == ADD and i[OTHER] >= 0:
        access.reads.append((i[OTHER], i[OTHER] + floats))
    if i[OPCODE] == ADD and i[FLAGS] & LEAKY:
        access.weights.append((i[CONSTANTS], i[CONSTANTS] + LANES))
    if i[OPCODE] == MULTIPLY:
        _require(i[STEP] in (0, LANES), "%d floats from one factor to the next", i[STEP])
        access.reads.append((i[OTHER], i[OTHER] + (floats if i[STEP] else LANES)))
    if i[OPCODE] == AFFINE:
        access.weights.append((i[CONSTANTS], i[CONSTANTS] + 4))


def _softmax(i: Fields, program: Program, access: Access) -> None:
    pixels, first, last = i[PIXELS], i[FIRST], i[LAST]
    _extent(i, pixels)
    for block, x in enumerate(program.list(i[INPUTS], i[BLOCKS])):
        y = i[Y] + block * pixels * LANES
        access.reads.append((x + first * LANES, x + last * LANES))
        access.writes.append((y + first * LANES, y + last * LANES))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + i[BLOCKS] * LANES))


def _upsample(i: Fields, program: Program, access: Access) -> None:
    rows, line = i[ROWS], i[COLUMNS] * LANES
    down, across = i[REPEAT_ROWS], i[REPEAT_COLUMNS]
    _extent(i, rows)
    _require(
        min(i[COLUMNS], down, across) >= 1, "a map has no columns, or is written less than once"
    )
    made = down * across * line
    for block, x in enumerate(program.list(i[INPUTS], i[BLOCKS])):
        y = i[Y] + block * rows * made
        access.reads.append((x + i[FIRST] * line, x + i[LAST] * line))
        access.writes.append((y + i[FIRST] * made, y + i[LAST] * made))


def _resample(i: Fields, program: Program, access: Access) -> None:
    first, last, line, made = i[FIRST], i[LAST], i[COLUMNS] * LANES, i[OUT_COLUMNS] * LANES
    _extent(i, last)
    _require(min(i[ROWS], i[COLUMNS], i[OUT_COLUMNS]) >= 1, "a map has no size")
    places = program.list(i[PLACES], 2 * (i[OUT_COLUMNS] + last))
    across, down = places[: 2 * i[OUT_COLUMNS]], places[2 * (i[OUT_COLUMNS] + first) :]
    for axis, size in ((across, i[COLUMNS]), (down, i[ROWS])):
        _require(min(axis) >= 0 and max(axis) < size, "pixels come from outside of the map")
    top, bottom = min(down), max(down) + 1
    for block, x in enumerate(program.list(i[INPUTS], i[BLOCKS])):
        y = i[Y] + block * i[BLOCK_PITCH]
        access.reads.append((x + top * line, x + bottom * line))
        access.writes.append((y + first * made, y + last * made))
    if i[CONSTANTS] >= 0:
        access.weights.append((i[CONSTANTS], i[CONSTANTS] + i[OUT_COLUMNS] + last))


def _spread(i: Fields, program: Program, access: Access) -> None:
    first, last, rows, line = i[FIRST], i[LAST], i[ROWS], i[COLUMNS] * LANES
    _extent(i, last)
    sizes = (rows, i[COLUMNS], i[OUT_COLUMNS], i[STRIDE], i[STRIDE_COLUMNS])
    _require(min(sizes) >= 1, "a map has no size, or its pixels no distance")
    # The rows of the map that have a place among those of the result.
    top = max(-((i[TOP] - first) // i[STRIDE]), 0)
    bottom = min(-((i[TOP] - last) // i[STRIDE]), rows)
    made = i[OUT_COLUMNS] * LANES
    for block, x in enumerate(program.list(i[INPUTS], i[BLOCKS])):
        y = i[Y] + block * i[BLOCK_PITCH]
        if top < bottom:
            access.reads.append((x + top * line, x + bottom * line))
        access.writes.append((y + first * made, y + last * made))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + 1))


def _depth_to_space(i: Fields, program: Program, access: Access) -> None:
    rows, line, blocks = i[ROWS], i[COLUMNS] * LANES, i[BLOCKS]
    down, across = i[REPEAT_ROWS], i[REPEAT_COLUMNS]
    _extent(i, rows)
    _require(min(i[COLUMNS], down, across) >= 1, "a map or a rectangle is empty")
    for x in program.list(i[INPUTS], down * across * blocks):
        access.reads.append((x + i[FIRST] * line, x + i[LAST] * line))
    made = down * across * line
    for block in range(blocks):
        y = i[Y] + block * rows * made
        access.writes.append((y + i[FIRST] * made, y + i[LAST] * made))


def _strided(sources: Iterable[int], pixels: int, access: Access) -> None:
    """One lane of every pixel of some blocks; whole vectors are counted."""
    floats = pixels * LANES
    # Blocks begin at multiples of LANES, hence the lane that is meant is the remainder.
    starts = {x // LANES * LANES for x in sources if x >= 0}
    access.reads += [(start, start + floats) for start in sorted(starts)]


def _gather(i: Fields, program: Program, access: Access) -> None:
    _strided(program.list(i[INPUTS], i[BLOCKS] * LANES), i[PIXELS], access)
    access.writes.append((i[Y], i[Y] + i[BLOCKS] * LANES * i[PIXELS]))


def _load_image(i: Fields, program: Program, access: Access) -> None:
    blocks = -(-i[DEPTH] // LANES)
    access.image.append((0, i[PIXELS] * i[DEPTH]))
    access.writes.append((i[Y], i[Y] + blocks * i[PIXELS] * LANES))
    access.weights.append((i[CONSTANTS], i[CONSTANTS] + 2))


def _store_output(i: Fields, program: Program, access: Access) -> None:
    sources = program.list(i[INPUTS], i[DEPTH])
    _require(min(sources, default=-1) >= 0, "an output has channels of no place")
    _require(min(i[CHANNEL_PITCH], i[PIXEL_PITCH]) >= 1, "an output's pitches are not positive")
    _strided(sources, i[PIXELS], access)
    # The place of the last pixel of the last channel.
    last = (i[DEPTH] - 1) * i[CHANNEL_PITCH] + (i[PIXELS] - 1) * i[PIXEL_PITCH]
    access.output.append((i[Y], i[Y] + last + 1))


def _nothing(i: Fields, program: Program, access: Access) -> None:
    """NOTHING touches nothing."""


_ACCESS: dict[int, Callable[[Fields, Program, Access], None]] = {
    NOTHING: _nothing,
    POINTWISE: _pointwise,
    DENSE: _dense,
    PLANAR: _planar,
    DEPTHWISE: _depthwise,
    DEPTHWISE_WINDOW: _depthwise_window,
    WINOGRAD: _winograd,
    GLOBAL_AVERAGE: _global_average,
    WINDOW_POOL: _window_pool,
    SIGMOID: _vectors,
    SOFTMAX: _softmax,
    ADD: _vectors,
    MULTIPLY: _vectors,
    AFFINE: _vectors,
    UPSAMPLE: _upsample,
    RESAMPLE: _resample,
    SPREAD: _spread,
    DEPTH_TO_SPACE: _depth_to_space,
    GATHER: _gather,
    LOAD_IMAGE: _load_image,
    STORE_OUTPUT: _store_output,
}

#: Whether an opcode has no use for a field. PROBE measures a core and is never part of a plan.
_UNUSED = np.ones((max(_ACCESS) + 1, WIDTH), bool)
_UNUSED[:, OPCODE] = False
for _opcode in _ACCESS:
    _UNUSED[_opcode, list(FIELDS[_opcode])] = False
