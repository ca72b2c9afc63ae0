"""Heads of networks that take an image at its own size: an image pyramid, in tiles where it is large."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.geometry import geometry, object_range
from refnet.detection.head import HeadSettings
from refnet.detection.tiling import Tile, tiles
from refnet.errors import ImageError, OptionError
from refnet.media.images import opencv
from refnet.model import Model
from refnet.networks.defaults import Defaults, detection_of

#: Longest side of the input that automatic scales make, and the factor between two of them.
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


class PyramidHead(ABC):
    """All of a head but the meaning of the outputs, which `decode` knows.

    Attributes:
        model: whose outputs are maps at the units of its branches.
        branches: where those units are, in the order of the outputs.
        used: indices of the branches whose boxes are wanted.

    Raises:
        OptionError: a branch is to be left out that the network does not have.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        self.model, self.graph, self.settings = model, model.graph, settings
        self.preprocessing = defaults.preprocessing
        ranges = detection_of(self.graph, defaults).object_ranges
        self.branches = geometry(self.graph, ranges)
        count, skipped = len(self.branches), settings.skip_branches
        if unknown := [i for i in skipped if not 0 <= i < count]:
            raise OptionError(f"{self.graph.name} has branches 0 to {count - 1}; got {unknown}")
        self.used = [i for i in range(count) if i not in skipped]

    @abstractmethod
    def decode(self, outputs: Sequence[Array], tile: Tile, scale: float) -> Candidates:
        """The candidates of one tile of one image, in pixels of the image as it was given.

        Args:
            outputs: the network's, without their first axis.
            tile: where the network's input lies in the resized image, and which units count.
            scale: of the resized image; boxes and key points are divided by it.
        """

    @property
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""
        return object_range(self.branches)

    def candidates(
        self, images: Sequence[Array], *, batch_size: int = 1, tile: int | None = None
    ) -> list[Candidates]:
        """See `refnet.detection.head.Head.candidates`; images of one size share a call."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        found = [Candidates.none() for _ in images]
        for shape, members in by_shape.items():
            step = max(1, min(batch_size, TILED_ABOVE // max(1, shape[0] * shape[1])))
            for at in range(0, len(members), step):
                chunk = members[at : at + step]
                of_chunk = self._of_one_size([images[i] for i in chunk], tile)
                for i, own in zip(chunk, of_chunk, strict=True):
                    found[i] = own
        return found

    def _of_one_size(self, images: Sequence[Array], tile: int | None) -> list[Candidates]:
        """The candidates of each of several images of one size, by scale, then by tile."""
        parts: list[list[Candidates]] = [[] for _ in images]
        for wanted in self._scales(images[0]):
            scale = self._feasible(images[0].shape, wanted)
            resized = [self._resized(image, scale) for image in images]
            for piece in self._tiles(resized[0].shape, tile):
                pixels = [image[piece.rows, piece.columns] for image in resized]
                outputs = self.model(self.preprocessing.apply(pixels))
                assert isinstance(outputs, tuple)
                for n, own in enumerate(parts):
                    own.append(self.decode([output[n] for output in outputs], piece, scale))
        return [Candidates.joined(own) for own in parts]

    def _scales(self, image: Array) -> tuple[float, ...]:
        """The scales at which `image` is looked at."""
        if self.settings.scales is not None:
            return self.settings.scales
        return automatic_scales(image.shape, self.object_range[1])

    def _feasible(self, shape: Sequence[int], scale: float) -> float:
        """`scale`, or the larger one that makes the shorter side of an image of `shape` long enough."""
        height, width = shape[:2]
        if min(height, width) * scale < self.settings.minimum_side:
            scale = self.settings.minimum_side / min(height, width)
        if height * width * scale**2 > LARGEST_INPUT and scale != 1:
            raise ImageError(
                f"an image of {width}×{height} pixels, resized by {scale:g}, has more than "
                f"{LARGEST_INPUT:,}; cut it, or use a smaller resize_scale"
            )
        return scale

    def _resized(self, image: Array, scale: float) -> Array:
        if scale == 1:
            return image
        cv2 = opencv()
        # The official code always samples linearly, which at a quarter of the size skips pixels.
        averaged = self.settings.scales is None and scale < 0.5
        method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=method))

    def _tiles(self, shape: Sequence[int], tile: int | None) -> list[Tile]:
        """The tiles of an input of `shape`: one, but where it is large or `tile` says so."""
        height, width = shape[:2]
        if tile is None:
            tile = TILE if height * width > TILED_ABOVE else max(height, width)
        if max(height, width) <= tile:
            return [Tile.whole(shape, len(self.branches))]
        maps = self.graph.shapes((self.graph.input_shape[0], height, width))
        units = [(maps[branch.tensor][1], maps[branch.tensor][2]) for branch in self.branches]
        return tiles(shape, tile, self.branches, units)


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


def checked_scales(resize_scale: float | Sequence[float] | str) -> tuple[float, ...] | None:
    """The scales of a pyramid, one or several; None for "auto".

    Raises:
        OptionError: one is not a positive number, or there is none.
    """
    if resize_scale == "auto":
        return None
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
