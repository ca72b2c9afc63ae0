"""What refnet has drawn into a folder: a hidden file that lists it.

The list tells refnet's own pictures from a user's, so that searches leave them out, and so that nothing
else is ever replaced.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from refnet.files import writing

NAME = ".refnet"
_COMMENT = (
    "# Files in this folder that refnet made. Searches leave them out, and it may replace them."
)


def marked(folder: Path) -> set[str]:
    """The names in `folder` that refnet has made."""
    try:
        lines = (folder / NAME).read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    names = set()
    for line in lines:
        try:
            name = json.loads(line)
        except ValueError:
            continue
        names |= {name} if isinstance(name, str) else set()
    return names


def mark(path: Path) -> None:
    """Note that refnet is about to make `path`. Raises OutputError where that cannot be written."""
    target = path.parent / NAME
    with writing(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(target, flags, 0o666), "a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(_COMMENT + "\n")
            file.write(json.dumps(path.name) + "\n")


def hide_from_git(folder: Path) -> None:
    """Have Git leave a folder alone, which is made where it is missing. Raises OutputError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
