"""`refnet models`: the networks and their size."""

from __future__ import annotations

import argparse
import fnmatch
import json
from typing import Any

from refnet.errors import UnknownNetworkError
from refnet.networks import build, network_options, networks
from refnet.tables import align

HEADINGS = ("network", "input", "outputs", "parameters", "MACs")


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "models",
        help="list the networks and their size",
        description="List the networks: nominal input, outputs, trained parameters, "
        "multiply-accumulates of one image, at the default options. `refnet info NETWORK` shows a "
        "network's options and layers.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, such as 'lffd-*'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    names = fnmatch.filter(networks(), arguments.pattern)
    if not names:
        raise UnknownNetworkError(
            f"no network matches {arguments.pattern!r}; known: {', '.join(networks())}"
        )
    described = [_describe(name) for name in names]
    if arguments.json:
        print(json.dumps(described, indent=2))
        return 0
    rows = [
        (
            d["network"],
            "×".join(map(str, d["input"])),
            _outputs(d["outputs"]),
            f"{d['parameters']:,}",
            f"{d['macs'] / 1e6:,.1f} M",
        )
        for d in described
    ]
    print("\n".join(align([HEADINGS, *rows], right=(3, 4))))
    return 0


def _describe(name: str) -> dict[str, Any]:
    graph = build(name)
    return {
        "network": name,
        "input": graph.input_shape,
        "outputs": list(graph.outputs),
        "parameters": graph.parameter_count,
        "macs": sum(graph.macs().values()),
        "options": network_options(name),
    }


def _outputs(names: list[str]) -> str:
    """The names; many branches are shown by their count."""
    if len(names) <= 2:
        return ", ".join(names)
    return f"{len(names) // 2} × (score, bbox)"
