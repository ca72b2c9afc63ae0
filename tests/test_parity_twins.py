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
from tests.published_counts import FOLDED_COUNTS, LFFD_COUNTS, PFLD_COUNTS  # noqa: E402

torch.set_num_threads(1)


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


@pytest.mark.parametrize("row", PFLD_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
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


@pytest.mark.parametrize("row", LFFD_COUNTS, ids=lambda row: row[0])
def test_detectors_have_the_published_counts(row: tuple[Any, ...]) -> None:
    name, parameters, entries, multiplications = row
    module = twin(name)
    assert (trained(module), len(shapes(module))) == (parameters, entries)
    counted = macs(module, 3, 480, 640) / 1e9
    assert counted == pytest.approx(multiplications[480, 640], abs=0.5e-3)


def test_basketnet_has_the_published_counts() -> None:
    """Its original computes the shared convolution of each branch twice, and so does the twin."""
    module = twin("basketnet")
    assert (trained(module), len(shapes(module))) == (583_254, 174)
    assert macs(module, 3, 480, 640) == pytest.approx(2.1036e9, abs=0.5e5)


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
