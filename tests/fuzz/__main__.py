"""`python -m tests.fuzz`: run the targets, each in a process of its own, and keep what they find."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import worker
from tests.fuzz.targets import CORPUS, TARGETS

HANGS_AFTER = 20.0  # seconds without a new input


def main() -> int:
    """Run, and return 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together (10)")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="by default, all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (0)")
    parser.add_argument(
        "--engine", choices=("atheris", "mutation"), help="by default, Atheris if it is installed"
    )
    arguments = parser.parse_args()
    engine = arguments.engine or (
        "atheris" if importlib.util.find_spec("atheris") is not None else "mutation"
    )
    names = [n for n in arguments.target or TARGETS if TARGETS[n].available]
    print(f"{len(names)} targets by {engine}, {60 * arguments.minutes / len(names):.0f} s each")
    found = sum(
        _fuzz(n, engine, arguments.seed, 60 * arguments.minutes / len(names)) for n in names
    )
    print(f"{found} findings" + (f" in {CORPUS}" if found else ""))
    return 1 if found else 0


def _fuzz(name: str, engine: str, seed: int, seconds: float) -> int:
    """The number of new findings of one target, each of which has been printed and stored."""
    end, found, runs = time.monotonic() + seconds, 0, 0
    known: set[str] = set()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        while (left := end - time.monotonic()) > 1:
            verdict = _watched(name, engine, seed, left, folder)
            runs += worker.count(folder)
            for path in sorted(folder.glob("found-*")):
                reason = path.with_suffix(".why").read_text()
                if path.suffix != ".why" and reason not in known:
                    known.add(reason)
                    found += 1
                    _keep(name, path.read_bytes(), reason)
            if verdict:
                found += 1
                _keep(name, (folder / worker.CURRENT).read_bytes(), verdict)
            elif engine == "mutation" or left < 5:
                break
            seed += 1
    print(f"{name:16} {runs:9,} runs, {found} findings", flush=True)
    return found


def _watched(name: str, engine: str, seed: int, seconds: float, folder: Path) -> str:
    """Run a worker to its end; "" if it came to it, else how it failed."""
    current = folder / worker.CURRENT
    current.write_bytes(b"")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fuzz.worker",
                name,
                engine,
                str(seed),
                str(seconds),
                str(folder),
            ],
            stdout=log,
            stderr=log,
            cwd=CORPUS.parents[1],
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.time() - os.stat(current).st_mtime > HANGS_AFTER:
                    return "hangs"
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return ""
    tail = (folder / "log").read_text(errors="replace").splitlines()[-3:]
    return f"the process ended with {process.returncode}: {' | '.join(tail)[:300]}"


def _keep(name: str, content: bytes, reason: str) -> None:
    """Store a finding beside the files that fuzzing starts from."""
    path = CORPUS / name / f"found-{hashlib.sha256(content).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{name}: {reason}\n    {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
