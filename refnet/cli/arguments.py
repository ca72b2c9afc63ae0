"""Arguments that several verbs share, and the values that they take."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refnet.cores import MOST_THREADS
from refnet.errors import CheckpointError, OptionError, WeightsError
from refnet.graph import Graph
from refnet.media.sources import OTHER_SUFFIXES, PHOTO_SUFFIXES, VIDEO_SUFFIXES
from refnet.model import BACKENDS, Model, graph_of, load
from refnet.networks import NETWORKS, network_options, parse_options, split_name
from refnet.networks.defaults import PUBLISHED

NETWORK = "a name that `refnet networks` lists, name:option=value, or a file"


def threshold(text: str) -> float:
    """A score from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < 1:
        return value
    share = text.strip().removesuffix("%").strip()
    hint = ""
    if share.replace(".", "", 1).isdecimal() and 1 <= float(share) <= 100:
        hint = f"; for {share} % write {float(share) / 100:g}"
    raise argparse.ArgumentTypeError(f"--threshold lies in 0 to 1, not {text!r}{hint}")


def whole_number(name: str, least: int = 1, most: int = 1 << 30) -> Any:
    """The type of an option that takes a whole number."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limits = f"from {least} to {most:,}" if most < 1 << 30 else f"of at least {least}"
            raise argparse.ArgumentTypeError(f"{name} is a whole number {limits}, not {text!r}")
        return value

    return number


def numbers(name: str, form: str, kind: type = float) -> Any:
    """The type of an option that takes numbers with commas, as in `form`."""

    def parsed(text: str) -> tuple[Any, ...]:
        words = text.replace(",", " ").split()
        try:
            values = tuple(kind(word) for word in words)
        except ValueError:
            values = ()
        if len(values) != len(form.split(",")) or not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"{name} is {form}, not {text!r}")
        return values

    return parsed


def positive(name: str) -> Any:
    """The type of an option that takes a number of at least 0."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{name} is a number of at least 0, not {text!r}")
        return value

    return number


def add_json(parser: argparse._ActionsContainer) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON lines")


def add_threads(parser: argparse._ActionsContainer) -> None:
    """`--threads`."""
    parser.add_argument(
        "--threads",
        type=whole_number("--threads", 1, MOST_THREADS),
        metavar="N",
        help="threads at work (default: the cores at hand)",
    )


def add_backend(parser: argparse._ActionsContainer) -> None:
    """`--backend`."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        metavar="NAME",
        help=f"what computes: {', '.join(BACKENDS)} (default: the fastest that runs here)",
    )


def add_decoder(parser: argparse._ActionsContainer) -> None:
    """`--decoder`."""
    parser.add_argument(
        "--decoder",
        choices=tuple(PUBLISHED),
        metavar="NAME",
        help=f"of an ONNX file, if its outputs do not tell: {', '.join(PUBLISHED)}",
    )


def add_overwrite(parser: argparse._ActionsContainer, what: str = "files that are there") -> None:
    """`--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def check_new(
    outputs: Iterable[str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    overwrite: bool,
) -> None:
    """Refuse to replace an input, or without `overwrite` any file.

    Raises:
        OptionError: an output would; the message names it.
    """
    read = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if path is None or not os.path.lexists(path):
            continue
        if os.path.realpath(path) in read:
            raise OptionError(
                f"{os.fspath(path)} is read here, and would be replaced; name another file"
            )
        if not overwrite:
            raise OptionError(f"{os.fspath(path)} is there; --overwrite replaces it")


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value))


def network(text: str) -> str:
    """`text`, where it may be a network; the words about a photo that is none are better here.

    Raises:
        OptionError: it is a file of another kind.
    """
    suffix = Path(text).suffix.lower()
    if os.path.isfile(text) and suffix in {*PHOTO_SUFFIXES, *VIDEO_SUFFIXES, *OTHER_SUFFIXES}:
        raise OptionError(f"{text} is a photo or a video by its name, and no network")
    return text


@contextmanager
def naming(options: Mapping[str, str]) -> Iterator[None]:
    """Have an error about weights that refnet does not come with name the option that takes a file.

    Args:
        options: {option, such as "--detector": the network that it was given}.
    """
    try:
        yield
    except CheckpointError:
        raise
    except WeightsError as error:
        for option, name in options.items():
            plain = name.partition(":")[0]
            if plain in NETWORKS and f"weights for {plain}" in str(error):
                raise WeightsError(
                    f"refnet comes without weights for {name}; give {option} the file of a checkpoint "
                    "(`refnet networks --released` lists those that need none)"
                ) from error
        raise


def read_graph(text: str) -> Graph:
    """The graph of a network that was named. Raises OptionError, or as `refnet.load`."""
    path, options = file_with_options(text)
    if Path(path or text).suffix.lower() == ".onnx" and os.path.isfile(path or text):
        from refnet.exchange.graphs import read_onnx  # a seventh of the start of every other verb

        return read_onnx(path or text, options).graph
    if path is not None:
        return load(path, backend="numpy", **options).graph
    return _said(text, graph_of(network(text)))


def read_model(text: str, *, backend: str = "auto", threads: int | None = None) -> Model:
    """A network that was named, with weights. Raises OptionError, or as `refnet.load`."""
    path, options = file_with_options(text)
    name = network(text) if path is None else path
    model = load(name, backend=backend, threads=threads, **options)
    _said(text, model.graph)
    return model


def _said(text: str, graph: Graph) -> Graph:
    """`graph`, after a line on which network it is, where the name that was typed does not tell.

    A name stands for the network that refnet has weights for, whose options may differ from the paper's.
    """
    name, typed = split_name(text) if text.partition(":")[0] in NETWORKS else ("", {})
    if name:
        usual = network_options(name)
        own = [
            f"{key}={value}"
            for key, value in graph.options.items()
            if key not in (*typed, "input_size", "form") and value != usual[key]
        ]
        if own:
            rest = ",".join([*(f"{key}={value}" for key, value in typed.items()), *own])
            print(f"refnet: {text} is {name}:{rest}, the released one", file=sys.stderr)
    return graph


def file_with_options(text: str) -> tuple[str | None, dict[str, Any]]:
    """(file, options) of "file:option=value"; (None, {}) for all else that names a network.

    Raises:
        OptionError: what follows the colon is no option=value.
    """
    path, colon, words = text.rpartition(":")
    if not colon or "=" not in words or not os.path.isfile(path):
        return None, {}
    return path, parse_options(words.split(","))
