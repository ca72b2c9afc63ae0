"""PyTorch's form of each operation, one table for all that runs a graph by torch: TorchScript, and the modules to train.

Torch is handed in, so that refnet itself never imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Attributes = Mapping[str, Any]
#: A function of an operation's inputs and, by keyword, its parameters.
Operation = Callable[..., Any]
Writer = Callable[[Any, Attributes], Operation]


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


def _upsample(torch: Any, a: Attributes) -> Operation:
    factor = [float(f) for f in a["factor"]]
    return lambda x: torch.nn.functional.interpolate(x, scale_factor=factor, mode="nearest")


#: What makes torch's form of an operation, given torch and the node's attributes. A batch norm is that of inference.
WRITERS: Mapping[str, Writer] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "linear": lambda torch, a: torch.nn.functional.linear,
    "relu": lambda torch, a: torch.relu,
    "relu6": lambda torch, a: torch.nn.functional.relu6,
    "leaky_relu": lambda torch, a: lambda x: torch.nn.functional.leaky_relu(x, a["slope"]),
    "prelu": lambda torch, a: lambda x, slope: torch.nn.functional.prelu(x, slope),
    "elu": lambda torch, a: lambda x: torch.nn.functional.elu(x, a["alpha"]),
    "silu": lambda torch, a: torch.nn.functional.silu,
    "hard_sigmoid": lambda torch, a: lambda x: (a["slope"] * x + a["shift"]).clamp(0, 1),
    "hard_swish": lambda torch, a: torch.nn.functional.hardswish,
    "tanh": lambda torch, a: torch.tanh,
    "exp": lambda torch, a: torch.exp,
    "sigmoid": lambda torch, a: torch.sigmoid,
    "softmax": lambda torch, a: lambda x: torch.softmax(x, a["axis"]),
    "normalize": lambda torch, a: lambda x: (x - a["mean"]) / a["std"],
    "average_pool": _pool("avg_pool2d"),
    "max_pool": _pool("max_pool2d"),
    "upsample": _upsample,
    "add": lambda torch, a: lambda first, *others: sum(others, first),
    "concat": lambda torch, a: lambda *xs: torch.cat(xs, a["axis"]),
    "slice": lambda torch, a: lambda x: x[:, a["start"] : a["stop"]],
    "flatten": lambda torch, a: lambda x: x.flatten(1),
    "cells": lambda torch, a: lambda x: x.flatten(2).transpose(1, 2),
}
