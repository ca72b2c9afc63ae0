"""Heads of published face detectors, as their ONNX files come: YuNet, SCRFD, Ultra-Light, CenterFace, RetinaFace.

A network of any size sees an image at the scales of a pyramid; one of a fixed size sees it scaled into its input, with
its aspect kept, and continued with black. Which output is which, follows from `refnet.networks.published`. In all that
follows a cell (row v, column u) of stride S is one of a grid over the input, exp is of what the network gives, and
points are the image's left eye, right eye, nose tip, left and right corner of the mouth.

Sources: the files and the code of ShiqiYu/libfacedetection.train and OpenCV's FaceDetectorYN; deepinsight/insightface;
Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB; Star-Clouds/CenterFace; biubug6/Pytorch_Retinaface.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.head import HeadSettings
from refnet.detection.pyramid import TILED_ABOVE, ScaledHead
from refnet.errors import ImageError, OptionError
from refnet.media.resize import resize
from refnet.model import Model
from refnet.networks.defaults import Defaults, detection_of
from refnet.networks.published import (
    MAP_STRIDE,
    RETINAFACE_ANCHORS,
    STRIDES,
    ULTRALIGHT_ANCHORS,
    cells,
    levels,
)

#: By which networks with anchors divide what they give for centres and points, and for logarithms of sides.
VARIANCES = (0.1, 0.2)
#: SCRFD's anchors of a cell, which differ in nothing but their outputs.
SCRFD_ANCHORS = 2


class PublishedHead(ScaledHead):
    """All of a head but the meaning of the outputs, which `decode` knows.

    Attributes:
        levels: indices of the outputs, see `refnet.networks.published`.

    Raises:
        OptionError: the outputs are not of this kind, branches are chosen, or sizes are of a network that has one.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        super().__init__(model, defaults, settings)
        name = self.graph.name
        if settings.branches is not None:
            raise OptionError(f"of {name}, which has no branches to choose, all outputs are used")
        if self.graph.fixed_size and (settings.scales, settings.min_size) != (None, None):
            raise OptionError(
                f"{name} sees every image at its own input size; it has neither scales nor min_size"
            )
        detection = detection_of(self.graph, defaults)
        self.levels = levels(self.graph, detection.head)
        self._object_range = (
            min(lower for lower, _ in detection.object_ranges),
            max(upper for _, upper in detection.object_ranges),
        )

    @abstractmethod
    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """The candidates of one image, in pixels of the network's input.

        Args:
            outputs: the network's, without their first axis.
            size: (height, width) of the network's input.
        """

    @property
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""
        return self._object_range

    def _of_one_size(self, images: Sequence[Array], tile: int | None) -> list[Candidates]:
        """The candidates of each of several images of one size, by scale.

        Raises:
            OptionError: a tile is asked for. ImageError: the images are too large.
        """
        if tile is not None:
            raise OptionError(f"{self.graph.name} runs on whole images, not on tiles")
        if self.graph.fixed_size:
            return self._run([self._fitted(image) for image in images], self._fit(images[0].shape))
        parts: list[list[Candidates]] = [[] for _ in images]
        for wanted in self._scales(images[0]):
            scale = self._feasible(images[0].shape, wanted)
            resized = [self._resized(image, scale) for image in images]
            height, width = resized[0].shape[:2]
            if height * width > TILED_ABOVE:
                raise ImageError(
                    f"an image of {width}×{height} pixels has more than {TILED_ABOVE:,}, the most that "
                    f"{self.graph.name} is run on; use a larger min_size, or smaller scales"
                )
            for own, found, image in zip(
                parts, self._run(resized, (scale, scale)), images, strict=True
            ):
                own.append(self._at_its_scale(found, wanted, image))
        return [Candidates.joined(own) for own in parts]

    def _run(self, images: Sequence[Array], scale: tuple[float, float]) -> list[Candidates]:
        """The candidates of `images`, which were resized by `scale` (of columns, of rows), before that."""
        x = self.preprocessing.apply(images)
        outputs = self.model(x)
        assert isinstance(outputs, tuple)
        found = []
        for n in range(len(images)):
            own = self.decode([output[n] for output in outputs], (x.shape[2], x.shape[3]))
            points = None if own.keypoints is None else own.keypoints / scale
            found.append(Candidates(own.boxes / (scale * 2), own.scores, own.labels, points))
        return found

    def _fit(self, shape: Sequence[int]) -> tuple[float, float]:
        """The factors by which columns and rows of an image of `shape` become those of the input.

        They are one but for the rounding of the resized sides.
        """
        width, height = self._fitted_size(shape)
        return width / shape[1], height / shape[0]

    def _fitted_size(self, shape: Sequence[int]) -> Pair:
        """(width, height) of an image of `shape` in the input, one of which is the input's."""
        height, width = shape[:2]
        _, rows, columns = self.graph.input_shape
        scale = min(rows / height, columns / width)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _fitted(self, image: Array) -> Array:
        """`image` in the upper left corner of the network's input, black elsewhere."""
        _, rows, columns = self.graph.input_shape
        width, height = self._fitted_size(image.shape)
        fitted = np.zeros((rows, columns, image.shape[2]), image.dtype)
        fitted[:height, :width] = resize(
            image, (width, height), averaged=2 * width < image.shape[1]
        )
        return fitted


