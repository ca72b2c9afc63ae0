"""What the planner rewrites and fuses: each pass alone leaves every output as it is, in float64, and each stays away
from what it must not touch."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refnet
from refnet import reference
from refnet.graph import Graph
from refnet.kernels import epilogue as flag
from refnet.kernels import fusion, rewrites
from refnet.ops import OPS, Array
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks
from tests.drawn_graphs import Drawing

Weights: TypeAlias = dict[str, Array]
Pass: TypeAlias = Callable[[Graph, Weights], tuple[Graph, Weights]]

PASSES: dict[str, Pass] = {
    "drop_dead": lambda graph, weights: (rewrites.drop_dead(graph), weights),
    "unfold_transposed": rewrites.unfold_transposed,
    "spread_transposed": rewrites.spread_transposed,
    "split_groups": rewrites.split_groups,
    "scale_channels": rewrites.scale_channels,
    "fold_normalization": rewrites.fold_normalization,
    "collapse_softmax": rewrites.collapse_softmax,
    "collapse_softmax_of_cells": rewrites.collapse_softmax_of_cells,
    "name_pools": lambda graph, weights: (rewrites.name_pools(graph), weights),
    "pass_concats": lambda graph, weights: (rewrites.pass_concats(graph), weights),
    "merge_heads": rewrites.merge_heads,
    "distribute_activations": lambda graph, weights: (
        rewrites.distribute_activations(graph),
        weights,
    ),
    "distribute_additions": lambda graph, weights: (rewrites.distribute_additions(graph), weights),
    "simplify": rewrites.simplify,
}
#: Networks that cover the vocabulary, small: LFFD normalises and scores, Ghost modules add to concatenations.
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("lffd-face-v1", {"width": 0.25, "input_size": (141, 133)}),
    ("lffd-face-v2", {"width": 0.25, "input_size": (141, 133)}),
    ("lffd-plate-small", {"width": 0.25, "input_size": (141, 133)}),
    ("pfld", {"width": 0.25, "input_size": 64}),
    ("pfld-ultralight", {"width": 0.25, "input_size": 64}),
    ("pfld-ultralight-slim", {"width": 0.125, "input_size": 64}),
    ("pfld-ghostone", {"width": 0.25, "input_size": 64}),
    ("pfld-polaris", {"width": 0.25, "bn8": "applied", "activation": "relu6"}),
    ("basketnet", {"input_size": (70, 66)}),
    ("tinynet", {"input_size": (40, 33)}),
]


def folded(name: str, options: dict[str, Any]) -> tuple[Graph, Weights]:
    graph = refnet.build(name, **options)
    weights = {n: w.astype(np.float64) for n, w in random_weights(graph).items()}
    return fold(graph, weights)


def random(graph: Graph) -> Weights:
    return {name: w.astype(np.float64) for name, w in random_weights(graph).items()}


def assert_equal(graph: Graph, outputs: Any, expected: Any) -> None:
    for name, y, e in zip(graph.outputs, outputs, expected, strict=True):
        assert y.shape == e.shape, name
        assert np.abs(y - e).max() <= 1e-12 * max(1.0, np.abs(e).max()), name


def proved(rewrite: Pass, graph: Graph, weights: Weights) -> Graph:
    """The graph after a rewrite, whose outputs are the same in float64."""
    passed, passed_weights = rewrite(graph, weights)
    x = checks.image(graph.input_shape).astype(np.float64)
    outputs = reference.run(passed, passed_weights, x)
    assert_equal(graph, outputs, reference.run(graph, weights, x))
    return passed


def count(graph: Graph, op: str) -> int:
    return sum(node.op == op for node in graph.nodes)


# ---------------------------------------------------------------------------- rewriting the graph


@pytest.mark.parametrize("rewrite", PASSES)
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_each_rewriting_alone_leaves_each_networks_outputs(
    rewrite: str, name: str, options: dict[str, Any]
) -> None:
    graph, weights = folded(name, options)
    passed = proved(PASSES[rewrite], graph, weights)
    if rewrite == "collapse_softmax":
        assert count(passed, "softmax") == 0
        assert count(passed, "sigmoid") == count(graph, "sigmoid") + count(graph, "softmax")
    if rewrite == "simplify":
        assert count(passed, "normalize") == 0
    if rewrite == "distribute_additions" and name == "pfld-ultralight":
        assert count(passed, "add") > count(graph, "add")


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(1, 12))
def test_each_rewriting_alone_leaves_any_graphs_outputs(data: st.DataObject, size: int) -> None:
    drawing = Drawing(data)
    for _ in range(size):
        drawing.grow()
    if len(drawing.names) > 1:
        graph = drawing.graph(most=3)
        weights = random(graph)
        for rewrite in PASSES.values():
            proved(rewrite, graph, weights)


def test_dead_code_goes_and_nothing_else() -> None:
    net = checks.Net((5, 6, 6))
    y = net.conv("input", "used", 4, 1)
    net.add("relu", "unused too", net.conv(y, "unused", 4, 1))
    graph = checks.graph_of(net, y)
    assert [node.name for node in proved(PASSES["drop_dead"], graph, random(graph)).nodes] == [y]
    alive = checks.graph_of(net, "unused too")
    assert rewrites.drop_dead(alive) == alive


@pytest.mark.parametrize("groups", [1, 2])
def test_normalization_moves_into_every_reader(groups: int) -> None:
    net = checks.Net((4, 9, 9))
    y = net.add("normalize", "norm", "input", mean=127.5, std=127.5)
    outputs = [net.conv(y, f"c{k}", 6, k, stride=2, groups=groups) for k in (1, 3)]
    graph = checks.graph_of(net, *outputs)
    passed = proved(PASSES["fold_normalization"], graph, random(graph))
    assert all(node.inputs == ("input",) for node in passed.nodes if node.op == "conv")


@pytest.mark.parametrize("reason", ["padding", "one padded reader", "output", "no convolution"])
def test_normalization_stays_where_folding_would_be_wrong(reason: str) -> None:
    """Padding is zero after the normalisation, not before it; and what others read must be there."""
    net = checks.Net((3, 9, 9))
    y = net.add("normalize", "norm", "input", mean=127.5, std=127.5)
    outputs = [net.conv(y, "conv", 6, 3, padding=int(reason == "padding"))]
    if reason == "one padded reader":
        outputs.append(net.conv(y, "padded", 6, 3, padding=1))
    if reason == "output":
        outputs.append(y)
    if reason == "no convolution":
        outputs.append(net.add("relu", "act", y))
    graph = checks.graph_of(net, *outputs)
    assert proved(PASSES["fold_normalization"], graph, random(graph)) == graph


def score(net: checks.Net, channels: int = 2, start: int = 1, stop: int = 2, axis: int = 1) -> str:
    """softmax(conv)[start:stop], as a detector scores."""
    y = net.add("softmax", "softmax", net.conv("input", "conv", channels, 1), axis=axis)
    return net.add("slice", "score", y, start=start, stop=stop)


@pytest.mark.parametrize("start", [0, 1])
def test_a_softmax_of_two_of_which_one_is_read_is_a_sigmoid(start: int) -> None:
    net = checks.Net((6, 4, 5))
    graph = checks.graph_of(net, score(net, start=start, stop=start + 1))
    passed = proved(PASSES["collapse_softmax"], graph, random(graph))
    assert [node.op for node in passed.nodes] == ["conv", "sigmoid", "slice"]
    assert passed.shapes()["conv"] == (1, 4, 5)


@pytest.mark.parametrize(
    "reason",
    [
        *("three logits", "both read", "softmax is an output", "logits are an output"),
        *("two slices", "logits read twice", "no convolution", "another axis", "groups"),
    ],
)
def test_a_softmax_stays_where_a_sigmoid_would_be_wrong(reason: str) -> None:
    net = checks.Net((6, 4, 5))
    if reason == "three logits":
        outputs = [score(net, channels=3)]
    elif reason == "both read":
        outputs = [score(net, start=0)]
    elif reason == "another axis":
        outputs = [score(net, axis=2)]
    elif reason in ("no convolution", "groups"):
        y = net.conv("input", "conv", 2, 1, groups=2 if reason == "groups" else 1)
        y = net.add("relu", "act", y) if reason == "no convolution" else y
        y = net.add("softmax", "softmax", y, axis=1)
        outputs = [net.add("slice", "score", y, start=1, stop=2)]
    else:
        outputs = [score(net)]
        if reason == "two slices":
            outputs.append(net.add("slice", "other", "softmax", start=0, stop=1))
        elif reason == "logits read twice":
            outputs.append(net.add("relu", "act", "conv"))
        else:
            outputs.append("softmax" if reason == "softmax is an output" else "conv")
    graph = checks.graph_of(net, *outputs)
    assert proved(PASSES["collapse_softmax"], graph, random(graph)) == graph


def cells_of(net: checks.Net, name: str, channels: int, groups: int = 1) -> str:
    """A list of pairs of logits, from a convolution of the input."""
    x = net.conv("input", f"{name}.conv", channels, 3, padding=1, groups=groups)
    return net.add("reshape", name, net.add("cells", f"{name}.cells", x), shape=(-1, 2))


@pytest.mark.parametrize("parts", [1, 3])
def test_softmaxes_of_pairs_of_cells_are_sigmoids(parts: int) -> None:
    net = checks.Net((4, 5, 6))
    lists = [cells_of(net, f"list{i}", 2 * i + 2) for i in range(parts)]
    joined = net.add("concat", "joined", *lists, axis=1) if parts > 1 else lists[0]
    graph = checks.graph_of(net, net.add("softmax", "scores", joined, axis=2))
    passed = proved(rewrites.collapse_softmax_of_cells, graph, random(graph))
    assert (count(passed, "softmax"), count(passed, "sigmoid")) == (0, 1)
    plan = checks.check(graph, checks.DIRECT, runs="sigmoid")
    assert checks.opcodes(plan).count("sigmoid") == parts


@pytest.mark.parametrize("reason", ["logits are read", "an output", "activated", "groups", "three"])
def test_softmaxes_of_cells_stay_where_sigmoids_would_be_wrong(reason: str) -> None:
    net = checks.Net((4, 5, 6))
    made = cells_of(net, "list", 6, groups=2 if reason == "groups" else 1)
    if reason == "three":
        made = net.add("reshape", "three", net.add("cells", "threes", "list.conv"), shape=(-1, 3))
    if reason == "activated":
        made = net.add("relu", "relu", made)
    outputs = [net.add("softmax", "scores", made, axis=2)]
    outputs += {"an output": [made], "logits are read": [net.add("exp", "exp", made)]}.get(
        reason, []
    )
    graph = checks.graph_of(net, *outputs)
    passed = proved(rewrites.collapse_softmax_of_cells, graph, random(graph))
    assert count(passed, "softmax") == 1


def test_what_takes_a_part_out_of_a_concatenation_reads_the_part() -> None:
    net = checks.Net((6, 4, 5))
    parts = [
        net.add("take", f"part{i}", "input", axis=1, start=i, stop=i + 2, step=1) for i in (0, 3)
    ]
    joined = net.add("concat", "joined", *parts, axis=1)
    taken = [
        net.add(
            "relu",
            f"relu{i}",
            net.add("take", f"taken{i}", joined, axis=1, start=i, stop=j, step=1),
        )
        for i, j in ((0, 2), (2, None), (1, 3))
    ]
    graph = checks.graph_of(net, *taken)
    passed = proved(lambda g, w: (rewrites.pass_concats(g), w), graph, {})
    assert [passed.node[name].inputs[0] for name in taken] == ["part0", "part3", "taken1"]


def heads(reason: str = "") -> Graph:
    """Four heads with 1, 4, 1 and 10 channels of one map, as YuNet has them."""
    net = checks.Net((20, 9, 8))
    outputs = []
    for i, channels in enumerate((1, 4, 1, 10)):
        groups = 2 if reason == "groups" and channels > 1 else 1
        first = net.conv("input", f"first{i}", channels * groups, 1, groups=groups)
        if reason == "activated before":
            first = net.add("relu", f"relu{i}", first)
        count = channels * groups
        kernel = 3 + 2 * i if reason == "windows" else 3
        y = net.conv(first, f"head{i}", count, kernel, padding=kernel // 2, groups=count)
        if reason == "activated after":
            y = net.add("relu", f"relu{i}", y)
        outputs += [y, first] if reason == "an output" else [y]
    return checks.graph_of(net, *outputs)


def test_heads_with_few_channels_are_one() -> None:
    graph = heads()
    passed = proved(rewrites.merge_heads, graph, random(graph))
    # At 4, 8 and 16 lanes, 4, 2 or 1 blocks instead of 6, 5 and 4.
    assert count(passed, "conv") == 2
    plan = checks.check(graph, checks.DIRECT)
    assert checks.opcodes(plan).count("pointwise") == 1
    assert "first0 with first1, first2, first3" in plan.explain()


@pytest.mark.parametrize(
    "reason", ["groups", "activated before", "activated after", "windows", "an output"]
)
def test_heads_stay_apart_where_they_are_not_the_same(reason: str) -> None:
    graph = heads(reason)
    passed = proved(rewrites.merge_heads, graph, random(graph))
    # Those of one channel are in no groups.
    assert count(passed, "conv") == (6 if reason == "groups" else 8)


def test_two_softmaxes_of_one_weight_take_its_differences_both_ways() -> None:
    net, outputs = checks.Net((6, 4, 5)), []
    for i in (0, 1):
        window: Any = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
        weight = {"weight": ("shared", (2, 6, 1, 1))}
        y = net.add("conv", f"conv{i}", "input", parameters=weight, groups=1, **window)
        y = net.add("softmax", f"softmax{i}", y, axis=1)
        outputs.append(net.add("slice", f"score{i}", y, start=i, stop=i + 1))
    graph = checks.graph_of(net, *outputs)
    assert count(proved(PASSES["collapse_softmax"], graph, random(graph)), "sigmoid") == 2


def joined(net: checks.Net, axis: int = 1) -> str:
    parts = [net.conv("input", f"part{i}", 5, 1) for i in range(2)]
    return net.add("concat", "joined", *parts, axis=axis)


@pytest.mark.parametrize("first", [False, True])
def test_an_addition_to_a_concatenation_moves_to_its_parts(first: bool) -> None:
    net = checks.Net((6, 4, 5))
    operands = [joined(net), net.conv("input", "other", 10, 1)]
    total = net.add("add", "sum", *(operands if first else operands[::-1]))
    graph = checks.graph_of(net, total)
    passed = proved(PASSES["distribute_additions"], graph, random(graph))
    assert passed.node["sum"].op == "concat" and count(passed, "add") == 2


@pytest.mark.parametrize(
    "reason", ["it is an output", "read twice", "both are", "rows", "three addends"]
)
def test_an_addition_stays_where_its_parts_are_not_free(reason: str) -> None:
    net = checks.Net((6, 4, 5))
    y = joined(net, axis=2 if reason == "rows" else 1)
    if reason == "read twice":
        other = net.add("relu", "other", y)
    elif reason == "both are":
        other = net.add("concat", "other", "part1", "part0", axis=1)
    elif reason == "rows":
        twin = net.add("concat", "twin", "part1", "part0", axis=2)
        other = net.add("relu", "other", twin)
    else:
        other = net.conv("input", "other", 10, 1)
    total = net.add("add", "sum", y, other, *([other] if reason == "three addends" else []))
    graph = checks.graph_of(net, total, *([y] if reason == "it is an output" else []))
    assert proved(PASSES["distribute_additions"], graph, random(graph)) == graph


def test_new_names_do_not_meet_old_ones() -> None:
    """PyTorch numbers the parts of a block; so must the parts of a sum not be called."""
    net = checks.Net((6, 4, 5))
    total = net.add("add", "sum", joined(net), net.conv("input", "sum.0", 10, 1))
    three = net.add("add", "three", *(net.conv("input", f"three.{i}", 10, 1) for i in range(3)))
    graph = checks.graph_of(net, total, three, "three.1")
    proved(PASSES["simplify"], graph, random(graph))
    checks.check(graph, checks.DIRECT)


# --------------------------------------------------------------------- fusing layers, by their flags

Layers: TypeAlias = dict[str, fusion.Epilogue]


def interpreted(graph: Graph, weights: Weights, x: Array) -> tuple[tuple[Array, ...], Layers]:
    """The outputs, each layer finishing its sums by the flags of its epilogue as the tiles do, but in float64."""
    fused = fusion.fuse(graph, graph.shapes())
    values, started = {graph.input: x}, set()

    def value(name: str) -> Array:
        if name not in values:
            node = fused.producers[name]
            assert node.name not in started, f"{name} waits for itself"
            started.add(node.name)
            parameters = {role: weights[n] for role, n in node.parameters.items()}
            inputs = [value(n) for n in node.inputs]
            sums = OPS[node.op].forward(*inputs, **parameters, **node.attributes)
            finish(sums, fused.epilogues.get(node.name, fusion.Epilogue(node.name)))
        return values[name]

    def finish(sums: Array, epilogue: fusion.Epilogue) -> None:
        flags = epilogue.flags
        added: Any = 0.0
        if flags & (flag.RESIDUAL_FIRST | flag.RESIDUAL_SECOND):
            assert epilogue.residual is not None
            added = value(epilogue.residual)
        sums = sums + added if flags & flag.RESIDUAL_FIRST else sums
        sums = bounded(sums, flags & flag.RELU, flags & flag.RELU6)
        slope: Any = epilogue.slope
        if isinstance(slope, str):  # the name of one for each channel
            slope = weights[slope].reshape(-1, *(1,) * (sums.ndim - 2))
        if flags & flag.LEAKY:
            sums = np.where(sums < 0, slope * sums, sums)
        if flags & flag.STORE_FIRST:
            values[str(epilogue.first)] = sums
        if flags & flag.STORE_SECOND:
            sums = sums + added if flags & flag.RESIDUAL_SECOND else sums
            sums = bounded(sums, flags & flag.SECOND_RELU, flags & flag.SECOND_RELU6)
            if flags & flag.SECOND_LEAKY:
                sums = np.where(sums < 0, slope * sums, sums)
            values[str(epilogue.second)] = sums

    outputs = tuple(value(name) for name in graph.outputs)
    return outputs, dict(fused.epilogues)


def bounded(x: Array, relu: int, relu6: int) -> Array:
    return np.clip(x, 0.0 if relu or relu6 else -np.inf, 6.0 if relu6 else np.inf)


def fused(graph: Graph, weights: Weights | None = None) -> Layers:
    """The epilogues of a graph's layers, which have been proved to leave its outputs as they are."""
    weights = random(graph) if weights is None else weights
    x = 4 * checks.image(graph.input_shape).astype(np.float64)
    outputs, epilogues = interpreted(graph, weights, x)
    assert_equal(graph, outputs, reference.run(graph, weights, x))
    return epilogues


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_fusions_leave_each_networks_outputs(name: str, options: dict[str, Any]) -> None:
    graph, weights = rewrites.simplify(*folded(name, options))
    epilogues = fused(graph, weights)
    assert any(e.activation or e.second_activation for e in epilogues.values())


