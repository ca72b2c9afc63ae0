"""How good a face detector is: on photos set aside, and on people's photos of other makers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refnet.detection.boxes import iou
from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.media.images import read_image
from refnet.model import Model
from refnet.ops import Array
from refnet.training.annotations import landmark_faces, table
from refnet.training.metrics import average_precision
from weights.recipes.detection_data import SURE, face_box

#: The smallest face that counts, longer side in input pixels.
SMALLEST = 20
Labelled = tuple[Array, Array, Array]  # image, boxes (B, 4), ignored (B,)


def precision(model: Model, photos: Sequence[Labelled], smallest: float = SMALLEST) -> float:
    """AP@0.5 for faces of at least `smallest` pixels; smaller ones are ignored."""
    detector = Detector(model, threshold=0.05)
    found, truths, masks = [], [], []
    for image, boxes, ignored in photos:
        detections = detector.detect(image)
        found.append((detections.boxes, detections.scores))
        truths.append(boxes)
        masks.append(ignored | ((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) < smallest))
    return average_precision(found, truths, ignored=masks).value


def on_validation(model: Model, data: Path) -> dict[str, float]:
    """Figures on `data`/validation: dlib's sample photos and photos of crowds, where they are there.

    dlib's boxes reach from the brows to the chin and leave the face's middle; true boxes are made from
    its 68 points instead, as those of the training crops are made from theirs.
    """
    figures: dict[str, float] = {}
    crowds = data / "validation" / "crowds"
    listing = crowds / "images_faces_pseudo.csv"
    if listing.exists():
        entries = list(table(listing, crowds / "images", score=SURE))
        photos = [(read_image(entry.image), entry.boxes, entry.ignored) for entry in entries]
        figures[f"AP@0.5 on {len(photos)} photos of crowds"] = precision(model, photos)
    dlib = data / "validation" / "dlib_faces"
    if dlib.is_dir():
        by_photo: dict[Path, list[Array]] = {}
        for face in landmark_faces(dlib):
            by_photo.setdefault(face.image, []).append(face_box(face.points))
        detector = Detector(model)
        found = [(detector.detect(read_image(p)), np.stack(b)) for p, b in by_photo.items()]
        total = sum(len(boxes) for _, boxes in found)
        hits, false = zip(*(_found(*pair) for pair in found), strict=True)
        at = f"at {detector.threshold:g} on dlib's {len(found)} photos"
        figures[f"faces of {total} found {at}"] = float(sum(hits))
        figures[f"false boxes {at}"] = float(sum(false))
    return figures


def _found(detections: Detections, boxes: Array) -> tuple[int, int]:
    """(true boxes found, detections that lie on none), at an IoU of 0.5 and 0.3."""
    if not len(detections):
        return 0, 0
    overlap = iou(detections.boxes, boxes)
    return int((overlap.max(axis=0) >= 0.5).sum()), int((overlap.max(axis=1) < 0.3).sum())
