"""`python -m tests.environments`: refnet beside every build of OpenCV, each in a fresh environment.

Builds a wheel, then installs it from the package index as a user would: without OpenCV, with the headless build, over
`opencv-python`, over `opencv-contrib-python`, and slim, which is `--no-deps` beside NumPy and OpenCV. Prints for each
the megabytes that it takes, the seconds to the first faces in a new process, and what runs; ends with 1 where a
promise is broken: a build of OpenCV that was there is gone, arrays are refused, or an error names no way out.
It needs the network and some minutes; `tests/test_packaging.py` tests without either what can be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs" / "astronaut.jpg"

#: Case: what is installed before refnet, how refnet is, and the builds of OpenCV at the end.
CASES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "none": ([], ["{wheel}"], []),
    "headless": ([], ["{wheel}[cv-headless]"], ["opencv-python-headless"]),
    "full": (["opencv-python"], ["{wheel}[cv]"], ["opencv-python"]),
    "contrib": (["opencv-contrib-python"], ["{wheel}"], ["opencv-contrib-python"]),
    "slim": (
        ["numpy", "opencv-python-headless"],
        ["--no-deps", "{wheel}"],
        ["opencv-python-headless"],
    ),
}

_PROBE = """
import importlib.metadata, json, sys
import numpy as np, refnet
array = np.load(sys.argv[1])
arrays = len(refnet.FaceAnalyzer()(array))
try:
    read = len(refnet.FaceAnalyzer()(sys.argv[2]))
except refnet.DependencyError as error:
    read = str(error)
opencv = sorted(d.name for d in importlib.metadata.distributions() if d.name.startswith("opencv"))
windows = None
if opencv:
    import cv2
    gui = [line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
    windows = bool(gui) and "NONE" not in gui[0]
compilers = [name for name in ("numba", "llvmlite") if name in sys.modules]
print(json.dumps([arrays, read, opencv, windows, compilers]))
"""
_FIRST = "import refnet, sys, numpy as np; refnet.FaceAnalyzer()(np.load(sys.argv[1]))"


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "REFNET_CACHE": "off"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command[:6]}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> int:
    """Run all cases; 1 if one breaks a promise."""
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        np.save(work / "photo.npy", np.asarray(cv2.imread(str(PHOTO))))
        command: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        run(*command, "--wheel-dir", work, ROOT, cwd=work)
        (wheel,) = work.glob("*.whl")
        print(f"{'case':10} {'MB':>6} {'install s':>10} {'first result s':>15}  OpenCV")
        broken = [f"{case}: {sentence}" for case in CASES for sentence in check(case, wheel, work)]
    for sentence in broken:
        print(sentence)
    return int(bool(broken))


def check(case: str, wheel: Path, work: Path) -> list[str]:
    """Install and try one case; a sentence for each promise that it breaks."""
    before, ours, expected = CASES[case]
    folder = work / case
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if before:
        run(*pip, *before, cwd=work)
    started = time.perf_counter()
    run(*pip, *(word.format(wheel=wheel) for word in ours), cwd=work)
    taken = time.perf_counter() - started
    started = time.perf_counter()
    run(python, "-c", _FIRST, work / "photo.npy", cwd=work)
    first = time.perf_counter() - started
    probe = run(python, "-c", _PROBE, work / "photo.npy", PHOTO, cwd=work)
    arrays, read, opencv, windows, compilers = json.loads(probe)
    ends: Any = f"{', '.join(opencv) or 'none'}{', with windows' if windows else ''}"
    print(f"{case:10} {megabytes(folder):6.0f} {taken:10.1f} {first:15.2f}  {ends}", flush=True)
    broken = []
    if arrays != 1:
        broken.append(f"{arrays} faces in an array, not 1")
    if opencv != expected:
        broken.append(f"has {opencv}, not {expected}")
    if case in ("full", "contrib") and not windows:
        broken.append("the windows of OpenCV are gone")
    named = isinstance(read, str) and "opencv-python," in read and "opencv-python-headless" in read
    if read != 1 if expected else not named:
        broken.append(f"of a file: {read}")
    if compilers and any(wheel_objects(wheel)):
        broken.append(f"{compilers} were imported")
    return broken


def wheel_objects(wheel: Path) -> list[str]:
    """The compiled kernels in a wheel."""
    import zipfile

    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".bin")]


def megabytes(folder: Path) -> float:
    """What the packages of an environment take, without pip and setuptools that `venv` puts there."""
    (site,) = folder.glob("lib/python*/site-packages")
    own = [p for p in site.iterdir() if p.name.partition("-")[0] not in ("pip", "setuptools")]
    files = (f for p in own for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file())
    return sum(f.stat().st_size for f in files) / 1e6


if __name__ == "__main__":
    sys.exit(main())
