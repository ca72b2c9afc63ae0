"""Object files put into memory without LLVM: what is simple runs, everything else is refused."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.kernels import elf, host, machine_code
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

llvm: Any = pytest.importorskip("llvmlite.binding")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not llvm.get_process_triple().startswith("x86_64"),
    reason="elsewhere LLVM loads the code",
)

#: Constants in other sections, a table of jumps, a call inside of the file and one of the C library.
PROGRAM = """
declare i8* @memset(i8*, i32, i64)
@numbers = private constant [4 x i32] [i32 11, i32 22, i32 33, i32 44]

define internal i32 @chosen(i32 %i) nounwind noinline {
  switch i32 %i, label %other [
    i32 0, label %a
    i32 1, label %b
    i32 2, label %c
    i32 3, label %d
    i32 4, label %e ]
a: ret i32 907
b: ret i32 -15
c: ret i32 44003
d: ret i32 6
e: ret i32 71
other: ret i32 0
}

define i32 @entry(i32* %memory, i32 %i) nounwind {
  %bytes = bitcast i32* %memory to i8*
  %filled = call i8* @memset(i8* %bytes, i32 1, i64 12)
  %first = load i32, i32* %memory
  %wide = zext i32 %i to i64
  %place = getelementptr [4 x i32], [4 x i32]* @numbers, i64 0, i64 %wide
  %number = load i32, i32* %place
  %other = call i32 @chosen(i32 %i)
  %sum = add i32 %number, %other
  %all = add i32 %sum, %first
  ret i32 %all
}
"""


def assembled(program: str) -> bytes:
    machine = machine_code._target_machine()
    content: bytes = machine.emit_object(llvm.parse_assembly(program))
    return content


def test_code_constants_jumps_and_the_c_library_are_linked() -> None:
    address = elf.load(assembled(PROGRAM), "entry")
    assert address is not None
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)(address)
    memory = np.full(4, 7, np.int32)
    for i, expected in enumerate((11 + 907, 22 - 15, 33 + 44003, 44 + 6)):
        assert function(memory.ctypes.data, i) == expected + 0x01010101
    assert memory.tolist() == [0x01010101] * 3 + [7]


def test_what_is_unusual_is_left_to_llvm() -> None:
    state = PROGRAM.replace("private constant", "global")  # memory to write to
    unknown = PROGRAM.replace("@memset", "@no_library_has_this")
    for content in (assembled(state), assembled(unknown), b"", b"MZ\x90", b"\x7fELF" + bytes(99)):
        assert elf.load(content, "entry") is None
    assert elf.load(assembled(PROGRAM), "another") is None


def test_damaged_files_are_left_to_llvm_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cache file's hash finds damage first; this is for what some LLVM may write one day."""
    content, random = assembled(PROGRAM), np.random.default_rng(0)
    monkeypatch.setattr(elf, "_executable", lambda image: 0)
    for length in range(0, len(content), 31):
        assert elf.load(content[:length], "entry") in (None, *range(1 << 20))
    for _ in range(300):
        damaged = bytearray(content)
        for at in random.integers(20, len(content), 3):
            damaged[at] = random.integers(256)
        assert elf.load(bytes(damaged), "entry") in (None, *range(1 << 20))


def test_a_system_that_forbids_it_leaves_it_to_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    content = assembled(PROGRAM)
    monkeypatch.setattr("mmap.PROT_EXEC", 1 << 20)  # which no system grants
    assert elf.load(content, "entry") is None


def test_the_kernels_give_the_same_bits_by_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = refnet.build("pfld-ultralight", width=0.25)
    weights = random_weights(graph)
    x = checks.image((3, 112, 112))
    expected = refnet.Model(graph, weights, backend="compiled")(x)
    before = len(machine_code._engines)
    monkeypatch.setattr(elf, "load", lambda *_: None)
    monkeypatch.setattr(machine_code, "_loaded", [])
    np.testing.assert_array_equal(refnet.Model(graph, weights, backend="compiled")(x), expected)
    assert len(machine_code._engines) == before + 1


def test_the_system_tells_the_features_that_llvm_tells() -> None:
    told = llvm.get_host_cpu_features()
    for name in ("avx", "avx2", "fma", "avx512f", "avx512vl", "avx512bw"):
        assert (name in host.features()) == bool(told.get(name)), name


def test_without_the_system_llvm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name for name in host.features() if name.startswith("avx512")}
    identity = host.identity()
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "nothing")
    for cached in (host.features, host._cpuinfo):
        cached.cache_clear()
    try:
        assert host.cpu() in host.identity() != identity
        assert {"avx512f", "avx512vl"} & known == {"avx512f", "avx512vl"} & host.features()
    finally:
        for cached in (host.features, host._cpuinfo):
            cached.cache_clear()


def test_another_processor_has_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        host._cpuinfo.cache_clear()
        return host.identity()

    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    try:
        first = "vendor_id\t: A\nmodel\t\t: 2\ncpu MHz\t\t: 99.5\nflags\t\t: avx avx2\n\n"
        known = identity(first)
        assert identity(first.replace("99.5", "101.25")) == known
        assert identity(first + "flags : of the second processor\n") == known
        assert identity(first.replace("avx2", "avx2 avx512f")) != known
        assert identity(first.replace(": 2", ": 3")) != known
    finally:
        host._cpuinfo.cache_clear()
