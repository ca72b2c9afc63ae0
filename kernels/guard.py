"""Debug mode: run a plan between canaries.

Every float of the arena, of the outputs and around all buffers starts as one NaN with a pattern of its own. A read of
what nothing wrote then shows in the outputs, and a write out of place shows in a canary.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from . import machine_code
from .packing import aligned
from .plan import Plan
from .simd import LANES

# A NaN, so that a float which is read spoils the result, with bits that no arithmetic on numbers makes, so that a float
# which was written to can be seen. The margin of 16 pixels is wider than the largest tile, of 14.
CANARY = np.uint32(0x7FC0CAFE)  # a quiet NaN
MARGIN = 16 * LANES


class GuardError(AssertionError):
    """A kernel wrote outside of its buffers."""


def guarded(floats: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A buffer of canaries with a margin on both sides: (all of it, the part between the margins)."""
    memory = aligned(floats + 2 * MARGIN)
    memory.view(np.uint32)[:] = CANARY
    return memory, memory[MARGIN : MARGIN + floats]


def run_guarded(plan: Plan, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The outputs for a batch, image by image, each in fresh memory; the plan should have been compiled with `guard`.

    Raises:
        GuardError: something was written outside of the buffers of the plan.
    """
    outputs = []
    for image in x:
        # Fresh memory for each image: what an earlier run left there would hide a read of what nothing wrote.
        arena_memory, arena = guarded(plan.arena)
        output_memory, output = guarded(plan.output_size)
        image_memory, source = guarded(image.size)
        source[:] = image.ravel()
        # Between its margins the input holds values, so it is compared with a copy.
        before = image_memory.view(np.uint32).copy()
        call = machine_code.Call(
            *(plan.program.ctypes.data, 0, len(plan.instructions), plan.weights.ctypes.data),
            *(arena.ctypes.data, source.size, output.size, 1),
        )
        machine_code.entry()(ctypes.byref(call), source.ctypes.data, 1, output.ctypes.data)
        free = np.ones(arena_memory.size, bool)
        for instruction in plan.instructions:
            for buffer in instruction.touched():
                start = MARGIN + buffer.offset
                free[start : start + buffer.floats] = False
        edge = np.ones(output_memory.size, bool)
        edge[MARGIN : MARGIN + plan.output_size] = False
        for name, memory, outside in (
            ("arena", arena_memory, free),
            ("outputs", output_memory, edge),
        ):
            spoilt = np.flatnonzero(outside & (memory.view(np.uint32) != CANARY)) - MARGIN
            if spoilt.size:
                raise GuardError(f"{plan.name} wrote outside of its {name}, at floats {spoilt[:8]}")
        if (before != image_memory.view(np.uint32)).any():
            raise GuardError(f"{plan.name} wrote to its input")
        outputs.append(output.copy())
    stacked = np.stack(outputs)
    return tuple(
        stacked[:, o.offset : o.offset + o.size].reshape(len(x), *o.shape) for o in plan.outputs
    )
