"""1x1 convolutions and linear layers: the register tile over pixels, with one segment per channel block."""

from __future__ import annotations

from .instructions import FIRST, GROUP, LAST, SEGMENTS, WEIGHTS, Y
from .register_tile import multiply
from .simd import LANES, Integers, Pointer, at, integers_at, kernel


@kernel
def pointwise(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """POINTWISE: pixels FIRST to LAST. GROUP pixels go through all panels before the next ones, so that their inputs
    are read from far memory once."""
    segments, w = integers_at(program, instruction[SEGMENTS]), at(weights, instruction[WEIGHTS])
    # Segments hold places in the arena of pixel 0, so the arena itself moves from pixel to pixel.
    first = instruction[FIRST]
    while first < instruction[LAST]:
        pixels = min(instruction[GROUP], instruction[LAST] - first)
        y = at(arena, instruction[Y] + first * LANES)
        multiply(instruction, at(arena, first * LANES), segments, w, y, pixels)
        first += pixels
