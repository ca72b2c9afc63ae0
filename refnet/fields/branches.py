"""The branches of a network: each output map, what a unit of it sees, and which objects it looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refnet.fields.receptive_field import receptive_field
from refnet.graph import Graph
from refnet.networks.defaults import defaults_of
from refnet.ops import Pair, Shape
from refnet.receptive import ReceptiveField


@dataclass(frozen=True)
class Branch:
    """One place where a network answers.

    Attributes:
        number: counted from 1.
        tensor: the name of its first output: a map, or a vector.
        field: the receptive field of its units.
        objects: (lower, upper) in pixels of the longer side of the objects that it is trained for;
            None where the network tells no such thing.
    """

    number: int
    tensor: str
    field: ReceptiveField
    objects: Pair | None


def branches(graph: Graph, object_ranges: Sequence[Pair] | None = None) -> tuple[Branch, ...]:
    """The branches of `graph` in the order of its outputs, one for each receptive field.

    A list of cells counts as the maps that it was made of.

    Args:
        object_ranges: (lower, upper) of the objects of each branch; those that
            `refnet.networks.defaults` knows for the network by default.
    """
    fields, shapes = receptive_field(graph), graph.shapes()
    found: dict[ReceptiveField, str] = {}
    for output in graph.outputs:
        for tensor in _maps(graph, output, shapes, fields):
            field = fields[tensor]
            if field is not None:
                found.setdefault(field, tensor)
    if object_ranges is None:
        detection = defaults_of(graph).detection
        object_ranges = () if detection is None else detection.object_ranges
    sizes: Sequence[Pair | None] = (
        object_ranges if len(object_ranges) == len(found) else [None] * len(found)
    )
    return tuple(
        Branch(number, tensor, field, objects)
        for number, ((field, tensor), objects) in enumerate(
            zip(found.items(), sizes, strict=True), 1
        )
    )


def _maps(
    graph: Graph,
    tensor: str,
    shapes: Mapping[str, Shape],
    fields: Mapping[str, ReceptiveField | None],
) -> list[str]:
    """The maps that a list of cells, (cells, channels), was made of; `tensor` itself where it is none.

    So too for a tensor whose units have no receptive field of one kind, such as a map with channels last.
    """
    found, waiting, seen = [], [tensor], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name == graph.input or (len(shapes[name]) != 2 and fields[name] is not None):
            found.append(name)
        else:
            waiting.extend(reversed(graph.node[name].inputs))
    return found
