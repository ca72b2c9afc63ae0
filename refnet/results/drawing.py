"""Results drawn over an image. Lines and points grow with the image, so that both read at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from refnet.detection.detections import Detections
from refnet.faces.crops import square_crop
from refnet.faces.landmarks import Landmarks
from refnet.faces.schemes import CLOSED
from refnet.media.images import as_image, opencv
from refnet.ops import Array

Colour = tuple[int, int, int]  # B, G, R

BOX: Colour = (80, 200, 120)
POINT: Colour = (255, 255, 255)
PARTS: Mapping[str, Colour] = {
    "contour": (230, 180, 60),
    "left_brow": (90, 200, 250),
    "right_brow": (90, 200, 250),
    "nose_bridge": (120, 220, 120),
    "nostrils": (120, 220, 120),
    "left_eye": (250, 160, 250),
    "right_eye": (250, 160, 250),
    "outer_lip": (110, 110, 250),
    "inner_lip": (110, 110, 250),
}
#: Faces whose crop is smaller, in pixels, are drawn without dots.
SMALL_FACE = 120
_SHIFT = 4  # cv2 draws at 1/16 pixel with this many fractional bits


class Drawable(Protocol):
    """What is drawn of a face; `refnet.Face` is one."""

    @property
    def box(self) -> Array: ...

    @property
    def score(self) -> float: ...

    @property
    def landmarks(self) -> Array | None: ...

    @property
    def track_id(self) -> int | None: ...


def draw_boxes(image: Any, boxes: Array, labels: Sequence[str] = (), colour: Colour = BOX) -> Array:
    """A copy of `image` (uint8 (H, W, 3) BGR, or PIL) with `boxes` (F, 4) xyxy and their labels."""
    cv2, canvas = opencv(), as_image(image).copy()
    thickness = _thickness(canvas)
    for i, box in enumerate(np.asarray(boxes, np.float64).reshape(-1, 4)):
        corners = _fixed(box.reshape(2, 2))
        cv2.rectangle(canvas, *map(tuple, corners), colour, thickness, cv2.LINE_AA, _SHIFT)
        if i < len(labels):
            _label(canvas, labels[i], box, colour, thickness)
    return canvas


def draw_landmarks(image: Any, landmarks: Landmarks) -> Array:
    """A copy of `image` with the parts of every face as lines and its points as dots.

    Sizes follow each face: a small face in a large picture keeps fine lines, and shows lines alone
    where dots would run together.
    """
    cv2, canvas = opencv(), as_image(image).copy()
    for points, crop in zip(landmarks.points, landmarks.crops, strict=True):
        radius = max(1.0, crop[2] / 140)
        thickness = max(1, round(crop[2] / 260))
        for part, indices in landmarks.scheme.items():
            line = _fixed(points[list(indices)])
            colour = PARTS.get(part, POINT)
            cv2.polylines(canvas, [line], part in CLOSED, colour, thickness, cv2.LINE_AA, _SHIFT)
        if landmarks.scheme and crop[2] < SMALL_FACE:
            continue
        for point in _fixed(points):
            cv2.circle(
                canvas, tuple(point), round(radius * 2**_SHIFT), POINT, -1, cv2.LINE_AA, _SHIFT
            )
    return canvas


def draw_faces(image: Any, faces: Sequence[Drawable], *, scores: bool = True) -> Array:
    """A copy of `image` with the boxes of `faces`, their tracks or scores, and their landmarks."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    labels = [_name(face) for face in faces] if scores else []
    canvas = draw_boxes(image, boxes, labels)
    for face in faces:
        if face.landmarks is not None:
            crop = np.array([square_crop(face.box)])
            landmarks = Landmarks(face.landmarks[None], face.box[None], crop)
            canvas = draw_landmarks(canvas, landmarks)
    return canvas


def draw_detections(image: Any, found: Detections) -> Array:
    """A copy of `image` with the boxes of `found`, their classes and scores."""
    return draw_boxes(image, found.boxes, [f"{name} {score:.2f}" for _, score, name in found])


def _name(face: Drawable) -> str:
    return f"{face.score:.2f}" if face.track_id is None else f"{face.track_id}: {face.score:.2f}"


def _thickness(image: Array) -> int:
    return max(1, round(int(max(image.shape[:2])) / 500))


def _fixed(points: Array) -> Array:
    """Coordinates in OpenCV's fixed point, held within what its int32 can carry."""
    limit = 2.0**26
    fixed: Array = np.round(np.clip(points, -limit, limit) * 2**_SHIFT).astype(np.int32)
    return fixed


def _label(canvas: Array, text: str, box: Array, colour: Colour, thickness: int) -> None:
    """`text` on a filled tag over the box's upper edge, inside the picture."""
    cv2 = opencv()
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * max(1.0, max(canvas.shape[:2]) / 900)
    (width, height), base = cv2.getTextSize(text, font, size, max(1, thickness // 2))
    pad = max(2, base // 2)
    x = int(np.clip(box[0], 0, max(0, canvas.shape[1] - width - 2 * pad)))
    y = int(np.clip(box[1], height + 2 * pad, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - height - 2 * pad), (x + width + 2 * pad, y), colour, cv2.FILLED)
    ink = (20, 20, 20)
    cv2.putText(
        canvas, text, (x + pad, y - pad), font, size, ink, max(1, thickness // 2), cv2.LINE_AA
    )
