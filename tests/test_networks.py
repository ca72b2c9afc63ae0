"""The networks against the counts published for them, and the options that they refuse."""

import json
from typing import Any

import pytest

import refnet
from refnet.errors import OptionError, UnknownNetworkError

# network, width, size, parameters, buffers, tensors in the state dict, multiply-accumulates
PFLD_COUNTS = [
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
    ("pfld-ghostone", 0.25, 112, 235_097, 17_504, 2_086, 43_746_122),
    ("pfld-ghostone", 0.5, 112, 772_446, 35_008, 2_086, 133_248_052),
    ("pfld-ghostone", 1, 112, 2_754_488, 70_016, 2_086, 449_519_336),
    ("pfld-ghostone", 0.25, 96, 231_769, 17_504, 2_086, 32_146_664),
    ("pfld-ghostone", 0.5, 96, 759_134, 35_008, 2_086, 97_909_840),
    ("pfld-ghostone", 1, 96, 2_701_240, 70_016, 2_086, 330_285_728),
    ("pfld-polaris", 1, 112, 1_264_804, 19_424, 261, 386_590_400),
]

# network, width, size, parameters after folding, multiply-accumulates after folding
FOLDED_COUNTS = [
    ("pfld", 0.25, 112, 91_952, 20_400_464),
    ("pfld", 0.25, 96, 88_624, 14_990_384),
    ("pfld", 0.5, 112, 325_596, 72_665_824),
    ("pfld", 0.5, 96, 312_284, 53_391_712),
    ("pfld", 1, 112, 1_218_548, 272_791_232),
    ("pfld", 1, 96, 1_165_300, 200_427_200),
    ("pfld-msfc", 0.25, 112, 99_632, 11_219_432),
    ("pfld-msfc", 0.25, 96, 96_304, 8_249_296),
    ("pfld-msfc", 0.5, 112, 328_028, 38_655_120),
    ("pfld-msfc", 0.5, 96, 314_716, 28_412_576),
    ("pfld-msfc", 1, 112, 1_171_700, 142_175_264),
    ("pfld-msfc", 1, 96, 1_118_452, 104_481_088),
    ("pfld-ultralight", 0.25, 112, 76_866, 9_117_234),
    ("pfld-ultralight", 0.25, 96, 73_538, 6_705_032),
    ("pfld-ultralight", 0.5, 112, 236_464, 28_556_612),
    ("pfld-ultralight", 0.5, 96, 223_152, 20_993_680),
    ("pfld-ultralight", 1, 112, 804_444, 98_401_800),
    ("pfld-ultralight", 1, 96, 751_196, 72_321_824),
    ("pfld-ultralight-slim", 0.25, 112, 71_759, 7_827_946),
    ("pfld-ultralight-slim", 0.25, 96, 68_431, 5_757_800),
    ("pfld-ultralight-slim", 0.5, 112, 218_242, 24_090_948),
    ("pfld-ultralight-slim", 0.5, 96, 204_930, 17_712_784),
    ("pfld-ultralight-slim", 1, 112, 735_968, 81_922_120),
    ("pfld-ultralight-slim", 1, 96, 682_720, 60_214_304),
    ("pfld-ghostone", 0.25, 112, 68_907, 7_258_958),
    ("pfld-ghostone", 0.5, 112, 208_922, 22_164_268),
    ("pfld-ghostone", 1, 112, 702_864, 74_913_944),
    ("pfld-ghostone", 0.25, 96, 65_579, 5_339_768),
    ("pfld-ghostone", 0.5, 96, 195_610, 16_297_264),
    ("pfld-ghostone", 1, 96, 649_616, 55_065_440),
    ("pfld-polaris", 1, 112, 1_254_964, 386_590_400),
]

