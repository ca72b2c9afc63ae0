"""Hostile and broken files: one clear error each, nothing executed, no memory beyond the file's size."""

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet import CheckpointError, UnsafeCheckpointError
from refnet.checkpoints import pickle_machine, read
from tests import checkpoint_files as files

GOOD = files.tensor(files.storage("0", 4), (4,), (1,))
RAW = {"0": bytes(16)}


def refused(path: Path, content: bytes, match: str, *, inert: bool = False) -> None:
    """`content` gives one CheckpointError that matches, and little memory is used on the way."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            read(path, inert=inert)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1200
    assert peak < 100 * len(content) + 4_000_000


def os_system(marker: Path) -> bytes:
    return files.call("os.system", files.text(f"touch {marker}"))


ATTACKS = {
    "os.system": lambda marker: os_system(marker),
    "posix.system": lambda marker: files.call("posix.system", files.text(f"touch {marker}")),
    "builtins.eval": lambda marker: files.call(
        "builtins.eval", files.text(f"open({str(marker)!r}, 'w')")
    ),
    "builtins.getattr": lambda marker: (
        files.call("builtins.getattr", files.glob("os"), files.text("system"))
        + files.sequence(files.text(f"touch {marker}"))
        + b"R"
    ),
    "subprocess.Popen": lambda marker: (
        files.glob("subprocess.Popen") + files.sequence(files.text(f"touch {marker}")) + b"\x81"
    ),
    "torch.load": lambda marker: files.call("torch.load", files.text(str(marker))),
    "torch.FloatStorage": lambda marker: files.call("torch.FloatStorage", files.integer(10**9)),
    "numpy.load": lambda marker: files.call("numpy.load", files.text(str(marker))),
    "their.Class": lambda marker: files.glob("their.Class"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["alone", "beside", "in the tensor", "in a key"])
@pytest.mark.parametrize("legacy", [True, False])
def test_what_a_pickle_asks_for_is_refused_and_not_done(
    tmp_path: Path, attack: str, place: str, legacy: bool
) -> None:
    marker = tmp_path / "executed"
    evil = ATTACKS[attack](marker)
    value = {
        "alone": evil,
        "beside": files.mapping({"state_dict": files.ordered({"w": GOOD}), "more": evil}),
        "in the tensor": files.ordered(
            {"w": files.call("torch._utils._rebuild_tensor_v2", evil, *[files.integer(1)] * 5)}
        ),
        "in a key": b"}" + evil + files.integer(1) + b"s",
    }[place]
    content = files.torch_legacy(value, {}) if legacy else files.torch_zip(value, RAW)
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    if not (attack == "their.Class" and place in ("in the tensor", "in a key")):
        assert isinstance(caught.value, UnsafeCheckpointError)
        assert attack in str(caught.value) and "nothing was executed" in str(caught.value)
    assert not marker.exists()
    try:  # inert makes placeholders of objects; functions are refused all the same
        read(path, inert=True)
    except CheckpointError:
        pass
    else:
        assert attack in ("subprocess.Popen", "their.Class") and place == "beside"
    assert not marker.exists()


@pytest.mark.parametrize(
    "opcode",
    [
        b"(cos\nsystem\nU\x04trueo",  # OBJ
        b"(U\x04trueios\nsystem\n",  # INST
        b"\x82\x01",  # EXT1
        b"cos\nsystem\n)}\x92",  # NEWOBJ_EX
        b"Px\n",  # PERSID
        b"\x8c\x02os\x8c\x06system\x93U\x04true\x85R",  # STACK_GLOBAL, REDUCE
    ],
)
def test_other_ways_to_make_objects_are_unsafe(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(files.torch_zip(opcode, RAW))
    with pytest.raises(UnsafeCheckpointError, match="refused; nothing was executed"):
        read(path, inert=True)


def test_functions_are_refused_inert_too(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    value = files.mapping({"state_dict": files.ordered({"w": GOOD}), "more": os_system(marker)})
    path = tmp_path / "file.pth"
    path.write_bytes(files.torch_zip(value, RAW))
    with pytest.raises(UnsafeCheckpointError, match=r"call os\.system"):
        read(path, inert=True)
    assert not marker.exists()


def one(value: bytes, raw: bytes = bytes(16)) -> bytes:
    return files.torch_zip(files.ordered({"w": value}), {"0": raw})


FOUR = files.storage("0", 4)
BAD_TENSORS = {
    "longer than its storage": (files.tensor(FOUR, (5,), (1,)), "reaches 5 elements"),
    "stride beyond": (files.tensor(FOUR, (2, 2), (3, 1)), "reaches 5 elements"),
    "offset beyond": (files.tensor(FOUR, (1,), (1,), 4), "from 4 on"),
    "storage claims too much": (
        files.tensor(files.storage("0", 400), (400,), (1,)),
        "reaches 400 elements",
    ),
    "negative size": (files.tensor(FOUR, (-1,), (1,)), "should be a count"),
    "negative stride": (files.tensor(FOUR, (2,), (-1,), 1), "should be a count"),
    "negative offset": (files.tensor(FOUR, (1,), (1,), -1), "should be a count"),
    "overflowing size": (files.tensor(FOUR, (2**61, 2**61, 8), (0, 0, 0)), "may fill"),
    "overflowing stride": (files.tensor(FOUR, (2,), (2**61,)), "reaches"),
    "integer too large": (files.tensor(FOUR, (2**70,), (1,)), "should be a count"),
    "expanded to terabytes": (files.tensor(FOUR, (10**6, 10**6), (0, 0)), "may fill"),
    "empty and overflowing": (files.tensor(FOUR, (0, 2**61, 2**61), (1, 1, 1)), "cannot be"),
    "sizes and strides differ": (files.tensor(FOUR, (4,), (1, 1)), "1 sizes and 2 strides"),
    "too many dimensions": (files.tensor(FOUR, (1,) * 40, (1,) * 40), "at most 32"),
    "no storage": (files.tensor(files.integer(1), (1,), (1,)), "not a storage"),
    "missing storage": (files.tensor(files.storage("9", 4), (4,), (1,)), "has no member"),
    "negative count": (files.tensor(files.storage("0", -4), (1,), (1,)), "should be a count"),
    "malformed id": (
        files.tensor(files.sequence(files.text("storage")) + b"Q", (1,), (1,)),
        "neither",
    ),
    "id is not a tuple": (files.tensor(files.integer(1) + b"Q", (1,), (1,)), "neither"),
    "id of an unknown storage": (
        files.tensor(files.storage("0", 4, "torch.Size"), (1,), (1,)),
        "unknown class",
    ),
    "wrong arguments": (files.call("torch._utils._rebuild_tensor_v2"), "malformed"),
    "size is a dict": (
        files.call("torch._utils._rebuild_tensor", FOUR, files.integer(0), b"}", b"}"),
        "at most 32 counts",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_contradict_their_storage_are_refused(tmp_path: Path, case: str) -> None:
    value, match = BAD_TENSORS[case]
    refused(tmp_path / "file.pth", one(value), match)


BOMB = b"]" + b"\x94" + b"h\x00a" * 9_000
BAD_PICKLES = {
    "nothing": (b"", "malformed"),
    "stack underflow": (b"0000", "malformed"),
    "unknown opcode": (b"\xff", "opcode 0xff"),
    "future protocol": (b"\x80\x09N", "protocol 9"),
    "missing memo": (b"h\x07", "malformed"),
    "text beyond the end": (b"X\xff\xff\xff\xff", "announced"),
    "bytes of 2**63": (b"\x8e" + b"\xff" * 8, "announced"),
    "integer of gigabytes": (b"\x8b\xff\xff\xff\x7f", "integer of 2,147,483,647 bytes"),
    "integer of kilobytes": (b"\x8b\x00\x10\x00\x00" + bytes(4096), "integer of 4,096 bytes"),
    "not text": (b"X\x02\x00\x00\x00\xff\xff", "malformed"),
    "name without end": (b"c" + b"a" * 1000, "no name ends"),
    "deep marks": (b"(" * 5_000, "nests deeper"),
    "deep lists": (b"]" * 15_000 + b"a" * 14_999, "no state dict"),
    "deep tuples": (b")" + b"\x85" * 15_000, "no state dict"),
    "a deep tuple as key": (b"}" + b")" + b"\x85" * 15_000 + b"Ns", "a key"),
    "a huge number as key": (b"}" + files.integer((2**61 - 1) * 7) + b"Ns", "a key"),
    "too many lists": (b"]" * 20_001, "20,000 objects"),
    "too many ones": (b"K\x01" * 50_001, "50,000 instructions"),
    "a list in itself": (b"}\x94" + files.text("a") + b"h\x00s", "no state dict"),
    "far memo": (b"Nr\xff\xff\xff\xff", "no state dict"),
    "copies of a long list": (
        BOMB + b"".join(b"c__builtin__\nset\nh\x00\x85R" for _ in range(100)),
        "20,000 objects",
    ),
    "doubling": (
        b"]\x94" + b"".join(b"]h%ca\x94h%ca" % (i, i) for i in range(200)),
        "malformed|no state dict",
    ),
    "dict of a number": (files.call("collections.OrderedDict", files.integer(3)), "not pairs"),
    "build on a number": (files.integer(3) + b"}b", "malformed"),
    "append to a number": (files.integer(3) + b"Na", "malformed"),
    "odd items": (b"}(" + files.text("a") + b"u", "malformed"),
    "too many arguments": (files.call("torch.Size", b"N", b"N"), "malformed"),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_broken_and_exhausting_pickles_are_refused(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_machine, "_OPCODES_AT_MOST", 50_000)  # lower than real, for speed
    monkeypatch.setattr(pickle_machine, "_OBJECTS_AT_MOST", 20_000)
    value, match = BAD_PICKLES[case]
    refused(tmp_path / "zip.pth", files.torch_zip(value, {}), match)
    path = tmp_path / "legacy.pth"
    path.write_bytes(files.torch_legacy(value, {}))
    with pytest.raises(CheckpointError, match=match):
        read(path, inert=True)


def test_modules_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    empty = files.mapping({})
    child = b"cm\nN\n)\x81\x94" + files.mapping({"_parameters": empty, "_modules": b"}\x94"}) + b"b"
    looped = child + b"0h\x01" + files.text("again") + b"h\x00s0h\x00"
    refused(tmp_path / "loop.pth", files.torch_zip(looped, {}), "hold each other", inert=True)
    level = b"cm\nN\n)\x81" + files.mapping({"_parameters": empty, "_modules": empty}) + b"b\x94"
    count = 0
    for count in range(50):  # 2**50 paths through 50 modules
        inner = b"h%c" % count
        level += b"0cm\nN\n)\x81" + files.mapping(
            {"_parameters": empty, "_modules": files.mapping({"a": inner, "b": inner})}
        )
        level += b"b\x94"
    refused(tmp_path / "wide.pth", files.torch_zip(level, {}), "hold each other", inert=True)


# --- containers


def test_files_cut_off_at_any_byte_are_refused(tmp_path: Path) -> None:
    arrays = {"w": np.ones(3, np.float32)}
    path = tmp_path / "file.pth"
    for content, step in (
        (files.zip_of(arrays), 5),
        (files.legacy_of(arrays), 1),
        (files.mxnet_of(arrays), 1),
    ):
        for length in range(0, len(content), step):
            path.write_bytes(content[:length])
            with pytest.raises(CheckpointError):
                read(path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    arrays = files.some_arrays()
    for content in (files.legacy_of(arrays), files.mxnet_of(arrays)):
        refused(tmp_path / "file", content + b"\0", "1 bytes follow")


def test_legacy_storages_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    value = files.ordered({"w": files.tensor(files.storage("0", 4, view=b"N"), (4,), (1,))})
    for count in (2**62, -1, 5):
        refused(path, files.torch_legacy(value, {"0": (count, bytes(16))}), "cut off or damaged")
    refused(path, files.torch_legacy(value, {}), "missing from the file")
    refused(path, files.torch_legacy(value, {"1": (4, bytes(16))}), "no tensor refers to it")
    view = files.sequence(files.text("v"), files.integer(3), files.integer(2))
    value = files.ordered({"w": files.tensor(files.storage("0", 4, view=view), (2,), (1,))})
    refused(path, files.torch_legacy(value, {"0": (4, bytes(16))}), "reaches outside")
    value = files.ordered(
        {
            "w": files.tensor(files.storage("0", 4), (4,), (1,)),
            "v": files.tensor(files.storage("0", 4, "torch.LongStorage"), (4,), (1,)),
        }
    )
    refused(path, files.torch_legacy(value, {"0": (4, bytes(16))}), "two element types")


def test_zips_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    good = files.zip_of(files.some_arrays())
    at = good.index(b"archive/data/0") + len(b"archive/data/0")
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    refused(path, flipped, "cut off or damaged")
    refused(path, good[: len(good) // 2], "zip archive is cut off or damaged")
    state = files.ordered({"w": GOOD})
    deflated = files.torch_zip(state, RAW, compression=zipfile.ZIP_DEFLATED)
    refused(path, deflated, "is compressed")
    refused(path, files.torch_zip(state, RAW, byteorder=b"middle"), "neither little nor big")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("archive/data.pkl", files.program(state))
    refused(path, twice.getvalue(), "two members of one name")
    for names, match in (
        (["a/data.pkl", "b/data.pkl"], "has 2 members"),
        (["a/b/data.pkl"], "has 0 members"),
        (["readme.txt"], "neither PyTorch's"),
        (["a/data.pkl", "a/constants.pkl"], "TorchScript"),
        ([], "neither PyTorch's"),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, files.program(state))
        refused(path, buffer.getvalue(), match)


def test_encrypted_and_oddly_compressed_members_are_refused(tmp_path: Path) -> None:
    content = bytearray(files.npz_of({"w": np.ones(4, np.float32)}))
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    for offset in (local + 6, central + 8):
        content[offset] |= 1
    refused(tmp_path / "encrypted.npz", bytes(content), "cut off or damaged")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("w.npy", bytes(100))
        refused(tmp_path / "odd.npz", buffer.getvalue(), "compressed in a way")


def test_zip_bombs_are_refused_before_they_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    zeros = np.zeros(30_000_000, np.float32)
    refused(path, files.npz_of({"w": zeros}), "may fill")
    honest = files.npz_of({"w": zeros[:1_000_000]})
    central = honest.index(b"PK\x01\x02")
    for size in (10, 0xFFFFFFF0):  # the directory lies about the size
        lying = bytearray(honest)
        lying[central + 24 : central + 28] = struct.pack("<I", size)
        refused(path, bytes(lying), "may fill|damaged|not a NumPy array|claims the shape")
    members = b"PK\x01\x02" * 100_001
    refused(path, b"PK\x03\x04" + members, "more than 100,000 members")


def test_many_aliases_of_one_storage_are_one_array(tmp_path: Path) -> None:
    held = files.tensor(files.storage("0", 50_000), (50_000,), (1,))
    tied = files.ordered({f"w{i}": held for i in range(200)})
    path = tmp_path / "file.pth"
    path.write_bytes(files.torch_zip(tied, {"0": bytes(200_000)}))
    tensors = read(path).tensors
    assert len({id(array) for array in tensors.values()}) == 1
    expanded = {
        f"w{i}": files.tensor(files.storage("0", 50_000), (50_000 - i,), (1,)) for i in range(200)
    }
    refused(path, files.torch_zip(files.ordered(expanded), {"0": bytes(200_000)}), "may fill")


def test_mxnet_headers_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.params"
    good = files.mxnet_of({"w": np.ones((2, 3), np.float32)})
    u64, i32 = struct.Struct("<Q").pack, struct.Struct("<i").pack

    def patched(offset: int, value: bytes) -> bytes:
        return good[:offset] + value + good[offset + len(value) :]

    for offset, value, match in (
        (8, u64(1), "header"),
        (16, u64(2**63), "more than fit"),
        (16, u64(2), "element type"),  # the names are read as an array
        (28, i32(1), "sparse"),
        (32, i32(33), "33 dimensions"),
        (32, i32(-1), "dimensions"),
        (36, struct.pack("<q", -2), "negative"),
        (36, u64(2**60), "cut off"),
        (60, i32(77), "element type 77"),
        (len(good) - 21, u64(2**63), "more than fit"),
        (len(good) - 13, u64(2**63), "cut off"),
        (len(good) - 5, b"\xff", "not text"),
    ):
        refused(path, patched(offset, value), match)
    empty = struct.pack("<IiI3qiii", 0xF993FAC9, 0, 3, 2**60, 2**60, 0, 1, 0, 0)
    names = struct.pack("<QQ", 1, 1) + b"w"
    refused(path, struct.pack("<QQQ", 0x112, 0, 1) + empty + names, "cannot be")
    twice = files.mxnet_of({"w.a": np.ones(1, np.float32), "w_a": np.ones(1, np.float32)})
    refused(path, twice, "2 arrays and 1 different names")


def test_ncnn_pairs_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    weight, bias = np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32)
    param, raw = files.ncnn_of({"conv1": (weight, bias)})
    path = tmp_path / "net.param"
    for text, weights, match in (
        (param, raw[:-4], "cut off"),
        (param, raw + bytes(4), "belong to no layer"),
        (param, struct.pack("<I", 0x000D4B38) + raw[4:], "0x000D4B38"),
        (param, struct.pack("<I", 1) + raw[4:], "quantised or unknown"),
        (param.replace(b"0=2", b"0=99999999999"), raw, "a count was expected"),
        (param.replace(b"6=54", b"6=9999999990"), raw, "cut off"),
        (param.replace(b"6=54", b"6=55"), raw, "55 weights for 2 outputs"),
        (param.replace(b"0=2 ", b"0=0 "), raw, "weights for 0 outputs"),
        (param.replace(b"5=1", b"5=1 8=1"), raw, "int8"),
        (param.replace(b"Convolution", b"LSTM"), raw, "is a LSTM"),
        (param.replace(b"3 3\n", b"999999999999 3\n"), raw, "announces"),
        (param.replace(b"3 3\n", b"2 3\n"), raw, "announces 2 layers and lists 3"),
        (b"7767517\n", raw, "not a .param text"),
        (b"7767517\n\xff\xff", raw, "not a .param text"),
        (param.replace(b"1=3", b"x=3"), raw, "'x=3'"),
        (param.replace(b"ReLU relu_conv1 1 1", b"ReLU relu_conv1 a 1"), raw, "malformed line"),
    ):
        path.write_bytes(text)
        path.with_suffix(".bin").write_bytes(weights)
        with pytest.raises(CheckpointError, match=match):
            read(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"net\.bin, are not beside it"):
        read(path)


def safetensors(header: bytes, body: bytes = bytes(8)) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def test_safetensors_headers_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    def entry(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0,8]") -> bytes:
        return f'{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'.encode()

    for content, match in (
        (safetensors(entry()[:-1]), "header is damaged"),
        (safetensors(b"{" + b'"a":[' * 100_000), "header is damaged"),
        (safetensors(b'{"a":' + b"9" * 10_000 + b"}"), "header is damaged"),
        (safetensors(entry()[:-1] + b"," + entry()[1:]), "header is damaged"),
        (safetensors(entry(shape="[3]")), "needs 12 bytes"),
        (safetensors(entry(shape="[-2]")), "has no shape"),
        (safetensors(entry(shape="[true]")), "has no shape"),
        (safetensors(entry(shape=f"[{2**47},{2**47}]")), "needs"),
        (
            safetensors(entry(shape="[0," + "281474976710655," * 3 + "9]", offsets="[0,0]"), b""),
            "cannot be",
        ),
        (safetensors(entry(offsets="[4,12]")), "leaves a gap"),
        (safetensors(entry(offsets="[0,-8]")), "has no offsets"),
        (safetensors(entry(offsets="[0]")), "has no offsets"),
        (safetensors(entry(dtype="F4")), "has the dtype 'F4'"),
        (safetensors(entry(), bytes(12)), "data at byte 12"),
        (safetensors(entry(), bytes(4)), "cut off"),
        (safetensors(b'{"__metadata__":{"a":1}}', b""), "metadata"),
    ):
        refused(tmp_path / "file.safetensors", content, match)


def test_npz_members_that_contradict_their_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"

    def npz(member: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("w.npy", member)
        return buffer.getvalue()

    buffer = io.BytesIO()
    np.save(buffer, np.ones(4, np.float32))
    good = buffer.getvalue()
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(path, npz(good[:-1]), "claims the shape")
    refused(path, npz(good.replace(b"(4,)", b"(9,)")), "claims the shape")
    refused(path, npz(good.replace(b"(4,)", b"(-4)")), "not understood")
    refused(path, npz(good.replace(b"<f4", b"<f3")), "elements f3")
    refused(path, npz(objects.getvalue()), "Python objects")
    refused(path, npz(b"\x93NUMPY\x01\x00\xff"), "not a NumPy array")
    refused(path, npz(b"nothing"), "not a NumPy array")
    code = (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('true'),), }"
    )
    refused(path, npz(good[:8] + struct.pack("<H", len(code)) + code), "not understood")


# --- files that are none


def test_what_is_no_file_of_weights_is_refused_by_what_it_is(tmp_path: Path) -> None:
    def message(path: Path | str) -> str:
        with pytest.raises(CheckpointError) as caught:
            read(path)
        return str(caught.value)

    assert "there is no such file" in message(tmp_path / "absent.pth")
    assert "is a folder" in message(tmp_path)
    assert "no such file" in message("nul\0byte")
    for name, content in (("empty", b""), ("text", b"hello world\n"), ("tar", b"x" * 600)):
        (tmp_path / name).write_bytes(content)
        told = message(tmp_path / name)
        assert "no known format" in told and "PyTorch" in told and "ncnn" in told
    protocol0 = tmp_path / "protocol0.pkl"
    protocol0.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert "no known format" in message(protocol0)
    (tmp_path / "plain.pkl").write_bytes(files.program(files.mapping({"a": files.integer(1)})))
    assert "not one that torch.save wrote" in message(tmp_path / "plain.pkl")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this platform")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read(tmp_path / "pipe")


def test_an_unreadable_file_is_refused_with_the_systems_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(files.zip_of(files.some_arrays()))

    def denied(path: Path, flags: int) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)  # the test may run as root, to whom all is open
    with pytest.raises(CheckpointError, match=r"cannot be opened.*Permission denied"):
        read(path)


# --- files that are something else


def message(path: Path | str) -> str:
    """The one line that refuses a file."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3136771\n"
