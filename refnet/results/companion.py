"""The file beside a results file: the lock of the run that writes it, and the settings it was made with.

Results hold what was found and nothing else, so that any reader of JSON lines, CSV or Parquet takes
them as they are. What a second run has to know is in a small JSON file of its own, `.faces.jsonl.refnet`
for `faces.jsonl`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refnet.errors import OptionError, OutputError
from refnet.files import writing
from refnet.version import __version__

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Companion:
    """The companion of a results file, locked until `close`.

    Args:
        results: the results file, which need not be there.

    Attributes:
        settings: {name: plain value} that the results were made with; None where that is not known.
        folder: what relative paths in the results are relative to: the folder in which the first run
            was started; None where that is not known.

    Raises:
        OutputError: another run holds the lock, or the file cannot be written.
    """

    def __init__(self, results: Path) -> None:
        self.results, self.path = results, results.with_name(f".{results.name}.refnet")
        self.settings: dict[str, Any] | None = None
        self.folder: str | None = None
        with writing(self.path):
            self._new = not self.path.exists()
            self._handle = os.open(self.path, _FLAGS, 0o666)
            try:
                _lock(self._handle)
            except OSError:
                os.close(self._handle)
                raise OutputError(
                    f"{results} is being written by another run; wait until it ends, or name another "
                    "file for the results"
                ) from None
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self._content() or b"{}")
        except (ValueError, RecursionError):
            return
        if isinstance(found, dict):
            settings, folder = found.get("settings"), found.get("folder")
            self.settings = settings if isinstance(settings, dict) else None
            self.folder = folder if isinstance(folder, str) else None

    def _content(self) -> bytes:
        os.lseek(self._handle, 0, os.SEEK_SET)
        return os.read(self._handle, 1 << 20)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to continue results that were made with other settings.

        Raises:
            OptionError: they were, or it is not known; the message names what differs.
        """
        advice = "; --overwrite makes it anew, and another -o or --results keeps both"
        if self.settings is None:
            raise OptionError(f"{self.results} was made with settings that are not known{advice}")
        if made := difference(self.settings, settings):
            raise OptionError(f"{self.results} was made with {made}{advice}")

    def note(self, settings: Mapping[str, Any] | None, folder: str) -> None:
        """Write down what the results are made with. Raises OutputError where that fails.

        On a full disk too, what was there stays: without it the results could not be continued.
        """
        noted = {"refnet": __version__, "settings": settings, "folder": folder}
        text = (json.dumps(noted) + "\n").encode()
        before = self._content()
        if text != before:
            with writing(self.path):
                try:
                    self._put(text)
                except OSError:
                    self._put(before)  # into the place that it had
                    raise
        self._new = False

    def _put(self, text: bytes) -> None:
        os.lseek(self._handle, 0, os.SEEK_SET)
        left = text
        while left:
            left = left[os.write(self._handle, left) :]
        os.ftruncate(self._handle, len(text))

    def close(self) -> None:
        """Let go of the lock; a companion that was made for nothing is removed."""
        if self._handle >= 0:
            if self._new:
                self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What settings out of a file, `before`, have that those of this run have not; empty if nothing."""
    ours = json.loads(json.dumps(dict(now)))  # as it comes back from a file
    names = [n for n in {**before, **ours} if before.get(n) != ours.get(n)]
    if not names:
        return ""
    # A digest says nothing to a reader, so that other weights are named by the network.
    shown = [name for name in names if not name.endswith("weights")]
    made = ", ".join(f"{n} {_shown(before.get(n))}" for n in shown)
    has = ", ".join(_shown(ours.get(n)) for n in shown)
    return f"{made}, and this run has {has}" if shown else f"other {names[0]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _lock(handle: int) -> None:
    """Lock an open file for this process. Raises OSError where another has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1 << 30, os.SEEK_SET)  # far out of the content, which others may read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
