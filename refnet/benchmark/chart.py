"""The ratios of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from refnet.benchmark.measurement import Result
from refnet.files import replacing
from refnet.optional import require


def plot(results: Sequence[Result], path: Path) -> None:
    """A row per network and a mark per engine: its time over refnet's, so that refnet is the line at 1.

    Raises:
        DependencyError: matplotlib is missing. OutputError: the file cannot be written.
    """
    figures = require("matplotlib.figure", "a chart", "refnet[plot]")
    networks = list(dict.fromkeys(r.network for r in results))
    peers = [e for e in dict.fromkeys(r.engine for r in results) if e != "refnet"]
    figure = figures.Figure(figsize=(9, 1.6 + 0.36 * len(networks)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for engine, marker in zip(peers, cycle("osD^vPX*"), strict=False):
        shown = [r for r in results if r.engine == engine]
        rows = [networks.index(r.network) for r in shown]
        axes.plot([r.ratio for r in shown], rows, marker, markersize=6, alpha=0.85, label=engine)
    axes.axvline(1, color="black", linewidth=1.2, label="refnet")
    axes.set_xscale("log")
    ratios = [r.ratio for r in results]
    low, high = 0.8 * min(ratios), 1.3 * max(ratios)
    ticks = [tick for tick in (0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(len(networks) - 0.5, -0.5)
    axes.grid(axis="both", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("median time over refnet's (further right is slower)")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(peers) + 1)
    with replacing(path) as temporary:
        figure.savefig(temporary)
