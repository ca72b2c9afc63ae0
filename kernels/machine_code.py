"""Compile all kernels once, keep the machine code, and run it in processes that never import Numba.

`entry()` returns the one compiled function, `executor.enter`, as a C function: from this process, else from the
cache, else compiled now (some seconds) and stored. The cache is a file per key; the key hashes every source file that
machine code is made from, the versions of Numba and llvmlite, the CPU's model and features and the lane count, so that a
file made for something else is never found. The file carries a hash of its own content and is not run unless that agrees,
which is against damage; nor is it run where another user can have written it (`trust.py`). It is written under a
temporary name and then renamed, so that several processes may start at once. A process that finds its file imports
neither Numba nor, on Linux with x86-64, LLVM (`elf.py`).

Where the cache cannot be written (read-only home, full disk) or trusted, the code stays in memory and one warning says so.
`REFNET_CACHE` names another folder; `REFNET_CACHE=off` keeps nothing. Nothing else in refnet calls Numba.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refnet.files import write_file

from . import elf, host, trust
from .simd import KERNELS, LANES

Entry = Callable[..., int]

# The number changes with the layout of this file; what its code depends on is in the key.
MAGIC = b"refnet kernels 2\n"
#: Kernels that become part of their callers whatever LLVM estimates: their argument is a whole register tile, which a
#: call would send through memory.
INLINED = ("finish_tile",)
_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
#: enter(call, image, images, output) -> int
_PROTOTYPE = ctypes.CFUNCTYPE(_INTEGER, _POINTER, _POINTER, _INTEGER, _POINTER)


class Call(ctypes.Structure):
    """The arguments of `executor.execute` that come before the images, in its order; addresses as integers."""

    _fields_ = (
        *(("program", _INTEGER), ("first", _INTEGER), ("last", _INTEGER)),
        *(("weights", _INTEGER), ("arena", _INTEGER)),
        *(("image_size", _INTEGER), ("output_size", _INTEGER), ("check", _INTEGER)),
    )


@dataclass(frozen=True)
class MachineCode:
    """An object file, and the names that loading it needs.

    Attributes:
        name: symbol of the entry.
        undefined: symbols of Numba's error helpers; code that cannot raise never calls them.
        content: the object file.
    """

    name: str
    undefined: tuple[str, ...]
    content: bytes

    def to_bytes(self) -> bytes:
        """The cache file: magic, hash of the rest, a line of names, the object file."""
        header = "\t".join((self.name, *self.undefined)).encode() + b"\n"
        body = header + self.content
        return MAGIC + _hash(body).encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, data: bytes) -> MachineCode | None:
        """The inverse; None where the file is foreign, truncated or damaged."""
        body = data[len(MAGIC) + 17 :]
        if not body or not data.startswith(MAGIC + _hash(body).encode() + b"\n"):
            return None
        header, _, content = body.partition(b"\n")
        name, *undefined = header.decode().split("\t")
        return cls(name, tuple(undefined), content)


def _hash(content: bytes) -> str:
    """64-bit SipHash in hex, as in .pyc files: detects damage, not tampering. Importing hashlib would cost a warm start
    4 ms."""
    return importlib.util.source_hash(content).hex()


def compile_kernels() -> MachineCode:
    """Compile `executor.enter` and everything it calls for this host. Takes seconds; imports Numba."""
    import llvmlite.binding as llvm
    from numba import cfunc, types
    from numba.extending import register_jitable

    from . import executor, simd_llvm

    # NumPy's error model: a division must not become a branch that raises, since nothing could catch it. Nor do kernels
    # need wrappers, or rewrites of array expressions.
    _register(register_jitable(error_model="numpy", no_cfunc_wrapper=True, no_rewrites=True))
    integer, pointer, integers = types.int64, simd_llvm.pointer, simd_llvm.integers
    # One entry point: the rest is inlined or linked into it, and one symbol is all that a cached file must name.
    signature = integer(integers, pointer, integer, pointer)
    # Numba translates to LLVM; from there on, LLVM is called directly.
    with _deferred_optimization():
        compiled: Any = cfunc(signature, error_model="numpy")(executor.enter)
    module = llvm.parse_assembly(compiled._library.get_llvm_str())
    machine = _target_machine()
    _optimize(module, compiled.native_name, machine)
    undefined = tuple(
        function.name
        for function in module.functions
        if function.is_declaration and function.name.startswith(("numba_", "NRT_"))
    )
    return MachineCode(compiled.native_name, undefined, machine.emit_object(module))


@contextlib.contextmanager
def _deferred_optimization() -> Iterator[None]:
    """Numba optimises and assembles every function together with all that it calls, again at every level of calls;
    five times faster is to link all of them first and to do both once. What is not there to be deferred, in another
    version of Numba, is done as ever."""
    from numba.core import codegen

    def link(library: Any, _name: str) -> int:
        library._ensure_finalized()
        return 0  # there is no machine code yet, hence no address

    def nothing(*_: Any) -> None:
        return None

    deferred: dict[tuple[type, str], Callable[..., Any]] = {
        (codegen.CPUCodeLibrary, "_optimize_final_module"): nothing,
        (codegen.JITCodeLibrary, "_finalize_specific"): nothing,
        (codegen.JITCPUCodegen, "_add_module"): nothing,
        (codegen.JITCPUCodegen, "set_env"): nothing,
        (codegen.JITCodeLibrary, "get_pointer_to_function"): link,
    }
    originals = {at: vars(at[0])[at[1]] for at in deferred if at[1] in vars(at[0])}
    if len(originals) < len(deferred):
        yield
        return
    for (owner, name), replacement in deferred.items():
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


def _optimize(module: Any, name: str, machine: Any) -> None:
    """LLVM's O3 over the linked module, of which only the entry is visible from outside."""
    import llvmlite.binding as llvm

    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = "internal"
            if any(inlined in function.name for inlined in INLINED):
                function.add_function_attribute("alwaysinline")
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    # Kernels are vectors already. Only loops over single floats, such as those of `reorder.py`, are left to vectorise.
    options.loop_vectorization, options.slp_vectorization = True, False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def _register(register: Callable[[Callable[..., Any]], object]) -> None:
    """Make every kernel known to Numba, once a process."""
    global _registered
    while _registered < len(KERNELS):
        register(KERNELS[_registered])
        _registered += 1


