"""Channels that become pixels, and transposed convolutions that are nothing else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.kernels import partition, runner
from tests import kernel_checks as checks

SIDE = st.integers(1, 8)


@settings(max_examples=40)
@given(
    channels=st.integers(1, 20),
    rows=SIDE,
    columns=SIDE,
    block=st.integers(1, 3),
    first=st.booleans(),
)
def test_channels_become_squares_of_pixels(
    channels: int, rows: int, columns: int, block: int, first: bool
) -> None:
    net = checks.Net((channels * block**2, rows, columns))
    y = net.add("depth_to_space", "y", "input", block=block, depth_first=first)
    checks.check(checks.graph_of(net, y), 0.0, runs="depth_to_space")


@settings(max_examples=40)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rows=SIDE,
    columns=SIDE,
    side=st.integers(1, 3),
    op=st.sampled_from(["", "relu", "relu6", "leaky_relu", "sigmoid"]),
    bias=st.booleans(),
)
def test_transposed_convolutions_without_overlap_equal_the_definition(
    channels: tuple[int, int], rows: int, columns: int, side: int, op: str, bias: bool
) -> None:
    taken, made = channels
    net = checks.Net((taken, rows, columns))
    parameters = {"weight": ("w", (taken, made, side, side))} | (
        {"bias": ("b", (made,))} if bias else {}
    )
    window: Any = {"kernel": (side, side), "stride": (side, side), "padding": (0, 0)}
    window |= {"output_padding": (0, 0), "dilation": (1, 1)}
    y = net.add("conv_transpose", "up", "input", parameters=parameters, groups=1, **window)
    if op:
        slope: Any = {"slope": 0.1} if op == "leaky_relu" else {}
        y = net.add(op, "y", y, **slope)
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT, runs="depth_to_space")
    assert {"add", "gather"} & {*checks.opcodes(plan)} == set()


def test_the_convolution_and_its_activation_may_both_be_read() -> None:
    net = checks.Net((5, 3, 4))
    window: Any = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    window |= {"output_padding": (0, 0), "dilation": (1, 1)}
    weight = {"weight": ("w", (5, 7, 2, 2))}
    y = net.add("conv_transpose", "up", "input", parameters=weight, groups=1, **window)
    graph = checks.graph_of(net, y, net.add("relu", "y", y))
    checks.check(graph, checks.DIRECT, runs="depth_to_space")


@pytest.mark.parametrize("change", ["overlap", "padding", "groups"])
def test_other_transposed_convolutions_are_refused(change: str) -> None:
    net = checks.Net((6, 3, 4))
    window: Any = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    window |= {"overlap": {"stride": (1, 1)}, "padding": {"padding": (1, 1)}}.get(change, {})
    window |= {"output_padding": (0, 0), "dilation": (1, 1)}
    groups = 6 if change == "groups" else 1
    weight = {"weight": ("w", (6, 6 // groups, 2, 2))}
    y = net.add("conv_transpose", "up", "input", parameters=weight, groups=groups, **window)
    graph = checks.graph_of(net, y)
    with pytest.raises(checks.UnsupportedError, match="'conv_transpose'"):
        checks.compile_plan(graph, checks.random_weights(graph))


def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    net = checks.Net((20, 7, 5))
    y = net.add("depth_to_space", "y", "input", block=2, depth_first=True)
    plan, x = checks.compile_plan(checks.graph_of(net, y), {}), checks.image((20, 7, 5))
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    assert sum(shared for _, _, shared in three._partitioned().phases) == 1
    np.testing.assert_array_equal(three.run(x)[0][0], one.run(x)[0][0])
