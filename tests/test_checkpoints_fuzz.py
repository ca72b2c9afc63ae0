"""Thousands of damaged files: each loads, or raises one error of ours, quickly.

Small files of every format are mutated everywhere, real ones mostly in their heads and directories.
"""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet import RefnetError, WeightsError
from refnet.checkpoints import identify, read
from refnet.checkpoints.safetensors_file import write_safetensors
from tests import checkpoint_files as files

# What is made of a polaris file without its activation is tested in test_checkpoints_identify.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*the file does not say whether:RuntimeWarning")

SECONDS_AT_MOST = (
    5.0  # of the processor; a damaged file of a few kilobytes takes about a millisecond
)

EXTREMES = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80" * 2,
    b"",
    b"R",
]
MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "set", "insert", "delete", "truncate", "copy", "extreme"]),
    st.integers(0, 255),
)


def mutated(content: bytes, mutations: list[tuple[float, str, int]]) -> bytes:
    data = bytearray(content)
    for place, action, value in mutations:
        at = int(place * len(data))
        match action:
            case "flip":
                data[at : at + 1] = bytes(byte ^ (1 << value % 8) for byte in data[at : at + 1])
            case "set":
                data[at : at + 1] = bytes([value])
            case "insert":
                data[at:at] = bytes([value]) * (1 + value % 9)
            case "delete":
                del data[at : at + 1 + value % 9]
            case "truncate":
                del data[max(at, 2) :]
            case "copy":
                data[at:at] = data[at // 2 : at // 2 + value]
            case "extreme":
                extreme = EXTREMES[value % len(EXTREMES)]
                data[at : at + len(extreme)] = extreme
    return bytes(data)


def small_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of a small file of each format; ONNX where its package is there."""
    arrays = files.some_arrays()
    yield "zip.pth", files.zip_of(arrays)
    yield "legacy.pth", files.legacy_of(arrays)
    yield "pickle.pth", files.legacy_of({})
    yield "compressed.npz", files.npz_of(arrays)
    for version in (0, 1, 2):
        yield f"v{version}.params", files.mxnet_of(arrays, version)
    write_safetensors(folder / "s", arrays, {"refnet": "0", "network": "tinynet", "options": "{}"})
    yield "file.safetensors", (folder / "s").read_bytes()
    if importlib.util.find_spec("onnx") is not None:
        import onnx

        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        node = onnx.helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [], [], tensors)
        yield "file.onnx", onnx.helper.make_model(graph).SerializeToString()


class Samples(list[tuple[str, bytes]]):
    """(name, content) of files to damage; the contents stay out of failure reports."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def small(folder: Path) -> Samples:
    return Samples(small_files(folder))


@pytest.fixture(scope="module")
def real(assets: Path) -> Samples:
    paths = [
        *sorted((assets / "checkpoints").glob("*pth*")),
        *sorted((assets / "lffd/weights").glob("*small*.params")),
        *(sorted((assets / "pfld/onnx").glob("*One*")) if importlib.util.find_spec("onnx") else []),
    ]
    return Samples((path.name, path.read_bytes()) for path in paths)


def loads_or_raises_ours(path: Path, content: bytes, *, inert: bool = False) -> None:
    """Read and identify `content`; any error but ours, and any long wait, fails the test."""
    path.write_bytes(content)
    began = time.process_time()
    try:
        checkpoint = read(path, inert=inert)
        held = {id(array): array.nbytes for array in checkpoint.tensors.values()}
        assert sum(held.values()) <= 8 * len(content) + (1 << 20)
        identify(checkpoint)
    except RefnetError as error:
        assert isinstance(error, WeightsError)
        assert str(error).isprintable() and len(str(error)) < 3000
    assert time.process_time() - began < SECONDS_AT_MOST


@settings(max_examples=2000)
@given(
    choice=st.integers(0, 99),
    mutations=st.lists(MUTATION, min_size=1, max_size=6),
    inert=st.booleans(),
)
def test_damaged_small_files_load_or_raise_our_errors(
    folder: Path,
    small: Samples,
    choice: int,
    mutations: list[tuple[float, str, int]],
    inert: bool,
) -> None:
    name, content = small[choice % len(small)]
    loads_or_raises_ours(folder / name, mutated(content, mutations), inert=inert)


@settings(max_examples=1000)
@given(mutations=st.lists(MUTATION, min_size=1, max_size=6), inert=st.booleans())
def test_damaged_pickles_with_true_checksums_load_or_raise_our_errors(
    folder: Path, mutations: list[tuple[float, str, int]], inert: bool
) -> None:
    """A zip's checksums would catch most damage before the pickle runs; so damage comes first."""
    arrays = files.some_arrays()
    raw = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    value = files.mapping({"epoch": files.integer(3), "model": files.state_dict(arrays)})
    content = files.torch_zip(mutated(value, mutations), raw)
    loads_or_raises_ours(folder / "pickle.pth", content, inert=inert)


@settings(max_examples=300)
@given(text=st.booleans(), mutations=st.lists(MUTATION, min_size=1, max_size=6))
def test_damaged_ncnn_pairs_load_or_raise_our_errors(
    folder: Path, text: bool, mutations: list[tuple[float, str, int]]
) -> None:
    weight, bias = np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32)
    param, raw = files.ncnn_of({"conv1": (weight, bias), "conv2": (weight[:, :2], bias)})
    (folder / "net.bin").write_bytes(raw if text else mutated(raw, mutations))
    loads_or_raises_ours(folder / "net.param", mutated(param, mutations) if text else param)


@settings(max_examples=300)
@given(
    choice=st.integers(0, 99),
    region=st.sampled_from([4_000, 60_000, -30_000, 10**9]),
    mutations=st.lists(MUTATION, min_size=1, max_size=4),
)
def test_damaged_real_files_load_or_raise_our_errors(
    folder: Path,
    real: Samples,
    choice: int,
    region: int,
    mutations: list[tuple[float, str, int]],
) -> None:
    """Damage near the start, at the end (a zip's directory) or anywhere in files of megabytes."""
    name, content = real[choice % len(real)]
    at = min(region, len(content)) if region > 0 else len(content) + region
    head, tail = content[:at], content[at:]
    damaged = mutated(head, mutations) + tail if region > 0 else head + mutated(tail, mutations)
    loads_or_raises_ours(folder / name, damaged)
