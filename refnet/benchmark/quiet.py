"""Whether a measurement can be trusted: what else the machine does, and how far the times spread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_STAT = Path("/proc/stat")
#: Seconds that the machine is watched before anything is measured.
WATCHED = 0.3
#: Share of the cores above which other programs disturb a measurement.
BUSY = 0.1
#: Ratio of the slow tenth of runs to the fast tenth above which a median says little.
WIDE = 1.25


def others() -> float | None:
    """The share of the cores that this process may use that is taken by others now, 0 to 1, watched for 0.3 s.

    None where the system does not say it, which only Linux does.
    """
    before = _times()
    if before is None:
        return None
    time.sleep(WATCHED)
    after = _times()
    if after is None:
        return None
    shares = [
        1 - (idle - before[core][0]) / max(1, total - before[core][1])
        for core, (idle, total) in after.items()
        if core in before
    ]
    return max(0.0, sum(shares) / len(shares)) if shares else None


def _times() -> dict[int, tuple[int, int]] | None:
    """{core: (ticks without work, all ticks)} of the cores that this process may use."""
    try:
        lines = _STAT.read_text("ascii").splitlines()
        mine = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    found = {}
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in mine:
            # The last two, time of guests, are in the first two already.
            counts = [int(tick) for tick in ticks[:8]]
            found[int(name[3:])] = counts[3] + counts[4], sum(counts)
    return found


def warning(share: float | None) -> str | None:
    """A sentence where the machine is too busy to measure on; None where it is not, or not known to be."""
    if share is None or share < BUSY:
        return None
    return (
        f"the machine is busy: other programs take {share:.0%} of the cores that are measured on; "
        "times will be too long, and ratios rough"
    )


def spread(ranges: Iterable[tuple[float, float]]) -> str:
    """A sentence about how far times spread.

    Args:
        ranges: (tenth percentile, ninetieth percentile) of each row, at least one.
    """
    ratios = sorted(high / low for low, high in ranges)
    between = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if len(ratios) > 1 else f"{ratios[0]:.2f}"
    sentence = f"spread: p90 is {between} times p10"
    if ratios[-1] > WIDE:
        return f"{sentence}; above {WIDE} a figure is rough: measure again, for longer or on an idle machine"
    return f"{sentence}, so that medians can be compared"