class YuNetHead(PublishedHead):
    """Score √(class · object); the box has its centre at (u + b0, v + b1)·S and the sides exp(b2)·S, exp(b3)·S; a
    point is at (u + x, v + y)·S."""

    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """See `PublishedHead.decode`."""
        threshold = np.float32(self.settings.threshold)
        parts = []
        for stride, own in zip(STRIDES, self.levels, strict=True):
            first, second, box, points = (outputs[i] for i in own)
            product = first[:, 0] * second[:, 0]
            # One root a candidate, not one a cell.
            at = np.flatnonzero(product > threshold**2)
            corner = _places(at, size, stride)
            centres = corner + box[at, :2].astype(np.float64) * stride
            boxes = _around(centres, np.exp(box[at, 2:].astype(np.float64)) * stride)
            found = corner[:, None] + points[at].reshape(-1, 5, 2).astype(np.float64) * stride
            parts.append(_faces(boxes, np.sqrt(product[at]), found))
        return Candidates.joined(parts)


class SCRFDHead(PublishedHead):
    """The box reaches b0, b1, b2, b3 times S to the left, top, right and bottom from (u·S, v·S); points are as far
    from there, in S."""

    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """See `PublishedHead.decode`."""
        threshold = np.float32(self.settings.threshold)
        parts = []
        for stride, own in zip(STRIDES, self.levels, strict=True):
            scores = outputs[own[0]][:, 0]
            at = np.flatnonzero(scores > threshold)
            corner = _places(at // SCRFD_ANCHORS, size, stride)
            edges = outputs[own[1]][at].astype(np.float64) * stride
            boxes = np.concatenate([corner - edges[:, :2], corner + edges[:, 2:]], axis=1)
            found = None
            if len(own) > 2:
                offsets = outputs[own[2]][at].reshape(-1, 5, 2).astype(np.float64)
                found = corner[:, None] + offsets * stride
            parts.append(_faces(boxes, scores[at], found))
        return Candidates.joined(parts)


class UltraLightHead(PublishedHead):
    """Boxes in units of the input's sides, or, of files without that last step, relative to anchors.

    Attributes:
        decodes: whether the network's own last step takes the exponentials, so that its boxes are boxes.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        super().__init__(model, defaults, settings)
        self.decodes = any(node.op == "exp" for node in self.graph.nodes)

    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """See `PublishedHead.decode`."""
        ((of_scores, of_boxes),) = self.levels
        scores = outputs[of_scores][:, 1]
        at = np.flatnonzero(scores > np.float32(self.settings.threshold))
        boxes = outputs[of_boxes][at].astype(np.float64)
        if self.decodes:
            boxes = boxes * (size[1], size[0], size[1], size[0])
        else:
            # The training code cuts anchors to the input: of the larger ones, the sides.
            anchors = np.minimum(ultralight_anchors(size)[at], (size[1], size[0]) * 2)
            boxes = _of_anchors(boxes, anchors)
        return _faces(boxes, scores[at], None)


class CenterFaceHead(PublishedHead):
    """Sides exp(s1)·4, exp(s0)·4 about ((u + o1 + 1/2)·4, (v + o0 + 1/2)·4); a point is at (x, y) of the box, in
    its sides, the network giving y before x.

    As in the authors' code a box that starts left of or above the input is moved to its edge, with its points.
    """

    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """See `PublishedHead.decode`."""
        scores, sides, offsets, points = (outputs[i] for i in self.levels[0])
        v, u = np.nonzero(scores[0] > np.float32(self.settings.threshold))
        extent = np.exp(sides[::-1, v, u].astype(np.float64)).T * MAP_STRIDE
        moved = offsets[::-1, v, u].astype(np.float64).T
        centres = (np.stack([u, v], axis=1) + moved + 0.5) * MAP_STRIDE
        limit = np.array(size[::-1], np.float64)
        first = np.clip(centres - extent / 2, 0, limit)
        boxes = np.concatenate([first, np.minimum(first + extent, limit)], axis=1)
        own = points[:, v, u].astype(np.float64).T.reshape(-1, 5, 2)[..., ::-1]
        return _faces(boxes, scores[0, v, u], own * extent[:, None] + first[:, None])


class RetinaFaceHead(PublishedHead):
    """Boxes and points relative to anchors; see `VARIANCES`."""

    def decode(self, outputs: Sequence[Array], size: Pair) -> Candidates:
        """See `PublishedHead.decode`."""
        of_boxes, of_scores, of_points = self.levels[0]
        scores = outputs[of_scores][:, 1]
        at = np.flatnonzero(scores > np.float32(self.settings.threshold))
        anchors = retinaface_anchors(size)[at]
        boxes = _of_anchors(outputs[of_boxes][at].astype(np.float64), anchors)
        offsets = outputs[of_points][at].reshape(-1, 5, 2).astype(np.float64)
        points = anchors[:, None, :2] + offsets * VARIANCES[0] * anchors[:, None, 2:]
        return _faces(boxes, scores[at], points)


@lru_cache(maxsize=8)
def ultralight_anchors(size: Pair) -> Array:
    """See `_anchors`."""
    return _anchors(size, ULTRALIGHT_ANCHORS)


@lru_cache(maxsize=8)
def retinaface_anchors(size: Pair) -> Array:
    """See `_anchors`."""
    return _anchors(size, RETINAFACE_ANCHORS)


def _anchors(size: Pair, sides: Mapping[int, Sequence[int]]) -> Array:
    """The squares of every cell of an input of `size`: (n, 4) float64, read-only, centre x, y, width and height.

    Args:
        sides: of each stride.
    """
    parts = []
    for stride, own in sides.items():
        rows, columns = cells(size, stride)
        v, u, side = np.meshgrid(np.arange(rows), np.arange(columns), own, indexing="ij")
        squares = [(u + 0.5) * stride, (v + 0.5) * stride, side, side]
        parts.append(np.stack(squares, axis=-1).reshape(-1, 4))
    anchors = np.concatenate(parts).astype(np.float64)
    anchors.flags.writeable = False
    return anchors


def _of_anchors(numbers: Array, anchors: Array) -> Array:
    """Boxes (n, 4) from `numbers` (n, 4), centres and logarithms of sides relative to `anchors` (n, 4)."""
    centres = anchors[:, :2] + numbers[:, :2] * VARIANCES[0] * anchors[:, 2:]
    return _around(centres, anchors[:, 2:] * np.exp(numbers[:, 2:] * VARIANCES[1]))


def _places(cell: Array, size: Pair, stride: int) -> Array:
    """(n, 2) float64: x and y of the upper left corners of the cells (n,) of a stride's list."""
    v, u = np.divmod(cell, cells(size, stride)[1])
    return np.stack([u, v], axis=1).astype(np.float64) * stride


def _around(centres: Array, sides: Array) -> Array:
    """Boxes (n, 4) of `sides` (n, 2) about `centres` (n, 2)."""
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def _faces(boxes: Array, scores: Array, points: Array | None) -> Candidates:
    return Candidates(boxes, scores, np.zeros(len(scores), np.int64), points)
