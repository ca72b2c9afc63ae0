"""The networks against the counts published for them, and the options that they refuse."""

import json
from typing import Any

import pytest

import refnet
from refnet.errors import OptionError, UnknownNetworkError
from refnet.networks.lffd import LAYERS
from tests.published_counts import FOLDED_COUNTS, LFFD_COUNTS, PFLD_COUNTS


@pytest.mark.parametrize("row", PFLD_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_pfld_has_the_published_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, buffers, tensors, macs = row
    graph = refnet.build(name, width=width, input_size=size)
    assert graph.parameter_count == parameters
    assert graph.buffer_count == buffers
    assert len(graph.state_dict) == tensors
    assert sum(graph.macs().values()) == macs


@pytest.mark.parametrize("row", FOLDED_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_folded_networks_have_the_published_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, macs = row
    graph = refnet.build(name, width=width, input_size=size, form="inference")
    assert graph.parameter_count == parameters
    assert graph.buffer_count == 0
    assert sum(graph.macs().values()) == macs


def test_the_auxiliary_net_has_the_published_counts() -> None:
    graph = refnet.build("pfld-polaris-auxiliary")
    assert (graph.parameter_count, graph.buffer_count) == (463_811, 832)
    assert (len(graph.state_dict), sum(graph.macs().values())) == (28, 46_968_928)


@pytest.mark.parametrize("row", LFFD_COUNTS, ids=lambda row: row[0])
def test_lffd_has_the_published_counts(
    row: tuple[str, int, int, dict[tuple[int, int], float]],
) -> None:
    name, parameters, tensors, macs = row
    graph = refnet.build(name)
    assert graph.parameter_count == parameters
    assert len(graph.state_dict) == tensors
    for size, published in macs.items():
        counted = sum(graph.macs((3, *size)).values()) / 1e9
        digits = len(str(published).partition(".")[2])
        assert round(counted, digits) == published


def test_lffds_trunk_and_heads_have_the_published_costs() -> None:
    """The split published for 640×480: heads are the 1×1 convolutions."""
    published = {"lffd-face-v1": (7.960, 2.064), "lffd-face-v2": (5.777, 1.047)}
    for name, (trunk, heads) in published.items():
        graph = refnet.build(name)
        macs = graph.macs((3, 480, 640))
        pointwise = sum(m for n, m in macs.items() if graph.node[n].attributes["kernel"] == (1, 1))
        assert round(pointwise / 1e9, 3) == heads
        assert round((sum(macs.values()) - pointwise) / 1e9, 3) == trunk


def test_basketnet_has_the_published_counts() -> None:
    """The original computes each head's shared convolution twice; here it is computed once."""
    graph = refnet.build("basketnet")
    assert graph.parameter_count == 583_254
    assert len(graph.state_dict) == 174
    macs = graph.macs((3, 480, 640))
    shared = sum(m for name, m in macs.items() if name.endswith("conv1x1relu.0"))
    assert round((sum(macs.values()) + shared) / 1e9, 4) == 2.1036
    assert graph.shapes()["logits"] == (65_648, 3)
    assert graph.shapes()["locations"] == (65_648, 4)


def test_68_landmarks_have_the_published_count() -> None:
    assert refnet.build("pfld-msfc", landmarks=68).parameter_count == 1_150_216


@pytest.mark.parametrize("name", refnet.networks())
def test_options_rebuild_the_graph(name: str) -> None:
    """A graph's options survive JSON and build the same graph: that is how a converted file works."""
    graph = refnet.build(name)
    assert set(graph.options) == set(refnet.network_options(name))
    again = refnet.build(name, **json.loads(json.dumps(dict(graph.options))))
    assert again == graph
    assert again.options == graph.options


@pytest.mark.parametrize("side", [64, 80, 96, 112, 128, 160])
@pytest.mark.parametrize(
    "name", ["pfld", "pfld-msfc", "pfld-ultralight", "pfld-ultralight-slim", "pfld-ghostone"]
)
def test_any_multiple_of_16_is_an_input_size(name: str, side: int) -> None:
    graph = refnet.build(name, input_size=side, width=0.25)
    assert graph.shapes()["landmarks"] == (196,)
    assert graph.state_dict["conv8.0.weight"][2:] == (side // 16, side // 16)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("pfld", {"width": 0.3}, "widths that do include 0.125, 0.25"),
        ("pfld-ghostone", {"width": 0.125}, "widths that do include 0.25, 0.5"),
        ("pfld-ghostone", {"width": 0.375}, "0.75, 1"),
        ("pfld-ultralight", {"width": 0.3}, "0.25"),
        ("pfld", {"width": 0}, "width"),
        ("pfld", {"width": "wide"}, "a number above 0"),
        ("pfld", {"width": float("nan")}, "width"),
        ("pfld", {"input_size": 100}, "multiple of 16"),
        ("pfld", {"input_size": (112, 96)}, "square"),
        ("pfld-polaris", {"input_size": 224}, "112"),
        ("pfld-polaris", {"input_size": 96}, "112"),
        ("pfld", {"landmarks": 0}, "landmarks"),
        ("pfld", {"landmarks": 98.0}, "landmarks"),
        ("pfld", {"form": "fused"}, "training, inference"),
        ("pfld-polaris", {"activation": "selu"}, "relu, relu6"),
        ("pfld", {"depth": 3}, "takes width, input_size, landmarks, form"),
        ("lffd-head", {"residual": "pre-activation"}, "no option residual"),
        ("lffd-face-v2", {"residual": "none"}, "pre-activation, post-activation"),
        ("lffd-face-v2", {"input_size": (640,)}, r"pair \(height, width\)"),
        ("lffd-face-v2", {"width": 1 / 64}, "width"),
        ("basketnet", {"classes": 0}, "classes"),
    ],
)
def test_impossible_options_name_the_possible(
    name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        refnet.build(name, **options)


def test_an_unknown_network_is_met_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNetworkError, match="did you mean 'pfld-ghostone'"):
        refnet.build("pfld-ghost-one")


@pytest.mark.parametrize("name", LAYERS)
def test_the_smallest_side_is_two_strides_less_one(name: str) -> None:
    """2S - 1 pixels are enough for a network of stride S, and one pixel less is refused."""
    graph = refnet.build(name)
    stride = refnet.receptive_field(graph)[graph.outputs[-1]]
    assert stride is not None
    side = 2 * stride.jump[0] - 1
    assert graph.shapes((3, side, side))[graph.outputs[-1]] == (4, 1, 1)
    with pytest.raises(refnet.ShapeError, match="too small"):
        graph.shapes((3, side - 1, side))


def test_sides_of_the_light_detector_are_multiples_of_64() -> None:
    with pytest.raises(OptionError, match=r"multiples of 64 .* such as \(448, 640\)"):
        refnet.build("lffd-light", input_size=(470, 640))
    graph = refnet.build("lffd-light", input_size=(448, 640))
    assert [graph.shapes()[name] for name in graph.outputs] == [
        (15, 448 // stride, 640 // stride) for stride in (8, 16, 32, 64)
    ]
