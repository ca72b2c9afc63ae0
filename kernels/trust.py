"""Whether machine code out of a file may be run: only where no other user can have written it.

A file of the cache is judged by its owner and by the owners and permissions of every folder above it, as OpenSSH judges its keys: all
of them belong to this user or to root, and no other user may write to them. A parent with the sticky bit, such as /tmp,
is allowed, since only an entry's owner may exchange it there. Where the system has no owners of this kind (Windows), the
cache lies in the user's profile and its access control lists decide.

A file that came with the installation is judged by the sources beside it (`read_installed`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

_LINKS_AT_MOST = 40  # as Linux follows in one path
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# No waiting for the other end of a pipe, no following of a link that was put there a moment ago.
_FLAGS = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):  # some systems lack some
    _FLAGS |= getattr(os, _name, 0)


class UntrustedError(PermissionError):
    """Another user may have written this file; `strerror` says why it is thought so."""

    def __init__(self, reason: str, path: str | os.PathLike[str]) -> None:
        super().__init__(1, reason, os.fspath(path))

    def __str__(self) -> str:
        return str(self.strerror)


def objection(folder: Path) -> str:
    """Why code in `folder` is not to be run, as a clause; empty where it may be, or where the folder is still to be made.

    The folders are looked at from the root downwards, links followed one by one. What has passed can only be changed by
    this user and root, so that what is found below it stays as it was found.
    """
    if not folder.is_absolute():
        return f"{folder} is relative to the current folder, whose files anyone may have made"
    if not hasattr(os, "geteuid"):
        return ""
    try:
        return _objection(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{error.filename} cannot be examined ({error.strerror})"


def _objection(folder: Path) -> str:
    place, pending, links = folder.anchor, list(folder.parts[:0:-1]), 0
    while True:
        status = os.lstat(place)
        if not _own(status):
            return f"{place} belongs to another user"
        # Hence lstat: a link's own owner counts. Each part of its target is then looked at like any other folder.
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS_AT_MOST:
                return f"{folder} has too many links"
            target = Path(os.readlink(place))
            pending += target.parts[:0:-1] if target.is_absolute() else target.parts[::-1]
            place = target.anchor or os.path.dirname(place)
        elif not stat.S_ISDIR(status.st_mode):
            return f"{place} is not a folder"
        elif _open_to_others(status, is_parent=bool(pending)):
            return f"other users may write to {place}"
        if not pending:
            return ""
        place = os.path.normpath(os.path.join(place, pending.pop()))


def _own(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _open_to_others(status: os.stat_result, *, is_parent: bool) -> bool:
    """Whether another user may exchange what is in this folder.

    Where users have a group of their own, under their own number, their folders are often open to that group. That is
    accepted of the parents, such as ~/.cache, but not of the folder with the code.
    """
    # Others may add entries there, but not rename or remove ours.
    if is_parent and status.st_mode & stat.S_ISVTX:
        return False
    private_group = is_parent and status.st_gid == status.st_uid == os.geteuid()
    return bool(status.st_mode & (stat.S_IWOTH if private_group else _OTHERS_WRITE))


def make_folder(folder: Path) -> None:
    """Make `folder` and the parents that it lacks, open to this user alone.

    Raises:
        OSError: it cannot be made; UntrustedError: it is there, and not to be trusted.
    """
    # From the root downwards, each with its own mode: `mkdir(parents=True)` would give parents the default one.
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        try:
            missing.mkdir(0o700)
        except FileExistsError:  # by another process that starts at this moment
            continue
    if reason := objection(folder):
        raise UntrustedError(reason, folder)


def read(path: Path) -> bytes:
    """The content of a file that only this user or root can have written.

    What was opened is what is examined, so that it cannot be exchanged in between; a pipe does not make this wait.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UntrustedError: it or a folder above it is not to be trusted.
    """
    if reason := objection(path.parent):
        raise UntrustedError(reason, path)
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise UntrustedError(f"{path} is a link", path)

    def judge(status: os.stat_result) -> str:
        if not hasattr(os, "geteuid"):
            return ""
        if not _own(status):
            return f"{path} belongs to another user"
        return f"other users may write to {path}" if status.st_mode & _OTHERS_WRITE else ""

    return _read(path, _FLAGS, judge)


def read_installed(path: Path, source: Path) -> bytes:
    """The content of a file that came with an installation, as `source` did, whose code Python runs in any case.

    It is to have the owner of `source`, and to be open to nobody to whom that is not. Whoever may exchange files in the
    folder of both may exchange `source`, so that folders need not be judged; and installers may link to either.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UntrustedError: others may write to it than to `source`.
    """
    known = os.stat(source)

    def judge(status: os.stat_result) -> str:
        if not hasattr(os, "geteuid"):
            return ""
        if status.st_uid not in (0, known.st_uid):
            return f"{path} does not belong to the owner of {source.name} beside it"
        allowed = known.st_mode if status.st_gid == known.st_gid else 0
        if status.st_mode & _OTHERS_WRITE & ~allowed:
            return f"other users may write to {path}"
        return ""

    return _read(path, _FLAGS & ~getattr(os, "O_NOFOLLOW", 0), judge)


def _read(path: Path, flags: int, judge: Callable[[os.stat_result], str]) -> bytes:
    """The content of a regular file to which `judge` has no objection."""
    handle = os.open(path, flags)
    try:
        # Of the open file: the name may stand for another one by now.
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(f"{path} is not a regular file", path)
        if reason := judge(status):
            raise UntrustedError(reason, path)
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)
