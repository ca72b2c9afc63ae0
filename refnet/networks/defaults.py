"""What each network expects of its input and means by its outputs: one record a network.

A network out of an ONNX file is looked up by its outputs, see `refnet.networks.published`. One that is not listed
here is run by passing a record of its own: `FaceDetector(model, defaults=Defaults(...))`, `FaceLandmarker(model,
defaults=Defaults(...))`.

Sources: the training, demo and run scripts of YonghaoHe/LFFD, aoru45/BasketNet,
AnthonyF333/FaceLandmark_PFLD_UltraLight, AnthonyF333/PFLD_GhostOne and polarisZhao/PFLD-pytorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from refnet.arrays import Array, Pair
from refnet.errors import OptionError
from refnet.graph import Graph
from refnet.media.resize import planes
from refnet.networks.published import decoder_of

#: The network whose released weights find faces where no other is asked for.
DETECTOR = "lffd-light"
#: The network whose released weights find landmarks where no other is asked for.
LANDMARKER = "pfld-ultralight-slim"

CHANNEL_ORDERS = ("bgr", "rgb")


@dataclass(frozen=True)
class Preprocessing:
    """How the pixels of an image become a network's input.

    A pixel becomes (value - mean) / divide · scale + shift, in float32. A factor of 1 and a shift of 0 are
    left out. Which of the two factors a network has matters to the last bit: x / 255 and x · (1/255)
    differ.

    Attributes:
        channel_order: "bgr" or "rgb", the order that the network was trained on.
        divide, scale, shift: see above.
        multiple, least: height and width of the input are multiples of the one and at least the other;
            images are continued with zeros to the right and below.
        mean: one number for each channel, in the network's order; empty for none.
    """

    channel_order: str = "bgr"
    divide: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    multiple: int = 1
    least: int = 1
    mean: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.channel_order not in CHANNEL_ORDERS:
            raise OptionError(f"channel_order is 'bgr' or 'rgb', not {self.channel_order!r}")
        if len(self.mean) not in (0, 3):
            raise OptionError(f"mean has one number for each of 3 channels, not {self.mean!r}")

    def __str__(self) -> str:
        """Such as "RGB, (x - 127.5) / 128, sides multiples of 32"."""
        formula = "x"
        if any(self.mean):
            same = len(set(self.mean)) == 1
            means = f"{self.mean[0]:g}" if same else f"({', '.join(f'{m:g}' for m in self.mean)})"
            formula = f"(x - {means})"
        formula += f" / {self.divide:g}" if self.divide != 1 else ""
        formula += f" · {self.scale:.6g}" if self.scale != 1 else ""
        formula += f" {'+' if self.shift > 0 else '-'} {abs(self.shift):g}" if self.shift else ""
        multiples = f", sides multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.channel_order.upper()}, {formula}{multiples}"

    def input_size(self, image_size: Sequence[int]) -> Pair:
        """(height, width) of the input for images of this (height, width)."""
        multiple = self.multiple
        height, width = (-(-max(side, self.least) // multiple) * multiple for side in image_size)
        return height, width

    def apply(self, images: Array | Sequence[Array]) -> Array:
        """The network's input, float32 (N, 3, H, W), for `images`: uint8 (H, W, 3) in BGR order, of one size."""
        # An array may be of no images at all.
        shape = images.shape[1:] if isinstance(images, np.ndarray) else images[0].shape
        rows, columns = shape[:2]
        size = self.input_size((rows, columns))
        made = np.empty if size == (rows, columns) else np.zeros
        x: Array = made((len(images), 3, *size), np.float32)
        for i, image in enumerate(images):
            blue_first = planes(image)
            order = blue_first if self.channel_order == "bgr" else blue_first[::-1]
            for plane, channel in zip(x[i, :, :rows, :columns], order, strict=True):
                plane[...] = channel
        if any(self.mean):
            x -= np.array(self.mean, np.float32)[:, None, None]
        if self.divide != 1:
            x /= np.float32(self.divide)
        if self.scale != 1:
            x *= np.float32(self.scale)
        if self.shift != 0:
            x += np.float32(self.shift)
        return x


