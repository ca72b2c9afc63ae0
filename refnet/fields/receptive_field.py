"""What a network can see: the receptive field of every layer, in closed form.

`refnet.receptive` holds the arithmetic. Paths that join see the union; where their centres differ the
join is out of line, and `misalignments` names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from refnet.graph import Graph
from refnet.model import Net, graph_of
from refnet.ops import Shape
from refnet.receptive import ReceptiveField


def receptive_field(
    net: Net | Graph, input_shape: Shape | None = None
) -> dict[str, ReceptiveField | None]:
    """{tensor name: receptive field} of the input and every node.

    A vector made by `flatten` sees all that its map sees; its jump is 0. None stands where no single
    field exists: where paths of different jumps join, as in a list of cells from several maps.

    Args:
        net: a graph, a model, a checkpoint's file, or a name, which means the weights that refnet comes
            with where there are any; see `refnet.model.graph_of`.
        input_shape: (C, H, W); matters to vectors only. The graph's own by default.
    """
    return graph_of(net).receptive_fields(input_shape)


@dataclass(frozen=True)
class Misalignment:
    """A join of paths that do not look at one place.

    Attributes:
        node: the name of the node that joins them.
        fields: {input of the node: its receptive field}.
    """

    node: str
    fields: dict[str, ReceptiveField]

    def __str__(self) -> str:
        seen = ", ".join(
            f"{name} (jump {f.jump[0]}×{f.jump[1]}, unit (0, 0) centred at {f.start[0]}, {f.start[1]})"
            for name, f in self.fields.items()
        )
        return f"{self.node} joins {seen}"


def misalignments(graph: Graph, input_shape: Shape | None = None) -> tuple[Misalignment, ...]:
    """The joins of `graph` whose paths differ in jump or centre, in execution order.

    Lists of cells, which keep their places apart, and vectors, which have none, are never out of line.

    Args:
        input_shape: (C, H, W); matters to vectors only. The graph's own by default.
    """
    fields = receptive_field(graph, input_shape)
    shapes = graph.shapes(input_shape)
    found = []
    for node in graph.nodes:
        known = {name: field for name in node.inputs if (field := fields[name]) is not None}
        places = {(f.jump, f.start) for f in known.values()}
        if len(places) > 1 and len(shapes[node.name]) == 3:
            found.append(Misalignment(node.name, known))
    return tuple(found)
