"""Facial landmarks: from an image and boxes of faces to points.

A face's crop (`refnet.faces.crops`) is resized to the network's input. Points come back as fractions of
the crop's side from its top left corner, and are mapped to image pixels by X = x0 + x · side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet.arguments import CalledWithImages, explicit, shown, unknown_attribute
from refnet.arrays import Array
from refnet.detection.detections import Detections
from refnet.errors import OptionError, ShapeError
from refnet.faces.crops import LARGEST_CROP, cut, square_crop
from refnet.faces.schemes import parts_of
from refnet.media.images import Image, as_image, as_images
from refnet.model import Net, model_for, name_of
from refnet.networks.defaults import LANDMARKER, LANDMARKERS, Defaults, check_landmarks, defaults_of

#: Side of a refined crop over the longer side of the points that were found first: that of training crops.
REFINED_MARGIN = 1.2

#: More crops than this go through the network in several calls, which bounds memory.
CROPS_AT_ONCE = 64


#: What other libraries call what is here.
ELSEWHERE: Mapping[str, str] = {
    "groups": "parts(i)",
    "keypoints": "points",
    "kps": "points",
    "landmarks": "points",
    "to_dict": "to_dicts",
}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of the faces of one image: a sequence of (K, 2), one a face.

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

    def __iter__(self) -> Iterator[Array]:
        return iter(self.points)

    def __getitem__(self, index: Any) -> Array:
        """The points of face `index`, (K, 2); of several for a slice or a mask."""
        found: Array = self.points[index]
        return found

    def parts(self, index: int) -> dict[str, Array]:
        """{part, such as "left_eye": its points (n, 2)} of face `index`; left and right are the image's.

        Empty where the number of points is not a scheme with named parts.
        """
        return {name: self.points[index][list(own)] for name, own in self.scheme.items()}

    @property
    def scheme(self) -> Mapping[str, range]:
        """{part: indices into the points}, where the number of points tells the scheme; else empty."""
        return parts_of(self.points.shape[1])

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a face, of plain numbers: box, crop, points."""
        return [
            {
                "box": [round(float(v), 3) for v in box],
                "crop": dict(zip(("x", "y", "side"), map(int, crop), strict=True)),
                "points": [[round(float(x), 3), round(float(y), 3)] for x, y in points],
            }
            for points, box, crop in zip(self.points, self.boxes, self.crops, strict=True)
        ]

    def __repr__(self) -> str:
        return f"<Landmarks of {len(self)}, {self.points.shape[1]} points each>"

    if not TYPE_CHECKING:  # a type checker is to notice names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, ELSEWHERE)


