"""Heads of networks that take an image at its own size: an image pyramid, in tiles where it is large.

`ScaledHead` knows the scales of a pyramid, `PyramidHead` also the tiles of networks whose branches are known to the
pixel.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.geometry import geometry, object_range
from refnet.detection.head import HeadSettings
from refnet.detection.tiling import Tile, tiles
from refnet.errors import ImageError, OptionError
from refnet.media.resize import resize
from refnet.model import Model
from refnet.networks.defaults import Defaults, detection_of

#: Objects of this size, and of a network's own smallest where that is larger, are found without
#: enlarging the image.
SMALLEST_OBJECT = 20
#: Up to this longer side in pixels an image is not shrunk by default; above it, to this.
AUTOMATIC_SIDE = 1280
#: The factor between two scales of an automatic pyramid.
AUTOMATIC_STEP = 4
#: A network still sees objects this much larger than the largest it was made for.
STRETCH = 1.3

#: Inputs of more pixels run tile by tile, so that memory stays bounded; the result is the same.
TILED_ABOVE = 4096 * 4096
TILE = 2048
#: Inputs of more pixels are refused.
LARGEST_INPUT = 2**28


class ScaledHead(ABC):
    """What looks at an image at the scales of a pyramid.

    Attributes:
        model: the network.
        minimum_side: of images, in pixels; smaller ones are enlarged to it.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        self.model, self.graph, self.settings = model, model.graph, settings
        self.preprocessing = defaults.preprocessing
        self.minimum_side = detection_of(self.graph, defaults).minimum_side

    @property
    @abstractmethod
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""

    @abstractmethod
    def _of_one_size(self, images: Sequence[Array], tile: int | None) -> list[Candidates]:
        """The candidates of each of several images of one size, by scale."""

    def candidates(
        self, images: Sequence[Array], *, batch_size: int = 1, tile: int | None = None
    ) -> list[Candidates]:
        """See `refnet.detection.head.Head.candidates`; images of one size share a call."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        found = [Candidates.none() for _ in images]
        for shape, members in by_shape.items():
            if self.settings.scales is None and max(shape[:2]) > AUTOMATIC_SIDE * min(shape[:2]):
                continue  # shrunk to the automatic size it is thinner than a pixel: nothing can be in it
            step = max(1, min(batch_size, TILED_ABOVE // max(1, shape[0] * shape[1])))
            for at in range(0, len(members), step):
                chunk = members[at : at + step]
                of_chunk = self._of_one_size([images[i] for i in chunk], tile)
                for i, own in zip(chunk, of_chunk, strict=True):
                    found[i] = own
        return found

    def looking_from(self, min_size: float) -> ScaledHead:
        """This head for objects from so many pixels of an image on."""
        other = copy.copy(self)
        other.settings = replace(self.settings, min_size=min_size)
        return other

    def _scales(self, image: Array) -> tuple[float, ...]:
        """The scales at which `image` is looked at."""
        if self.settings.scales is not None:
            return self.settings.scales
        return automatic_scales(image.shape, self.object_range, self.settings.min_size)

    def _at_its_scale(self, found: Candidates, wanted: float, image: Array) -> Candidates:
        """Of what was `found` in `image` at the scale `wanted`, what is not left to the next, coarser one.

        There objects are a quarter as large, so the upper half of what this scale could see is well inside of what
        that one sees, with all that lies around it. Scales that were asked for keep all they find.
        """
        if self.settings.scales is not None or wanted == self._scales(image)[-1]:
            return found
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0) * wanted
        return found.where(sides <= self.object_range[1] / 2)

    def _feasible(self, shape: Sequence[int], scale: float) -> float:
        """`scale`, or the larger one that makes the shorter side of an image of `shape` long enough.

        A sliver is enlarged no further than its longer side allows, see `_resized`.
        """
        height, width = shape[:2]
        shorter, longer = min(height, width), max(height, width)
        if shorter * scale < self.minimum_side:
            bound = max(scale, AUTOMATIC_SIDE / longer, 1 / shorter)
            scale = min(self.minimum_side / shorter, bound)
        sides = (max(side * scale, self.minimum_side) for side in (height, width))
        if math.prod(sides) > LARGEST_INPUT:
            raise ImageError(
                f"an image of {width}×{height} pixels, resized by {scale:g}, has more than "
                f"{LARGEST_INPUT:,}; cut it, use a larger min_size, or smaller scales"
            )
        return scale

    def _resized(self, image: Array, scale: float) -> Array:
        """`image` by `scale`; black is added to the right and below where a side is still too short."""
        if scale != 1:
            # The official code always samples linearly, which at a quarter of the size skips pixels.
            averaged = self.settings.scales is None and scale < 0.5
            image = resize(image, scale=scale, averaged=averaged)
        missing = [max(0, self.minimum_side - side) for side in image.shape[:2]]
        if not any(missing):
            return image
        return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)))


class PyramidHead(ScaledHead):
    """All of a head but the meaning of the outputs, which `decode` knows.

    Attributes:
        branches: where the units of the network's maps are, in the order of the outputs.
        used: indices of the branches whose boxes are wanted.

    Raises:
        OptionError: a branch is asked for that the network does not have.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        super().__init__(model, defaults, settings)
        ranges = detection_of(self.graph, defaults).object_ranges
        self.branches = geometry(self.graph, ranges)
        count = len(self.branches)
        numbers = range(1, count + 1) if settings.branches is None else settings.branches
        if not len(numbers) or any(i not in range(1, count + 1) for i in numbers):
            raise OptionError(
                f"{self.graph.name} has branches 1 to {count}; branches is some of them, not "
                f"{settings.branches!r}"
            )
        self.used = [i for i in range(count) if i + 1 in numbers]

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
                    seen = self.decode([output[n] for output in outputs], piece, scale)
                    own.append(self._at_its_scale(seen, wanted, images[n]))
        return [Candidates.joined(own) for own in parts]

    def _tiles(self, shape: Sequence[int], tile: int | None) -> list[Tile]:
        """The tiles of an input of `shape`: one, but where it is large or `tile` says so."""
        height, width = shape[:2]
        if tile is None:
            tile = TILE if height * width > TILED_ABOVE else max(height, width)
        if max(height, width) <= tile:
            return [Tile.whole(shape, len(self.branches))]
        size = self.preprocessing.input_size((height, width))
        maps = self.graph.shapes((self.graph.input_shape[0], *size))
        units = [(maps[branch.tensor][1], maps[branch.tensor][2]) for branch in self.branches]
        return tiles(shape, tile, self.branches, units)


