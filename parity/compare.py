"""One case: refnet's outputs and input gradient beside torch's, from the same weights."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import refnet
from parity.cases import Case
from parity.conditioning import settle
from parity.folding import fold
from parity.formula import formula_weights
from parity.twins import load, shapes, twin

Array = npt.NDArray[Any]

#: Largest error allowed, by backend and number format.
TOLERANCES = {
    ("numpy", "float64"): 1e-10,
    ("numpy", "float32"): 1e-5,
    ("compiled", "float32"): 2e-5,
}
#: The compiled engine's where its plan may choose Winograd: dense 3x3 convolutions of stride 1.
WINOGRAD_TOLERANCE = 2e-4

#: Makes weights of networks with ReLU6 so large that some units of most layers reach 6.
RELU6_GAIN = 1.2


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        quantity: "forward", all outputs, or "gradient", of a random sum of them by the input.
        max_error, mean_error: of all elements. An output's errors are relative to its largest
            magnitude where that is above 1; a gradient's always are, since the cotangents' scale,
            and so the gradient's, is arbitrary.
    """

    network: str
    options: str
    height: int
    width: int
    batch: int
    backend: str
    dtype: str
    quantity: str
    max_error: float
    mean_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.max_error <= self.tolerance


@dataclass(frozen=True)
class Subject:
    """What both sides of a comparison get: the torch twin (float64), and float32 inputs."""

    module: nn.Module
    x: Array
    cotangents: tuple[Array, ...]

    @property
    def weights(self) -> dict[str, Array]:
        """The twin's state dict as float32 arrays: exact, since the twin was rounded to them."""
        state = self.module.state_dict()
        return {n: (t.float() if t.is_floating_point() else t).numpy() for n, t in state.items()}


def subject(case: Case) -> Subject:
    """Weights by formula, biases moved off the rectifiers' kinks, input and cotangents seeded.

    Raises:
        RuntimeError: no input out of twenty keeps every rectifier and every maximum off its kinks.
    """
    module = twin(case.network, **case.options)
    if case.options.get("form") == "inference":
        training = twin(case.network, **{**case.options, "form": "training"})
        state = fold(load(training, _weights(training)).double())
    else:
        state = _weights(module)
    low, high = case.value_range
    for seed in range(20):
        load(module.double(), state)
        generator = np.random.default_rng(seed)
        x = generator.uniform(low, high, case.shape).astype(np.float32)
        if settle(module, torch.from_numpy(x).double()) == 0:
            break
    else:
        raise RuntimeError(
            f"{case}: every seed leaves a rectifier or a maximum at a kink; change the weights"
        )
    module = module.float().double()
    with torch.no_grad():
        outputs = _tuple(module(torch.from_numpy(x).double()))
    cotangents = tuple(generator.standard_normal(y.shape).astype(np.float32) for y in outputs)
    return Subject(module, x, cotangents)


def _weights(module: nn.Module) -> dict[str, Array]:
    weights = formula_weights(shapes(module))
    if any(isinstance(layer, nn.ReLU6) for layer in module.modules()):
        for name, array in weights.items():
            if array.ndim == 4:
                weights[name] = np.float32(RELU6_GAIN) * array.astype(np.float32)
    return weights


def compare(case: Case, dtypes: Sequence[str], backend: str = "numpy") -> Iterator[Result]:
    """The results of one case: forward and gradient per dtype; forward alone for "compiled"."""
    given = subject(case)
    model = refnet.load(case.network, given.weights, backend=backend, **case.options)
    for dtype in dtypes:
        if (backend, dtype) not in TOLERANCES:
            continue
        x = given.x.astype(dtype)
        cotangents = [c.astype(dtype) for c in given.cotangents]
        # The compiled engine is held to the exact outputs; NumPy to torch's at equal precision.
        precision = torch.float64 if backend == "compiled" else getattr(torch, dtype)
        outputs, gradient = torch_results(given.module.to(precision), x, cotangents)
        given.module.double()
        expected = {"forward": outputs}
        got = {"forward": _tuple(model.run(x, backend=backend))}
        if backend == "numpy":
            expected["gradient"] = (gradient,)
            got["gradient"] = (model.vjp(x, cotangents),)
        for quantity, pairs in expected.items():
            largest, mean = errors(got[quantity], pairs, floor=float(quantity == "forward"))
            yield Result(
                network=case.network,
                options=case.describe_options(),
                height=case.height,
                width=case.width,
                batch=case.batch,
                backend=backend,
                dtype=dtype,
                quantity=quantity,
                max_error=largest,
                mean_error=mean,
                tolerance=tolerance(backend, dtype, model.graph),
            )


def tolerance(backend: str, dtype: str, graph: Any) -> float:
    """The largest error allowed."""
    if backend == "compiled" and any(
        node.op == "conv"
        and node.attributes["kernel"] == (3, 3)
        and node.attributes["stride"] == (1, 1)
        and node.attributes["groups"] == 1
        for node in graph.nodes
    ):
        return WINOGRAD_TOLERANCE
    return TOLERANCES[backend, dtype]


def torch_results(
    module: nn.Module, x: Array, cotangents: Sequence[Array]
) -> tuple[tuple[Array, ...], Array]:
    """Torch's outputs, and the gradient of their products with the cotangents, by the input.

    `x` and the cotangents are cast to the module's dtype.
    """
    dtype = next(module.parameters()).dtype
    leaf = torch.from_numpy(x).to(dtype).requires_grad_()
    outputs = _tuple(module(leaf))
    products = [torch.from_numpy(c).to(dtype) for c in cotangents]
    (gradient,) = torch.autograd.grad(outputs, leaf, products)
    return tuple(y.detach().numpy() for y in outputs), gradient.numpy()


def errors(got: Sequence[Array], expected: Sequence[Array], floor: float) -> tuple[float, float]:
    """Largest and mean error over all arrays, each relative to its largest magnitude.

    Magnitudes below `floor` count as `floor`. NaN is an infinite error.

    Raises:
        ValueError: the arrays differ in number, shape or dtype kind.
    """
    largest, total, count = 0.0, 0.0, 0
    for a, b in itertools.zip_longest(got, expected):
        if a is None or b is None or a.shape != b.shape:
            raise ValueError(f"got {_shapes(got)}, torch gave {_shapes(expected)}")
        magnitude = max(floor, float(np.abs(b).max()))
        error = np.abs(a.astype(np.float64) - b) / magnitude
        error = np.where(np.isnan(error), np.inf, error)
        largest, total, count = (
            max(largest, float(error.max())),
            total + error.sum(),
            count + a.size,
        )
    return largest, float(total / count)


def _shapes(arrays: Sequence[Array]) -> str:
    return ", ".join(str(a.shape) for a in arrays)


def _tuple(outputs: Any) -> tuple[Any, ...]:
    return (outputs,) if isinstance(outputs, Tensor | np.ndarray) else tuple(outputs)
