"""Dilated convolutions, which run as any other window does."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks


@settings(max_examples=60)
@given(
    channels=st.integers(1, 20),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(11, 16), st.integers(11, 16)),
)
def test_any_dilated_window_equals_the_definition(
    channels: int,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: int,
    size: tuple[int, int],
) -> None:
    net = checks.Net((channels, *size))
    window: Any = {"kernel": kernel, "dilation": dilation, "padding": padding}
    parameters = {"weight": ("w", (18, channels, *kernel)), "bias": ("b", (18,))}
    y = net.add(
        *("conv", "y", "input"), parameters=parameters, stride=(stride, stride), groups=1, **window
    )
    checks.check(checks.graph_of(net, y), checks.WINOGRAD)


def test_the_first_layer_is_streamed_into_a_dilated_one() -> None:
    net = checks.Net((3, 200, 180))
    x = net.add("relu", "relu", net.conv("input", "first", 16, 3, padding=1))
    window: Any = {"kernel": (3, 3), "dilation": (3, 2), "padding": (3, 2), "stride": (2, 2)}
    parameters = {"weight": ("w", (8, 16, 3, 3)), "bias": ("b", (8,))}
    y = net.add("conv", "y", x, parameters=parameters, groups=1, **window)
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT)
    assert checks.opcodes(plan).count("planar") > 1
