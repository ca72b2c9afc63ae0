"""`refnet info`: one network, layer by layer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from refnet.cli.arguments import NETWORK, add_json, print_json, read_graph
from refnet.cli.parser import add_verb
from refnet.engine import Engine
from refnet.fields.receptive_field import receptive_field
from refnet.graph import Graph
from refnet.networks.defaults import NEUTRAL, Defaults, defaults_of
from refnet.random_weights import random_weights
from refnet.waiting import waiting


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "info",
        "NETWORK [--plan] [--json]",
        description="Show a network layer by layer: output shape, parameters, multiply-accumulates, "
        "receptive field and jump (pixels between neighbouring units); of networks that are known, also what they "
        "expect of an image, and how their outputs are read.",
    )
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    parser.add_argument(
        "--plan", action="store_true", help="show what the compiled engine runs, and why"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.network)
    if arguments.plan:
        with waiting("planning"):
            text = Engine(graph, random_weights(graph)).plan().explain()
        print(text)
    elif arguments.json:
        print_json(_as_data(graph))
    else:
        print("\n".join([graph.summary(), *_use(defaults_of(graph))]))
    return 0


def _use(defaults: Defaults) -> list[str]:
    """Lines on what a network expects and means; none of one that is not known."""
    if defaults == NEUTRAL:
        return []
    lines = [f"pixels       {defaults.preprocessing}"]
    if (detection := defaults.detection) is not None:
        lines.append(
            f"decoder      {detection.head}: boxes of {' and '.join(detection.classes)}, threshold "
            f"{detection.threshold:g}, nms {detection.overlap} {detection.nms_threshold:g}"
        )
    return lines


def _as_data(graph: Graph) -> dict[str, Any]:
    shapes, macs, fields = graph.shapes(), graph.macs(), receptive_field(graph)
    defaults = defaults_of(graph)
    known, detection = defaults != NEUTRAL, defaults.detection
    layers = []
    for node in graph.nodes:
        field = fields[node.name]
        layers.append(
            {
                "name": node.name,
                "op": node.op,
                "inputs": node.inputs,
                "attributes": dict(node.attributes),
                "parameters": {role: graph.state_dict[n] for role, n in node.parameters.items()},
                "output_shape": shapes[node.name],
                "macs": macs.get(node.name, 0),
                "receptive_field": field and field.size,
                "jump": field and field.jump,
            }
        )
    return {
        "network": graph.name,
        "options": dict(graph.options),
        "input_shape": graph.input_shape,
        "outputs": graph.outputs,
        "parameters": graph.parameter_count,
        "buffers": graph.buffer_count,
        "macs": sum(macs.values()),
        "preprocessing": asdict(defaults.preprocessing) if known else None,
        "decoder": detection and detection.head,
        "layers": layers,
    }
