"""Detection: from an image to boxes with scores, by LFFD's networks or by BasketNet.

One class runs them all: faces, heads, pedestrians, licence plates, balls. What differs, the usual
thresholds and what a box is a box of, is the table `USUAL`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.detection.decoding import (
    basketnet_priors,
    decode_basketnet,
    decode_branch,
    geometry,
)
from refnet.detection.detections import Candidates, Detections
from refnet.detection.nms import MEASURES, sorted_by_score, suppress
from refnet.detection.tiling import Tile, tiles
from refnet.errors import ImageError, OptionError
from refnet.media.images import as_image, opencv
from refnet.model import Model, load
from refnet.ops import Array


@dataclass(frozen=True)
class Usual:
    """What a network's makers run it with.

    Attributes:
        classes: what its boxes are boxes of.
        threshold: boxes with a strictly higher score count.
        nms_threshold, measure: as in `refnet.detection.nms.suppress`.
    """

    classes: tuple[str, ...]
    threshold: float
    nms_threshold: float
    measure: str = "lower-area"


#: YonghaoHe/LFFD's demo and run scripts; aoru45/BasketNet's detect script.
USUAL: Mapping[str, Usual] = {
    "lffd-face-v1": Usual(("face",), 0.6, 0.4),
    "lffd-face-v2": Usual(("face",), 0.6, 0.4),
    "lffd-head": Usual(("head",), 0.5, 0.6),
    "lffd-pedestrian": Usual(("pedestrian",), 0.5, 0.5),
    "lffd-plate": Usual(("plate",), 0.5, 0.4),
    "lffd-plate-small": Usual(("plate",), 0.5, 0.4),
    "basketnet": Usual(("basketball", "volleyball"), 0.8, 0.1, "inclusive-iou"),
}

#: The network whose released weights find faces where nobody asks for another.
USUAL_NETWORK = "lffd-face-v2"

#: Longest side of the input that "auto" scales make, and the factor between two of them.
AUTOMATIC_SIDE, AUTOMATIC_STEP = 2048, 4
#: A network still sees objects this much larger than the largest it was made for.
STRETCH = 1.3

#: Below this side the branch of stride 64 has no unit.
MINIMUM_SIDE = 128
#: Inputs of more pixels run tile by tile, so that memory stays bounded; the result is the same.
TILED_ABOVE = 4096 * 4096
TILE = 2048
#: Enlarging a sliver of an image to the minimum side may not make more pixels than this.
LARGEST_INPUT = 2**28


class FaceDetector:
    """Finds faces; with other networks heads, pedestrians, licence plates or balls.

    Args:
        model: an LFFD network or BasketNet: a `Model`, a name from `refnet.networks()`, or a
            checkpoint's path; the face detector that refnet comes with by default.
        weights: as in `refnet.load`, where `model` is a name or a path.
        threshold: boxes with a strictly higher score are kept. The usual one of the network by
            default, as are the next two; see `USUAL`.
        nms_threshold: boxes that overlap a better one by more are dropped.
        nms: how overlap is measured, see `refnet.detection.nms`; "usual" for the network's own, None to keep
            all candidates.
        top_k: how many candidates, best first, take part in suppression.
        resize_scale: the image is resized by this factor first: larger finds smaller objects. A
            sequence makes an image pyramid: candidates of all scales are suppressed together.
            "auto" makes one by the image's size that misses no object for being too large, see
            `automatic_scales`; at 1, the official code's, objects above `object_range` are missed.
        minimum_side: images whose shorter side is less are enlarged to it.
        skip_branches: indices, from 0, of branches to leave out.
        clip: cut boxes to the image before suppression, as the official code does: x1 and y1 at 0,
            x2 and y2 at the image's edge. False leaves them as predicted, which a crop of a face at
            the border wants.
        options: as in `refnet.load`: backend, threads, and the network's own.

    Raises:
        OptionError: the network detects nothing, or an argument is out of range.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] = USUAL_NETWORK,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        threshold: float | None = None,
        nms_threshold: float | None = None,
        nms: str | None = "usual",
        top_k: int = 10000,
        resize_scale: float | Sequence[float] | str = "auto",
        minimum_side: int = MINIMUM_SIDE,
        skip_branches: Sequence[int] = (),
        clip: bool = True,
        **options: Any,
    ) -> None:
        self.model = model if isinstance(model, Model) else load(model, weights, **options)
        name = self.model.graph.name
        if name not in USUAL:
            raise OptionError(f"{name} detects nothing; use one of {', '.join(USUAL)}")
        usual = USUAL[name]
        self.classes = usual.classes
        self.threshold = usual.threshold if threshold is None else float(threshold)
        self.nms_threshold = usual.nms_threshold if nms_threshold is None else float(nms_threshold)
        self.measure = usual.measure if nms == "usual" else nms
        if self.measure is not None and self.measure not in MEASURES:
            raise OptionError(f"nms is one of {', '.join(MEASURES)}, or None, not {nms!r}")
        if not 0 <= self.threshold < 1 or self.nms_threshold < 0:
            raise OptionError(
                "threshold lies in [0, 1) and nms_threshold is not negative, not "
                f"{threshold!r} and {nms_threshold!r}"
            )
        if top_k < 1 or minimum_side < 1:
            raise OptionError(
                f"top_k and minimum_side are at least 1, not {top_k!r} and {minimum_side!r}"
            )
        self.top_k, self.minimum_side, self.clip = int(top_k), int(minimum_side), bool(clip)
        self.scales = None if resize_scale == "auto" else checked_scales(resize_scale)
        self.stretches = name == "basketnet"
        self.branches = geometry(self.model.graph)
        if self.stretches:
            if self.scales not in (None, (1.0,)) or tuple(skip_branches):
                raise OptionError(
                    "basketnet stretches every image to its own input size; it has "
                    "neither resize_scale nor skip_branches"
                )
            self.priors = basketnet_priors(self.model.graph)
        else:
            if unknown := [i for i in skip_branches if not 0 <= i < len(self.branches)]:
                raise OptionError(
                    f"{name} has branches 0 to {len(self.branches) - 1}; got {unknown}"
                )
            self.used = [i for i in range(len(self.branches)) if i not in set(skip_branches)]

    @property
    def object_range(self) -> tuple[int, int]:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""
        return min(b.lower for b in self.branches), max(b.upper for b in self.branches)

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
        if self.stretches:
            return self._suppressed(self._stretched([image])[0], image.shape)
        parts = []
        for scale in self._scales(image):
            resized, factor = self._resized(image, scale)
            parts += self._tiled(resized, factor, tile)
        return self._suppressed(Candidates.joined(parts), image.shape)

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
        parts: list[list[Candidates]] = [[] for _ in pixels]
        if self.stretches:
            for at in range(0, len(pixels), batch_size):
                for i, found in enumerate(self._stretched(pixels[at : at + batch_size]), start=at):
                    parts[i].append(found)
        else:
            groups: dict[tuple[int, ...], list[int]] = {}
            for i, image in enumerate(pixels):
                groups.setdefault(image.shape, []).append(i)
            for shape, members in groups.items():
                step = max(1, min(batch_size, TILED_ABOVE // max(1, shape[0] * shape[1])))
                for at in range(0, len(members), step):
                    chunk = members[at : at + step]
                    for i, own in zip(chunk, self._alike([pixels[i] for i in chunk]), strict=True):
                        parts[i] += own
        return [
            self._suppressed(Candidates.joined(found), image.shape)
            for found, image in zip(parts, pixels, strict=True)
        ]

    def _alike(self, images: Sequence[Array]) -> list[list[Candidates]]:
        """Candidates of images of one size, at all scales."""
        parts: list[list[Candidates]] = [[] for _ in images]
        for scale in self._scales(images[0]):
            resized = [self._resized(image, scale) for image in images]
            if len(images) == 1:
                parts[0] += self._tiled(*resized[0], None)
                continue
            (whole,) = tiles(resized[0][0].shape, max(resized[0][0].shape), self.branches)
            found = self._run([r[0] for r in resized], whole, resized[0][1])
            for own, candidates in zip(parts, found, strict=True):
                own.append(candidates)
        return parts

    def _scales(self, image: Array) -> tuple[float, ...]:
        """The scales at which `image` is looked at."""
        if self.scales is not None:
            return self.scales
        return automatic_scales(image.shape, self.object_range[1])

    def _resized(self, image: Array, scale: float) -> tuple[Array, float]:
        """The image at `scale`, or at the larger one that makes its shorter side long enough."""
        shorter = min(image.shape[:2])
        if shorter * scale < self.minimum_side:
            scale = self.minimum_side / shorter
        if scale == 1:
            return image, scale
        if image.shape[0] * image.shape[1] * scale**2 > LARGEST_INPUT:
            raise ImageError(
                f"an image of {image.shape[1]}×{image.shape[0]} pixels, resized by {scale:g}, has more "
                f"than {LARGEST_INPUT:,}; cut it, or use a smaller resize_scale"
            )
        cv2 = opencv()
        # The official code always samples linearly, which at a quarter of the size skips pixels.
        averaged = self.scales is None and scale < 0.5
        method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
        resized = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=method)
        return np.asarray(resized), scale

    def _tiled(self, image: Array, scale: float, tile: int | None) -> list[Candidates]:
        """Candidates of the resized image, tile by tile where it is large or `tile` says so."""
        if tile is None:
            tile = TILE if image.shape[0] * image.shape[1] > TILED_ABOVE else max(image.shape)
        found = []
        for piece in tiles(image.shape, tile, self.branches):
            pixels = image[piece.rows, piece.columns]
            found += self._run([pixels], piece, scale)
        return found

    def _run(self, images: Sequence[Array], tile: Tile, scale: float) -> list[Candidates]:
        """Candidates of every image's pixels in `tile`; boxes in pixels of the images as given."""
        x = np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)
        outputs = self.model(x)
        assert isinstance(outputs, tuple)
        return [
            Candidates.joined(
                [
                    decode_branch(
                        self.branches[i],
                        outputs[2 * i][n, 0],
                        outputs[2 * i + 1][n],
                        self.threshold,
                        scale=scale,
                        origin=tile.origin,
                        owned=tile.owned[i],
                    )
                    for i in self.used
                ]
            )
            for n in range(len(images))
        ]

    def _stretched(self, images: Sequence[Array]) -> list[Candidates]:
        """Candidates of BasketNet: the image stretched to its input, R, G, B in [0, 1]."""
        cv2 = opencv()
        _, height, width = self.model.graph.input_shape
        x = np.stack([cv2.resize(image, (width, height))[:, :, ::-1] for image in images])
        outputs = self.model(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) / np.float32(255))
        assert isinstance(outputs, tuple)
        return [
            decode_basketnet(logits, locations, self.priors, self.threshold, image.shape[:2])
            for logits, locations, image in zip(*outputs, images, strict=True)
        ]

    def _suppressed(self, found: Candidates, shape: Sequence[int]) -> Detections:
        """The best of `found`, as detections in an image of `shape`."""
        boxes = found.boxes
        if self.clip:
            height, width = shape[:2]
            boxes = np.concatenate(
                [np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], [width, height])], axis=1
            )
        boxes = boxes.astype(np.float32)
        # A box without area shows nothing, and no crop could be taken from it.
        solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        boxes, scores, labels = boxes[solid], found.scores[solid], found.labels[solid]
        if self.measure is None:
            kept = sorted_by_score(scores, self.top_k)
        else:
            kept = suppress(
                boxes, scores, self.nms_threshold, self.measure, labels=labels, top_k=self.top_k
            )
        scores = scores[kept].astype(np.float32)
        return Detections(boxes[kept], scores, labels[kept], self.classes)


