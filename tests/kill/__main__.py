"""`python -m tests.kill`: rounds of kills, see `tests.kill`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.kill.rounds import Broken, World, one_round


def main() -> int:
    """Run, and return 1 where anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="default: 100")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    arguments = parser.parse_args()
    broken, kills, start = 0, Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World.made(Path(folder))
        for i in range(arguments.rounds):
            try:
                told = one_round(world, f"{arguments.seed}-{i}")
                kills.update(part.split(" at ")[0] for part in told.partition(": ")[2].split("; "))
            except Broken as error:
                broken, told = broken + 1, f"BROKEN {error}"
            print(f"{i + 1:4} {told}", flush=True)
        world.server.close()
    listed = ", ".join(f"{count} by {kill}" for kill, count in sorted(kills.items()))
    minutes = (time.monotonic() - start) / 60
    print(f"{arguments.rounds} rounds, {broken} broken; ended {listed}; {minutes:.0f} minutes")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
