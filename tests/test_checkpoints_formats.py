"""safetensors, npz, MXNet, ncnn and ONNX: each read back exactly, and told apart by content alone."""

import hashlib
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet import CheckpointError, DependencyError
from refnet.checkpoints import ncnn, onnx_file, read
from refnet.checkpoints.layers import Layer
from refnet.checkpoints.safetensors_file import write_safetensors
from tests import checkpoint_files as files


def assert_same(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()
        assert not found[name].flags.writeable


def many_dtypes() -> dict[str, Any]:
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")
    arrays = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in kinds}
    return arrays | {
        "bool": np.array([True, False]),
        "scalar": np.array(2.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
    }


# --- told apart by content


def test_formats_are_found_by_content_whatever_the_name(tmp_path: Path) -> None:
    arrays = files.some_arrays()
    write_safetensors(tmp_path / "s", arrays, {})
    contents = {
        "torch zip": files.zip_of(arrays),
        "torch legacy": files.legacy_of(arrays),
        "npz": files.npz_of(arrays),
        "mxnet": files.mxnet_of(arrays),
        "safetensors": (tmp_path / "s").read_bytes(),
    }
    for form, content in contents.items():
        for suffix in (".pth", ".onnx", ".bin", ""):
            path = tmp_path / f"misleading{suffix}"
            path.write_bytes(content)
            checkpoint = read(path)
            assert checkpoint.format == form
            assert checkpoint.path == path
            assert checkpoint.sha256 == hashlib.sha256(content).hexdigest()
            assert sum(array.size for array in checkpoint.tensors.values()) == 4 * 27 + 4 + 8 + 2


# --- safetensors


def test_safetensors_that_the_reference_implementation_wrote_are_read(tmp_path: Path) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "file.safetensors"
    arrays = many_dtypes()
    reference.save_file(arrays, path, metadata={"made": "elsewhere"})
    checkpoint = read(path)
    assert_same(checkpoint.tensors, arrays)
    assert checkpoint.metadata == {"made": "elsewhere"}


def test_safetensors_that_we_write_the_reference_implementation_reads(tmp_path: Path) -> None:
    safe_open = pytest.importorskip("safetensors").safe_open
    path = tmp_path / "file.safetensors"
    arrays = many_dtypes() | {"transposed": np.arange(6, dtype="f4").reshape(2, 3).T}
    arrays["big endian"] = np.arange(3).astype(">f4")
    write_safetensors(path, arrays, {"network": "pfld", "note": "§ unicode"})
    with safe_open(path, "np") as opened:
        assert opened.metadata() == {"network": "pfld", "note": "§ unicode"}
        found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    header = struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert header % 8 == 0


@pytest.mark.parametrize("length", [0x80, 0x1C80, 0x112])
def test_safetensors_are_recognised_though_their_length_begins_another_format(
    tmp_path: Path, length: int
) -> None:
    """The header's length comes first: 0x80 begins a pickle, 0x112 is MXNet's number."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    values = np.array([1.5, -2.0], np.float32)
    path = tmp_path / "file.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + values.tobytes())
    checkpoint = read(path)
    assert checkpoint.format == "safetensors"
    np.testing.assert_array_equal(checkpoint.tensors["w"], values)


def test_safetensors_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("safetensors.torch")
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).bfloat16()
    reference.save_file({"w": values}, tmp_path / "file.safetensors")
    found = read(tmp_path / "file.safetensors").tensors["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.float().numpy())


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.safetensors"
    write_safetensors(path, files.some_arrays(1), {})
    before = path.read_bytes()
    write_safetensors(path, files.some_arrays(1), {})
    assert path.read_bytes() == before  # the same input gives the same bytes

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space"):
        write_safetensors(path, files.some_arrays(2), {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_safetensors(tmp_path / "no folder" / "file.safetensors", {}, {})
    with pytest.raises(CheckpointError, match="no such dtype"):
        write_safetensors(path, {"w": np.zeros(2, complex)}, {})


# --- npz


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_npz_of_any_dtype_and_order_is_read_exactly(tmp_path: Path, saver: Any) -> None:
    path = tmp_path / "file.npz"
    arrays = many_dtypes()
    arrays["fortran"] = np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3))
    arrays["one.dotted.name"] = np.arange(3).astype(">f4")
    saver(path, **arrays)
    found = read(path).tensors
    arrays["one.dotted.name"] = arrays["one.dotted.name"].astype("f4")
    assert_same(found, arrays)


# --- MXNet


@pytest.mark.parametrize("version", [0, 1, 2])
def test_mxnet_files_of_every_version_are_read_exactly(tmp_path: Path, version: int) -> None:
    arrays = files.some_arrays()
    path = tmp_path / "file.params"
    path.write_bytes(files.mxnet_of(arrays, version))
    expected = {name.replace(".", "_"): array for name, array in arrays.items()}
    assert_same(read(path).tensors, expected)


def test_mxnet_prefixes_go_and_placeholders_are_left_out(tmp_path: Path) -> None:
    ones = np.ones(2, np.float32)
    empty = struct.pack("<IiI", 0xF993FAC9, 0, 0)
    half = struct.pack("<IiIqiii", 0xF993FAC9, 0, 1, 2, 1, 0, 2) + ones.astype("<f2").tobytes()
    names = b"".join(struct.pack("<Q", len(n)) + n for n in (b"aux:bn_mean", b"arg:x", b"plain"))
    count = struct.pack("<Q", 3)
    body = files.mxnet_array(ones) + empty + half
    path = tmp_path / "file.params"
    path.write_bytes(struct.pack("<QQ", 0x112, 0) + count + body + count + names)
    assert_same(read(path).tensors, {"bn_mean": ones, "plain": ones.astype("f2")})


# --- ncnn


def chain(random: np.random.Generator) -> dict[str, tuple[Any, Any]]:
    shapes = {"conv1": (4, 3, 3, 3), "conv2": (3, 4, 1, 5)}
    return {
        name: (random.standard_normal(s, np.float32), random.standard_normal(s[0], np.float32))
        for name, s in shapes.items()
    }


@pytest.mark.parametrize(("tag", "dtype"), [(0, "f4"), (0x01306B47, "f2")])
def test_ncnn_pairs_are_read_by_either_file(tmp_path: Path, tag: int, dtype: str) -> None:
    convolutions = chain(np.random.default_rng(3))
    convolutions["conv3"] = (np.ones((1, 1, 3, 3), np.float32), np.ones(1, np.float32))  # 9: odd
    param, raw = files.ncnn_of(convolutions, tag)
    (tmp_path / "net.param").write_bytes(param)
    (tmp_path / "net.bin").write_bytes(raw)
    for name in ("net.param", "net.bin"):
        checkpoint = read(tmp_path / name)
        assert checkpoint.format == "ncnn" and checkpoint.path == tmp_path / "net.bin"
        assert checkpoint.sha256 == hashlib.sha256(raw).hexdigest()
        for layer, (weight, bias) in convolutions.items():
            found = checkpoint.tensors[f"{layer}.weight"]
            np.testing.assert_array_equal(found, weight.astype(dtype))
            np.testing.assert_array_equal(checkpoint.tensors[f"{layer}.bias"], bias)
        assert checkpoint.layers[1] == Layer("conv", "conv2.weight", "conv2.bias")


def test_ncnn_layers_of_every_kind_get_their_shapes(tmp_path: Path) -> None:
    depthwise, linear = np.arange(18, dtype="<f4"), np.arange(8, dtype="<f4")
    text = (
        "7767517\n3 3\nInput data 0 1 data\n"
        "ConvolutionDepthWise dw 1 1 data dw 0=2 1=3 4=1 5=0 6=18 7=2\n"
        "InnerProduct fc 1 1 dw out 0=4 1=1 2=8 -23310=1,0.5\n"
    )
    raw = bytes(4) + depthwise.tobytes() + bytes(4) + linear.tobytes() + linear[:4].tobytes()
    (tmp_path / "net.param").write_text(text)
    (tmp_path / "net.bin").write_bytes(raw)
    checkpoint = read(tmp_path / "net.param")
    np.testing.assert_array_equal(checkpoint.tensors["dw.weight"], depthwise.reshape(2, 1, 3, 3))
    np.testing.assert_array_equal(checkpoint.tensors["fc.weight"], linear.reshape(4, 2))
    assert [layer.op for layer in checkpoint.layers] == ["conv", "linear"]
    assert [layer.bias for layer in checkpoint.layers] == [None, "fc.bias"]


# --- ONNX


def onnx_model(nodes: Any, tensors: Any) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(nodes, "g", [value], [value], tensors)
    model = helper.make_model(graph, producer_name="a test", producer_version="1")
    content: bytes = model.SerializeToString()
    return content


def test_onnx_tensors_and_layers_come_in_graph_order_through_aliases(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    random = np.random.default_rng(5)
    kernel, matrix = random.standard_normal((2, 3, 3, 3), np.float32), np.ones((5, 2), np.float32)
    typed = helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2], [1.5, 2.5])
    halves = helper.make_tensor("halves", onnx.TensorProto.FLOAT16, [2], [1.5, 2.5])
    brains = helper.make_tensor("brains", onnx.TensorProto.BFLOAT16, [2], [1.5, 2.5])
    constant = numpy_helper.from_array(np.array([3.0, 4.0], np.float32))
    nodes = [
        helper.make_node("Identity", ["typed"], ["alias"]),
        helper.make_node("Constant", [], ["inline"], value=constant),
        helper.make_node("Conv", ["x", "kernel", "alias"], ["a"]),
        helper.make_node("Conv", ["a", "kernel", "inline"], ["b"]),
        helper.make_node("Gemm", ["b", "matrix"], ["c"]),
    ]
    tensors = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")]
    path = tmp_path / "file.onnx"
    path.write_bytes(onnx_model(nodes, [*tensors, typed, halves, brains]))
    checkpoint = read(path)
    expected = {
        "kernel": kernel,
        "matrix": matrix.T,  # transB is 0: inputs by outputs
        "typed": np.array([1.5, 2.5], np.float32),
        "halves": np.array([1.5, 2.5], np.float16),
        "brains": np.array([1.5, 2.5], np.float32),
        "inline": np.array([3, 4], np.float32),
    }
    assert_same(checkpoint.tensors, expected)
    assert checkpoint.layers == (
        Layer("conv", "kernel", "typed"),
        Layer("conv", "kernel", "inline"),
        Layer("linear", "matrix", None),
    )
    assert checkpoint.metadata["producer"] == "a test 1"
    assert checkpoint.metadata["operators"] == "Constant=1 Conv=2 Gemm=1 Identity=1"


def test_onnx_files_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    path = tmp_path / "file.onnx"
    short = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    short.dims[0] = 2**40
    negative = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    negative.dims[0] = -2
    elsewhere = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=1)
    words = helper.make_tensor("w", onnx.TensorProto.STRING, [1], [b"text"])
    scaled = helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0)
    good = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 2], [1.0, 2.0])
    for content, match in (
        (onnx_model([], [short]), "does not hold the numbers"),
        (onnx_model([], [negative]), "does not hold the numbers"),
        (onnx_model([], [elsewhere]), "lies in another file"),
        (onnx_model([], [words]), "element type 8"),
        (onnx_model([scaled], [good]), "scales its product"),
        (onnx_model([], [good])[:-9], "cut off or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            read(path)


def test_onnx_files_name_the_extra_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(b"\x08\x04\x12\x07pytorch\x3a\x00")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"refnet\[onnx\]"):
        read(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ReLU a 1 1 x y", "ReLU=1"),
        ("ReLU a 1 1 x y 0=0.000000e+00", "ReLU=1"),
        ("ReLU a 1 1 x y 0=1.000000e-01", "LeakyRelu=1"),
        ("Clip a 1 1 x y 0=0.000000e+00 1=6.000000e+00", "Clip=1"),
        ("Clip a 1 1 x y 0=0 1=1", "Clip(0,1)=1"),
        ("Convolution a 1 1 x y 0=1 1=1 6=1 9=1", "Convolution=1 ReLU=1"),
        ("Convolution a 1 1 x y 0=1 1=1 6=1 9=3 -23310=2,0.0,6.0", "Clip=1 Convolution=1"),
        ("Convolution a 1 1 x y 0=1 1=1 6=1 9=2 -23310=1,0.1", "Convolution=1 LeakyRelu=1"),
        ("InnerProduct a 1 1 x y 0=1 2=1 9=6", "HardSwish=1 InnerProduct=1"),
    ],
)
def test_ncnn_activations_are_counted_inside_of_layers_too(line: str, expected: str) -> None:
    """Of tools/pnnx and ncnnoptimize, which moves activations into the layers before them."""
    assert ncnn.operators(f"7767517\n1 2\n{line}\n".encode()) == expected


@pytest.mark.parametrize(
    ("inputs", "attributes", "expected"),
    [
        (["x", "zero", "six"], {}, "Clip"),
        (["x", "zero"], {}, "Relu"),
        (["x", "zero", ""], {}, "Relu"),
        (["x", "zero", "one"], {}, "Clip(0.0,1.0)"),
        (["x", "zero", "unknown"], {}, "Clip(0.0,?)"),
        (["x"], {"min": 0.0, "max": 6.0}, "Clip"),
        (["x"], {"min": -1.0, "max": 1.0}, "Clip(-1.0,1.0)"),
    ],
)
def test_onnx_clips_are_named_by_their_bounds(
    inputs: list[str], attributes: dict[str, float], expected: str
) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Clip", inputs, ["y"], **attributes)
    constants = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("zero", 0), ("one", 1), ("six", 6))
    ]
    graph = onnx.helper.make_graph([node], "g", [], [], constants)
    _, _, metadata = onnx_file.read_onnx(onnx.helper.make_model(graph).SerializeToString())
    assert metadata["operators"] == f"{expected}=1"
