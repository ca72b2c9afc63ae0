"""refnet beside its torch twins, and the comparison itself: that it fails where it should."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import refnet  # noqa: E402
from parity import compare as comparison  # noqa: E402
from parity import formula  # noqa: E402
from parity.__main__ import main  # noqa: E402
from parity.cases import Case, cases  # noqa: E402
from parity.compare import Result, compare, errors, subject, tolerance  # noqa: E402
from parity.conditioning import MARGIN, kink_shift, settle  # noqa: E402
from parity.folding import fold  # noqa: E402
from parity.twins import load_formula, shapes, twin  # noqa: E402
from refnet.graph import Graph  # noqa: E402
from refnet.passes import fold as fold_graph  # noqa: E402

torch.set_num_threads(1)

QUICK = [case for case in cases() if case.quick]
LARGER = [
    Case("pfld", {"width": 0.5, "input_size": 112}, 3, 112, 112, 3),
    Case("pfld-ultralight-slim", {"width": 0.125}, 3, 112, 112, 3),
    Case("pfld-ghostone", {"width": 1.0, "form": "inference"}, 3, 112, 112, 1),
    Case("lffd-head", {"width": 0.5}, 3, 161, 198, 3),
    Case("basketnet", {}, 3, 161, 198, 1),
    Case("tinynet", {}, 3, 97, 120, 3),
]


def identity(case: Case) -> str:
    return f"{case.network} {case.describe_options()} {case.height}x{case.width} {case.batch}"


def build_twin(name: str, options: dict[str, Any]) -> tuple[Graph, Any]:
    return refnet.build(name, **options), twin(name, **options)


def test_the_quick_cases_hold_every_network() -> None:
    assert {case.network for case in QUICK} == set(refnet.networks())
    assert len({identity(case) for case in cases()}) == len(list(cases()))


@pytest.mark.parametrize("case", [*QUICK, *LARGER], ids=identity)
def test_outputs_and_gradients_agree_with_torch(case: Case) -> None:
    results = list(compare(case, ("float64", "float32")))
    kinds = {(r.dtype, r.quantity) for r in results}
    assert kinds == {(d, q) for d in ("float64", "float32") for q in ("forward", "gradient")}
    assert {r.tolerance for r in results if r.dtype == "float64"} == {1e-10}
    assert {r.tolerance for r in results if r.dtype == "float32"} == {1e-5}
    assert [r for r in results if not r.passed] == []


@pytest.mark.parametrize("case", QUICK, ids=identity)
def test_graphs_and_twins_have_the_same_state_dict(case: Case) -> None:
    graph, module = build_twin(case.network, case.options)
    assert list(graph.state_dict.items()) == list(shapes(module).items())  # in PyTorch's order


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pfld", {"width": 0.25}),
        ("pfld-msfc", {"width": 0.25}),
        ("pfld-ultralight", {"width": 0.25}),
        ("pfld-ultralight-slim", {"width": 0.125}),
        ("pfld-ghostone", {"width": 0.25}),
        ("pfld-polaris", {}),
        ("pfld-polaris", {"bn8": "applied"}),
        ("pfld-polaris-auxiliary", {}),
    ],
)
def test_folding_a_graph_gives_torchs_folded_weights(name: str, options: dict[str, Any]) -> None:
    graph, module = build_twin(name, options)
    expected = fold(load_formula(module).double())
    weights = {n: t.numpy() for n, t in module.state_dict().items()}
    folded, got = fold_graph(graph, weights)
    assert set(got) == set(expected) == set(folded.parameters)
    for tensor, array in expected.items():
        assert np.abs(got[tensor] - array).max() <= 1e-13 * max(1, np.abs(array).max()), tensor


def test_another_wiring_with_the_same_weights_fails() -> None:
    """The comparison tells pre- from post-activation, which share every name and shape."""
    case = Case("lffd-face-v2", {"residual": "pre-activation"}, 3, 127, 127, 1)
    given = subject(case)
    outputs, gradient = comparison.torch_results(given.module, given.x, given.cotangents)
    wrong = refnet.load(case.network, given.weights, residual="post-activation")
    x = given.x.astype(np.float64)
    assert errors(tuple(wrong.run(x)), outputs, floor=1.0)[0] > 1e-2
    assert errors([wrong.vjp(x, given.cotangents)], [gradient], floor=0.0)[0] > 1e-2


def test_errors_are_relative_to_each_outputs_largest_magnitude() -> None:
    small, large = np.array([0.5, -0.25]), np.array([200.0, 50.0])
    off = small + np.array([0, 0.125])
    assert errors([off], [small], floor=1.0) == (0.125, 0.0625)
    assert errors([off], [small], floor=0.0) == (0.25, 0.125)
    assert errors([small, large - np.array([0, 2])], [small, large], floor=1.0) == (0.01, 0.0025)
    assert errors([np.array([np.nan, 0.0])], [small], floor=1.0)[0] == np.inf
    with pytest.raises(ValueError, match=r"got \(2,\), torch gave \(2,\), \(2,\)"):
        errors([small], [small, large], floor=1.0)


def test_the_compiled_engine_has_room_for_winograd_only_where_it_can_choose_it() -> None:
    slim, head = refnet.build("pfld", width=0.25), refnet.build("lffd-head")
    assert tolerance("compiled", "float32", slim) == 2e-5  # dense 3x3 convs of stride 2 only
    assert tolerance("compiled", "float32", head) == 2e-4


def test_kink_shift_is_the_smallest_that_clears_the_kinks() -> None:
    clear = torch.tensor([[-3.0, -1.0, 2.0, 9.0]], dtype=torch.float64)
    assert kink_shift(clear, (0.0,), 0.1).tolist() == [0.0]
    at_both = torch.tensor([[0.0, 6.1, -1.0], [0.3, 3.0, 4.0]], dtype=torch.float64)
    for shift, values in zip(kink_shift(at_both, (0.0, 6.0), 0.1), at_both, strict=True):
        moved = values + shift
        assert min((moved - kink).abs().min() for kink in (0.0, 6.0)) >= 0.05
        assert shift.abs() < 0.35


def test_settled_rectifiers_keep_their_distance() -> None:
    module: Any = load_formula(twin("pfld-ultralight", width=0.25, input_size=96)).double()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    x = torch.from_numpy(formula.wave(96)).double()
    assert settle(module, x) == 0
    moved = [n for n, p in module.named_parameters() if not torch.equal(p, before[n])]
    assert moved and all(name.endswith("bias") for name in moved)
    seen: list[float] = []

    def watch(_module: Any, inputs: Any) -> None:
        z = inputs[0].detach()
        nonzero = z[z != 0]
        seen.append(float(nonzero.abs().min() / z.abs().max()))

    for layer in module.modules():
        if isinstance(layer, torch.nn.ReLU):
            layer.register_forward_pre_hook(watch)
    module(x)
    assert len(seen) == 26
    assert min(seen) >= MARGIN / 10


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "parity.json"
    assert main(["--quick", "--network", "tiny*", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["network", "options", "size"]
    assert len(lines) == 2 + 4 + 5
    assert lines[-1].startswith("4 comparisons of 1 networks") and "all within" in lines[-1]
    document = json.loads(file.read_text())
    assert document["passed"] is True
    row = document["rows"][0]
    assert {"network": "tinynet", "backend": "numpy", "dtype": "float64"}.items() <= row.items()
    assert row["max_error"] <= row["tolerance"] == 1e-10


def test_the_command_fails_on_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(comparison.TOLERANCES, ("numpy", "float32"), 1e-12)
    assert main(["--quick", "--network", "tinynet"]) == 1
    assert "2 ABOVE THEIR TOLERANCE" in capsys.readouterr().out


def test_the_command_says_that_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "resnet*"]) == 2
    assert main(["--network", "tinynet", "--backend", "compiled", "--dtype", "float64"]) == 2
    assert "no case matches" in capsys.readouterr().err


def test_a_result_passes_at_its_tolerance() -> None:
    fields: dict[str, Any] = dict.fromkeys(
        ("network", "options", "backend", "dtype", "quantity"), ""
    )
    sizes: dict[str, Any] = {
        "height": 1,
        "width": 1,
        "batch": 1,
        "mean_error": 0.0,
        "tolerance": 1e-5,
    }
    assert Result(**fields, **sizes, max_error=1e-5).passed
    assert not Result(**fields, **sizes, max_error=1.1e-5).passed
    assert not Result(**fields, **sizes, max_error=float("inf")).passed
