"""The gradient of one unit by the pixels it sees, without computing what it does not.

A unit deep in a network depends on a cone: one position of its own layer, a few of the layer before,
its receptive field of the input. `unit_gradient` walks that cone forward and back with the operations
of `refnet.ops`, so that the cost follows the receptive field and not the image, and the borders of the
image are what they are for the whole network: zeros where a layer pads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.graph import Graph, Node
from refnet.ops import OPS, Array, Pair, Shape
from refnet.receptive import Region, whole


def ending_at(graph: Graph, tensor: str) -> Graph:
    """The part of `graph` that `tensor` depends on, with `tensor` as its one output.

    A map needs no fixed input size, even in a network whose fully connected layers do.

    Raises:
        OptionError: no node makes `tensor`.
    """
    if tensor not in graph.node:
        raise OptionError(
            f"{graph.name} has no tensor {tensor!r}; its outputs are {', '.join(graph.outputs)}, and "
            f"`refnet info {graph.name}` lists the others"
        )
    needed = {tensor}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    nodes = tuple(node for node in graph.nodes if node.name in needed)
    fixed = graph.fixed_size and len(graph.shapes()[tensor]) != 3
    return replace(graph, nodes=nodes, outputs=(tensor,), fixed_size=fixed)


def unit_gradient(
    graph: Graph,
    weights: Mapping[str, Array],
    x: Array | Shape,
    unit: Pair,
    cotangent: Array,
) -> tuple[Array, Region]:
    """The gradient of ⟨cotangent, the unit's channels⟩ by the input, where the unit sees it.

    Args:
        graph: a network with one output; see `ending_at`.
        weights: {state-dict name: array}, of the dtype to compute in.
        x: the image (C, H, W), of that dtype; or the shape of one, for the open network: every gate
            (ReLU, sigmoid, softmax) passes all and maxima are means, so that the network is linear and
            its gradient the same for every image.
        unit: (row, column) of the output; any where the output is no map.
        cotangent: (C,), of the output's channels; of the output's own shape where it is no map.

    Returns:
        The gradient (C, rows, columns), and the region of the image that it covers.

    Raises:
        ShapeError: the network cannot take this image, or has no such unit.
    """
    shape: Shape = x.shape if isinstance(x, np.ndarray) else x
    shapes = graph.shapes(shape)
    cone = _cone(graph, shapes, unit)
    output = graph.outputs[0]
    if isinstance(x, np.ndarray):
        tensors = _forward(graph, weights, x, cone)
    else:
        zero = np.zeros((), cotangent.dtype)
        held = {name: _held(shapes[name], region) for name, region in cone.held.items()}
        tensors = {name: np.broadcast_to(zero, (1, *held[name])) for name in cone.held}
    gradient: dict[str, Array] = {output: _at_unit(cotangent, unit, cone.held[output])}
    for node in reversed(graph.nodes):
        dy, y = gradient.pop(node.name), tensors.pop(node.name)
        inputs = [_read(node, name, tensors[name], cone) for name in node.inputs]
        products = _vjp(node, dy, inputs, y, weights, cone, opened=not isinstance(x, np.ndarray))
        for name, product in zip(node.inputs, products, strict=True):
            _accumulate(gradient, node, name, product, tensors[name].shape, cone)
    region = cone.held[graph.input]
    assert region is not None  # the input is a map
    return gradient[graph.input][0], region


@dataclass(frozen=True)
class _Cone:
    """What one unit depends on. None stands for all of a tensor that is no map.

    Attributes:
        held: {tensor: the region of it that matters}.
        read: {(node, input): what the node reads of it}; unlike `held` it may leave the map, where the
            node pads.
        plain: the nodes that pad by themselves, because they read all that is inside the map and make
            all of their output.
    """

    held: dict[str, Region | None]
    read: dict[tuple[str, str], Region | None]
    plain: set[str]


def _cone(graph: Graph, shapes: Mapping[str, Shape], unit: Pair) -> _Cone:
    output = graph.outputs[0]
    cone = _Cone({output: None}, {}, set())
    if len(shapes[output]) == 3:
        (row, column), (_, height, width) = unit, shapes[output]
        if not (0 <= row < height and 0 <= column < width):
            raise ShapeError(
                f"unit {unit} is outside {output!r}, whose map has {height} rows and {width} columns "
                f"for an image of {shapes[graph.input][1]} × {shapes[graph.input][2]}"
            )
        cone.held[output] = Region(row, row + 1, column, column + 1)
    for node in reversed(graph.nodes):
        op, asked = OPS[node.op], cone.held[node.name]
        if asked is not None:
            parameters = {role: graph.state_dict[name] for role, name in node.parameters.items()}
            inputs = [shapes[name] for name in node.inputs]
            asked = op.makes(asked, shapes[node.name], inputs, parameters, **node.attributes)
            cone.held[node.name] = asked
        inside = asked is None or asked == whole(shapes[node.name])
        for name in node.inputs:
            region = op.reads(asked, shapes[name], **node.attributes)
            inside = inside and (region is None or region == region.within(whole(shapes[name])))
            cone.read[node.name, name] = region
            known = cone.held.get(name)
            if region is not None:
                region = _inside(region, shapes[name])
            cone.held[name] = region if region is None or known is None else region.union(known)
        if inside:
            cone.plain.add(node.name)
    return cone


def _inside(region: Region, shape: Shape) -> Region:
    """The part of `region` inside a map, or the pixel next to it, so that no layer has to make nothing."""
    inner, (_, height, width) = region.within(whole(shape)), shape
    top, left = min(inner.top, height - 1), min(inner.left, width - 1)
    return Region(top, max(inner.bottom, top + 1), left, max(inner.right, left + 1))


def _at_unit(cotangent: Array, unit: Pair, region: Region | None) -> Array:
    """The cotangent of the output's part in the cone: `cotangent` at `unit`, zero elsewhere."""
    if region is None:
        return np.array(cotangent[None])
    dy = np.zeros((1, len(cotangent), *region.size), cotangent.dtype)
    dy[0, :, unit[0] - region.top, unit[1] - region.left] = cotangent
    return dy


