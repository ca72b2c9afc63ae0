"""Elements of tensors in files: what the types are called, and how they become read-only arrays."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refnet.errors import CheckpointError

Array = NDArray[np.generic]

# Name of the element type -> dtype of its bytes. NumPy has no bfloat16; it is the upper half of a
# float32, so that widening it is exact.
ELEMENT_TYPES: dict[str, str] = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "b1",
}


def shaped(flat: Array, shape: Sequence[int], kind: str, order: Literal["C", "F"] = "C") -> Array:
    """`finished` of `flat` in `shape`. Raises CheckpointError where NumPy cannot hold the shape."""
    try:
        return finished(flat.reshape(tuple(shape), order=order), kind)
    except (ValueError, OverflowError) as error:  # a size of 0 beside sizes that overflow
        raise CheckpointError(f"a tensor of shape {tuple(shape)} cannot be") from error


def finished(array: Array, kind: str) -> Array:
    """A read-only copy of `array` in C order and native byte order; bfloat16 bits as float32."""
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if kind == "bfloat16":
        native = (native.astype(np.uint32) << 16).view(np.float32)
    elif native.dtype == np.bool_:
        native = native.view(np.uint8) != 0  # whatever bits the file holds
    native.setflags(write=False)
    return native
