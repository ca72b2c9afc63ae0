"""Compile all kernels once, keep the machine code, and run it in processes that never import Numba.

`entry()` returns the one compiled function, `executor.enter`, as a C function: from this process, else as it came with
the installation, else from the cache, else compiled now (some seconds) and stored. The cache is a file per key; the key
hashes every source file that machine code is made from, the versions of Numba and llvmlite, the CPU's model and features
and the lane count, so that a file made for something else is never found. The file carries a hash of its own content and
is not run unless that agrees, which is against damage; nor is it run where another user can have written it
(`trust.py`). It is written under a temporary name and then renamed, so that several processes may start at once. A
process that finds its file imports neither Numba nor, on Linux with x86-64, LLVM (`elf.py`).

What comes with the installation (`prebuild`, called where the package is built) are files of the same form for the two
common levels of x86-64. LLVM is given the level's name in place of a processor's, and no features: code that was made on
one machine then has no instruction that another of its level lacks. An object file has no addresses but relative ones,
and of the C library only `memset`, so that nothing else of the machine or its Python is in it. The result has the same
bits as code for this very CPU: no instruction is chosen that rounds otherwise. `REFNET_PREBUILT=off` leaves them unused.

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
from functools import partial
from pathlib import Path
from typing import Any

from refnet.files import write_file
from refnet.waiting import long_wait

from . import elf, host, trust
from .simd import KERNELS, LANES

try:  # hashlib's own, without OpenSSL, whose import would cost a warm start 4 ms
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

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
    """64 bits of BLAKE2b in hex, the same in every Python, since one wheel serves all. Against damage, not tampering."""
    return blake2b(content, digest_size=8).hexdigest()


def compile_kernels(level: str | None = None) -> MachineCode:
    """Compile `executor.enter` and everything it calls. Takes seconds; imports Numba.

    Args:
        level: of `host.LEVELS`, for whose processors the code is; by default it is for this one alone.
    """
    import llvmlite.binding as llvm
    from numba import cfunc, types
    from numba.extending import register_jitable

    from . import executor, simd_llvm

    # All of LEVELS have it. Where a processor's features do not name SSE, it is none of x86, and has it too.
    features = llvm.get_host_cpu_features()
    simd_llvm.fused = (
        level is not None
        or features.get("fma", False)
        or not any(name.startswith("sse") for name in features)
    )
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
    machine = _target_machine(level)
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


def _target_machine(level: str | None = None) -> Any:
    """LLVM's description of a processor of `level`, without anything that only this host has; of this host for None."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=level or llvm.get_host_cpu_name(),
        features="" if level else llvm.get_host_cpu_features().flatten(),
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

    # LLVM's own memory manager may put code and its constants further apart than 32 bits reach, and then aborts;
    # llvmlite's asks for all of it at once.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(), use_lmm=True)
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
    variable, below_home, name = _CACHES.get(sys.platform, ("XDG_CACHE_HOME", ".cache", "refnet"))
    base = os.environ.get(variable, "").strip()
    if os.path.isabs(base):  # by the standard, a relative path is to be ignored
        return Path(base) / name
    try:
        return Path.home() / below_home / name
    except RuntimeError:  # neither HOME nor an entry in the list of users, as in containers
        return None


#: Where caches are, elsewhere than by the XDG standard: a variable, else a folder of the home folder; and ours in it.
_CACHES = {
    "win32": ("LOCALAPPDATA", "AppData/Local", "refnet/Cache"),
    "darwin": ("", "Library/Caches", "refnet"),
}


def source_files() -> list[Path]:
    """The files that decide what the machine code does: those with kernels, the constants that are compiled into them,
    and how they are compiled. What any of them imports from this folder is among them, except `host`, `elf` and `trust`,
    which only say where the code runs."""
    from . import executor  # imports every file with kernels

    here = Path(executor.__file__)
    modules = {"simd", "simd_llvm", "instructions", "machine_code"}
    modules |= {f.__module__.rpartition(".")[2] for f in KERNELS}
    return sorted(path for name in modules if (path := here.with_name(f"{name}.py")).exists())


