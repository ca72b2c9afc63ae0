"""Released weights: one safetensors file a network, with its model card beside it.

`released(network, options)` is the file to load, `card(path)` the text of its card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def catalogue() -> Mapping[Path, tuple[str, Mapping[str, Any]]]:
    """{file: (network, options)} of the released weights, by name."""
    found: dict[Path, tuple[str, Mapping[str, Any]]] = {}
    for path in sorted(FOLDER.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        record = header["__metadata__"]
        found[path] = (record["network"], json.loads(record["options"]))
    return found


def released(network: str, options: Mapping[str, Any]) -> Path | None:
    """The released weights of `network` whose options agree with those given; None where there are none.

    Options that are not given may be anything: `released("pfld-ultralight-slim", {})` finds the one
    that was trained, whatever its width. The input size of a network that takes any is no obstacle.
    """
    for path, (name, recorded) in catalogue().items():
        if name == network and all(
            (key in recorded and _plain(recorded[key]) == _plain(value))
            or (key == "input_size" and _takes_any_size(name))
            for key, value in options.items()
        ):
            return path
    return None


def _takes_any_size(network: str) -> bool:
    # Imported where it is needed: it takes 2 ms, and a start without options has no use for it.
    from refnet.networks.defaults import defaults_of

    return defaults_of(network).any_size


def _plain(value: Any) -> Any:
    """A value as options record it: a tuple as a list, a square size as its side."""
    if isinstance(value, tuple | list):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


def card(path: Path) -> str:
    """The model card beside a released file, Markdown."""
    return path.with_suffix(".md").read_text(encoding="utf-8")
