"""`refnet networks`: the networks, their size, and which have weights."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.cli.arguments import add_json, print_json
from refnet.cli.parser import add_verb
from refnet.errors import UnknownNetworkError
from refnet.model import graph_of
from refnet.networks import network_options, networks
from refnet.tables import align
from refnet.weights import catalogue

HEADINGS = ("network", "input", "outputs", "parameters", "MACs", "weights")


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "networks",
        "[PATTERN] [--released] [--json]",
        description="List the networks: nominal input, outputs, trained parameters, multiply-accumulates of "
        "one image, and the option and size of the weights that refnet comes with. The figures are those of "
        "these weights where there are any. `refnet info NETWORK` shows options and layers.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, such as 'lffd-*'")
    parser.add_argument("--released", action="store_true", help="only those with weights")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    names = networks(arguments.pattern, released=arguments.released)
    if not names:
        known = networks(released=arguments.released)
        raise UnknownNetworkError(
            f"no network matches {arguments.pattern!r}; known: {', '.join(known)}"
        )
    described = [_describe(name) for name in names]
    if arguments.json:
        for one in described:
            print_json(one)
        return 0
    rows = [
        (
            d["network"],
            "×".join(map(str, d["input"])),
            _outputs(d["outputs"]),
            f"{d['parameters']:,}",
            f"{d['macs'] / 1e6:,.1f} M",
            "" if d["weights"] is None else f"{d['weights']}, {d['bytes'] / 1e6:.1f} MB",
        )
        for d in described
    ]
    print("\n".join(align([HEADINGS, *rows], right=(3, 4))))
    return 0


def _describe(name: str) -> dict[str, Any]:
    """A network as `load` takes it by its name: that of the weights, where there are any."""
    graph = graph_of(name)
    files = {network: (path, options) for path, (network, options) in catalogue().items()}
    path, options = files.get(name, (None, {}))
    return {
        "network": name,
        "input": graph.input_shape,
        "outputs": list(graph.outputs),
        "parameters": graph.parameter_count,
        "macs": sum(graph.macs().values()),
        "options": network_options(name),
        "weights": None if path is None else f"width={options.get('width', 1)}",
        "bytes": None if path is None else path.stat().st_size,
    }


def _outputs(names: list[str]) -> str:
    """The names; those of branches, numbered alike, are shown once with their count."""
    kinds = list(dict.fromkeys(name.rstrip("0123456789").rstrip("_") for name in names))
    if len(names) <= 2:
        return ", ".join(names)
    shown = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
    return f"{len(names) // len(kinds)} × {shown}"