def _sources() -> list[bytes]:
    return [part for path in source_files() for part in (path.name.encode(), path.read_bytes())]


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
    # Another compiler, another CPU or another lane count makes other code from the same sources.
    parts = [_version("llvmlite"), _version("numba"), host.identity().encode(), b"%d" % LANES]
    return _hash(b"\0".join(_sources() + parts))


def prebuilt_file() -> Path | None:
    """The file beside this one that has this host's machine code where the package was built with it, whether it exists
    or not; None on a host for which none is built, and where REFNET_PREBUILT is off.

    Its name has a hash of the sources, so that code of others is not found. Which compiler made it does not matter: the
    user need not have any.
    """
    level = None if os.environ.get("REFNET_PREBUILT", "").lower() == "off" else host.level(LANES)
    return None if level is None else _built(Path(__file__).parent, level)


def _built(folder: Path, level: str) -> Path:
    return folder / f"{level}-{_hash(bytes(1).join(_sources()))}.bin"


def prebuilt() -> MachineCode | None:
    """The machine code that came with the installation; None where there is none for this host and these sources. A
    warning names a file that others can have written than may write the sources."""
    path = prebuilt_file()
    return (
        None
        if path is None
        else _content(path, partial(trust.read_installed, path, Path(__file__)))
    )


def prebuild(folder: Path) -> Path:
    """Compile the kernels for the level of LANES, into a file of `folder` that any processor of this level can run.

    It takes a process of its own, whose REFNET_LANES says for which level, and in which Numba has not been imported.
    """
    (level,) = (name for name, (lanes, _) in host.LEVELS.items() if lanes == LANES)
    # Numba's own passes, which come before LLVM's, are not to know this host either.
    os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = level, ""
    path = _built(folder, level)
    write_file(path, [compile_kernels(level).to_bytes()])
    return path


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
    return _content(path, partial(trust.read, path))


def _content(path: Path, read: Callable[[], bytes]) -> MachineCode | None:
    try:
        return MachineCode.from_bytes(read())
    except trust.UntrustedError as error:
        warnings.warn(
            f"refnet does not run the compiled kernels in {path.parent}, since {error}; it looks for others, and "
            "compiles them where there are none.",
            RuntimeWarning,
            stacklevel=3,
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
    """Load the kernels, compiling them if there is no machine code for them yet; says what it did.

    Raises:
        ImportError: they would have to be compiled and Numba is not installed.
    """
    global _source
    with _lock:
        if _loaded:
            return f"the kernels are loaded already ({_source})"
        if (code := prebuilt()) is not None:
            load(code)
            _source = f"{prebuilt_file()}, built with this installation"
            return f"loaded the compiled kernels from {_source}"
        path, place = _place()
        code = None if path is None else read(path)
        if code is not None:
            load(code)
            _source = place
            return f"loaded the compiled kernels from {place}"
        return _compile(path, place)


def described() -> str:
    """Which machine code runs here, or will, and where it is."""
    if _loaded:
        return _source
    file, (path, place) = prebuilt_file(), _place()
    if file is not None and file.exists():
        return f"{file}, built with this installation"
    if path is None:
        return f"to be compiled in every process: {place}"
    return place if path.exists() else f"{place}, not compiled yet"


def _compile(path: Path | None, place: str) -> str:
    """Compile and load the kernels, and keep them in `path`; a sentence about it."""
    global _source
    if importlib.util.find_spec("numba") is None:
        raise ImportError("no compiled kernels for this CPU came with refnet; pip install numba")
    started = time.perf_counter()
    with long_wait("compiling the kernels for this CPU", "once, about 20 s"):
        code = compile_kernels()
    kept = path is not None and write(path, code)
    # Who has turned the cache off knows that nothing is kept.
    if path is None and os.environ.get("REFNET_CACHE", "").lower() != "off":
        _not_kept("", place)
    load(code)
    _source = place if kept else "in memory only" if path else f"in memory only, {place}"
    done = f"compiled the kernels for {LANES} lanes in {time.perf_counter() - started:.1f} s"
    return f"{done} and stored them as {place}" if kept else f"{done}; they are kept in memory only"


_registered = 0
_lock = threading.Lock()
_loaded: list[Entry] = []
_source = ""
_engines: list[tuple[Any, Any]] = []
