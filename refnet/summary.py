"""The table that `graph.summary()` and `refnet info` print."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from refnet.fields.receptive_field import ReceptiveField, receptive_field
from refnet.graph import Graph, Node
from refnet.ops import Shape

HEADINGS = ("layer", "op", "output shape", "parameters", "MACs", "receptive field", "jump")


def summarize(graph: Graph, input_shape: Shape | None = None) -> str:
    """The summary of `graph` for one image of `input_shape` (C, H, W), the graph's own by default."""
    shapes = graph.shapes(input_shape)
    macs = graph.macs(input_shape)
    fields = receptive_field(graph, input_shape)
    rows = [
        (
            node.name,
            _operation(node),
            " × ".join(map(str, shapes[node.name])),
            _count(_trained(graph, node)),
            _count(macs.get(node.name, 0)),
            *_seen(fields[node.name]),
        )
        for node in graph.nodes
    ]
    options = ", ".join(f"{key}={value}" for key, value in graph.options.items())
    outputs = ", ".join(f"{n} {' × '.join(map(str, shapes[n]))}" for n in graph.outputs)
    footer = (
        f"input        {' × '.join(map(str, shapes[graph.input]))}\n"
        f"outputs      {outputs}\n"
        f"parameters   {graph.parameter_count:,} trained, {graph.buffer_count:,} in buffers\n"
        f"MACs         {sum(macs.values()):,}"
    )
    title = f"{graph.name} ({options})" if options else graph.name
    return "\n".join([title, "", *align([HEADINGS, *rows], right=range(3, 7)), "", footer])


def align(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table, its first row over a rule; columns flush left, those in `right` flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "─" * max(map(len, lines)))
    return lines


def _operation(node: Node) -> str:
    """The op and its window, such as "conv 3×3 s2 p1 g64"."""
    if "kernel" not in node.attributes:
        return node.op
    window = {
        key: node.attributes[key]
        for key in ("stride", "padding", "dilation")
        if key in node.attributes
    }
    parts = [f"{node.op} {node.attributes['kernel'][0]}×{node.attributes['kernel'][1]}"]
    usual = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    for key, (a, b) in window.items():
        if (a, b) != usual[key]:
            parts.append(f"{key[0]}{a}" if a == b else f"{key[0]}{a}×{b}")
    if node.attributes.get("groups", 1) != 1:
        parts.append(f"g{node.attributes['groups']}")
    return " ".join(parts)


def _trained(graph: Graph, node: Node) -> int:
    roles = ("weight", "bias")
    names = [name for role, name in node.parameters.items() if role in roles]
    return sum(math.prod(graph.state_dict[name]) for name in names)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _seen(field: ReceptiveField | None) -> tuple[str, str]:
    if field is None:
        return "by branch", ""
    (rows, columns), (down, across) = field.size, field.jump
    size = str(rows) if rows == columns else f"{rows}×{columns}"
    if not down and not across:
        return size, ""
    return size, str(down) if down == across else f"{down}×{across}"
