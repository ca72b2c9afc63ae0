"""Make the files that fuzzing starts from: small, of every format, all made by refnet and this script.

    python -m tests.fuzz.corpus

Those that fuzzing found (`found-*`) stay as they are.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import refnet
from refnet.checkpoints import save
from refnet.exchange.onnx_export import to_onnx
from refnet.random_weights import random_weights
from tests import checkpoint_files as files
from tests.fuzz.targets import CORPUS, NCNN_CUT

#: The smallest networks there are: one by names, one by the order of its layers.
DETECTOR: dict[str, Any] = {"width": 1 / 32}
LANDMARKS: dict[str, Any] = {"width": 1 / 16, "form": "inference", "landmarks": 2}


def contents() -> Iterator[tuple[str, str, bytes]]:
    """(target, name, content) of every file."""
    graph = refnet.build("lffd-plate-small", **DETECTOR)
    weights = {name: np.round(w, 2) for name, w in random_weights(graph).items()}
    points = refnet.build("pfld", **LANDMARKS)
    few = files.some_arrays()

    yield "checkpoint", "zip.pth", dated(files.zip_of(weights))
    yield "checkpoint", "legacy.pth", files.legacy_of(weights)
    yield "checkpoint", "wrapped.pth", dated(_wrapped(few))
    yield "checkpoint", "arrays.npz", _npz(weights)
    yield "checkpoint", "compressed.npz", _npz(few, zipfile.ZIP_DEFLATED)
    for version in (0, 1, 2):
        yield (
            "checkpoint",
            f"v{version}.params",
            files.mxnet_of(weights if version == 2 else few, version),
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        save(path, graph.name, graph.options, weights, date=None)
        saved = path.read_bytes()
    length = int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8 : 8 + length])
    header["__metadata__"] |= {"refnet": "0.1.0", "date": "2025-01-01"}
    text = json.dumps(header, separators=(",", ":")).encode()
    yield (
        "checkpoint",
        "saved.safetensors",
        struct.pack("<Q", len(text)) + text + saved[8 + length :],
    )
    yield "safetensors", "saved", text
    yield (
        "safetensors",
        "small",
        b'{"a.weight":{"dtype":"F32","shape":[600],"data_offsets":[0,2400]}}',
    )

    yield "pickle", "state_dict", files.program(files.state_dict(_sized(few)))
    yield "pickle", "wrapped", files.program(_training(_sized(few)))
    module = (
        files.glob("their_code.Net")
        + b")\x81"
        + files.mapping(
            {"_parameters": files.state_dict(_sized(few)), "_modules": b"}", "_buffers": b"}"}
        )
    )
    yield "pickle", "module", files.program(module + b"b")

    for name, array in (
        ("matrix", np.eye(3, dtype=np.float32)),
        ("half", np.zeros((2, 2), ">f2", order="F")),
    ):
        yield "npy", name, _npy(array)

    kernel, bias = np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32)
    for name, tag in (("single", 0), ("half", 0x01306B47)):
        param, raw = files.ncnn_of({"conv1": (kernel, bias), "conv2": (kernel[:, :2], bias)}, tag)
        yield "ncnn", name, param + NCNN_CUT + raw

    for target in ("onnx-weights", "onnx-network"):
        yield target, "detector", to_onnx(graph, weights)
        rounded = {name: np.round(w, 2) for name, w in random_weights(points).items()}
        yield target, "landmarks", to_onnx(points, rounded)


def dated(archive: bytes) -> bytes:
    """A zip archive with one date for all members, so that the same content has the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(buffer, "w") as made:
        for member in given.infolist():
            made.writestr(
                zipfile.ZipInfo(member.filename), given.read(member), member.compress_type
            )
    return buffer.getvalue()


def _npy(array: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(arrays: Mapping[str, files.Array], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(array), compression)
    return buffer.getvalue()


def _sized(arrays: Mapping[str, files.Array]) -> dict[str, files.Array]:
    """Arrays of 16 numbers, as the target has bytes for."""
    return {name: np.resize(array, 16).reshape(4, 4) for name, array in arrays.items()}


def _training(arrays: Mapping[str, files.Array]) -> bytes:
    """The object that a training script saves: a state dict among other values."""
    return files.mapping(
        {
            "epoch": files.integer(3),
            "state_dict": files.state_dict(arrays),
            "args": files.mapping(
                {"lr": b"G" + struct.pack(">d", 0.1), "name": files.text("pfld")}
            ),
        }
    )


def _wrapped(arrays: Mapping[str, files.Array]) -> bytes:
    raw = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    return files.torch_zip(_training(arrays), raw)


def main() -> None:
    """Write the corpus."""
    for target, name, content in contents():
        path = CORPUS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"{path.relative_to(CORPUS.parent)}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
