"""How good a face detector is on photos with boxes by hand that no training has seen.

`on_validation(detect, data)` measures any function from an image to boxes and scores on
DATA/validation/wider_val: every photo is resized to a longer side of 640 pixels and looked at once, faces
of 20 pixels or more on the longer side count, smaller ones and those marked invalid are neither asked for
nor false when found. A box is true at an IoU of 0.5; a second box on one face is false.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from refnet.detection.boxes import iou
from refnet.media.images import read_image
from refnet.ops import Array
from refnet.training.metrics import average_precision, matched

#: Longer side of a photo as the detector sees it, and the smallest face that counts on it.
SIDE, SMALLEST = 640, 20
#: Recall is reported at this many false boxes a photo.
FALSE_BOXES = 0.5
#: {group: (column, lower, upper)} of the faces whose recall is reported alone.
GROUPS: Mapping[str, tuple[str, float, float]] = {
    "20 to 32 px": ("side", 20, 32),
    "32 to 64 px": ("side", 32, 64),
    "64 to 128 px": ("side", 64, 128),
    "128 px and more": ("side", 128, np.inf),
    "sharp": ("blur", 0, 1),
    "some blur": ("blur", 1, 2),
    "heavy blur": ("blur", 2, 3),
    "not occluded": ("occlusion", 0, 1),
    "partly occluded": ("occlusion", 1, 2),
    "heavily occluded": ("occlusion", 2, 3),
}
COLUMNS = ("x1", "y1", "x2", "y2", "blur", "occlusion", "pose", "invalid")

#: From a uint8 (H, W, 3) BGR image to boxes (D, 4) xyxy and scores (D,).
Detect = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Truth:
    """One photo of the validation set, at its longer side of `SIDE`.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        boxes: (B, 4) float64.
        columns: {"side", "blur", "occlusion": (B,)}.
        ignored: (B,) bool.
    """

    image: Array
    boxes: Array
    columns: Mapping[str, Array]
    ignored: Array


def truths(folder: Path) -> list[Truth]:
    """The photos of `folder`, which holds images/ and boxes.csv."""
    rows: dict[str, list[list[float]]] = {}
    with open(folder / "boxes.csv", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["image"], []).append([float(row[c] or 0) for c in COLUMNS])
    found = []
    for name, own in rows.items():
        image, table = read_image(folder / "images" / name), np.array(own)
        scale = SIDE / max(image.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=method))
        solid = ((table[:, 2:4] - table[:, :2]) > 1).all(axis=1)
        table = table[solid]
        boxes = table[:, :4] * scale
        side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        columns = {"side": side, "blur": table[:, 4], "occlusion": table[:, 5]}
        ignored = (side < SMALLEST) | (table[:, 7] > 0)
        found.append(Truth(image, boxes, columns, ignored))
    return found


def figures(detect: Detect, photos: list[Truth]) -> dict[str, float]:
    """AP@0.5, and recall at half a false box a photo: of all faces and of each group."""
    detections = [detect(photo.image) for photo in photos]
    boxes, ignored = [p.boxes for p in photos], [p.ignored for p in photos]
    curve = average_precision(detections, boxes, ignored=ignored)
    false = np.arange(1, len(curve.recall) + 1) * (1 - curve.precision)
    allowed = np.flatnonzero(false <= FALSE_BOXES * len(photos))
    last = int(allowed[-1]) if len(allowed) else 0
    least = float(curve.scores[last]) if len(curve.scores) else 1.0
    result = {
        "AP@0.5": curve.value,
        "recall": float(curve.recall[last]) if len(curve.recall) else 0.0,
    }
    hits = [_found(d, p, least) for d, p in zip(detections, photos, strict=True)]
    for group, (column, lower, upper) in GROUPS.items():
        inside = [
            (p.columns[column] >= lower) & (p.columns[column] < upper) & ~p.ignored for p in photos
        ]
        total = sum(int(mask.sum()) for mask in inside)
        seen = sum(int((hit & mask).sum()) for hit, mask in zip(hits, inside, strict=True))
        result[f"recall, {group}"] = seen / max(1, total)
    return result


def _found(detections: tuple[Array, Array], photo: Truth, least: float) -> Array:
    """(B,) bool: the true boxes that a detection with at least this score hits."""
    boxes, scores = detections
    ranked = np.asarray(boxes)[np.argsort(-np.asarray(scores), kind="stable")]
    ranked = ranked[: int((np.asarray(scores) >= least).sum())]
    hit, _ = matched(ranked, photo.boxes, ignored=photo.ignored)
    found = np.zeros(len(photo.boxes), bool)
    if hit.any():  # a hit takes the true box of its best IoU
        found[iou(ranked[hit], photo.boxes).argmax(axis=1)] = True
    return found


def on_validation(detect: Detect, data: Path) -> dict[str, float]:
    """`figures` on `data`/validation/wider_val; empty where it is not there."""
    folder = data / "validation" / "wider_val"
    return figures(detect, truths(folder)) if (folder / "boxes.csv").exists() else {}
