"""A folded graph as frozen TorchScript, PyTorch's own inference form."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from refnet.graph import Graph, Node
from refnet.ops import Array
from refnet.optional import require


def to_torch_script(graph: Graph, weights: Mapping[str, Array], x: Array) -> Any:
    """A frozen, optimised module for inputs of the shape of `x`; it returns a tuple of outputs.

    Raises:
        DependencyError: torch is missing.
    """
    torch: Any = require("torch", "writing TorchScript", "torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}

    def forward(module: Any, source: Any) -> Any:
        values = {graph.input: source}
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            parameters = {role: tensors[name] for role, name in node.parameters.items()}
            values[node.name] = _operation(torch, node)(*inputs, **parameters)
        return tuple(values[name] for name in graph.outputs)

    module = type("Folded", (torch.nn.Module,), {"forward": forward})().eval()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls TorchScript deprecated, and traced sizes fixed
        frozen = torch.jit.freeze(torch.jit.trace(module, torch.from_numpy(x)))
        return torch.jit.optimize_for_inference(frozen)


def _operation(torch: Any, node: Node) -> Callable[..., Any]:
    """The operation of a node as a function of its inputs and, by keyword, its parameters."""
    functional, a = torch.nn.functional, node.attributes
    pool = {name: a.get(name) for name in ("stride", "padding")}
    window = {**pool, "dilation": a.get("dilation"), "groups": a.get("groups")}
    operations: dict[str, Callable[..., Any]] = {
        "conv": lambda x, **p: functional.conv2d(x, p["weight"], p.get("bias"), **window),
        "linear": functional.linear,
        "batch_norm": lambda x, **p: functional.batch_norm(x, **p, eps=a["epsilon"]),
        "relu": torch.relu,
        "relu6": functional.relu6,
        "sigmoid": torch.sigmoid,
        "softmax": lambda x: torch.softmax(x, a["axis"]),
        "add": lambda first, *others: sum(others, first),
        "concat": lambda *xs: torch.cat(xs, a["axis"]),
        "slice": lambda x: x[:, a["start"] : a["stop"]],
        "average_pool": lambda x: functional.avg_pool2d(x, a["kernel"], **pool),
        "max_pool": lambda x: functional.max_pool2d(x, a["kernel"], **pool),
        "flatten": lambda x: x.flatten(1),
        "normalize": lambda x: (x - a["mean"]) / a["std"],
        "cells": lambda x: x.flatten(2).transpose(1, 2),
    }
    return operations[node.op]
