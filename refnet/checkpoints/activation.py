"""Which activation a network was trained with, where its tensors do not say it.

Activations have no weights. ONNX and ncnn list their operators, which settles it. In other files only the running
statistics of batch norms can tell: a network whose activations are bounded at 6 has smaller variances further down than
one whose activations are not. So the network is run both ways on images with the spectrum of photos, and the way that
comes closer to the recorded variances was probably the one of its training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refnet.checkpoints.elements import Array
from refnet.errors import WeightsError, printable
from refnet.graph import Graph
from refnet.networks import build

Options = dict[str, Any]

# Operators of ONNX and ncnn, in lower case, that no network here has. Those of a known layer's name and other bounds
# are distinguished where they are read: "Clip" alone is between 0 and 6, "ReLU" alone has no slope.
# fmt: off
_FOREIGN = frozenset([
    "celu", "elu", "erf", "gelu", "hardsigmoid", "hardswish", "leakyrelu", "mish", "prelu", "selu", "shrink", "silu",
    "softplus", "softsign", "swish", "tanh", "thresholdedrelu",
])
# fmt: on
_IMAGES = 2
# On trained networks the wrong activation is 13 to 60 % further from the recorded variances than the right one.
_CLEARLY = 1.05
_CREDIBLE = (
    2.5  # mean distance of the logarithms of variances: beyond it, neither way explains them
)


def settled(
    operators: str, network: str, options: Options, tensors: Mapping[str, Array], where: object
) -> Options:
    """`options` with the activation of a file, where `network` leaves a choice of it and the caller made none.

    Args:
        operators: what the file lists, "Clip=35 Conv=43"; empty where it lists nothing.
        tensors: by the network's names.
        where: the file, for the messages.

    Raises WeightsError where the file lists activations that the network does not have. A warning says which activation
    was taken where the file lists none.
    """
    graph = build(network, **options)
    names = {entry.partition("=")[0] for entry in operators.split()}
    clipped, plain = "Clip" in names, bool({"Relu", "ReLU"} & names)
    open_choice = "activation" in graph.options
    foreign = sorted(n for n in names if n.lower() in _FOREIGN or n.startswith(("Clip(", "ReLU(")))
    if clipped and (plain or not open_choice):
        foreign.append("Clip")
    if foreign:
        raise WeightsError(
            f"{where}: its layers are those of {network}, but it has activations that {network} does not have: "
            f"{', '.join(foreign)}"
        )
    if not open_choice:
        return options
    if clipped or plain:
        return {**options, "activation": "relu6" if clipped else "relu"}
    taken, reason = _guessed(network, options, tensors)
    other = "relu" if taken == "relu6" else "relu6"
    warnings.warn(
        printable(
            f"{where}: the file does not say whether {network} has the activation relu or relu6; {taken} was taken, "
            f"{reason}. If it was trained with {other}, pass activation={other!r} (--option activation={other})."
        ),
        RuntimeWarning,
        stacklevel=4,  # whoever called `identify`
    )
    return {**options, "activation": taken}


def _guessed(network: str, options: Options, tensors: Mapping[str, Array]) -> tuple[str, str]:
    """The likelier activation, and why, as a clause."""
    distances = {
        name: _distance(build(network, **{**options, "activation": name}), tensors)
        for name in ("relu", "relu6")
    }
    nearer, further = sorted(distances, key=lambda name: distances[name])
    if not distances[nearer] <= _CREDIBLE or distances[further] < _CLEARLY * distances[nearer]:
        return "relu", "as in the published code"
    return nearer, "which its running statistics fit better"


def _distance(graph: Graph, tensors: Mapping[str, Array]) -> float:
    """How far the variances in `graph` are from those that `tensors` recorded; infinity where that cannot be said.

    The mean over batch norms of the absolute median, over channels, of log(variance / recorded variance).
    """
    from refnet import reference

    norms = [node for node in graph.nodes if node.op == "batch_norm"]
    if not norms:
        return np.inf
    recorded = [tensors[node.parameters["running_var"]].astype(np.float64) for node in norms]
    graph = replace(graph, outputs=tuple(node.inputs[0] for node in norms))
    weights = {name: tensors[name].astype(np.float32) for name in graph.parameters}
    with np.errstate(all="ignore"):
        inputs = reference.run(graph, weights, _photos(graph.input_shape))
        ratios = [
            np.log((x.var((0, 2, 3), dtype=np.float64) + 1e-9) / (variance + 1e-9))
            for x, variance in zip(inputs, recorded, strict=True)
        ]
        distance = float(np.mean([abs(np.median(ratio)) for ratio in ratios]))
    return distance if np.isfinite(distance) else np.inf


def _photos(shape: Sequence[int]) -> Array:
    """Images (N, C, H, W) between 0 and 1 whose amplitudes fall with frequency as those of photos do.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells", figure 7.
    """
    channels, *size = shape
    noise = np.random.default_rng(0).standard_normal((_IMAGES, 1 + channels, *size))
    vertical, horizontal = (np.fft.fftfreq(length) for length in size)
    frequency = np.hypot(vertical[:, None], horizontal)
    frequency[0, 0] = 1 / max(size)
    smooth = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.2).real
    images = smooth[:, :1] + 0.35 * smooth[:, 1:]  # the channels of a photo are alike
    photos: Array = np.clip(0.45 + 0.22 * images / images.std(), 0, 1).astype(np.float32)
    return photos
