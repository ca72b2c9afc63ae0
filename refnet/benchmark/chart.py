"""The ratios of a benchmark as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from refnet.benchmark.measurement import Result
from refnet.errors import DependencyError


def plot(results: Sequence[Result], path: Path) -> None:
    """A bar per engine and network: its time over refnet's, so that refnet is the line at 1.

    Raises:
        DependencyError: matplotlib is missing.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise DependencyError("--plot needs matplotlib: pip install 'refnet[plot]'") from error
    networks = list(dict.fromkeys(r.network for r in results))
    engines = list(dict.fromkeys(r.engine for r in results))
    figure = figures.Figure(figsize=(2 + 1.6 * len(networks), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        shown = [r for r in results if r.engine == engine]
        places = [networks.index(r.network) + (i - (len(engines) - 1) / 2) * width for r in shown]
        axes.bar(places, [r.ratio for r in shown], width, label=engine)
    axes.set_xticks(range(len(networks)), networks, rotation=20, ha="right")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("median time / refnet's")
    axes.legend(frameon=False)
    figure.savefig(path)
