"""Results drawn over an image. Lines, points and text grow with each face, so that all read at any size.

A label never covers a neighbour: it goes where there is room about its box, shrinks to fit, and is left out
where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from refnet.detection.detections import Detections
from refnet.detection.nms import nested
from refnet.faces.crops import square_crop
from refnet.faces.landmarks import Landmarks
from refnet.faces.measures import LEAST_CONFIDENCE
from refnet.faces.schemes import CLOSED, parts_of
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
#: Faces whose crop is smaller, in pixels, are drawn without dots, and with fainter lines the smaller they are.
SMALL_FACE = 120
#: How much of the colour the faintest lines have. Points that are likely to be wrong are drawn so.
FAINT = 0.4
#: Text is this share of its box's longer side high; but, in pixels of the image, at most one 40th of its
#: longer side, and at least one 220th of it and 7.
TEXT, MOST, LEAST, LEAST_PIXELS = 0.11, 40, 220, 7
#: A label is left out that would be wider than this many times its box.
WIDEST = 1.25
_HERSHEY = 22  # pixels of a capital letter of cv2's simplex font at scale 1
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
    def landmark_confidence(self) -> float | None: ...

    @property
    def track_id(self) -> int | None: ...


def draw_boxes(image: Any, boxes: Array, labels: Sequence[str] = (), colour: Colour = BOX) -> Array:
    """A copy of `image` (uint8 (H, W, 3) BGR, or PIL) with `boxes` (F, 4) xyxy and their labels.

    Labels are placed in the order of the boxes, the first with the most room.
    """
    cv2, canvas = opencv(), as_image(image).copy()
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    for box in boxes:
        corners = _fixed(box.reshape(2, 2))
        thickness = _thickness(box, canvas)
        cv2.rectangle(canvas, *map(tuple, corners), colour, thickness, cv2.LINE_AA, _SHIFT)
    taken = boxes.copy()
    for i, label in enumerate(labels[: len(boxes)]):
        tag = _place(label, i, taken, canvas.shape)
        if tag is not None:
            tag.draw(canvas, colour)
            taken = np.concatenate([taken, [tag.box]])
    return canvas


def draw_landmarks(image: Any, landmarks: Landmarks) -> Array:
    """A copy of `image` with the parts of every face as lines and its points as dots.

    Sizes follow each face: a small face in a large picture keeps fine lines, and shows lines alone, more
    faintly, where dots would run together.
    """
    canvas = as_image(image).copy()
    for points, crop in zip(landmarks.points, landmarks.crops, strict=True):
        if not np.isfinite(points).all():  # of a box outside of the image
            continue
        _draw_points(canvas, points, float(crop[2]))
    return canvas


def _draw_points(canvas: Array, points: Array, side: float, *, faint: bool = False) -> None:
    """Draw the points (K, 2) of a face of `side` pixels onto `canvas`; as lines alone where `faint`."""
    cv2 = opencv()
    scheme = parts_of(len(points))
    small = bool(scheme) and (faint or side < SMALL_FACE)
    height, width = canvas.shape[:2]
    margin = max(2, side / 30)
    low = np.clip(points.min(axis=0) - margin, 0, [width, height]).astype(int)
    high = np.clip(points.max(axis=0) + margin + 1, 0, [width, height]).astype(int)
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    drawn = region.copy()
    fixed = _fixed(points - low)
    thickness = max(1, round(side / 260))
    for part, indices in scheme.items():
        line, colour = fixed[list(indices)], PARTS.get(part, POINT)
        cv2.polylines(drawn, [line], part in CLOSED, colour, thickness, cv2.LINE_AA, _SHIFT)
    if not small:
        radius = round(max(1.0, side / 140) * 2**_SHIFT)
        for point in fixed:
            cv2.circle(drawn, tuple(point), radius, POINT, -1, cv2.LINE_AA, _SHIFT)
    share = FAINT if faint else max(FAINT, min(1.0, side / SMALL_FACE)) if small else 1.0
    region[:] = drawn if share == 1 else cv2.addWeighted(drawn, share, region, 1 - share, 0)


def draw_faces(image: Any, faces: Sequence[Drawable], *, scores: bool = True) -> Array:
    """A copy of `image` with the boxes of `faces`, their tracks or scores, and their landmarks.

    Of two boxes that lie in each other about one face, the one with the higher score is drawn, see
    `refnet.detection.nms.nested`. Landmarks of low confidence are drawn faintly.
    """
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    twice = nested(boxes, np.array([face.score for face in faces]))
    faces = [face for face, hide in zip(faces, twice, strict=True) if not hide]
    boxes = boxes[~twice]
    labels = [_name(face) for face in faces] if scores else []
    canvas = as_image(image).copy()
    for face in faces:
        if face.landmarks is not None:
            sure = face.landmark_confidence
            faint = sure is not None and sure < LEAST_CONFIDENCE
            _draw_points(canvas, face.landmarks, square_crop(face.box)[2], faint=faint)
    return draw_boxes(canvas, boxes, labels)


def draw_detections(image: Any, found: Detections) -> Array:
    """A copy of `image` with the boxes of `found`, their classes and scores."""
    return draw_boxes(image, found.boxes, [f"{name} {score:.2f}" for _, score, name in found])


def _name(face: Drawable) -> str:
    return f"{face.score:.2f}" if face.track_id is None else f"{face.track_id}: {face.score:.2f}"


def _thickness(box: Array, image: Array) -> int:
    """Pixels of a box's line: a 90th of the box, and at least a 1600th of the image's longer side."""
    side = float((box[2:] - box[:2]).max())
    longest = int(max(image.shape[:2]))
    return max(1, round(longest / 1600), round(min(side / 90, longest / 250)))


def _fixed(points: Array) -> Array:
    """Coordinates in OpenCV's fixed point, held within what its int32 can carry."""
    limit = 2.0**26
    fixed: Array = np.round(np.clip(points, -limit, limit) * 2**_SHIFT).astype(np.int32)
    return fixed


