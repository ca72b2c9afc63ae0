"""Where buffers lie in the arena: two share memory only where no instruction needs both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .assembler import Instruction
from .layout import Buffer

ALIGNMENT = 16  # floats: a cache line


def place(buffers: Iterable[Buffer], guard: int = 0) -> int:
    """Give every buffer its offset, the largest first, each at the lowest place that is free during its life.

    Args:
        buffers: with `first` and `last` set.
        guard: floats to keep free after every buffer, for tests that watch for stray writes.

    Returns:
        The size of the arena in floats.
    """
    # {instruction: what is placed and needed there}. Most buffers live for a few instructions only, so this is far
    # quicker than to compare each with all others.
    alive: defaultdict[int, list[Buffer]] = defaultdict(list)
    size = 0
    for buffer in sorted(buffers, key=lambda b: (-b.floats, b.first)):
        life = range(buffer.first, buffer.last + 1)
        busy = set().union(*[alive[number] for number in life])
        offset = 0
        # In which order buffers of one offset come does not matter: the gap is looked for after the longest.
        for other in sorted(busy, key=lambda b: b.offset):
            # The gap before the next busy buffer is large enough.
            if offset + buffer.floats + guard <= other.offset:
                break
            end = other.offset + other.floats + guard
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        buffer.offset = offset
        for number in life:
            alive[number].append(buffer)
        size = max(size, offset + buffer.floats + guard)
    return -(-size // ALIGNMENT) * ALIGNMENT


def place_all(instructions: Sequence[Instruction], guard: int) -> tuple[int, int]:
    """Give every buffer of the instructions its place: (shared floats, floats of each thread after them).

    A result takes the place of its residual where no later instruction reads that.
    """
    buffers: dict[Buffer, None] = {}
    for number, instruction in enumerate(instructions):
        for buffer in instruction.touched():
            if buffer.first < 0:
                buffer.first = number
                buffers[buffer] = None
            buffer.last = number
    host: dict[Buffer, Buffer] = {}
    for number, instruction in enumerate(instructions):
        if instruction.in_place:
            old, new = instruction.in_place
            if old.last == new.first == number:
                # The residual may itself lie in the place of another one.
                host[new] = host.get(old, old)
                host[new].last = max(host[new].last, new.last)
    shared = place((b for b in buffers if b not in host and not b.per_thread), guard)
    # Apart from the shared ones, so that more threads need more of this part only.
    own = [b for b in buffers if b.per_thread]
    per_thread = place(own, guard)
    for buffer in own:
        buffer.offset += shared
    for buffer, place_of in host.items():
        buffer.offset = place_of.offset
    return shared, per_thread
