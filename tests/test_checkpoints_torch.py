"""torch.save's files are read bit for bit: first files written by hand, then files that torch wrote."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet import CheckpointError, UnsafeCheckpointError, WeightsError
from refnet.checkpoints import read
from tests import checkpoint_files as files

WRAPPERS = (
    "pfld_backbone",
    "plfd_backbone",
    "state_dict",
    "model",
    "net",
    "backbone",
    "ema",
    "model_state_dict",
)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.pth"
    path.write_bytes(content)
    return path


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


# --- written by hand


def test_zip_and_legacy_hold_the_same_tensors(tmp_path: Path) -> None:
    arrays = files.some_arrays()
    for content, kind in ((files.zip_of(arrays), "zip"), (files.legacy_of(arrays), "legacy")):
        checkpoint = read(written(tmp_path, content))
        assert checkpoint.format == f"torch {kind}"
        assert_same(checkpoint.tensors, arrays)


def test_arrays_are_read_only_contiguous_and_their_own(tmp_path: Path) -> None:
    array = read(written(tmp_path, files.zip_of(files.some_arrays()))).tensors["conv1.weight"]
    assert array.flags.c_contiguous and array.flags.aligned and not array.flags.writeable


@pytest.mark.parametrize("byteorder", [b"little", b"big", None])
def test_tensors_of_either_byte_order_are_read(tmp_path: Path, byteorder: bytes | None) -> None:
    values = np.arange(6, dtype=np.float32)
    raw = values.astype(">f4" if byteorder == b"big" else "<f4").tobytes()
    value = files.ordered({"w": files.tensor(files.storage("0", 6), (2, 3), (3, 1))})
    found = read(written(tmp_path, files.torch_zip(value, {"0": raw}, byteorder))).tensors["w"]
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values.reshape(2, 3))


def test_strides_offsets_and_shared_storage_are_followed(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32)
    whole = files.storage("0", 24)
    value = files.ordered(
        {
            "transposed": files.tensor(whole, (6, 4), (1, 6)),
            "every third": files.tensor(whole, (7,), (3,), 2),
            "expanded": files.tensor(whole, (3, 4), (0, 1), 8),
            "scalar": files.tensor(whole, (), (), 5),
            "empty": files.tensor(whole, (0, 3), (3, 1)),
        }
    )
    found = read(written(tmp_path, files.torch_zip(value, {"0": values.tobytes()}))).tensors
    np.testing.assert_array_equal(found["transposed"], values.reshape(4, 6).T)
    np.testing.assert_array_equal(found["every third"], values[2:21:3])
    np.testing.assert_array_equal(found["expanded"], np.tile(values[8:12], (3, 1)))
    assert found["scalar"].shape == () and found["scalar"] == 5
    assert found["empty"].shape == (0, 3)


def test_legacy_views_of_a_storage_are_followed(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)
    view = files.sequence(files.text("0v"), files.integer(4), files.integer(3))
    value = files.ordered({"w": files.tensor(files.storage("0", 10, view=view), (2,), (1,), 1)})
    content = files.torch_legacy(value, {"0": (10, values.tobytes())})
    np.testing.assert_array_equal(read(written(tmp_path, content)).tensors["w"], [5, 6])


@pytest.mark.parametrize(
    ("of", "raw", "expected"),
    [
        ("torch.DoubleStorage", np.array([1.5, -2], "<f8"), np.array([1.5, -2], "f8")),
        ("torch.HalfStorage", np.array([1.5, -2], "<f2"), np.array([1.5, -2], "f2")),
        ("torch.BFloat16Storage", np.array([0x3FC0, 0xC000], "<u2"), np.array([1.5, -2], "f4")),
        ("torch.LongStorage", np.array([2**40, -2], "<i8"), np.array([2**40, -2], "i8")),
        ("torch.IntStorage", np.array([2**30, -2], "<i4"), np.array([2**30, -2], "i4")),
        ("torch.ShortStorage", np.array([300, -2], "<i2"), np.array([300, -2], "i2")),
        ("torch.CharStorage", np.array([100, -2], "i1"), np.array([100, -2], "i1")),
        ("torch.ByteStorage", np.array([200, 2], "u1"), np.array([200, 2], "u1")),
        ("torch.BoolStorage", np.array([0, 7], "u1"), np.array([False, True])),
        ("torch.cuda.FloatStorage", np.array([1.5, -2], "<f4"), np.array([1.5, -2], "f4")),
    ],
)
def test_every_element_type_is_read_exactly(
    tmp_path: Path, of: str, raw: Any, expected: Any
) -> None:
    value = files.ordered({"w": files.tensor(files.storage("0", 2, of), (2,), (1,))})
    for content in (
        files.torch_zip(value, {"0": raw.tobytes()}),
        files.torch_legacy(value, {"0": (2, raw.tobytes())}),
    ):
        found = read(written(tmp_path, content)).tensors["w"]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_text_of_python_2_and_protocol_4_is_read(tmp_path: Path) -> None:
    held = files.storage("0", 2)
    python2 = b"}U\x01w" + files.tensor(held, (2,), (1,)) + b"s"
    protocol4 = b"\x95" + bytes(8) + b"}\x94\x8c\x01w" + files.tensor(held, (2,), (1,)) + b"s0h\x00"
    raw = np.array([1, 2], "<f4").tobytes()
    for value in (python2, protocol4):
        found = read(written(tmp_path, files.torch_zip(value, {"0": raw}))).tensors
        np.testing.assert_array_equal(found["w"], [1, 2])


def test_older_and_newer_rebuilding_functions_are_known(tmp_path: Path) -> None:
    held, raw = files.storage("0", 4, "torch.storage.UntypedStorage"), b"\x01\x00\xff\xff"
    sizes = (files.integers((2,)), files.integers((1,)))
    hooks = files.call("collections.OrderedDict")
    third = files.call(
        "torch._utils._rebuild_tensor_v3",
        *(held, files.integer(0), *sizes, b"\x89", hooks, files.glob("torch.uint16")),
    )
    old = files.call("torch._utils._rebuild_tensor", held, files.integer(2), *sizes)
    parameter = files.call("torch._utils._rebuild_parameter", third, b"\x88", hooks)
    value = files.ordered({"new": third, "old": old, "parameter": parameter})
    found = read(written(tmp_path, files.torch_zip(value, {"0": raw}))).tensors
    np.testing.assert_array_equal(found["new"], np.array([1, 0xFFFF], "u2"))
    np.testing.assert_array_equal(found["old"], np.array([255, 255], "u1"))
    np.testing.assert_array_equal(found["parameter"], found["new"])


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "model.state_dict", "anything"])
def test_a_wrapper_is_found_whatever_stands_beside_it(tmp_path: Path, wrapper: str) -> None:
    arrays = files.some_arrays()
    value = files.state_dict(arrays)
    for name in reversed(wrapper.split(".")):
        beside = {"epoch": files.integer(3), "name": files.text("x"), "lr": b"G" + bytes(8)}
        optimizer = files.mapping({"param_groups": b"](" + files.mapping({}) + b"e"})
        value = files.mapping({**beside, "optimizer": optimizer, name: value, "none": b"N"})
    raw = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    checkpoint = read(written(tmp_path, files.torch_zip(value, raw)))
    assert checkpoint.chosen == wrapper and list(checkpoint.state_dicts) == [wrapper]
    assert_same(checkpoint.tensors, arrays)


def test_a_state_dict_can_be_chosen(tmp_path: Path) -> None:
    raw = np.arange(4, dtype=np.float32).tobytes()
    one = files.ordered({"a": files.tensor(files.storage("0", 4), (4,), (1,))})
    two = files.ordered(
        {name: files.tensor(files.storage("0", 4), (2, 2), (2, 1)) for name in "bc"}
    )
    value = files.mapping({"auxiliarynet": two, "pfld_backbone": one})
    path = written(tmp_path, files.torch_zip(value, {"0": raw}))
    assert list(read(path).tensors) == ["a"]  # the known wrapper wins over the larger state dict
    assert list(read(path, state_dict="auxiliarynet").tensors) == ["b", "c"]
    with pytest.raises(
        WeightsError, match=r"no state dict 'nothing'.*'auxiliarynet', 'pfld_backbone'"
    ):
        read(path, state_dict="nothing")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (files.mapping({"epoch": files.integer(3)}), "holds a dict and no state dict"),
        (files.tensor(files.storage("0", 1), (1,), (1,)), "holds one tensor and no state dict"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path: Path, value: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(written(tmp_path, files.torch_zip(value, {"0": bytes(4)})))


def module(name: str, **state: bytes) -> bytes:
    """The program of an object of the class `name` with the given state."""
    return files.glob(name) + b")\x81" + files.mapping(state) + b"b"


def test_a_pickled_module_is_refused_by_name_and_readable_inert(tmp_path: Path) -> None:
    weight = files.tensor(files.storage("0", 2), (2,), (1,))
    inner = module(
        "their_code.Block",
        _parameters=files.ordered({"weight": weight, "bias": b"N"}),
        _buffers=files.ordered({"mean": weight, "scratch": weight}),
        _non_persistent_buffers_set=files.call(
            "__builtin__.set", b"]" + files.text("scratch") + b"a"
        ),
        _modules=files.ordered({}),
    )
    outer = module(
        "their_code.Net",
        _parameters=files.ordered({}),
        _modules=files.ordered({"stage": inner, "nothing": b"N"}),
    )
    path = written(tmp_path, files.torch_zip(outer, {"0": np.array([1, 2], "<f4").tobytes()}))
    with pytest.raises(UnsafeCheckpointError, match=r"class their_code\.Net.*inert=True"):
        read(path)
    found = read(path, inert=True).tensors
    assert list(found) == ["stage.weight", "stage.mean"]
    np.testing.assert_array_equal(found["stage.weight"], [1, 2])
    assert "their_code" not in sys.modules


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = written(tmp_path, files.zip_of(files.some_arrays()))
    code = (
        "import sys, refnet.checkpoints; refnet.checkpoints.read(sys.argv[1]);"
        "print([m for m in ('torch', 'onnx', 'numba', 'cv2', 'safetensors') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "[]", "")


# --- written by torch


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_of_torch_is_read_exactly(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()  # noqa: SIM905
    names += ["uint16", "uint32", "uint64"]
    saved = {n: torch.arange(7).sub(3).abs().to(getattr(torch, n)) for n in names}
    path = tmp_path / "file.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    expected = {n: (t.float() if n == "bfloat16" else t).numpy() for n, t in saved.items()}
    assert_same(read(path).tensors, expected)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torchs_views_parameters_and_extras_are_read_exactly(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tied = torch.randn(3)
    saved = {
        "state_dict": {
            "base": base,
            "transposed": base.t(),
            "sliced": base[1:5:2, 3:],
            "expanded": base[0].expand(4, 8),
            "permuted": base.view(2, 3, 8).permute(2, 0, 1),
            "parameter": torch.nn.Parameter(base.clone()),
            "empty": torch.zeros(0, 3),
            "scalar": torch.tensor(2.5),
            "tied": tied,
            "tied too": tied,
            **net.state_dict(),
        },
        "optimizer": torch.optim.Adam(net.parameters()).state_dict(),
        "epoch": 3,
        "extras": [1.5, "text", b"bytes", None, True, 2**70, {1, 2}, (1, 2, 3, 4), 1 + 2j],
        "torch": [torch.device("cpu"), torch.float16, torch.Size([1, 2])],
    }
    path = tmp_path / "file.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    checkpoint = read(path)
    assert checkpoint.chosen == "state_dict"
    expected = {n: t.detach().numpy() for n, t in saved["state_dict"].items()}
    assert_same(checkpoint.tensors, expected)
    assert checkpoint.tensors["tied"] is checkpoint.tensors["tied too"]


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_module_inert_equals_its_state_dict(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.ReLU()}),
    )
    net.register_buffer("kept", torch.ones(2))
    net.register_buffer("left_out", torch.ones(2), persistent=False)
    path = tmp_path / "file.pth"
    torch.save(net, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules"):
        read(path)
    assert_same(read(path, inert=True).tensors, {n: t.numpy() for n, t in net.state_dict().items()})


def test_settings_beside_the_tensors_are_passed_over_inert(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import argparse
    import collections

    path = tmp_path / "file.pth"
    beside = {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(3),
        "history": np.zeros(3),
        "default": collections.defaultdict(list, a=[1]),
    }
    torch.save({"model": {"w": torch.ones(2)}, **beside}, path)
    with pytest.raises(UnsafeCheckpointError, match="inert=True"):
        read(path)
    np.testing.assert_array_equal(read(path, inert=True).tensors["w"], [1, 1])
