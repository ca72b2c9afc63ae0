"""Where values lie in the arena: two share memory only where no step needs both."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import Value

ALIGNMENT = 16  # floats: a cache line


def place(values: Sequence[Value], guard: int = 0) -> int:
    """Give every value its offset, the largest first, each at the lowest place that is free during its life.

    Args:
        values: with `first` and `last` set.
        guard: floats to keep free behind every value, for tests that watch for stray writes.

    Returns:
        The size of the arena in floats.
    """
    placed: list[Value] = []
    size = 0
    for value in sorted(values, key=lambda v: (-v.floats, v.first)):
        offset = 0
        busy = [v for v in placed if v.first <= value.last and value.first <= v.last]
        for other in sorted(busy, key=lambda v: v.offset):
            if offset + value.floats + guard <= other.offset:
                break
            end = other.offset + other.floats + guard
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        value.offset = offset
        placed.append(value)
        size = max(size, offset + value.floats + guard)
    return -(-size // ALIGNMENT) * ALIGNMENT
