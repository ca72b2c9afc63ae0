"""The state dicts inside what was saved: bare, in a training script's wrapper, or inside a module.

A state dict is a dict that holds tensors by name; its path says where it was ("" at the top,
"pfld_backbone", "ema.state_dict"). A pickled module that was not imported keeps the same tensors in
the dicts `_parameters`, `_buffers` and `_modules` of its state (torch/nn/modules/module.py), from
which its state dict is read off.
"""

from collections.abc import Iterator, Mapping

from refnet.checkpoints.elements import Array
from refnet.checkpoints.pickle_machine import Inert
from refnet.checkpoints.torch_tensors import PickledTensor
from refnet.errors import CheckpointError

StateDicts = dict[str, dict[str, Array]]
PickledStateDicts = dict[str, dict[str, PickledTensor]]

_LEVELS_AT_MOST = 6
_MODULE_LEVELS_AT_MOST = 60
_TENSORS_AT_MOST = 100_000
# What training scripts call the network that is meant to be used, first choice first. The first two
# are polarisZhao/PFLD-pytorch's two spellings.
_WRAPPERS = (
    "pfld_backbone",
    "plfd_backbone",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "backbone",
    "generator",
    "params",
    "weights",
    "ema",
)


def find_state_dicts(saved: object) -> PickledStateDicts:
    """Every state dict in `saved`, by its path, outermost first.

    Only dicts under text keys are searched, so that an optimiser's state, which is kept under
    numbers, is none. Raises CheckpointError where there is none.
    """
    found: PickledStateDicts = {}
    seen: set[int] = set()
    level: list[tuple[str, object]] = [("", saved)]
    tensors = 0
    for _ in range(_LEVELS_AT_MOST):
        below: list[tuple[str, object]] = []
        for path, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            held, inner = _split(value)
            if held:
                found[path] = held
                tensors += len(held)
            below += [(f"{path}.{name}" if path else name, item) for name, item in inner.items()]
            if tensors > _TENSORS_AT_MOST:
                raise CheckpointError(f"it holds more than {_TENSORS_AT_MOST:,} tensors")
        level = below
    if not found:
        what = "one tensor" if isinstance(saved, PickledTensor) else f"a {_named(saved)}"
        raise CheckpointError(
            f"it holds {what} and no state dict. Save model.state_dict(), or a dict around it."
        )
    return found


def preferred(state_dicts: Mapping[str, Mapping[str, Array]]) -> str:
    """The path of the state dict that is most likely the network to use.

    That is the first of the wrappers that training scripts use ("pfld_backbone", "state_dict",
    "model", ...), else the state dict with the most tensors.
    """
    for wrapper in _WRAPPERS:
        of_wrapper = [path for path in state_dicts if path.partition(".")[0] == wrapper]
        if of_wrapper:
            return max(of_wrapper, key=lambda path: len(state_dicts[path]))
    return max(state_dicts, key=lambda path: len(state_dicts[path]))


def _named(value: object) -> str:
    return str(value.of) if isinstance(value, Inert) else type(value).__name__


def _split(value: object) -> tuple[dict[str, PickledTensor], dict[str, object]]:
    """The tensors that `value` holds by name, and the dicts and objects in it."""
    if isinstance(value, Inert):
        if _is_module(value):
            return dict(_module_tensors(value, "", 0, [0])), {}
        value = value.state
    if not isinstance(value, dict):
        return {}, {}
    named = {name: item for name, item in value.items() if isinstance(name, str)}
    return (
        {name: item for name, item in named.items() if isinstance(item, PickledTensor)},
        {name: item for name, item in named.items() if isinstance(item, dict | Inert)},
    )


def _is_module(value: Inert) -> bool:
    return all(isinstance(value.state.get(key), dict) for key in ("_parameters", "_modules"))


def _module_tensors(
    module: Inert, prefix: str, depth: int, visited: list[int]
) -> Iterator[tuple[str, PickledTensor]]:
    """(name, tensor) of a module that was not imported, in the order of its state dict."""
    state = [module.state.get(key) for key in ("_parameters", "_buffers", "_modules")]
    visited[0] += 1 + sum(len(held) for held in state if isinstance(held, dict))
    if depth > _MODULE_LEVELS_AT_MOST or visited[0] > _TENSORS_AT_MOST:
        raise CheckpointError("the modules in it hold each other, or too many tensors")
    transient = module.state.get("_non_persistent_buffers_set")
    left_out = (
        [name for name in transient if isinstance(name, str)]
        if isinstance(transient, tuple | list)
        else []
    )
    for kind in ("_parameters", "_buffers"):
        tensors = module.state.get(kind)
        for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
            if isinstance(tensor, PickledTensor) and not (kind == "_buffers" and name in left_out):
                yield f"{prefix}{name}", tensor
    children = module.state.get("_modules")
    for name, child in children.items() if isinstance(children, dict) else ():
        if isinstance(child, Inert) and _is_module(child):
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1, visited)
