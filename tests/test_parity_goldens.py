"""The torch twins against outputs of the original code, and against the real networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import formula  # noqa: E402
from parity.twins import lffd as official  # noqa: E402
from parity.twins import load, load_formula, shapes, twin  # noqa: E402
from refnet.checkpoints import identify, read  # noqa: E402

torch.set_num_threads(1)

NAMES = {
    "PFLD": "pfld",
    "PFLD_MSFC": "pfld-msfc",
    "PFLD_Ultralight": "pfld-ultralight",
    "PFLD_Ultralight_Slim": "pfld-ultralight-slim",
    "PFLD_GhostOne": "pfld-ghostone",
}
ROWS = [
    *(
        f"{net}/{width}/{size}"
        for net in NAMES
        for width in ("0.25", "0.5", "1")
        for size in (112, 96)
    ),
    "PFLD_Ultralight_Slim/0.125/112",
    "PFLD_Ultralight/0.125/112",
]
LFFD = {
    "head17": ("lffd-head", "head_10_160_17L_4scales_v1_iter_800000"),
    "lp16": ("lffd-plate", "lp_64_512_16L_3scales_v1_iter_1000000"),
    "lp16s": ("lffd-plate-small", "lp_64_512_16L_3scales_v1_small_iter_1000000"),
}
IMAGES = [
    ("head17", "synth_161x198"),
    ("head17", "045346"),
    ("lp16", "synth_161x198"),
    ("lp16", "manys"),
    ("lp16s", "synth_161x198"),
    ("lp16s", "manys"),
]


def golden(assets: Path) -> Any:
    return np.load(assets / "pfld/ref/golden_formula_weights.npz")


def formula_twin(name: str, **options: Any) -> Any:
    return load_formula(twin(name, **options)).double()


def relative_error(got: Any, expected: np.ndarray) -> float:
    return float(np.abs(got.detach().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("row", ROWS)
def test_formula_weights_give_the_original_codes_outputs(assets: Path, row: str) -> None:
    net, width, size = row.split("/")
    module = formula_twin(NAMES[net], width=float(width), input_size=int(size))
    x = torch.from_numpy(formula.wave(int(size))).double()
    with torch.no_grad():
        features = module.features(x)
        y = module.fc(features)
    assert relative_error(features[0], golden(assets)[f"{row}/fc_in"]) < 1e-9
    assert relative_error(y[0], golden(assets)[row]) < 1e-9
    assert torch.equal(y, module(x))


def test_polaris_and_its_auxiliary_give_the_original_codes_outputs(assets: Path) -> None:
    expected = golden(assets)
    backbone, auxiliary = formula_twin("pfld-polaris"), formula_twin("pfld-polaris-auxiliary")
    with torch.no_grad():
        features, y = backbone(torch.from_numpy(formula.wave()).double())
        angles = auxiliary(features)
        wave_angles = auxiliary(torch.from_numpy(formula.wave(28, 64)).double())
    assert relative_error(features[0], expected["PFLDInference/out1"]) < 1e-9
    assert relative_error(y[0], expected["PFLDInference/1/112"]) < 1e-9
    assert relative_error(angles[0], expected["AuxiliaryNet/out1"]) < 1e-9
    assert relative_error(wave_angles[0], expected["AuxiliaryNet/wave64x28"]) < 1e-9


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("GhostNet", "pfld-ultralight"),
        ("GhostNet_Slim", "pfld-ultralight-slim"),
        ("GhostOne", "pfld-ghostone"),
    ],
)
def test_real_onnx_weights_give_onnx_runtimes_outputs(assets: Path, file: str, name: str) -> None:
    """Weights by graph order, which is the twin's definition order; 4 formulas and 40 crops."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(assets / f"pfld/onnx/PFLD_{file}_112_1_opt_sim.onnx").graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    tensors = [np.array(arrays[name]) for node in layers for name in node.input[1:]]
    module: Any = twin(name, form="inference")
    load(module, dict(zip(shapes(module), tensors, strict=True)))

    reference = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    inputs, outputs = [], []
    for key in reference.files:
        match key.split("/"):
            case ["formula", formula_name, net] if net == file:
                inputs.append(getattr(formula, formula_name)()[0])
            case ["out", image, face, margin, order, net] if net == file:
                crop = reference[f"crop_rgb/{image}/{face}/{margin}"][
                    ..., :: 1 if order == "rgb" else -1
                ]
                inputs.append(np.float32((crop.transpose(2, 0, 1) / 255 - 0.5) / 0.5))
            case _:
                continue
        outputs.append(reference[key].ravel())
    assert len(outputs) == 44
    with torch.no_grad():
        got = module(torch.from_numpy(np.stack(inputs))).numpy()
        features = module.features(torch.from_numpy(formula.wave())).numpy()[0]
    pooled = reference[f"fc_in/wave/{file}"].ravel()
    for y, expected in ((got, np.stack(outputs)), (features, pooled)):
        assert np.abs(y - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


def params(assets: Path, net: str) -> dict[str, np.ndarray]:
    """The released weights by official layer names, writable, as torch wants them."""
    name, file = LFFD[net]
    _, _, tensors = identify(read(assets / f"lffd/weights/{file}.params"), name)
    return {tensor: array.copy() for tensor, array in tensors.items()}


def real_lffd(assets: Path, net: str) -> Any:
    return load(twin(LFFD[net][0]), params(assets, net))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("net", "image"), IMAGES)
