"""A field growing from layer to layer, as an animated GIF."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from refnet.errors import OptionError
from refnet.fields.effective_receptive_field import EffectiveReceptiveField
from refnet.fields.figures.style import LOOKS, NIGHT, SEES, even, glow, new_figure, outline
from refnet.fields.receptive_field import receptive_field
from refnet.fields.unit_gradient import ending_at
from refnet.files import replacing
from refnet.graph import Graph

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


def growing_layers(graph: Graph, output: str) -> tuple[str, ...]:
    """The tensors on the way to `output` at which the receptive field grows, from first to last."""
    part = ending_at(graph, output)
    fields = receptive_field(part)
    largest, names = 1, []
    for node in part.nodes:
        field = fields[node.name]
        if field is not None and min(field.jump) > 0 and max(field.size) > largest:
            largest = max(field.size)
            names.append(node.name)
    return tuple(names)


def animation(
    graph: Graph,
    output: str,
    measure: Callable[[str], EffectiveReceptiveField],
    path: str | os.PathLike[str],
    *,
    seconds: float = 0.5,
    dpi: int = 72,
) -> int:
    """Write a GIF of the field from the first layer to `output`; the number of its frames.

    Args:
        measure: gives the field of a tensor, such as
            `lambda tensor: effective_receptive_field(graph, tensor)`.
        seconds: how long a frame stays.

    Raises:
        OptionError: nothing grows on the way to `output`, or the file is no .gif.
        DependencyError: matplotlib is absent. OutputError: the file cannot be written.
    """
    if not os.fspath(path).lower().endswith(".gif"):
        raise OptionError(f"an animation is written as .gif, not as {os.fspath(path)!r}")
    names = growing_layers(graph, output)
    if not names:
        raise OptionError(f"no layer before {output!r} of {graph.name} sees more than one pixel")
    fields = [(name, measure(name)) for name in names]
    figure = new_figure(7.4, 4.6)
    from matplotlib.animation import FuncAnimation, PillowWriter

    def draw(i: int) -> tuple[Artist, ...]:
        _frame(figure, graph.name, fields, min(i, len(fields) - 1))
        return ()

    frames = len(fields) + 3  # the last one stays a while
    moving = FuncAnimation(figure, draw, frames=frames, init_func=tuple)
    with replacing(path) as temporary:
        moving.save(str(temporary), writer=PillowWriter(fps=max(1, round(1 / seconds))), dpi=dpi)
    return frames


def _frame(
    figure: Figure, network: str, fields: list[tuple[str, EffectiveReceptiveField]], i: int
) -> None:
    """The field of layer `i` at the last one's scale, and all widths so far."""
    from matplotlib.patches import Ellipse
    from matplotlib.ticker import MaxNLocator

    figure.clear()
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    name, field = fields[i]
    reach = max(fields[-1][1].map.shape) / 2
    rows, columns = field.map.shape
    left.set_facecolor(NIGHT)
    extent = (-columns / 2, columns / 2, rows / 2, -rows / 2)
    left.imshow(glow(even(field)), extent=extent, interpolation="bilinear")
    outline(left, -columns / 2, -rows / 2, columns, rows, SEES)
    down, across = field.two_sigma
    left.add_patch(Ellipse((0, 0), across, down, fill=False, edgecolor=LOOKS, linewidth=2))
    left.set_xlim(-1.05 * reach, 1.05 * reach)
    left.set_ylim(1.05 * reach, -1.05 * reach)
    left.set_xlabel("pixels from the unit's centre")
    left.set_title(name, fontsize=12)
    depth = np.arange(1, len(fields) + 1)
    sees = [max(f.map.shape) for _, f in fields]
    looks = [max(f.two_sigma) for _, f in fields]
    for widths, color, words in ((sees, SEES, "sees"), (looks, LOOKS, "looks at (2σ)")):
        right.plot(depth, widths, color=color, alpha=0.25, linewidth=1.5)
        right.plot(depth[: i + 1], widths[: i + 1], color=color, linewidth=2.4)
        right.plot(depth[i], widths[i], "o", color=color)
        words = f"{words} {widths[i]:.0f} px"
        right.plot([], [], color=color, linewidth=2.4, label=words)
    right.legend(loc="upper left", frameon=False)
    right.set_xlabel("layer that widens the field")
    right.set_ylabel("pixels")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(0, 1.08 * max(sees))
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{network}: the field of one unit, layer by layer", fontsize=13)
