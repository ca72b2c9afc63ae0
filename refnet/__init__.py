"""Small face networks of the edge world on any CPU, without PyTorch.

    refnet.networks()                      the networks
    refnet.build(name, **options)          a network as a graph
    refnet.load(name_or_file, weights)     a network with weights: model(x), model.run, model.vjp
    refnet.FaceLandmarker(...).predict     landmarks of faces in an image
    refnet.receptive_field(graph)          what its units can see
    refnet.effective_receptive_field(...)  what they look at

Importing refnet loads NumPy and nothing else.
"""

from refnet.effective_receptive_field import EffectiveReceptiveField, effective_receptive_field
from refnet.errors import (
    BackendError,
    CheckpointError,
    DependencyError,
    ImageError,
    OptionError,
    RefnetError,
    ShapeError,
    UnknownNetworkError,
    UnsafeCheckpointError,
    WeightsError,
)
from refnet.graph import Graph, Node
from refnet.landmarks import FaceLandmarker, Landmarks
from refnet.media import read_image, write_image
from refnet.model import Model, load
from refnet.networks import build, network_options, networks
from refnet.receptive_field import receptive_field

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CheckpointError",
    "DependencyError",
    "EffectiveReceptiveField",
    "FaceLandmarker",
    "Graph",
    "ImageError",
    "Landmarks",
    "Model",
    "Node",
    "OptionError",
    "RefnetError",
    "ShapeError",
    "UnknownNetworkError",
    "UnsafeCheckpointError",
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