def _target_machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        # Position-independent code holds no absolute addresses: all that `elf.py` must resolve is relative.
        reloc="pic",
        codemodel="default",
    )


def load(code: MachineCode) -> Entry:
    """Link an object file into this process and return its entry; Numba is not needed."""
    address = elf.load(code.content, code.name)
    function: Entry = _PROTOTYPE(_load_by_llvm(code) if address is None else address)
    # Never unloaded: any thread may be running it.
    _loaded.append(function)
    return function


def _load_by_llvm(code: MachineCode) -> int:
    """The address of the entry."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    stub = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
    # Never called, but LLVM does not link a module with a symbol that is nowhere.
    for symbol in code.undefined:
        llvm.add_symbol(symbol, ctypes.cast(stub, ctypes.c_void_p).value)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.content))
    engine.finalize_object()
    address: int = engine.get_function_address(code.name)
    if not address:
        raise RuntimeError(f"the compiled kernels have no symbol {code.name!r}")
    _engines.append((engine, stub))  # the code lives as long as its engine
    return address


def cache_folder() -> Path | None:
    """Where machine code is kept: REFNET_CACHE, else the user's cache folder; None where it says "off", and where the user
    has no home folder."""
    chosen = os.environ.get("REFNET_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen)
    if sys.platform == "linux":  # what platformdirs says too, but that takes 8 ms to import
        base = os.environ.get("XDG_CACHE_HOME", "").strip()
        if os.path.isabs(base):  # by the standard, a relative path is to be ignored
            return Path(base) / "refnet"
        try:
            return Path("~/.cache").expanduser() / "refnet"
        except RuntimeError:  # neither HOME nor an entry in the list of users, as in containers
            return None
    import platformdirs

    return Path(platformdirs.user_cache_dir("refnet", appauthor=False))


def source_files() -> list[Path]:
    """The files that decide what the machine code does: those with kernels, the constants that are compiled into them,
    and how they are compiled. What any of them imports from this folder is among them, except `host` and `elf`, which
    only say where the code runs."""
    from . import executor  # imports every file with kernels

    here = Path(executor.__file__)
    modules = {"simd", "simd_llvm", "instructions", "machine_code"}
    modules |= {f.__module__.rpartition(".")[2] for f in KERNELS}
    return sorted(path for name in modules if (path := here.with_name(f"{name}.py")).exists())


def _version(package: str) -> bytes:
    """A package's own version file, which is read in a fraction of the time that importing it or asking
    importlib.metadata takes; empty without the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return b""
    file = Path(spec.origin).with_name("_version.py")
    return file.read_bytes() if file.exists() else str(Path(spec.origin).stat().st_mtime).encode()


