"""Real files: what each holds, which network it is of, and that files of one network agree."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import UnsafeCheckpointError, WeightsError
from refnet.checkpoints import activation, identify, read

HALF_POLARIS = {"width": 0.5, "landmarks": 17, "conv2": "depthwise"}
# file -> (format, tensors, network, options that tell it from the default build)
FILES: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    "checkpoints/pfld_ultralight_wflw98.pth": ("torch zip", 351, "pfld-ultralight", {}),
    "checkpoints/pfld_ultralight_slim_wflw98.pth": ("torch zip", 351, "pfld-ultralight-slim", {}),
    "checkpoints/pfld_polaris_half_17points.pth.tar": (
        "torch legacy",
        261,
        "pfld-polaris",
        {**HALF_POLARIS, "bn8": "applied", "activation": "relu6"},
    ),
    "checkpoints/pfld_polaris_half_17points.onnx": (
        "onnx",
        91,
        "pfld-polaris",
        {**HALF_POLARIS, "activation": "relu6", "form": "inference"},
    ),
    "pfld/onnx/PFLD_GhostNet_112_1_opt_sim.onnx": (
        "onnx",
        120,
        "pfld-ultralight",
        {"form": "inference"},
    ),
    "pfld/onnx/PFLD_GhostNet_Slim_112_1_opt_sim.onnx": (
        "onnx",
        120,
        "pfld-ultralight-slim",
        {"form": "inference"},
    ),
    "pfld/onnx/PFLD_GhostOne_112_1_opt_sim.onnx": (
        "onnx",
        104,
        "pfld-ghostone",
        {"form": "inference"},
    ),
    "lffd/weights/head_10_160_17L_4scales_v1_iter_800000.params": ("mxnet", 74, "lffd-head", {}),
    "lffd/weights/lp_64_512_16L_3scales_v1_iter_1000000.params": ("mxnet", 62, "lffd-plate", {}),
    "lffd/weights/lp_64_512_16L_3scales_v1_small_iter_1000000.params": (
        "mxnet",
        62,
        "lffd-plate-small",
        {},
    ),
    "lffd/ncnn/lp_64_512_16L_3scales_v1.param": ("ncnn", 62, "lffd-plate", {}),
    "lffd/ncnn/lp_64_512_16L_3scales_v1.bin": ("ncnn", 62, "lffd-plate", {}),
}
# spec of the MXNet files: name -> (sha256, trained values)
PARAMS = {
    "head_10_160_17L_4scales_v1_iter_800000": (
        "88acc72732d6af37d7646e7bc9acb58feae14c48001cb021c41e926001886f24",
        1_027_544,
    ),
    "lp_64_512_16L_3scales_v1_iter_1000000": (
        "7e120f4798bf288ffedd9887a9e14fdc23b87d0d4a21b36a012891d3b8bf368d",
        948_498,
    ),
    "lp_64_512_16L_3scales_v1_small_iter_1000000": (
        "51473877e98f46fad236beb3f1b3d8c658a13d293894405dec3c740ccec115c3",
        486_866,
    ),
}


@pytest.mark.filterwarnings("ignore:.*the file does not say whether:RuntimeWarning")
@pytest.mark.parametrize("name", FILES)
def test_real_files_are_read_and_identified(assets: Path, name: str) -> None:
    form, count, network, options = FILES[name]
    if form == "onnx":
        pytest.importorskip("onnx")
    checkpoint = read(assets / name)
    assert (checkpoint.format, len(checkpoint.tensors)) == (form, count)
    content = checkpoint.path.read_bytes()
    assert checkpoint.sha256 == hashlib.sha256(content).hexdigest()
    found, told, tensors = identify(checkpoint)
    graph = refnet.build(network, **options)
    assert found == network
    assert refnet.build(found, **told).options == graph.options
    assert {n: t.shape for n, t in tensors.items()} == graph.parameters


@pytest.mark.parametrize("name", PARAMS)
def test_the_params_files_are_the_published_ones(assets: Path, name: str) -> None:
    sha256, values = PARAMS[name]
    checkpoint = read(assets / f"lffd/weights/{name}.params")
    assert checkpoint.sha256 == sha256
    assert sum(array.size for array in checkpoint.tensors.values()) == values
    assert all(array.dtype == np.float32 for array in checkpoint.tensors.values())


def test_the_ncnn_plate_is_the_mxnet_plate_bit_for_bit(assets: Path) -> None:
    _, _, mxnet = identify(
        read(assets / "lffd/weights/lp_64_512_16L_3scales_v1_iter_1000000.params")
    )
    _, _, ncnn = identify(read(assets / "lffd/ncnn/lp_64_512_16L_3scales_v1.bin"))
    assert list(ncnn) == list(mxnet) and len(ncnn) == 62
    assert all(ncnn[name].tobytes() == mxnet[name].tobytes() for name in ncnn)


@pytest.mark.parametrize(
    ("checkpoint", "onnx_model"),
    [
        ("pfld_ultralight_wflw98.pth", "PFLD_GhostNet_112_1_opt_sim.onnx"),
        ("pfld_ultralight_slim_wflw98.pth", "PFLD_GhostNet_Slim_112_1_opt_sim.onnx"),
    ],
)
def test_numbered_onnx_tensors_land_where_the_checkpoints_do(
    assets: Path, checkpoint: str, onnx_model: str
) -> None:
    """Folding the batch norms of the PyTorch file by hand gives the tensors of the ONNX file."""
    pytest.importorskip("onnx")
    _, _, trained = identify(read(assets / "checkpoints" / checkpoint))
    _, _, folded = identify(read(assets / "pfld/onnx" / onnx_model))
    compared = 0
    for name, array in folded.items():
        prefix, _, role = name.rpartition(".0.")
        if name.startswith("fc.") or name == "conv8.0.weight":
            expected = trained[name].astype(np.float64)
        else:
            norm = {
                role: trained[f"{prefix}.1.{role}"].astype(np.float64)
                for role in ("weight", "bias", "running_mean", "running_var")
            }
            scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
            if role == "bias":
                expected = norm["bias"] - norm["running_mean"] * scale
            else:
                expected = trained[name].astype(np.float64) * scale[:, None, None, None]
        difference = np.abs(array.astype(np.float64) - expected)
        assert np.all(difference <= 2e-6 + 2e-5 * np.abs(expected)), name
        compared += 1
    assert compared == 119


def test_the_checkpoints_equal_what_torch_loads(assets: Path) -> None:
    torch = pytest.importorskip("torch")
    for name in (
        "pfld_ultralight_wflw98.pth",
        "pfld_polaris_half_17points.pth.tar",
        "legacy_cuda_tagged_106points.pth",
    ):
        path = assets / "checkpoints" / name
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = read(path)
        state_dicts = {"": loaded} if checkpoint.chosen == "" else loaded
        for place, tensors in checkpoint.state_dicts.items():
            assert list(tensors) == list(state_dicts[place])
            for tensor, array in tensors.items():
                assert array.tobytes() == state_dicts[place][tensor].contiguous().numpy().tobytes()


def test_the_auxiliary_net_beside_the_backbone_is_found_when_named(assets: Path) -> None:
    path = assets / "checkpoints/pfld_polaris_half_17points.pth.tar"
    checkpoint = read(path)
    assert checkpoint.chosen == "plfd_backbone"
    assert list(checkpoint.state_dicts) == ["plfd_backbone", "auxiliarynet"]
    name, options, tensors = identify(checkpoint, "pfld-polaris-auxiliary")
    assert options == {"width": 0.5, "form": "training"} and len(tensors) == 24
    assert identify(read(path, state_dict="auxiliarynet"))[0] == name


def test_a_foreign_network_is_read_and_its_tensors_are_listed(assets: Path) -> None:
    checkpoint = read(assets / "checkpoints/legacy_cuda_tagged_106points.pth")
    assert checkpoint.format == "torch legacy" and len(checkpoint.tensors) == 162
    assert checkpoint.tensors["fc.weight"].shape == (212, 208)
    with pytest.raises(WeightsError, match=r"162 tensors in 'plfd_backbone'.*model\.0\.0\.weight"):
        identify(checkpoint)


def test_the_pickled_module_is_refused_by_name(assets: Path) -> None:
    path = assets / "checkpoints/whole_module_pickle_68points.pth"
    with pytest.raises(UnsafeCheckpointError, match=r"model2\.MobileNetV2.*nothing was executed"):
        read(path)
    checkpoint = read(path, inert=True)
    assert len(checkpoint.tensors) == 303
    assert checkpoint.tensors["conv1.weight"].shape == (16, 3, 3, 3)
    assert np.isfinite(checkpoint.tensors["conv1.weight"]).all()
    with pytest.raises(WeightsError, match="303 tensors are not those of a network"):
        identify(checkpoint)


def test_the_running_statistics_tell_relu6_from_relu(assets: Path) -> None:
    """Taken for ReLU, this file gives landmarks that are wrong by 1.456 of the crop."""
    path = assets / "checkpoints/pfld_polaris_half_17points.pth.tar"
    crops = np.load(assets / "checkpoints/fixtures_8crops.npz")
    with pytest.warns(
        RuntimeWarning, match="relu6 was taken.*If.*relu, pass activation='relu'"
    ) as caught:
        model = refnet.load(path, backend="numpy")
    assert len(caught) == 1
    images = crops["bgr_uint8_nhwc"].transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_allclose(model(images)[1], crops["torch_pfld17_epoch_68"], atol=2e-6)


@pytest.mark.parametrize("name", ["pfld_ultralight_wflw98.pth", "pfld_ultralight_slim_wflw98.pth"])
def test_the_running_statistics_of_relu_networks_tell_relu(assets: Path, name: str) -> None:
    """Networks that are ReLU for sure, measured as if that were open."""
    network, options, tensors = identify(read(assets / "checkpoints" / name))
    graph = refnet.build(network, **options)
    bounded = [dataclasses.replace(n, op="relu6") if n.op == "relu" else n for n in graph.nodes]
    relu6 = dataclasses.replace(graph, nodes=tuple(bounded))
    assert activation._distance(graph, tensors) < 0.95 * activation._distance(relu6, tensors)
