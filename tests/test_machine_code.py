"""The kernels' machine code: one compilation, a cache that is never trusted blindly, a start without Numba."""

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from refnet.kernels import machine_code, simd

RUN_PFLD = """
import sys, numpy as np, refnet
from refnet.random_weights import random_weights
graph = refnet.build("pfld", width=0.25)
model = refnet.load("pfld", random_weights(graph), width=0.25)
y = model(np.full((1, 3, 112, 112), 0.5, np.float32))
print(model.backend, "numba" in sys.modules, y.tobytes().hex()[:64])
"""
MachineCode = machine_code.MachineCode
CODE = MachineCode("entry", ("numba_gil_ensure",), b"\x7fELF not really\n" + bytes(range(256)))


@pytest.fixture(scope="module")
def warm() -> str:
    """The bits of a run, after which the cache is warm."""
    machine_code.entry()
    return fresh({}).split()[2]


def fresh(environment: dict[str, str]) -> str:
    """What RUN_PFLD prints in a process of its own; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_PFLD],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_second_process_loads_without_numba_and_gives_the_same_bits(warm: str) -> None:
    assert fresh({}).split() == ["compiled", "False", warm]


def test_file_round_trip() -> None:
    assert MachineCode.from_bytes(CODE.to_bytes()) == CODE


@pytest.mark.parametrize("position", [0, 5, 20, 80, 100, 200, -1])
def test_a_flipped_bit_anywhere_is_found(position: int) -> None:
    data = bytearray(CODE.to_bytes())
    data[position] ^= 1
    assert MachineCode.from_bytes(bytes(data)) is None


def test_the_hash_is_the_same_in_every_python() -> None:
    """One wheel serves all of them; importlib.util.source_hash differs from one version to the next."""
    assert machine_code._hash(b"refnet") == "45b6b7a3d9525529"  # printf refnet | b2sum -l 64


def test_truncated_foreign_and_empty_files_are_not_run(tmp_path: Path) -> None:
    data = CODE.to_bytes()
    for content in (b"", data[:10], data[:90], data[:-1], data + b"x", b"\x7fELF" + data):
        assert MachineCode.from_bytes(content) is None
    file = tmp_path / "kernels.bin"
    assert machine_code.read(file) is None
    file.write_bytes(b"GIF89a")
    assert machine_code.read(file) is None


def test_a_damaged_cache_file_is_rebuilt(
    warm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of the file is checked before any is run; what is rebuilt replaces it."""
    good = machine_code.cache_file()
    assert good is not None
    content = good.read_bytes()
    monkeypatch.setenv("REFNET_CACHE", str(tmp_path))
    monkeypatch.setattr(machine_code, "_loaded", [])
    code = MachineCode.from_bytes(content)
    monkeypatch.setattr(machine_code, "compile_kernels", lambda: code)
    target = tmp_path / good.name
    target.write_bytes(content[:-100])
    assert "compiled the kernels" in machine_code.warmup()
    assert target.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [good.name], "a temporary file was left"
    monkeypatch.setattr(machine_code, "_loaded", [])
    assert "loaded the compiled kernels" in machine_code.warmup()
    assert "loaded already" in machine_code.warmup()


def test_the_key_follows_sources_versions_and_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine_code.cache_key()
    assert key == machine_code.cache_key()
    names = {path.name for path in machine_code.source_files()}
    assert {"simd.py", "simd_llvm.py", "machine_code.py", "instructions.py", "executor.py"} <= names
    monkeypatch.setattr(machine_code, "LANES", 2 * simd.LANES)
    assert machine_code.cache_key() != key
    monkeypatch.undo()
    monkeypatch.setattr(machine_code, "_version", lambda package: b"0.0")
    assert machine_code.cache_key() != key


def test_the_key_follows_all_that_hashed_files_import() -> None:
    """A constant that is compiled in must not come from a file that can change without the key."""
    hashed = {path.stem: path for path in machine_code.source_files()}
    for path in hashed.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = {node.module} if node.module else {alias.name for alias in node.names}
                assert names <= {*hashed, "host", "elf", "trust"}, path.name


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    yield


def test_a_full_disk_warns_once_and_leaves_nothing(full_disk: None, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="No space left on device.*REFNET_CACHE"):
        assert machine_code.write(tmp_path / "kernels.bin", CODE) is False
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_a_folder_warns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot keep its compiled kernels"):
        assert machine_code.write(tmp_path / "file" / "kernels.bin", CODE) is False


def test_the_cache_can_be_elsewhere_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFNET_CACHE", "off")
    assert machine_code.cache_file() is None
    monkeypatch.setenv("REFNET_CACHE", "/somewhere/else")
    file = machine_code.cache_file()
    assert file is not None and file.parent == Path("/somewhere/else")
    monkeypatch.delenv("REFNET_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    for chosen, expected in (("", Path.home() / ".cache"), ("/some/where", Path("/some/where"))):
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
        assert machine_code.cache_folder() == expected / "refnet"


def test_the_cache_is_where_each_system_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """platformdirs knows the places, which takes longer to import than all else of a warm start."""
    pytest.importorskip("platformdirs")
    from platformdirs.macos import MacOS
    from platformdirs.unix import Unix

    for variable in ("REFNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for system, places in (("darwin", MacOS), ("linux", Unix), ("freebsd14", Unix)):
        monkeypatch.setattr(sys, "platform", system)
        expected = places("refnet", appauthor=False).user_cache_dir
        assert machine_code.cache_folder() == Path(expected)
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine_code.cache_folder() == Path.home() / "AppData/Local/refnet/Cache"
    monkeypatch.setenv("LOCALAPPDATA", os.path.abspath("local"))
    assert machine_code.cache_folder() == Path("local/refnet/Cache").absolute()


def test_many_processes_may_start_at_once(warm: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", RUN_PFLD], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {process.communicate()[0].split()[2] for process in processes} == {warm}


def test_no_numba_and_no_cache_falls_back_with_one_warning(tmp_path: Path) -> None:
    code = (
        "import sys, warnings, json; sys.modules['numba'] = None\n"
        "import numpy as np, refnet\n"
        "from refnet.random_weights import random_weights\n"
        "graph = refnet.build('tinynet', input_size=(16, 16))\n"
        "model = refnet.load('tinynet', random_weights(graph), input_size=(16, 16))\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2): y = model(np.zeros((1, 3, 16, 16), np.float32))\n"
        "print(json.dumps([model.backend, [str(w.message) for w in caught]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "REFNET_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    backend, messages = json.loads(done.stdout)
    assert backend == "numpy"
    assert len(messages) == 1
    assert "NumPy runs instead" in messages[0] and "numba" in messages[0]
