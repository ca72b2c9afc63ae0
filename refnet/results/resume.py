"""What a second run keeps of the results of the first, and whether it may."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refnet.errors import OptionError
from refnet.media.sources import is_path, real_path, special_kind
from refnet.results.companion import Companion
from refnet.results.records import IMAGE_COLUMNS, Record


def is_device(path: Path) -> bool:
    """Whether `path` is a device such as /dev/null, which is written in place.

    Raises:
        OptionError: it is a folder, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
        raise OptionError(
            f"{path} is {special_kind(mode)}, and results go to a file, or with - to standard output"
        )
    return stat.S_ISCHR(mode)


class Resume:
    """What of an earlier run's file stays; see `refnet.results.sinks.open_sink`.

    Args:
        beside: where more of the earlier run's rows may be.

    Attributes:
        done: the sources asked for that are finished.
        known: the sources asked for of which the earlier run wrote anything.
    """

    def __init__(
        self,
        path: Path,
        asked: Collection[str],
        lost: Collection[str],
        beside: Path | None = None,
        *,
        overwrite: bool,
        settings: Mapping[str, Any] | None,
    ) -> None:
        self.path, self.overwrite, self.settings = path, overwrite, settings
        self.companion = None if is_device(path) else Companion(path)
        self.here = os.getcwd()
        old = self.companion is not None and (
            (path.exists() and path.stat().st_size > 0) or (beside is not None and beside.exists())
        )
        #: Whether there is a file, whose content has to be refnet's.
        self.old = old
        folder = self.companion.folder if self.companion is not None and old else None
        self.folder = folder if folder is not None and not overwrite else self.here
        self.asked = {self._key(label, self.here): label for label in asked}
        self.lost = {self._key(label, self.here) for label in lost}
        self.done: set[str] = set()
        self.known: set[str] = set()

    def foreign(self, why: str) -> OptionError:
        """The error for a file that refnet did not write."""
        return OptionError(
            f"{self.path} is there and is no results file of refnet: {why}; name another file"
        )

    def other_columns(self, found: Sequence[str], wanted: Sequence[str]) -> OptionError | None:
        """The error for a table with the columns `found`, unless they are those that are `wanted`."""
        ours = [name for name, _ in IMAGE_COLUMNS]
        if [*found[: len(ours)]] != ours:
            return self.foreign("it has other columns")
        if [*found] == [*wanted] or self.overwrite:
            return None
        return OptionError(
            f"{self.path} is there and has other columns than this run would write; --overwrite makes it "
            "anew, and another -o or --results keeps both"
        )

    def kept(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the earlier run that stay; afterwards `done` and `known` are right.

        Raises:
            OptionError: they were made with other settings.
        """
        if self.overwrite:
            return []
        if rows and self.settings is not None and self.companion is not None:
            self.companion.check(self.settings)
        keys = {row["source"]: self._key(row["source"], self.folder) for row in rows}
        ended = {keys[row["source"]] for row in rows if row.get("last") in (True, "true")}
        failed = {keys[row["source"]] for row in rows if row.get("error")}
        done = ended - failed - self.lost
        self.done = {label for key, label in self.asked.items() if key in done}
        self.known = {self.asked[key] for key in keys.values() if key in self.asked}
        dropped = self.asked.keys() - done
        return [row for row in rows if keys[row["source"]] not in dropped]

    def begin(self) -> None:
        """Note what the results are made with, when all is checked and before the first is written."""
        if self.companion is not None:
            self.companion.note(self.settings, self.folder)

    def named(self, label: str) -> str:
        """What the results call a source: a path relative to the folder of the first run."""
        if self.folder == self.here or not is_path(label) or os.path.isabs(label):
            return label
        try:
            return os.path.relpath(label, self.folder)
        except ValueError:  # on another drive
            return os.path.abspath(label)

    def close(self) -> None:
        """Let other runs have the file."""
        if self.companion is not None:
            self.companion.close()

    @staticmethod
    def _key(label: str, folder: str) -> str:
        """The file that a path leads to from `folder`; the label itself of a camera or an address."""
        return real_path(label, folder) if is_path(label) else label


def named(record: Record, resume: Resume | None) -> Record:
    """`record` under the name that the results have for its source."""
    return record if resume is None else replace(record, source=resume.named(record.source))
