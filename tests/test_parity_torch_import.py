"""Torch modules and their ONNX exports as graphs; and fields against torch's own gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet.errors import OptionError
from refnet.fields.branches import branches
from refnet.fields.effective_receptive_field import effective_receptive_field
from refnet.ops import Array

pytest.importorskip("torch", reason="parity needs torch")

import torch
from torch import nn

from parity.torch_import import from_torch
from parity.twins import load_formula, twin

#: Warnings of torch's own exporters about themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _twin(network: str) -> tuple[refnet.Graph, nn.Module]:
    size = (161, 198) if not network.startswith("pfld") else None
    graph = refnet.build(network, **({"input_size": size} if size else {}))
    return graph, load_formula(twin(network))


def _image(graph: refnet.Graph, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed).normal(size=(1, *graph.input_shape))
    scaled = 127 + 60 * noise if graph.name.startswith("lffd") else noise
    return scaled.astype(np.float32)


def _hold(model: refnet.Model, graph: refnet.Graph, module: nn.Module) -> None:
    """The imported model gives torch's outputs and has our own graph's fields."""
    x = _image(graph)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    found = model(x)
    pairs = zip(
        found if isinstance(found, tuple) else (found,),
        expected if isinstance(expected, (tuple, list)) else (expected,),
        strict=True,
    )
    for a, b in pairs:
        assert a.shape == tuple(b.shape)
        assert np.abs(a - b.numpy()).max() <= 1e-5 * max(1, b.abs().max().item())
    assert [b.field for b in branches(model.graph)] == [b.field for b in branches(graph)]


#: One of every kind; the others differ from these in counts alone, and ghostone is slow to export.
KINDS = (
    *("pfld", "pfld-msfc", "pfld-ultralight", "pfld-polaris", "pfld-polaris-auxiliary"),
    *("lffd-face-v1", "lffd-plate-small", "basketnet", "tinynet"),
)


@pytest.mark.parametrize("network", KINDS)
def test_twins_become_the_network(network: str) -> None:
    graph, module = _twin(network)
    channels, height, width = graph.input_shape
    _hold(from_torch(module, (channels, height, width)), graph, module)


@pytest.mark.parametrize("network", ["lffd-face-v2", "basketnet", "pfld-msfc"])
@pytest.mark.filterwarnings("ignore")
def test_exported_twins_become_the_network(network: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from refnet.exchange.onnx_import import from_onnx

    graph, module = _twin(network)
    path = tmp_path / f"{network}.onnx"
    torch.onnx.export(module, (torch.from_numpy(_image(graph)),), str(path), dynamo=False)
    _hold(from_onnx(path, backend="numpy"), graph, module)


class Residual(nn.Module):
    """What people write: functional and module forms, sums, views, splits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.branch = nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=2)
        self.pool = nn.AvgPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.nn.functional.max_pool2d(self.stem(x * 2 - 1), 3, 2, 1)
        a, b = y.chunk(2, 1)
        y = torch.cat([0 + torch.relu(self.branch(a)) + a, b[:, :4]], dim=1)
        z = self.drop(self.pool(y)).mean((2, 3))
        return torch.sigmoid(y), torch.softmax(self.head(z.view(z.size(0), -1)), 1)


def test_a_module_of_ones_own_gives_torchs_outputs() -> None:
    torch.manual_seed(0)
    module = Residual().eval()
    model = from_torch(module, (3, 48, 64))
    x = np.random.default_rng(0).normal(size=(1, 3, 48, 64)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    for a, b in zip(model(x), expected, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-5
    field = branches(model.graph)[0].field
    # conv 5 s2, pool 3 s2, conv (3, 1): rows 1 + 4 + 2·2 + 4·2, columns without the last.
    assert field.size == (17, 9)
    assert field.jump == (4, 4)
    assert model.graph.name == "Residual"


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(x)


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(OptionError, match="tanh"):
        from_torch(Unknown(), (3, 8, 8))


@pytest.mark.parametrize(
    ("network", "number"), [("lffd-face-v2", 2), ("lffd-pedestrian", 1), ("basketnet", 3)]
)
def test_field_is_torchs_gradient(network: str, number: int) -> None:
    graph, module = _twin(network)
    module = module.double()
    x = torch.from_numpy(_image(graph).astype(np.float64)).requires_grad_()
    weights = {n: t.numpy() for n, t in module.state_dict().items()}
    model = refnet.Model(graph, {n: weights[n] for n in graph.parameters}, backend="numpy")
    branch = branches(graph)[number - 1]
    unit = (4, 7)
    if network == "basketnet":
        shapes = graph.shapes()
        cells = [shapes[b.tensor] for b in branches(graph)[: number - 1]]
        cell = sum(h * w for _, h, w in cells) + unit[0] * shapes[branch.tensor][2] + unit[1]
        chosen = module(x)[0][0, cell, 1]
    else:
        chosen = module(x)[2 * (number - 1)][0, 0, unit[0], unit[1]]
    (gradient,) = torch.autograd.grad(chosen, x)
    expected = gradient[0].abs().sum(0).numpy()
    channel = 1 if network == "basketnet" else 0
    field = effective_receptive_field(
        model, branch.tensor, unit=unit, inputs=x.detach().numpy(), channels=channel
    )
    assert field.peak == pytest.approx(expected.max(), rel=1e-10)
    top, left = field.origin
    rows, columns = np.nonzero(expected)
    placed = field.map[rows - top, columns - left] * field.peak
    np.testing.assert_allclose(placed, expected[rows, columns], rtol=0, atol=1e-10 * field.peak)
    assert field.map.sum() * field.peak == pytest.approx(expected.sum(), rel=1e-10)
