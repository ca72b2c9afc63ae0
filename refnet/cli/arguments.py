"""Arguments that several verbs share."""

from __future__ import annotations

import argparse

from refnet.errors import OptionError
from refnet.model import BACKENDS
from refnet.networks import parse_options as parse_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--option KEY=VALUE`, the network's options."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the network, such as width=0.25, input_size=96, input_size=480x640, "
        "form=inference; may be repeated (`refnet info NETWORK` shows them)",
    )


def add_backend(parser: argparse._ActionsContainer) -> None:
    """`--backend`."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what computes; auto takes the fastest that runs here (default: %(default)s)",
    )


def add_crops(parser: argparse._ActionsContainer, *, passes: int) -> None:
    """`--margin` and `--passes`, how faces are cut for a landmarker; `passes` is the default."""
    parser.add_argument(
        "--margin",
        type=float,
        default=1.0,
        help="side of the crop over the longer side of the box: 1 for boxes from forehead to chin, "
        "1.2 for boxes that hug the points (default: %(default)s)",
    )
    parser.add_argument(
        "--passes",
        type=int,
        choices=(1, 2),
        default=passes,
        help="2 looks again at a crop about the first pass's points: closer where boxes come from a "
        "detector, at twice the time (default: %(default)s)",
    )


def add_channel_order(parser: argparse._ActionsContainer) -> None:
    """`--channel-order`."""
    parser.add_argument(
        "--channel-order",
        choices=("bgr", "rgb"),
        default="bgr",
        help="the order that the network was trained on (default: %(default)s)",
    )


def model_of(network: str | None, weights: str | None, default: str) -> tuple[str, str | None]:
    """(model, weights) as `refnet.load` takes them: a file alone tells its network."""
    return network or weights or default, weights if network else None


def add_resize_scale(parser: argparse._ActionsContainer) -> None:
    """`--resize-scale`; see `scales_of`."""
    parser.add_argument(
        "--resize-scale",
        default="auto",
        metavar="FACTOR",
        help="resize images for the detector: 2 finds smaller objects, 0.5 larger ones and is faster; "
        "1,0.5 makes a pyramid of both; auto makes one in which no object is too large "
        "(default: %(default)s)",
    )


def scales_of(text: str) -> list[float] | None:
    """`scales` of a detector from the words of `--resize-scale`.

    Raises:
        OptionError: it is neither a number, nor several with commas, nor "auto".
    """
    if text == "auto":
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(
            f"--resize-scale is a number, or several with commas, or auto: {text!r}"
        ) from None
