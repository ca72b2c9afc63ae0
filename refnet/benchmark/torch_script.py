"""A folded graph as frozen TorchScript, PyTorch's own inference form."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from refnet.exchange.torch_ops import WRITERS
from refnet.exchange.writers import require_writers
from refnet.graph import Graph
from refnet.ops import Array
from refnet.optional import require


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
