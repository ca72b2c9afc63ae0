"""MXNet's `.params`: a list of arrays and a list of their names, little endian.

    u64 0x112, u64 0, u64 count of arrays
    each array:  u32 0xF993FAC9 (V2) or 0xF993FACA (V3); i32 storage type, 0 = dense
                 u32 ndim, i64 per dimension
                 [u32 0xF993FAC8 (V1) has no storage type; an older array has no magic: the u32 is
                 its ndim and u32 dimensions follow]
                 i32 device type, i32 device id, i32 element type, the elements in C order
    u64 count of names;  each name: u64 length, bytes: "arg:" or "aux:" and the parameter's name

Source: apache/mxnet, src/ndarray/ndarray.cc (NDArray::Save, Load, LegacyLoad).
"""

import math
import struct

import numpy as np

from refnet.checkpoints.elements import ELEMENT_TYPES, Array, shaped
from refnet.errors import CheckpointError

MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_KINDS = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    12: "bfloat16",
}
_DIMENSIONS_AT_MOST = 32


class _Bytes:
    """A cursor over the file that never reads past its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise CheckpointError(
                f"it is cut off or damaged: {count:,} bytes are due at byte {self.position:,}, "
                f"{len(self.data) - self.position:,} are left"
            )
        piece = memoryview(self.data)[self.position : end]
        self.position = end
        return piece

    def number(self, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0])


def read_params(data: bytes) -> dict[str, Array]:
    """The arrays by name, without the prefixes "arg:" and "aux:", in the file's order.

    Raises CheckpointError where the file is cut off or damaged, where bytes are left over, and
    where an array is sparse or of an unknown type.
    """
    source = _Bytes(data)
    if source.number("Q") != MAGIC or source.number("Q") != 0:
        raise CheckpointError("its MXNet header is damaged")
    arrays = [_array(source) for _ in range(_count(source, "arrays"))]
    names = [_name(source) for _ in range(_count(source, "names"))]
    if source.position != len(data):
        raise CheckpointError(f"{len(data) - source.position:,} bytes follow its last name")
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise CheckpointError(f"it has {len(arrays)} arrays and {len(set(names))} different names")
    return {name: array for name, array in zip(names, arrays, strict=True) if array is not None}


def _count(source: _Bytes, what: str) -> int:
    count = source.number("Q")
    if count * 8 > len(source.data) - source.position:  # the shortest array or name takes 8 bytes
        raise CheckpointError(f"it claims {count:,} {what}, more than fit in it. It is damaged.")
    return count


def _shape(source: _Bytes, dimensions: int, kind: str) -> tuple[int, ...]:
    if dimensions > _DIMENSIONS_AT_MOST:
        raise CheckpointError(
            f"an array before byte {source.position:,} has {dimensions} dimensions"
        )
    shape = tuple(source.number(kind) for _ in range(dimensions))
    if any(size < 0 for size in shape):
        raise CheckpointError(f"an array before byte {source.position:,} has a negative size")
    return shape


def _array(source: _Bytes) -> Array | None:
    """The next array; None where it is an empty placeholder."""
    magic = source.number("I")
    if magic in (_V2, _V3) and (storage := source.number("i")) != 0:
        raise CheckpointError(
            f"an array before byte {source.position:,} is sparse (storage type {storage}); only "
            f"dense arrays are read"
        )
    if magic in (_V1, _V2, _V3):
        shape = _shape(source, source.number("I"), "q")
    else:
        shape = _shape(source, magic, "I")
    if not shape and magic != _V3:
        return None
    source.take(8)  # the device it lived on
    kind = _KINDS.get(flag := source.number("i"))
    if kind is None:
        raise CheckpointError(f"an array before byte {source.position:,} has element type {flag}")
    dtype = np.dtype("<" + ELEMENT_TYPES[kind])
    raw = source.take(math.prod(shape) * dtype.itemsize)
    return shaped(np.frombuffer(raw, dtype), shape, kind)


def _name(source: _Bytes) -> str:
    raw = bytes(source.take(source.number("Q")))
    try:
        return raw.decode("utf-8").removeprefix("arg:").removeprefix("aux:")
    except UnicodeDecodeError as error:
        raise CheckpointError("one of its names is not text. It is damaged.") from error