class FaceLandmarker(CalledWithImages):
    """Finds the landmarks of faces whose boxes are known.

    Args:
        model: a network of the PFLD family: a `Model`, a name from `refnet.networks()` or a
            checkpoint's path; the one that refnet comes with by default.
        weights: as in `refnet.load`, where `model` is a name or a path.
        refine: cut every face again about the points that were found in it first, as the training
            crops were cut; closer where boxes come from a detector, at twice the time.
        margin: side of the first crop over the longer side of the box. 1.0 suits a detector's box from
            forehead to chin; a box that hugs the landmarks wants 1.2, as in training.
        channel_order: "bgr" or "rgb", the order that the network was trained on; by default what
            `defaults` says, which is BGR for all published training code.
        defaults: what the network expects, for one that `refnet.networks.defaults` does not list.
        threads, backend: as in `refnet.load`.

    Attributes:
        model: the network with its weights.
        preprocessing: from a crop's pixels to the network's input.

    Raises:
        OptionError: the network is not one that finds landmarks, or an argument is unknown or out of
            range.
    """

    @explicit
    def __init__(
        self,
        model: Net = LANDMARKER,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        refine: bool = True,
        margin: float = 1.0,
        channel_order: str | None = None,
        defaults: Defaults | None = None,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if not isinstance(margin, int | float) or not 0 < margin <= 4:
            raise OptionError(f"margin is a factor above 0 and at most 4, not {margin!r}")
        if not isinstance(refine, bool):
            raise OptionError(f"refine is True or False, not {refine!r}")
        if (named := name_of(model)) is not None:  # before weights are looked for
            check_landmarks(named, named in LANDMARKERS)
        self.model = model_for(model, weights, threads=threads, backend=backend)
        graph = self.model.graph
        check_landmarks(graph.name, "landmarks" in graph.outputs)
        self.refine, self.margin = refine, float(margin)
        self.preprocessing = (defaults or defaults_of(graph)).preprocessing
        self._usual_order = self.preprocessing.channel_order
        if channel_order is not None:
            self.preprocessing = replace(self.preprocessing, channel_order=channel_order)

    def __repr__(self) -> str:
        own = {
            "refine": (self.refine, True),
            "margin": (self.margin, 1.0),
            "channel_order": (self.preprocessing.channel_order, self._usual_order),
        }
        return shown(type(self), self.model.graph.name, own)

    @explicit
    def __call__(
        self, image: Image, boxes: Detections | Any = None, *, rgb: bool = False
    ) -> Landmarks:
        """The landmarks of every face.

        Args:
            image: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in BGR order or
                (H, W).
            boxes: what a detector found; or (F, 4) or (4,), xyxy in image pixels, which may leave the
                image. None takes the whole image as one face.
            rgb: the array's channels are in the order R, G, B.

        Raises:
            FileError: there is no such file. ImageError: it is no image.
            ShapeError: `boxes` are no boxes.
        """
        pixels = as_image(image, rgb=rgb)
        if boxes is None:
            boxes = [0, 0, pixels.shape[1], pixels.shape[0]]
        return self.batch([pixels], [boxes])[0]

    @explicit
    def batch(
        self,
        images: Iterable[Image],
        boxes: Iterable[Detections | Any],
        *,
        rgb: bool = False,
    ) -> list[Landmarks]:
        """The landmarks of every face of several images, all crops as one batch.

        Args:
            images, rgb: as in a call.
            boxes: per image, as in a call.

        Raises:
            As a call. ShapeError: there are more images than boxes, or fewer.
        """
        pixels = as_images(images, rgb=rgb)
        checked = [
            checked_boxes(of_one.uncut if isinstance(of_one, Detections) else of_one)
            for of_one in boxes
        ]
        if len(checked) != len(pixels):
            raise ShapeError(
                f"boxes are given for each image; there are {len(pixels)} images and {len(checked)} "
                "times boxes"
            )
        crops = [_crops(of_one, self.margin) for of_one in checked]
        points = self._located(pixels, crops)
        if self.refine:
            crops = [_refined(*found) for found in zip(points, crops, pixels, strict=True)]
            points = self._located(pixels, crops)
        return [Landmarks(*found) for found in zip(points, checked, crops, strict=True)]

    def refined(self, image: Array, boxes: Array) -> Array:
        """The points (F, K, 2) of faces whose points in the frame before fill `boxes` (F, 4).

        Args:
            image: uint8 (H, W, 3) BGR.
        """
        return self._located([image], [_crops(boxes, REFINED_MARGIN)])[0]

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


def _refined(points: Array, crops: Array, image: Array) -> Array:
    """Square crops (F, 3) about `points` (F, K, 2); the old one where the points are far off `image`."""
    found = _crops(np.concatenate([points.min(1), points.max(1)], axis=1), REFINED_MARGIN)
    usable = found[:, 2:] <= LARGEST_CROP * max(image.shape[:2])
    return np.where(usable, found, crops)


def _crops(boxes: Array, margin: float) -> Array:
    """The square crops (F, 3) of boxes (F, 4)."""
    return np.array([square_crop(box, margin) for box in boxes], np.int64).reshape(-1, 3)
