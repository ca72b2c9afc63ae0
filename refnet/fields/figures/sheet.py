"""All branches of a network beside each other: the argument of the LFFD paper in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from refnet.errors import OptionError
from refnet.fields.branches import Branch
from refnet.fields.effective_receptive_field import EffectiveReceptiveField
from refnet.fields.figures.style import (
    LOOKS,
    NIGHT,
    OBJECTS,
    SEES,
    even,
    glow,
    key,
    lit,
    new_figure,
    outline,
    placed,
)
from refnet.media.images import as_image, opencv
from refnet.ops import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Fields = Sequence[tuple[Branch, EffectiveReceptiveField]]


def sheet(
    fields: Fields,
    *,
    image: Array | None = None,
    face: tuple[float, float, float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """One panel a branch, each as large as what it sees, over one chart of sizes.

    A branch answers well for objects that its effective field covers with some surroundings: too large
    an object does not fit what it looks at, too small a one drowns in it.

    Args:
        fields: the branches with their fields.
        image: uint8 (H, W, 3) BGR; every panel shows it at the scale at which `face` has the middle
            size of the branch's range.
        face: (x1, y1, x2, y2) of an object in the image.

    Raises:
        OptionError: there is no branch, or a face comes without an image or the other way round.
        DependencyError: matplotlib is absent.
    """
    if not fields:
        raise OptionError("a sheet needs at least one branch")
    if (image is None) != (face is None):
        raise OptionError("a sheet takes an image together with the box of a face in it")
    count = len(fields)
    figure = new_figure(max(1.95 * count + 0.8, 7.0), 5.4)
    grid = figure.add_gridspec(2, count, height_ratios=(1.0, 1.15))
    for i, (branch, field) in enumerate(fields):
        axes = figure.add_subplot(grid[0, i])
        _panel(axes, branch, field, image, face)
        axes.set_title(f"branch {branch.number}", fontsize=11.5)
        axes.set_xlabel(f"stride {branch.field.jump[0]}", fontsize=10)
    _chart(figure.add_subplot(grid[1, :]), fields)
    named = any(branch.objects for branch, _ in fields)
    entries = [(SEES, "sees: theoretical field"), (LOOKS, "looks at: effective field (2σ)")]
    key(figure, entries + ([(OBJECTS, "looks for: object sizes")] if named else []))
    network = fields[0][1].network
    figure.suptitle(
        title or f"{network}: what each branch sees, looks at and looks for", fontsize=14
    )
    return figure


def _panel(
    axes: Axes,
    branch: Branch,
    field: EffectiveReceptiveField,
    image: Array | None,
    face: tuple[float, float, float, float] | None,
) -> None:
    """What a branch sees, in pixels from the centre of its unit."""
    from matplotlib.patches import Ellipse

    rows, columns = field.map.shape
    axes.set_facecolor(NIGHT)
    middle = math.sqrt(math.prod(branch.objects)) if branch.objects else None
    if image is not None and face is not None:
        _backdrop(axes, image, face, middle or 0.3 * rows, field)
    else:
        extent = (-columns / 2, columns / 2, rows / 2, -rows / 2)
        axes.imshow(glow(even(field)), extent=extent, interpolation="bilinear")
    outline(axes, -columns / 2, -rows / 2, columns, rows, SEES, zorder=3)
    (down, across), (y, x) = field.two_sigma, field.centroid
    place = (x - field.origin[1] - (columns - 1) / 2, y - field.origin[0] - (rows - 1) / 2)
    axes.add_patch(Ellipse(place, across, down, fill=False, edgecolor=LOOKS, linewidth=2, zorder=3))
    for side in branch.objects or ():
        dashes = (0, (4, 2))
        outline(axes, -side / 2, -side / 2, side, side, OBJECTS, linestyle=dashes, zorder=3)
    axes.set_xlim(-0.54 * columns, 0.54 * columns)
    axes.set_ylim(0.54 * rows, -0.54 * rows)
    axes.set_xticks([])
    axes.set_yticks([])


def _backdrop(
    axes: Axes,
    image: Array,
    face: tuple[float, float, float, float],
    side: float,
    field: EffectiveReceptiveField,
) -> None:
    """The image, scaled so that the longer side of the face is `side` pixels, lit around its centre."""
    x1, y1, x2, y2 = face
    scale = side / max(x2 - x1, y2 - y1)
    height, width = (max(1, round(edge * scale)) for edge in image.shape[:2])
    cv2 = opencv()
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(as_image(image), (width, height), interpolation=method)
    x, y = scale * (x1 + x2) / 2, scale * (y1 + y2) / 2
    rows, columns = field.map.shape
    light = placed(even(field), (round(y - rows / 2), round(x - columns / 2)), small.shape)
    extent = (-x, width - x, height - y, -y)
    axes.imshow(lit(small, light), extent=extent, interpolation="antialiased")


def _chart(axes: Axes, fields: Fields) -> None:
    """Sizes in pixels on a logarithmic scale, one column a branch."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    for i, (branch, field) in enumerate(fields):
        sees, looks = max(field.map.shape), float(np.mean(field.two_sigma))
        axes.plot([i, i], [looks, sees], color="#b9c0cc", linewidth=1.2, zorder=1)
        axes.plot(i, sees, "s", color=SEES, markersize=9)
        axes.plot(i, looks, "o", color=LOOKS, markersize=9)
        _label(axes, i, sees, f"{sees}", SEES)
        _label(axes, i, looks, f"{looks:.0f}", LOOKS)
        if branch.objects:
            low, high = branch.objects
            axes.plot(
                [i - 0.13] * 2, [low, high], color=OBJECTS, linewidth=7, solid_capstyle="butt"
            )
            axes.text(
                i - 0.21, math.sqrt(low * high), f"{low}–{high}", color=OBJECTS, fontsize=10,
                ha="right", va="center", fontweight="bold",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_locator(FixedLocator([10, 20, 50, 100, 200, 500, 1000]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("pixels")
    axes.set_xlim(-0.5, len(fields) - 0.5)
    axes.set_xticks([])
    axes.grid(axis="y", color="#e3e6eb", linewidth=0.8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _label(axes: Axes, x: float, y: float, words: str, color: str) -> None:
    axes.text(x + 0.08, y, words, color=color, fontsize=10, va="center", fontweight="bold")
