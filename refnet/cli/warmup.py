"""`refnet warmup`: compile the kernels ahead of the first run."""

from __future__ import annotations

import argparse
from typing import Any

from refnet.engine import unavailable, warmup
from refnet.errors import BackendError


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "warmup",
        help="compile the kernels ahead of the first run",
        description="Compile the kernels for this CPU, once, and keep the machine code in the cache folder "
        "(REFNET_CACHE names another, or off). The first run of a network does the same.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if reason := unavailable():
        raise BackendError(f"there is nothing to warm up: {reason}")
    print(warmup())
    return 0
