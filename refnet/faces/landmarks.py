"""Facial landmarks: from an image and boxes of faces to points.

A face's crop is a square about the middle of its box, its side the box's longer side times `margin`,
black outside the image, resized bilinearly to the network's input. Points come back as fractions of
the crop's side from its top left corner, and are mapped to image pixels by X = x0 + x · side.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.faces.schemes import WFLW_98
from refnet.media.images import as_image, opencv
from refnet.model import Model, load
from refnet.ops import Array

#: The network whose released weights find landmarks where nobody asks for another.
USUAL_NETWORK = "pfld-ultralight-slim"

#: value · scale + shift turns a pixel into what a network of this name was trained on.
SCALING: Mapping[str, tuple[float, float]] = {"pfld-polaris": (1 / 255, 0.0)}
USUAL_SCALING = (2 / 255, -1.0)

#: A crop may reach this many times the image's longer side beyond what is useful; a larger box is an
#: error of its maker, and would only fill memory with black.
LARGEST_CROP = 4

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
    def groups(self) -> Mapping[str, range]:
        """{part: indices into the points}, where the number of points tells the scheme; else empty."""
        return WFLW_98 if self.points.shape[1] == 98 else {}

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
        channel_order: "bgr" or "rgb", the order that the network was trained on. All published
            training code feeds BGR.
        passes: 2 cuts every face again about the points that the first pass found, as the training
            crops were cut; closer where boxes come from a detector, at twice the time.
        options: as in `refnet.load`: backend, threads, and the network's own.

    Raises:
        OptionError: the network is not one that finds landmarks, or an argument is out of range.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] = USUAL_NETWORK,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        margin: float = 1.0,
        channel_order: str = "bgr",
        passes: int = 1,
        **options: Any,
    ) -> None:
        self.model = model if isinstance(model, Model) else load(model, weights, **options)
        graph = self.model.graph
        if "landmarks" not in graph.outputs:
            raise OptionError(f"{graph.name} finds no landmarks; use a network of the PFLD family")
        if not 0 < margin <= 4:
            raise OptionError(f"margin is a factor above 0 and at most 4, not {margin!r}")
        if channel_order not in ("bgr", "rgb"):
            raise OptionError(f"channel_order is 'bgr' or 'rgb', not {channel_order!r}")
        if passes not in (1, 2):
            raise OptionError(f"passes is 1 or 2, not {passes!r}")
        self.passes = passes
        self.margin = float(margin)
        self.channel_order = channel_order

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
            (one[:, None, :2] + part * one[:, None, 2:]).astype(np.float32)
            for part, one in zip(np.split(fractions, ends)[:-1], crops, strict=True)
        ]

    def predict_crops(self, crops: Array) -> Array:
        """The landmarks of crops that are already cut: (F, K, 2) float32, fractions of the crop.

        Args:
            crops: uint8 (F, side, side, 3) in BGR order, of the network's input size.
        """
        outputs = self.model(self.preprocess(crops))
        landmarks = outputs[-1] if isinstance(outputs, tuple) else outputs
        return landmarks.reshape(len(crops), landmarks.shape[1] // 2, 2)

    def preprocess(self, crops: Array) -> Array:
        """What the network is fed for `crops`: float32 (F, 3, side, side)."""
        if self.channel_order == "rgb":
            crops = crops[..., ::-1]
        scale, shift = SCALING.get(self.model.graph.name, USUAL_SCALING)
        return np.ascontiguousarray(
            (crops * np.float32(scale) + np.float32(shift)).transpose(0, 3, 1, 2)
        )


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


def square_crop(box: Array, margin: float = 1.0) -> tuple[int, int, int]:
    """(x0, y0, side) of the square about the middle of `box` (xyxy), in whole pixels."""
    x1, y1, x2, y2 = map(float, box)
    side = max(1, math.floor(max(x2 - x1, y2 - y1) * margin + 0.5))
    return math.floor((x1 + x2 - side) / 2), math.floor((y1 + y2 - side) / 2), side


def cut(image: Array, crop: tuple[int, int, int] | Array, size: int) -> Array:
    """The square `crop` (x0, y0, side) of `image`, black outside, as uint8 (size, size, 3).

    Raises:
        ShapeError: the crop is far larger than the image.
    """
    x0, y0, side = map(int, crop)
    height, width = image.shape[:2]
    if side > LARGEST_CROP * max(height, width):
        raise ShapeError(
            f"a crop of {side} pixels is more than {LARGEST_CROP} times the {width}×{height} image; are "
            "the boxes in pixels of this image?"
        )
    region = np.zeros((side, side, 3), np.uint8)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + side, width), min(y0 + side, height)
    if right > left and bottom > top:
        region[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    if side == size:
        return region
    cv2 = opencv()
    return np.asarray(cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR))