def cache_key() -> str:
    """A hash of everything that the machine code depends on."""
    parts = [part for path in source_files() for part in (path.name.encode(), path.read_bytes())]
    # Another compiler, another CPU or another lane count makes other code from the same sources.
    parts += [_version("llvmlite"), _version("numba"), host.identity().encode(), b"%d" % LANES]
    return _hash(b"\0".join(parts))


def cache_file() -> Path | None:
    """The file that this host's machine code is kept in, whether it exists or not; None without a cache, or without one
    that can be trusted."""
    folder = cache_folder()
    if folder is None or trust.objection(folder):
        return None
    return folder / f"kernels-{cache_key()}.bin"


def read(path: Path) -> MachineCode | None:
    """The machine code in a cache file, or None where there is none that may be run; a warning names a file that others
    can have written."""
    try:
        return MachineCode.from_bytes(trust.read(path))
    except trust.UntrustedError as error:
        warnings.warn(
            f"refnet does not run the compiled kernels in its cache, since {error}; they are compiled anew.",
            RuntimeWarning,
            stacklevel=2,
        )
    except OSError:
        pass
    return None


def _not_kept(where: str, reason: object) -> None:
    warnings.warn(
        f"refnet cannot keep its compiled kernels{where} ({reason}); they stay in memory and are compiled again in "
        'the next process. Set REFNET_CACHE to a folder of your own that can be written, or to "off" to accept this.',
        RuntimeWarning,
        stacklevel=3,
    )


def write(path: Path, code: MachineCode) -> bool:
    """Store machine code, whole or not at all; False, with a warning, where that is impossible."""
    try:
        trust.make_folder(path.parent)
        # A file that others may write to would not be run.
        write_file(path, [code.to_bytes()], mode=0o600)
    except OSError as error:
        _not_kept(f" in {path.parent}", error)
        return False
    return True


def entry() -> Entry:
    """The compiled `executor.enter` as a C function that releases the GIL while it runs.

    Raises:
        ImportError: nothing is cached and Numba is not installed.
    """
    if not _loaded:
        warmup()
    return _loaded[0]


def _place() -> tuple[Path | None, str]:
    """The cache file, and where it is in words; None, and why there is none."""
    folder = cache_folder()
    if folder is None:
        off = os.environ.get("REFNET_CACHE", "").lower() == "off"
        return None, "REFNET_CACHE is off" if off else "this user has no home folder"
    path = cache_file()
    return path, trust.objection(folder) if path is None else str(path)


def warmup() -> str:
    """Load the kernels, compiling them if there is no machine code for them yet; says what it did."""
    with _lock:
        path, place = _place()
        if _loaded:
            where = f"in memory only, {place}" if path is None else place
            return f"the kernels are loaded already ({where})"
        code = None if path is None else read(path)
        if code is not None:
            load(code)
            return f"loaded the compiled kernels from {place}"
        started = time.perf_counter()
        if sys.stderr is not None and sys.stderr.isatty():
            print("refnet: compiling kernels once ...", file=sys.stderr, flush=True)
        code = compile_kernels()
        kept = path is not None and write(path, code)
        # Who has turned the cache off knows that nothing is kept.
        if path is None and os.environ.get("REFNET_CACHE", "").lower() != "off":
            _not_kept("", place)
        load(code)
        seconds = time.perf_counter() - started
        done = f"compiled the kernels for {LANES} lanes in {seconds:.1f} s"
        return (
            f"{done} and stored them as {place}"
            if kept
            else f"{done}; they are kept in memory only"
        )


_registered = 0
_lock = threading.Lock()
_loaded: list[Entry] = []
_engines: list[tuple[Any, Any]] = []
