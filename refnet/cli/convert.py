"""`refnet convert IN OUT.safetensors`: any checkpoint to a safetensors file that says what it is."""

import argparse
import json
from pathlib import Path
from typing import Any

from refnet.checkpoints import FORMATS, identify, read, save
from refnet.errors import OptionError, WeightsError
from refnet.networks import build, networks


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `convert`."""
    parser = subparsers.add_parser(
        "convert",
        help="turn a checkpoint of any format into safetensors",
        description=f"Read {', '.join(FORMATS)}; find out which network it is of; write safetensors "
        f"with a record of network, options and origin, which refnet.load needs nothing beside. "
        f"Pickles are never executed.",
    )
    parser.add_argument("input", metavar="IN", help="the checkpoint")
    parser.add_argument("output", metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("--network", choices=networks(), help="what it is, if it cannot be told")
    parser.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the network that cannot be told, such as activation=relu6; repeatable",
    )
    parser.add_argument("--part", help="which of several state dicts in the file to take")
    parser.add_argument(
        "--inert",
        action="store_true",
        help="take the tensors out of a pickled module; its classes are neither imported nor run",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert, print what was recognised, and return 0. Raises RefnetError where it cannot."""
    output = Path(arguments.output)
    if output.suffix != ".safetensors":
        raise WeightsError(
            f"{output}: the file to write is safetensors; name it {output.stem}.safetensors"
        )
    if output.exists() and not arguments.force:
        raise WeightsError(f"{output} exists; pass --force to replace it")
    checkpoint = read(arguments.input, part=arguments.part, inert=arguments.inert)
    network, options, tensors = identify(
        checkpoint, arguments.network, **_options(arguments.option)
    )
    options = dict(build(network, **options).options)
    save(output, network, options, tensors, checkpoint)
    # The part that was read holds what no node of the graph does: counters, an unused batch norm.
    source = max(
        checkpoint.parts.values(),
        key=lambda part: sum(any(t is own for own in part.values()) for t in tensors.values()),
    )
    left_out = [
        name for name, array in source.items() if all(array is not t for t in tensors.values())
    ]
    print(
        f"format   {checkpoint.format}" + (f", part {checkpoint.part}" if checkpoint.part else "")
    )
    print(f"network  {network}")
    print(f"options  {' '.join(f'{key}={_text(value)}' for key, value in options.items())}")
    print(f"tensors  {len(tensors)}")
    print(f"ignored  {_summary(left_out)}")
    print(f"wrote    {output} ({output.stat().st_size:,} bytes)")
    return 0


def _options(pairs: list[str]) -> dict[str, Any]:
    """{"activation": "relu6", "width": 0.5} of ["activation=relu6", "width=0.5"]."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise OptionError(f"--option {pair!r}: KEY=VALUE was expected, such as width=0.5")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _summary(names: list[str]) -> str:
    counters = sum(name.endswith("num_batches_tracked") for name in names)
    others = [name for name in names if not name.endswith("num_batches_tracked")]
    told = [f"{counters} num_batches_tracked"] if counters else []
    told += others[:6] + ([f"{len(others) - 6} more"] if len(others) > 6 else [])
    return ", ".join(told) or "nothing"
