"""How a network is written down: a builder appends nodes and infers shapes as it goes.

A network's function then reads like the table in its paper, and a layer that does not fit is refused
where it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from refnet.graph import Graph, Node
from refnet.ops import OPS, Pair, Shape


class Window(NamedTuple):
    """The square window of a convolution: kernel × kernel taps, zero padding on every side."""

    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


POINTWISE = Window(1)


class Builder:
    """Appends nodes to a graph in the making; every method returns the new tensor's name.

    `form` "training" writes a convolution and its batch norm as two nodes; "inference" writes one
    convolution with a bias, as after folding.
    """

    def __init__(self, input_shape: Shape, form: str = "training") -> None:
        self.input_shape = input_shape
        self.form = form
        self.nodes: list[Node] = []
        self.state_dict: dict[str, Shape] = {}
        self.shape: dict[str, Shape] = {"input": input_shape}

    def add(
        self,
        op: str,
        name: str,
        *inputs: str,
        parameters: Mapping[str, tuple[str, Shape]] | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node; `parameters` maps a role to (state-dict name, shape)."""
        parameters = parameters or {}
        self.state_dict.update(parameters.values())
        names = {role: tensor for role, (tensor, _) in parameters.items()}
        shapes = {role: shape for role, (_, shape) in parameters.items()}
        self.shape[name] = OPS[op].shape([self.shape[x] for x in inputs], shapes, **attributes)
        self.nodes.append(Node(name, op, inputs, attributes, names))
        return name

    def conv(
        self,
        x: str,
        prefix: str,
        channels: int,
        window: Window,
        *,
        bias: bool = True,
        name: str | None = None,
    ) -> str:
        """A convolution whose tensors are `prefix`.weight and, with `bias`, `prefix`.bias."""
        k, s, p, groups = window.kernel, window.stride, window.padding, window.groups
        parameters: dict[str, tuple[str, Shape]] = {
            "weight": (f"{prefix}.weight", (channels, self.shape[x][0] // groups, k, k))
        }
        if bias:
            parameters["bias"] = (f"{prefix}.bias", (channels,))
        return self.add(
            "conv",
            name or prefix,
            x,
            parameters=parameters,
            kernel=(k, k),
            stride=(s, s),
            padding=(p, p),
            dilation=(1, 1),
            groups=groups,
        )

    def batch_norm(self, x: str, prefix: str) -> str:
        """A batch norm whose tensors are `prefix`.weight, .bias, .running_mean and .running_var."""
        roles = ("weight", "bias", "running_mean", "running_var")
        parameters = {role: (f"{prefix}.{role}", self.shape[x][:1]) for role in roles}
        name = self.add("batch_norm", prefix, x, parameters=parameters, epsilon=1e-5)
        self.state_dict[f"{prefix}.num_batches_tracked"] = ()
        return name

    def conv_norm(self, x: str, conv: str, norm: str, channels: int, window: Window) -> str:
        """A convolution and its batch norm; one convolution with a bias in the inference form."""
        if self.form == "inference":
            return self.conv(x, conv, channels, window)
        return self.batch_norm(self.conv(x, conv, channels, window, bias=False), norm)

    def linear(self, x: str, prefix: str, features: int, name: str | None = None) -> str:
        """A fully connected layer whose tensors are `prefix`.weight and `prefix`.bias."""
        weight = (f"{prefix}.weight", (features, *self.shape[x]))
        bias = (f"{prefix}.bias", (features,))
        return self.add("linear", name or prefix, x, parameters={"weight": weight, "bias": bias})

    def global_average(self, x: str, name: str) -> str:
        """The mean of each channel of the square map `x`, as a vector (C,)."""
        size: Pair = (self.shape[x][1], self.shape[x][2])
        pooled = self.add("average_pool", name, x, kernel=size, stride=size, padding=(0, 0))
        return self.add("flatten", f"{name}.flat", pooled)

    def graph(
        self, name: str, outputs: tuple[str, ...], options: Mapping[str, Any], *, fixed_size: bool
    ) -> Graph:
        """The finished graph."""
        return Graph(
            name=name,
            input_shape=self.input_shape,
            fixed_size=fixed_size,
            nodes=tuple(self.nodes),
            outputs=outputs,
            state_dict=self.state_dict,
            options=dict(options),
        )
