"""What results depend on: the networks, their weights and the settings of a run, as plain values."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.tracking import Smoothing
from refnet.model import Model

#: What of a detector and a landmarker changes what they find, as their attributes are called.
DETECTOR_SETTINGS = ("threshold", "nms_threshold", "overlap", "top_k")
LANDMARKER_SETTINGS = ("margin", "passes")


def settings_of(analyzer: Any, smoothing: Smoothing | None = None) -> dict[str, Any]:
    """{name: plain value} of all that changes what `analyzer` finds in an image or a video.

    The number of threads and the backend are no such thing: results of both are the same to rounding.
    An analyzer of another class than `FaceAnalyzer` has no settings that are known here.
    """
    found: dict[str, Any] = {"smoothing": None if smoothing is None else asdict(smoothing)}
    if not isinstance(analyzer, FaceAnalyzer):
        return found
    detector, landmarker = analyzer.detector, analyzer.landmarker
    found |= _network("detector", detector.model)
    found |= {name: getattr(detector, name) for name in DETECTOR_SETTINGS}
    settings = getattr(detector.head, "settings", None)  # some heads have no scales and no branches
    found |= {} if settings is None else asdict(settings)
    if landmarker is None:
        return found | {"landmarker": None}
    found |= _network("landmarker", landmarker.model)
    found |= {name: getattr(landmarker, name) for name in LANDMARKER_SETTINGS}
    return found | {"channel_order": landmarker.preprocessing.channel_order}


def _network(role: str, model: Model) -> dict[str, Any]:
    """The network of a role with its options, and a digest of its weights."""
    digest = hashlib.sha256()
    for name in sorted(model.weights):
        array = model.weights[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    options = ",".join(f"{key}={value}" for key, value in sorted(model.graph.options.items()))
    return {role: f"{model.graph.name}:{options}", f"{role} weights": digest.hexdigest()[:16]}
