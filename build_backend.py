"""How the package is built: by setuptools, and a wheel with its kernels compiled.

A wheel gets one object file for each level of x86-64 in `kernels/host.py`, 0.3 MB together, which Linux on such a
processor runs as it is (`kernels/machine_code.py`). Everywhere else they are ignored, so that one wheel serves all.
An editable install gets none: its sources change, and Numba compiles them when they are first used. Where Numba is
missing, fails, or `REFNET_PREBUILT=off` is set, the wheel is made without, and a line says so.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.build_py import build_py

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: Of the levels in `kernels/host.py`.
LANES = (8, 16)
_COMPILE = """
import sys
from pathlib import Path
from refnet.kernels import machine_code
print(machine_code.prebuild(Path(sys.argv[1])).name)
"""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What compiling takes, where anything is compiled."""
    compiler = ["numba>=0.61", "numpy>=2"] if _wanted() else []
    return [*build_meta.get_requires_for_build_wheel(config_settings), *compiler]


def _wanted() -> bool:
    """Whether this machine can compile for x86-64 on Linux, and is not asked to leave it."""
    here = sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")
    return here and os.environ.get("REFNET_PREBUILT", "").lower() != "off"


class BuildPy(build_py):  # type: ignore[misc, unused-ignore]
    """Copies the modules, and compiles the kernels among the copies."""

    def run(self) -> None:
        """As setuptools; then the kernels."""
        library = Path(self.build_lib).resolve()
        if not self.editable_mode:
            # Of an earlier build in this folder; what has been removed since would be in the wheel too.
            shutil.rmtree(library / "refnet", ignore_errors=True)
        super().run()
        if not self.editable_mode:
            _compile(library)


def _compile(library: Path) -> None:
    """Compile the kernels of the package in `library` for every level, all at once where there are cores for it."""
    folder = library / "refnet" / "kernels"
    if not _wanted():
        print("refnet: built without compiled kernels; Numba compiles them where they are used")
        return
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for line in pool.map(partial(_compile_level, library, folder), LANES):
            print(f"refnet: {line}", flush=True)


def _compile_level(library: Path, folder: Path, lanes: int) -> str:
    """Compile for the level with so many lanes, in a process of its own; a sentence about it."""
    # The folder of the sources has a `refnet` too, which lacks the kernels.
    path = os.pathsep.join(filter(None, [str(library), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "REFNET_LANES": str(lanes)},
        cwd=library,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return f"compiled {done.stdout.strip()}"
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"built without compiled kernels for {lanes} lanes: {reason}"
