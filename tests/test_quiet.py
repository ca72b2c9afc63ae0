"""What `refnet bench` says about the machine and the spread of its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refnet.benchmark import quiet
from refnet.cli import main

CALL = ["bench", "pfld:width=0.25,input_size=64", "--seconds", "0.05"]


def stat(path: Path, *cores: tuple[int, int]) -> None:
    """A /proc/stat in which cores have worked and rested for so many ticks."""
    lines = ["cpu 1 2 3 4 5 6 7 8 9 10"]
    lines += [f"cpu{i} {work} 0 0 {rest} 0 0 0 0 77 0" for i, (work, rest) in enumerate(cores)]
    path.write_text("\n".join([*lines, "intr 5", "ctxt 6"]))


def test_others_are_what_works_while_this_process_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    stat(tmp_path / "stat", (100, 100), (0, 0), (50, 50))

    def sleep(_: float) -> None:
        stat(tmp_path / "stat", (115, 115), (500, 0), (50, 80))

    monkeypatch.setattr("time.sleep", sleep)
    assert quiet.others() == pytest.approx((15 / 30 + 0) / 2)  # core 1 is not ours
    (tmp_path / "stat").unlink()
    assert quiet.others() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_a_busy_core_is_seen() -> None:
    """A process that never rests on the core that is watched."""
    code = (
        "import os, subprocess, sys\n"
        "core = max(os.sched_getaffinity(0)); os.sched_setaffinity(0, {core})\n"
        "other = subprocess.Popen([sys.executable, '-c', 'print(1, flush=True)\\nwhile 1: pass'],"
        " stdout=subprocess.PIPE)\n"
        "other.stdout.read(1)\n"
        "from refnet.benchmark import quiet\n"
        "print(quiet.others()); other.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.5


def test_the_warning() -> None:
    assert quiet.warning(None) is None and quiet.warning(0.02) is None
    assert "other programs take 45% of the cores" in str(quiet.warning(0.45))


def test_the_spread() -> None:
    assert (
        quiet.spread([(1.0, 1.1)])
        == "spread: p90 is 1.10 times p10, so that medians can be compared"
    )
    rough = quiet.spread([(1.0, 1.5), (2.0, 2.2)])
    assert rough.startswith("spread: p90 is 1.10 to 1.50 times p10") and "rough" in rough


def test_bench_says_both_and_keeps_its_output_clean(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, warned in ((0.0, 0), (0.5, 1)):
        monkeypatch.setattr(quiet, "others", lambda share=share: share)
        assert main([*CALL, "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["engine"] == "refnet"
        assert said.err.count("the machine is busy") == warned
        assert said.err.count("spread: p90 is ") == 1
    assert main([*CALL, "--layers"]) == 0
    assert "the machine is busy" in capsys.readouterr().err