@settings(max_examples=200)
@given(data=st.data(), size=st.integers(1, 14))
def test_fusions_leave_any_graphs_outputs(data: st.DataObject, size: int) -> None:
    drawing = Drawing(data)
    for _ in range(size):
        drawing.grow()
    if len(drawing.names) > 1:
        fused(drawing.graph(most=3))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_a_layer_takes_in_an_activation_and_a_residual_on_either_side_of_it(
    activation: str,
) -> None:
    for inner in (False, True):
        net = checks.Net((6, 4, 5))
        y = net.conv("input", "conv", 6, 1)
        y = net.add(activation, "inner", y) if inner else y
        net.add(activation, "outer", net.add("add", "sum", y, "input"))
        layer = fused(checks.graph_of(net, "outer"))["conv"]
        assert (layer.names, layer.residual) == (("outer",), "input")
        assert (layer.residual_first, layer.activation) == (not inner, activation)
        assert layer.second_activation == (activation if inner else "")


def test_a_tensor_and_its_activation_are_both_stored() -> None:
    net = checks.Net((6, 4, 5))
    z = net.conv("input", "conv", 9, 1)
    a = net.add("relu", "act", z)
    layer = fused(checks.graph_of(net, z, a))["conv"]
    assert (layer.first, layer.activation, layer.second, layer.second_activation) == (
        *(z, "", a, "relu"),
    )


