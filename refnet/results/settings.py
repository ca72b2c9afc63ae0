"""What results depend on: the networks, their weights and the settings of a run, as plain values."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from refnet.detection.detector import Detector
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.smoothing import Smoothing
from refnet.model import Model

#: What of a detector and a landmarker changes what they find, as their attributes are called.
DETECTOR_SETTINGS = ("nms_threshold", "overlap", "top_k")
LANDMARKER_SETTINGS = ("margin", "refine")


def settings_of(
    analyzer: Any,
    smoothing: Smoothing | None = None,
    search_every: float = 0.0,
    min_age: float = 0.0,
) -> dict[str, Any]:
    """{name: plain value} of all that changes what `analyzer` finds in an image or a video.

    The number of threads and the backend are no such thing: results of both are the same to rounding.
    Of an analyzer without `detector` or `landmarker`, nothing is known of these.

    Args:
        analyzer: a `refnet.FaceAnalyzer`, a `refnet.Detector`, or another function of an image.
        smoothing, search_every, min_age: of the `refnet.FaceTracker`.
    """
    found: dict[str, Any] = {"smoothing": None if smoothing is None else asdict(smoothing)}
    found |= {"search_every": search_every, "min_age": min_age}
    detector = analyzer if isinstance(analyzer, Detector) else getattr(analyzer, "detector", None)
    if isinstance(detector, Detector):
        found |= _network("detector", detector.model) | asdict(detector.settings)
        found |= {name: getattr(detector, name) for name in DETECTOR_SETTINGS}
    landmarker = getattr(analyzer, "landmarker", None)
    if isinstance(landmarker, FaceLandmarker):
        found |= _network("landmarker", landmarker.model)
        found |= {name: getattr(landmarker, name) for name in LANDMARKER_SETTINGS}
        found["channel_order"] = landmarker.preprocessing.channel_order
    return found | {"boxes": getattr(analyzer, "boxes", None)}


def _network(role: str, model: Model) -> dict[str, Any]:
    """The network of a role with its options, and a digest of its weights."""
    digest = hashlib.sha256()
    for name in sorted(model.weights):
        array = model.weights[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    options = ",".join(f"{key}={value}" for key, value in sorted(model.graph.options.items()))
    return {role: f"{model.graph.name}:{options}", f"{role} weights": digest.hexdigest()[:16]}
