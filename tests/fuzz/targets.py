"""What is fuzzed: functions that take the bytes of a file, and what they may do with them.

A target gets the bytes and an empty folder. It may raise nothing but refnet's errors. Those must be one short line without
control characters; nothing may take seconds, or memory out of proportion. Another reader joins by `@register("name")`, and
by files to start from in `tests/corpus/name`.
"""

from __future__ import annotations

import importlib.util
import io
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refnet import Model, RefnetError, build
from refnet.checkpoints import identify, read

CORPUS = Path(__file__).parents[1] / "corpus"
#: Between the text and the weights of ncnn's pair of files, in one input.
NCNN_CUT = b"\n--- weights ---\n"
SECONDS_AT_MOST = 5.0
MESSAGE_AT_MOST = 3000

Run = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        in_suite: whether `tests/test_fuzz.py` runs it too.
        needs: a package without which it does not run.
    """

    name: str
    run: Run
    in_suite: bool = True
    needs: str = ""

    @property
    def available(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    def corpus(self) -> list[Path]:
        """The files to start from, in order."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())


TARGETS: dict[str, Target] = {}


def register(name: str, *, in_suite: bool = True, needs: str = "") -> Callable[[Run], Run]:
    """Make a function a target."""

    def add(run: Run) -> Run:
        TARGETS[name] = Target(name, run, in_suite, needs)
        return run

    return add


def finding(target: Target, content: bytes, folder: Path) -> str:
    """What is wrong with how `target` takes `content`, in one line that is equal for equal causes; empty if nothing is."""
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.run(content, folder)
    except RefnetError as error:
        message = str(error)
        if not message.isprintable() or len(message) > MESSAGE_AT_MOST:
            return f"{type(error).__name__} whose message is no short line: {_place(error)}"
        if isinstance(error.__cause__, MemoryError):
            return f"memory exhausted: {_place(error.__cause__)}"
    except Exception as error:
        return f"{type(error).__name__}: {_place(error)}"
    if time.process_time() - began > SECONDS_AT_MOST:
        return "slow"
    return ""


def _place(error: BaseException) -> str:
    """Where in refnet an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "/tests/" not in frame.filename and "refnet" in frame.filename
    ]
    if not frames:
        return "nowhere"
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"


def _load(path: Path, *, inert: bool = False) -> None:
    """What `refnet.load` and `refnet convert` do with a file, short of running the network."""
    network, options, tensors = identify(read(path, inert=inert))
    Model(build(network, **options), tensors, backend="numpy")


@register("checkpoint")
def checkpoint(content: bytes, folder: Path) -> None:
    """A whole file of any format."""
    path = folder / "file.pth"
    path.write_bytes(content)
    _load(path)


@register("pickle")
def pickle(content: bytes, folder: Path) -> None:
    """The pickle inside of PyTorch's zip archive, whose checksums would catch most changes before it runs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for key in range(6):
            archive.writestr(f"archive/data/{key}", bytes(range(64)))
    path = folder / "file.pth"
    path.write_bytes(buffer.getvalue())
    try:
        _load(path)
    finally:
        _load(path, inert=True)


@register("npy")
def npy(content: bytes, folder: Path) -> None:
    """A member of NumPy's archive."""
    path = folder / "file.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conv1.weight.npy", content)
    _load(path)


@register("safetensors")
def safetensors(content: bytes, folder: Path) -> None:
    """The header of a safetensors file, at its true length."""
    path = folder / "file.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(2400))
    _load(path)


@register("ncnn")
def ncnn(content: bytes, folder: Path) -> None:
    """ncnn's pair of files."""
    text, _, weights = content.partition(NCNN_CUT)
    (folder / "net.bin").write_bytes(weights)
    path = folder / "net.param"
    path.write_bytes(text)
    _load(path)


@register("onnx-weights", needs="onnx")
def onnx_weights(content: bytes, folder: Path) -> None:
    """The weights of an ONNX model."""
    path = folder / "file.onnx"
    path.write_bytes(content)
    _load(path)


@register("onnx-network", in_suite=False, needs="onnx")
def onnx_network(content: bytes, folder: Path) -> None:
    """The network in an ONNX model."""
    from refnet.exchange.onnx_import import from_onnx

    path = folder / "file.onnx"
    path.write_bytes(content)
    from_onnx(path)
