"""README.md and docs/: every block of Python and shell runs, in the order of its page, or says why it does not.

Directly above a fence may stand

    <!-- not run: REASON -->             for what needs a camera, a screen, Docker, another machine
    <!-- run with ARGUMENTS: REASON -->  which are added to the block's last command

Blocks of one page share a folder, with the photos and files that pages talk about, and one namespace. The
cells of a notebook are blocks too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.random_weights import random_weights
from tests.checkpoint_files import zip_of

cv2 = pytest.importorskip("cv2")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
FENCE = re.compile(r"^( *)(`{3,}|~{3,}) *(\w*).*\n((?:.*\n)*?)^\1\2 *$", re.M)
MARK = re.compile(r"<!-- (not run|run with ([^:>]+)): ([^>]*\S) -->\s*\n *\Z")
#: Languages of blocks that are shown and are no commands.
LISTINGS = {"text", "dockerfile"}
#: What a line of a shell block may begin with: what installs or goes to the network is marked, and not run.
COMMANDS = ("refnet ", "python -m ", "find ", "#", " ")
#: What blocks need that is not everywhere: {what is in the text: the module that has to be there}.
MODULES = {
    r"weights\.recipes": "torch",
    r"\.onnx": "onnx",
    r"parquet|analyze_table|to_arrow": "pyarrow",
    "to_pandas": "pandas",
    "to_supervision": "supervision",
    "erf .*png|evaluate .*png": "matplotlib",
    "PIL": "PIL",
    "--peers onnxruntime": "onnxruntime",
}


@dataclass(frozen=True)
class Block:
    """One block of a page: its text, and what the comment above it says."""

    page: str
    line: int
    language: str
    text: str
    reason: str = ""  # why it does not run
    arguments: str = ""  # what is added to its last command

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a fence is not closed, or a block that is not marked is of a language or of a command that
            is not run.
    """
    found = []
    for fence in FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        mark = MARK.search(text, 0, fence.start())
        reason = mark[3] if mark and mark[1] == "not run" else ""
        block = Block(
            page,
            line,
            fence[3],
            textwrap.dedent(fence[4]),
            reason,
            (mark and mark[2]) or "",
        )
        if not reason and block.language not in LISTINGS | {"python", "sh"}:
            raise ValueError(f"{block.place}: {block.language or 'no language'} is not run")
        if not reason and block.language == "sh":
            for command_line in filter(None, block.text.splitlines()):
                if not command_line.startswith(COMMANDS):
                    raise ValueError(f"{block.place}: {command_line!r} is not run here; mark it")
        found.append(block)
    left = FENCE.sub("", text)
    if re.search(r"^ *(`{3}|~{3})", left, re.M):
        raise ValueError(f"{page}: a fence is not closed")
    return [block for block in found if block.language not in LISTINGS]


def test_blocks_are_told_apart() -> None:
    page = (
        "```sh\nrefnet doctor\n```\n\n<!-- not run: needs a camera -->\n```python\nlook()\n```\n"
        "<!-- run with --steps 2: it takes minutes -->\n```sh\nrefnet a  # quick\nrefnet b  # long\n```\n"
        "- in a list\n\n    ```python\n    x = 1\n    ```\n```text\nshown\n```\n"
    )
    found = blocks(page, "page.md")
    assert [b.line for b in found] == [1, 6, 10, 16]
    assert [b.reason for b in found] == ["", "needs a camera", "", ""]
    assert [b.arguments for b in found] == ["", "", "--steps 2", ""]
    assert found[3].text == "x = 1\n"
    assert command(found[2]) == "refnet a  # quick\nrefnet b --steps 2  # long\n"


