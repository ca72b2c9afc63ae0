"""Put an object file into memory without LLVM, which takes longer to load than all else of a warm start.

What LLVM makes of our kernels for Linux on x86-64 is simple: sections of code and constants, whose references to each
other are all of one formula. Whatever is not so, `load` leaves to LLVM.

Source: System V ABI, chapter 4, "Object files"; its AMD64 supplement, section 4.4, "Relocation".
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.void]

_HEADER = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian
_KIND = b"\x01\x00\x3e\x00"  # relocatable, x86-64
_SECTION = np.dtype(
    {
        "names": ["type", "flags", "offset", "size", "link", "info", "alignment"],
        "formats": ["<u4", "<u8", "<u8", "<u8", "<u4", "<u4", "<u8"],
        "offsets": [4, 8, 24, 32, 40, 44, 48],
        "itemsize": 64,
    }
)
_SYMBOL = np.dtype(
    {
        "names": ["name", "section", "value"],
        "formats": ["<u4", "<u2", "<u8"],
        "offsets": [0, 6, 8],
        "itemsize": 24,
    }
)
_RELOCATION = np.dtype([("offset", "<i8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_PROGRAM, _SYMBOLS, _RELOCATIONS = 1, 2, 4  # types of sections
_WRITE, _ALLOCATE = 1, 2  # flags of sections
_RELATIVE = (2, 4)  # PC32 and PLT32: symbol + addend - place, in 32 bits
_JUMP = b"\xff\x25\x00\x00\x00\x00"  # to the address in the eight bytes after it


def load(content: bytes, entry: str) -> int | None:
    """The address of the function `entry` of an object file, ready to run; None where that is LLVM's work.

    It stays in memory until the process ends, since a thread may still run it when Python is gone.

    Args:
        content: an object file just as LLVM made it: its offsets are trusted.
    """
    if sys.platform != "linux" or content[:7] != _HEADER or content[16:20] != _KIND:
        return None
    try:
        linked = _link(content, entry)
    except (IndexError, ValueError):  # a table that is missing, or reaches outside of the file
        return None
    start = None if linked is None else _executable(linked[0])
    return None if linked is None or start is None else start + linked[1]


def _executable(image: bytes) -> int | None:
    """The address of a copy that may be executed and no longer written; None where the system forbids it."""
    library = ctypes.CDLL(None)
    library.mmap.restype = address = ctypes.c_void_p
    size = ctypes.c_size_t(len(image))
    writable, executable = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start: int = library.mmap(None, size, writable, flags, -1, ctypes.c_long(0))
    if start == address(-1).value:
        return None
    ctypes.memmove(start, image, len(image))
    return start if library.mprotect(address(start), size, executable) == 0 else None


def _link(content: bytes, entry: str) -> tuple[bytes, int] | None:
    """(image, where in it the entry is); None where the file holds something unusual."""
    start = int.from_bytes(content[40:48], "little")
    sections = np.frombuffer(content, _SECTION, int.from_bytes(content[60:62], "little"), start)
    placed = _placed(content, sections)
    if placed is None:
        return None
    image, places = placed
    where, names = _resolved(content, sections, image, places)
    if not 0 <= names.get(entry, -1) < len(image):
        return None
    bytewise = np.frombuffer(image, np.uint8)
    for section in sections[sections["type"] == _RELOCATIONS]:
        if (place := places.get(int(section["info"]))) is None:
            continue  # of a section that is not loaded
        entries = np.frombuffer(_bytes(content, section), _RELOCATION)
        targets = where[entries["symbol"]]
        if (targets < 0).any() or not np.isin(entries["type"], _RELATIVE).all():
            return None
        at = place + entries["offset"]
        if (at < 0).any() or (at > len(image) - 4).any():
            return None
        values = (targets + entries["addend"] - at).astype("<i4")
        bytewise[at[:, None] + np.arange(4)] = values.view(np.uint8).reshape(-1, 4)
    return bytes(image), names[entry]


def _bytes(content: bytes, section: np.void) -> bytes:
    return content[int(section["offset"]) : int(section["offset"]) + int(section["size"])]


def _placed(content: bytes, sections: Table) -> tuple[bytearray, dict[int, int]] | None:
    """The sections that are loaded, in a row, and where each of them begins."""
    image, places = bytearray(), {}
    for number, section in enumerate(sections):
        if not section["flags"] & _ALLOCATE or not section["size"]:
            continue
        alignment = max(1, int(section["alignment"]))  # 0 says the same as 1
        if section["type"] != _PROGRAM or section["flags"] & _WRITE or alignment > mmap.PAGESIZE:
            return None
        image += bytes(-len(image) % alignment)
        places[number] = len(image)
        image += _bytes(content, section)
    return image, places


def _resolved(
    content: bytes, sections: Table, image: bytearray, places: Mapping[int, int]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Where every symbol is in the image, -1 for nowhere, by number and by name.

    Those of the C library, such as memset, may be too far away for 32 bits: each gets a jump after the sections.
    """
    table = sections[sections["type"] == _SYMBOLS][0]
    text = _bytes(content, sections[int(table["link"])])
    symbols = np.frombuffer(_bytes(content, table), _SYMBOL)
    where, names = np.full(len(symbols), -1), {}
    library = ctypes.CDLL(None)
    for number, (name_at, section, value) in enumerate(symbols.tolist()):
        name = text[name_at : text.index(b"\0", name_at)].decode()
        if section in places:
            where[number] = names[name] = places[section] + value
        elif name and not section and hasattr(library, name):
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            where[number] = len(image)
            image += _JUMP + address.to_bytes(8, "little")
    return where, names