def automatic_scales(
    shape: Sequence[int], sizes: Pair, min_size: float | None = None
) -> tuple[float, ...]:
    """The scales of a pyramid in which no object is too small or too large.

    At the first, the smallest objects that are wanted have the size that the network finds them at: 20
    pixels, or its own smallest where that is larger. Each further one is a quarter of the one before,
    and needed while an object as large as the image's shorter side would be larger than the network
    sees. The second costs a sixteenth of the first, and takes over objects of more than half of the largest size
    (as Singh & Davis 2018, "SNIP", train and test: each scale for the sizes that it is good at).

    Args:
        shape: of the image, (height, width, ...).
        sizes: (smallest, largest) longer side in input pixels of the objects the network is made for.
        min_size: longer side in pixels of the image of the smallest objects that are wanted. None keeps
            the image, and shrinks it to 1280 pixels on the longer side where it has more.
    """
    height, width = shape[:2]
    smallest, largest = sizes
    if min_size is None:
        first = min(1.0, AUTOMATIC_SIDE / max(height, width, 1))
    else:
        first = max(SMALLEST_OBJECT, smallest) / min_size
    scales = [first]
    while min(height, width) * scales[-1] > STRETCH * largest:
        scales.append(scales[-1] / AUTOMATIC_STEP)
    return tuple(scales)


def checked_scales(scales: Sequence[float] | None) -> tuple[float, ...] | None:
    """`scales` as a tuple; None as it is.

    Raises:
        OptionError: one is not a positive number, or there is none.
    """
    if scales is None:
        return None
    known = isinstance(scales, Sequence | np.ndarray) and not isinstance(scales, str)
    if not known or not len(scales) or not all(_is_factor(scale) for scale in scales):
        raise OptionError(
            f"scales are positive factors, such as (1.0,) or (1.0, 0.5); got {scales!r}"
        )
    return tuple(float(scale) for scale in scales)


def _is_factor(scale: Any) -> bool:
    return isinstance(scale, int | float | np.number) and bool(0 < scale < np.inf)
