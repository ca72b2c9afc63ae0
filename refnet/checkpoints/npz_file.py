"""NumPy's `.npz`: a zip of `.npy` members, read without NumPy's loader, which may run pickles.

A member is b"\\x93NUMPY", a version (u8, u8), the length of the header (u16, from version 2 on
u32), the header, a Python dict as text with 'descr', 'fortran_order' and 'shape', and the elements.
Source: numpy/lib/format.py.
"""

import math
import re

import numpy as np

from refnet.checkpoints.allowance import Allowance
from refnet.checkpoints.elements import Array, shaped
from refnet.checkpoints.zip_archive import Archive
from refnet.errors import CheckpointError

MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?)([fiub])(\d{1,2})', *'fortran_order': (True|False), *"
    rb"'shape': \(((?:\d{1,18}, ?)*\d{0,18}),?\),? *\} *\n?"
)


def read_npz(archive: Archive, allowance: Allowance) -> dict[str, Array]:
    """The arrays by name. Raises CheckpointError where one is damaged or not of plain numbers."""
    return {
        name.removesuffix(".npy"): _array(archive.read(name, inflate=True), name, allowance)
        for name in archive.names
    }


def _array(content: bytes, name: str, allowance: Allowance) -> Array:
    if content[:6] != MAGIC or len(content) < 12:
        raise CheckpointError(f"member {name!r} of its archive is not a NumPy array")
    width = 2 if content[6] == 1 else 4
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    match = _HEADER.fullmatch(content[8 + width : start]) if start < 1 << 16 else None
    if match is None:
        raise CheckpointError(
            f"member {name!r} of its archive holds Python objects or a header that is not understood; "
            f"only arrays of plain numbers are read"
        )
    order, kind, size, fortran, shape_text = (group.decode() for group in match.groups())
    try:
        dtype = np.dtype(f"{order}{kind}{size}")
    except TypeError as error:
        raise CheckpointError(f"member {name!r} has elements {kind}{size}") from error
    shape = tuple(int(size) for size in shape_text.replace(" ", "").split(",") if size)
    count = math.prod(shape)
    if len(shape) > 32 or len(content) - start != count * dtype.itemsize:
        raise CheckpointError(
            f"member {name!r} claims the shape {shape}, {count * dtype.itemsize:,} bytes, and holds "
            f"{len(content) - start:,}. The file is damaged."
        )
    allowance.spend(count * dtype.itemsize, f"array {name!r}")
    flat = np.frombuffer(content, dtype, count, start)
    return shaped(flat, shape, "plain", "F" if fortran == "True" else "C")
