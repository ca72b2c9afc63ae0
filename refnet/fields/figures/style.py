"""What the figures share: colours with one meaning, outlines, and files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from refnet.errors import OptionError
from refnet.fields.effective_receptive_field import EffectiveReceptiveField
from refnet.files import write_file
from refnet.media.images import as_image
from refnet.ops import Array, Pair
from refnet.optional import require
from refnet.receptive import Region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Layout: TypeAlias = Literal["constrained", "compressed"]
SEES, LOOKS, OBJECTS = "#2b8cff", "#ff8a1f", "#19c37d"
NIGHT = "#14161c"
SUFFIXES = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float, layout: Layout = "constrained") -> Figure:
    """An empty figure of this size in inches, apart from pyplot and its global state.

    Raises:
        DependencyError: matplotlib is absent.
    """
    module = require("matplotlib.figure", "a figure", "refnet[plot]")
    figure: Figure = module.Figure(figsize=(width, height), layout=layout)
    return figure


def save(
    figure: Figure, path: str | os.PathLike[str], *, dpi: int = 110, compact: bool = False
) -> None:
    """Write a figure as the suffix says: .png at `dpi`, .svg or .pdf.

    Args:
        compact: a PNG of 256 colours, a third of the size.

    Raises:
        OptionError: another suffix; OutputError: the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"a figure is written as {', '.join(SUFFIXES)}, not as {target.name!r}")
    buffer = io.BytesIO()
    # Without a date and with fixed names inside, the same figure gives the same file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "refnet"}):
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=metadata)
    content = _reduced(buffer) if compact and suffix == ".png" else buffer.getvalue()
    write_file(target, [content])


def _reduced(png: io.BytesIO) -> bytes:
    from PIL import Image  # matplotlib depends on it

    picture = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def even(field: EffectiveReceptiveField) -> Array:
    """The map blurred over half a stride, as the eye does: the comb of strides aliases when drawn.

    A vector has no stride, and its map is noisy from pixel to pixel: it is blurred over 2 pixels.
    """
    return field.smoothed((max(field.field.jump) or 4) / 2).map


def glow(field: Array, gamma: float = 0.5) -> Array:
    """`field` as light, float RGBA (rows, columns, 4): bright at its peak, clear at 0.

    `gamma` below 1 lifts the tail, which holds most of a field's area.
    """
    import matplotlib

    strength = np.clip(field, 0, 1) ** gamma
    light: Array = matplotlib.colormaps["inferno"](0.05 + 0.95 * strength)
    light[..., 3] = np.minimum(1.0, 2 * strength)
    return light


def lit(image: Array, field: Array, gamma: float = 0.6) -> Array:
    """A BGR image in the dark, RGB: lit where `field` (H, W) is high, as the unit weighs its pixels."""
    rgb = as_image(image)[:, :, ::-1].astype(np.float32)
    strength = (np.clip(field, 0, 1) ** gamma).astype(np.float32)[..., None]
    light = rgb * (0.34 + 0.72 * strength) + np.array([70, 34, 0], np.float32) * strength
    shown: Array = np.clip(light, 0, 255).astype(np.uint8)
    return shown


def placed(field: Array, origin: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """`field` in an image of `shape` (H, W, ...), its first pixel at `origin` (row, column)."""
    frame = Region(origin[0], origin[0] + field.shape[0], origin[1], origin[1] + field.shape[1])
    inside = frame.within(Region(0, shape[0], 0, shape[1]))
    full = np.zeros(shape[:2])
    full[inside.of(Region(0, shape[0], 0, shape[1]))] = field[inside.of(frame)]
    return full


def outline_field(axes: Axes, field: EffectiveReceptiveField, objects: Pair | None = None) -> None:
    """The theoretical box, the two-sigma ellipse and the range of object sizes, all to scale."""
    from matplotlib.patches import Ellipse

    rows, columns = field.map.shape
    top, left = field.origin
    outline(axes, left - 0.5, top - 0.5, columns, rows, SEES)
    (down, across), (y, x) = field.two_sigma, field.centroid
    axes.add_patch(Ellipse((x, y), across, down, fill=False, edgecolor=LOOKS, linewidth=2.2))
    if objects is not None:
        cy, cx = top + (rows - 1) / 2, left + (columns - 1) / 2
        for side in objects:
            outline(axes, cx - side / 2, cy - side / 2, side, side, OBJECTS, linestyle=(0, (4, 2)))


def outline(
    axes: Axes, x: float, y: float, width: float, height: float, color: str, **style: Any
) -> None:
    """A rectangle without a face."""
    from matplotlib.patches import Rectangle

    style = {"linewidth": 2.0, **style}
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, **style))


def pixels(size: tuple[float, float]) -> str:
    """(rows, columns) as "55 px" or, where they differ, "21 × 22 px" (width first)."""
    down, across = (round(side) for side in size)
    return f"{down} px" if down == across else f"{across} × {down} px"


def key(figure: Figure, entries: list[tuple[str, str]]) -> None:
    """A line under the figure that says what its colours mean: (colour, words)."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=2.6, label=words) for color, words in entries]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
        columnspacing=1.4,
    )
