"""What refnet has drawn into a folder: a hidden file that lists it.

The list tells refnet's own pictures from a user's, so that searches leave them out, and so that nothing
else is ever replaced. It also says of what and how each was made, so that a run that was interrupted can
go on. A line is a value in JSON:

    "a.jpg"                               refnet made a file of this name
    {"settings": {...}}                   those of the lines below
    {"begun": "a.jpg", "of": "../a.jpg"}  it is being made of this file
    {"done": "a.jpg"}                     it is whole, and made with the settings above
    {"cropped": "../a.jpg", "aligned": 112}
                                          all faces of this file are there, with so many pixels a
                                          side, or null for as they are
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refnet.files import writing

NAME = ".refnet"
_COMMENT = (
    "# Files in this folder that refnet made. Searches leave them out, and it may replace them."
)


@dataclass(frozen=True)
class Made:
    """What a drawn copy was made of, and with which settings; whether it is whole."""

    of: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False


def _lines(folder: Path) -> list[Any]:
    """The values of a folder's list; a line that was cut off is none."""
    try:
        lines = (folder / NAME).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return values


def marked(folder: Path) -> set[str]:
    """The names in `folder` that refnet has made."""
    return {value for value in _lines(folder) if isinstance(value, str)}


def made(folder: Path) -> dict[str, Made]:
    """Of the names in `folder` that refnet has made, of what and how, where that is known."""
    found: dict[str, Made] = {}
    settings: dict[str, Any] = {}
    for value in _lines(folder):
        match value:
            case {"settings": dict(settings)}:
                pass
            case {"begun": str(name), "of": str(source)}:
                found[name] = Made(source, settings)
            case {"done": str(name)} if name in found:
                found[name] = Made(found[name].of, settings, done=True)
    return found


def cropped(folder: Path) -> dict[str, Any]:
    """{source: the pixels a side, or None} of the sources whose faces are all in `folder`."""
    return {
        value["cropped"]: value.get("aligned")
        for value in _lines(folder)
        if isinstance(value, dict) and isinstance(value.get("cropped"), str)
    }


def note(folder: Path, *values: Any) -> None:
    """Add lines to a folder's list. Raises OutputError where that fails."""
    target = folder / NAME
    with writing(target):
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(target, flags, 0o666), "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            before = "" if size else _COMMENT + "\n"
            if size:
                file.seek(size - 1)
                before = "" if file.read(1) == b"\n" else "\n"  # after a line that was cut off
            # In one piece: two runs may write at once.
            file.write((before + "".join(json.dumps(v) + "\n" for v in values)).encode())


def hide_from_git(folder: Path) -> None:
    """Have Git leave a folder alone, which is made where it is missing. Raises OutputError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
