"""Detection: from an image to boxes with scores, by LFFD's networks or by BasketNet.

One class runs them all: faces, heads, pedestrians, licence plates, balls. What a network expects and
what its boxes are boxes of is in `refnet.networks.defaults`; what its outputs mean is known to its
head, see `HEADS`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.basketnet import BasketNetHead
from refnet.detection.detections import Candidates, Detections
from refnet.detection.head import Head, HeadSettings
from refnet.detection.lffd import LFFDHead
from refnet.detection.light import LightHead
from refnet.detection.nms import OVERLAPS, sorted_by_score, suppress
from refnet.detection.pyramid import MINIMUM_SIDE, checked_scales
from refnet.errors import OptionError
from refnet.media.images import as_image
from refnet.model import Model, model_for
from refnet.networks.defaults import DETECTOR, Defaults, defaults_of, detection_of

#: What turns a network's outputs into candidates, by the name that `refnet.networks.defaults` uses.
HEADS: Mapping[str, type[Head]] = {
    "lffd": LFFDHead,
    "light": LightHead,
    "basketnet": BasketNetHead,
}


class FaceDetector:
    """Finds faces; with other networks heads, pedestrians, licence plates or balls.

    Args:
        model: an LFFD network or BasketNet: a `Model`, a name from `refnet.networks()`, or a
            checkpoint's path; the face detector that refnet comes with by default.
        weights: as in `refnet.load`, where `model` is a name or a path.
        threshold: boxes with a strictly higher score are kept. The network's own by default, as are
            the next two; see `refnet.networks.defaults`.
        nms_threshold: boxes that overlap a better one by more are dropped.
        nms: how overlap is measured, see `refnet.detection.nms`; "default" for the network's own,
            None to keep all candidates.
        top_k: how many candidates, best first, take part in suppression.
        resize_scale: the image is resized by this factor first: larger finds smaller objects. A
            sequence makes an image pyramid: candidates of all scales are suppressed together.
            "auto" makes one by the image's size that misses no object for being too large, see
            `refnet.detection.pyramid.automatic_scales`; at 1, the official code's, objects above
            `object_range` are missed.
        minimum_side: images whose shorter side is less are enlarged to it.
        skip_branches: indices, from 0, of branches to leave out.
        clip: cut boxes to the image before suppression, as the official code does: x1 and y1 at 0,
            x2 and y2 at the image's edge. False leaves them as predicted, which a crop of a face at
            the border wants.
        defaults: what the network expects and means, for one that `refnet.networks.defaults` does
            not list.
        options: as in `refnet.load`: backend, threads, and the network's own.

    Attributes:
        model: the network with its weights.
        detection: what the network finds, and the settings that its makers run it with.
        head: what knows the network's input and outputs.

    Raises:
        OptionError: the network detects nothing, or an argument is unknown or out of range.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] = DETECTOR,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        nms_threshold: float | None = None,
        nms: str | None = "default",
        top_k: int = 10000,
        resize_scale: float | Sequence[float] | str = "auto",
        minimum_side: int = MINIMUM_SIDE,
        skip_branches: Sequence[int] = (),
        clip: bool = True,
        defaults: Defaults | None = None,
        **options: Any,
    ) -> None:
        self.model = model_for(FaceDetector, model, weights, options)
        defaults = defaults_of(self.model.graph) if defaults is None else defaults
        self.detection = detection_of(self.model.graph, defaults)
        self.threshold = self.detection.threshold if threshold is None else float(threshold)
        self.nms_threshold = (
            self.detection.nms_threshold if nms_threshold is None else float(nms_threshold)
        )
        self.overlap = self.detection.overlap if nms == "default" else nms
        if self.overlap is not None and self.overlap not in OVERLAPS:
            raise OptionError(f"nms is one of {', '.join(OVERLAPS)}, or None, not {nms!r}")
        if not 0 <= self.threshold < 1 or self.nms_threshold < 0:
            raise OptionError(
                "threshold lies in [0, 1) and nms_threshold is not negative, not "
                f"{threshold!r} and {nms_threshold!r}"
            )
        if top_k < 1 or minimum_side < 1:
            raise OptionError(
                f"top_k and minimum_side are at least 1, not {top_k!r} and {minimum_side!r}"
            )
        self.top_k, self.clip = int(top_k), bool(clip)
        if self.detection.head not in HEADS:
            raise OptionError(f"head is one of {', '.join(HEADS)}, not {self.detection.head!r}")
        settings = HeadSettings(
            threshold=self.threshold,
            scales=checked_scales(resize_scale),
            minimum_side=int(minimum_side),
            skip_branches=tuple(skip_branches),
        )
        self.head = HEADS[self.detection.head](self.model, defaults, settings)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the boxes are boxes of, by label."""
        return self.detection.classes

    @property
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""
        return self.head.object_range

    def detect(self, image: Any, *, rgb: bool = False, tile: int | None = None) -> Detections:
        """What the network finds in `image`.

        Args:
            image: uint8 (H, W, 3) in BGR order, any size, or a PIL image.
            rgb: the array's channels are in the order R, G, B.
            tile: run the network on tiles of this many pixels a side, which bounds memory. Tiles
                overlap by the receptive field, so the result is that of the whole image. Done
                by itself for inputs of more than 16 million pixels.

        Returns:
            Boxes by falling score; of equal scores the later branch, row, column comes first.

        Raises:
            ImageError: it is no image. OptionError: the tile is too small for the network.
        """
        image = as_image(image, rgb=rgb)
        (found,) = self.head.candidates([image], tile=tile)
        return self._suppressed(found, image.shape)

    def detect_batch(
        self, images: Sequence[Any], *, rgb: bool = False, batch_size: int = 8
    ) -> list[Detections]:
        """What the network finds in each image; images of one size share a call of the network.

        Args:
            images: as in `detect`, of any sizes.
            batch_size: the largest number of images in a call.

        Raises:
            As `detect`.
        """
        pixels = [as_image(image, rgb=rgb) for image in images]
        return [
            self._suppressed(found, image.shape)
            for found, image in zip(
                self.head.candidates(pixels, batch_size=batch_size), pixels, strict=True
            )
        ]

    def _suppressed(self, found: Candidates, shape: Sequence[int]) -> Detections:
        """The best of `found`, as detections in an image of `shape`."""
        boxes = found.boxes
        if self.clip:
            # Not `boxes.clip`: the official code lets x2 and y2 be negative, x1 and y1 exceed the image.
            height, width = shape[:2]
            boxes = np.concatenate(
                [np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], [width, height])], axis=1
            )
        boxes = boxes.astype(np.float32)
        # A box without area shows nothing, and no crop could be taken from it.
        solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        kept = solid[self._best(boxes[solid], found.scores[solid], found.labels[solid])]
        points = found.keypoints
        return Detections(
            boxes[kept],
            found.scores[kept].astype(np.float32),
            found.labels[kept],
            self.classes,
            None if points is None else points[kept].astype(np.float32),
        )

    def _best(self, boxes: Array, scores: Array, labels: Array) -> Array:
        """Indices of the boxes that suppression keeps, by falling score."""
        if self.overlap is None:
            return sorted_by_score(scores, self.top_k)
        threshold, top_k = self.nms_threshold, self.top_k
        return suppress(boxes, scores, threshold, self.overlap, labels=labels, top_k=top_k)