# network, parameters, tensors, exact multiply-accumulates at 640×480 or None, in G elsewhere
LFFD_COUNTS: list[tuple[str, int, int, dict[tuple[int, int], float]]] = [
    (
        "lffd-face-v1",
        2_290_608,
        130,
        {(240, 320): 2.45, (480, 640): 10.024, (720, 1280): 30.32, (1080, 1920): 68.49,
         (2160, 3840): 275.4, (4320, 7680): 1104.3},
    ),
    (
        "lffd-face-v2",
        1_520_606,
        90,
        {(240, 320): 1.67, (480, 640): 6.824, (720, 1280): 20.64, (1080, 1920): 46.60,
         (2160, 3840): 187.3, (4320, 7680): 750.7},
    ),
    (
        "lffd-head",
        1_027_544,
        74,
        {(240, 320): 1.67, (480, 640): 6.797, (720, 1280): 20.54, (1080, 1920): 46.38,
         (2160, 3840): 186.3, (4320, 7680): 746.8},
    ),
    (
        "lffd-pedestrian",
        1_818_648,
        80,
        {(240, 320): 0.77, (480, 640): 3.201, (720, 1280): 9.74, (1080, 1920): 22.04,
         (2160, 3840): 88.96, (4320, 7680): 357.3},
    ),
    (
        "lffd-plate",
        948_498,
        62,
        {(240, 320): 0.34, (480, 640): 1.403, (720, 1280): 4.27, (1080, 1920): 9.65,
         (2160, 3840): 38.97, (4320, 7680): 156.5},
    ),
    (
        "lffd-plate-small",
        486_866,
        62,
        {(240, 320): 0.11, (480, 640): 0.479, (720, 1280): 1.46, (1080, 1920): 3.31,
         (2160, 3840): 13.41, (4320, 7680): 53.90},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", PFLD_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_pfld_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, buffers, tensors, macs = row
    graph = refnet.build(name, width=width, input_size=size)
    assert graph.parameter_count == parameters
    assert graph.buffer_count == buffers
    assert len(graph.state_dict) == tensors
    assert sum(graph.macs().values()) == macs


@pytest.mark.parametrize("row", FOLDED_COUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_folded_counts(row: tuple[Any, ...]) -> None:
    name, width, size, parameters, macs = row
    graph = refnet.build(name, width=width, input_size=size, form="inference")
    assert graph.parameter_count == parameters
    assert graph.buffer_count == 0
    assert sum(graph.macs().values()) == macs


def test_auxiliary_counts() -> None:
    graph = refnet.build("pfld-polaris-auxiliary")
    assert (graph.parameter_count, graph.buffer_count) == (463_811, 832)
    assert (len(graph.state_dict), sum(graph.macs().values())) == (28, 46_968_928)


@pytest.mark.parametrize("row", LFFD_COUNTS, ids=lambda row: row[0])
def test_lffd_counts(row: tuple[str, int, int, dict[tuple[int, int], float]]) -> None:
    name, parameters, tensors, macs = row
    graph = refnet.build(name)
    assert graph.parameter_count == parameters
    assert len(graph.state_dict) == tensors
    for size, published in macs.items():
        counted = sum(graph.macs((3, *size)).values()) / 1e9
        digits = len(str(published).partition(".")[2])
        assert round(counted, digits) == published


def test_lffd_trunk_and_heads() -> None:
    """The split published for 640×480: heads are the 1×1 convolutions."""
    published = {"lffd-face-v1": (7.960, 2.064), "lffd-face-v2": (5.777, 1.047)}
    for name, (trunk, heads) in published.items():
        graph = refnet.build(name)
        macs = graph.macs((3, 480, 640))
        pointwise = sum(m for n, m in macs.items() if graph.node[n].attributes["kernel"] == (1, 1))
        assert round(pointwise / 1e9, 3) == heads
        assert round((sum(macs.values()) - pointwise) / 1e9, 3) == trunk


def test_basketnet_counts() -> None:
    """The original computes each head's shared convolution twice; here it is computed once."""
    graph = refnet.build("basketnet")
    assert graph.parameter_count == 583_254
    assert len(graph.state_dict) == 174
    macs = graph.macs((3, 480, 640))
    shared = sum(m for name, m in macs.items() if name.endswith("conv1x1relu.0"))
    assert round((sum(macs.values()) + shared) / 1e9, 4) == 2.1036
    assert graph.shapes()["logits"] == (65_648, 3)
    assert graph.shapes()["locations"] == (65_648, 4)


def test_68_landmarks() -> None:
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
def test_input_sizes(name: str, side: int) -> None:
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
        ("pfld", {"width": "wide"}, "positive number"),
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


def test_unknown_network() -> None:
    with pytest.raises(UnknownNetworkError, match="did you mean 'pfld-ghostone'"):
        refnet.build("pfld-ghost-one")


@pytest.mark.parametrize("name", [n for n in refnet.networks() if n.startswith("lffd")])
def test_smallest_side(name: str) -> None:
    """2S - 1 pixels are enough for a network of stride S, and one pixel less is refused."""
    graph = refnet.build(name)
    stride = refnet.receptive_field(graph)[graph.outputs[-1]]
    assert stride is not None
    side = 2 * stride.jump[0] - 1
    assert graph.shapes((3, side, side))[graph.outputs[-1]] == (4, 1, 1)
    with pytest.raises(refnet.ShapeError, match="too small"):
        graph.shapes((3, side - 1, side))
