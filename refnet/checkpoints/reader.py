"""Read any file of weights: its format is found by its content, never by its name.

What reads zip archives and pickles is imported when such a file comes along: it takes longer than reading most files.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from refnet.checkpoints import mxnet, ncnn, onnx_file, safetensors_file
from refnet.checkpoints.allowance import Allowance
from refnet.checkpoints.elements import Array
from refnet.checkpoints.layers import Layer
from refnet.errors import CheckpointError, WeightsError

FORMATS = (
    "PyTorch (zip and legacy format)",
    "safetensors",
    "NumPy .npz",
    "MXNet .params",
    "ONNX",
    "ncnn (.param and .bin)",
)
_HEAD = 512  # bytes, in which every format can be recognised
_BYTES_AT_MOST = (
    4 << 30
)  # the largest network here takes 16 MB, its training's whole state some times that
_OPEN_FLAGS = (
    getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: the file; of ncnn's pair, the one with the weights.
        format: "torch zip", "torch legacy", "safetensors", "npz", "mxnet", "onnx" or "ncnn".
        content: the file's bytes.
        tensors: the chosen state dict, {name in the file: read-only array}, in the file's order.
            bfloat16 is widened to float32; every other dtype is the file's.
        chosen: the path of that state dict in the file: "" where it stands alone, else such as
            "pfld_backbone".
        state_dicts: every state dict in the file, by its path.
        metadata: what the file says of itself, text by text.
        layers: of ONNX and ncnn, the layers in execution order; empty for other formats.
    """

    path: Path
    format: str
    content: bytes = field(repr=False)
    tensors: Mapping[str, Array]
    chosen: str = ""
    state_dicts: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, in hexadecimal."""
        import hashlib  # 4 ms, for OpenSSL: only records and conversions need it

        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class _Content:
    format: str
    state_dicts: Mapping[str, Mapping[str, Array]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()


def read(
    path: str | os.PathLike[str], *, state_dict: str | None = None, inert: bool = False
) -> Checkpoint:
    """Read a file of weights in any of `FORMATS`. Nothing in it is ever executed.

    state_dict: the path of the one to choose where the file holds several ("auxiliarynet"); None
    takes the one that is most likely the network (`state_dicts.preferred`).
    inert: read the tensors of a PyTorch file that also holds objects of other classes (a whole
    pickled module, settings): the classes are not imported, the objects become placeholders.

    Raises CheckpointError where the file is missing, unreadable, of an unknown format, cut off or
    damaged; UnsafeCheckpointError where a pickle asks for more than tensors; DependencyError where
    the format needs a package that is absent; WeightsError where there is no such state dict.
    """
    path = Path(path)
    try:
        path, content, data = _read(path, inert)
        if state_dict is None:
            state_dict = _preferred(content.state_dicts)
        if state_dict not in content.state_dicts:
            raise WeightsError(
                f"it holds no state dict {state_dict!r}; its state dicts are "
                f"{', '.join(map(repr, content.state_dicts))}"
            )
    except WeightsError as error:
        raise type(error)(f"{path}: {_shortened(str(error))}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: too large for this machine's memory") from error
    return Checkpoint(
        path=path,
        format=content.format,
        content=data,
        tensors=content.state_dicts[state_dict],
        chosen=state_dict,
        state_dicts=content.state_dicts,
        metadata=content.metadata,
        layers=content.layers,
    )


def _preferred(state_dicts: Mapping[str, Mapping[str, Array]]) -> str:
    if len(state_dicts) == 1:
        return next(iter(state_dicts))
    from refnet.checkpoints.state_dicts import preferred

    return preferred(state_dicts)


def _shortened(message: str) -> str:
    """`message` at a length that can be read: names out of a file may have any."""
    return message if len(message) <= 1000 else f"{message[:1000]} ..."


def _read(path: Path, inert: bool) -> tuple[Path, _Content, bytes]:
    head, size = _head(path)
    if head.startswith(ncnn.MAGIC):
        return _read_ncnn(path, ncnn.partner(path))
    parse = _parser(head, size, inert, path.parent)
    if parse is None:
        sibling = ncnn.partner(path)
        if path.suffix == ".bin" and sibling.is_file() and _head(sibling)[0].startswith(ncnn.MAGIC):
            return _read_ncnn(sibling, path)
        from refnet.checkpoints.foreign import recognised

        what = "it is empty, and so of no known format; its download may have been cut off"
        if head:
            what = recognised(head) or (
                f"its content ({size:,} bytes, starting {head[:8].hex(' ')}) is of no known format"
            )
        raise CheckpointError(f"{what}. Read are: {', '.join(FORMATS)}.")
    data = _bytes(path)
    return path, parse(data), data


def _head(path: Path) -> tuple[bytes, int]:
    """The first bytes of a regular file, and its size."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        return file.read(
            _HEAD
        ) if size else b"", size  # files of /proc are empty, and may make one wait


