"""A folded graph as frozen TorchScript, PyTorch's own inference form."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from refnet.exchange.writers import require_writers
from refnet.graph import Graph
from refnet.ops import Array
from refnet.optional import require

Attributes = Mapping[str, Any]
#: A function of an operation's inputs and, by keyword, its parameters.
Operation = Callable[..., Any]
Writer = Callable[[Any, Attributes], Operation]


def to_torch_script(graph: Graph, weights: Mapping[str, Array], x: Array) -> Any:
    """A frozen, optimised module for inputs of the shape of `x`; it returns a tuple of outputs.

    Raises:
        DependencyError: torch is missing.
        UnsupportedError: an operation has no form in torch here.
    """
    require_writers(graph, WRITERS, "TorchScript")
    torch: Any = require("torch", "writing TorchScript", "torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    operations = {node.name: WRITERS[node.op](torch, node.attributes) for node in graph.nodes}

    def forward(module: Any, source: Any) -> Any:
        values = {graph.input: source}
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            parameters = {role: tensors[name] for role, name in node.parameters.items()}
            values[node.name] = operations[node.name](*inputs, **parameters)
        return tuple(values[name] for name in graph.outputs)

    module = type("Folded", (torch.nn.Module,), {"forward": forward})().eval()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls TorchScript deprecated, and traced sizes fixed
        frozen = torch.jit.freeze(torch.jit.trace(module, torch.from_numpy(x)))
        return torch.jit.optimize_for_inference(frozen)


def _conv(torch: Any, a: Attributes) -> Operation:
    window = {name: a[name] for name in ("stride", "padding", "dilation", "groups")}
    return lambda x, **p: torch.nn.functional.conv2d(x, p["weight"], p.get("bias"), **window)


def _pool(name: str) -> Writer:
    def write(torch: Any, a: Attributes) -> Operation:
        pool = getattr(torch.nn.functional, name)
        return lambda x: pool(x, a["kernel"], stride=a["stride"], padding=a["padding"])

    return write


def _batch_norm(torch: Any, a: Attributes) -> Operation:
    return lambda x, **p: torch.nn.functional.batch_norm(x, **p, eps=a["epsilon"])


#: What makes torch's form of an operation, given torch and the node's attributes.
WRITERS: Mapping[str, Writer] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "linear": lambda torch, a: torch.nn.functional.linear,
    "relu": lambda torch, a: torch.relu,
    "relu6": lambda torch, a: torch.nn.functional.relu6,
    "sigmoid": lambda torch, a: torch.sigmoid,
    "softmax": lambda torch, a: lambda x: torch.softmax(x, a["axis"]),
    "normalize": lambda torch, a: lambda x: (x - a["mean"]) / a["std"],
    "average_pool": _pool("avg_pool2d"),
    "max_pool": _pool("max_pool2d"),
    "upsample": lambda torch, a: (
        lambda x: torch.nn.functional.interpolate(x, scale_factor=[float(f) for f in a["factor"]])
    ),
    "add": lambda torch, a: lambda first, *others: sum(others, first),
    "concat": lambda torch, a: lambda *xs: torch.cat(xs, a["axis"]),
    "slice": lambda torch, a: lambda x: x[:, a["start"] : a["stop"]],
    "flatten": lambda torch, a: lambda x: x.flatten(1),
    "cells": lambda torch, a: lambda x: x.flatten(2).transpose(1, 2),
}
