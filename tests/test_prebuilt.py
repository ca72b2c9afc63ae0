"""Machine code that comes with the installation: for which processors, and when it may be run."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refnet.kernels import host, machine_code, simd, trust

CODE = machine_code.MachineCode("entry", (), b"\x7fELF not really\n" + bytes(range(256)))
V3 = [
    "cx16",
    "lahf_lm",
    "pni",
    "popcnt",
    "sse4_1",
    "sse4_2",
    "ssse3",
    "abm",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "movbe",
    "xsave",
]
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def tell(words: list[str]) -> None:
        monkeypatch.setattr(host, "_cpuinfo", lambda: {"flags": " ".join([*words, "vnni"])})

    return tell


def test_a_level_is_all_of_its_instruction_sets(flags: Callable[[list[str]], None]) -> None:
    """Code for a level may use each of them, so that one which is missing rules it out."""
    flags(V4)
    assert (host.level(8), host.level(16), host.level(4)) == ("x86-64-v3", "x86-64-v4", None)
    flags(V3)
    assert (host.level(8), host.level(16)) == ("x86-64-v3", None)
    for missing in V4:
        flags([flag for flag in V4 if flag != missing])
        assert host.level(16) is None
        assert host.level(8) == (None if missing in V3 else "x86-64-v3")


def test_other_systems_and_processors_have_no_level(
    flags: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags(V4)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert host.level(8) is None
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)  # Python in 32 bits
    assert host.level(8) is None
    monkeypatch.setattr(sys, "maxsize", 2**63 - 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.level(8) is None


def test_llvm_knows_the_levels_and_takes_nothing_from_this_host() -> None:
    llvm = pytest.importorskip("llvmlite.binding")
    if not llvm.get_process_triple().startswith("x86_64"):
        pytest.skip("LLVM makes code for another family of processors")
    program = (
        "define void @f(<16 x float>* %x) {\n"
        "  %a = load <16 x float>, <16 x float>* %x, align 4\n"
        "  %b = fmul <16 x float> %a, %a\n"
        "  store <16 x float> %b, <16 x float>* %x, align 4\n  ret void\n}\n"
    )
    made = {
        level: machine_code._target_machine(level).emit_assembly(llvm.parse_assembly(program))
        for level in host.LEVELS
    }
    assert "%zmm" in made["x86-64-v4"] and "%zmm" not in made["x86-64-v3"]
    assert "%ymm" in made["x86-64-v3"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the installation with sound code for this host, beside a copy of the module's source."""
    source = tmp_path / "package" / "machine_code.py"
    source.parent.mkdir()
    source.write_text("")
    source.chmod(0o644)
    file = source.with_name("level-key.bin")
    file.write_bytes(CODE.to_bytes())
    file.chmod(0o644)
    monkeypatch.setattr(machine_code, "prebuilt_file", lambda: file)
    monkeypatch.setattr(machine_code, "__file__", str(source))
    yield file


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """What is loaded, in a process that has loaded nothing yet and compiles `other`."""
    contents: list[bytes] = []
    other = machine_code.MachineCode("entry", (), b"compiled here")
    monkeypatch.setattr(machine_code, "_loaded", [])
    monkeypatch.setattr(machine_code, "load", lambda code: contents.append(code.content))
    monkeypatch.setattr(machine_code, "compile_kernels", lambda: other)
    monkeypatch.setenv("REFNET_CACHE", str(tmp_path / "cache"))
    return contents


def test_it_comes_before_the_cache(installed: Path, starts: list[bytes], tmp_path: Path) -> None:
    assert "built with this installation" in machine_code.described()
    assert f"{installed}, built with this installation" in machine_code.warmup()
    assert starts == [CODE.content]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", CODE.to_bytes()[:-1], CODE.to_bytes() + b"x", None])
def test_what_is_damaged_or_gone_is_compiled(
    installed: Path, starts: list[bytes], content: bytes | None
) -> None:
    installed.unlink() if content is None else installed.write_bytes(content)
    assert "compiled the kernels" in machine_code.warmup()
    assert starts == [b"compiled here"]


def test_the_name_follows_the_sources_and_the_compiler_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "level", lambda lanes: "x86-64-v4")
    monkeypatch.delenv("REFNET_PREBUILT", raising=False)
    name = machine_code.prebuilt_file()
    assert name is not None and name.parent == Path(machine_code.__file__).parent
    assert name.name.startswith("x86-64-v4-")
    monkeypatch.setattr(machine_code, "_version", lambda package: b"another")
    assert machine_code.prebuilt_file() == name
    sources = machine_code.source_files()
    copies = [tmp_path / path.name for path in sources]
    for path, copy in zip(sources, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(machine_code, "source_files", lambda: copies)
    assert machine_code.prebuilt_file() == name
    copies[0].write_bytes(copies[0].read_bytes() + b"\n")
    assert machine_code.prebuilt_file() != name
    monkeypatch.setenv("REFNET_PREBUILT", "off")
    assert machine_code.prebuilt_file() is None


posix = pytest.mark.skipif(os.name != "posix", reason="access control lists decide on Windows")
as_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give a file to another user"
)


def read(file: Path) -> bytes:
    return trust.read_installed(file, file.with_name("machine_code.py"))


@posix
def test_who_may_write_the_sources_may_write_the_code(installed: Path) -> None:
    """As in an installation for a group, whose sources Python runs as well."""
    assert read(installed) == CODE.to_bytes()
    source = installed.with_name("machine_code.py")
    for mode in (0o664, 0o666):
        installed.chmod(mode)
        with pytest.raises(trust.UntrustedError, match="other users may write to"):
            read(installed)
        source.chmod(mode)
        assert read(installed) == CODE.to_bytes()
    elsewhere = installed.with_name("elsewhere")  # as installers do that link to their store
    installed.rename(elsewhere)
    installed.symlink_to(elsewhere)
    assert read(installed) == CODE.to_bytes()


@posix
def test_a_warning_names_code_that_others_can_have_written(
    installed: Path, starts: list[bytes]
) -> None:
    installed.chmod(0o666)
    with pytest.warns(RuntimeWarning, match="does not run the compiled kernels.*may write to"):
        machine_code.warmup()
    assert starts == [b"compiled here"]


@as_root
def test_code_of_another_owner_than_the_sources_is_not_run(installed: Path) -> None:
    os.chown(installed, 12345, 0)
    with pytest.raises(trust.UntrustedError, match="does not belong to the owner"):
        read(installed)
    os.chown(installed.with_name("machine_code.py"), 12345, 0)
    assert read(installed) == CODE.to_bytes()
    os.chown(installed, 0, 0)  # a system's package, of whatever user the sources are
    assert read(installed) == CODE.to_bytes()


def test_lanes_of_the_levels_are_those_that_are_built() -> None:
    import build_backend

    assert sorted(lanes for lanes, _ in host.LEVELS.values()) == sorted(build_backend.LANES)
    assert simd.LANES in (4, *build_backend.LANES)
