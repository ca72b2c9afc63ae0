"""Torch modules with the layers, the wiring and the state-dict names of every network.

They are written from papers and from published facts about the original repositories, never from
anyone's code, and are themselves held to golden outputs of the original code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.formula import formula_weights
from parity.twins.basketnet import BasketNet
from parity.twins.ghost import PFLDGhostOne, PFLDUltralight, PFLDUltralightSlim
from parity.twins.lffd import LFFD, TRUNKS, NaiveNet
from parity.twins.light import LFFDLight
from parity.twins.pfld import PFLD, PFLDMSFC
from parity.twins.polaris import AuxiliaryNet, PFLDInference
from parity.twins.tinynet import TinyNet

__all__ = ["NaiveNet", "load", "load_formula", "shapes", "twin"]

LANDMARK_NETS: dict[str, Callable[..., nn.Module]] = {
    "pfld": PFLD,
    "pfld-msfc": PFLDMSFC,
    "pfld-ultralight": PFLDUltralight,
    "pfld-ultralight-slim": PFLDUltralightSlim,
    "pfld-ghostone": PFLDGhostOne,
    "pfld-polaris": PFLDInference,
}


#: The others, each made of `folded` and the options, of which the size of the input is none.
OTHER_NETS: dict[str, Callable[..., nn.Module]] = {
    "pfld-polaris-auxiliary": AuxiliaryNet,
    "lffd-light": LFFDLight,
    "basketnet": lambda folded, **options: BasketNet(**options),
    "tinynet": lambda folded, **options: TinyNet(**options),
}


def _lffd(name: str, residual: str = "pre-activation", **options: Any) -> nn.Module:
    return LFFD(name, post_activation=residual == "post-activation", **options)


def _side(input_size: int | tuple[int, int]) -> int:
    return input_size if isinstance(input_size, int) else input_size[0]


def twin(name: str, **options: Any) -> nn.Module:
    """The torch module of `refnet.build(name, **options)`, in evaluation mode, float32.

    Takes the same options. `form="inference"` gives the module without batch norms, whose convs
    have biases (and, in pfld-ghostone, whose branches are merged): the names of refnet's folded
    graph.
    """
    options = dict(options)
    folded = options.pop("form", "training") == "inference"
    size = options.pop("input_size", 112)
    module: nn.Module
    if name in LANDMARK_NETS:
        module = LANDMARK_NETS[name](size=_side(size), folded=folded, **options)
    elif name in OTHER_NETS:
        module = OTHER_NETS[name](folded=folded, **options)
    elif name in TRUNKS:
        module = _lffd(name, **options)
    else:
        raise ValueError(f"no torch twin is called {name!r}")
    return module.eval()


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The state dict's names and shapes, in PyTorch's order."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def load(module: nn.Module, weights: dict[str, np.ndarray[Any, Any]]) -> nn.Module:
    """Copies arrays into the module, names and shapes strictly equal, and returns it."""
    module.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    return module


def load_formula(module: nn.Module) -> nn.Module:
    """Fills the module with the weights of `parity.formula`, and returns it."""
    return load(module, formula_weights(shapes(module)))
