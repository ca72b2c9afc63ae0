"""A step is one row of the table in the making: what it reads and writes, and how it is written as integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .executor import ROW
from .layout import Plane, Value


class UnsupportedError(Exception):
    """The engine has no kernel for a layer; the caller runs the network with NumPy instead."""


class Table:
    """The integers of a plan: a row per step, then lists that rows point to by their position."""

    def __init__(self, rows: int) -> None:
        self._rows: list[list[int]] = []
        self._lists: list[int] = []
        self._start = rows * ROW
        self._known: dict[tuple[int, ...], int] = {}

    def list(self, integers: Sequence[int]) -> int:
        """The position of a list with these integers."""
        key = tuple(integers)
        if key not in self._known:
            self._known[key] = self._start + len(self._lists)
            self._lists += key
        return self._known[key]

    def write(self, row: Sequence[int]) -> None:
        """Append a row."""
        self._rows.append([*row, *[0] * (ROW - len(row))])

    def array(self) -> NDArray[np.int64]:
        """The finished table."""
        return np.array([*(x for row in self._rows for x in row), *self._lists], np.int64)


@dataclass(eq=False)
class Step:
    """One row of the table.

    Attributes:
        opcode: of `executor.py`.
        name: the layer, for people.
        note: shapes and the choice that was made, for people.
        reads, writes: the values that it touches; scratch is both written and read by the step itself.
        encode: the row's integers, once every value has its place.
        scratch: values that live for this step only.
        band: (stream, number) for a step that makes one band of a stream; bands may run in any order.
        in_place: (residual, result) that may share memory, if nobody needs the residual afterwards.
    """

    opcode: int
    name: str
    note: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    encode: Callable[[Table], list[int]]
    scratch: tuple[Value, ...] = ()
    in_place: tuple[Value, Value] | None = None
    band: tuple[str, int] | None = None

    def touched(self) -> tuple[Value, ...]:
        """Every value that must be in memory while the step runs."""
        return (*self.reads, *self.writes, *self.scratch)


@dataclass(frozen=True)
class Output:
    """One output of an image: `offset` floats into the image's outputs."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of floats."""
        return math.prod(self.shape)


def values_of(*lists: Sequence[Plane]) -> tuple[Value, ...]:
    """The values that planes lie in, each once."""
    return tuple(dict.fromkeys(plane.value for planes in lists for plane in planes))
