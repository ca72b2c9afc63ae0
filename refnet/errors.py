"""Every error refnet raises on purpose, as one tree under `RefnetError`.

    RefnetError
    ├── ShapeError              an array has the wrong shape, dtype or values
    ├── OptionError             a network cannot be built with these options
    │   ├── UnknownNetworkError no network has this name
    │   └── ArgumentError       a call has an argument that does not exist
    ├── WeightsError            tensors are missing, extra or misshapen
    │   └── CheckpointError     a file of weights cannot be read
    │       └── UnsafeCheckpointError   a pickle asks for more than tensors; nothing was executed
    ├── ImageError              an image cannot be decoded or is not an image
    ├── FileError               a file is absent or cannot be read
    │   └── OutputError         a file cannot be written
    ├── BackendError            a backend cannot run here
    │   └── UnsupportedError    a format or another engine lacks an operation of a network
    └── DependencyError         an optional package is needed and absent

A message says what was given, what was expected and what to do. It may quote names out of files; what a terminal would
obey rather than show is escaped.
"""

import os
from typing import Any


def printable(text: str) -> str:
    """`text` in one line that does nothing to a terminal: what is no visible character is escaped, as "\\x1b".

    Names in a file, and names of files, may hold anything. Text that is escaped already stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


class RefnetError(Exception):
    """The root of the tree: `except refnet.RefnetError` catches all that refnet raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ShapeError(RefnetError, ValueError):
    """An array has the wrong shape, dtype or values."""


class OptionError(RefnetError, ValueError):
    """A network cannot be built with these options."""


class UnknownNetworkError(OptionError):
    """No network has this name."""


class ArgumentError(OptionError, TypeError):
    """A call has an argument that does not exist; the message names the nearest one."""


class WeightsError(RefnetError, ValueError):
    """Tensors are missing, extra or misshapen for the network they were meant for."""


class CheckpointError(WeightsError):
    """A file of weights cannot be read: truncated, corrupt or of an unknown format."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle asks for something other than tensors. It was refused; nothing was executed."""


class ImageError(RefnetError, ValueError):
    """An image cannot be decoded, or an array is not an image."""


class FileError(RefnetError, OSError):
    """A file is absent, or the system does not let it be read.

    Attributes:
        filename: its path.
        errno: the system's number of the reason, such as errno.ENOENT; None where there is none.
    """

    def __init__(
        self,
        message: str,
        filename: str | os.PathLike[str] | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.filename = None if filename is None else os.fspath(filename)
        self.errno = errno

    def __str__(self) -> str:
        return printable(str(self.args[0]))  # an OSError's own is made of number and name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.filename, self.errno)


class OutputError(FileError):
    """A file cannot be written. An older file of that name is still there, unchanged."""


class BackendError(RefnetError, RuntimeError):
    """A backend was asked for that cannot run here."""


class UnsupportedError(BackendError):
    """A format or another engine lacks an operation of a network; the message names it."""


class DependencyError(RefnetError, ImportError):
    """An optional package is needed and absent; the message names the extra that brings it."""
