"""`refnet warmup`: compile the kernels ahead of the first run."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.cli.arguments import add_json, print_json
from refnet.cli.parser import add_verb
from refnet.engine import unavailable, warmup
from refnet.errors import BackendError
from refnet.waiting import waiting


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "warmup",
        "[--json]",
        description="Compile the kernels for this CPU, once, and keep the machine code in the cache folder "
        "(REFNET_CACHE names another, or off). The first run of a network does the same; nothing is compiled "
        "where the installation brought kernels for this CPU.",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if reason := unavailable():
        raise BackendError(f"there is nothing to warm up: {reason}")
    with waiting("compiling"):
        done = warmup()
    if arguments.json:
        print_json({"warmup": done})
    else:
        print(done)
    return 0
