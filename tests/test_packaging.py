"""What a user gets: the wheel, built from the source distribution, holds one top-level name that works."""

import json
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
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
    assert not [name for name in names if name.endswith(".pyi") or "parity" in name]
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


def test_the_wheel_works_alone(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own, where only NumPy is near, the arithmetic works."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", distributions[1], cwd=tmp_path)
    site = json.loads(
        run(
            python,
            "-c",
            "import json, sysconfig; print(json.dumps(sysconfig.get_path('purelib')))",
            cwd=tmp_path,
        )
    )
    installed = {p.name for p in Path(site).iterdir()}
    assert not installed & {"kernels", "parity", "weights", "tests"}

    import numpy

    (Path(site) / "numpy.pth").write_text(str(Path(numpy.__file__).parents[1]))
    code = (
        "import sys; sys.modules['cv2'] = sys.modules['numba'] = sys.modules['safetensors'] = None\n"
        "import numpy, refnet, refnet.weights\n"
        "from refnet.random_weights import random_weights\n"
        "graph = refnet.build('pfld', width=0.25)\n"
        "model = refnet.load('pfld', random_weights(graph), width=0.25, backend='numpy')\n"
        "print(refnet.__file__, model(numpy.zeros((1, 3, 112, 112), 'float32')).shape)\n"
    )
    printed = run(python, "-c", code, cwd=tmp_path)
    assert str(tmp_path) in printed
    assert "(1, 196)" in printed
