"""The networks: one function a network, each building a graph that reads like its paper's table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from refnet.arrays import Array
from refnet.errors import OptionError, ShapeError, UnknownNetworkError

if TYPE_CHECKING:
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


def networks(pattern: str = "*", *, released: bool = False) -> tuple[str, ...]:
    """The names that `build` and `load` take.

    Args:
        pattern: with * and ?, such as "lffd-*".
        released: only those that refnet comes with weights for.
    """
    import fnmatch

    names = tuple(name for name in NETWORKS if fnmatch.fnmatchcase(name, pattern))
    if not released:
        return names
    from refnet.weights import catalogue

    with_weights = {network for network, _ in catalogue().values()}
    return tuple(name for name in names if name in with_weights)


def network_options(name: str) -> dict[str, Any]:
    """{option: default} of the network `name`, the defaults of `build`.

    Raises:
        UnknownNetworkError: no network has this name.
    """
    return {p.name: p.default for p in inspect.signature(_builder(name)).parameters.values()}


def build(name: str, **options: Any) -> Graph:
    """The graph of the network `name`, by its options: width, input_size, landmarks, form and so on.

    Options may stand in the name, as in "lffd-face-v2:width=0.5". `network_options(name)` lists a
    network's options and their defaults. Those that are not given have these defaults, which are the
    paper's: unlike `load`, `build` does not look at the weights that refnet comes with.

    Raises:
        UnknownNetworkError: no network has this name.
        OptionError: the network has no such option, or cannot be built with this value; the message
            names the possible ones.
    """
    name, own = split_name(name)
    options = {**own, **options}
    builder = _builder(name)
    check_options(name, options)
    try:
        return builder(**options)
    except ShapeError as error:
        asked = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise OptionError(f"{name} cannot be built with {asked}: {error}") from error


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """(network, options) of "network:option=value,option=value".

    Raises:
        OptionError: what follows the colon is no option=value.
    """
    network, _, words = name.partition(":")
    return network, parse_options([word for word in words.split(",") if word])


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """{option: value} from "option=value" words; numbers and HEIGHTxWIDTH sizes are recognised.

    Raises:
        OptionError: a word has no "=".
    """
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise OptionError(
                f"a network's option is written KEY=VALUE, such as width=0.25, not {word!r}"
            )
        options[key.strip().replace("-", "_")] = _value(text.strip())
    return options


def _value(text: str) -> Any:
    height, cross, width = text.replace("×", "x").partition("x")
    if cross and height.isdecimal() and width.isdecimal():
        return int(height), int(width)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_options(name: str | None, options: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Refuse options that the network `name` does not have.

    Args:
        name: of the network; None where it is known only after its file is read. Then the options of
            every network pass.
        also: the arguments of the caller that stand beside them, one of which may be meant.

    Raises:
        UnknownNetworkError: no network has this name.
        OptionError: an option is unknown; the message names the nearest possible one, or all.
    """
    if not options:
        return
    named = networks() if name is None else (name,)
    known = dict.fromkeys(option for network in named for option in network_options(network))
    unknown = [option for option in options if option not in known]
    if not unknown:
        return
    from refnet.arguments import nearest

    possible = [*also, *known]
    near = nearest(unknown[0], possible)
    hint = f"did you mean {near}?" if near else f"it takes {', '.join(known)}"
    if name is None:
        raise OptionError(f"no network has an option {', '.join(unknown)}; {hint}")
    hint = f"{hint} it takes {', '.join(known)}" if near else hint
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
    from refnet.arguments import nearest

    near = nearest(str(name), NETWORKS)
    hint = f"did you mean {near!r}? " if near else ""
    raise UnknownNetworkError(f"no network is named {name!r}; {hint}known: {', '.join(NETWORKS)}")
