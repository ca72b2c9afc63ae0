"""The networks against outputs recorded from their original code and from real trained weights.

Golden vectors of untrained networks use the formula weights of `parity.formula`; those of trained ones
use the published files. Both are in the asset bundle.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from parity.formula import formula_weights, ones, ramp, wave, zeros
from refnet import passes, reference
from refnet.ops import Array

ORIGINALS = {
    "PFLD": "pfld",
    "PFLD_MSFC": "pfld-msfc",
    "PFLD_Ultralight": "pfld-ultralight",
    "PFLD_Ultralight_Slim": "pfld-ultralight-slim",
    "PFLD_GhostOne": "pfld-ghostone",
    "PFLDInference": "pfld-polaris",
}
ROWS = [
    *(
        f"{network}/{width}/{size}"
        for network in list(ORIGINALS)[:5]
        for width in ("0.25", "0.5", "1")
        for size in (112, 96)
    ),
    "PFLDInference/1/112",
    "PFLD_Ultralight_Slim/0.125/112",
    "PFLD_Ultralight/0.125/112",
]
#: How far a backend may be from a recorded float32 output, as a multiple of what the recording is held
#: to: the reference by rounding alone, the compiled engine by its own bound.
BACKENDS = {"numpy": 1, "compiled": 10}
ONNX = {
    "GhostNet": "PFLD_GhostNet_112_1_opt_sim.onnx",
    "GhostNet_Slim": "PFLD_GhostNet_Slim_112_1_opt_sim.onnx",
    "GhostOne": "PFLD_GhostOne_112_1_opt_sim.onnx",
}
LFFD = {
    "head17": ("lffd-head", "head_10_160_17L_4scales_v1_iter_800000.params"),
    "lp16": ("lffd-plate", "lp_64_512_16L_3scales_v1_iter_1000000.params"),
    "lp16s": ("lffd-plate-small", "lp_64_512_16L_3scales_v1_small_iter_1000000.params"),
}


@pytest.fixture(scope="module")
def formula_outputs(assets: Path) -> Any:
    return np.load(assets / "pfld/ref/golden_formula_weights.npz")


def formula_model(name: str, **options: Any) -> tuple[refnet.Graph, dict[str, Array]]:
    graph = refnet.build(name, **options)
    weights = formula_weights(graph.state_dict)
    return graph, {n: weights[n].astype(np.float64) for n in graph.parameters}


def relative(got: Array, want: Array) -> float:
    return float(np.abs(got.reshape(want.shape) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("row", ROWS)
def test_pfld_equals_its_original_code(formula_outputs: Any, row: str) -> None:
    """Output and the last layer's input, in float64 and float32, unfolded and folded."""
    network, width, size = row.split("/")
    graph, weights = formula_model(ORIGINALS[network], width=float(width), input_size=int(size))
    x = wave(int(size))
    features = graph.node["landmarks"].inputs[0]
    tensors = reference.activations(graph, weights, x.astype(np.float64))
    want = formula_outputs[row]
    assert relative(tensors["landmarks"], want) < 1e-9
    assert relative(tensors[features], formula_outputs[f"{row}/fc_in"]) < 1e-9

    single = {name: w.astype(np.float32) for name, w in weights.items()}
    assert np.abs(reference.run(graph, single, x)[-1] - want).max() < 1e-5 * max(
        1, np.abs(want).max()
    )

    folded, folded_weights = passes.fold(graph, weights)
    assert relative(reference.run(folded, folded_weights, x.astype(np.float64))[-1], want) < 1e-9


