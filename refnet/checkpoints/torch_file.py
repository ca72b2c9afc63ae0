"""Files that torch.save writes, zip and legacy format, read without PyTorch and without running them.

Zip (since PyTorch 1.6): an uncompressed zip; one top folder of any name holds

    data.pkl      one pickle; storages are persistent ids ('storage', class, key, location, count)
    data/<key>    the bytes of one storage
    byteorder     "little" or "big"; absent in older files, which are little
    version, .format_version, .data/serialization_id, ...        not needed

Legacy: pickles one after the other, then the storages:

    1  the integer 0x1950a86a20f9469cfc6c
    2  the protocol version, 1001
    3  a dict of sizes of C types
    4  the object; storages are ('storage', class, key, location, count, view), where view is None
       or (key of the view, offset, count), in elements
    5  the list of keys; then, for each key in that order, an int64 count of elements and the
       elements, both little endian on every machine (torch/csrc/serialization.cpp)

The object is a state dict, or dicts around some (`{"epoch": 3, "state_dict": {...}}`), or a module,
whose class is not imported: see `state_dicts.py`.
"""

from collections.abc import Callable

from refnet.checkpoints.allowance import Allowance
from refnet.checkpoints.elements import Array
from refnet.checkpoints.pickle_machine import Global, PickleMachine
from refnet.checkpoints.state_dicts import PickledStateDicts, StateDicts, find_state_dicts
from refnet.checkpoints.torch_tensors import (
    DTYPES,
    FUNCTIONS,
    STORAGE_CLASSES,
    Storage,
    item_size,
    materialise,
    natural,
)
from refnet.checkpoints.zip_archive import Archive
from refnet.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_TOKENS = frozenset(STORAGE_CLASSES) | frozenset(DTYPES)
# Plain values that stand beside tensors as NumPy scalars; with inert=True they are passed over.
_CONSTRUCTORS = frozenset(
    ["numpy.dtype", "collections.defaultdict", "collections.Counter"]
    + [
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
)


_UNREAD = {
    f"torch._utils.{name}": kind
    for name, kind in (
        ("_rebuild_sparse_tensor", "sparse"),
        ("_rebuild_nested_tensor", "nested"),
        ("_rebuild_qtensor", "quantised"),
        ("_rebuild_meta_tensor_no_storage", "meta (shapes without numbers)"),
        ("_rebuild_device_tensor_from_numpy", "foreign device's"),
        ("_rebuild_device_tensor_from_cpu_tensor", "foreign device's"),
        ("_rebuild_wrapper_subclass", "wrapped"),
        ("_rebuild_from_type_v2", "custom"),
    )
} | {"torch.serialization._get_layout": "sparse"}


def read_zip(archive: Archive, allowance: Allowance, *, inert: bool) -> StateDicts:
    """The state dicts in an archive that torch.save wrote. Raises as `read_legacy` does."""
    pickles = [
        name for name in archive.names if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise CheckpointError(
            f"its zip archive has {len(pickles)} members '<folder>/data.pkl'; PyTorch writes one"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.names:
        raise CheckpointError(
            "it is a TorchScript program (torch.jit.save), which holds code beside its tensors. "
            "Save the state_dict() of the module with torch.save instead."
        )
    byte_order = "<"
    if f"{folder}byteorder" in archive.names:
        order = archive.read(f"{folder}byteorder")
        if order not in (b"little", b"big"):
            raise CheckpointError("its member 'byteorder' says neither little nor big")
        byte_order = "<" if order == b"little" else ">"
    machine = _machine(archive.read(pickles[0]), _Storages(), inert)
    found = find_state_dicts(machine.run())
    contents: dict[str, bytes] = {}

    def storage_bytes(key: str) -> bytes:
        if key not in contents:
            contents[key] = archive.read(f"{folder}data/{key}")
        return contents[key]

    return _materialised(found, storage_bytes, byte_order, allowance)


def read_legacy(data: bytes, allowance: Allowance, *, inert: bool) -> StateDicts:
    """The state dicts in a legacy file: {where in the file: {name: array}}.

    Raises CheckpointError where the file is cut off, damaged or not one of PyTorch's, and
    UnsafeCheckpointError where its pickle asks for more than tensors and plain values.
    """
    storages = _Storages()
    machine = _machine(data, storages, inert)
    if machine.run() != LEGACY_MAGIC:
        raise CheckpointError(
            "it is a pickle, but not one that torch.save wrote. Write the state dict with torch.save, "
            "or with numpy.savez."
        )
    if machine.run() != _LEGACY_PROTOCOL:
        raise CheckpointError("it is a PyTorch file of an unknown legacy protocol (1001 is known)")
    machine.run()  # sizes of C types
    found = find_state_dicts(machine.run())
    keys = machine.run()
    contents = _legacy_contents(data, machine.position, keys, storages)

    def storage_bytes(key: str) -> memoryview:
        if key not in contents:
            raise CheckpointError(f"storage {key[:40]!r} of a tensor is missing from the file")
        return contents[key]

    return _materialised(found, storage_bytes, "<", allowance)


class _Storages:
    """The storages that a pickle refers to, and how to answer its persistent ids."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def persistent(self, identity: object) -> object:
        """The value of a persistent id: a storage, or a class (legacy files name modules' so)."""
        if isinstance(identity, tuple) and identity:
            if identity[0] == "module" and len(identity) == 4 and isinstance(identity[1], Global):
                return identity[1]  # its source code follows, which is never run
            if identity[0] == "storage" and len(identity) in (5, 6):
                return self._storage(identity[1], identity[2], identity[4], *identity[5:])
        raise CheckpointError(
            "its pickle refers to something that is neither a storage nor a class"
        )

    def _storage(self, of: object, key: object, count: object, view: object = None) -> Storage:
        if not isinstance(of, Global) or not isinstance(key, str):
            raise CheckpointError("a storage has no class or no key")
        kind = STORAGE_CLASSES.get(str(of))
        if kind is None and not of.name.endswith("Storage"):
            raise CheckpointError(
                f"a storage is of an unknown class, {of.module[:40]}.{of.name[:40]}"
            )
        if kind is None:
            raise CheckpointError(
                f"a tensor has the element type {of.name.removesuffix('Storage')[:40]}, which is not read here; it takes "
                f"real numbers that are not quantised (tensor.dequantize() makes them so)"
            )
        if self.kinds.setdefault(key, kind) != kind:
            raise CheckpointError(f"storage {key[:40]!r} has two element types")
        whole = natural(count, "the size of a storage")
        if view is None:
            return Storage(key, kind, whole)
        if not isinstance(view, tuple) or len(view) != 3:
            raise CheckpointError("a view of a storage is malformed")
        start, length = natural(view[1], "a view's offset"), natural(view[2], "a view's size")
        if start + length > whole:
            raise CheckpointError(f"a view of storage {key[:40]!r} reaches outside it")
        return Storage(key, kind, length, start)


def _machine(data: bytes, storages: _Storages, inert: bool) -> PickleMachine:
    return PickleMachine(
        data,
        FUNCTIONS,
        _TOKENS,
        storages.persistent,
        inert=inert,
        constructors=_CONSTRUCTORS,
        unread=_UNREAD,
    )


def _legacy_contents(
    data: bytes, position: int, keys: object, storages: _Storages
) -> dict[str, memoryview]:
    """The bytes of each storage after the pickles, which end at `position`."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("its list of storages is malformed")
    contents: dict[str, memoryview] = {}
    for key in keys:
        kind = storages.kinds.get(key)
        if kind is None or key in contents:
            raise CheckpointError(
                f"storage {key[:40]!r} is listed twice, or no tensor refers to it"
            )
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        end = position + 8 + count * item_size(kind)
        if count < 0 or end > len(data):
            raise CheckpointError(
                f"it is cut off or damaged: storage {key[:40]!r} at byte {position:,} claims "
                f"{count:,} elements of {kind}, and the file ends at byte {len(data):,}"
            )
        contents[key] = memoryview(data)[position + 8 : end]
        position = end
    if position != len(data):
        raise CheckpointError(f"{len(data) - position:,} bytes follow its last storage")
    return contents


def _materialised(
    found: PickledStateDicts,
    storage_bytes: Callable[[str], bytes | memoryview],
    byte_order: str,
    allowance: Allowance,
) -> StateDicts:
    """Every tensor of every state dict as an array; tied tensors are one array."""
    made: dict[tuple[object, ...], Array] = {}
    result: StateDicts = {}
    for path, tensors in found.items():
        arrays = result[path] = {}
        for name, tensor in tensors.items():
            storage = tensor.storage
            key = (
                storage.key,
                storage.start,
                tensor.kind,
                tensor.offset,
                tensor.size,
                tensor.stride,
            )
            if key not in made:
                raw = storage_bytes(storage.key)
                made[key] = materialise(tensor, raw, byte_order, allowance, name)
            arrays[name] = made[key]
    return result
