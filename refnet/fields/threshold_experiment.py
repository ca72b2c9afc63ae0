"""A well-known measurement of receptive fields by thresholds: as published, step by step, and corrected.

TinyNet, all weights 0.05, all biases 0; an image of ones, 640 × 640; the gradient of output (0, 0, 64,
64) by the image's first channel; divided by its peak; for the effective field, set to 1 above a
threshold and to 0 elsewhere; times 255, cast to uint8; dilated once by a 5 × 5 box; the bounding
rectangle of the first external contour. That prints (55, 55), (15, 15) and (11, 11). The true sizes are
55, 11 and 7, and `EXPLANATION` says why they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refnet.fields.branches import branches
from refnet.fields.effective_receptive_field import (
    EffectiveReceptiveField,
    constant_weights,
    effective_receptive_field,
)
from refnet.media.images import opencv
from refnet.model import Model
from refnet.networks import build
from refnet.ops import Array, Pair

#: The network of the experiment.
NETWORK = "tinynet"
SIDE, UNIT, WEIGHT = 640, (64, 64), 0.05

#: The networks of the table, with the label of their branches.
TABLE = {
    "lffd-face-v1": "v1",
    "lffd-face-v2": "v2",
    "lffd-head": "head",
    "lffd-pedestrian": "ped",
    "lffd-plate": "plate",
    "lffd-plate-small": "plate-small",
}

EXPLANATION = (
    "The cast to uint8 drops every gradient below 1/255 of the peak, which shrinks the receptive field "
    "from 55 to 51 pixels, and the 5 × 5 dilation adds the missing 4 again: the printed 55 is right by "
    "the chance of two errors that cancel, and for no other branch do they. "
    "The two strides leave a comb in the gradient, whose teeth are isolated pixels above a high "
    "threshold, so that the dilation is what merges them into one contour. "
    "It also adds 4 pixels to every size it touches, hence 15 and 11 in place of the true 11 and 7. "
    "Where the comb is wider than the dilation the pixels stay apart, and the first contour is "
    "whichever of them OpenCV happens to list first."
)


@dataclass(frozen=True)
class Printed:
    """What the published steps print for one map.

    Attributes:
        size: (width, height) of the first contour's bounding rectangle.
        contours: how many contours there were.
        before: (width, height) around all pixels, before the dilation.
    """

    size: Pair
    contours: int
    before: Pair


def published_gradient() -> Array:
    """The gradient (640, 640), float32, of TinyNet's unit (64, 64) by the first channel of ones."""
    graph = build(NETWORK, input_size=SIDE)
    weights = {name: w.astype(np.float32) for name, w in constant_weights(graph, WEIGHT).items()}
    cotangent = np.zeros((1, *graph.shapes()[graph.outputs[0]]), np.float32)
    cotangent[0, 0, UNIT[0], UNIT[1]] = 1
    image = np.ones((1, *graph.input_shape), np.float32)
    gradient: Array = Model(graph, weights, backend="numpy").vjp(image, cotangent)[0, 0]
    return gradient


def published_steps(gradient: Array, threshold: float | None = None) -> Printed:
    """The published steps that follow the gradient; needs OpenCV."""
    cv2 = opencv()
    field = np.asarray(gradient / gradient.max(), np.float32)
    if threshold is not None:
        field = (field > threshold).astype(np.float32)
    picture = (field * 255).astype(np.uint8)
    dilated = cv2.dilate(picture, np.ones((5, 5), np.uint8), iterations=1)
    contours, _ = cv2.findContours(dilated, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    _, _, width, height = cv2.boundingRect(contours[0])
    _, _, *before = cv2.boundingRect(picture)
    return Printed((width, height), len(contours), (before[0], before[1]))


def as_published() -> tuple[Pair, Pair, Pair]:
    """What the experiment prints: the receptive field, and the effective one above 0.75 and above 0.85."""
    gradient = published_gradient()
    return (
        published_steps(gradient).size,
        published_steps(gradient, 0.75).size,
        published_steps(gradient, 0.85).size,
    )


def corrected() -> tuple[int, int, int]:
    """The true sizes: the support of the float64 gradient, and the boxes above 0.75 and above 0.85."""
    field = effective_receptive_field(build(NETWORK), channels=0, constant=WEIGHT)
    return _side(field, 0.0), _side(field, 0.75), _side(field, 0.85)


@dataclass(frozen=True)
class Row:
    """One branch of the table: what the constant-weight experiment measures, and what the steps print."""

    label: str
    receptive_field: int
    raw: tuple[int, int, int]
    luo: float
    two_sigma: float
    window: int
    script: tuple[Printed, Printed, Printed]

    def as_data(self) -> dict[str, object]:
        """JSON-able."""
        keys = ("receptive_field", "above_0.75", "above_0.85")
        return {
            "branch": self.label,
            "receptive_field": self.receptive_field,
            "boxes": dict(zip(("0.5", "0.75", "0.85"), self.raw, strict=True)),
            "luo": self.luo,
            "two_sigma": self.two_sigma,
            "window": self.window,
            "after_uint8": self.script[0].before[0],
            "script": {
                key: {"size": printed.size, "contours": printed.contours}
                for key, printed in zip(keys, self.script, strict=True)
            },
        }


def table() -> list[Row]:
    """The constant-weight experiment on every branch of every LFFD network."""
    rows = []
    for network, label in TABLE.items():
        graph = build(network)
        for branch in branches(graph):
            field = effective_receptive_field(graph, branch.tensor, constant=WEIGHT)
            rows.append(_row(f"{label}-{branch.number}", field))
    return rows


def _row(label: str, field: EffectiveReceptiveField) -> Row:
    margin = np.pad(field.map, 8)  # the dilation needs room, as there is in an image
    return Row(
        label,
        field.field.size[0],
        (_side(field, 0.5), _side(field, 0.75), _side(field, 0.85)),
        field.luo_width,
        field.two_sigma[0],
        field.window,
        (published_steps(margin), published_steps(margin, 0.75), published_steps(margin, 0.85)),
    )


def _side(field: EffectiveReceptiveField, threshold: float) -> int:
    x1, _, x2, _ = field.threshold_box(threshold)
    return x2 - x1
