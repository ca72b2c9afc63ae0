"""The compiled engine: Numba kernels over an explicit SIMD vector type, and the plan that drives them.

Nothing is imported until it is asked for: `from refnet.kernels import plan`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that type checkers see the files through the alias `refnet/kernels.pyi`
    from . import (
        choice,
        convolutions,
        dense,
        depthwise,
        elementwise,
        elf,
        executor,
        fusion,
        guard,
        host,
        layers,
        layout,
        machine_code,
        memory,
        parts,
        plan,
        pointwise,
        pooling,
        simd,
        softmax,
        steps,
        streaming,
        threads,
        trust,
        verify,
        winograd,
    )

__all__ = [
    "choice",
    "convolutions",
    "dense",
    "depthwise",
    "elementwise",
    "elf",
    "executor",
    "fusion",
    "guard",
    "host",
    "layers",
    "layout",
    "machine_code",
    "memory",
    "parts",
    "plan",
    "pointwise",
    "pooling",
    "simd",
    "softmax",
    "steps",
    "streaming",
    "threads",
    "trust",
    "verify",
    "winograd",
]
