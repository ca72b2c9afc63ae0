"""The networks: one function a network, each building a graph that reads like its paper's table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

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
    known = network_options(name)
    if unknown := [option for option in options if option not in known]:
        raise OptionError(f"{name} has no option {', '.join(unknown)}; it takes {', '.join(known)}")
    return builder(**options)


def _builder(name: str) -> Callable[..., Graph]:
    if name in NETWORKS:
        file, function = NETWORKS[name].split(".")
        builder: Callable[..., Graph] = getattr(
            importlib.import_module(f"refnet.networks.{file}"), function
        )
        return builder
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(str(name), NETWORKS, 1, 0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownNetworkError(f"no network is named {name!r}; {hint}known: {', '.join(NETWORKS)}")
