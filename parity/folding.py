"""Training-form weights to inference-form weights, by torch's own conv and batch-norm fusion.

An oracle for refnet's folding passes: it shares no code with them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from parity.twins.ghost import ConvNorm, MobileOneBlock
from parity.twins.polaris import PFLDInference


def fold(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """The state dict of the module's inference form: float64 arrays, in PyTorch's order.

    Batch norms go into the convs before them; a MobileOne block becomes one conv (arXiv:2206.04040,
    section 3). A batch norm that the network never applies is dropped.
    """
    folded: dict[str, Tensor] = {}
    conv_name, conv = "", None
    inside = ""
    for name, child in module.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(child, MobileOneBlock):
            inside = f"{name}."
            weight, bias = merge_branches(child)
            folded |= {f"{name}.reparam_conv.weight": weight, f"{name}.reparam_conv.bias": bias}
        elif isinstance(child, nn.Conv2d):
            conv_name, conv = name, child
            folded |= {f"{name}.{key}": p.double() for key, p in child.named_parameters()}
        elif isinstance(child, nn.BatchNorm2d):
            if name == "bn8" and isinstance(module, PFLDInference) and not module.bn8_applied:
                continue
            assert conv is not None
            weight, bias = fuse(conv, child)
            folded |= {f"{conv_name}.weight": weight, f"{conv_name}.bias": bias}
        elif isinstance(child, nn.Linear):
            folded |= {f"{name}.{key}": p.double() for key, p in child.named_parameters()}
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in folded.items()}


def fuse(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the conv that equals `conv` followed by `norm`."""
    assert norm.running_mean is not None and norm.running_var is not None
    return fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight.double(),
        norm.bias.double(),
    )


def merge_branches(block: MobileOneBlock) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the one conv that a MobileOne block's branches add up to."""
    branches = [b for b in block.rbr_conv if isinstance(b, ConvNorm)]
    parts = [fuse(branch.conv, branch.bn) for branch in branches]
    conv = branches[0].conv
    kernel = conv.kernel_size[0]
    if block.rbr_scale is not None:
        weight, bias = fuse(block.rbr_scale.conv, block.rbr_scale.bn)
        parts.append((F.pad(weight, [kernel // 2] * 4), bias))
    if block.rbr_skip is not None:
        identity = nn.Conv2d(
            conv.in_channels, conv.out_channels, kernel, groups=conv.groups, bias=False
        )
        nn.init.dirac_(identity.weight, groups=conv.groups)
        parts.append(fuse(identity, block.rbr_skip))
    weights, biases = zip(*parts, strict=True)
    return torch.stack(weights).sum(0), torch.stack(biases).sum(0)
