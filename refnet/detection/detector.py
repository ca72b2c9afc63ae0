"""Detection: from an image to boxes with scores, by LFFD's networks, by BasketNet or by a published face detector.

One class, `Detector`, runs them all: faces, heads, pedestrians, licence plates, balls. What a network expects and
what its boxes are boxes of is in `refnet.networks.defaults`; what its outputs mean is known to its
head, see `HEADS`.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refnet.arguments import CalledWithImages, checked_number, explicit, shown
from refnet.arrays import Array, Pair
from refnet.detection.basketnet import BasketNetHead
from refnet.detection.detections import Candidates, Detections
from refnet.detection.head import Head, HeadSettings
from refnet.detection.lffd import LFFDHead
from refnet.detection.light import LightHead
from refnet.detection.nms import OVERLAPS, sorted_by_score, suppress
from refnet.detection.published import (
    CenterFaceHead,
    RetinaFaceHead,
    SCRFDHead,
    UltraLightHead,
    YuNetHead,
)
from refnet.detection.pyramid import ScaledHead, automatic_scales, checked_scales
from refnet.errors import OptionError
from refnet.media.images import Image, as_image, as_images, read_reduced
from refnet.model import Net, model_for, name_of
from refnet.networks.defaults import (
    DEFAULTS,
    DETECTOR,
    Defaults,
    Detection,
    defaults_of,
    detection_of,
    published,
)

#: What turns a network's outputs into candidates, by the name that `refnet.networks.defaults` uses.
HEADS: Mapping[str, type[Head]] = {
    "lffd": LFFDHead,
    "light": LightHead,
    "basketnet": BasketNetHead,
    "yunet": YuNetHead,
    "scrfd": SCRFDHead,
    "ultralight": UltraLightHead,
    "centerface": CenterFaceHead,
    "retinaface": RetinaFaceHead,
}

#: The class of the boxes that a face detector must have.
FACE = "face"


class Detector(CalledWithImages):
    """Finds objects: faces, heads, pedestrians, licence plates, balls, by the network that it is given.

    Args:
        model: a detection network: a `Model`, a name from `refnet.networks()` such as "basketnet" or
            "lffd-face-v2:width=0.5", a checkpoint's path, or the path of a published face detector in
            ONNX, see `refnet.networks.published`.
        weights: as in `refnet.load`, where `model` is a name or a path.
        threshold: boxes with a strictly higher score are kept, in [0, 1). The network's own by default;
            see `refnet.networks.defaults`.
        min_size: find objects from this many pixels of the image on, on their longer side; larger finds
            less and is faster. By default 20 in images of up to 1280 pixels on the longer side, above
            that side / 64, such as 30 of 1920; in proportion more for networks whose smallest objects
            are larger than 20. Larger objects are always found.
        scales: look at the image resized by each of these factors, and at nothing else, instead of what
            follows from `min_size`: (1.0,) is what the official code does. Candidates of all scales are
            suppressed together. Objects outside of `object_range` divided by a scale are missed there.
        nms: how overlap is measured, see `refnet.detection.nms`; "default" for the network's own,
            None to keep all candidates.
        nms_threshold: boxes that overlap a better one by more are dropped; the network's own by default.
        top_k: how many candidates, best first, take part in suppression.
        branches: numbers, from 1, of the network's branches to use, such as (1, 2) for small objects;
            None for all.
        defaults: what the network expects and means, for one that `refnet.networks.defaults` does
            not list.
        decoder: how an ONNX file's outputs are read, where their shapes do not tell: "yunet", "scrfd",
            "ultralight", "centerface" or "retinaface".
        threads, backend: as in `refnet.load`.

    Attributes:
        model: the network with its weights.
        detection: what the network finds, and the settings that its authors run it with.
        head: what knows the network's input and outputs.

    Raises:
        OptionError: the network detects nothing, or an argument is unknown or out of range.
    """

    @explicit
    def __init__(
        self,
        model: Net,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        min_size: int | None = None,
        scales: Sequence[float] | None = None,
        nms: str | None = "default",
        nms_threshold: float | None = None,
        top_k: int = 10000,
        branches: Sequence[int] | None = None,
        defaults: Defaults | None = None,
        decoder: str | None = None,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if decoder is not None and defaults is not None:
            raise OptionError(
                "defaults say how outputs are read, and so does decoder: pass one of them"
            )
        settings = _settings(threshold, min_size, scales, branches)
        if (named := name_of(model)) is not None:  # before weights are looked for
            self._check(named, detection_of(named, defaults))
        self.model = model_for(model, weights, threads=threads, backend=backend)
        if defaults is None:
            graph = self.model.graph
            defaults = defaults_of(graph) if decoder is None else published(decoder)
        self._defaults = defaults
        self.detection = detection_of(self.model.graph, defaults)
        self._check(self.model.graph.name, self.detection)
        self.threshold = self.detection.threshold if threshold is None else float(threshold)
        self.nms_threshold = (
            self.detection.nms_threshold
            if nms_threshold is None
            else checked_number("nms_threshold", nms_threshold, 0, math.inf)
        )
        self.overlap = self.detection.overlap if nms == "default" else nms
        if self.overlap is not None and self.overlap not in OVERLAPS:
            raise OptionError(f"nms is one of {', '.join(OVERLAPS)}, or None, not {nms!r}")
        self.top_k = int(checked_number("top_k", top_k, 1, math.inf))
        if self.detection.head not in HEADS:
            raise OptionError(f"head is one of {', '.join(HEADS)}, not {self.detection.head!r}")
        self.settings = replace(settings, threshold=self.threshold)
        self.head = HEADS[self.detection.head](self.model, defaults, self.settings)

    def _check(self, name: str, detection: Detection) -> None:
        """Refuse a network by what it finds."""

    def adjusted(self, **settings: Any) -> Detector:
        """This detector with other `HeadSettings`, such as a threshold; the network is shared."""
        other = copy.copy(self)
        other.settings = replace(self.settings, **settings)
        other.threshold = other.settings.threshold
        other.head = HEADS[self.detection.head](self.model, self._defaults, other.settings)
        return other

    def __repr__(self) -> str:
        own = {
            "threshold": (self.threshold, self.detection.threshold),
            "min_size": (self.settings.min_size, None),
            "scales": (self.settings.scales, None),
            "nms": (self.overlap, self.detection.overlap),
            "nms_threshold": (self.nms_threshold, self.detection.nms_threshold),
            "top_k": (self.top_k, 10000),
            "branches": (self.settings.branches, None),
        }
        return shown(type(self), self.model.graph.name, own)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the boxes are boxes of, by label."""
        return self.detection.classes

    @property
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""
        return self.head.object_range

    @explicit
    def detect(self, image: Image, *, rgb: bool = False, tile: int | None = None) -> Detections:
        """What the network finds in `image`.

        Args:
            image: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in BGR order or
                (H, W), of any size. Of a JPEG that will be shrunk no more is decoded than that takes, see
                `refnet.media.images.read_reduced`.
            rgb: the array's channels are in the order R, G, B.
            tile: run the network on tiles of this many pixels a side, which bounds memory. Tiles
                overlap by the receptive field, so the result is that of the whole image. Done
                by itself for inputs of more than 16 million pixels.

        Returns:
            Boxes by falling score; of equal scores the later branch, row, column comes first.

        Raises:
            FileError: there is no such file. ImageError: it is no image.
            OptionError: the tile is too small for the network.
        """
        if tile is None and (reduced := search_reduced(self, image)) is not None:
            return reduced
        pixels = as_image(image, rgb=rgb)
        (found,) = self.head.candidates([pixels], tile=tile)
        return self.suppressed(found, pixels.shape)

    #: `detector(image)` is `detector.detect(image)` itself.
    __call__ = detect

    @explicit
    def batch(
        self, images: Iterable[Image], *, rgb: bool = False, batch_size: int = 8
    ) -> list[Detections]:
        """What the network finds in each image; images of one size share a call of the network.

        Args:
            images: as in `detect`, of any sizes.
            batch_size: the largest number of images in a call.

        Raises:
            RefnetError: as `detect`.
        """
        pixels = as_images(images, rgb=rgb)
        return [
            self.suppressed(found, image.shape)
            for found, image in zip(
                self.head.candidates(pixels, batch_size=batch_size), pixels, strict=True
            )
        ]

    def suppressed(self, found: Candidates, shape: Sequence[int]) -> Detections:
        """The best of `found`, as detections in an image of `shape`.

        Boxes are cut to the image before suppression, as the official code does.
        """
        height, width = shape[:2]
        # Not `boxes.clip`: boxes outside of the image stay outside, with their corners out of order.
        inside = np.concatenate(
            [np.maximum(found.boxes[:, :2], 0), np.minimum(found.boxes[:, 2:], [width, height])],
            axis=1,
        )
        boxes = inside.astype(np.float32)
        # A box without area shows nothing, and no crop could be taken from it.
        solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        kept = solid[self._best(boxes[solid], found.scores[solid], found.labels[solid])]
        points = found.keypoints
        return Detections(
            boxes[kept],
            found.scores[kept].astype(np.float32),
            found.labels[kept],
            self.classes,
            (int(height), int(width)),
            None if points is None else points[kept].astype(np.float32),
            uncut=found.boxes[kept].astype(np.float32),
        )

    def _best(self, boxes: Array, scores: Array, labels: Array) -> Array:
        """Indices of the boxes that suppression keeps, by falling score."""
        if self.overlap is None:
            return sorted_by_score(scores, self.top_k)
        threshold, top_k = self.nms_threshold, self.top_k
        return suppress(boxes, scores, threshold, self.overlap, labels=labels, top_k=top_k)