def test_real_lffd_weights_give_the_original_networks_outputs(
    assets: Path, net: str, image: str, dtype: Any
) -> None:
    expected = np.load(assets / f"lffd/golden/{net}_{image}.npz")
    if image.startswith("synth"):
        x = formula.stripes()
        assert np.array_equal(x[0], expected["input_chw_uint8"])
    else:
        x = expected["input_hwc_bgr_uint8"].transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        outputs = real_lffd(assets, net).to(dtype)(torch.from_numpy(x).to(dtype))
    assert len(outputs) == len(expected.files) - 1
    for i, y in enumerate(outputs):
        kind, tolerance = (("score", 5e-6), ("bbox", 1e-5))[i % 2]
        assert np.abs(y[0].numpy() - expected[f"branch{i // 2 + 1}_{kind}"]).max() <= tolerance


@pytest.mark.parametrize("net", LFFD)
def test_every_convolution_of_real_lffd_has_the_original_statistics(assets: Path, net: str) -> None:
    file = assets / "lffd/golden/synth_layer_stats.json"
    layers = json.loads(file.read_text())[net]["layers"]
    module = real_lffd(assets, net).double()
    seen: dict[str, np.ndarray] = {}
    for name, conv in module.named_children():
        conv.register_forward_hook(
            lambda _module, _inputs, y, name=name: seen.__setitem__(name, y[0].detach().numpy())
        )
    module(torch.from_numpy(formula.stripes()).double())
    assert set(seen) == {name for name in layers if name.startswith("conv")}
    for name, y in seen.items():
        stats = layers[name]
        got = {
            "mean": y.mean(),
            "absmean": np.abs(y).mean(),
            "min": y.min(),
            "max": y.max(),
            "first": y.flat[0],
            "last": y.flat[-1],
        }
        assert list(y.shape) == stats["shape"]
        for statistic, value in got.items():
            assert abs(value - stats[statistic]) <= 1e-4 * stats["absmean"], (name, statistic)


def test_the_post_activation_residual_is_another_function(assets: Path) -> None:
    """The wrong wiring degrades quietly: only a golden tensor can tell it from the official one."""
    expected = np.load(assets / "lffd/golden/head17_synth_161x198.npz")
    wrong = load(official.LFFD("lffd-head", post_activation=True), params(assets, "head17"))
    with torch.no_grad():
        scores = wrong(torch.from_numpy(formula.stripes()))[0]
    assert np.abs(scores[0].numpy() - expected["branch1_score"]).max() > 1e-3


