"""What each network expects of its input and means by its outputs: one record a network.

A network that is not listed here is run by passing a record of its own: `FaceDetector(model,
defaults=Defaults(...))`, `FaceLandmarker(model, defaults=Defaults(...))`.

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

#: The network whose released weights find faces where no other is asked for.
DETECTOR = "lffd-face-v2"
#: The network whose released weights find landmarks where no other is asked for.
LANDMARKER = "pfld-ultralight-slim"

CHANNEL_ORDERS = ("bgr", "rgb")


@dataclass(frozen=True)
class Preprocessing:
    """How the pixels of an image become a network's input.

    A pixel becomes value / divide · scale + shift, in float32. A factor of 1 and a shift of 0 are left
    out. Which of the two factors a network has matters to the last bit: x / 255 and x · (1/255)
    differ.

    Attributes:
        channel_order: "bgr" or "rgb", the order that the network was trained on.
        divide, scale, shift: see above.
    """

    channel_order: str = "bgr"
    divide: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.channel_order not in CHANNEL_ORDERS:
            raise OptionError(f"channel_order is 'bgr' or 'rgb', not {self.channel_order!r}")

    def apply(self, images: Array | Sequence[Array]) -> Array:
        """The network's input, float32 (N, 3, H, W), for `images`: uint8 (H, W, 3) in BGR order, of one size."""
        if isinstance(images, np.ndarray):
            channels_first = images.transpose(0, 3, 1, 2)
        else:
            channels_first = np.stack([image.transpose(2, 0, 1) for image in images])
        if self.channel_order == "rgb":
            channels_first = channels_first[:, ::-1]
        x: Array = channels_first.astype(np.float32, order="C")
        if self.divide != 1:
            x /= np.float32(self.divide)
        if self.scale != 1:
            x *= np.float32(self.scale)
        if self.shift != 0:
            x += np.float32(self.shift)
        return x


@dataclass(frozen=True)
class Detection:
    """What a detection network finds, and the settings that its makers run it with.

    Attributes:
        classes: what its boxes are boxes of, by label.
        threshold: boxes with a strictly higher score count.
        nms_threshold, overlap: as `threshold` and `overlap` of `refnet.detection.nms.suppress`.
        head: what turns the outputs into boxes, a key of `refnet.detection.detector.HEADS`.
        object_ranges: of each branch, the smallest and the largest longer side in pixels of the
            objects that it is trained for.
        minimum_side: images whose shorter side is less are enlarged to it.
    """

    classes: tuple[str, ...]
    threshold: float
    nms_threshold: float
    object_ranges: tuple[Pair, ...]
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

#: Of networks that are not listed: any size, R, G, B in [0, 1] in the order B, G, R, nothing to detect.
NEUTRAL = Defaults()

#: The networks that find landmarks.
LANDMARKERS = tuple(name for name in DEFAULTS if name.startswith("pfld"))


def check_landmarks(name: str, finds: bool) -> None:
    """Refuse the network `name` as a landmarker unless it `finds` landmarks.

    Raises:
        OptionError: the message names those that do.
    """
    if finds:
        return
    detection = defaults_of(name).detection
    what = f"boxes of {' and '.join(detection.classes)}, no" if detection else "no"
    raise OptionError(f"{name} finds {what} landmarks; landmark networks: {', '.join(LANDMARKERS)}")


def defaults_of(network: Graph | str) -> Defaults:
    """What `network`, a graph or a name, expects and means; `NEUTRAL` for one that is not listed."""
    return DEFAULTS.get(network if isinstance(network, str) else network.name, NEUTRAL)


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
            f"{name} detects nothing; use one of {detectors}, or pass what its boxes are as defaults="
        )
    return detection