@dataclass(frozen=True)
class _Tag:
    """A label on a filled ground."""

    text: str
    box: Array  # (4,) whole pixels
    scale: float  # of cv2's font
    pen: int

    def draw(self, canvas: Array, colour: Colour) -> None:
        cv2 = opencv()
        x1, y1, x2, y2 = map(int, self.box)
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
        pad = _pad(self.scale)
        at = (x1 + pad, y2 - pad)
        font, ink = cv2.FONT_HERSHEY_SIMPLEX, (20, 20, 20)
        cv2.putText(canvas, self.text, at, font, self.scale, ink, self.pen, cv2.LINE_AA)


def _place(text: str, index: int, taken: Array, shape: Sequence[int]) -> _Tag | None:
    """The label of box `index`, where it covers nothing; None where there is no room for it.

    Args:
        taken: (N, 4) what is there already: first the boxes of the faces, then tags.
    """
    cv2 = opencv()
    height, width = shape[:2]
    box = taken[index]
    x1, y1, x2, y2 = box
    others = np.delete(taken, index, axis=0)
    longest = max(height, width)
    least = max(LEAST_PIXELS, longest / LEAST)
    wanted = min(TEXT * float((box[2:] - box[:2]).max()), longest / MOST)
    for letters in sorted({max(least, wanted * share) for share in (1, 0.8, 0.6, 0)}, reverse=True):
        scale = letters / _HERSHEY
        pen = max(1, round(letters / 9))
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, pen)
        pad = _pad(scale)
        w, h = w + 2 * pad, h + 2 * pad
        if w > WIDEST * (x2 - x1):
            continue
        places = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2)]
        if 5 * h < y2 - y1 and w < x2 - x1:
            places.append((x1, max(y1, 0)))  # in the box, over the hair
        for x, y in places:
            x, y = round(x), round(y)
            tag = np.array([x, y, x + w, y + h])
            inside = (tag[:2] >= 0).all() and tag[2] <= width and tag[3] <= height
            free = not (
                (np.minimum(tag[2:], others[:, 2:]) > np.maximum(tag[:2], others[:, :2])).all(1)
            ).any()
            if inside and free:
                return _Tag(text, tag, scale, pen)
    return None


def _pad(scale: float) -> int:
    """Pixels about a text."""
    return max(2, round(scale * _HERSHEY / 3))
