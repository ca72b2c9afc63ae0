"""The graph: what it refuses, what it counts, and the table it prints."""

import pytest

import refnet
from refnet.builder import Builder, Window
from refnet.errors import OptionError, ShapeError
from refnet.graph import Graph, Node, consumers, last_uses


def small_graph() -> Graph:
    net = Builder((3, 9, 9))
    x = net.add("relu", "a", net.conv("input", "c1", 4, Window(3, 2)))
    y = net.conv(x, "c2", 4, Window(3, padding=1), bias=False)
    return net.graph("small", (net.add("add", "sum", x, y), "a"), {}, fixed_size=False)


def test_a_small_graph_has_the_shapes_and_counts_worked_out_by_hand() -> None:
    graph = small_graph()
    assert graph.state_dict == {
        "c1.weight": (4, 3, 3, 3),
        "c1.bias": (4,),
        "c2.weight": (4, 4, 3, 3),
    }
    assert graph.shapes() == {
        "input": (3, 9, 9),
        "c1": (4, 4, 4),
        "a": (4, 4, 4),
        "c2": (4, 4, 4),
        "sum": (4, 4, 4),
    }
    assert graph.macs() == {"c1": 16 * 108, "c2": 16 * 144}
    assert graph.parameter_count == 108 + 4 + 144
    assert [node.name for node in consumers(graph)["a"]] == ["c2", "sum"]


def test_last_uses_frees_everything_but_outputs() -> None:
    """Freeing what `last_uses` says leaves exactly the outputs (an output that is read, too)."""
    for graph in (small_graph(), refnet.build("pfld-polaris"), refnet.build("lffd-face-v1")):
        alive = {graph.input}
        for node, done in last_uses(graph):
            assert set(node.inputs) <= alive
            alive.add(node.name)
            alive -= set(done)
        assert alive == set(graph.outputs)


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ((Node("a", "gelu", ("input",)),), ("a",), "op 'gelu'"),
        ((Node("a", "relu", ("b",)), Node("b", "relu", ("input",))), ("a",), "no earlier node"),
        ((Node("a", "relu", ("input",)), Node("a", "relu", ("input",))), ("a",), "two nodes"),
        ((Node("a", "relu", ("input",)),), ("b",), "outputs"),
        (
            (Node("a", "conv", ("input",), {}, {"weight": "w"}),),
            ("a",),
            "absent from the state dict",
        ),
    ],
)
def test_malformed_graphs_are_refused(
    nodes: tuple[Node, ...], outputs: tuple[str, ...], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        Graph("bad", (3, 4, 4), False, nodes, outputs, {})


def test_wrong_inputs_are_refused() -> None:
    graph = refnet.build("pfld")
    with pytest.raises(ShapeError, match=r"built for \(3, 112, 112\).*got \(3, 96, 96\)"):
        graph.shapes((3, 96, 96))
    with pytest.raises(ShapeError, match="3 channels"):
        refnet.build("lffd-head").shapes((1, 480, 640))
    with pytest.raises(ShapeError, match=r"lffd-head on \(3, 50, 50\): at node 'conv15'"):
        refnet.build("lffd-head").shapes((3, 50, 50))


def test_tensors_that_no_node_reads_are_ignored() -> None:
    graph = refnet.build("pfld-polaris")
    assert {"bn8.weight", "bn8.bias", "bn8.running_mean", "bn8.running_var"} <= set(graph.ignored)
    assert "bn1.num_batches_tracked" in graph.ignored
    assert not set(graph.ignored) & set(graph.parameters)
    assert {**graph.parameters, **graph.ignored} == graph.state_dict
    applied = refnet.build("pfld-polaris", bn8="applied")
    assert set(applied.parameters) - set(graph.parameters) == {
        f"bn8.{role}" for role in ("weight", "bias", "running_mean", "running_var")
    }


def test_the_summary_has_a_row_for_every_node_and_the_published_totals() -> None:
    """The table has a row for every node and the published totals."""
    graph = refnet.build("lffd-face-v2")
    lines = graph.summary().splitlines()
    assert len([line for line in lines if line.split("  ")[0] in graph.node]) == len(graph.nodes)
    row = next(line for line in lines if line.startswith("conv20 "))
    assert row.split() == [
        "conv20",
        "conv",
        "3×3",
        "p1",
        "128",
        "×",
        "6",
        "×",
        "9",
        "147,584",
        "7,962,624",
        "655",
        "64",
    ]
    assert any("1,520,606" in line for line in lines)
    assert str(graph) == graph.summary()


def test_the_summary_of_another_size_has_its_shapes() -> None:
    text = refnet.build("tinynet").summary((3, 127, 255))
    assert "64 × 31 × 63" in text