def test_the_gradient_of_uniform_tinynet_is_the_closed_form(assets: Path) -> None:
    module = twin("tinynet").double()
    for name, parameter in module.named_parameters():
        torch.nn.init.constant_(parameter, 0.05 if name.endswith("weight") else 0.0)
    # The unit (64, 64) sees only pixels 232 to 286, so this map need not be 640 pixels wide.
    x = torch.ones(1, 3, 320, 320, dtype=torch.float64, requires_grad=True)
    unit = module(x)[0, 0, 64, 64]
    (gradient,) = torch.autograd.grad(unit, x)
    rows, columns = np.nonzero(gradient[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (232, 286, 232, 286)
    window = gradient[0, :, 232:287, 232:287].numpy()
    closed = np.load(assets / "lffd/golden/tinynet_analytic_55x55.npz")
    assert np.abs(window - closed["grad"]).max() <= 1e-12 * closed["grad"].max()
    # Every ReLU is open, so the unit is linear in its pixels, three channels of ones.
    assert unit.item() == pytest.approx(3 * closed["grad"].sum(), rel=1e-12)
    assert np.abs(window / window.max() - closed["normalised"]).max() <= 5e-6
    measured = np.load(assets / "lffd/golden/tinynet_grad.npz")["grad_232_287"]
    assert np.abs(window - measured).max() <= 5e-6 * measured.max()


def test_uniform_weights_give_the_table_of_effective_receptive_fields(assets: Path) -> None:
    """The head network's four branches: support and boxes above a threshold of the input gradient."""
    table = json.loads((assets / "lffd/golden/erf_uniform_weight_table.json").read_text())
    rows = next(rows for title, rows in table.items() if title.startswith("head"))
    module = twin("lffd-head").double()
    for name, parameter in module.named_parameters():
        torch.nn.init.constant_(parameter, 0.05 if name.endswith("weight") else 0.0)
    x = torch.full((1, 3, 383, 383), 255.0, dtype=torch.float64, requires_grad=True)
    boxes = module(x)[1::2]
    for row, box in zip(rows, boxes, strict=True):
        middle = box.shape[-1] // 2
        (gradient,) = torch.autograd.grad(box[0, 0, middle, middle], x, retain_graph=True)
        normalised = gradient[0, 0].numpy() / gradient.max().item()
        centre = row["center_start"] + middle * row["stride"]

        def side(threshold: float, normalised: np.ndarray = normalised) -> int:
            inside = np.nonzero(normalised > threshold)[0]
            return int(inside.max() - inside.min() + 1)

        support = np.nonzero(normalised)[0]
        assert (support.min() + support.max()) / 2 == centre
        assert side(0.0) == row["rf"]
        assert side(0.5) == row["bbox_gt_0.5"]
        assert side(0.75) == row["bbox_gt_0.75"]
        assert side(0.85) == row["bbox_gt_0.85"]


def test_the_real_polaris_checkpoint_gives_its_recorded_outputs(assets: Path) -> None:
    """Half width, depthwise conv2, ReLU6, bn8 applied, 17 points: 8 crops, p / 255, BGR."""
    file = assets / "checkpoints/pfld_polaris_half_17points.pth.tar"
    state = torch.load(file, weights_only=True, map_location="cpu")["plfd_backbone"]
    module = twin(
        "pfld-polaris",
        width=0.5,
        landmarks=17,
        activation="relu6",
        bn8="applied",
        conv2="depthwise",
    )
    module.load_state_dict(state)
    fixtures = np.load(assets / "checkpoints/fixtures_8crops.npz")
    x = np.float32(fixtures["bgr_uint8_nhwc"].transpose(0, 3, 1, 2) / 255)
    with torch.no_grad():
        features, points = module(torch.from_numpy(x))
    assert np.abs(points.numpy() - fixtures["ort_pfld17"]).max() <= 2e-6
    errors = {
        key: np.abs(points.numpy() - fixtures[key]).max()
        for key in fixtures.files
        if key.startswith("torch_pfld17") and fixtures[key].ndim == 2
    }
    epoch = min(errors, key=lambda key: errors[key])
    assert errors[epoch] <= 2e-6
    recorded = fixtures[f"{epoch}_feature28"].astype(np.float32)
    assert np.abs(features.numpy() - recorded).max() <= 2e-3 * np.abs(recorded).max()
