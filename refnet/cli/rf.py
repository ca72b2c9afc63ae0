"""`refnet rf`: what the units of a network see, in closed form."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.cli.arguments import NETWORK, add_json, print_json, read_graph
from refnet.cli.parser import add_verb
from refnet.fields.branches import branches
from refnet.fields.receptive_field import misalignments, receptive_field
from refnet.graph import Graph
from refnet.ops import Pair
from refnet.receptive import ReceptiveField
from refnet.tables import align

HEADINGS = ("tensor", "op", "sees", "stride", "centre of unit 0", "from", "objects")


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "rf",
        "NETWORK [--layers] [--json]",
        description="Show the theoretical receptive field of every branch of a network, or of every "
        "layer: size, stride, the centre and first pixel of what unit (0, 0) sees, all exact; and the "
        "joins whose paths are out of line, if any.",
    )
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument("--layers", action="store_true", help="every layer, not only the branches")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.network)
    objects = {branch.tensor: branch.objects for branch in branches(graph)}
    fields = receptive_field(graph)
    names = list(graph.node) if arguments.layers else list(objects)
    lines = [str(line) for line in misalignments(graph)]
    if arguments.json:
        data = {
            "network": graph.name,
            "input_shape": graph.input_shape,
            "fields": [_as_data(graph, n, fields[n], objects.get(n)) for n in names],
            "misalignments": lines,
        }
        print_json(data)
        return 0
    rows = [_row(graph, name, fields[name], objects.get(name)) for name in names]
    print("\n".join([graph.name, "", *align([HEADINGS, *rows], right=range(2, 7))]))
    if lines:
        print("\nOut of line:\n" + "\n".join(lines))
    return 0


def _row(
    graph: Graph, name: str, field: ReceptiveField | None, objects: Pair | None
) -> tuple[str, ...]:
    op = graph.node[name].op
    if field is None:
        return name, op, "by branch", "", "", "", ""
    x, y, _, _ = field.box()
    return (
        name,
        op,
        _pair(field.size),
        _pair(field.jump) if any(field.jump) else "",
        _pair(field.start) if any(field.jump) else "",
        _pair((y, x)),
        f"{objects[0]} to {objects[1]} px" if objects else "",
    )


def _pair(pair: tuple[Any, Any]) -> str:
    """(rows, columns) as one number where they agree, else rows × columns."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} × {pair[1]}"


def _as_data(
    graph: Graph, name: str, field: ReceptiveField | None, objects: Pair | None
) -> dict[str, Any]:
    data: dict[str, Any] = {"tensor": name, "op": graph.node[name].op, "objects": objects}
    if field is None:
        return {**data, "size": None}
    return {
        **data,
        "size": field.size,
        "jump": field.jump,
        "centre": [float(side) for side in field.start],
        "first": [field.rows.span(0)[0], field.columns.span(0)[0]],
        "aligned": field.aligned,
    }
