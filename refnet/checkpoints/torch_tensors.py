"""Tensors as PyTorch pickles them: a storage of bytes, an offset, a size and strides.

A pickled tensor is a call `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`,
where the storage is a persistent id. Here the call makes a `PickledTensor`, which is a claim; and
`materialise` turns the claim into an array after proving that it lies inside its storage.
"""

import math
from dataclasses import dataclass

import numpy as np

from refnet.checkpoints.allowance import Allowance
from refnet.checkpoints.elements import ELEMENT_TYPES, Array, finished, shaped
from refnet.checkpoints.pickle_machine import Function, Global
from refnet.errors import CheckpointError

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
STORAGE_CLASSES: dict[str, str] = {
    f"{module}.{name}": kind
    for name, kind in _STORAGES.items()
    for module in ("torch", "torch.cuda")  # torch.cuda: files older than PyTorch 0.4
} | {"torch.storage.UntypedStorage": "uint8"}
DTYPES: dict[str, str] = {f"torch.{name}": name for name in ELEMENT_TYPES} | {
    "torch.half": "float16",
    "torch.float": "float32",
    "torch.double": "float64",
    "torch.long": "int64",
    "torch.int": "int32",
    "torch.short": "int16",
}
_DIMENSIONS_AT_MOST = 32


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of `count` elements of `kind`, `start` elements into the bytes stored under `key`."""

    key: str
    kind: str
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PickledTensor:
    """What a pickle says of a tensor; nothing of it is proved yet."""

    storage: Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def item_size(kind: str) -> int:
    """Bytes per element."""
    return np.dtype(ELEMENT_TYPES[kind]).itemsize


def natural(value: object, what: str) -> int:
    """`value`, where it is an int that is not negative."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise CheckpointError(f"{what} should be a count, zero or more; it is not")
    return value


def _naturals(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _DIMENSIONS_AT_MOST:
        raise CheckpointError(f"{what} should be at most {_DIMENSIONS_AT_MOST} counts")
    return tuple(natural(item, what) for item in value)


def materialise(
    tensor: PickledTensor, raw: bytes | memoryview, byte_order: str, allowance: Allowance, name: str
) -> Array:
    """`tensor` as a read-only array of its own, C order, native byte order; bfloat16 as float32.

    raw: the bytes of its storage. byte_order: "<" or ">". Raises CheckpointError where the tensor
    reaches outside its storage, or spends more than the allowance.
    """
    item = item_size(tensor.kind)
    first = tensor.storage.start * item_size(tensor.storage.kind) + tensor.offset * item
    elements = math.prod(tensor.size)
    if elements:
        reach = sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        inside = (tensor.offset + reach + 1) * item <= tensor.storage.count * item_size(
            tensor.storage.kind
        )
        if not inside or first + (reach + 1) * item > len(raw):
            raise CheckpointError(
                f"tensor {name!r} of shape {tensor.size} reaches {reach + 1:,} elements from "
                f"{tensor.offset:,} on; its storage holds {tensor.storage.count:,}. The file is cut "
                f"off or damaged."
            )
    allowance.spend(elements * (4 if tensor.kind == "bfloat16" else item), f"tensor {name!r}")
    dtype = np.dtype(byte_order + ELEMENT_TYPES[tensor.kind])
    if not elements:
        return shaped(np.empty(0, dtype), tensor.size, tensor.kind)
    count = (len(raw) - first) // item
    flat = np.frombuffer(raw, dtype, count, first)
    strides = tuple(
        step * item if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True)
    )
    view = np.lib.stride_tricks.as_strided(flat, tensor.size, strides, writeable=False)
    return finished(view, tensor.kind)


# --- what a pickle may call: each checks its arguments


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> PickledTensor:
    """For the dtypes without a storage class of their own: uint16, uint32, uint64."""
    kind = DTYPES.get(str(dtype)) if isinstance(dtype, Global) else None
    if kind is None:
        raise CheckpointError(
            f"a tensor has the element type {dtype!s:.60}, which is not read here"
        )
    return _tensor(storage, kind, offset, size, stride)


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> PickledTensor:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`, which adds requires_grad, hooks and metadata."""
    kind = storage.kind if isinstance(storage, Storage) else ""
    return _tensor(storage, kind, offset, size, stride)


def _tensor(
    storage: object, kind: str, offset: object, size: object, stride: object
) -> PickledTensor:
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor is rebuilt from something that is not a storage")
    sizes, strides = _naturals(size, "a tensor's size"), _naturals(stride, "a tensor's stride")
    if len(sizes) != len(strides):
        raise CheckpointError(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    return PickledTensor(storage, kind, natural(offset, "a tensor's offset"), sizes, strides)


def _rebuild_parameter(data: object, *rest: object) -> PickledTensor:
    if not isinstance(data, PickledTensor):
        raise CheckpointError("a parameter is rebuilt from something that is not a tensor")
    return data


def _ordered_dict(items: object = ()) -> dict[object, object]:
    pairs = items if isinstance(items, list | tuple) else None
    if pairs is None or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise CheckpointError("an ordered dict is made from something that is not pairs")
    made: dict[object, object] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise CheckpointError("an ordered dict has a key that is not text")
        made[name] = value
    return made


def _sequence(items: object = ()) -> list[object] | tuple[object, ...]:
    """torch.Size and set: they only stand beside the tensors, or are a tensor's size."""
    if not isinstance(items, list | tuple):
        raise CheckpointError("a set or size is made from something that is not a list")
    return items


def _described(*arguments: object) -> tuple[object, ...]:
    """torch.device and complex numbers: they only stand beside the tensors, so keep the words."""
    return arguments


_BUILTINS = ("__builtin__", "builtins")  # Python 2's name, which protocol 2 keeps, and Python 3's
FUNCTIONS: dict[str, Function] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": _sequence,
    "torch.device": _described,
    "_codecs.encode": _described,  # how protocol 2 writes bytes
    **{f"{module}.{name}": _sequence for module in _BUILTINS for name in ("set", "frozenset")},
    **{f"{module}.complex": _described for module in _BUILTINS},
}
