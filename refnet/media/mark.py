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
    {"file": "b.jpg", "of": "a.jpg", "settings": {...}, "done": true, "size": 5120, "changed": 17...}
                                          a file that the user named was made of this one, whole or
                                          not, and had so many bytes and this time, in nanoseconds

A file that the user named is not on the list of refnet's own: it is refnet's as long as it has that size and time.
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


def named(path: Path) -> Made | None:
    """Of what and how the file `path`, which the user named, was made; None where refnet did not, or it has changed."""
    found: Made | None = None
    state = _state(path)
    for value in _lines(path.parent):
        match value:
            case {"file": path.name, "of": str(source), "settings": dict(settings), **rest}:
                same = state is not None and (rest.get("size"), rest.get("changed")) == state
                found = Made(source, settings, rest.get("done") is True) if same else None
    return found


def note_named(path: Path, of: str, settings: Mapping[str, Any], done: bool) -> None:
    """List a file that the user named, when it is there. Raises OutputError where that fails."""
    if (state := _state(path)) is not None:
        line = {"file": path.name, "of": of, "settings": dict(settings), "done": done}
        note(path.parent, {**line, "size": state[0], "changed": state[1]})


def _state(path: Path) -> tuple[int, int] | None:
    """The size of a file and when it was last changed; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


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
