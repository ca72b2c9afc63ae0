"""Who may import whom, and what `import refnet` costs."""

import ast
import json
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its own folder, so it crosses no wall.
            assert node.level <= 1, f"{path} reaches out of its folder by a relative import"
            if node.level == 0:
                names.add(str(node.module))
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def importers(folder: str, *packages: str) -> set[str]:
    """The files under `folder` that import one of `packages` or something inside it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def test_only_parity_and_recipes_import_torch() -> None:
    assert importers("refnet", "torch") == set()
    assert importers("kernels", "torch") == set()
    assert {
        f for f in importers("weights", "torch") if not f.startswith("weights/recipes/")
    } == set()


def test_nobody_imports_parity() -> None:
    for folder in ("refnet", "kernels", "weights"):
        assert importers(folder, "parity", "tests") == set()


def test_kernels_know_the_graph_files_and_waiting_and_nothing_else_of_refnet() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        for name in imports(path):
            if name.startswith("refnet") and not name.startswith("refnet.kernels"):
                module = ".".join(name.split(".")[:2])
                assert module in ("refnet.graph", "refnet.files", "refnet.waiting"), (path, name)


def test_the_command_line_is_no_library() -> None:
    """Only `python -m refnet` imports it; what others need is elsewhere."""
    for folder in ("refnet", "kernels", "weights", "parity"):
        outside = {f for f in importers(folder, "refnet.cli") if not f.startswith("refnet/cli/")}
        assert outside <= {"refnet/__main__.py"}


def test_fields_name_no_operation() -> None:
    """What an operation does to a receptive field is said in its entry of `refnet.ops`."""
    from refnet.ops import OPS

    for path in (ROOT / "refnet" / "fields").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in OPS, (path, node.lineno, node.value)


def module_files() -> dict[str, Path]:
    """{dotted name: file} of every module of refnet/ and kernels/, a package by its own name."""
    named = {}
    for folder, package in (("refnet", "refnet"), ("kernels", "refnet.kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imported_modules(name: str, path: Path, known: Collection[str]) -> set[str]:
    """What a module imports of `known`, inside functions and under TYPE_CHECKING too.

    `from package import name` is an import of the module package.name where there is one, else of the
    package's own file.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, (package if node.level else "", node.module)))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known else source)
    return (found & set(known)) - {name}


def way(imported: Mapping[str, set[str]], start: str, goal: str) -> list[str]:
    """Modules from `start` to `goal`, each imported by the one before it; empty where there is no way."""
    came: dict[str, str] = {start: ""}
    waiting = [start]
    for name in waiting:
        if name == goal:
            steps = [name]
            while came[steps[-1]]:
                steps.append(came[steps[-1]])
            return steps[::-1]
        for other in sorted(imported[name] - came.keys()):
            came[other] = name
            waiting.append(other)
    return []


def test_no_imports_go_in_a_circle() -> None:
    files = module_files()
    imported = {name: imported_modules(name, path, files) for name, path in files.items()}
    for name, found in imported.items():
        for module in found:
            back = way(imported, module, name)
            assert not back, "imports in a circle: " + " -> ".join([name, *back])


def test_one_file_calls_the_kernels() -> None:
    assert len(importers("refnet", "refnet.kernels")) <= 1


