"""The networks: one function a network, each building a graph that reads like its paper's table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from refnet.arrays import Array
from refnet.errors import OptionError, UnknownNetworkError
from refnet.graph import Graph

#: Every network, and the function that builds it; its file is imported when it is first built.
NETWORKS: Mapping[str, str] = {
    "pfld": "pfld.pfld",
    "pfld-msfc": "pfld.pfld_msfc",
    "pfld-ultralight": "ghost.pfld_ultralight",
    "pfld-ultralight-slim": "ghost.pfld_ultralight_slim",
    "pfld-ghostone": "ghost.pfld_ghostone",
    "pfld-polaris": "pfld.pfld_polaris",
    "pfld-polaris-auxiliary": "pfld.pfld_polaris_auxiliary",
    "lffd-face-v1": "lffd.face_v1",
    "lffd-face-v2": "lffd.face_v2",
    "lffd-head": "lffd.head",
    "lffd-pedestrian": "lffd.pedestrian",
    "lffd-plate": "lffd.plate",
    "lffd-plate-small": "lffd.plate_small",
    "lffd-light": "lffd_light.lffd_light",
    "basketnet": "basketnet.basketnet",
    "tinynet": "tinynet.tinynet",
}


def networks() -> tuple[str, ...]:
    """The names that `build` and `load` take."""
    return tuple(NETWORKS)


def network_options(name: str) -> dict[str, Any]:
    """{option: default} of the network `name`.

    Raises:
        UnknownNetworkError: no network has this name.
    """
    return {p.name: p.default for p in inspect.signature(_builder(name)).parameters.values()}


def build(name: str, **options: Any) -> Graph:
    """The graph of the network `name`, by its options: width, input_size, landmarks, form and so on.

    `network_options(name)` lists a network's options and their defaults.

    Raises:
        UnknownNetworkError: no network has this name.
        OptionError: the network has no such option, or cannot be built with this value; the message
            names the possible ones.
    """
    builder = _builder(name)
    check_options(name, options)
    return builder(**options)


def check_options(
    name: str | None, options: Mapping[str, Any], also: Sequence[str] = (), caller: str = ""
) -> None:
    """Refuse options that the network `name` does not have.

    Args:
        name: of the network; None where it is known only after its file is read. Then the options of
            every network pass.
        also: further names that may stand in `options`, such as the arguments of `caller`.
        caller: who was given `options`, where that is not the network itself.

    Raises:
        UnknownNetworkError: no network has this name.
        OptionError: an option is unknown; the message names the nearest possible one, or all.
    """
    doubtful = [option for option in options if option not in also]
    if not doubtful:
        return
    named = networks() if name is None else (name,)
    known = dict.fromkeys(option for network in named for option in network_options(network))
    unknown = [option for option in doubtful if option not in known]
    if not unknown:
        return
    possible = [*also, *known]
    near = _nearest(unknown[0], possible)
    hint = f"did you mean {near}?" if near else f"it takes {', '.join(possible)}"
    if caller:
        raise OptionError(f"{caller} has no argument {', '.join(unknown)}; {hint}")
    if name is None:
        raise OptionError(f"no network has an option {', '.join(unknown)}; {hint}")
    hint = f"{hint} it takes {', '.join(possible)}" if near else hint
    raise OptionError(f"{name} has no option {', '.join(unknown)}; {hint}")


def options_of(
    name: str, tensors: Mapping[str, Array], hints: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Options of the network `name` that the shapes of a checkpoint's `tensors` suggest, likeliest first.

    Nothing where a tensor is missing that every checkpoint of the network holds. The network's family
    knows; see `options_of` in its file.

    Args:
        hints: the options that the tensors' names reveal: "form", and "residual" where they do.
    """
    options: Iterator[dict[str, Any]] = _family(name).options_of(name, tensors, hints)
    return options


def options_in_order(
    name: str, layers: Sequence[tuple[str, Array]], operators: str
) -> dict[str, Any] | None:
    """Options of the network `name`, in its inference form, whose layers a nameless file may hold.

    None where the network is no chain of layers, so that their order would leave doubt, or where
    these cannot be its layers.

    Args:
        layers: ("conv" or "linear", weight) in execution order.
        operators: the file's operators with their counts, such as "Clip=24 Conv=52"; may be empty.
    """
    propose = getattr(_family(name), "options_in_order", None)
    options: dict[str, Any] | None = propose(name, layers, operators) if propose else None
    return options


def _family(name: str) -> ModuleType:
    """The module whose function builds the network `name`."""
    return importlib.import_module(f"refnet.networks.{NETWORKS[name].split('.')[0]}")


def _builder(name: str) -> Callable[..., Graph]:
    if name in NETWORKS:
        builder: Callable[..., Graph] = getattr(_family(name), NETWORKS[name].split(".")[1])
        return builder
    near = _nearest(str(name), list(NETWORKS))
    hint = f"did you mean {near!r}? " if near else ""
    raise UnknownNetworkError(f"no network is named {name!r}; {hint}known: {', '.join(NETWORKS)}")


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """The one of `known` that was probably meant by `word`: a typing error away, or a part of it."""
    import difflib  # only a mistake needs it

    if misspelt := difflib.get_close_matches(word, known, 1, 0.85):
        return misspelt[0]
    parts = [name for name in known if name in word or word in name]
    likely = difflib.get_close_matches(word, parts or known, 1, 0.0 if parts else 0.5)
    return likely[0] if likely else None
