"""Weights and inputs that are formulas, so that two programs agree without sharing a file.

Every weight is a hash of its state-dict name and its flat index; every input is a function of its
pixel coordinates. The golden outputs of the original PFLD code were made from these numbers.
Free of torch: NumPy is all that is needed.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MASK = np.uint64(0xFFFFFFFF)
_KNUTH = np.uint64(2654435761)
_MIX = np.uint64(0x45D9F3B)
_HALF = np.uint64(16)


def hash_uniform(name: str, count: int) -> Float64:
    """The first `count` numbers of the stream called `name`: float64 (count,) in [-1, 1)."""
    z = (np.arange(count, dtype=np.uint64) * _KNUTH + np.uint64(zlib.crc32(name.encode()))) & _MASK
    for _ in range(2):
        z ^= z >> _HALF
        z = (z * _MIX) & _MASK
    z ^= z >> _HALF
    return z.astype(np.float64) / 2.0**31 - 1.0


def formula_weight(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """One tensor: float32 of `shape`, or the int64 zero of a `num_batches_tracked`.

    Weights have the variance 1 / fan_in, and the batch norms of GhostOne's parallel branches are
    scaled by 0.35: a sum over eight branches, block after block, would otherwise overflow the
    accuracy that a comparison needs.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    u = hash_uniform(name, int(np.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        values = 1.0 + 0.3 * u
    elif name.endswith(("running_mean", "bias")):
        values = 0.1 * u
    elif len(shape) == 1:
        values = (1.0 + 0.1 * u) * (0.35 if ".rbr_" in name else 1.0)
    else:
        values = u * np.sqrt(3.0 / np.prod(shape[1:]))
    return values.astype(np.float32)


def formula_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.generic]]:
    """A whole state dict from `{name: shape}`, in the same order: float32 (int64 for counters)."""
    return {name: formula_weight(name, tuple(shape)) for name, shape in shapes.items()}


def _coordinates(size: int | tuple[int, int], channels: int) -> tuple[Float64, Float64, Float64]:
    height, width = (size, size) if isinstance(size, int) else size
    c, h, w = np.meshgrid(
        np.arange(channels, dtype=np.float64),
        np.arange(height, dtype=np.float64),
        np.arange(width, dtype=np.float64),
        indexing="ij",
    )
    return c, h, w


def zeros(size: int | tuple[int, int] = 112, channels: int = 3) -> Float32:
    """All zeros, float32 (1, channels, H, W)."""
    c, _, _ = _coordinates(size, channels)
    return np.zeros((1, *c.shape), np.float32)


def ones(size: int | tuple[int, int] = 112, channels: int = 3) -> Float32:
    """All ones, float32 (1, channels, H, W)."""
    c, _, _ = _coordinates(size, channels)
    return np.ones((1, *c.shape), np.float32)


def wave(size: int | tuple[int, int] = 112, channels: int = 3) -> Float32:
    """sin(0.05 (h+1)(c+1)) cos(0.03 (w+1)), float32 (1, channels, H, W), values in [-1, 1]."""
    c, h, w = _coordinates(size, channels)
    values = np.sin(0.05 * (h + 1) * (c + 1)) * np.cos(0.03 * (w + 1))
    return values[None].astype(np.float32)


def ramp(size: int | tuple[int, int] = 112, channels: int = 3) -> Float32:
    """((7h + 13w + 101c) mod 256 / 255 - 0.5) / 0.5, float32 (1, channels, H, W), in [-1, 1]."""
    c, h, w = _coordinates(size, channels)
    values = (np.mod(7 * h + 13 * w + 101 * c, 256) / 255 - 0.5) / 0.5
    return values[None].astype(np.float32)


def stripes(size: int | tuple[int, int] = (161, 198), channels: int = 3) -> Float32:
    """(50c + 3h + 5w + floor(hw / 7)) mod 256, float32 (1, channels, H, W): pixels for LFFD."""
    c, h, w = _coordinates(size, channels)
    values = np.mod(50 * c + 3 * h + 5 * w + np.floor(h * w / 7), 256)
    return values[None].astype(np.float32)
