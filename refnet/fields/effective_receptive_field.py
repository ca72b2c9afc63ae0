"""What a network looks at: effective receptive fields, by gradients in NumPy.

The effective receptive field of a unit is the size of the gradient of its output by each input pixel
(Luo et al. 2016, arXiv:1701.04128). Three experiments:

    constant weights    every weight alike and every gate open: what the architecture alone does
    random weights      the mean over drawn weights and noise: a network before training
    trained weights     the mean over real images: a network after training

Gradients are summed over the input's channels by magnitude, averaged, and divided by their peak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.fields import widths
from refnet.fields.branches import branches
from refnet.fields.receptive_field import receptive_field
from refnet.fields.unit_gradient import ending_at, unit_gradient
from refnet.fields.widths import GaussianFit
from refnet.graph import Graph
from refnet.model import Model, Net, graph_of, load
from refnet.ops import Array, Pair, Shape
from refnet.random_weights import random_weights
from refnet.receptive import ReceptiveField, Region, whole

Box = tuple[int, int, int, int]
THRESHOLDS = (0.5, 0.75, 0.85)


@dataclass(frozen=True, eq=False)
class EffectiveReceptiveField:
    """The effective receptive field of a unit: a map, and how wide it is.

    Boxes are (x1, y1, x2, y2) in pixels of the image, x2 and y2 exclusive; widths are in pixels.

    Attributes:
        network, output: what was looked at.
        unit: (row, column) in the last image.
        field: the theoretical receptive field.
        map: float64 (rows, columns), peak 1. It covers the theoretical field, zeros where that leaves
            the image; the whole image where the output is a vector.
        origin: (row, column) in the last image of the map's first pixel.
        peak: the greatest gradient, before the map was divided by it.
        samples: how many gradients were averaged.
    """

    network: str
    output: str
    unit: Pair
    field: ReceptiveField
    map: Array
    origin: Pair
    peak: float
    samples: int

    @property
    def support(self) -> Box:
        """The box around every pixel whose gradient is not zero."""
        return self.threshold_box(0.0)

    def threshold_box(self, threshold: float) -> Box:
        """The box around the pixels above `threshold` of the peak; several blobs count as one."""
        x1, y1, x2, y2 = widths.bounding_box(self.map > threshold)
        top, left = self.origin
        return x1 + left, y1 + top, x2 + left, y2 + top

    @cached_property
    def luo_width(self) -> float:
        """√(number of pixels above 1 - 0.9545 of the peak), the count of Luo et al. (2016)."""
        return widths.luo_width(self.map)

    @cached_property
    def two_sigma(self) -> tuple[float, float]:
        """(rows, columns): four standard deviations of each marginal, two on either side."""
        return widths.two_sigma_width(self.profile(0)), widths.two_sigma_width(self.profile(1))

    @cached_property
    def window(self) -> int:
        """Side of the smallest square around the field's centre that holds 95.45 % of the sum."""
        height, width = self.map.shape
        return widths.central_window(self.map, ((height - 1) // 2, (width - 1) // 2))

    @cached_property
    def gaussian(self) -> tuple[GaussianFit, GaussianFit]:
        """(rows, columns): the Gaussian through each marginal, in pixels of the map."""
        return widths.fit_gaussian(self.profile(0)), widths.fit_gaussian(self.profile(1))

    @cached_property
    def centroid(self) -> tuple[float, float]:
        """(row, column) in the image of the map's centre of mass."""
        row, column = (widths.moments(self.profile(axis))[0] for axis in (0, 1))
        return row + self.origin[0], column + self.origin[1]

    def profile(self, axis: int) -> Array:
        """The marginal along rows (axis 0) or columns (axis 1), its peak 1."""
        total = self.map.sum(1 - axis)
        profile: Array = total / total.max()
        return profile

    def smoothed(self, sigma: float = 2.0) -> EffectiveReceptiveField:
        """The same after a Gaussian blur of `sigma` pixels, which closes the comb that strides leave."""
        return replace(self, map=_read_only(widths.smoothed(self.map, sigma)))

    def at(self, unit: Pair) -> EffectiveReceptiveField:
        """The same map at another unit, as holds for a linear network away from the borders."""
        x1, y1, _, _ = self.field.box(unit)
        return replace(self, unit=unit, origin=(y1, x1))

    def as_data(self) -> dict[str, Any]:
        """Every number but the map, JSON-able."""
        boxes = {str(t): self.threshold_box(t) for t in THRESHOLDS}
        return {
            "network": self.network,
            "output": self.output,
            "unit": self.unit,
            "samples": self.samples,
            "peak": self.peak,
            "receptive_field": self.field.size,
            "jump": self.field.jump,
            "support": self.support,
            "threshold_boxes": boxes,
            "luo_width": self.luo_width,
            "two_sigma": self.two_sigma,
            "window": self.window,
            "centroid": self.centroid,
            "gaussian": [
                {"mean": g.mean, "sigma": g.sigma, "amplitude": g.amplitude, "residual": g.residual}
                for g in self.gaussian
            ],
        }


def effective_receptive_field(
    net: Net | Graph,
    output: str | None = None,
    *,
    unit: Pair | None = None,
    inputs: Array | Sequence[Array] | None = None,
    channels: int | Sequence[int] | Mapping[int, float] | None = None,
    constant: float = 0.05,
    draws: int = 0,
    seed: int = 0,
) -> EffectiveReceptiveField:
    """The effective receptive field of a unit.

    With `inputs`, a network is looked at with its own weights: a `Model`, or what `refnet.load` makes of
    a name or a file. Without, a graph, a name or a file is looked at without its weights: every weight
    is `constant`, every bias 0 and every gate open, so that the network is linear and needs no input;
    or, with `draws`, weights and normally distributed inputs are drawn that many times.

    Args:
        net: a graph, a model, a checkpoint's file or a name, see `refnet.model.graph_of`.
        output: any tensor of the graph; its first branch by default.
        unit: (row, column) of the output. By default, of a model, the unit whose centre is nearest the
            image's; of a graph, one that sees no padding.
        inputs: images (N, C, H, W), or a sequence of images (C, H, W) of any sizes, float32 or float64,
            as the network expects them; computed in that dtype.
        channels: the output's channel to differentiate, several of them (their sum), or {channel:
            weight}; all of them by default.
        constant: the weight of a graph's experiment; scales the map of a plain network, weighs the
            paths of one with skips.
        draws, seed: number of random networks, and the first one's seed.

    Raises:
        OptionError: no such tensor or channel, or a model without inputs.
        ShapeError: an input does not fit, there is no such unit, or the gradient is zero everywhere.
    """
    model = load(net) if inputs is not None and isinstance(net, str | os.PathLike) else net
    graph = graph_of(model)
    tensor = branches(graph)[0].tensor if output is None else output
    part = ending_at(graph, tensor)
    if len(part.shapes()[tensor]) == 2:
        maps = ", ".join(branch.tensor for branch in branches(graph))
        raise OptionError(
            f"{tensor!r} of {graph.name} lists the cells of maps; choose a map, such as {maps}"
        )
    if isinstance(model, Model):
        if inputs is None:
            raise OptionError(
                f"{graph.name} has trained weights, whose field depends on the image: pass inputs=, "
                "images (C, H, W); or pass the graph, for constant or random weights"
            )
        samples: Iterator[_Sample] = _trained(model, inputs)
    elif inputs is not None:
        raise OptionError("inputs go with a model; a graph has no weights to look at them with")
    elif draws:
        samples = _drawn(part, draws, seed, unit)
    else:
        samples = iter([(constant_weights(part, constant), _interior_shape(part, unit))])
    return _average(part, samples, unit, channels)


def constant_weights(graph: Graph, value: float = 0.05) -> dict[str, Array]:
    """{state-dict name: float64 array}: every weight `value`, every bias 0, every norm the identity."""
    weights: dict[str, Array] = {}
    for node in graph.nodes:
        for role, name in node.parameters.items():
            norm = float(role in ("weight", "running_var"))
            normalizes = "running_var" in node.parameters
            filled = norm if normalizes else value * norm
            weights[name] = np.full(graph.state_dict[name], filled)
    return weights


_Sample = tuple[Mapping[str, Array], "Array | Shape"]


def _trained(model: Model, inputs: Array | Sequence[Array]) -> Iterator[_Sample]:
    if not len(inputs):
        raise ShapeError("there is no image in inputs")
    for image in inputs:
        image = np.asarray(image)
        if image.ndim != 3 or image.dtype not in (np.float32, np.float64):
            raise ShapeError(
                f"inputs are images (C, H, W) in float32 or float64, not {image.dtype} {image.shape}"
            )
        yield {n: w.astype(image.dtype, copy=False) for n, w in model.weights.items()}, image


def _drawn(graph: Graph, draws: int, seed: int, unit: Pair | None) -> Iterator[_Sample]:
    shape = _interior_shape(graph, unit)
    for draw in range(seed, seed + draws):
        noise = np.random.default_rng(draw).standard_normal(shape).astype(np.float32)
        first = graph.nodes[0]
        if {"mean", "std"} <= first.attributes.keys():  # the network's own idea of a centred input
            noise = noise * np.float32(first.attributes["std"]) + np.float32(
                first.attributes["mean"]
            )
        yield random_weights(graph, draw), noise


def _interior_shape(graph: Graph, unit: Pair | None) -> Shape:
    """The smallest image in which a unit sees no padding; the graph's own where that cannot be.

    A network that joins maps of several strides may take multiples of the largest one only.
    """
    output = graph.outputs[0]
    fields = receptive_field(graph)
    field = fields[output]
    if unit is not None or field is None or field.jump == (0, 0):
        return graph.input_shape
    sides = [axis.span(-(axis.first // axis.jump))[1] for axis in (field.rows, field.columns)]
    largest = max(max(seen.jump) for seen in fields.values() if seen is not None)
    for multiple in (1, largest, 2 * largest):
        shape = (graph.input_shape[0], *(-(-side // multiple) * multiple for side in sides))
        try:
            graph.shapes(shape)
        except ShapeError:
            continue
        return shape
    return graph.input_shape


def _average(
    graph: Graph,
    samples: Iterator[_Sample],
    unit: Pair | None,
    channels: int | Sequence[int] | Mapping[int, float] | None,
) -> EffectiveReceptiveField:
    """The mean of |gradient| over `samples`, laid over each other at the unit's centre."""
    output = graph.outputs[0]
    total: Array | None = None
    count = 0
    for weights, x in samples:
        shape = x.shape if isinstance(x, np.ndarray) else x
        field = receptive_field(graph, shape)[output]
        if field is None:
            raise OptionError(f"{output!r} of {graph.name} joins maps of different strides")
        output_shape = graph.shapes(shape)[output]
        at = _nearest(field, shape, output_shape) if unit is None else unit
        dtype = x.dtype if isinstance(x, np.ndarray) else np.dtype(np.float64)
        cotangent = _cotangent(channels, output, output_shape[0], dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            gradient, region = unit_gradient(graph, weights, x, at, cotangent)
        frame = _frame(field, at, shape)
        if total is None:
            total = np.zeros(frame.size)
        if total.shape != frame.size:
            raise ShapeError(
                f"{output!r} sees the whole image, so all inputs must have one size; got {shape}"
            )
        # Where layers compute more than the unit needs, the region is larger than what it sees.
        seen = region.within(frame)
        part = gradient[seen.of(region)]
        total[seen.of(frame)] += np.abs(part).sum(0, dtype=np.float64)
        count += 1
    assert total is not None and field is not None  # there was a sample
    total /= count
    peak = float(total.max())
    if not np.isfinite(peak):
        raise OptionError(
            f"the gradient of {output!r} overflows; pass a smaller constant= than was given"
        )
    if peak == 0:
        raise ShapeError(
            f"the gradient of {output!r} at unit {at} is zero everywhere: every path to it is closed; "
            "choose another unit, channel or image"
        )
    normalised = _read_only(total / peak)
    origin = (frame.top, frame.left)
    return EffectiveReceptiveField(graph.name, output, at, field, normalised, origin, peak, count)


def _nearest(field: ReceptiveField, shape: Shape, output_shape: Shape) -> Pair:
    """The unit whose centre is nearest the image's."""
    if len(output_shape) != 3:
        return 0, 0
    return (
        field.rows.nearest((shape[1] - 1) / 2, output_shape[1]),
        field.columns.nearest((shape[2] - 1) / 2, output_shape[2]),
    )


def _frame(field: ReceptiveField, unit: Pair, shape: Shape) -> Region:
    """The region that a map covers: the unit's field, or the image where units have no place."""
    if field.jump == (0, 0):
        return whole(shape)
    return Region(*field.rows.span(unit[0]), *field.columns.span(unit[1]))


def _cotangent(
    channels: int | Sequence[int] | Mapping[int, float] | None,
    output: str,
    count: int,
    dtype: np.dtype[Any],
) -> Array:
    """(count,): the weight of each output channel in what is differentiated."""
    if channels is None:
        return np.ones(count, dtype)
    if isinstance(channels, int):
        channels = (channels,)
    chosen = channels if isinstance(channels, Mapping) else dict.fromkeys(channels, 1.0)
    if wrong := [c for c in chosen if not 0 <= c < count]:
        raise OptionError(f"{output!r} has channels 0 to {count - 1}; there is no {wrong}")
    cotangent = np.zeros(count, dtype)
    for channel, weight in chosen.items():
        cotangent[channel] = weight
    return cotangent


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array
