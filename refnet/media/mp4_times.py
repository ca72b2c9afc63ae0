"""The times of the frames of an MP4 file that OpenCV has written.

OpenCV writes frames at a constant rate, and videos of phones and cameras have none, so that a copy of one
would be too long or too short. The times stand in the last box of the file, apart from the frames, and can
be replaced. A box is its length (4 bytes, itself included), its name (4) and its content; see ISO/IEC
14496-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

#: Ticks per second of the times that are written.
TICKS = 90_000
_CONTAINERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl")
#: Where times stand in a box of version 0: the length of its content, and the place of its duration, which
#: is counted in milliseconds. `mdhd` and `stts`, in ticks, have lines of their own.
_DURATIONS = {b"mvhd": (100, 16), b"tkhd": (84, 20), b"elst": (20, 8)}
_LARGEST = 2**32 - 1


def uneven(times: Sequence[float], rate: float) -> bool:
    """Whether a frame is more than half a frame away from where the constant `rate` puts it.

    Args:
        times: of the frames, in seconds, rising.
        rate: frames a second.
    """
    return any(abs((t - times[0]) * rate - i) > 0.5 for i, t in enumerate(times))


def set_times(path: Path, times: Sequence[float]) -> bool:
    """Have the frames of an MP4 file shown at `times`, in seconds, rising, the first at 0.

    The last frame is shown for as long as the one before it. Returns False, and leaves the file as it is,
    where it is not built as OpenCV builds it.

    Raises:
        OSError: it cannot be read or written.
    """
    ticks = [round((t - times[0]) * TICKS) for t in times]
    shown = [max(1, b - a) for a, b in pairwise(ticks)]
    shown += shown[-1:] or [TICKS // 30]
    if sum(shown) > _LARGEST:
        return False
    with open(path, "r+b") as file:
        start = _last_box(path)
        if start is None:
            return False
        file.seek(start)
        old = file.read()
        new = _rewritten(old, shown)
        if new is None:
            return False
        file.seek(start)
        file.write(new)
    return True


def _last_box(path: Path) -> int | None:
    """Where the box "moov" begins that ends the file; None where another one ends it."""
    size, at = path.stat().st_size, 0
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a longer one has its length after its name
                length = int.from_bytes(header[8:], "big")
            if length < 8:
                return None
            if at + length == size:
                return at if header[4:8] == b"moov" else None
            at += length
    return None


def _rewritten(boxes: bytes, shown: Sequence[int]) -> bytes | None:
    """Boxes with other times; None where they are not built as is expected.

    Args:
        shown: how many ticks each frame is shown.
    """
    made, at = b"", 0
    while at < len(boxes):
        length, name = int.from_bytes(boxes[at : at + 4], "big"), boxes[at + 4 : at + 8]
        content = boxes[at + 8 : at + length]
        if length != len(content) + 8:
            return None
        inside = _rewritten(content, shown) if name in _CONTAINERS else _timed(name, content, shown)
        if inside is None:
            return None
        made += (len(inside) + 8).to_bytes(4, "big") + name + inside
        at += length
    return made


def _timed(name: bytes, content: bytes, shown: Sequence[int]) -> bytes | None:
    """A box's content with other times; None where it is not built as is expected."""
    if name == b"ctts":  # frames that are shown in another order than they stand in
        return None
    if name in _DURATIONS:
        length, at = _DURATIONS[name]
        if len(content) != length or content[0] != 0:
            return None
        if name == b"mvhd" and int.from_bytes(content[12:16], "big") != 1000:
            return None
        duration = round(sum(shown) * 1000 / TICKS)
        return content[:at] + duration.to_bytes(4, "big") + content[at + 4 :]
    if name == b"mdhd":
        if len(content) != 24 or content[0] != 0:
            return None
        both = TICKS.to_bytes(4, "big") + sum(shown).to_bytes(4, "big")
        return content[:12] + both + content[20:]
    if name == b"stts":
        entries = [int.from_bytes(content[i : i + 4], "big") for i in range(8, len(content), 8)]
        if sum(entries) != len(shown):
            return None
        return content[:4] + _runs(shown)
    return content


def _runs(shown: Sequence[int]) -> bytes:
    """How many frames are shown for how many ticks, and how many such pairs there are."""
    runs: list[list[int]] = []
    for ticks in shown:
        if runs and runs[-1][1] == ticks:
            runs[-1][0] += 1
        else:
            runs.append([1, ticks])
    numbers = [len(runs), *(number for run in runs for number in run)]
    return b"".join(number.to_bytes(4, "big") for number in numbers)
