"""What is compared: networks, options, sizes, batches, number formats."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from refnet.networks import network_options

WIDTHS = (0.25, 0.5, 1.0)
BATCHES = (1, 3)

#: Extra options worth a row of their own, by network.
LANDMARK_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "pfld": [{"width": 0.25, "landmarks": 68}],
    "pfld-msfc": [{"width": 0.5, "landmarks": 68}],
    "pfld-ultralight": [{"width": 0.125}],
    "pfld-ultralight-slim": [{"width": 0.125}],  # where Ghost modules cut an odd channel
    "pfld-ghostone": [{"width": 0.25, "input_size": 64}],
}
POLARIS_VARIANTS: list[dict[str, Any]] = [
    {},
    {"bn8": "applied"},
    {"width": 0.5, "landmarks": 17, "activation": "relu6", "bn8": "applied", "conv2": "depthwise"},
]

#: (H, W) beside the smallest legal side: odd ones, where a wrong border shows, and a common one.
DETECTOR_SIZES = ((161, 198), (255, 333), (480, 640))

#: The same for networks whose sides are multiples of 64.
MULTIPLES = ((192, 128), (256, 320), (512, 640))

#: Smallest side that leaves one cell of the last branch: 2S - 1 at its stride S.
SMALLEST_SIDE = {
    "lffd-face-v1": 63,
    "lffd-face-v2": 127,
    "lffd-head": 63,
    "lffd-pedestrian": 127,
    "lffd-plate": 127,
    "lffd-plate-small": 127,
    "lffd-light": 64,
    "basketnet": 63,
    "tinynet": 7,
}

#: Input values that a network expects; [-1, 1] for the others.
RANGES = {
    **dict.fromkeys(SMALLEST_SIDE, (0.0, 255.0)),
    **dict.fromkeys(("basketnet", "pfld-polaris", "pfld-polaris-auxiliary"), (0.0, 1.0)),
    "tinynet": (-1.0, 1.0),
}

#: What detectors are also built with, where they have the option.
DETECTOR_VARIANTS = {"width": 0.5, "residual": "post-activation"}


@dataclass(frozen=True)
class Case:
    """One network with its options on one input shape.

    Attributes:
        network, options: what `refnet.build` and `parity.twins.twin` take.
        channels, height, width: the input of one image.
        batch: number of images.
        quick: whether it belongs to the short run.
    """

    network: str
    options: dict[str, Any] = field(hash=False)
    channels: int
    height: int
    width: int
    batch: int
    quick: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.height, self.width

    @property
    def value_range(self) -> tuple[float, float]:
        """Lowest and highest input value that makes sense to the network."""
        return RANGES.get(self.network, (-1.0, 1.0))

    def describe_options(self) -> str:
        """The options on one line, those that the size column shows left out."""
        named = ("width", "landmarks", "bn8", "conv2")
        shown = {k: v for k, v in self.options.items() if k != "input_size"}
        return " ".join(f"{k}={v}" if k in named else str(v) for k, v in shown.items())


def cases() -> Iterator[Case]:
    """Every case of the full table, network by network."""
    yield from _landmark_cases()
    yield from _polaris_cases()
    yield from _detector_cases()


def _landmark_cases() -> Iterator[Case]:
    for network, variants in LANDMARK_VARIANTS.items():
        plain = [{"width": w, "input_size": size} for w in WIDTHS for size in (112, 96)]
        for form in ("training", "inference"):
            for options in [*plain, *variants]:
                size = options.get("input_size", 112)
                for batch in BATCHES:
                    quick = batch == 1 and options["width"] == 0.25 and size == 96
                    yield Case(network, {**options, "form": form}, 3, size, size, batch, quick)


def _polaris_cases() -> Iterator[Case]:
    for form in ("training", "inference"):
        for options in POLARIS_VARIANTS:
            for batch in BATCHES:
                quick = batch == 1 and options != {"bn8": "applied"}
                yield Case("pfld-polaris", {**options, "form": form}, 3, 112, 112, batch, quick)
        for width in (0.5, 1.0):
            for batch in BATCHES:
                options = {"width": width, "form": form}
                channels, quick = int(64 * width), batch == 1 and width == 0.5
                yield Case("pfld-polaris-auxiliary", options, channels, 28, 28, batch, quick)


def _detector_cases() -> Iterator[Case]:
    for network, side in SMALLEST_SIDE.items():
        known = network_options(network)
        variants: list[dict[str, Any]] = [{}]
        variants += [{key: value} for key, value in DETECTOR_VARIANTS.items() if key in known]
        for options in variants:
            others = MULTIPLES if side % 64 == 0 else DETECTOR_SIZES
            sizes = [(side, side), *others[: 1 if options else None]]
            for height, width in sizes:
                # The largest size shows nothing in three images that it does not show in one.
                for batch in (1,) if (height, width) == others[-1] else BATCHES:
                    quick = batch == 1 and height == side and options.get("width") is None
                    yield Case(network, options, 3, height, width, batch, quick)
