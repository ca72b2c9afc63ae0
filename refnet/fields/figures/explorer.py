"""A page to explore fields with: point at a place, choose a branch and a threshold, read the numbers.

The page is one file that loads nothing: maps travel as deflated float32 inside it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from refnet.errors import OptionError
from refnet.fields.branches import Branch
from refnet.fields.effective_receptive_field import EffectiveReceptiveField
from refnet.graph import Graph
from refnet.media.images import as_image, opencv
from refnet.ops import Array, Pair


def explorer(
    graph: Graph,
    fields: Sequence[tuple[Branch, EffectiveReceptiveField]],
    *,
    image: Array | None = None,
) -> str:
    """The page, as HTML.

    A branch's map was measured at one unit; the page shows it at any other.

    Args:
        graph: the network of the fields.
        fields: the branches with their fields; branches without a place, vectors, are left out.
        image: uint8 (H, W, 3) BGR to point at, of a size that the network takes; the graph's input
            size, empty, by default.

    Raises:
        OptionError: no branch has a place to point at.
        ShapeError: the network cannot take the image's size.
    """
    height, width = graph.input_shape[1:] if image is None else as_image(image).shape[:2]
    shapes = graph.shapes((graph.input_shape[0], height, width))
    placed = [(b, f) for b, f in fields if len(shapes[b.tensor]) == 3]
    if not placed:
        raise OptionError(f"no branch of {graph.name} is a map, so there is no unit to point at")
    data = {
        "network": graph.name,
        "size": [height, width],
        "image": None if image is None else _jpeg(image),
        "branches": [_branch(b, f, (shapes[b.tensor][1], shapes[b.tensor][2])) for b, f in placed],
    }
    template = resources.files("refnet.fields.figures").joinpath("explorer.html").read_text("utf-8")
    # "<" would let a name end the script element.
    return template.replace("__DATA__", json.dumps(data).replace("<", "\\u003c"))


def _branch(branch: Branch, field: EffectiveReceptiveField, units: Pair) -> dict[str, Any]:
    rows, columns = field.field.rows, field.field.columns
    (down, across), (y, x) = field.two_sigma, field.centroid
    deflated = zlib.compress(field.map.astype("<f4").tobytes(), 9)
    return {
        "number": branch.number,
        "tensor": branch.tensor,
        "objects": branch.objects,
        "units": units,
        "first": [rows.first, columns.first],
        "jump": field.field.jump,
        "size": field.map.shape,
        "twoSigma": [down, across],
        "centroid": [y - field.origin[0], x - field.origin[1]],
        "luo": field.luo_width,
        "window": field.window,
        "gaussian": [[g.sigma, g.residual] for g in field.gaussian],
        "samples": field.samples,
        "map": base64.b64encode(deflated).decode("ascii"),
    }


def _jpeg(image: Array) -> str:
    done, encoded = opencv().imencode(".jpg", as_image(image))
    assert done  # a checked uint8 image
    return "data:image/jpeg;base64," + base64.b64encode(np.asarray(encoded).tobytes()).decode(
        "ascii"
    )
