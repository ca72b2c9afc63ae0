"""Tiles of a large image on which a network gives exactly what it gives on the whole.

A unit's value depends on its receptive field alone, and on whether that reaches over the edge of the
input, where padding is. So a tile that starts at a multiple of the largest stride has units at the
places of the whole image's units, and those whose receptive field stays inside the tile, or leaves
it only where the image ends too, have the whole image's values. Tiles overlap so far that every unit
is one of these in some tile; the first such tile owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refnet.arrays import Pair
from refnet.detection.geometry import BranchGeometry
from refnet.errors import OptionError


@dataclass(frozen=True)
class Tile:
    """A rectangle of the input, and the units of every branch that count in it.

    Attributes:
        rows, columns: of input pixels.
        owned: per branch (rows, columns) of the tile's own output maps.
    """

    rows: slice
    columns: slice
    owned: tuple[tuple[slice, slice], ...]

    @classmethod
    def whole(cls, shape: Sequence[int], branches: int) -> Tile:
        """One tile of an input of `shape` (H, W, ...), in which every unit of `branches` counts."""
        return cls(slice(0, shape[0]), slice(0, shape[1]), ((slice(None), slice(None)),) * branches)

    @property
    def origin(self) -> Pair:
        """(row, column) of the tile's first pixel."""
        return self.rows.start, self.columns.start


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: pixels start to stop, and per branch its units first to end."""

    start: int
    stop: int
    owned: tuple[slice, ...]


def tiles(
    shape: Sequence[int], tile: int, branches: Sequence[BranchGeometry], units: Sequence[Pair]
) -> list[Tile]:
    """Tiles of an input of `shape` (H, W, ...), of at most `tile` pixels a side, row by row.

    An input that is not larger than a tile is one tile.

    Args:
        branches: of the network.
        units: of each branch, (rows, columns) of its map on the whole input.

    Raises:
        OptionError: the tile is not larger than the largest receptive field, so that it would hold
            no unit with all of its surroundings.
    """
    rows, columns = (
        _spans(shape[axis], tile, branches, [count[axis] for count in units]) for axis in (0, 1)
    )
    return [
        Tile(
            slice(row.start, row.stop),
            slice(column.start, column.stop),
            tuple(zip(row.owned, column.owned, strict=True)),
        )
        for row in rows
        for column in columns
    ]


def _spans(
    size: int, tile: int, branches: Sequence[BranchGeometry], units: Sequence[int]
) -> list[_Span]:
    """Tiles along one axis of `size` pixels, on which each branch has its number of `units`."""
    coarsest = max(branch.stride for branch in branches)
    overlap = max(branch.receptive_field for branch in branches) - 1
    stride = (tile - overlap) // coarsest * coarsest
    if tile < size and stride < coarsest:
        raise OptionError(
            f"a tile of {tile} pixels is too small for this network, whose units see up to "
            f"{overlap + 1}; use at least {overlap + coarsest}"
        )
    starts = [0]
    while starts[-1] + tile < size:
        starts.append(starts[-1] + stride)
    # Of each branch, the first unit of the whole input that has no owner yet.
    ends = [0] * len(branches)
    spans = []
    for start in starts:
        stop = min(start + tile, size)
        owned = []
        for i, branch in enumerate(branches):
            shift = start // branch.stride
            end = units[i] - shift if stop == size else _last(stop - start, branch)
            owned.append(slice(ends[i] - shift, end))
            ends[i] = end + shift
        spans.append(_Span(start, stop, tuple(owned)))
    return spans


def _last(size: int, branch: BranchGeometry) -> int:
    """One more than the last unit whose receptive field ends within `size` pixels."""
    half = (branch.receptive_field - 1) // 2
    return (size - 1 - half - branch.centre) // branch.stride + 1
