"""What a detector asks of the part that knows a network's outputs.

A head is made of a model, of what the network expects and means, and of the caller's settings:
`Head(model, defaults, settings)`. It fits images to the network, runs it, and turns its outputs into
candidates in pixels of the images as they were given. `refnet.detection.detector.HEADS` lists the
heads by the names that `refnet.networks.defaults` uses; a new one needs a class and a line there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.model import Model
from refnet.networks.defaults import Defaults


@dataclass(frozen=True)
class HeadSettings:
    """What a caller may set; `refnet.Detector` describes each.

    Attributes:
        threshold: units with a strictly higher score are candidates.
        scales: factors by which an image is resized, all of which are looked at; None to choose them
            by `min_size` and the image's size.
        min_size: longer side in pixels of the image of the smallest objects that are looked for; None
            to choose it by the image's size.
        branches: numbers, from 1, of the branches to use; None for all.
    """

    threshold: float
    scales: tuple[float, ...] | None = None
    min_size: float | None = None
    branches: tuple[int, ...] | None = None


class Head(Protocol):
    """From images to candidates, for one kind of network."""

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        """Raises OptionError where the network has no use for one of the settings."""

    @property
    def object_range(self) -> Pair:
        """(smallest, largest) longer side in input pixels of the objects the network is made for."""

    def candidates(
        self, images: Sequence[Array], *, batch_size: int = 1, tile: int | None = None
    ) -> list[Candidates]:
        """The candidates of each image, boxes and key points in its pixels.

        Args:
            images: uint8 (H, W, 3) in BGR order, of any sizes.
            batch_size: the largest number of images in one call of the network.
            tile: side of the tiles on which to run the network; None leaves it to the head. Heads
                whose networks see every image at one size have no use for it.

        Raises:
            ImageError: an image cannot be fitted to the network. OptionError: the tile is too small.
        """
