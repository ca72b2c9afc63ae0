"""safetensors, read and written: a JSON header, then the tensors' bytes without gaps.

    u64      length n of the header, little endian
    n bytes  {"<name>": {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...,
              "__metadata__": {"<text>": "<text>"}}
    the rest little endian, C order; offsets count from its first byte

Source: huggingface/safetensors, README "Format". Written files align every tensor to its element
size, as the reference implementation's do.
"""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from refnet.checkpoints.elements import ELEMENT_TYPES, Array, shaped
from refnet.errors import CheckpointError, OutputError
from refnet.files import write_file

_KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_HEADER_AT_MOST = (
    10_000_000  # GhostOne's training form, 2,086 tensors, needs a quarter of a million
)
_NAMES = {kind: name for name, kind in _KINDS.items() if kind != "bfloat16"}


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that starts with `head` (at least 9 bytes) is one."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(data: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors by name, in the order of their bytes, and the metadata.

    Raises CheckpointError where the header is damaged, a tensor has another size than its shape
    says, or the tensors overlap, leave gaps or leave bytes over.
    """
    length = int.from_bytes(data[:8], "little")
    if length > _HEADER_AT_MOST:
        raise CheckpointError(f"its safetensors header claims {length:,} bytes")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("its safetensors header is damaged") from error
    if not isinstance(header, dict):
        raise CheckpointError("its safetensors header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("its safetensors metadata is not text by text")
    body = memoryview(data)[8 + length :]
    entries = sorted(
        ((*_offsets(name, entry), name) for name, entry in header.items()), key=lambda e: e[:2]
    )
    tensors: dict[str, Array] = {}
    position = 0
    for begin, end, name in entries:
        if begin != position:
            raise CheckpointError(f"tensor {name[:80]!r} overlaps another, or leaves a gap")
        position = end
        tensors[name] = _tensor(name, header[name], body[begin:end], end - begin)
    if position != len(body):
        raise CheckpointError(
            f"its tensors end at byte {position:,} and its data at byte {len(body):,}. It is cut off "
            f"or damaged."
        )
    return tensors, metadata


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _offsets(name: str, entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise CheckpointError(f"tensor {name[:80]!r} has no offsets")
    return offsets[0], offsets[1]


def _tensor(name: str, entry: Mapping[str, object], raw: memoryview, expected: int) -> Array:
    kind, shape = _KINDS.get(str(entry.get("dtype"))[:10]), entry.get("shape")
    if kind is None:
        raise CheckpointError(
            f"tensor {name[:80]!r} has the dtype {str(entry.get('dtype'))[:10]!r}; read are "
            f"{', '.join(_KINDS)}"
        )
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(_is_count, shape)):
        raise CheckpointError(f"tensor {name[:80]!r} has no shape")
    dtype = np.dtype("<" + ELEMENT_TYPES[kind])
    needed = math.prod(shape) * dtype.itemsize
    if not needed == expected == len(raw):
        raise CheckpointError(
            f"tensor {name[:80]!r} of shape {tuple(shape)} needs {needed:,} bytes, its offsets span "
            f"{expected:,} and {len(raw):,} are in the file. It is cut off or damaged."
        )
    return shaped(np.frombuffer(raw, dtype), shape, kind)


def write_safetensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write `tensors` and `metadata` to `path`, whole or not at all.

    The file is written beside `path` and renamed over it, so that no reader meets half a file. The
    same tensors and metadata give the same bytes. Raises CheckpointError where the folder cannot be
    written or a dtype has no name in the format.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name, array in ordered:
        dtype = _NAMES.get(array.dtype.name)
        if dtype is None:
            raise CheckpointError(
                f"tensor {name!r} is {array.dtype}; safetensors has no such dtype"
            )
        shape = [int(size) for size in array.shape]
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = (
        np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        for _, array in ordered
    )
    pieces = itertools.chain([len(text).to_bytes(8, "little") + text], body)
    try:
        write_file(path, pieces, parents=False)
    except OutputError as error:
        raise CheckpointError(f"the checkpoint cannot be written: {error}") from error