FOREIGN = {
    "git-lfs": (LFS, "`git lfs pull`"),
    "page": (b"<!DOCTYPE html><html><title>pfld.pth at main</title>", "web page"),
    "page after a comment": (b"\n<!-- saved -->\n<HTML>", "web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\0" * 90, "compressed (gzip); unpack it"),
    "tar": (b"a" + b"\0" * 256 + b"ustar\0" + b"\0" * 300, "tar archive"),
    "array": (b"\x93NUMPY\x01\x00v\x00{'descr'", "single NumPy array"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "HDF5"),
    "lite": (b"\x1c\0\0\0TFL3" + b"\0" * 90, "TensorFlow Lite"),
    "image": (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
    "index": (b'{"metadata": {"total_size": 3}, "weight_map": {}}', "JSON"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pth", ".onnx", ".safetensors"])
def test_well_known_files_are_named(tmp_path: Path, kind: str, suffix: str) -> None:
    content, expected = FOREIGN[kind]
    (tmp_path / f"file{suffix}").write_bytes(content)
    assert expected in message(tmp_path / f"file{suffix}")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["pfld.pth", "README.md"], "zip archive around 'pfld.pth'; unpack it"),
        (["exported/models/model.json"], "torch.export"),
        (["config.json", "model.weights.h5"], "Keras"),
        (["a.txt"], "neither PyTorch's"),
        ([], "neither PyTorch's"),
    ],
)
def test_zip_archives_of_other_kinds_are_named(
    tmp_path: Path, members: list[str], expected: str
) -> None:
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        for member in members:
            archive.writestr(member, b"content")
    assert expected in message(tmp_path / "file.zip")


