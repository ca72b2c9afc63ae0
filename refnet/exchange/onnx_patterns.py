"""What several ONNX nodes say together, said by one node of refnet's vocabulary.

Each pattern ends at one node. It is replaced where nothing else reads what lies between. The result then holds no
sizes of the image, which the file computes or has written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from refnet.graph import Node
from refnet.ops import Shape


class Patterns:
    """Replaces patterns among `nodes`; one use.

    `shapes` afterwards holds the shapes of the nodes that are left.
    """

    def __init__(
        self, nodes: Sequence[Node], shapes: Mapping[str, Shape], outputs: Sequence[str]
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.shapes = dict(shapes)
        self.readers: dict[str, int] = dict.fromkeys(outputs, 1)
        for node in nodes:
            for name in node.inputs:
                self.readers[name] = self.readers.get(name, 0) + 1

    def replaced(self) -> list[Node]:
        """The nodes that are left, in order."""
        rules: dict[str, tuple[Callable[[Node], Node | None], ...]] = {
            "reshape": (self._cells_of_transpose, self._shuffle, self._joint_softmax),
            "transpose": (self._cells_of_reshape,),
            "multiply": (self._silu, self._hard_swish),
            "normalize": (self._hard_swish_of_torch,),
        }
        for name in list(self.nodes):
            if name not in self.nodes:
                continue
            for rule in rules.get(self.nodes[name].op, ()):
                if (made := rule(self.nodes[name])) is not None:
                    self.nodes[name] = made
                    break
        return list(self.nodes.values())

    def _inner(self, name: str, op: str) -> Node | None:
        """The node that makes `name`, if it is an `op` that has one reader."""
        node = self.nodes.get(name)
        alone = node is not None and node.op == op and self.readers[name] == 1
        return node if alone else None

    def _drop(self, *nodes: Node) -> None:
        for node in nodes:
            del self.nodes[node.name]

    def _cells_of_transpose(self, node: Node) -> Node | None:
        """(C, H, W) with channels last, as a list of cells; a cell may be cut into several rows."""
        turned = self._inner(node.inputs[0], "transpose")
        if turned is None or turned.attributes["order"] != (0, 2, 3, 1):
            return None
        c, h, w = self.shapes[turned.inputs[0]]
        made = self.shapes[node.name]
        if made == (h * w, c):
            self._drop(turned)
            return Node(node.name, "cells", turned.inputs)
        if len(made) == 2 and made[0] * made[1] == c * h * w and c % made[1] == 0:
            self.nodes[turned.name] = Node(turned.name, "cells", turned.inputs)
            self.shapes[turned.name] = (h * w, c)
            return replace(node, attributes={"shape": (-1, made[1])})
        return None

    def _cells_of_reshape(self, node: Node) -> Node | None:
        """(C, H·W) with the axes exchanged."""
        flat = self._inner(node.inputs[0], "reshape")
        if flat is None or node.attributes["order"] != (0, 2, 1):
            return None
        source = self.shapes[flat.inputs[0]]
        if len(source) != 3 or self.shapes[flat.name] != (source[0], source[1] * source[2]):
            return None
        self._drop(flat)
        return Node(node.name, "cells", flat.inputs)

    def _shuffle(self, node: Node) -> Node | None:
        """Channels in groups, the two exchanged, and back in one axis."""
        turned = self._inner(node.inputs[0], "transpose")
        if turned is None or turned.attributes["order"] != (0, 2, 1, 3, 4):
            return None
        grouped = self._inner(turned.inputs[0], "reshape")
        if grouped is None:
            return None
        source, parts = self.shapes[grouped.inputs[0]], self.shapes[grouped.name]
        if len(source) != 3 or self.shapes[node.name] != source or parts[2:] != source[1:]:
            return None
        self._drop(turned, grouped)
        return Node(node.name, "shuffle", grouped.inputs, {"groups": parts[0]})

    def _gated(self, node: Node, op: str) -> tuple[str, Node] | None:
        """x and the gate, where `node` is x · gate(x) with the operation `op`."""
        for x, gate in (node.inputs, node.inputs[::-1]):
            made = self.nodes.get(gate)
            if made is not None and made.op == op and made.inputs == (x,):
                return x, made
        return None

    def _silu(self, node: Node) -> Node | None:
        """x · sigmoid(x)."""
        if (found := self._gated(node, "sigmoid")) is None:
            return None
        x, gate = found
        self._release(gate)
        return Node(node.name, "silu", (x,))

    def _hard_swish(self, node: Node) -> Node | None:
        """x · hard_sigmoid(x) with MobileNetV3's slope and shift."""
        if (found := self._gated(node, "hard_sigmoid")) is None:
            return None
        x, gate = found
        if abs(6 * gate.attributes["slope"] - 1) > 1e-6 or gate.attributes["shift"] != 0.5:
            return None
        self._release(gate)
        return Node(node.name, "hard_swish", (x,))

    def _release(self, node: Node) -> None:
        """One reader less of `node`, which goes with the last."""
        self.readers[node.name] -= 1
        if not self.readers[node.name]:
            self._drop(node)

    def _joint_softmax(self, node: Node) -> Node | None:
        """A softmax over the last axes as one: the shape changed, and changed back."""
        shares = self._inner(node.inputs[0], "softmax")
        flat = None
        if shares is not None:
            flat = self._inner(shares.inputs[0], "reshape") or self._inner(
                shares.inputs[0], "flatten"
            )
        if shares is None or flat is None:
            return None
        source, rows = self.shapes[flat.inputs[0]], self.shapes[flat.name]
        kept = len(rows) - 1
        last = shares.attributes["axis"] == len(rows) and rows[:kept] == source[:kept]
        if self.shapes[node.name] != source or not last:
            return None
        self._drop(shares, flat)
        axes = tuple(range(len(rows), len(source) + 1))
        return Node(node.name, "softmax", flat.inputs, {"axis": axes})

    def _hard_swish_of_torch(self, node: Node) -> Node | None:
        """x · relu6(x + 3) / 6."""
        scale = node.attributes
        product = self._inner(node.inputs[0], "multiply")
        if product is None or scale["mean"] != 0 or abs(scale["std"] - 6) > 1e-5:
            return None
        for x, gate in (product.inputs, product.inputs[::-1]):
            clipped = self._inner(gate, "relu6")
            moved = self._inner(clipped.inputs[0], "normalize") if clipped else None
            if clipped is None or moved is None or moved.inputs != (x,):
                continue
            if (moved.attributes["mean"], moved.attributes["std"]) == (-3.0, 1.0):
                self._drop(product, clipped, moved)
                return Node(node.name, "hard_swish", (x,))
        return None