def test_what_two_layers_read_is_stored_before_it_is_rectified() -> None:
    """conv and relu(conv), each with a reader; relu and relu6 of one tensor: one of them is the layer's, not both."""
    net = checks.Net((6, 4, 5))
    z = net.conv("input", "conv", 9, 1)
    outputs = [net.add(op, op, z) for op in ("relu", "relu6")]
    outputs.append(net.conv(z, "next", 3, 1))
    layer = fused(checks.graph_of(net, *outputs))["conv"]
    assert layer.names == ("conv", "relu")


def test_a_depthwise_layer_stores_once() -> None:
    net = checks.Net((6, 4, 5))
    z = net.conv("input", "conv", 6, 3, padding=1, groups=6)
    total = net.add("add", "sum", z, "input")
    layer = fused(checks.graph_of(net, z, total, net.add("relu", "act", z)))["conv"]
    assert (layer.names, layer.residual, layer.activation) == (("conv",), None, "")


@pytest.mark.parametrize("kind", ["itself", "three addends", "its own descendant"])
def test_an_addition_that_no_layer_can_take_in_stays(kind: str) -> None:
    net = checks.Net((6, 4, 5))
    y = net.conv("input", "conv", 6, 1)
    if kind == "itself":
        net.add("add", "sum", y, y)
    elif kind == "three addends":
        net.add("add", "sum", y, "input", net.add("normalize", "n", "input", mean=1.0, std=2.0))
    else:
        net.add("add", "sum", y, net.add("sigmoid", "s", y))
    assert fused(checks.graph_of(net, "sum"))["conv"].residual is None


def test_two_layers_do_not_wait_for_each_other() -> None:
    """a + b and a' + b', where each sum could be taken in by either layer; crossing choices would never run."""
    net = checks.Net((6, 4, 5))
    a, b = net.conv("input", "a", 6, 1), net.conv("input", "b", 6, 1)
    c, d = net.conv(a, "c", 6, 1), net.conv(b, "d", 6, 1)
    outputs = [net.add("add", "s", a, d), net.add("add", "t", b, c)]
    fused(checks.graph_of(net, *outputs))