@dataclass(frozen=True)
class Detection:
    """What a detection network finds, and the settings that its authors run it with.

    Attributes:
        classes: what its boxes are boxes of, by label.
        threshold: boxes with a strictly higher score count.
        nms_threshold, overlap: as `threshold` and `overlap` of `refnet.detection.nms.suppress`.
        head: what turns the outputs into boxes, a key of `refnet.detection.detector.HEADS`.
        object_ranges: of each branch, the smallest and the largest longer side in pixels of the
            objects that it is trained for; empty where its head has no use for them. One pair for all
            branches together where the head does not ask for each.
        minimum_side: images whose shorter side is less are enlarged to it.
    """

    classes: tuple[str, ...]
    threshold: float
    nms_threshold: float
    object_ranges: tuple[Pair, ...] = ()
    overlap: str = "lower-area"
    head: str = "lffd"
    minimum_side: int = 128  # of the official code: below it the branch of stride 64 has no unit


@dataclass(frozen=True)
class Defaults:
    """What a network expects and means.

    Attributes:
        preprocessing: from pixels to its input.
        detection: what its boxes are; None where it detects nothing.
        any_size: its weights fit every input size, so that `input_size` is no property of theirs.
    """

    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(scale=1 / 255))
    detection: Detection | None = None
    any_size: bool = True


_RAW = Preprocessing()
_SYMMETRIC = Preprocessing(scale=2 / 255, shift=-1.0)  # to [-1, 1]

_LIGHT_RANGES = ((6, 44), (26, 112), (72, 256), (160, 640))
_FACE_V1_RANGES = ((10, 15), (15, 20), (20, 40), (40, 70), (70, 110), (110, 250), (250, 400), (400, 560))  # fmt: skip
_FACE_V2_RANGES = ((10, 20), (20, 40), (40, 80), (80, 160), (160, 320))
_HEAD_RANGES = _FACE_V2_RANGES[:4]
_PEDESTRIAN_RANGES = ((30, 60), (60, 100), (100, 180), (180, 320))
_PLATE_RANGES = ((64, 128), (128, 256), (256, 512))

_PFLD = Defaults(_SYMMETRIC, any_size=False)

DEFAULTS: Mapping[str, Defaults] = {
    "pfld": _PFLD,
    "pfld-msfc": _PFLD,
    "pfld-ultralight": _PFLD,
    "pfld-ultralight-slim": _PFLD,
    "pfld-ghostone": _PFLD,
    "pfld-polaris": Defaults(Preprocessing(scale=1 / 255), any_size=False),
    "pfld-polaris-auxiliary": _PFLD,
    "lffd-face-v1": Defaults(_RAW, Detection(("face",), 0.6, 0.4, _FACE_V1_RANGES)),
    "lffd-face-v2": Defaults(_RAW, Detection(("face",), 0.6, 0.4, _FACE_V2_RANGES)),
    "lffd-head": Defaults(_RAW, Detection(("head",), 0.5, 0.6, _HEAD_RANGES)),
    "lffd-pedestrian": Defaults(_RAW, Detection(("pedestrian",), 0.5, 0.5, _PEDESTRIAN_RANGES)),
    "lffd-plate": Defaults(_RAW, Detection(("plate",), 0.5, 0.4, _PLATE_RANGES)),
    "lffd-plate-small": Defaults(_RAW, Detection(("plate",), 0.5, 0.4, _PLATE_RANGES)),
    "lffd-light": Defaults(
        Preprocessing(multiple=64, least=192),
        Detection(
            *(("face",), 0.5, 0.45, _LIGHT_RANGES), overlap="iou", head="light", minimum_side=1
        ),
    ),
    "basketnet": Defaults(
        Preprocessing("rgb", divide=255.0),
        Detection(
            *(("basketball", "volleyball"), 0.8, 0.1, _FACE_V1_RANGES),
            overlap="inclusive-iou",
            head="basketnet",
        ),
    ),
    "tinynet": Defaults(),
}

