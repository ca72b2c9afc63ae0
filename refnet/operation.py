"""What an operation is.

An operation is six functions of the same keywords (a node's attributes and parameters):

    forward(x, ..., **parameters, **attributes) -> y
    shape(inputs, parameters, **attributes)     -> shape of y for one image, without the batch axis
    vjp(dy, inputs, y, **parameters, **attributes) -> one cotangent per input
    field(inputs, shapes, **attributes)         -> the receptive field of y
    reads(region, shape, **attributes)          -> region of an input that a region of y depends on
    makes(region, shape, inputs, parameters, **attributes)
                                                -> region of y that is made where `region` is asked for

The last three are those of `refnet.receptive` by default, which suit whatever slides a window (it has an
attribute `kernel`) and whatever keeps each unit in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from refnet.arrays import Array, Shape
from refnet.receptive import ReceptiveField, Region, layer_field, layer_reads, same_makes


class Op(NamedTuple):
    """One operation.

    Attributes:
        forward, shape, vjp, field, reads, makes: see the module's documentation.
        gate: an element-wise non-linearity, or a softmax. An open network, which is linear, has the
            identity in its place.
        opened: the vector-Jacobian product in an open network, of an operation that is no gate and is
            not linear either; None where it is the same.
        outside: what a window meets beyond the borders of its input.
    """

    forward: Callable[..., Array]
    shape: Callable[..., Shape]
    vjp: Callable[..., tuple[Array, ...]]
    gate: bool = False
    field: Callable[..., ReceptiveField | None] = layer_field
    reads: Callable[..., Region | None] = layer_reads
    makes: Callable[..., Region] = same_makes
    opened: Callable[..., tuple[Array, ...]] | None = None
    outside: float = 0.0