def test_the_stub_of_the_kernels_lists_the_folder() -> None:
    stub = ast.parse((ROOT / "refnet" / "kernels.pyi").read_text())
    (listed,) = (node for node in stub.body if isinstance(node, ast.ImportFrom))
    names = [alias.asname for alias in listed.names]
    files = {path.stem for path in (ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert names == sorted(files)


def test_the_readme_of_the_kernels_lists_the_folder() -> None:
    """Each file once, in one of the groups of the table."""
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    table = text.partition("| group | files | what |")[2].partition("\n\n")[0]
    listed = [
        word
        for line in table.splitlines()[2:]
        for word in re.findall(r"`(\w+)`", line.split("|")[2])
    ]
    files = {path.stem for path in (ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(files)


def named_in(path: Path) -> set[str]:
    """The names and the words in texts of a Python file, in small letters; no docstrings or comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words: set[str] = set()
    for node in ast.walk(tree):
        for found in (
            getattr(node, "id", ""),
            getattr(node, "attr", ""),
            getattr(node, "name", ""),
        ):
            words.add(str(found).lower())
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value.lower())
    return words


def naming(word: str) -> set[str]:
    """The files of refnet and its kernels, networks and weights aside, that name an operation."""
    return {
        str(path.relative_to(ROOT))
        for folder in ("refnet", "kernels", "weights", "parity")
        for path in (ROOT / folder).rglob("*.py")
        if not {"networks", "twins"} & {*path.parts} and word in named_in(path)
    }


def test_an_operation_with_a_kernel_is_named_in_six_files_and_in_one_for_each_format() -> None:
    """Its definition and five files of the engine; what it is in ONNX, read and written, in torch, and in the files that
    other engines are measured with."""
    engine = ("upsample", "instructions", "executor", "lower", "verify")
    formats = ("onnx_ops", "onnx_export", "torch_ops")
    measured = ("ncnn_files", "tflite_file")
    assert naming("upsample") == {
        *(f"refnet/benchmark/{name}.py" for name in measured),
        "refnet/rearrangements.py",
        *(f"kernels/{name}.py" for name in engine),
        *(f"refnet/exchange/{name}.py" for name in formats),
    }


def test_an_operation_without_a_kernel_is_named_in_one_file_and_in_one_for_each_format() -> None:
    formats = {"refnet/exchange/onnx_ops.py", "refnet/exchange/onnx_export.py"}
    assert naming("space_to_depth") == {"refnet/rearrangements.py"} | formats


def test_an_operation_and_its_entry_are_in_one_file() -> None:
    from refnet import ops, rearrangements, windows

    own = {*ops.OPS} - {*windows.OPS} - {*rearrangements.OPS}
    for module, names in ((ops, own), (windows, windows.OPS), (rearrangements, rearrangements.OPS)):
        for name in names:
            assert ops.OPS[name].forward.__module__ == module.__name__, name


def test_an_opcode_is_named_by_the_executor_the_verifier_and_one_file_that_emits_it() -> None:
    """Whatever else differs from opcode to opcode is told by the tables of `instructions.py`."""
    from refnet.kernels import instructions

    found: dict[str, set[str]] = {name: set() for name in instructions.OPCODES}
    for path in (ROOT / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "instructions":
                for alias in node.names:
                    if alias.name.lower() in found:
                        found[alias.name.lower()].add(path.stem)
    # A thread without a share does nothing, and the peak of a core is measured without a plan.
    assert found.pop("nothing") == {"verify", "partition"}
    assert found.pop("probe") == {"executor", "runner"}
    for name, files in found.items():
        (emitting,) = files - {"executor", "verify"}
        assert len(files) == 3 and emitting.startswith(("lower", "emitter")), (name, files)


def test_one_file_compiles() -> None:
    compiling = {
        str(path.relative_to(ROOT))
        for path in (*(ROOT / "kernels").rglob("*.py"), *(ROOT / "refnet").rglob("*.py"))
        if any(
            isinstance(node, (ast.Name, ast.Attribute))
            and getattr(node, "id", getattr(node, "attr", "")) in ("njit", "cfunc")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    assert compiling <= {"kernels/machine_code.py"}


def test_one_file_replaces_files() -> None:
    """What is written appears complete or not at all, by one implementation."""
    replacing = {
        str(path.relative_to(ROOT))
        for folder in ("refnet", "kernels", "weights", "parity")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("os.replace", "os.rename", "shutil.move")
    }
    assert replacing == {"refnet/files.py"}


def test_one_file_asks_for_optional_packages() -> None:
    """What an absent package means is decided, and said, once."""
    raising = {
        str(path.relative_to(ROOT))
        for folder in ("refnet", "kernels", "weights", "parity")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DependencyError")
    }
    assert raising == {"refnet/optional.py"}


def named_networks(code: str, names: frozenset[str]) -> list[int]:
    """The lines on which `code` compares something with one of `names`, or by it as a prefix."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        compared: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            compared = [node]
        elif isinstance(node, ast.match_case):
            compared = [node.pattern]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith", "removeprefix", "removesuffix", "get"):
                compared = list(node.args)
        elif isinstance(node, ast.Subscript):
            compared = [node.slice]
        constants = (c for part in compared for c in ast.walk(part) if isinstance(c, ast.Constant))
        if found := [c for c in constants if c.value in names]:
            lines.append(found[0].lineno)
    return lines


def test_a_networks_name_decides_nothing_outside_networks() -> None:
    from refnet.networks import NETWORKS

    families = {name.partition("-")[0] for name in NETWORKS}
    names = frozenset({*NETWORKS, *families, *(f"{family}-" for family in families)})
    comparing = {
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("refnet", "kernels", "weights", "parity")
        for path in (ROOT / folder).rglob("*.py")
        if ROOT / "refnet/networks" not in path.parents
        for line in named_networks(path.read_text(encoding="utf-8"), names)
    }
    assert comparing == set()


@pytest.mark.parametrize(
    "code",
    [
        "if graph.name == 'pfld': pass",
        "if name in ('lffd-head', 'other'): pass",
        "if graph.name.startswith('lffd-'): pass",
        "match name:\n    case 'basketnet' | 'other': pass",
        "scale = SCALES.get('pfld', 1)",
        "scale = SCALES['pfld']",
    ],
)
def test_comparisons_with_names_are_found(code: str) -> None:
    names = frozenset({"pfld", "lffd-head", "lffd-", "basketnet"})
    assert len(named_networks(code, names)) == 1


def fresh_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent
    ).stdout


def test_import_loads_numpy_and_nothing_heavier() -> None:
    loaded = json.loads(
        fresh_process("import refnet, sys, json; print(json.dumps(sorted(sys.modules)))")
    )
    heavy = {"torch", "numba", "llvmlite", "cv2", "onnx", "safetensors", "matplotlib", "scipy"}
    assert "numpy" in loaded
    assert not heavy & {name.partition(".")[0] for name in loaded}


FIRST_RESULT = """
import json, sys
import numpy as np
before = set(sys.modules)
import refnet
model = refnet.load("pfld-ultralight-slim")
assert model(np.zeros((1, 3, 112, 112), np.float32)).shape == (1, 196)
print(json.dumps([model.backend, sorted(set(sys.modules) - before)]))
"""


def test_a_warm_start_imports_nothing_that_takes_long() -> None:
    """From a fresh process to landmarks, with machine code in the cache and released weights."""
    fresh_process("import refnet.engine; refnet.engine.warmup()")
    backend, loaded = json.loads(fresh_process(FIRST_RESULT))
    slow = {
        "numba",
        "torch",
        "platformdirs",
        "tempfile",
        "zipfile",
        "hashlib",
        "concurrent.futures",
        "fractions",
    }
    if sys.platform == "linux" and platform.machine() == "x86_64":
        slow |= {"llvmlite"}
    slow |= {"refnet.checkpoints.torch_file", "refnet.kernels.simd_llvm", "refnet.kernels.guard"}
    assert backend == "compiled"
    assert not slow & set(loaded)


def test_a_search_for_faces_imports_no_readers_of_other_files() -> None:
    """A seventh of what `refnet faces` loads would be for detectors in ONNX, and masked arrays 8 ms."""
    photo = ROOT / "docs" / "astronaut.jpg"
    code = (
        f"import sys; from refnet.cli import main; main(['faces', {str(photo)!r}, '--json']); "
        "print(*sorted(sys.modules))"
    )
    printed, loaded = fresh_process(code).splitlines()
    assert len(json.loads(printed)["faces"]) == 1 and "refnet.faces.landmarks" in loaded.split()
    assert not {"refnet.exchange.onnx_ops", "numpy.ma", "onnx"} & set(loaded.split())


def test_import_is_quick() -> None:
    """Under 0.25 s of processor time: wall time on a machine that others do not share."""
    code = "import time; t = time.process_time(); import refnet; print(time.process_time() - t)"
    assert min(float(fresh_process(code)) for _ in range(5)) < 0.25


def test_public_names_exist_and_are_documented() -> None:
    import refnet

    for name in refnet.__all__:
        assert getattr(refnet, name).__doc__, name
