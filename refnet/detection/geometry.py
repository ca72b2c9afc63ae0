"""Where the units of a network's branches are, and what they are made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refnet.arrays import Pair
from refnet.errors import OptionError
from refnet.fields.branches import branches
from refnet.graph import Graph


@dataclass(frozen=True)
class BranchGeometry:
    """Where a branch's units are, and how it writes boxes.

    Attributes:
        stride: input pixels between neighbouring units.
        centre: pixel coordinate of unit 0's centre, along both axes.
        receptive_field: side in pixels of what a unit sees.
        norm: K, the pixels that a distance of 1 stands for.
        lower, upper: the longer side in pixels of the objects that the branch is made for.
        tensor: the name of its first map, whose shape is the number of units.
    """

    stride: int
    centre: int
    receptive_field: int
    norm: float
    lower: int
    upper: int
    tensor: str = ""


def geometry(
    graph: Graph, object_ranges: Sequence[Pair] | None = None
) -> tuple[BranchGeometry, ...]:
    """The branches of a detection network, in the order of its outputs; places follow from its layers.

    Args:
        object_ranges: (lower, upper) of each branch; the network's own by default.

    Raises:
        OptionError: the network has not as many branches as there are ranges.
    """
    found = []
    for branch in branches(graph, object_ranges):
        if branch.objects is None:
            raise OptionError(
                f"{graph.name} has branches whose objects are not known; give one range of sizes for "
                "each of its receptive fields, as object_ranges of its defaults"
            )
        assert branch.field.aligned
        lower, upper = branch.objects
        found.append(
            BranchGeometry(
                stride=branch.field.jump[0],
                centre=int(branch.field.rows.centre),
                receptive_field=branch.field.size[0],
                norm=upper / 2,
                lower=lower,
                upper=upper,
                tensor=branch.tensor,
            )
        )
    return tuple(found)


def object_range(branches: Sequence[BranchGeometry]) -> Pair:
    """(smallest, largest) longer side in input pixels of the objects that `branches` are made for."""
    return min(b.lower for b in branches), max(b.upper for b in branches)
