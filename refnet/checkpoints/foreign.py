"""Recognises files that hold no weights, or none that refnet reads, so that an error can say what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(
    rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body|\?xml)", re.IGNORECASE | re.DOTALL
)
_COMPRESSED = "it is compressed ({}); unpack it first"
# What a file starts with, and what it then is.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", _COMPRESSED.format("gzip")),
    (b"BZh", _COMPRESSED.format("bzip2")),
    (b"\xfd7zXZ\0", _COMPRESSED.format("xz")),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd")),
    (b"7z\xbc\xaf\x27\x1c", _COMPRESSED.format("7-Zip")),
    (b"Rar!\x1a\x07", _COMPRESSED.format("RAR")),
    (
        b"\x93NUMPY",
        "it is a single NumPy array (.npy); the tensors of a network come with their names, in an .npz",
    ),
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, such as Keras writes, which is not read here"),
    (b"GGUF", "it is a GGUF file of a language model, which is not read here"),
    (b"\x89PNG\r\n", "it is a PNG image, not a file of weights"),
    (b"\xff\xd8\xff", "it is a JPEG image, not a file of weights"),
    (b"%PDF-", "it is a PDF document, not a file of weights"),
    (b"\x7fELF", "it is a program, not a file of weights"),
    (b"MZ", "it is a program, not a file of weights"),
)


def recognised(head: bytes) -> str:
    """What a file that starts with `head` is, as a clause; empty where that is not known."""
    if head.startswith(_LFS):
        return (
            "it is the pointer that Git LFS leaves in place of a file; `git lfs pull`, or a download of the file itself, "
            "brings the weights"
        )
    if _PAGE.match(head):
        return "it is a web page, not the file that a link on it leads to; download that one"
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head[4:8] == b"TFL3":
        return (
            "it is a TensorFlow Lite model, which is not read here; convert what it was made from"
        )
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it first"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is a JSON text, such as an index or a configuration, and holds no weights"
    if head.startswith((b"layer {", b"name:")):
        return "it is the text of a Caffe network, which is not read here"
    return ""


def archived(names: Sequence[str]) -> str:
    """What a zip archive with these members is, as a sentence, where it is neither PyTorch's nor NumPy's."""
    last = {name.rpartition("/")[2] for name in names}
    if "serialized_exported_program.json" in last or any(
        n.endswith("models/model.json") for n in names
    ):
        return "it is a program of torch.export. Save the state_dict() of the module with torch.save instead."
    if {"config.json", "model.weights.h5"} <= last:
        return "it is a Keras model, which is not read here."
    inner = [
        n
        for n in names
        if n.endswith((".pth", ".pt", ".tar", ".safetensors", ".onnx", ".params", ".npz"))
    ]
    if inner:
        return f"it is a zip archive around {inner[0][:80]!r}; unpack it and pass that file."
    return (
        "it is a zip archive, but neither PyTorch's (with a data.pkl) nor NumPy's (.npy members)."
    )
