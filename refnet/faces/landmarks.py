"""Facial landmarks: from an image and boxes of faces to points.

A face's crop (`refnet.faces.crops`) is resized to the network's input. Points come back as fractions of
the crop's side from its top left corner, and are mapped to image pixels by X = x0 + x · side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError, ShapeError
from refnet.faces.crops import cut, square_crop
from refnet.faces.schemes import parts_of
from refnet.media.images import as_image
from refnet.model import Model, model_for
from refnet.networks.defaults import LANDMARKER, Defaults, defaults_of

#: Side of a second pass's crop over the longer side of the first pass's points: that of training crops.
SECOND_MARGIN = 1.2

#: More crops than this go through the network in several calls, which bounds memory.
CROPS_AT_ONCE = 64


@dataclass(frozen=True)
class Landmarks:
    """Points of the faces of one image.

    Attributes:
        points: (F, K, 2) float32, x and y in image pixels; points may leave the image.
        boxes: (F, 4) float32, the xyxy boxes that were asked for.
        crops: (F, 3) int, x0, y0 and side of each face's square crop in image pixels.
    """

    points: Array
    boxes: Array
    crops: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def parts(self) -> Mapping[str, range]:
        """{part: indices into the points}, where the number of points tells the scheme; else empty."""
        return parts_of(self.points.shape[1])

    def to_dict(self) -> list[dict[str, Any]]:
        """One dictionary a face, of plain numbers: box, crop, points."""
        return [
            {
                "box": [round(float(v), 3) for v in box],
                "crop": dict(zip(("x", "y", "side"), map(int, crop), strict=True)),
                "points": [[round(float(x), 3), round(float(y), 3)] for x, y in points],
            }
            for points, box, crop in zip(self.points, self.boxes, self.crops, strict=True)
        ]


class FaceLandmarker:
    """Finds the landmarks of faces whose boxes are known.

    Args:
        model: a network of the PFLD family: a `Model`, a name from `refnet.networks()` or a
            checkpoint's path; the one that refnet comes with by default.
        weights: as in `refnet.load`, where `model` is a name or a path.
        margin: side of the crop over the longer side of the box. 1.0 suits a detector's box from
            forehead to chin; a box that hugs the landmarks wants 1.2, as in training.
        channel_order: "bgr" or "rgb", the order that the network was trained on; by default what
            `defaults` says, which is BGR for all published training code.
        passes: 2 cuts every face again about the points that the first pass found, as the training
            crops were cut; closer where boxes come from a detector, at twice the time.
        defaults: what the network expects, for one that `refnet.networks.defaults` does not list.
        options: as in `refnet.load`: backend, threads, and the network's own.

    Attributes:
        model: the network with its weights.
        preprocessing: from a crop's pixels to the network's input.

    Raises:
        OptionError: the network is not one that finds landmarks, or an argument is unknown or out of
            range.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] = LANDMARKER,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        margin: float = 1.0,
        channel_order: str | None = None,
        passes: int = 1,
        defaults: Defaults | None = None,
        **options: Any,
    ) -> None:
        self.model = model_for(FaceLandmarker, model, weights, options)
        graph = self.model.graph
        if "landmarks" not in graph.outputs:
            raise OptionError(f"{graph.name} finds no landmarks; use a network of the PFLD family")
        if not 0 < margin <= 4:
            raise OptionError(f"margin is a factor above 0 and at most 4, not {margin!r}")
        if passes not in (1, 2):
            raise OptionError(f"passes is 1 or 2, not {passes!r}")
        self.passes = passes
        self.margin = float(margin)
        self.preprocessing = (defaults or defaults_of(graph)).preprocessing
        if channel_order is not None:
            self.preprocessing = replace(self.preprocessing, channel_order=channel_order)

    def predict(self, image: Any, boxes: Any = None, *, rgb: bool = False) -> Landmarks:
        """The landmarks of every face.

        Args:
            image: uint8 (H, W, 3) in BGR order, or a PIL image.
            boxes: (F, 4) or (4,), xyxy in image pixels; may leave the image. None takes the whole
                image as one face.
            rgb: the array's channels are in the order R, G, B.

        Raises:
            ImageError: `image` is no image.
            ShapeError: `boxes` are no boxes.
        """
        image = as_image(image, rgb=rgb)
        if boxes is None:
            boxes = [0, 0, image.shape[1], image.shape[0]]
        return self.predict_batch([image], [boxes])[0]

    def predict_batch(
        self, images: Sequence[Any], boxes: Sequence[Any], *, rgb: bool = False
    ) -> list[Landmarks]:
        """The landmarks of every face of several images, all crops as one batch.

        Args:
            images, rgb: as in `predict`.
            boxes: per image, as in `predict`.

        Raises:
            As `predict`.
        """
        pixels = [as_image(image, rgb=rgb) for image in images]
        checked = [checked_boxes(of_one) for of_one in boxes]
        crops = [_crops(of_one, self.margin) for of_one in checked]
        points = self._located(pixels, crops)
        if self.passes == 2:
            crops = [
                _crops(np.concatenate([of_one.min(1), of_one.max(1)], axis=1), SECOND_MARGIN)
                for of_one in points
            ]
            points = self._located(pixels, crops)
        return [Landmarks(*found) for found in zip(points, checked, crops, strict=True)]

    def _located(self, images: Sequence[Array], crops: Sequence[Array]) -> list[Array]:
        """Per image, the points (F, K, 2) in its pixels of the faces in its crops (F, 3)."""
        side = self.model.graph.input_shape[1]
        cuts = [
            cut(image, crop, side) for image, one in zip(images, crops, strict=True) for crop in one
        ]
        batches = [
            self.predict_crops(np.stack(cuts[at : at + CROPS_AT_ONCE]))
            for at in range(0, len(cuts), CROPS_AT_ONCE)
        ]
        count = self.model.graph.shapes()[self.model.graph.outputs[-1]][-1] // 2
        fractions = np.concatenate([np.zeros((0, count, 2), np.float32), *batches])
        ends = np.cumsum([len(one) for one in crops])
        return [
            (one[:, None, :2] + own * one[:, None, 2:]).astype(np.float32)
            for own, one in zip(np.split(fractions, ends)[:-1], crops, strict=True)
        ]

    def predict_crops(self, crops: Array) -> Array:
        """The landmarks of crops that are already cut: (F, K, 2) float32, fractions of the crop.

        Args:
            crops: uint8 (F, side, side, 3) in BGR order, of the network's input size.
        """
        outputs = self.model(self.preprocessing.apply(crops))
        landmarks = outputs[-1] if isinstance(outputs, tuple) else outputs
        return landmarks.reshape(len(crops), landmarks.shape[1] // 2, 2)


def checked_boxes(boxes: Any) -> Array:
    """`boxes` as float32 (F, 4) xyxy.

    Raises:
        ShapeError: they have another shape, values that are not finite, or no area.
    """
    try:
        array = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):
        raise ShapeError(
            f"boxes are numbers (F, 4), x1, y1, x2, y2 in pixels; got {boxes!r}"
        ) from None
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(f"boxes have shape (F, 4), x1, y1, x2, y2 in pixels; got {array.shape}")
    if not np.isfinite(array).all():
        raise ShapeError("a box holds NaN or infinite values")
    if len(empty := array[(array[:, 2:] <= array[:, :2]).any(axis=1)]):
        raise ShapeError(
            f"a box is x1, y1, x2, y2 with x2 > x1 and y2 > y1; got {empty[0].tolist()}"
        )
    return array


def _crops(boxes: Array, margin: float) -> Array:
    """The square crops (F, 3) of boxes (F, 4)."""
    return np.array([square_crop(box, margin) for box in boxes], np.int64).reshape(-1, 3)