class FaceDetector(Detector):
    """A `Detector` of faces; the network is the one that refnet comes with by default.

    Raises:
        OptionError: the network finds no faces.
    """

    @explicit
    def __init__(
        self,
        model: Net = DETECTOR,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        min_size: int | None = None,
        scales: Sequence[float] | None = None,
        nms: str | None = "default",
        nms_threshold: float | None = None,
        top_k: int = 10000,
        branches: Sequence[int] | None = None,
        defaults: Defaults | None = None,
        decoder: str | None = None,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            model,
            weights,
            threshold=threshold,
            min_size=min_size,
            scales=scales,
            nms=nms,
            nms_threshold=nms_threshold,
            top_k=top_k,
            branches=branches,
            defaults=defaults,
            decoder=decoder,
            threads=threads,
            backend=backend,
        )

    def _check(self, name: str, detection: Detection) -> None:
        if FACE not in detection.classes:
            raise OptionError(
                f"{name} finds boxes of {' and '.join(detection.classes)}, no faces; "
                f"refnet.Detector gives its boxes. Faces are found by {', '.join(_face_networks())}"
            )


def search_reduced(detector: Detector, image: Any) -> Detections | None:
    """What the detector finds in a large JPEG of which it needs only a half, a quarter or an eighth of the size, in
    pixels of the photo; None for all other images, and where scales were asked for.

    Args:
        image: as everywhere; a path or the bytes of a file.
    """
    head, settings = detector.head, detector.settings
    if settings.scales is not None or not isinstance(head, ScaledHead):
        return None
    sizes, least = head.object_range, settings.min_size
    read = read_reduced(image, lambda shape: automatic_scales(shape, sizes, least)[0])
    if read is None:
        return None
    pixels, by, shape = read
    if least is not None:
        head = head.looking_from(least / by)
    (found,) = head.candidates([pixels])
    points = None if found.keypoints is None else found.keypoints * by
    whole = replace(found, boxes=found.boxes * by, keypoints=points)
    return detector.suppressed(whole, shape)


def _settings(
    threshold: float | None,
    min_size: int | None,
    scales: Sequence[float] | None,
    branches: Sequence[int] | None,
) -> HeadSettings:
    """The settings of a head, checked before a network is loaded."""
    if min_size is not None and scales is not None:
        raise OptionError(
            "scales say at which sizes to look, and so does min_size: pass one of them"
        )
    if threshold is not None:
        checked_number("threshold", threshold, 0, 1)
    if branches is not None and (isinstance(branches, str) or not isinstance(branches, Iterable)):
        raise OptionError(f"branches are numbers from 1, such as (1, 2), not {branches!r}")
    if min_size is not None:
        checked_number("min_size", min_size, 1, math.inf)
    return HeadSettings(
        threshold=0.0,
        scales=checked_scales(scales),
        min_size=min_size,
        branches=None if branches is None else tuple(branches),
    )


def _face_networks() -> list[str]:
    return [n for n, own in DEFAULTS.items() if own.detection and FACE in own.detection.classes]
