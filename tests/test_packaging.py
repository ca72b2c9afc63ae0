"""What a user gets: the wheel, built from the source distribution, holds one top-level name that works."""

import os
import platform
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_package_is_listed() -> None:
    """A folder that is missing from the list works in the checkout and is not in the wheel."""
    (listed,) = re.findall(
        r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "refnet").rglob("__init__.py")}
    names = {".".join(folder.parts) for folder in folders} | {"refnet.kernels", "refnet.weights"}
    assert set(re.findall(r'"([^"]+)"', listed)) == names


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(source distribution, wheel built from it), in a copy of what git would check out."""
    pytest.importorskip("build")
    work = tmp_path_factory.mktemp("packaging")
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).split(
        "\n"
    )
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (work / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "tree" / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "-o", work / "dist", cwd=work / "tree")
    (source,), (wheel,) = (work / "dist").glob("*.tar.gz"), (work / "dist").glob("*.whl")
    return source, wheel


def test_the_wheel_has_one_top_level_name(distributions: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(distributions[1]).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"refnet"}
    for part in ("refnet/py.typed", "refnet/kernels/__init__.py", "refnet/weights/__init__.py"):
        assert part in names
    for part in (".pyi", "parity", "recipes"):
        assert not [name for name in names if part in name], part
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_links_of_the_description_are_absolute(distributions: tuple[Path, Path]) -> None:
    """An index of packages shows the README where no `docs/faces.jpg` is."""
    with zipfile.ZipFile(distributions[1]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        record, _, description = wheel.read(name).decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in record
    targets = re.findall(r"\]\(([^)\s]+)\)", description)
    assert any(target.endswith("/raw/HEAD/docs/faces.jpg") for target in targets)
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []
    assert re.search(r"^Project-URL: Repository, https://", record, re.M)


def test_every_module_of_the_tree_is_in_the_wheel(distributions: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    for folder, prefix in (("refnet", "refnet"), ("kernels", "refnet/kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}" in names


def test_the_source_distribution_can_be_tested(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for part in (
        "tests/conftest.py",
        "tests/test_packaging.py",
        "parity/__main__.py",
        "kernels/py.typed",
    ):
        assert part in names


@pytest.fixture(scope="module")
def python(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment of its own, with the wheel; what else is near comes last on its path."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", distributions[1], cwd=folder)
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    assert not {p.name for p in site.iterdir()} & {"kernels", "parity", "weights", "tests"}
    import numpy

    (site / "numpy.pth").write_text(str(Path(numpy.__file__).parents[1]))
    return python


def without(*modules: str) -> str:
    """Code after which these modules cannot be imported."""
    return f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"


def test_the_wheel_works_alone(python: Path, tmp_path: Path) -> None:
    """Where only NumPy is near, the arithmetic works."""
    code = without("cv2", "numba", "llvmlite", "safetensors", "tqdm", "platformdirs") + (
        "import numpy, refnet, refnet.weights\n"
        "from refnet.random_weights import random_weights\n"
        "graph = refnet.build('pfld', width=0.25)\n"
        "model = refnet.load('pfld', random_weights(graph), width=0.25, backend='numpy')\n"
        "print(refnet.__file__, model(numpy.zeros((1, 3, 112, 112), 'float32')).shape)\n"
    )
    printed = run(python, "-c", code, cwd=tmp_path)
    assert str(python.parents[1]) in printed
    assert "(1, 196)" in printed


def test_no_build_of_opencv_is_pulled_in(distributions: tuple[Path, Path]) -> None:
    """It would replace the files of another build, and with them the user's windows."""
    archive = zipfile.ZipFile(distributions[1])
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    needed = re.findall("^Requires-Dist: (.*)$", archive.read(name).decode(), re.M)
    opencv = [line for line in needed if "opencv" in line]
    assert all("extra ==" in line for line in opencv)
    extras = {line.partition(">=")[0]: line.rpartition("==")[2].strip(" '\"") for line in opencv}
    assert extras == {"opencv-python": "cv", "opencv-python-headless": "cv-headless"}


compiled = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not find_spec("numba"),
    reason="kernels are compiled by Numba, on Linux with x86-64",
)


@compiled
def test_the_wheel_has_kernels_for_two_levels(distributions: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(distributions[1]).namelist()
    objects = sorted(name for name in names if name.endswith(".bin"))
    key = re.fullmatch(r".*x86-64-v3-(\w+)\.bin", objects[0])
    assert key is not None
    assert objects == [f"refnet/kernels/x86-64-v{level}-{key[1]}.bin" for level in (3, 4)]
    assert distributions[1].name.endswith("-py3-none-any.whl")  # others ignore them
    with tarfile.open(distributions[0]) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".bin")]


