"""The torch twins among themselves: published counts, folded forms, and other names of one net."""

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import formula  # noqa: E402
from parity.folding import fold  # noqa: E402
from parity.twins import NaiveNet, load, load_formula, shapes, twin  # noqa: E402
from parity.twins.lffd import LFFD, trunk_steps  # noqa: E402

torch.set_num_threads(1)

# network, width, size: trained values, running means and variances, state-dict entries, MACs
LANDMARK_COUNTS = [
    ("pfld", 0.25, 112, 94_348, 4_792, 255, 20_400_464),
    ("pfld", 0.25, 96, 91_020, 4_792, 255, 14_990_384),
    ("pfld", 0.5, 112, 330_388, 9_584, 255, 72_665_824),
    ("pfld", 0.5, 96, 317_076, 9_584, 255, 53_391_712),
    ("pfld", 1, 112, 1_228_132, 19_168, 255, 272_791_232),
    ("pfld", 1, 96, 1_174_884, 19_168, 255, 200_427_200),
    ("pfld-msfc", 0.25, 112, 101_716, 4_168, 219, 11_219_432),
    ("pfld-msfc", 0.25, 96, 98_388, 4_168, 219, 8_249_296),
    ("pfld-msfc", 0.5, 112, 332_196, 8_336, 219, 38_655_120),
    ("pfld-msfc", 0.5, 96, 318_884, 8_336, 219, 28_412_576),
    ("pfld-msfc", 1, 112, 1_180_036, 16_672, 219, 142_175_264),
    ("pfld-msfc", 1, 96, 1_126_788, 16_672, 219, 104_481_088),
    ("pfld-ultralight", 0.25, 112, 78_470, 3_208, 351, 9_117_234),
    ("pfld-ultralight", 0.25, 96, 75_142, 3_208, 351, 6_705_032),
    ("pfld-ultralight", 0.5, 112, 239_672, 6_416, 351, 28_556_612),
    ("pfld-ultralight", 0.5, 96, 226_360, 6_416, 351, 20_993_680),
    ("pfld-ultralight", 1, 112, 810_860, 12_832, 351, 98_401_800),
    ("pfld-ultralight", 1, 96, 757_612, 12_832, 351, 72_321_824),
    ("pfld-ultralight-slim", 0.25, 112, 73_187, 2_856, 351, 7_827_946),
    ("pfld-ultralight-slim", 0.25, 96, 69_859, 2_856, 351, 5_757_800),
    ("pfld-ultralight-slim", 0.5, 112, 221_098, 5_712, 351, 24_090_948),
    ("pfld-ultralight-slim", 0.5, 96, 207_786, 5_712, 351, 17_712_784),
    ("pfld-ultralight-slim", 1, 112, 741_680, 11_424, 351, 81_922_120),
    ("pfld-ultralight-slim", 1, 96, 688_432, 11_424, 351, 60_214_304),
    ("pfld-ghostone", 0.25, 112, 235_097, 17_504, 2086, 43_746_122),
    ("pfld-ghostone", 0.5, 112, 772_446, 35_008, 2086, 133_248_052),
    ("pfld-ghostone", 1, 112, 2_754_488, 70_016, 2086, 449_519_336),
    ("pfld-ghostone", 0.25, 96, 231_769, 17_504, 2086, 32_146_664),
    ("pfld-ghostone", 0.5, 96, 759_134, 35_008, 2086, 97_909_840),
    ("pfld-ghostone", 1, 96, 2_701_240, 70_016, 2086, 330_285_728),
    ("pfld-polaris", 1, 112, 1_264_804, 19_424, 261, 386_590_400),
]
# network, width, size: values of the folded form, entries, MACs where merging changes them
FOLDED_COUNTS = [
    ("pfld", 0.25, 112, 91_952, 20_400_464),
    ("pfld", 1, 96, 1_165_300, 200_427_200),
    ("pfld-msfc", 0.5, 112, 328_028, 38_655_120),
    ("pfld-ultralight", 1, 112, 804_444, 98_401_800),
    ("pfld-ultralight-slim", 0.25, 96, 68_431, 5_757_800),
    ("pfld-ghostone", 0.25, 112, 68_907, 7_258_958),
    ("pfld-ghostone", 0.5, 96, 195_610, 16_297_264),
    ("pfld-ghostone", 1, 112, 702_864, 74_913_944),
    ("pfld-polaris", 1, 112, 1_254_964, 386_590_400),
]
# network: parameters, tensors, MACs at 640x480
DETECTOR_COUNTS = [
    ("lffd-face-v1", 2_290_608, 130, 10.024e9),
    ("lffd-face-v2", 1_520_606, 90, 6.824e9),
    ("lffd-head", 1_027_544, 74, 6.797e9),
    ("lffd-pedestrian", 1_818_648, 80, 3.201e9),
    ("lffd-plate", 948_498, 62, 1.403e9),
    ("lffd-plate-small", 486_866, 62, 0.479e9),
    ("basketnet", 583_254, 174, 2.1036e9),
]


def macs(module: Any, *shape: int) -> int:
    """Multiply-accumulates of conv and linear layers, counted while the module runs on no data."""
    total = 0

    def count(layer: Any, _inputs: Any, y: Any) -> None:
        nonlocal total
        positions = math.prod(y.shape[2:])
        total += positions * layer.weight.numel()

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    module.to("meta")(torch.empty(1, *shape, device="meta"))
    return total