@pytest.mark.parametrize(
    "page",
    [
        "```\nrefnet doctor\n```\n",
        "```console\n$ refnet doctor\n```\n",
        "```bash\nrefnet doctor\n```\n",
        "```sh\nrefnet doctor\n",
        "```sh\npip install refnet && refnet doctor\n```\n",
        "<!-- not run: -->\n```bash\nx\n```\n",
        "<!-- not run: needs a camera -->\nText between.\n\n```bash\nx\n```\n",
    ],
)
def test_a_block_that_neither_runs_nor_says_why_is_noticed(page: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md"):
        blocks(page, "page.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = str(page.relative_to(ROOT))
    run_all(blocks(page.read_text(encoding="utf-8"), name), tmp_path, monkeypatch, request)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_cells_of_a_notebook_run(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    name = str(notebook.relative_to(ROOT))
    code = [
        Block(name, i, "python", "".join(cell["source"]))
        for i, cell in enumerate(cells)
        if cell["cell_type"] == "code"
    ]
    assert all(not c.get("outputs") for c in cells), f"{name}: commit it without outputs"
    run_all(code, tmp_path, monkeypatch, request)


def run_all(
    found: list[Block],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Run blocks in order, those that lack something here excepted, which skips the page at its end."""
    wanted = [block for block in found if not block.reason]
    if not wanted:
        return
    fill(folder, any_assets(request))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names: dict[str, Any] = {"__name__": "__main__"}
    left_out = []
    for block in wanted:
        if lacking := lack(block):
            left_out.append(f"{block.place} needs {lacking}")
        elif block.language == "python":
            run_python(block, names)
        else:
            run_shell(block)
    if left_out:
        pytest.skip(f"{len(wanted) - len(left_out)} blocks ran; " + "; ".join(left_out))


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block; a traceback shows the page's own lines."""
    code = "\n" * block.line + block.text
    exec(compile(code, str(ROOT / block.page), "exec", dont_inherit=True), names)


def run_shell(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command(block)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (
        f"{block.place} ends with {done.returncode}:\n{done.stderr[-3000:]}"
    )


def command(block: Block) -> str:
    """The text, with the arguments added to the last command."""
    if not block.arguments:
        return block.text
    *before, last = block.text.rstrip().splitlines(keepends=True)
    words, comment, note = last.partition("  #")
    return f"{''.join(before)}{words.rstrip()} {block.arguments}{comment}{note}\n"


def lack(block: Block) -> str:
    """What the block needs and this environment does not have; empty where it has all."""
    for pattern, module in MODULES.items():
        if re.search(pattern, block.text) and importlib.util.find_spec(module) is None:
            return module
    if "yunet_n.onnx" in block.text and not Path("yunet_n.onnx").exists():
        return "a published detector, see CONTRIBUTING.md"
    return ""


def any_assets(request: pytest.FixtureRequest) -> Path | None:
    """The folder of real files, where there is one."""
    try:
        folder: Path = request.getfixturevalue("assets")
    except pytest.skip.Exception:
        return None
    return folder


def fill(folder: Path, assets: Path | None) -> None:
    """Put what pages talk about into `folder`."""
    sample = ROOT / "docs" / "astronaut.jpg"
    photo = cv2.imread(str(sample))
    copies = ("photo.jpg", "game.jpg", "docs/astronaut.jpg", "holiday/beach.jpg")
    for name in (*copies, "holiday/more/boat.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample, folder / name)
    for person in ("ada", "ben", "mia"):  # whose photos a rule sets aside follows from these names
        (folder / "mine" / person).mkdir(parents=True)
        for i in range(3):
            light = np.clip(photo * (0.7 + 0.2 * i), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "mine" / person / f"{i}.jpg"), light)
    video = cv2.VideoWriter(
        str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240)
    )
    for i in range(8):
        video.write(np.ascontiguousarray(photo[:240, 40 + 4 * i : 360 + 4 * i]))
    video.release()
    weights = random_weights(refnet.build("pfld", width=0.25))
    for name in ("pfld.pth", "pfld.pth.tar"):
        (folder / name).write_bytes(zip_of(weights))
    np.save(folder / "x.npy", np.zeros((1, 3, 112, 112), np.float32))
    if importlib.util.find_spec("onnx"):
        refnet.load("pfld-ultralight-slim").export(folder / "detector.onnx")
    if assets is not None:
        shutil.copy(assets / "detectors" / "yunet_n_dynamic.onnx", folder / "yunet_n.onnx")
