"""A field as light on the image that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

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
    outline_field,
    pixels,
    placed,
)
from refnet.ops import Array, Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def heat_map(
    field: EffectiveReceptiveField,
    *,
    image: Array | None = None,
    objects: Pair | None = None,
    title: str | None = None,
) -> Figure:
    """The field with its theoretical box, its two-sigma ellipse and the range of object sizes.

    Args:
        image: uint8 (H, W, 3) BGR, the one that the field's unit belongs to; drawn behind.
        objects: (lower, upper) in pixels, drawn to scale around the unit's centre.

    Raises:
        DependencyError: matplotlib is absent.
    """
    return comparison({title or _title(field): field}, image=image, objects=objects)


def comparison(
    fields: Mapping[str, EffectiveReceptiveField],
    *,
    image: Array | None = None,
    objects: Pair | None = None,
) -> Figure:
    """Several fields of one unit beside each other, such as before and after training: {title: field}.

    All are drawn to one scale. `image` and `objects` are those of `heat_map`.

    Raises:
        DependencyError: matplotlib is absent.
    """
    last = list(fields.values())[-1]
    # A linear network's field is the same at every unit, so all may be drawn at the last one's.
    fields = {title: replace(field, origin=last.origin) for title, field in fields.items()}
    # One field on its whole image; of several, what differs is inside.
    left, top, right, bottom = _limits(last, image if len(fields) == 1 else None)
    width = 4.7 if len(fields) == 1 else 3.9
    height = width * (bottom - top) / (right - left)
    figure = new_figure(1.1 + width * len(fields), 1.3 + height, layout="compressed")
    panels = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    for axes, (title, field) in zip(panels, fields.items(), strict=True):
        _draw(axes, field, image)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_aspect("equal")
        outline_field(axes, field, objects)
        looks = pixels(field.two_sigma)
        axes.set_title(title if len(fields) == 1 else f"{title}: {looks}", fontsize=13)
        axes.set_xlabel("column, px")
    panels[0].set_ylabel("row, px")
    looks = f"looks at {pixels(last.two_sigma)} (2σ)" if len(fields) == 1 else "looks at (2σ)"
    entries = [(SEES, f"sees {pixels(last.map.shape)}"), (LOOKS, looks)]
    if objects is not None:
        entries.append((OBJECTS, f"looks for {objects[0]} to {objects[1]} px"))
    key(figure, entries)
    return figure


def _title(field: EffectiveReceptiveField) -> str:
    return f"{field.network}, {field.output}: one unit"


def _limits(
    field: EffectiveReceptiveField, image: Array | None
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of all that the field and the image cover, and a margin."""
    rows, columns = field.map.shape
    top, left = field.origin
    bottom, right = top + rows, left + columns
    if image is not None:
        height, width = image.shape[:2]
        top, left, bottom, right = min(top, 0), min(left, 0), max(bottom, height), max(right, width)
    margin = 0.03 * max(rows, columns)
    return left - margin, top - margin, right + margin, bottom + margin


def _draw(axes: Axes, field: EffectiveReceptiveField, image: Array | None) -> None:
    """The field as light: on the image, or on its own."""
    axes.set_facecolor(NIGHT)
    if image is not None:
        height, width = image.shape[:2]
        light = placed(even(field), field.origin, image.shape)
        axes.imshow(lit(image, light), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        return
    top, left = field.origin
    bottom, right = top + field.map.shape[0], left + field.map.shape[1]
    extent = (left - 0.5, right - 0.5, bottom - 0.5, top - 0.5)
    axes.imshow(glow(field.map), extent=extent, interpolation="antialiased")
