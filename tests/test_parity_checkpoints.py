"""Files that torch itself writes, from every twin, in every format and wrapper that is in use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import refnet  # noqa: E402
from parity import formula  # noqa: E402
from parity.twins import NaiveNet, load_formula, twin  # noqa: E402
from refnet.checkpoints import identify, read  # noqa: E402

# A state dict of polaris does not say its activation: test_checkpoints_identify.py has what is made of that.
pytestmark = pytest.mark.filterwarnings("ignore:.*the file does not say whether:RuntimeWarning")

torch.set_num_threads(1)

State = dict[str, Any]

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("pfld", {"width": 0.25, "input_size": 96, "landmarks": 68}),
    ("pfld", {"width": 0.25, "form": "inference"}),
    ("pfld-msfc", {"width": 0.5}),
    ("pfld-ultralight", {"width": 0.25}),
    ("pfld-ultralight-slim", {"width": 0.125}),
    ("pfld-ultralight-slim", {"width": 0.25, "input_size": 96, "form": "inference"}),
    ("pfld-ghostone", {"width": 0.25}),
    ("pfld-ghostone", {"width": 0.25, "form": "inference"}),
    ("pfld-polaris", {"width": 0.5, "bn8": "applied", "conv2": "depthwise", "landmarks": 17}),
    ("pfld-polaris", {"form": "inference"}),
    ("pfld-polaris-auxiliary", {}),
    ("lffd-face-v1", {}),
    ("lffd-face-v2", {"width": 0.5}),
    ("lffd-head", {}),
    ("lffd-pedestrian", {}),
    ("lffd-plate", {}),
    ("lffd-plate-small", {}),
    ("basketnet", {}),
    ("tinynet", {}),
]

WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": 0.5},
    "model in DataParallel": lambda state: {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
    },
    "pfld_backbone": lambda state: {"epoch": 54, "pfld_backbone": state, "auxiliarynet": pose()},
    "plfd_backbone": lambda state: {"epoch": 54, "plfd_backbone": state, "auxiliarynet": pose()},
}


def pose() -> State:
    state: State = load_formula(twin("pfld-polaris-auxiliary")).state_dict()
    return state


def state_of(name: str, options: dict[str, Any]) -> State:
    state: State = load_formula(twin(name, **options)).state_dict()
    return state


def arrays(state: State) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def outputs(model: refnet.Model) -> list[np.ndarray]:
    channels, height, width = model.graph.input_shape
    size = (height, width) if model.graph.fixed_size else (127, 130)
    y = model.run(formula.stripes(size, channels) / np.float32(255), backend="numpy")
    return [y] if isinstance(y, np.ndarray) else list(y)


def assert_same_bits(got: refnet.Model, expected: refnet.Model) -> None:
    assert got.graph.options == expected.graph.options
    assert list(got.weights) == list(expected.weights)
    for a, b in zip(outputs(got), outputs(expected), strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, b)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("name", "options"), NETWORKS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_file_of_every_network_is_recognised_and_gives_the_same_bits(
    tmp_path: Path, name: str, options: dict[str, Any], zipped: bool
) -> None:
    state = state_of(name, options)
    file = tmp_path / "checkpoint.pth"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    found, _, tensors = identify(read(file))
    assert found == name
    assert all(np.array_equal(tensors[n], state[n].numpy()) for n in tensors)
    assert_same_bits(refnet.load(file), refnet.load(name, arrays(state), **options))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["pfld-polaris", "pfld-ultralight-slim", "lffd-plate-small"])
def test_every_wrapper_gives_the_same_bits(
    tmp_path: Path, name: str, wrapper: str, zipped: bool
) -> None:
    options: dict[str, Any] = {"width": 0.25} if name == "pfld-ultralight-slim" else {}
    state = state_of(name, options)
    if name == "pfld-polaris":  # an untouched bn8, as the published code leaves it
        state |= torch.nn.BatchNorm2d(128).state_dict(prefix="bn8.")
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(WRAPPERS[wrapper](state), file, _use_new_zipfile_serialization=zipped)
    assert_same_bits(refnet.load(file), refnet.load(name, arrays(state), **options))
    assert_same_bits(refnet.load(name, file), refnet.load(name, arrays(state), **options))


@pytest.mark.parametrize("wrapper", ["pfld_backbone", "plfd_backbone"])
def test_the_pose_branch_is_found_beside_the_backbone(tmp_path: Path, wrapper: str) -> None:
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(WRAPPERS[wrapper](state_of("pfld-polaris", {})), file)
    expected = refnet.load("pfld-polaris-auxiliary", arrays(pose()))
    assert_same_bits(refnet.load("pfld-polaris-auxiliary", file), expected)


def test_a_file_in_half_precision_or_double_keeps_what_it_holds(tmp_path: Path) -> None:
    state = state_of("tinynet", {})
    for dtype, computed in ((torch.float16, np.float32), (torch.float64, np.float64)):
        file = tmp_path / f"{dtype}.pth"
        torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, file)
        model = refnet.load(file)
        for name, tensor in state.items():
            assert model.weights[name].dtype == computed
            assert np.array_equal(model.weights[name], tensor.to(dtype).numpy().astype(computed))


def test_strided_and_shared_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    """Views of one storage, transposed and sliced, as parameter tying and slicing leave them."""
    state = state_of("tinynet", {})
    store = torch.cat([tensor.flatten() for tensor in state.values()])
    views, at = {}, 0
    for name, tensor in state.items():
        view = store[at : at + tensor.numel()].reshape(tensor.shape)
        views[name] = view.transpose(0, 1).contiguous().transpose(0, 1) if view.ndim == 4 else view
        at += tensor.numel()
    for zipped in (True, False):
        file = tmp_path / "views.pth"
        torch.save(views, file, _use_new_zipfile_serialization=zipped)
        assert_same_bits(refnet.load(file), refnet.load("tinynet", arrays(state)))


@pytest.mark.parametrize("version", ["Resv1", "Resv2"])
@pytest.mark.parametrize(("layers", "name"), [(20, "lffd-face-v2"), (25, "lffd-face-v1")])
def test_files_of_lffd_pytorch_run_as_its_networks_do(
    tmp_path: Path, layers: int, name: str, version: str
) -> None:
    """Names and residual wiring; that repository's outputs are logits of normalised pixels."""
    naive = load_formula(NaiveNet(layers, version)).eval()
    file = tmp_path / "naivenet.pth"
    torch.save(naive.state_dict(), file)
    model = refnet.load(file)
    assert model.graph.name == name
    wiring = {"Resv1": "post-activation", "Resv2": "pre-activation"}[version]
    assert model.graph.options["residual"] == wiring
    pixels = formula.stripes((161, 198)).astype(np.float64)
    with torch.no_grad():
        raw = naive.double()(torch.from_numpy((pixels - 127.5) / 127.5))
    for i, (a, b) in enumerate(zip(model.run(pixels), raw, strict=True)):
        expected = torch.softmax(b, 1)[:, :1] if i % 2 == 0 else b
        assert np.abs(a - expected.numpy()).max() <= 1e-10 * max(1, float(b.abs().max()))