#: The published face detectors whose outputs are known, by the names of their heads. Thresholds are those of
#: OpenCV's zoo of models for YuNet, of the authors' own code for the rest.
PUBLISHED: Mapping[str, Defaults] = {
    name: Defaults(
        preprocessing,
        Detection(
            *(("face",), threshold, nms_threshold, (sizes,), overlap),
            head=name,
            minimum_side=1,
        ),
    )
    for name, preprocessing, threshold, nms_threshold, overlap, sizes in (
        ("yunet", Preprocessing(multiple=32), 0.6, 0.3, "iou", (10, 300)),
        (
            *("scrfd", Preprocessing("rgb", divide=128.0, multiple=32, mean=(127.5,) * 3)),
            *(0.5, 0.4, "inclusive-iou", (16, 512)),
        ),
        (
            *("ultralight", Preprocessing("rgb", divide=128.0, mean=(127.0,) * 3)),
            *(0.7, 0.3, "iou", (10, 256)),
        ),
        ("centerface", Preprocessing("rgb", multiple=32), 0.5, 0.3, "inclusive-iou", (8, 512)),
        (
            *("retinaface", Preprocessing(multiple=32, mean=(104.0, 117.0, 123.0))),
            *(0.6, 0.4, "inclusive-iou", (16, 512)),
        ),
    )
}

#: Of networks that are not listed: any size, R, G, B in [0, 1] in the order B, G, R, nothing to detect.
NEUTRAL = Defaults()

#: The networks that find landmarks.
LANDMARKERS = tuple(name for name in DEFAULTS if name.startswith("pfld"))


def check_landmarks(name: str, finds: bool, advice: str = "") -> None:
    """Refuse the network `name` as a landmarker unless it `finds` landmarks.

    Raises:
        OptionError: the message says what it is and what to do, after "it", where `advice` does; else it names those
            that do.
    """
    if finds:
        return
    detection = defaults_of(name).detection
    what = f"boxes of {' and '.join(detection.classes)}, no" if detection else "no"
    rest = f"it {advice}" if advice else f"landmark networks: {', '.join(LANDMARKERS)}"
    raise OptionError(f"{name} finds {what} landmarks; {rest}")


def defaults_of(network: Graph | str) -> Defaults:
    """What `network`, a graph or a name, expects and means; `NEUTRAL` for one that is not listed.

    A graph that was built has options and is known by its name; one out of an ONNX file by its outputs.
    """
    if isinstance(network, str):
        return DEFAULTS.get(network, NEUTRAL)
    decoder = None if network.options else decoder_of(network)
    return DEFAULTS.get(network.name, NEUTRAL) if decoder is None else PUBLISHED[decoder]


def published(decoder: str) -> Defaults:
    """The record of a published face detector.

    Raises:
        OptionError: there is none of this name.
    """
    if decoder not in PUBLISHED:
        raise OptionError(f"decoder is one of {', '.join(PUBLISHED)}, not {decoder!r}")
    return PUBLISHED[decoder]


def detection_of(network: Graph | str, defaults: Defaults | None = None) -> Detection:
    """What `network` detects by `defaults`, its own where they are None.

    Raises:
        OptionError: it detects nothing; the message names the networks that do.
    """
    detection = (defaults or defaults_of(network)).detection
    if detection is None:
        name = network if isinstance(network, str) else network.name
        detectors = ", ".join(known for known, own in DEFAULTS.items() if own.detection)
        raise OptionError(
            f"{name} detects nothing; use one of {detectors}, or say how its outputs are read by decoder= "
            f"({', '.join(PUBLISHED)}), or pass what its boxes are as defaults="
        )
    return detection
