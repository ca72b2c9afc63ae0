"""Who may import whom, and what `import refnet` costs."""

import ast
import json
import platform
import subprocess
import sys
from pathlib import Path

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


def test_kernels_know_the_graph_and_nothing_else_of_refnet() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        for name in imports(path):
            if name.startswith("refnet") and not name.startswith("refnet.kernels"):
                assert name == "refnet.graph" or name.startswith("refnet.graph."), (path, name)


def test_one_file_calls_the_kernels() -> None:
    assert len(importers("refnet", "refnet.kernels")) <= 1


def test_the_stub_of_the_kernels_lists_the_folder() -> None:
    stub = ast.parse((ROOT / "refnet" / "kernels.pyi").read_text())
    (listed,) = (node for node in stub.body if isinstance(node, ast.ImportFrom))
    names = [alias.asname for alias in listed.names]
    files = {path.stem for path in (ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert names == sorted(files)


def test_kernels_import_each_other_without_a_circle() -> None:
    """Imports inside of functions and for type checkers count as well."""
    imported = {
        path.stem: {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for name in ([node.module] if node.module else [alias.name for alias in node.names])
        }
        for path in (ROOT / "kernels").glob("*.py")
    }
    while free := {name for name, others in imported.items() if not others & {*imported}}:
        for name in free:
            del imported[name]
    assert imported == {}


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
    }
    if sys.platform == "linux" and platform.machine() == "x86_64":
        slow |= {"llvmlite"}
    slow |= {"refnet.checkpoints.torch_file", "refnet.kernels.simd_llvm", "refnet.kernels.guard"}
    assert backend == "numba"
    assert not slow & set(loaded)


def test_import_is_quick() -> None:
    """Under 0.25 s of processor time: wall time on a machine that others do not share."""
    code = "import time; t = time.process_time(); import refnet; print(time.process_time() - t)"
    assert min(float(fresh_process(code)) for _ in range(5)) < 0.25


def test_public_names_exist_and_are_documented() -> None:
    import refnet

    for name in refnet.__all__:
        assert getattr(refnet, name).__doc__, name