OUTPUTS = """
import hashlib, os, sys
import numpy as np, refnet
from refnet.kernels import machine_code
from refnet.random_weights import random_weights
digest = hashlib.sha256()
for name, size in (("pfld-ultralight", 112), ("lffd-plate-small", (161, 198)), ("basketnet", 320), ("pfld-msfc", 112)):
    graph = refnet.build(name, input_size=size)
    model = refnet.Model(graph, random_weights(graph), backend="compiled", threads=1)
    x = np.random.default_rng(0).uniform(-1, 1, (1, *graph.input_shape)).astype(np.float32)
    made = model(x)
    for y in made if isinstance(made, tuple) else (made,):
        digest.update(y.tobytes())
print(machine_code.described().endswith("built with this installation"), digest.hexdigest())
"""


@compiled
@pytest.mark.parametrize("lanes", [8, 16])
def test_its_kernels_give_the_bits_of_those_compiled_for_this_cpu(
    python: Path, lanes: int, tmp_path: Path
) -> None:
    from refnet.kernels import host

    if host.level(lanes) is None:
        pytest.skip(f"this CPU has no level of x86-64 with {lanes} lanes")
    environment = {**os.environ, "REFNET_LANES": str(lanes), "REFNET_PREBUILT": ""}
    slim = without("numba", "llvmlite", "tqdm", "platformdirs") + OUTPUTS
    cold = {**environment, "REFNET_CACHE": str(tmp_path / "cache")}
    prebuilt = run(python, "-c", slim, cwd=tmp_path, env=cold).split()
    assert not (tmp_path / "cache").exists()
    here = run(sys.executable, "-c", OUTPUTS, cwd=tmp_path, env=environment).split()
    assert (prebuilt[0], here[0]) == ("True", "False")
    assert prebuilt[1] == here[1]


@compiled
def test_faces_are_found_without_numba_or_anything_but_opencv(python: Path, tmp_path: Path) -> None:
    from refnet.kernels import host, simd

    if host.level(simd.LANES) is None:
        pytest.skip("no kernels are built for this CPU")
    code = without("numba", "llvmlite", "tqdm", "platformdirs", "safetensors", "onnx") + (
        "from refnet.cli import main\n"
        f"code = main(['faces', {str(ROOT / 'docs' / 'astronaut.jpg')!r}])\n"
        "code = code or main(['doctor'])\n"
        "sys.exit(code)\n"
    )
    cold = {**os.environ, "REFNET_CACHE": str(tmp_path / "cache")}
    printed = run(python, "-W", "error", "-c", code, cwd=tmp_path, env=cold)
    assert "1 face" in printed and "built with this installation" in printed
    assert (tmp_path / "faces" / "astronaut.jpg").exists()
    assert not (tmp_path / "cache").exists()


def test_a_build_without_numba_works_and_says_so(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(distributions[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "numba.py").write_text("raise ImportError('no Numba here')")
    command = "import sys; sys.path.insert(0, ''); import build_backend as b; print(b.build_wheel(sys.argv[1]))"
    for environment, reason in (
        ({"PYTHONPATH": str(tmp_path / "absent")}, "without compiled kernels for 16 lanes: "),
        ({"REFNET_PREBUILT": "off"}, "built without compiled kernels; "),
    ):
        said = run(
            sys.executable, "-c", command, tmp_path, cwd=tree, env={**os.environ, **environment}
        )
        assert reason in said
        (wheel,) = tmp_path.glob("*.whl")
        assert not [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".bin")]


def test_only_a_wheel_asks_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install, whose sources change, compiles nothing; nor does another system."""
    pytest.importorskip("setuptools")
    monkeypatch.chdir(ROOT)
    import build_backend

    monkeypatch.delenv("REFNET_PREBUILT", raising=False)
    for system, asked in (("linux", True), ("darwin", False), ("win32", False)):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        needed = build_backend.get_requires_for_build_wheel()
        assert any(name.startswith("numba") for name in needed) == asked
    monkeypatch.setattr(sys, "platform", "linux")
    assert build_backend.get_requires_for_build_editable() == []
    monkeypatch.setenv("REFNET_PREBUILT", "off")
    assert not any("numba" in name for name in build_backend.get_requires_for_build_wheel())
