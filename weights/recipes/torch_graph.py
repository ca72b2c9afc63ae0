"""Any refnet graph as a torch module that can be trained: the same nodes, run by torch's operations.

The state dict has the graph's names and shapes, so what is trained loads into refnet by name. In
training mode a batch norm uses the batch's statistics and updates its running ones, as PyTorch's does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refnet.exchange.torch_ops import WRITERS
from refnet.exchange.writers import require_writers
from refnet.graph import BUFFERS, Graph, Node, last_uses
from refnet.ops import Array

BATCH_NORM_MOMENTUM = 0.1


class GraphModule(nn.Module):
    """`graph` as a torch module: `module(x)` is a tuple of the graph's outputs.

    Args:
        graph: any network, in its training form if it is to be trained.
        weights: {state-dict name: array}; freshly initialised by `initialize` where None.
        outputs: names of nodes whose tensors to return; the graph's outputs by default.

    Raises:
        UnsupportedError: an operation has no form in torch here.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array] | None = None,
        *,
        outputs: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        require_writers(graph, WRITERS, "a torch module")
        self.graph = graph
        self.outputs = graph.outputs if outputs is None else outputs
        for name, shape in graph.state_dict.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if leaf == "num_batches_tracked":
                owner.register_buffer(leaf, torch.zeros(shape, dtype=torch.int64))
            elif leaf in BUFFERS:
                owner.register_buffer(leaf, torch.full(shape, float(leaf == "running_var")))
            else:
                owner.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
        initialize(self)
        if weights is not None:
            state = {n: torch.from_numpy(np.array(w, np.float32)) for n, w in weights.items()}
            self.load_state_dict({**self.state_dict(), **state})
        # Nodes look their tensors up by name; a dictionary keeps that out of the hot loop.
        self._tensors: dict[str, Tensor] = {}
        self._operations = {n.name: WRITERS[n.op](torch, n.attributes) for n in graph.nodes}
        self._last = {node.name: done for node, done in last_uses(graph)}

    def _apply(self, *arguments: Any, **keywords: Any) -> GraphModule:
        super()._apply(*arguments, **keywords)  # type: ignore[no-untyped-call]
        self._tensors = {}  # moving a module may replace its tensors
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs for `x` (N, C, H, W)."""
        if not self._tensors:
            self._tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        known: dict[str, Tensor] = {self.graph.input: x}
        kept = set(self.outputs)
        for node in self.graph.nodes:
            tensors = {role: self._tensors[name] for role, name in node.parameters.items()}
            inputs = [known[name] for name in node.inputs]
            if node.op == "batch_norm":
                known[node.name] = self._batch_norm(inputs[0], tensors, node.attributes["epsilon"])
            else:
                known[node.name] = self._operations[node.name](*inputs, **tensors)
            for name in self._last[node.name]:
                if name not in kept:
                    del known[name]
        return tuple(known[name] for name in self.outputs)

    def _batch_norm(self, x: Tensor, tensors: Mapping[str, Tensor], epsilon: float) -> Tensor:
        return functional.batch_norm(
            x,
            tensors["running_mean"],
            tensors["running_var"],
            tensors["weight"],
            tensors["bias"],
            training=self.training,
            momentum=BATCH_NORM_MOMENTUM,
            eps=epsilon,
        )

    def arrays(self) -> dict[str, Array]:
        """{state-dict name: float32 array} of the tensors that the graph reads."""
        state = self.state_dict()
        return {name: state[name].detach().cpu().numpy() for name in self.graph.parameters}


def with_norms(graph: Graph) -> Graph:
    """`graph` with a batch norm between every convolution and its activation, for training.

    BasketNet's 87 layers without norms, their ReLU6 among them, saturate or die out from any common
    start. `refnet.passes.fold` makes the norms part of the convolutions again, so that what was trained
    has the tensors of `graph`.
    """
    activated = {node.inputs[0] for node in graph.nodes if node.op in ("relu", "relu6")}
    shapes, state = graph.shapes(), dict(graph.state_dict)
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(replace(node, inputs=tuple(renamed.get(x, x) for x in node.inputs)))
        if node.op == "conv" and node.name in activated:
            name = f"{node.name}.norm"
            roles = ("weight", "bias", "running_mean", "running_var")
            parameters = {role: f"{name}.{role}" for role in roles}
            state |= dict.fromkeys(parameters.values(), (shapes[node.name][0],))
            nodes.append(Node(name, "batch_norm", (node.name,), {"epsilon": 1e-5}, parameters))
            renamed[node.name] = name
    return replace(graph, nodes=tuple(nodes), state_dict=state)


def initialize(module: GraphModule, scheme: str = "torch", seed: int | None = None) -> None:
    """Draw fresh weights: biases 0, batch norms 1 and 0, slopes 1/4, the rest by `scheme`.

    Args:
        scheme: "torch", uniform in ±1/√fan-in as PyTorch's layers have by default; "xavier" (Glorot
            & Bengio 2010), as LFFD was trained from; "he" (He et al. 2015).
        seed: of a generator of its own; torch's global one by default.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "batch_norm":
                parameters[node.parameters["weight"]].fill_(1.0)
            if node.op == "prelu":
                parameters[node.parameters["slope"]].fill_(0.25)  # as in He et al. 2015, and torch
            if node.op not in ("conv", "linear"):
                continue
            weight = parameters[node.parameters["weight"]]
            taps = math.prod(weight.shape[2:])
            fan_in, fan_out = weight.shape[1] * taps, weight.shape[0] * taps
            bound = {
                "torch": 1 / math.sqrt(fan_in),
                "xavier": math.sqrt(6 / (fan_in + fan_out)),
                "he": math.sqrt(6 / fan_in),
            }[scheme]
            weight.uniform_(-bound, bound, generator=generator)
