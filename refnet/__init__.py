"""Finds faces, 98 landmarks and head pose in photos and video, on any CPU: no PyTorch, no GPU, no download.

    refnet.FaceAnalyzer()(image)           the faces of an image: boxes, landmarks, pose
    refnet.FaceDetector()(image)           boxes of faces; refnet.Detector(network) of anything else
    refnet.FaceLandmarker()(image, boxes)  landmarks of faces whose boxes are known
    refnet.FaceTracker().video(path)       the same faces through a video, without jitter
    refnet.analyze_table(...)              the faces of a table of images
    refnet.networks()                      the networks
    refnet.build(name, **options)          a network as a graph
    refnet.load(name_or_file, weights)     a network with weights: model(x), model.run, model.vjp
    refnet.receptive_field(network)        what its units can see
    refnet.effective_receptive_field(...)  what they look at

An image is a path, the bytes of a file, a PIL image, or a uint8 array: (H, W, 3) in BGR order as
cv2.imread gives it, or gray (H, W). Every object takes one image in a call, and several in `.batch`.

Importing refnet loads NumPy and nothing else.
"""

from refnet.interrupts import end_at_once

end_at_once()  # before what takes long to import

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from refnet.errors import (  # noqa: E402
    ArgumentError,
    BackendError,
    CheckpointError,
    DependencyError,
    FileError,
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
from refnet.networks import build, network_options, networks  # noqa: E402

if TYPE_CHECKING:
    from refnet.batch import analyze_table
    from refnet.detection.detections import Detections
    from refnet.detection.detector import Detector, FaceDetector
    from refnet.faces.analyzer import FaceAnalyzer
    from refnet.faces.face import Face, Faces
    from refnet.faces.landmarks import FaceLandmarker, Landmarks
    from refnet.faces.smoothing import Smoothing
    from refnet.faces.tracking import FaceTracker
    from refnet.fields.effective_receptive_field import (
        EffectiveReceptiveField,
        effective_receptive_field,
    )
    from refnet.fields.receptive_field import receptive_field
    from refnet.graph import Graph, Node
    from refnet.media.images import read_image, write_image
    from refnet.model import Model, load
    from refnet.receptive import ReceptiveField
    from refnet.version import __version__ as __version__

__all__ = [
    "ArgumentError",
    "BackendError",
    "CheckpointError",
    "DependencyError",
    "Detections",
    "Detector",
    "EffectiveReceptiveField",
    "Face",
    "FaceAnalyzer",
    "FaceDetector",
    "FaceLandmarker",
    "FaceTracker",
    "Faces",
    "FileError",
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
    "analyze_table",
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
    "Detector": "detection.detector",
    "EffectiveReceptiveField": "fields.effective_receptive_field",
    "Face": "faces.face",
    "FaceAnalyzer": "faces.analyzer",
    "FaceDetector": "detection.detector",
    "FaceLandmarker": "faces.landmarks",
    "FaceTracker": "faces.tracking",
    "Faces": "faces.face",
    "Graph": "graph",
    "Landmarks": "faces.landmarks",
    "Model": "model",
    "Node": "graph",
    "ReceptiveField": "receptive",
    "Smoothing": "faces.smoothing",
    "__version__": "version",
    "analyze_table": "batch",
    "effective_receptive_field": "fields.effective_receptive_field",
    "load": "model",
    "read_image": "media.images",
    "receptive_field": "fields.receptive_field",
    "write_image": "media.images",
}

#: What other libraries call what is here.
_ELSEWHERE = {
    "FaceAlignment": "FaceLandmarker",
    "FaceAnalysis": "FaceAnalyzer",
    "FaceDetectorYN": "FaceDetector",
    "FaceLandmarker98": "FaceLandmarker",
    "FaceMesh": "FaceLandmarker",
    "RetinaFace": "FaceDetector",
    "SCRFD": "FaceDetector",
    "YOLO": "Detector",
    "get_model": "load",
    "imread": "read_image",
    "imwrite": "write_image",
    "list_models": "networks",
}

if not TYPE_CHECKING:  # so that type checkers report names that do not exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            from refnet.arguments import nearest

            meant = _ELSEWHERE.get(name) or (None if name[0] == "_" else nearest(name, __all__))
            hint = f"; did you mean {meant}?" if meant else ""
            raise AttributeError(f"module 'refnet' has no attribute {name!r}{hint}")
        value = getattr(importlib.import_module(f"refnet.{_LATER[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
