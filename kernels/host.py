"""What this CPU is, asked of Linux where it says it: LLVM, which knows it everywhere, takes 25 ms to load."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: What decides which machine code a processor can run; the other lines change from one moment to the next.
_DECISIVE = ("vendor_id", "cpu family", "model", "stepping", "flags")

_V2 = {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
#: The levels of x86-64 that kernels are compiled for before they are installed, under the names that LLVM knows them
#: by: the lanes of a vector, and Linux's words for the instruction sets that a processor of this level has.
#: Source: System V ABI, AMD64 supplement, section 3.1.1, "Processor Architecture".
LEVELS: Mapping[str, tuple[int, frozenset[str]]] = {
    "x86-64-v3": (8, frozenset(_V3)),
    "x86-64-v4": (16, frozenset(_V4)),
}


def level(lanes: int) -> str | None:
    """The level of LEVELS with so many lanes, if Linux runs here, in 64 bits, on a processor that has it."""
    if (
        sys.platform != "linux"
        or platform.machine().lower() not in ("x86_64", "amd64")
        or sys.maxsize < 1 << 32
    ):
        return None
    flags = set(_cpuinfo().get("flags", "").split())
    fitting = (name for name, (own, needed) in LEVELS.items() if own == lanes and needed <= flags)
    return next(fitting, None)


def cpu() -> str:
    """What Linux calls this CPU, such as "AMD EPYC 9B14", elsewhere LLVM, such as "apple-m2"."""
    if name := _cpuinfo().get("model name"):
        return name
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name())


@cache
def features() -> frozenset[str]:
    """The instruction sets of this CPU, such as "avx2"; the system can save the registers of each."""
    if "flags" in _cpuinfo():
        return frozenset(_cpuinfo()["flags"].split())
    import llvmlite.binding as llvm

    return frozenset(name for name, here in llvm.get_host_cpu_features().items() if here)


def identity() -> str:
    """A text that differs between CPUs for which LLVM would make different code."""
    if "flags" in _cpuinfo():
        return "\n".join(_cpuinfo().get(key, "") for key in _DECISIVE)
    import llvmlite.binding as llvm

    # Elsewhere LLVM is asked, slowly: what it makes code for is a CPU's name and features.
    names = llvm.get_process_triple(), llvm.get_host_cpu_name()
    return "\n".join((*names, llvm.get_host_cpu_features().flatten()))


@cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first x86 processor; empty elsewhere."""
    found: dict[str, str] = {}
    try:
        with _CPUINFO.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                key, colon, value = line.partition(":")
                # An empty line ends the first processor's description. All others are taken to be of its kind.
                if not colon:
                    break
                found[key.strip()] = value.strip()
    except OSError:
        return {}
    return found
