"""Files that appear complete or not at all: the one place that writes and renames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from refnet.errors import FileError, OutputError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
#: Flags of a file that has to be new: what is there, a link included, is an error.
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise an OSError of the block as a FileError that names `path`."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        name = os.fspath(path)
        raise FileError(
            f"cannot read {name}: {error.strerror or error}", name, error.errno
        ) from error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise an OSError of the block as an OutputError that names `path`.

    A broken pipe stays what it is, because a reader that has seen enough is no failure to write.
    """
    try:
        yield
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        name = os.fspath(path)
        raise OutputError(
            f"cannot write {name}: {error.strerror or error}", name, error.errno
        ) from error


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, parents: bool = True, mode: int = 0o666
) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` when the block ends.

    A reader of `path` meets the old file or the new one. Where the block or the renaming fails, the
    old file stays and the temporary one is removed. It is an empty file in the same folder, under a name
    that nothing had before: a file or a link that is there is never written to. It has the suffix of
    `path`, since many libraries choose a format by it.

    Args:
        parents: make the folder of `path`, and those above it, where they are missing.
        mode: permissions of the file, of which the umask takes some away; those of any new file by
            default.

    Raises:
        OutputError: the file cannot be written; so are all of the block's OSErrors.
    """
    target = Path(path)
    with writing(target):
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".refnet-{os.urandom(8).hex()}{target.suffix}"
        os.close(os.open(temporary, NEW, mode))
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def move(source: Path, target: Path) -> None:
    """Have a whole file take the place of another in the same folder. Raises OutputError."""
    with writing(target):
        os.replace(source, target)


def write_file(
    path: str | os.PathLike[str],
    pieces: Iterable[bytes],
    *,
    parents: bool = True,
    mode: int = 0o666,
) -> None:
    """Write `pieces`, one after another, to a file that appears complete or not at all.

    Args:
        parents, mode: as in `replacing`.

    Raises:
        OutputError: it cannot be written; an old file stays, and nothing is left beside it.
    """
    with replacing(path, parents=parents, mode=mode) as temporary, open(temporary, "wb") as file:
        file.writelines(pieces)


def _flush(path: Path) -> None:
    """Have the system put a file on the disk.

    A rename can reach the disk before the content does, and a power cut would leave half a file.
    """
    handle = os.open(path, os.O_RDWR | _NO_LINK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
