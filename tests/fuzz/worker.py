"""A process that runs one target on one input after the other; `__main__.py` starts it and watches it.

Before each run the input is in the file CURRENT, so that it is known should the process crash or hang. A finding is a file
`found-<number>` with the reason in `found-<number>.why`; equal reasons are reported once.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

CURRENT = "current"
_COUNT = "count"
MEMORY = 4 << 30


def count(folder: Path) -> int:
    """How many inputs the last worker in `folder` ran."""
    try:
        return int((folder / _COUNT).read_text() or 0)
    except OSError:
        return 0


class Runner:
    """Runs a target and keeps account in a folder."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder, self.runs = target, folder, 0
        self.reasons: set[str] = set()
        self.work = folder / "work"

    def __call__(self, content: bytes) -> None:
        from tests.fuzz.targets import finding

        (self.folder / CURRENT).write_bytes(content)
        self.runs += 1
        if self.runs % 100 == 0:
            (self.folder / _COUNT).write_text(str(self.runs))
        self.work.mkdir(exist_ok=True)
        reason = finding(self.target, content, self.work)
        if reason and reason not in self.reasons:
            self.reasons.add(reason)
            path = self.folder / f"found-{time.time_ns()}"
            path.with_suffix(".why").write_text(reason)
            path.write_bytes(content)


def by_mutation(target: Target, run: Callable[[bytes], None], seed: int, seconds: float) -> None:
    """Files of the corpus, changed at random, until the time is over."""
    from tests.fuzz.mutation import mutated

    pool = [path.read_bytes() for path in target.corpus()]
    random, end = Random(seed), time.monotonic() + seconds
    for content in pool:
        run(content)
    while time.monotonic() < end:
        run(mutated(random.choice(pool), pool, random))


def by_atheris(target: Target, run: Callable[[bytes], None], seed: int, seconds: float) -> None:
    """Inputs that reach new branches of refnet's code are kept and changed further. Does not return."""
    import atheris

    corpus = run.folder / "corpus" if isinstance(run, Runner) else Path()
    corpus.mkdir(exist_ok=True)
    for path in target.corpus():
        shutil.copy(path, corpus / path.name)
    flags = [
        f"-max_total_time={max(1, int(seconds))}",
        f"-seed={seed + 1}",
        "-max_len=65536",
        "-rss_limit_mb=0",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], run)
    atheris.Fuzz()


def main(name: str, engine: str, seed: str, seconds: str, folder: str) -> None:
    """Run one target."""
    with contextlib.suppress(ImportError):  # there is no such module on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["refnet"]):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    run = Runner(TARGETS[name], Path(folder))
    start = by_atheris if engine == "atheris" else by_mutation
    try:
        start(TARGETS[name], run, int(seed), float(seconds))
    finally:
        (run.folder / _COUNT).write_text(str(run.runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