def automatic_scales(shape: Sequence[int], largest: float) -> tuple[float, ...]:
    """The scales of a pyramid in which no object is too large.

    The first keeps the image, shrunk to 2048 pixels on the longer side where it has more; each
    further one is a quarter of the one before, and needed while an object as large as the image's
    shorter side would be larger than the network sees. The second costs a sixteenth of the first.

    Args:
        shape: of the image, (height, width, ...).
        largest: longer side in input pixels of the largest objects the network is made for.
    """
    height, width = shape[:2]
    scales = [min(1.0, AUTOMATIC_SIDE / max(height, width, 1))]
    while min(height, width) * scales[-1] > STRETCH * largest:
        scales.append(scales[-1] / AUTOMATIC_STEP)
    return tuple(scales)


def checked_scales(resize_scale: float | Sequence[float] | str) -> tuple[float, ...]:
    """The scales of a pyramid, one or several.

    Raises:
        OptionError: one is not a positive number, or there is none.
    """
    scales: Sequence[float] = ()
    if isinstance(resize_scale, int | float):
        scales = (resize_scale,)
    elif not isinstance(resize_scale, str):
        scales = resize_scale
    if not len(scales) or not all(np.isfinite(s) and s > 0 for s in scales):
        raise OptionError(
            'resize_scale is a positive factor, or several for a pyramid, or "auto"; '
            f"got {resize_scale!r}"
        )
    return tuple(float(s) for s in scales)
