"""Find out which network a checkpoint is of, with which options, and give its tensors our names.

A file that `save` wrote says it. Any other is compared with every network: the network's family
proposes options by the shapes (`refnet.networks.options_of`), the graph is built, and its names and
shapes must all be there. Files whose names say nothing, as exporters number folded tensors, are
compared layer by layer in execution order (`refnet.networks.options_in_order`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from refnet.checkpoints.elements import Array
from refnet.checkpoints.layers import Layer
from refnet.checkpoints.names import from_lffd_pytorch, from_mxnet, without_wrapper
from refnet.checkpoints.reader import Checkpoint
from refnet.errors import OptionError, WeightsError
from refnet.graph import Graph
from refnet.networks import build, networks, options_in_order, options_of

Options = dict[str, Any]
Tensors = Mapping[str, Array]
_LISTED_AT_MOST = 4
#: In the names of the branches of MobileOne blocks.
_BRANCH = ".rbr_"


def identify(
    checkpoint: Checkpoint, network: str | None = None, **options: Any
) -> tuple[str, Options, dict[str, Array]]:
    """The network, the options to build it with, and the tensors by their names in its graph.

    network, options: what the caller knows; they override what the file says. With a network given,
    every state dict of the file is tried, else only the chosen one.

    Of `pfld-polaris` two options leave no trace in tensors' shapes. bn8 is "applied" if its running
    statistics were ever updated. The activation is what an ONNX or ncnn file lists; for other files the
    one that fits the running statistics better, with a warning that says so (`activation.py`).

    Tensors come in the graph's order, in the file's dtype; those that no node reads (counters of
    batches, an unused bn8) are left out.

    Raises WeightsError where the tensors fit no network, or not the given one, or more than one: it
    says what was found and which networks there are. OptionError where the given options are not
    possible.
    """
    recorded = _recorded(checkpoint)
    if recorded is not None:
        return _from_record(checkpoint, recorded, network, options)
    if network is not None:
        build(network)  # an unknown name is an error of its own
    misfits: list[str] = []
    candidates = {checkpoint.chosen: checkpoint.tensors}
    if network is not None:
        candidates |= checkpoint.state_dicts
    for tensors in candidates.values():
        fits = list(_fits(checkpoint, tensors, network, options, misfits))
        if len(fits) > 1:
            names = ", ".join(name for name, _, _ in fits)
            raise WeightsError(
                f"{checkpoint.path}: these tensors fit more than one network ({names}). Name the one "
                f"that is meant."
            )
        if fits:
            return _with_activation(checkpoint, fits[0], options)
    if network is not None and not misfits:  # not even its first tensors are there
        named, _ = _renamed(checkpoint, checkpoint.tensors)
        misfits.append(_misfit(build(network, **options), named))
    raise WeightsError(_unidentified(checkpoint, network, misfits))


def _with_activation(
    checkpoint: Checkpoint, fit: tuple[str, Options, dict[str, Array]], given: Options
) -> tuple[str, Options, dict[str, Array]]:
    """`fit` with the activation that the file tells, or most likely has, unless the caller named one."""
    if "activation" in given:
        return fit
    from refnet.checkpoints.activation import settled

    name, options, tensors = fit
    operators = checkpoint.metadata.get("operators", "")
    return name, settled(operators, name, options, tensors, checkpoint.path), tensors


# --- files that say what they are


def _recorded(checkpoint: Checkpoint) -> tuple[str, Options] | None:
    """The network and options that `save` wrote into the file, if it did."""
    network = checkpoint.metadata.get("network")
    if "refnet" not in checkpoint.metadata or network is None:
        return None
    try:
        options = json.loads(checkpoint.metadata.get("options", "{}"))
    except ValueError as error:
        raise WeightsError(f"{checkpoint.path}: its record of options is damaged") from error
    if not isinstance(options, dict):
        raise WeightsError(f"{checkpoint.path}: its record of options is not a JSON object")
    return network, options


def _from_record(
    checkpoint: Checkpoint, recorded: tuple[str, Options], network: str | None, options: Options
) -> tuple[str, Options, dict[str, Array]]:
    name, saved = recorded
    if network is not None and network != name:
        raise WeightsError(f"{checkpoint.path}: this file is of {name}, not of {network}")
    try:
        graph = build(name, **saved)
    except (OptionError, TypeError, ArithmeticError) as error:  # a record may hold any JSON
        raise WeightsError(
            f"{checkpoint.path}: its record says {name[:80]!r}, which this version cannot build so: "
            f"{str(error)[:300]!r}"
        ) from error
    chosen = {**saved, **options}
    if chosen != saved:
        graph = build(name, **chosen)
    if misfit := _misfit(graph, checkpoint.tensors):
        raise WeightsError(f"{checkpoint.path}: {misfit}")
    return name, chosen, _used(graph, checkpoint.tensors)


# --- files that do not


def _fits(
    checkpoint: Checkpoint,
    tensors: Tensors,
    network: str | None,
    given: Options,
    misfits: list[str],
) -> Iterator[tuple[str, Options, dict[str, Array]]]:
    """Each network that `tensors` fit; why the others do not is appended to `misfits`."""
    named, hints = _renamed(checkpoint, tensors)
    for name in networks() if network is None else (network,):
        found = None
        for derived in options_of(name, named, hints):
            graph = _graph(name, derived, given, network is not None, misfits)
            if graph is None:
                continue
            misfit = _misfit(graph, named)
            if not misfit:
                found = name, {**derived, **given}, _used(graph, named)
                break
            misfits.append(misfit)
        if found is None:
            found = _by_order(checkpoint, tensors, name, given)
        if found is not None:
            yield found


def _renamed(checkpoint: Checkpoint, tensors: Tensors) -> tuple[dict[str, Array], Options]:
    """`tensors` by the names that our graphs would use, and the options that the names reveal."""
    if checkpoint.layers:  # constants of reshapes and clips are no weights
        read = {name for layer in checkpoint.layers for name in (layer.weight, layer.bias)}
        roles = (".weight", ".bias", ".running_mean", ".running_var")
        tensors = {n: t for n, t in tensors.items() if n in read or n.endswith(roles)}
    named = from_mxnet(without_wrapper(tensors))
    hints: Options = {}
    if (naivenet := from_lffd_pytorch(named)) is not None:
        named, hints["residual"] = naivenet
    norms = any(name.endswith(".running_mean") for name in named)
    hints["form"] = "training" if norms else "inference"
    return named, hints


def _graph(
    name: str, derived: Options, given: Options, chosen: bool, misfits: list[str]
) -> Graph | None:
    """The graph, or None where these options are impossible; with `chosen` the caller's are to blame."""
    try:
        return build(name, **{**derived, **given})
    except OptionError as error:
        if chosen and given:
            raise
        misfits.append(f"as {name}: {error}")
        return None