def test_polaris_equals_its_original_code(formula_outputs: Any) -> None:
    """Figures published with the recorded vectors: feature map and the auxiliary net's angles."""
    graph, weights = formula_model("pfld-polaris")
    features, _ = reference.run(graph, weights, wave(112).astype(np.float64))
    assert features.mean() == pytest.approx(-0.026946561, rel=1e-7)
    assert np.linalg.norm(features) == pytest.approx(99.062321, rel=1e-7)

    auxiliary, weights = formula_model("pfld-polaris-auxiliary")
    (angles,) = reference.run(auxiliary, weights, features)
    np.testing.assert_allclose(angles[0], (-0.02129501, 0.05829687, 0.09847711), atol=1e-8)
    (angles,) = reference.run(auxiliary, weights, wave(28, channels=64).astype(np.float64))
    np.testing.assert_allclose(angles[0], (-0.11363174, 0.30143868, 0.27065174), atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("net", ONNX)
def test_trained_onnx_files_give_the_recorded_outputs(assets: Path, net: str, backend: str) -> None:
    """ONNX Runtime's recorded outputs: formula inputs, and ten faces in both orders and margins."""
    pytest.importorskip("onnx")
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    model = refnet.load(assets / "pfld/onnx" / ONNX[net], backend=backend)
    inputs = {"zeros": zeros(), "ones": ones(), "wave": wave(112), "ramp": ramp()}
    fed: list[Array] = []
    wanted: list[Array] = []
    for key in recorded:
        kind, *path = key.split("/")
        if kind == "formula" and path[1] == net:
            fed.append(inputs[path[0]][0])
        elif kind == "out" and path[-1] == net:
            photo, face, margin, order, _ = path
            crop = recorded[f"crop_rgb/{photo}/{face}/{margin}"]
            crop = crop[:, :, ::-1] if order == "bgr" else crop
            fed.append(((crop / 255 - 0.5) / 0.5).astype(np.float32).transpose(2, 0, 1))
        else:
            continue
        wanted.append(recorded[key].ravel())
    assert len(fed) == 44
    assert np.abs(model(np.stack(fed)) - np.stack(wanted)).max() <= 2e-6 * BACKENDS[backend]


def test_every_scale_of_trained_nets_is_the_recorded_one(assets: Path) -> None:
    """The last layer's input, scale by scale, so that a fault is located."""
    pytest.importorskip("onnx")
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    for net, file in ONNX.items():
        model = refnet.load(assets / "pfld/onnx" / file)
        tensors = reference.activations(model.graph, model.weights, wave(112))
        scales = tensors[model.graph.node["landmarks"].inputs[0]]
        want = recorded[f"fc_in/wave/{net}"]
        assert np.abs(scales.reshape(want.shape) - want).max() <= 2e-6 * max(1, np.abs(want).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("file", "options", "recorded"),
    [
        ("pfld_ultralight_wflw98.pth", {}, ["torch_pfld_ghostnet_best", "ort_ghostnet"]),
        (
            "pfld_ultralight_slim_wflw98.pth",
            {},
            ["torch_pfld_ghostnet_slim_best", "ort_ghostnet_slim"],
        ),
        (
            "pfld_polaris_half_17points.pth.tar",
            {"activation": "relu6", "bn8": "applied"},
            ["ort_pfld17"],
        ),
        ("pfld_polaris_half_17points.onnx", {}, ["ort_pfld17"]),
    ],
)
def test_trained_checkpoints_give_the_recorded_points_on_real_crops(
    assets: Path, file: str, options: dict[str, Any], recorded: list[str], backend: str
) -> None:
    if file.endswith(".onnx"):
        pytest.importorskip("onnx")
    fixtures = np.load(assets / "checkpoints/fixtures_8crops.npz")
    x = np.ascontiguousarray((fixtures["bgr_uint8_nhwc"] / np.float32(255)).transpose(0, 3, 1, 2))
    outputs = refnet.load(assets / "checkpoints" / file, backend=backend, **options)(x)
    landmarks = outputs[-1] if isinstance(outputs, tuple) else outputs
    for key in recorded:
        assert np.abs(landmarks - fixtures[key]).max() <= 2e-6 * BACKENDS[backend], key


def check_lffd_maps(outputs: Any, recorded: Any, times: float = 1) -> None:
    branches = len(outputs) // 2
    for i in range(branches):
        score, box = recorded[f"branch{i + 1}_score"], recorded[f"branch{i + 1}_bbox"]
        assert np.abs(outputs[2 * i][0] - score).max() <= 5e-6 * times
        assert np.abs(outputs[2 * i + 1][0] - box).max() <= 1e-5 * times


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("net", LFFD)
def test_trained_lffd_gives_the_recorded_maps_on_a_synthetic_image(
    assets: Path, net: str, dtype: Any
) -> None:
    name, file = LFFD[net]
    model = refnet.load(name, assets / "lffd/weights" / file, backend="numpy")
    recorded = np.load(assets / f"lffd/golden/{net}_synth_161x198.npz")
    check_lffd_maps(model(recorded["input_chw_uint8"][None].astype(dtype)), recorded)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("golden", ["head17_045346", "lp16_manys", "lp16s_manys"])
def test_trained_lffd_gives_the_recorded_maps_on_a_photo(
    assets: Path, golden: str, backend: str
) -> None:
    name, file = LFFD[golden.partition("_")[0]]
    model = refnet.load(name, assets / "lffd/weights" / file, backend=backend)
    recorded = np.load(assets / f"lffd/golden/{golden}.npz")
    image = recorded["input_hwc_bgr_uint8"].astype(np.float32)
    x = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    check_lffd_maps(model(x), recorded, BACKENDS[backend])


@pytest.mark.parametrize("net", LFFD)
def test_every_layer_of_trained_lffd_has_the_recorded_statistics(assets: Path, net: str) -> None:
    """Mean, magnitude and extremes of every convolution, so that a fault is located."""
    name, file = LFFD[net]
    model = refnet.load(name, assets / "lffd/weights" / file)
    stats = json.loads((assets / "lffd/golden/synth_layer_stats.json").read_text())[net]["layers"]
    image = np.load(assets / f"lffd/golden/{net}_synth_161x198.npz")["input_chw_uint8"]
    weights = {n: w.astype(np.float64) for n, w in model.weights.items()}
    tensors = reference.activations(model.graph, weights, image[None].astype(np.float64))
    compared = 0
    for node in model.graph.nodes:
        if node.op != "conv":
            continue
        layer = node.parameters["weight"].removesuffix(".weight")
        y, want = tensors[node.name], stats[layer]
        got = (y.mean(), np.abs(y).mean(), y.min(), y.max(), y.flat[0], y.flat[-1])
        keys = ("mean", "absmean", "min", "max", "first", "last")
        np.testing.assert_allclose(
            got, [want[k] for k in keys], rtol=1e-4, atol=1e-6, err_msg=layer
        )
        compared += 1
    assert compared == len(model.weights) // 2


def test_tinynets_gradient_is_the_recorded_one(assets: Path) -> None:
    """The constant-weight experiment: the recorded gradient map, and the figures published with it."""
    graph = refnet.build("tinynet")
    weights = {
        n: np.full(shape, 0.05 if n.endswith("weight") else 0.0)
        for n, shape in graph.parameters.items()
    }
    model = refnet.load("tinynet", weights)
    x = np.ones((1, 3, 127, 127))
    y = model(x)
    assert isinstance(y, np.ndarray)
    cotangent = np.zeros_like(y)
    cotangent[0, 0, 15, 15] = 1
    # All ReLUs are open: 27 and 576 equal taps, then three times the identity plus two convolutions.
    assert y[0, 0, 15, 15] == pytest.approx(27 * 0.05 * 28.8 * (1 + 28.8**2) ** 3, rel=1e-12)
    gradient = model.vjp(x, cotangent)[0, 0]
    seen = np.argwhere(gradient)
    assert (np.ptp(seen, axis=0) + 1).tolist() == [55, 55]
    patch = gradient[seen.min(0)[0] :, seen.min(0)[1] :][:55, :55]
    assert patch.max() == pytest.approx(28_745_379.74, rel=1e-9)
    recorded = np.load(assets / "lffd/golden/tinynet_grad.npz")["grad_232_287"]
    assert np.abs(patch / patch.max() - recorded / recorded.max()).max() <= 5e-6
