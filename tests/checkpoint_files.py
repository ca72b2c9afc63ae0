"""Checkpoints written by hand, byte by byte, so that the readers are tested without their writers.

The first half is an assembler for pickles: each function returns the program that leaves one value on
the pickle machine's stack.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(values: Sequence[int]) -> bytes:
    return sequence(*map(integer, values))


def glob(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    return glob(function) + sequence(*arguments) + b"R"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def ordered(items: Mapping[str, bytes]) -> bytes:
    """An OrderedDict, as state dicts are."""
    made = call("collections.OrderedDict")
    return made + b"(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def storage(
    key: str, count: int, of: str = "torch.FloatStorage", view: bytes | None = None
) -> bytes:
    """A persistent id; `view` is the sixth element that legacy files have."""
    identity = [text("storage"), glob(of), text(key), text("cpu"), integer(count)]
    return sequence(*identity, *([view] if view is not None else [])) + b"Q"


def tensor(
    held: bytes,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int = 0,
    function: str = "torch._utils._rebuild_tensor_v2",
) -> bytes:
    hooks = call("collections.OrderedDict")
    return call(function, held, integer(offset), integers(size), integers(stride), b"\x89", hooks)


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def dense_stride(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def state_dict(arrays: Mapping[str, Array], view: bytes | None = None) -> bytes:
    """The program of a state dict of float32 arrays, each in its own storage "0", "1", ..."""
    return ordered(
        {
            name: tensor(
                storage(str(i), array.size, view=view), array.shape, dense_stride(array.shape)
            )
            for i, (name, array) in enumerate(arrays.items())
        }
    )


def torch_zip(
    value: bytes,
    storages: Mapping[str, bytes],
    byteorder: bytes | None = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A file in torch's zip format whose object is made by the program `value`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(value))
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def torch_legacy(value: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A file in torch's legacy format; storages: {key: (element count, bytes)}."""
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    head = [integer(LEGACY_MAGIC), integer(1001), mapping({"little_endian": b"\x88"}), value, keys]
    body = [struct.pack("<q", count) + raw for count, raw in storages.values()]
    return b"".join(map(program, head)) + b"".join(body)


def zip_of(arrays: Mapping[str, Array]) -> bytes:
    raw = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    return torch_zip(state_dict(arrays), raw)


def legacy_of(arrays: Mapping[str, Array]) -> bytes:
    raw = {str(i): (array.size, array.tobytes()) for i, array in enumerate(arrays.values())}
    return torch_legacy(state_dict(arrays, view=b"N"), raw)


def npz_of(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def mxnet_array(array: Array, version: int = 2) -> bytes:
    """One float32 array in MXNet's V1 or V2 layout, or (version 0) the one before them."""
    magic = {0: b"", 1: struct.pack("<I", 0xF993FAC8), 2: struct.pack("<Ii", 0xF993FAC9, 0)}
    dims = struct.pack(f"<I{array.ndim}{'I' if version == 0 else 'q'}", array.ndim, *array.shape)
    return magic[version] + dims + struct.pack("<iii", 1, 0, 0) + array.tobytes()


def mxnet_of(arrays: Mapping[str, Array], version: int = 2) -> bytes:
    """A `.params` file of float32 arrays."""
    body = b"".join(mxnet_array(array, version) for array in arrays.values())
    names = [f"arg:{name.replace('.', '_')}".encode() for name in arrays]
    listed = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    count = struct.pack("<Q", len(arrays))
    return struct.pack("<QQ", 0x112, 0) + count + body + count + listed


def ncnn_of(convolutions: Mapping[str, tuple[Array, Array]], tag: int = 0) -> tuple[bytes, bytes]:
    """(`.param`, `.bin`) of a chain of convolutions, {layer: (weight OIHW, bias)}."""
    lines = ["Input data 0 1 data 0=8 1=8 2=3"]
    raw = b""
    previous = "data"
    for name, (weight, bias) in convolutions.items():
        out, _, height, width = weight.shape
        keys = f"0={out} 1={width} 11={height} 3=1 13=1 4=0 14=0 5=1 6={weight.size}"
        lines += [
            f"Convolution {name} 1 1 {previous} {name} {keys}",
            f"ReLU relu_{name} 1 1 {name} r{name}",
        ]
        previous = f"r{name}"
        data = weight.astype("<f2").tobytes() if tag == 0x01306B47 else weight.tobytes()
        raw += struct.pack("<I", tag) + data + b"\0" * (-len(data) % 4) + bias.tobytes()
    head = f"7767517\n{len(lines)} {len(lines)}\n"
    return (head + "\n".join(lines) + "\n").encode(), raw


def some_arrays(seed: int = 0) -> dict[str, Array]:
    """A few small float32 arrays under names like a network's."""
    random = np.random.default_rng(seed)
    shapes = {
        "conv1.weight": (4, 3, 3, 3),
        "conv1.bias": (4,),
        "fc.weight": (2, 4),
        "fc.bias": (2,),
    }
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