# --- names that say nothing


def _by_order(
    checkpoint: Checkpoint, tensors: Tensors, name: str, given: Options
) -> tuple[str, Options, dict[str, Array]] | None:
    """The network `name` in its inference form, if the file's layers are its layers, in order.

    Only for networks that are one chain of layers, so that order leaves no doubt.
    """
    layers = checkpoint.layers
    if not layers or tensors is not checkpoint.tensors:
        return None
    weights = [(layer.op, tensors[layer.weight]) for layer in layers]
    options = options_in_order(name, weights, checkpoint.metadata.get("operators", ""))
    if options is None:
        return None
    try:
        graph = build(name, **{**options, **given})
    except OptionError:
        return None
    ours = [
        Layer(node.op, node.parameters["weight"], node.parameters.get("bias"))  # type: ignore[arg-type]
        for node in graph.nodes
        if node.op in ("conv", "linear")
    ]
    renamed: dict[str, Array] = {}
    for our, their in zip(ours, layers, strict=False):
        renamed[our.weight] = tensors[their.weight]
        if (our.bias is None) != (their.bias is None) or our.op != their.op:
            return None
        if our.bias is not None and their.bias is not None:
            renamed[our.bias] = tensors[their.bias]
        if their.weight in graph.parameters and their.weight != our.weight:
            return None  # a name that does say something contradicts the order
    if len(ours) != len(layers) or _misfit(graph, renamed):
        return None
    return name, {**options, **given}, _used(graph, renamed)


# --- comparing and reporting


def _used(graph: Graph, tensors: Tensors) -> dict[str, Array]:
    return {name: tensors[name] for name in graph.parameters}


def _misfit(graph: Graph, tensors: Tensors) -> str:
    """Why `tensors` are not those of `graph`; empty if they are."""
    missing = [name for name in graph.parameters if name not in tensors]
    extra = [name for name in tensors if name not in graph.state_dict]
    misshapen = [
        f"{name!r} {tensors[name].shape} instead of {shape}"
        for name, shape in graph.state_dict.items()
        if name in tensors and tensors[name].shape != shape
    ]
    whole = [
        name for name in graph.parameters if name in tensors and tensors[name].dtype.kind != "f"
    ]
    troubles = {
        "missing": list(map(repr, missing)),
        "extra": list(map(repr, extra)),
        "misshapen": misshapen,
        "not float": list(map(repr, whole)),
    }
    listed = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in troubles.items() if names]
    options = ", ".join(f"{key}={value}" for key, value in graph.options.items())
    return f"as {graph.name} ({options}): {'; '.join(listed)}" if listed else ""


def unmerged(names: Iterable[str]) -> str:
    """What to do about an export that has GhostOne's parallel branches still, after "it"; empty where the names of its
    tensors show none."""
    if not any(_BRANCH in name for name in names):
        return ""
    return (
        "has the parallel branches that GhostOne is trained with: merge them before the export, or "
        "convert the PyTorch checkpoint, whose branches refnet merges"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:160] for name in names[:_LISTED_AT_MOST])
    more = len(names) - _LISTED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def _unidentified(checkpoint: Checkpoint, network: str | None, misfits: Sequence[str]) -> str:
    tensors = checkpoint.tensors
    place = f" in {checkpoint.chosen[:80]!r}" if checkpoint.chosen else ""
    found = _listed([f"{name!r} {array.shape}" for name, array in tensors.items()])
    lines = [
        f"{checkpoint.path}: the {len(tensors)} tensors{place} are not those of "
        f"{network or 'a network known here'}. Found: {found}."
    ]
    if checkpoint.layers and (advice := unmerged(tensors)):
        lines.append(f"It {advice}.")
    lines += [f"Read {misfit}." for misfit in misfits[:3]]
    for path, state_dict in checkpoint.state_dicts.items():
        others: list[str] = []
        if path != checkpoint.chosen and network is None:
            others = [fit[0] for fit in _fits(checkpoint, state_dict, None, {}, [])]
        lines += [
            f"Its state dict {path!r} is of {name}; name that network to read it."
            for name in others
        ]
    if network is None:
        lines.append(f"Networks: {', '.join(networks())}.")
    return " ".join(lines)
