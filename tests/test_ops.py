"""Every operation against PyTorch's, forward and gradient, over drawn shapes and windows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet.arrays import Array
from refnet.errors import ShapeError
from refnet.ops import OPS
from refnet.windows import window_size

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def draw_array(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def check(
    op: str,
    inputs: list[Array],
    expected: Any,
    parameters: dict[str, Array] | None = None,
    **attributes: Any,
) -> None:
    """Forward, shape rule and VJP of `op` equal those of `expected`, a function of torch tensors."""
    parameters = parameters or {}
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    want = expected(*leaves, **{k: torch.tensor(p) for k, p in parameters.items()})
    y = OPS[op].forward(*inputs, **parameters, **attributes)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-12)

    shapes = {role: p.shape for role, p in parameters.items()}
    assert OPS[op].shape([x.shape[1:] for x in inputs], shapes, **attributes) == y.shape[1:]

    dy = draw_array(99, *y.shape)
    want.backward(torch.tensor(dy))
    products = OPS[op].vjp(dy, inputs, y, **parameters, **attributes)
    assert len(products) == len(inputs)
    for product, leaf in zip(products, leaves, strict=True):
        np.testing.assert_allclose(product, leaf.grad.numpy(), rtol=1e-12, atol=1e-12)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    data=st.data(),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(0, 2),
    bias=st.booleans(),
)
def test_conv_equals_torch(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    per_group: tuple[int, int],
    batch: int,
    bias: bool,
) -> None:
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    rows, columns = (data.draw(st.integers(n, n + 5)) for n in least)
    x = draw_array(0, batch, groups * per_group[0], rows, columns)
    parameters = {"weight": draw_array(1, groups * per_group[1], per_group[0], *kernel)}
    if bias:
        parameters["bias"] = draw_array(2, groups * per_group[1])
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check(
        "conv",
        [x],
        lambda x, weight, bias=None: functional.conv2d(x, weight, bias, **window),
        parameters,
        kernel=kernel,
        **window,
    )


@given(batch=st.integers(0, 3), channels=st.integers(1, 4), side=st.integers(1, 4))
def test_batch_norm_equals_torch(batch: int, channels: int, side: int) -> None:
    parameters = {
        role: draw_array(i, channels) for i, role in enumerate(("weight", "bias", "running_mean"))
    }
    parameters["running_var"] = np.abs(draw_array(5, channels)) + 0.1
    check(
        "batch_norm",
        [draw_array(6, batch, channels, side, side + 1)],
        lambda x, running_mean, running_var, weight, bias: functional.batch_norm(
            x, running_mean, running_var, weight, bias, eps=1e-5
        ),
        parameters,
        epsilon=1e-5,
    )


@given(batch=st.integers(0, 3), features=st.integers(1, 6), out=st.integers(1, 6))
def test_linear_equals_torch(batch: int, features: int, out: int) -> None:
    parameters = {"weight": draw_array(0, out, features), "bias": draw_array(1, out)}
    check("linear", [draw_array(2, batch, features)], functional.linear, parameters)


@given(factor=pairs, batch=st.integers(0, 3), channels=st.integers(1, 4), side=st.integers(1, 5))
def test_upsample_equals_torch(
    factor: tuple[int, int], batch: int, channels: int, side: int
) -> None:
    def expected(x: Any) -> Any:
        rows, columns = factor
        return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)

    x = draw_array(0, batch, channels, side, side + 1)
    check("upsample", [x], expected, factor=factor)
    if batch:
        nearest = functional.interpolate(torch.tensor(x), scale_factor=factor, mode="nearest")
        np.testing.assert_array_equal(OPS["upsample"].forward(x, factor=factor), nearest.numpy())


@pytest.mark.parametrize("op", ["relu", "relu6", "sigmoid"])
def test_activation_equals_torch(op: str) -> None:
    x = 5 * draw_array(0, 2, 3, 4, 5)
    x.flat[:4] = [0.0, 6.0, -0.0, 1000.0]  # the kinks, and what overflows a naive exp
    expected = {"relu": functional.relu, "relu6": functional.relu6, "sigmoid": torch.sigmoid}
    check(op, [x], expected[op])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6), (0, 3, 2, 2)])
@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("leaky_relu", {"slope": 0.1}, lambda x: functional.leaky_relu(x, 0.1)),
        ("leaky_relu", {"slope": -0.5}, lambda x: functional.leaky_relu(x, -0.5)),
        ("elu", {"alpha": 1.0}, functional.elu),
        ("elu", {"alpha": 1.7}, lambda x: functional.elu(x, 1.7)),
        ("silu", {}, functional.silu),
        # The gradient of torch's own hardsigmoid has a slope of float32(1/6) in float64, too.
        ("hard_sigmoid", {"slope": 1 / 6, "shift": 0.5}, lambda x: functional.relu6(x + 3) / 6),
        ("hard_sigmoid", {"slope": 0.2, "shift": 0.5}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
        ("hard_swish", {}, functional.hardswish),
        ("tanh", {}, torch.tanh),
    ],
)
def test_gate_equals_torch(
    op: str, attributes: dict[str, Any], expected: Any, shape: tuple[int, ...]
) -> None:
    x = 5 * draw_array(0, *shape)
    if x.size:
        x.flat[:8] = [0.0, -0.0, 3.0, -3.0, 1000.0, -1000.0, 1e-9, -1e-9]
    check(op, [x], expected, **attributes)
    narrow = OPS[op].forward(x.astype(np.float32), **attributes)
    assert narrow.dtype == np.float32
    assert OPS[op].vjp(narrow, [x.astype(np.float32)], narrow, **attributes)[0].dtype == np.float32


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6), (2, 5, 4), (0, 3, 2, 2)])
def test_prelu_equals_torch(shape: tuple[int, ...]) -> None:
    x = draw_array(0, *shape)
    if x.size:
        x.flat[:2] = [0.0, -0.0]
    parameters = {"slope": draw_array(1, shape[1])}
    check("prelu", [x], lambda x, slope: functional.prelu(x, slope), parameters)


def test_exp_equals_torch() -> None:
    x = 5 * draw_array(0, 2, 3, 4, 5)
    x.flat[:3] = [0.0, -1000.0, 30.0]
    check("exp", [x], torch.exp)
    assert OPS["exp"].forward(np.array([[100.0]], np.float32)) == np.inf


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax_equals_torch(axis: int) -> None:
    x = 300 * draw_array(0, 2, 3, 4, 5)
    check("softmax", [x], lambda x: functional.softmax(x, axis), axis=axis)


def test_normalize_equals_torch() -> None:
    x = 255 * draw_array(0, 2, 3, 4, 5)
    check("normalize", [x], lambda x: (x - 127.5) / 127.5, mean=127.5, std=127.5)


@given(
    data=st.data(),
    kernel=pairs,
    stride=pairs,
    op=st.sampled_from(["average_pool", "max_pool"]),
    integers=st.booleans(),
)
def test_pool_equals_torch(
    data: st.DataObject, kernel: tuple[int, int], stride: tuple[int, int], op: str, integers: bool
) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    rows, columns = (data.draw(st.integers(k, k + 5)) for k in kernel)
    x = draw_array(0, 2, 3, rows, columns)
    if integers:  # ties: the gradient of a maximum goes to the first
        x = np.round(x)
    expected = {"average_pool": functional.avg_pool2d, "max_pool": functional.max_pool2d}[op]
    check(
        op,
        [x],
        lambda x: expected(x, kernel, stride, padding),
        kernel=kernel,
        stride=stride,
        padding=padding,
    )


@given(count=st.integers(2, 5))
def test_add_equals_torch(count: int) -> None:
    check("add", [draw_array(i, 2, 3, 4, 5) for i in range(count)], lambda *xs: sum(xs))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat_equals_torch(axis: int) -> None:
    shapes = [[2, 3, 4, 5] for _ in range(3)]
    for i, shape in enumerate(shapes):
        shape[axis] = i + 1
    inputs = [draw_array(i, *shape) for i, shape in enumerate(shapes)]
    check("concat", inputs, lambda *xs: torch.cat(xs, axis), axis=axis)


def test_slice_equals_torch() -> None:
    check("slice", [draw_array(0, 2, 5, 3, 4)], lambda x: x[:, 1:4], start=1, stop=4)


@pytest.mark.parametrize("batch", [0, 2])
def test_flatten_and_cells_equal_torch(batch: int) -> None:
    x = draw_array(0, batch, 3, 4, 5)
    check("flatten", [x], lambda x: x.flatten(1))
    check("cells", [x], lambda x: x.flatten(2).transpose(1, 2))


@given(
    size=st.integers(1, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_window_size_counts_positions(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    reach = dilation * (kernel - 1)
    positions = [
        start for start in range(-padding, size + padding, stride) if start + reach < size + padding
    ]
    assert max(window_size(size, kernel, stride, padding, dilation), 0) == len(positions)


@pytest.mark.parametrize(
    ("op", "shapes", "parameters", "attributes", "says"),
    [
        (
            "conv",
            [(4, 8, 8)],
            {"weight": (6, 3, 3, 3)},
            {
                "kernel": (3, 3),
                "stride": (1, 1),
                "padding": (0, 0),
                "dilation": (1, 1),
                "groups": 1,
            },
            r"takes a weight of shape \(6, 4, 3, 3\), not \(6, 3, 3, 3\)",
        ),
        (
            "conv",
            [(3, 2, 9)],
            {"weight": (6, 3, 3, 3)},
            {
                "kernel": (3, 3),
                "stride": (1, 1),
                "padding": (0, 0),
                "dilation": (1, 1),
                "groups": 1,
            },
            "3×3 window does not fit a 2×9 map",
        ),
        ("linear", [(5,)], {"weight": (2, 4)}, {}, r"takes \(4,\) features, not \(5,\)"),
        ("add", [(3, 2, 2), (3, 2, 3)], {}, {}, "equal shapes"),
        ("concat", [(3, 2, 2), (3, 2, 3)], {}, {"axis": 1}, "equal elsewhere"),
        ("slice", [(3, 2, 2)], {}, {"start": 1, "stop": 4}, "not within 3 channels"),
        ("batch_norm", [(3, 2, 2)], {"weight": (4,)}, {"epsilon": 0.0}, "for 3 channels"),
        ("prelu", [(3, 2, 2)], {"slope": (1,)}, {}, "for 3 channels"),
    ],
)
def test_shape_rules_refuse_what_does_not_fit(
    op: str, shapes: list[Any], parameters: Any, attributes: Any, says: str
) -> None:
    with pytest.raises(ShapeError, match=says):
        OPS[op].shape(shapes, parameters, **attributes)


@given(
    data=st.data(),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(-2, 1), st.integers(-2, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
)
def test_conv_transpose_equals_torch(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    more: tuple[int, int],
    groups: int,
    per_group: tuple[int, int],
    bias: bool,
) -> None:
    output_padding = tuple(
        min(m, max(s, d) - 1) for m, s, d in zip(more, stride, dilation, strict=True)
    )
    x = draw_array(0, 2, groups * per_group[0], *(data.draw(st.integers(3, 5)) for _ in "hw"))
    parameters = {"weight": draw_array(1, groups * per_group[0], per_group[1], *kernel)}
    if bias:
        parameters["bias"] = draw_array(2, groups * per_group[1])
    window: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
    }
    # PyTorch has no padding below nothing, which adds zeros instead of cutting.
    above, left = (max(-p, 0) for p in padding)
    cut = {**window, "padding": tuple(max(p, 0) for p in padding)}

    def expected(x: Any, weight: Any, bias: Any = None) -> Any:
        y = functional.conv_transpose2d(x, weight, groups=groups, dilation=dilation, **cut)
        y = functional.pad(y, (left, left, above, above))
        return y if bias is None else y + bias[:, None, None]

    check(
        "conv_transpose",
        [x],
        expected,
        parameters,
        kernel=kernel,
        dilation=dilation,
        groups=groups,
        **window,
    )


@given(
    data=st.data(),
    kernel=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    count=st.booleans(),
)
def test_pools_that_round_up_dilate_and_leave_out_padding_equal_torch(
    data: st.DataObject,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    count: bool,
) -> None:
    rows, columns = (
        data.draw(st.integers(d * k, d * k + 5)) for d, k in zip(dilation, kernel, strict=True)
    )
    x = draw_array(0, 2, 3, rows, columns)
    check(
        "max_pool",
        [x],
        lambda x: functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=True),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil=True,
    )
    check(
        "average_pool",
        [x],
        lambda x: functional.avg_pool2d(x, kernel, stride, padding, True, count),
        kernel=kernel,
        stride=stride,
        padding=padding,
        ceil=True,
        count_padding=count,
    )


def test_global_pools_equal_torch() -> None:
    x = draw_array(0, 2, 3, 4, 5)
    check("global_average_pool", [x], lambda x: functional.adaptive_avg_pool2d(x, 1))
    check("global_max_pool", [x], lambda x: functional.adaptive_max_pool2d(x, 1))


@pytest.mark.parametrize("kind", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (1, 3)])
def test_reduce_equals_torch(kind: str, axes: tuple[int, ...]) -> None:
    function = {"max": torch.amax, "min": torch.amin, "mean": torch.mean, "sum": torch.sum}[kind]
    x = np.round(draw_array(0, 2, 3, 4, 5))  # with ties
    check("reduce", [x], lambda x: function(x, axes, keepdim=True), kind=kind, axes=axes)


def test_softmax_over_several_axes_equals_torch() -> None:
    x = 3 * draw_array(0, 2, 3, 4, 5)
    check(
        "softmax",
        [x],
        lambda x: functional.softmax(x.flatten(2), 2).reshape(x.shape),
        axis=(2, 3),
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1), (2, 1, 4, 5), (2, 1, 1, 5)])
def test_arithmetic_that_broadcasts_equals_torch(shape: tuple[int, ...]) -> None:
    inputs = [draw_array(0, 2, 3, 4, 5), draw_array(1, *shape)]
    inputs[1] += np.sign(inputs[1])  # nothing near zero to divide by
    for pair in (inputs, [inputs[1] + 2, inputs[0] + 9]):
        check("broadcast_add", pair, lambda a, b: a + b)
        check("subtract", pair, lambda a, b: a - b)
        check("multiply", pair, lambda a, b: a * b)
        check("divide", pair, lambda a, b: a / b)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 4, 5), (1, 1, 5)])
def test_affine_clip_and_power_equal_torch(shape: tuple[int, ...]) -> None:
    x = draw_array(0, 2, 3, 4, 5)
    both = {"weight": draw_array(1, *shape), "bias": draw_array(2, *shape)}
    check("affine", [x], lambda x, weight, bias: x * weight + bias, both)
    check("affine", [x], lambda x, weight: x * weight, {"weight": both["weight"]})
    check("affine", [x[:, :, :1, :1]], lambda x, bias: x + bias, {"bias": both["bias"]})
    check("clip", [x], lambda x: x.clip(-0.5, 0.7), low=-0.5, high=0.7)
    check("clip", [x], lambda x: x.clip(min=-0.5), low=-0.5, high=np.inf)
    for exponent in (-1.0, 0.5, 2.0, 3.5):
        check("power", [np.abs(x) + 0.1], lambda x, e=exponent: x**e, exponent=exponent)


def test_linear_over_the_last_axis_equals_torch() -> None:
    parameters = {"weight": draw_array(1, 6, 5), "bias": draw_array(2, 6)}
    check("linear", [draw_array(0, 2, 3, 4, 5)], functional.linear, parameters)


def test_axes_and_shapes_equal_torch() -> None:
    x = draw_array(0, 2, 6, 4, 8)
    check("transpose", [x], lambda x: x.permute(0, 2, 3, 1), order=(0, 2, 3, 1))
    check("reshape", [x], lambda x: x.reshape(2, 3, 2, -1), shape=(3, 2, -1))
    check("reshape", [x], lambda x: x.reshape(2, 192), shape=(192,))
    check("take", [x], lambda x: x[:, :, 1::2], axis=2, start=1, stop=None, step=2)
    check("take", [x], lambda x: x.flip(3), axis=3, start=-1, stop=None, step=-1)
    check("take", [x], lambda x: x[:, 1:-1], axis=1, start=1, stop=-1, step=1)
    check("shuffle", [x], lambda x: functional.channel_shuffle(x, 3), groups=3)
    check(
        "depth_to_space",
        [draw_array(1, 2, 12, 3, 4)],
        lambda x: functional.pixel_shuffle(x, 2),
        block=2,
        depth_first=False,
    )
    check(
        "space_to_depth",
        [x],
        lambda x: functional.pixel_unshuffle(x, 2),
        block=2,
        depth_first=False,
    )
    there = OPS["space_to_depth"].forward(x, block=4, depth_first=True)
    back = OPS["depth_to_space"].forward(there, block=4, depth_first=True)
    assert (back == x).all()
    assert (there[:, 6 * 5 : 6 * 6] == x[:, :, 1::4, 1::4]).all()  # row 1, column 1 of each square


@pytest.mark.parametrize(
    ("mode", "of_torch"), [("constant", "constant"), ("edge", "replicate"), ("reflect", "reflect")]
)
def test_pad_equals_torch(mode: str, of_torch: str) -> None:
    x = draw_array(0, 2, 3, 4, 5)
    for top, bottom, left, right in ((1, 2, 0, 3), (0, 1, 2, 0), (0, 0, 0, 0)):
        widths = ((0, 0), (top, bottom), (left, right))
        check(
            "pad",
            [x],
            lambda x, p=(left, right, top, bottom): functional.pad(
                x, p, of_torch, **({"value": 1.5} if of_torch == "constant" else {})
            ),
            widths=widths,
            mode=mode,
            value=1.5,
        )


@pytest.mark.parametrize("factor", [(2, 2), (3, 1), (4, 2)])
def test_upsampling_equals_torch(factor: tuple[int, int]) -> None:
    x = draw_array(0, 2, 3, 4, 5)
    check("upsample", [x], lambda x: functional.interpolate(x, scale_factor=factor), factor=factor)
    for coordinates, corners in (("half_pixel", False), ("align_corners", True)):
        check(
            "upsample_linear",
            [x],
            lambda x, c=corners: functional.interpolate(
                x, scale_factor=factor, mode="bilinear", align_corners=c
            ),
            factor=factor,
            coordinates=coordinates,
        )