def _held(shape: Shape, region: Region | None) -> Shape:
    return shape if region is None else (shape[0], *region.size)


def _read(node: Node, name: str, held: Array, cone: _Cone) -> Array:
    """What `node` reads of the tensor `name`, of which `held` is the cone's part, padded."""
    outer, wanted = cone.held[name], cone.read[node.name, name]
    if outer is None or wanted is None:
        return held
    inner = wanted.within(outer)
    part = held[inner.of(outer)]
    if inner == wanted:
        return part
    (height, width), (rows, columns) = wanted.size, inner.size
    above = min(max(inner.top - wanted.top, 0), height)
    before = min(max(inner.left - wanted.left, 0), width)
    margins = (above, height - above - rows), (before, width - before - columns)
    return np.pad(part, ((0, 0), (0, 0), *margins), constant_values=OPS[node.op].outside)


def _forward(graph: Graph, weights: Mapping[str, Array], x: Array, cone: _Cone) -> dict[str, Array]:
    """{tensor: its part in the cone}."""
    region = cone.held[graph.input]
    assert region is not None  # the input is a map
    tensors = {graph.input: x[None][region.of(whole(x.shape))]}
    for node in graph.nodes:
        inputs = [_read(node, name, tensors[name], cone) for name in node.inputs]
        parameters = {role: weights[name] for role, name in node.parameters.items()}
        tensors[node.name] = OPS[node.op].forward(*inputs, **parameters, **_attributes(node, cone))
    return tensors


def _vjp(
    node: Node,
    dy: Array,
    inputs: list[Array],
    y: Array,
    weights: Mapping[str, Array],
    cone: _Cone,
    *,
    opened: bool,
) -> tuple[Array, ...]:
    """The node's vector-Jacobian product; of the open network's node where `opened`."""
    op = OPS[node.op]
    if opened and op.gate:
        return (dy,)
    product = op.opened if opened and op.opened is not None else op.vjp
    parameters = {role: weights[name] for role, name in node.parameters.items()}
    return product(dy, inputs, y, **parameters, **_attributes(node, cone))


def _attributes(node: Node, cone: _Cone) -> dict[str, object]:
    """The node's attributes, for an input that is padded already where it does not pad by itself."""
    attributes = dict(node.attributes)
    if node.name in cone.plain:
        return attributes
    if "padding" in attributes:
        attributes["padding"] = (0, 0)
    if "widths" in attributes:
        attributes["widths"] = (attributes["widths"][0], (0, 0), (0, 0))
    return attributes


def _accumulate(
    gradient: dict[str, Array],
    node: Node,
    name: str,
    product: Array,
    shape: Shape,
    cone: _Cone,
) -> None:
    """Add what `node` hands back for what it read of `name`, less the padding."""
    outer, wanted = cone.held[name], cone.read[node.name, name]
    if outer is None or wanted is None:
        gradient[name] = gradient[name] + product if name in gradient else product
        return
    if wanted == outer and name not in gradient:
        gradient[name] = product
        return
    inner = wanted.within(outer)
    # A product may be shared with another path (a sum hands the same array to both), so no `+=`.
    total = gradient[name].copy() if name in gradient else np.zeros(shape, product.dtype)
    total[inner.of(outer)] += product[inner.of(wanted)]
    gradient[name] = total
