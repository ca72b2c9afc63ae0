"""`refnet convert`: any checkpoint to a safetensors file that says what it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refnet.checkpoints import FORMATS, Checkpoint, identify, read, save
from refnet.cli.arguments import (
    add_json,
    add_overwrite,
    check_new,
    file_with_options,
    print_json,
)
from refnet.cli.parser import add_verb
from refnet.errors import OptionError, printable
from refnet.model import network_of
from refnet.networks import build


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "convert",
        "IN OUT.safetensors [--network NAME] [--overwrite] [--json]",
        description=f"Read {', '.join(FORMATS)}; find out which network it is of; write safetensors "
        "with a record of network, options and origin, beside which refnet.load needs nothing. "
        "Pickles are never executed.",
    )
    parser.add_argument("input", metavar="IN", help="the checkpoint, or checkpoint:option=value")
    parser.add_argument("output", metavar="OUT.safetensors", help="the file to write")
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="what it is, where the file does not say it: a name, or name:option=value",
    )
    parser.add_argument(
        "--state-dict", metavar="NAME", help="which of several state dicts in the file to take"
    )
    parser.add_argument(
        "--inert",
        action="store_true",
        help="take the tensors out of a pickled module; its classes are neither imported nor run",
    )
    add_overwrite(parser, "OUT.safetensors")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert, print what was recognised, and return 0. Raises RefnetError where it cannot."""
    output = Path(arguments.output)
    if output.suffix != ".safetensors":
        raise OptionError(f"{output}: safetensors is what is written; let its name end so")
    check_new([output], [arguments.input], overwrite=arguments.overwrite)
    named, given = (None, {}) if arguments.network is None else network_of(arguments.network)
    if arguments.network is not None and named is None:
        raise OptionError(f"--network is a network's name, and {arguments.network} is a file")
    path, own = file_with_options(arguments.input)
    checkpoint = read(
        path or arguments.input, state_dict=arguments.state_dict, inert=arguments.inert
    )
    network, options, tensors = identify(checkpoint, named, **own, **given)
    options = dict(build(network, **options).options)
    save(output, network, options, tensors, checkpoint)

    state_dict, ignored = _origin(checkpoint, list(tensors.values()))
    report = {
        "format": checkpoint.format,
        "state_dict": state_dict,
        "network": network,
        "options": options,
        "tensors": len(tensors),
        "ignored": ignored,
        "output": str(output),
        "bytes": output.stat().st_size,
    }
    if arguments.json:
        print_json(report)
    else:
        print(_report(report))
    return 0


def _origin(checkpoint: Checkpoint, taken: Sequence[object]) -> tuple[str, list[str]]:
    """The state dict of the file that was taken, and the names in it that were not."""
    used = {id(array) for array in taken}
    left = {
        path: [name for name, array in tensors.items() if id(array) not in used]
        for path, tensors in checkpoint.state_dicts.items()
    }
    taken_from = max(left, key=lambda path: len(checkpoint.state_dicts[path]) - len(left[path]))
    return taken_from, left[taken_from]


def _report(report: dict[str, Any]) -> str:
    options = " ".join(f"{key}={value}" for key, value in report["options"].items())
    chosen = report["state_dict"]
    place = f", state dict {_plain(chosen)}" if chosen else ""
    return "\n".join(
        [
            f"format   {report['format']}{place}",
            f"network  {report['network']}",
            f"options  {options}",
            f"tensors  {report['tensors']}",
            f"ignored  {_summary(report['ignored'])}",
            f"wrote    {report['output']} ({report['bytes']:,} bytes)",
        ]
    )


def _summary(names: Sequence[str]) -> str:
    counters = sum(name.endswith("num_batches_tracked") for name in names)
    others = [_plain(name) for name in names if not name.endswith("num_batches_tracked")]
    named = [f"{counters} num_batches_tracked"] if counters else []
    named += others[:6] + ([f"{len(others) - 6} more"] if len(others) > 6 else [])
    return ", ".join(named) or "nothing"


def _plain(name: str) -> str:
    """`name` as a terminal may show it: a name out of a file may hold control characters."""
    return printable(name[:80])
