"""Results as HTML for notebooks: a small table and a drawing, from numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from refnet.arrays import Array, Pair

#: Longer side in pixels of the drawing, and how many rows the table shows.
DRAWING_SIDE, ROWS = 360, 10


def overview(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    size: Pair,
    boxes: Array,
    points: Sequence[Array | None],
) -> str:
    """HTML of a table of `rows` beside an SVG drawing of boxes and points.

    Args:
        title, columns, rows: text, which is escaped here.
        size: (height, width) of the image, in pixels.
        boxes: (N, 4), xyxy in image pixels.
        points: of each box (K, 2), x and y in image pixels, or None.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:ROWS]
    )
    more = f"<p>and {len(rows) - ROWS} more</p>" if len(rows) > ROWS else ""
    table = f"<div><p>{escape(title)}</p><table><tr>{head}</tr>{body}</table>{more}</div>"
    picture = _drawing(size, boxes, points) if len(boxes) else ""
    style = "display:flex;gap:1em;align-items:flex-start"
    return f'<div style="{style}">{picture}{table if rows else f"<p>{escape(title)}</p>"}</div>'


def _drawing(size: Pair, boxes: Array, points: Sequence[Array | None]) -> str:
    """An SVG element of boxes and points on a plain ground, in the coordinates of the image."""
    height, width = size
    scale = DRAWING_SIDE / max(height, width)
    line = 1.5 / scale
    shapes = [f'<rect width="{width}" height="{height}" fill="#20262c"/>']
    for x1, y1, x2, y2 in np.asarray(boxes, float):
        shapes.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
            f'fill="none" stroke="#78c850" stroke-width="{line:.2f}"/>'
        )
    dots = "".join(
        f"M{x:.1f} {y:.1f}h0" for own in points if own is not None for x, y in own.tolist()
    )
    if dots:
        shapes.append(
            f'<path d="{dots}" stroke="#fff" stroke-width="{line:.2f}" stroke-linecap="round"/>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * scale:.0f}" '
        f'height="{height * scale:.0f}" viewBox="0 0 {width} {height}">{"".join(shapes)}</svg>'
    )