def trained(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("row", LANDMARK_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_landmark_nets_have_the_published_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, buffers, entries, multiplications = row
    module = twin(name, width=width, input_size=size)
    assert trained(module) == parameters
    assert sum(b.numel() for n, b in module.named_buffers() if "running" in n) == buffers
    assert len(shapes(module)) == entries
    assert macs(module, 3, size, size) == multiplications


@pytest.mark.parametrize("row", FOLDED_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_folded_landmark_nets_have_the_published_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, multiplications = row
    module = twin(name, width=width, input_size=size, form="inference")
    assert trained(module) == parameters
    assert macs(module, 3, size, size) == multiplications


def test_auxiliary_net_has_the_published_counts() -> None:
    module = twin("pfld-polaris-auxiliary")
    assert (trained(module), len(shapes(module))) == (463_811, 28)
    assert macs(module, 64, 28, 28) == 46_968_928


@pytest.mark.parametrize("row", DETECTOR_COUNTS, ids=lambda row: row[0])
def test_detectors_have_the_published_counts(row: tuple[Any, ...]) -> None:
    name, parameters, entries, multiplications = row
    module = twin(name)
    assert (trained(module), len(shapes(module))) == (parameters, entries)
    assert macs(module, 3, 480, 640) == pytest.approx(multiplications, abs=0.5e6)


FOLDS: list[tuple[str, dict[str, Any]]] = [
    ("pfld", {"width": 0.25}),
    ("pfld-msfc", {"width": 0.25, "input_size": 96}),
    ("pfld-ultralight", {"width": 0.25}),
    ("pfld-ultralight-slim", {"width": 0.125}),
    ("pfld-ghostone", {"width": 0.25}),
    ("pfld-polaris", {}),
    ("pfld-polaris", {"width": 0.5, "bn8": "applied", "activation": "relu6", "conv2": "depthwise"}),
    ("pfld-polaris-auxiliary", {}),
]


@pytest.mark.parametrize(("name", "options"), FOLDS)
def test_the_folded_form_is_the_same_function(name: str, options: dict[str, Any]) -> None:
    module = load_formula(twin(name, **options)).double()
    folded = load(twin(name, **options, form="inference").double(), fold(module))
    shape = (28, int(64 * options.get("width", 1))) if name.endswith("auxiliary") else (112, 3)
    x = torch.from_numpy(formula.wave(options.get("input_size", shape[0]), shape[1])).double()
    with torch.no_grad():
        expected, got = module(x), folded(x)
    if isinstance(expected, torch.Tensor):
        expected, got = (expected,), (got,)
    for a, b in zip(expected, got, strict=True):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()


@pytest.mark.parametrize(("layers", "name"), [(20, "lffd-face-v2"), (25, "lffd-face-v1")])
@pytest.mark.parametrize("version", ["Resv1", "Resv2"])
def test_lffd_pytorch_is_the_official_network_under_other_names(
    layers: int, name: str, version: str
) -> None:
    """Renamed by position: trunk convs in order, then heads in order. Resv1 is post-activation."""
    naive = load_formula(NaiveNet(layers, version)).eval().double()
    tensors = list(naive.state_dict().values())
    trunk = [i for step in trunk_steps(name) for i in range(step.first, step.first + 1 + step.pair)]
    heads = [step.first + 1 for step in trunk_steps(name) if step.branch]
    ends = ("1", "2_score", "3_score", "2_bbox", "3_bbox")
    convs = [f"conv{i}" for i in trunk] + [f"conv{i}_{end}" for i in heads for end in ends]
    names = [f"{conv}.{role}" for conv in convs for role in ("weight", "bias")]

    official = LFFD(name, post_activation=version == "Resv1").eval().double()
    official.load_state_dict(dict(zip(names, tensors, strict=True)))
    pixels = torch.from_numpy(formula.stripes((255, 333))).double()
    with torch.no_grad():
        raw, expected = naive((pixels - 127.5) / 127.5), official(pixels)
    assert len(raw) == len(expected) == 2 * len(heads)
    for i, (a, b) in enumerate(zip(raw, expected, strict=True)):
        assert torch.equal(torch.softmax(a, 1)[:, :1] if i % 2 == 0 else a, b)


def test_lffd_pytorch_names_its_tensors_as_its_repository_does() -> None:
    names = {
        (layers, version): list(NaiveNet(layers, version).state_dict())
        for layers in (20, 25)
        for version in ("Resv1", "Resv2")
    }
    assert [len(n) for n in names.values()] == [90, 90, 130, 130]
    assert "layer1.2.conv1.weight" in names[20, "Resv1"]
    assert "layer1.1.conv1.weight" in names[20, "Resv2"]
    assert "stage4_3.0.conv2.bias" in names[25, "Resv1"]
    assert "stage4_3_branch7.0.conv2.bias" in names[25, "Resv2"]
    assert "branch5.0.conv3_bbox.bias" in names[20, "Resv2"]


def test_basketnet_has_the_published_cells() -> None:
    logits, locations = twin("basketnet").to("meta")(torch.empty(2, 3, 640, 640, device="meta"))
    assert logits.shape == (2, 65_648, 3)
    assert locations.shape == (2, 65_648, 4)


def test_an_unknown_twin_is_an_error() -> None:
    with pytest.raises(ValueError, match="no torch twin is called 'yolo'"):
        twin("yolo")


def test_a_gradient_reaches_every_tensor_of_a_twin() -> None:
    """A tensor that no forward reads would let a wrong wiring pass unseen; only bn8 is such."""
    for name in ("pfld", "pfld-msfc", "pfld-ultralight", "pfld-ghostone", "pfld-polaris"):
        module = load_formula(twin(name, **({} if name == "pfld-polaris" else {"width": 0.25})))
        y = module(torch.from_numpy(formula.wave()))
        (y[1] if isinstance(y, tuple) else y).square().sum().backward()
        dead = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
        expected = ["bn8.weight", "bn8.bias"] if name == "pfld-polaris" else []
        assert [n for n in dead if np.prod(shapes(module)[n]) > 1] == expected, name