def test_an_array_that_claims_terabytes_is_refused_at_once(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (28000000000,), }\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("w.npy", member)
    content = (tmp_path / "file.npz").read_bytes()
    refused(tmp_path / "file.npz", content, "claims the shape .*, 112,000,000,000 bytes")


def test_a_file_larger_than_any_network_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.pth"
    with path.open("wb") as file:
        file.write(files.zip_of(files.some_arrays()))
        file.truncate(1 << 40)
    assert "1,099,511,627,776 bytes" in message(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no device files on this platform")
def test_devices_and_files_of_the_system_are_refused_at_once() -> None:
    for path in ("/dev/zero", "/dev/tty", "/dev/stdin", "/dev/full"):
        if Path(path).exists() and not Path(path).is_file():
            assert "not a regular file" in message(path) or "cannot be opened" in message(path)
    if Path("/proc/self/status").exists():
        assert "it is empty" in message("/proc/self/status")


def test_control_characters_of_names_are_escaped(tmp_path: Path) -> None:
    """An escape sequence in the name of a file, of a tensor or of a class would reach the terminal."""
    evil = "\x1b[2J\x1b]0;owned\x07\n\u202e\u2028"
    path = tmp_path / f"w{evil}.pth"
    try:
        path.write_bytes(b"nothing")
    except (OSError, ValueError):
        pytest.skip("this file system has no such names")
    told = message(path)
    assert "\\x1b[2J" in told and "\\n" in told and "\\u202e" in told
    broken = files.tensor(files.storage("0", 4), (4,), (9,))
    path.write_bytes(files.torch_zip(files.mapping({evil: broken, "b": GOOD}), RAW))
    assert "\\x1b" in message(path)
    path.write_bytes(files.torch_zip(files.mapping({"w": GOOD, evil: b"cos\nsys\x1btem\n)R"}), RAW))
    message(path)


def test_every_error_of_the_tree_is_one_harmless_line() -> None:
    tree = [refnet.RefnetError]
    for error in tree:
        tree += error.__subclasses__()
        told = str(error("a name: \x1b[31m\r\n\x9b2J\udc80"))
        assert told == "a name: \\x1b[31m\\r\\n\\x9b2J\\udc80"
        assert str(error(told)) == told, "what is escaped stays as it is"
        assert str(error("Gesichter, 顔, ×")) == "Gesichter, 顔, ×"
    assert len(tree) > 8


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("torch._utils._rebuild_sparse_tensor", "sparse"),
        ("torch._utils._rebuild_qtensor", "quantised"),
        ("torch._utils._rebuild_meta_tensor_no_storage", "shapes without numbers"),
    ],
)
def test_tensors_of_kinds_that_are_not_read_are_named(
    tmp_path: Path, function: str, kind: str
) -> None:
    value = files.mapping({"w": files.call(function, files.integer(1))})
    for inert in (False, True):
        content = files.torch_zip(value, RAW)
        refused(
            tmp_path / "file.pth", content, f"{kind}.* tensors .*nothing was executed", inert=inert
        )


def test_element_types_that_are_not_read_are_named(tmp_path: Path) -> None:
    for of, name in (("ComplexFloatStorage", "ComplexFloat"), ("QInt8Storage", "QInt8")):
        value = files.tensor(files.storage("0", 4, of=f"torch.{of}"), (4,), (1,))
        content = files.torch_zip(files.mapping({"w": value}), RAW)
        refused(tmp_path / "file.pth", content, f"element type {name}, which is not read here")
