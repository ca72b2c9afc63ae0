"""A field's marginals: how its weight falls off from the centre, and the Gaussian through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from refnet.fields.effective_receptive_field import EffectiveReceptiveField
from refnet.fields.figures.style import LOOKS, OBJECTS, SEES, new_figure
from refnet.ops import Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def profile(
    field: EffectiveReceptiveField, *, objects: Pair | None = None, title: str | None = None
) -> Figure:
    """Both marginals with their Gaussian fits, the two-sigma range and the range of object sizes.

    Args:
        objects: (lower, upper) in pixels of the objects that the branch looks for.

    Raises:
        DependencyError: matplotlib is absent.
    """
    figure = new_figure(10.4, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, axis, name in zip(panels, (1, 0), ("columns", "rows"), strict=True):
        _draw(axes, field, axis, objects)
        fit = field.gaussian[axis]
        axes.set_title(
            f"across {name}: 2σ range {field.two_sigma[axis]:.1f} px, "
            f"fit σ {fit.sigma:.1f} px, residual {100 * fit.residual:.1f} %",
            fontsize=10.5,
        )
        axes.set_xlabel("pixels from the unit's centre")
    panels[0].set_ylabel("summed gradient, relative to its peak")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        title or f"{field.network}, {field.output}: how much a pixel counts, by its place"
    )
    return figure


def _draw(axes: Axes, field: EffectiveReceptiveField, axis: int, objects: Pair | None) -> None:
    marginal, fit = field.profile(axis), field.gaussian[axis]
    middle = (len(marginal) - 1) / 2
    x = np.arange(len(marginal))
    fine = np.linspace(0, len(marginal) - 1, 600)
    half = field.two_sigma[axis] / 2
    mean = field.centroid[axis] - field.origin[axis] - middle
    axes.axvspan(mean - half, mean + half, color=LOOKS, alpha=0.13, linewidth=0, label="2σ range")
    axes.fill_between(
        x - middle, marginal, color="#8a93a6", alpha=0.55, step="mid", label="gradient"
    )
    axes.plot(fine - middle, fit(fine), color=LOOKS, linewidth=2.2, label="Gaussian fit")
    for i, side in enumerate((-middle - 0.5, middle + 0.5)):
        axes.axvline(side, color=SEES, linewidth=2, label=None if i else "theoretical field")
    if objects is not None:
        for i, size in enumerate(objects):
            axes.plot(
                [-size / 2, size / 2],
                [1.08 + 0.06 * i] * 2,
                color=OBJECTS,
                linewidth=3,
                solid_capstyle="butt",
                label=None if i else f"objects of {objects[0]} to {objects[1]} px",
            )
    axes.set_xlim(-0.56 * len(marginal), 0.56 * len(marginal))
    axes.set_ylim(0, 1.22)
    axes.spines[["top", "right"]].set_visible(False)
