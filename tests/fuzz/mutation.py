"""Damage to files, drawn from a seed: bits, bytes, extreme numbers, pieces moved, cut off, or taken from another file."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_EXTREMES = (
    *(
        b"\xff" * 4,
        b"\xff" * 8,
        bytes(4),
        bytes(8),
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x80",
        b"\1\0\0\0",
    ),
    *(
        b"\0\0\x80\x7f",
        b"\0\0\xc0\x7f",
        b"\xff" * 7 + b"\x7f",
        b"-1",
        b"9999999999",
        b"1e999",
        b"NaN",
        b"[]",
        b"{}",
    ),
    *(b"R", b".", b"(", b"\0", b"\n", b"\x1b[2J", b"\xed\xb2\x80"),
)
_LENGTH_AT_MOST = 1 << 16


def mutated(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """`content` with one to sixteen changes; `others` are files to take pieces from."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        _change(data, others, random)
    return bytes(data[:_LENGTH_AT_MOST])


def _change(data: bytearray, others: Sequence[bytes], random: Random) -> None:
    at = _place(len(data), random)
    match random.randrange(9):
        case 0 if data:
            data[at] ^= 1 << random.randrange(8)
        case 1 if data:
            data[at] = random.randrange(256)
        case 2:
            data[at:at] = bytes([random.randrange(256)]) * random.randrange(1, 9)
        case 3:
            del data[at : at + random.randrange(1, 9)]
        case 4:
            if random.random() < 0.3:
                del data[max(at, 2) :]
        case 5:
            extreme = random.choice(_EXTREMES)
            data[at : at + len(extreme)] = extreme
        case 6:
            data[at:at] = random.choice(_EXTREMES)
        case 7:
            start, length = _place(len(data), random), random.randrange(1, 64)
            data[at : at + length] = data[start : start + length]
        case _:
            other = random.choice(others) if others else b""
            start, length = _place(len(other), random), random.randrange(1, 256)
            data[at : at + random.choice((0, length))] = other[start : start + length]


def _place(length: int, random: Random) -> int:
    """An index; heads and ends, where a format keeps what it promises, come more often."""
    if length == 0:
        return 0
    kind = random.random()
    if kind < 0.4:
        return random.randrange(min(length, 200))
    if kind < 0.6:
        return length - 1 - random.randrange(min(length, 200))
    return random.randrange(length)
