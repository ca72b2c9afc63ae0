"""The command line: one file a verb, each with `add_parser(subparsers)` and `run(arguments) -> int`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from refnet import __version__
from refnet.errors import RefnetError

VERBS = (
    *("faces", "landmarks", "models", "info", "run", "convert", "export", "rf", "erf"),
    *("evaluate", "bench", "warmup", "doctor"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 for an error of ours, 2 for a wrong call."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except RefnetError as error:
        print(f"refnet: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("refnet: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refnet",
        description="Run the small face networks of the edge world on any CPU, without PyTorch.",
        epilog="`refnet VERB --help` explains each verb.",
    )
    parser.add_argument("--version", action="version", version=f"refnet {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        importlib.import_module(f"refnet.cli.{verb}").add_parser(subparsers)
    return parser
