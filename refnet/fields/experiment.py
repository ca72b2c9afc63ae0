"""One experiment on a network's effective receptive fields: the same settings for every branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refnet.errors import OptionError
from refnet.fields.branches import Branch, branches
from refnet.fields.effective_receptive_field import (
    EffectiveReceptiveField,
    effective_receptive_field,
)
from refnet.fields.receptive_field import receptive_field
from refnet.graph import Graph
from refnet.model import Model
from refnet.ops import Array, Pair

#: Random networks that stand for one before training, where the settings name no number.
DRAWS = 5


@dataclass(frozen=True)
class Experiment:
    """What to measure, and how; see `effective_receptive_field` for the settings.

    Attributes:
        network: a model is measured with its own weights on `inputs`; a graph with all weights
            `constant`, or with `draws` random networks.
        inputs: images (C, H, W) as the network expects them, float32 or float64; of a model only.
        unit: (row, column) of every output; None chooses one near the centre.
        channels: {channel of the output: weight}; all by default.
        constant: the weight of a graph's experiment.
        draws, seed: number of random networks, and the first one's seed.
    """

    network: Graph | Model
    inputs: Sequence[Array] = ()
    unit: Pair | None = None
    channels: Mapping[int, float] | None = None
    constant: float = 0.05
    draws: int = 0
    seed: int = 0

    @property
    def graph(self) -> Graph:
        """The network as a graph."""
        return self.network.graph if isinstance(self.network, Model) else self.network

    @property
    def trained(self) -> bool:
        """Whether the network has weights of its own."""
        return isinstance(self.network, Model)

    @property
    def title(self) -> str:
        """The network, and what is done with it."""
        if self.trained:
            return f"{self.graph.name}, trained, on {len(self.inputs)} image(s)"
        if self.draws:
            return f"{self.graph.name}, {self.draws} random networks"
        return f"{self.graph.name}, every weight {self.constant}"

    def branches(self, number: int | None = None, tensor: str | None = None) -> Sequence[Branch]:
        """All branches; or the one with this number, counted from 1; or the one at this tensor.

        A tensor at which no branch ends gives a branch of number 0.

        Raises:
            OptionError: there is no such branch, or no such tensor of one receptive field.
        """
        known = branches(self.graph)
        if tensor is not None:
            named = [branch for branch in known if branch.tensor == tensor]
            return named or [self._layer(tensor)]
        if number is None:
            return known
        if not 1 <= number <= len(known):
            raise OptionError(f"{self.graph.name} has branches 1 to {len(known)}, no {number}")
        return [known[number - 1]]

    def _layer(self, tensor: str) -> Branch:
        field = receptive_field(self.graph).get(tensor)
        if tensor not in self.graph.node or field is None:
            raise OptionError(f"{self.graph.name} has no tensor {tensor!r} of one receptive field")
        return Branch(0, tensor, field, None)

    def measure(self, tensor: str) -> EffectiveReceptiveField:
        """The effective receptive field of a tensor.

        Raises:
            OptionError, ShapeError: as `effective_receptive_field` does.
        """
        if isinstance(self.network, Graph):
            return self._of_graph(tensor, self.draws)
        return effective_receptive_field(
            self.network, tensor, unit=self.unit, inputs=self.inputs, channels=self.channels
        )

    def before_training(self, tensor: str) -> EffectiveReceptiveField:
        """The same of random networks: `draws` of them, and at least DRAWS."""
        return self._of_graph(tensor, max(self.draws, DRAWS))

    def _of_graph(self, tensor: str, draws: int) -> EffectiveReceptiveField:
        return effective_receptive_field(
            self.graph,
            tensor,
            unit=self.unit,
            channels=self.channels,
            constant=self.constant,
            draws=draws,
            seed=self.seed,
        )