def _bytes(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. A pipe or a device is refused without waiting for it, and before it notices.

    Raises CheckpointError where it is none, is larger than any file of weights that refnet has a use for, or
    cannot be read.
    """
    try:
        _check_file(os.stat(path))
        handle = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
        with open(handle, "rb") as file:
            _check_file(os.fstat(handle))  # what was opened, should it have been exchanged
            yield file
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file") from error
    except OSError as error:
        raise CheckpointError(f"it cannot be opened ({error.strerror})") from error
    except ValueError as error:  # such as a NUL in its name
        raise CheckpointError(f"there is no such file ({error})") from error


def _check_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError("it is a folder; the path of a file of weights was expected")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("it is not a regular file")
    if status.st_size > _BYTES_AT_MOST:
        raise CheckpointError(
            f"it has {status.st_size:,} bytes; files of weights are read up to {_BYTES_AT_MOST:,}"
        )


def _parser(
    head: bytes, size: int, inert: bool, folder: Path
) -> Callable[[bytes], _Content] | None:
    """The function that parses files in `folder` that start with `head`."""
    # safetensors first: its first bytes are a length, and may be those of any other format.
    if safetensors_file.is_safetensors(head, size):
        return _parse_safetensors
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return lambda data: _parse_zip(data, inert)
    if head.startswith(b"\x80"):
        return lambda data: _parse_legacy(data, inert)
    if head.startswith(mxnet.MAGIC.to_bytes(8, "little")):
        return lambda data: _Content("mxnet", {"": mxnet.read_params(data)})
    if onnx_file.is_onnx(head):
        return lambda data: _parse_onnx(data, folder)
    return None


def _parse_legacy(data: bytes, inert: bool) -> _Content:
    from refnet.checkpoints import torch_file

    return _Content("torch legacy", torch_file.read_legacy(data, Allowance(len(data)), inert=inert))


def _parse_zip(data: bytes, inert: bool) -> _Content:
    from refnet.checkpoints import npz_file, torch_file, zip_archive

    allowance = Allowance(len(data))
    archive = zip_archive.Archive(data, allowance)
    if any(name.endswith("/data.pkl") for name in archive.names):
        return _Content("torch zip", torch_file.read_zip(archive, allowance, inert=inert))
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        return _Content("npz", {"": npz_file.read_npz(archive, allowance)})
    from refnet.checkpoints.foreign import archived

    raise CheckpointError(archived(archive.names))


def _parse_safetensors(data: bytes) -> _Content:
    tensors, metadata = safetensors_file.read_safetensors(data)
    return _Content("safetensors", {"": tensors}, metadata)


def _parse_onnx(data: bytes, folder: Path) -> _Content:
    tensors, layers, metadata = onnx_file.read_onnx(data, folder)
    return _Content("onnx", {"": tensors}, metadata, layers)


def _read_ncnn(param: Path, weights: Path) -> tuple[Path, _Content, bytes]:
    if not weights.is_file():
        raise CheckpointError(
            f"it is the list of layers of an ncnn network; its weights, {weights.name}, are not "
            f"beside it"
        )
    text, raw = _bytes(param), _bytes(weights)
    tensors, layers = ncnn.read_ncnn(text, raw)
    metadata = {"operators": ncnn.operators(text)}
    return weights, _Content("ncnn", {"": tensors}, metadata, layers), raw
