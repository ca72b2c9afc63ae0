"""Small face networks of the edge world on any CPU, without PyTorch.

    refnet.networks()                      the networks
    refnet.build(name, **options)          a network as a graph
    refnet.load(name_or_file, weights)     a network with weights: model(x), model.run, model.vjp
    refnet.FaceDetector(...).detect        boxes of faces, heads, plates, balls in an image
    refnet.FaceLandmarker(...).predict     landmarks of faces in an image
    refnet.FaceAnalyzer(...)(image)        both: the faces of an image
    refnet.FaceTracker(...).update         the same faces through a video, without jitter
    refnet.receptive_field(graph)          what its units can see
    refnet.effective_receptive_field(...)  what they look at

Importing refnet loads NumPy and nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

from refnet.errors import (
    BackendError,
    CheckpointError,
    DependencyError,
    ImageError,
    OptionError,
    OutputError,
    RefnetError,
    ShapeError,
    UnknownNetworkError,
    UnsafeCheckpointError,
    UnsupportedError,
    WeightsError,
)
from refnet.graph import Graph, Node
from refnet.model import Model, load
from refnet.networks import build, network_options, networks
from refnet.version import __version__ as __version__

if TYPE_CHECKING:
    from refnet.detection.detections import Detections
    from refnet.detection.detector import FaceDetector
    from refnet.faces.analyzer import FaceAnalyzer
    from refnet.faces.face import Face, Faces
    from refnet.faces.landmarks import FaceLandmarker, Landmarks
    from refnet.faces.tracking import FaceTracker, Smoothing
    from refnet.fields.effective_receptive_field import (
        EffectiveReceptiveField,
        effective_receptive_field,
    )
    from refnet.fields.receptive_field import receptive_field
    from refnet.media.images import read_image, write_image
    from refnet.receptive import ReceptiveField

__all__ = [
    "BackendError",
    "CheckpointError",
    "DependencyError",
    "Detections",
    "EffectiveReceptiveField",
    "Face",
    "FaceAnalyzer",
    "FaceDetector",
    "FaceLandmarker",
    "FaceTracker",
    "Faces",
    "Graph",
    "ImageError",
    "Landmarks",
    "Model",
    "Node",
    "OptionError",
    "OutputError",
    "ReceptiveField",
    "RefnetError",
    "ShapeError",
    "Smoothing",
    "UnknownNetworkError",
    "UnsafeCheckpointError",
    "UnsupportedError",
    "WeightsError",
    "build",
    "effective_receptive_field",
    "load",
    "network_options",
    "networks",
    "read_image",
    "receptive_field",
    "write_image",
]

#: Public names whose modules load when the name is first used, so that importing refnet stays quick.
_LATER = {
    "Detections": "detection.detections",
    "EffectiveReceptiveField": "fields.effective_receptive_field",
    "Face": "faces.face",
    "FaceAnalyzer": "faces.analyzer",
    "FaceDetector": "detection.detector",
    "FaceLandmarker": "faces.landmarks",
    "FaceTracker": "faces.tracking",
    "Faces": "faces.face",
    "Landmarks": "faces.landmarks",
    "ReceptiveField": "receptive",
    "Smoothing": "faces.tracking",
    "effective_receptive_field": "fields.effective_receptive_field",
    "read_image": "media.images",
    "receptive_field": "fields.receptive_field",
    "write_image": "media.images",
}


if not TYPE_CHECKING:  # a type checker is to notice names that do not exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'refnet' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"refnet.{_LATER[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
