"""A network with its weights, ready to run: `refnet.load` and `Model`."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from refnet import reference
from refnet.cores import thread_count
from refnet.engine import Engine, unavailable
from refnet.errors import (
    BackendError,
    CheckpointError,
    FileError,
    OptionError,
    RefnetError,
    ShapeError,
    WeightsError,
)
from refnet.graph import Graph
from refnet.networks import NETWORKS, build, check_options, network_options, split_name
from refnet.ops import Array
from refnet.values import objection, variances

#: Suffixes of what is given for a network by mistake.
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
BACKENDS = ("auto", "compiled", "numpy")
FLOAT32, FLOAT64 = FLOATS = np.dtype(np.float32), np.dtype(np.float64)


class Model:
    """A graph with its weights.

    `model(x)` runs it. `x` is (N, C, H, W), float32 or float64, any N; the values that the network
    expects are in its builder's documentation. One output gives an array, several a tuple in the order
    of `model.graph.outputs`.

    Attributes:
        graph: the network.
        weights: {state-dict name: read-only float array}.
        backend: "compiled", the engine for float32, or "numpy", the reference.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Any],
        *,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.graph = graph
        self.weights = checked_weights(graph, weights)
        if backend not in BACKENDS:
            raise OptionError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        self._required = backend == "compiled"
        if self._required and (reason := unavailable()):
            raise BackendError(f"the compiled backend cannot run here: {reason}")
        self.backend = "numpy" if backend == "numpy" else "compiled"
        self.threads = thread_count(threads)
        self._threads_asked = threads
        self._cast: dict[np.dtype[Any], dict[str, Array]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What process pools send to their workers: all but the machine's own, which is made anew."""
        return {k: v for k, v in self.__dict__.items() if k != "engine"} | {"_cast": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The number of threads, where none was asked for, is that of the process that runs it."""
        self.__dict__.update(state, threads=thread_count(state["_threads_asked"]))

    def __repr__(self) -> str:
        c, h, w = self.graph.input_shape
        return f"<refnet.Model {self.graph.name}, input (N, {c}, {h}, {w}), backend {self.backend}>"

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """{name: shape} of the input; None where any number will do, such as the batch's."""
        return {self.graph.input: self._free(self.graph.input_shape)}

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        """{name: shape} of the outputs, in the order that a run returns; None where it follows the input."""
        shapes = self.graph.shapes()
        return {name: self._free(shapes[name]) for name in self.graph.outputs}

    def _free(self, shape: Sequence[int]) -> tuple[int | None, ...]:
        """`shape` with the batch, and with None for sides that an input of another size changes."""
        if self.graph.fixed_size or len(shape) == 1:
            return (None, *shape)
        return (None, shape[0], None, None) if len(shape) == 3 else (None, None, *shape[1:])

    def run(
        self, x: Array, *, backend: str | None = None, dtype: Any = None
    ) -> Array | tuple[Array, ...]:
        """The network's outputs for `x` (N, C, H, W).

        Args:
            backend: "compiled" for the engine, "numpy" for the reference; the model's own by default.
            dtype: float32 or float64, to compute in; that of `x` by default.

        Raises:
            ShapeError: `x` has a shape, dtype or value that the network cannot take.
            BackendError: the backend cannot run here, or not in this dtype.
        """
        self._check_array(x, dtype)
        given, finite = x, False
        try:
            x = x if dtype is None else x.astype(dtype, copy=False)
            chosen = self.backend if backend is None else self._chosen(backend, x.dtype)
            if compiled := chosen == "compiled" and x.dtype == FLOAT32:
                outputs, finite = self.engine.run(x)
        except RefnetError as error:
            self._check_values(given)
            outputs = self._without_engine(error, x, required=backend == "compiled")
        else:
            if not finite:
                self._check_values(given)
            if not compiled:
                outputs = reference.run(self.graph, self._weights(x.dtype), x)
        return outputs[0] if len(outputs) == 1 else outputs

    #: `model(x)` is `model.run(x)` itself: a call between them would cost a twentieth of the way to the kernels.
    __call__ = run

    def _chosen(self, backend: str, dtype: np.dtype[Any]) -> str:
        """The backend to run, of one that a caller asked for."""
        if backend not in BACKENDS:
            raise OptionError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
        if backend == "compiled" and dtype != FLOAT32:
            raise BackendError(
                f"the compiled backend computes in float32, and this input is {dtype}; pass "
                "dtype='float32', or backend='numpy' for float64"
            )
        return self.backend if backend == "auto" else backend

    @cached_property
    def engine(self) -> Engine:
        """The compiled backend of this model; its `plan(shape).explain()` shows what runs and why.

        Raises:
            BackendError: it cannot run here; the message says why.
        """
        return Engine(self.graph, self.weights, self.threads)

    def _without_engine(self, error: RefnetError, x: Array, *, required: bool) -> tuple[Array, ...]:
        """The outputs by the reference, after one warning, where the engine failed and may fail."""
        if required or self._required or not isinstance(error, BackendError):
            raise error
        warnings.warn(f"{error}; NumPy runs instead, more slowly", RuntimeWarning, stacklevel=3)
        self.backend = "numpy"
        return reference.run(self.graph, self._weights(x.dtype), x)

    def vjp(self, x: Array, cotangents: Array | Sequence[Array | None]) -> Array:
        """The gradient of Σ ⟨cotangent, output⟩ by `x`: a vector-Jacobian product, by the reference.

        Args:
            x: (N, C, H, W), float32 or float64.
            cotangents: one array per output, of its shape, None for zeros; the array itself where
                the network has one output.

        Returns:
            An array of the shape and dtype of `x`.

        Raises:
            ShapeError: `x` or a cotangent has a shape, dtype or value that does not fit.
        """
        self._check_array(x, None)
        self._check_values(x)
        if isinstance(cotangents, np.ndarray):
            cotangents = (cotangents,)
        return reference.vjp(self.graph, self._weights(x.dtype), x, cotangents)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the network with its weights as an ONNX file, any batch size.

        Raises:
            DependencyError: the package `onnx` is absent.
            UnsupportedError: an operation has no ONNX form here.
            OutputError: the file cannot be written.
        """
        from refnet.exchange.onnx_export import export_onnx

        export_onnx(self.graph, self.weights, path)

    def _weights(self, dtype: np.dtype[Any]) -> dict[str, Array]:
        """The weights in `dtype`, cast once."""
        if dtype not in self._cast:
            self._cast[dtype] = {n: w.astype(dtype, copy=False) for n, w in self.weights.items()}
        return self._cast[dtype]

    def _check_array(self, x: Array, dtype: Any) -> None:
        """Refuse what is no (N, C, H, W) array of floats, or cannot be computed in `dtype`."""
        name = self.graph.name
        if not isinstance(x, np.ndarray):
            raise ShapeError(f"{name} takes a NumPy array (N, C, H, W), not {type(x).__name__}")
        if x.ndim == 3 and x.shape[2] == 3 != x.shape[0]:
            raise ShapeError(
                f"{name} takes (N, C, H, W) and got {x.dtype} {x.shape}, which looks like an image: "
                "FaceDetector and FaceLandmarker take images; or pass "
                "x.transpose(2, 0, 1)[None].astype('float32'), scaled as the network expects"
            )
        if x.dtype not in FLOATS:
            raise ShapeError(
                f"{name} takes float32 or float64 and got {x.dtype}; convert it with "
                "x.astype('float32'), and scale it as the network expects"
            )
        if x.ndim != 4:
            hint = "; for one image, pass x[None]" if x.ndim == 3 else ""
            raise ShapeError(f"{name} takes (N, C, H, W) and got shape {x.shape}{hint}")
        if dtype is not None and np.dtype(dtype) not in FLOATS:
            raise OptionError(f"{name} computes in float32 or float64, not in {np.dtype(dtype)}")

    def _check_values(self, x: Array) -> None:
        """Refuse NaN and infinity."""
        if count := np.count_nonzero(~np.isfinite(x)):
            raise ShapeError(
                f"{self.graph.name} got {count:,} values that are NaN or infinite"
            ) from None


#: What a function that wants a network takes: a name, with options or without; a file; a model.
Net = str | os.PathLike[str] | Model


def load(
    name_or_file: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    threads: int | None = None,
    backend: str = "auto",
    **options: Any,
) -> Model:
    """A network with weights, ready to run.

    Args:
        name_or_file: a name from `refnet.networks()`, with options or without, such as
            "lffd-face-v2:width=0.5"; a checkpoint whose network follows from it, such as a file made by
            `refnet convert`; or an ONNX file of any network whose operators refnet knows.
        weights: a checkpoint's path, or {state-dict name: array}. A checkpoint may be a PyTorch file
            (never executed), safetensors, npz, ONNX, MXNet or ncnn. With a network's name, None takes
            the weights that refnet comes with, where there are any with these options.
        threads: number of threads that one run may use; None for the cores that this process may use,
            and for 1 in the workers of process pools. Results are the same bits for any number.
        backend: "compiled" for the engine (float32), "numpy" for the reference, "auto" for the engine
            where it runs, else NumPy with one warning that says why. float64 always takes the reference.
        options: the network's options, such as width, input_size, landmarks, form. Those that the
            checkpoint tells need not be given. Of an ONNX file of another network, input_size alone.

    Raises:
        FileError: there is no such file.
        UnknownNetworkError, OptionError: no such network, or not with these options.
        WeightsError: tensors are missing, extra or misshapen; CheckpointError: a file cannot be read.
    """
    network, own = network_of(name_or_file)
    options = {**own, **options}
    check_options(network, options, ("weights", "threads", "backend"))
    if weights is None:
        weights = os.fspath(name_or_file) if network is None else _released(network, options)
    if isinstance(weights, Mapping):
        if network is None:
            raise OptionError("with weights as a mapping, the first argument is a network's name")
        tensors: Mapping[str, Any] = weights
    else:
        from refnet.checkpoints import identify, read

        if not Path(weights).exists():
            raise _absent(os.fspath(weights))
        if Path(weights).suffix.lower() in PICTURES:
            raise CheckpointError(f"{os.fspath(weights)} is a picture, no network")
        checkpoint = read(weights)
        try:
            network, options, tensors = identify(checkpoint, network, **options)
        except WeightsError:
            if checkpoint.format != "onnx" or network is not None:
                raise
            from refnet.exchange.onnx_network import read_network

            if unknown := [key for key in options if key != "input_size"]:
                raise OptionError(
                    f"{name_or_file} is no network that refnet builds; of such an ONNX file only input_size can be "
                    f"chosen, not {', '.join(unknown)}"
                ) from None
            graph, tensors = read_network(weights, **options)
            return Model(graph, tensors, backend=backend, threads=threads)
    return Model(build(network, **options), tensors, backend=backend, threads=threads)


def network_of(name_or_file: str | os.PathLike[str]) -> tuple[str | None, dict[str, Any]]:
    """(network, options) that a name stands for, which may be "name:option=value"; (None, {}) for a file.

    Raises:
        FileError: it looks like a file's path, and there is none.
        UnknownNetworkError: it looks like a name, and no network has it.
        OptionError: its options are not written option=value.
    """
    text = os.fspath(name_or_file)
    if text in NETWORKS:
        return text, {}
    if Path(text).exists():
        return None, {}
    name, colon, _ = text.partition(":")
    if name not in NETWORKS and not colon and (Path(text).suffix or os.sep in text):
        raise _absent(text)
    network, options = split_name(text)
    network_options(network)  # raises the error that names the networks
    check_options(network, options)
    return network, options


def name_of(net: Net) -> str | None:
    """The network's name where `net` is one, with options or without; None for a file or a model.

    Raises:
        As `network_of`.
    """
    return None if isinstance(net, Model) else network_of(net)[0]


def model_for(
    model: Net,
    weights: str | os.PathLike[str] | Mapping[str, Any] | None,
    *,
    threads: int | None,
    backend: str,
) -> Model:
    """`model` itself, or what `load` makes of it.

    Raises:
        OptionError: a model comes with its weights and settings, and others are given.
        Others as `load`.
    """
    if not isinstance(model, Model):
        return load(model, weights, threads=threads, backend=backend)
    if weights is not None or threads is not None or backend != "auto":
        raise OptionError("a Model has its weights, threads and backend; give them to refnet.load")
    return model


def graph_of(net: Net | Graph) -> Graph:
    """The graph of a network: of a name that of the weights that refnet comes with, where there are any
    with its options, else as `build` makes it.

    Raises:
        As `load`.
    """
    if isinstance(net, Graph):
        return net
    if isinstance(net, Model):
        return net.graph
    network, options = network_of(net)
    if network is None:
        return load(net, backend="numpy").graph
    from refnet.weights import catalogue, released

    found = released(network, options)
    recorded = {} if found is None else catalogue()[found][1]
    return build(network, **{**recorded, **options})


def _absent(path: str) -> FileError:
    return FileError(f"there is no file {path}, and no network of that name", path, errno.ENOENT)


def _released(network: str, options: Mapping[str, Any]) -> Path:
    """The file of released weights for a network, or the error that says which there are."""
    from refnet.weights import catalogue, released

    found = released(network, options)
    if found is None:
        asked = "".join(f", {key}={value}" for key, value in options.items())
        others = ", ".join(
            f"{name} (width={recorded['width']:g})" if "width" in recorded else name
            for name, recorded in catalogue().values()
        )
        raise WeightsError(
            f"refnet has no released weights for {network}{asked}; pass weights=, a checkpoint's path or "
            f"{{state-dict name: array}}. Released: {others or 'none'}"
        )
    return found


def checked_weights(graph: Graph, weights: Mapping[str, Any]) -> dict[str, Array]:
    """The tensors that `graph` reads, as read-only float arrays of their own dtype.

    Tensors in `graph.ignored` are dropped. float32 and float64 stay; smaller floats become float32.

    Raises:
        WeightsError: tensors are missing, extra, misshapen or hold numbers that weights cannot be (`values.py`); all
            are listed.
    """
    problems = []
    if missing := [n for n in graph.parameters if n not in weights]:
        problems.append(f"missing {_listed(missing)}")
    if extra := [n for n in weights if n not in graph.state_dict]:
        problems.append(f"not known to the network {_listed(extra)}")
    checked: dict[str, Array] = {}
    running = variances(graph)
    for name, shape in graph.parameters.items():
        if name not in weights:
            continue
        array = np.asarray(weights[name])
        if array.shape != shape:
            problems.append(f"{name} has shape {array.shape}, expected {shape}")
        elif array.dtype.kind != "f":
            problems.append(f"{name} has dtype {array.dtype}, expected a float")
        else:
            # Before its values are looked at: NumPy has no vector instructions for float16.
            kept = array if array.dtype in FLOATS else array.astype(np.float32)
            if reason := objection(kept, variance=name in running):
                problems.append(f"{name} {reason}")
            else:
                checked[name] = _read_only(kept)
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        options = ", ".join(f"{key}={value}" for key, value in graph.options.items())
        raise WeightsError(
            f"these weights do not fit {graph.name} ({options}): " + "; ".join(shown)
        )
    return checked


def _read_only(array: Array) -> Array:
    """`array` itself where it is read-only, else a copy: a model's weights never change."""
    kept = array.copy() if array.flags.writeable else array
    kept.flags.writeable = False
    return kept


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
