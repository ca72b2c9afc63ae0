"""What this CPU is, asked of Linux where it says it: LLVM, which knows it everywhere, takes 25 ms to load."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: What decides which machine code a processor can run; the other lines change from one moment to the next.
_DECISIVE = ("vendor_id", "cpu family", "model", "stepping", "flags")


def cpu() -> str:
    """LLVM's name of this CPU, such as "znver4"."""
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
