"""The losses of `refnet.training.losses` in torch, whose automatic gradients ours are held to.

Each takes torch tensors and returns a scalar; written from the formulas, without looking at ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def wing(prediction: Tensor, target: Tensor, width: float = 10.0, epsilon: float = 2.0) -> Tensor:
    """Wing loss: summed over coordinates, averaged over images."""
    distance = (target - prediction).abs()
    constant = width * (1.0 - math.log(1.0 + width / epsilon))
    logarithm = width * torch.log(1.0 + distance / epsilon)
    return torch.where(distance < width, logarithm, distance - constant).flatten(1).sum(1).mean()


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences, averaged over images."""
    return functional.l1_loss(prediction, target, reduction="sum") / len(prediction)


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences, averaged over images."""
    return functional.mse_loss(prediction, target, reduction="sum") / len(prediction)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Sum of smoothed absolute differences, averaged over images."""
    total = functional.smooth_l1_loss(prediction, target, reduction="sum", beta=beta)
    return total / len(prediction)


def pfld_published(
    landmarks: Tensor, target: Tensor, angles: Tensor, target_angles: Tensor, attributes: Tensor
) -> Tensor:
    """PFLD's loss as its PyTorch code has it: degrees go into cos, the first flag is dropped."""
    pose = torch.sum(1 - torch.cos(angles - target_angles), dim=1)
    flags = attributes[:, 1:6]
    mean = flags.mean(dim=0)
    inverse = torch.where(mean > 0, 1.0 / mean.clamp_min(1e-30), torch.full_like(mean, len(flags)))
    belongs = torch.sum(flags * inverse, dim=1)
    error = torch.sum((target - landmarks) ** 2, dim=1)
    return torch.mean(pose * belongs * error)


def pfld_corrected(
    landmarks: Tensor, target: Tensor, angles: Tensor, target_angles: Tensor, attributes: Tensor
) -> Tensor:
    """The same with degrees as degrees, all classes, an ordinary class and the plain term."""
    pose = torch.sum(1 - torch.cos(torch.deg2rad(angles - target_angles)), dim=1)
    ordinary = (attributes.sum(dim=1) == 0).to(attributes.dtype)
    flags = torch.cat([attributes, ordinary[:, None]], dim=1)
    share = flags.mean(dim=0)
    weights = [flags[:, c] / share[c] for c in range(flags.shape[1]) if share[c] > 0]
    belongs = torch.stack(weights).sum(dim=0)
    error = torch.sum((target - landmarks) ** 2, dim=1)
    return torch.mean((1 + pose * belongs) * error)


def lffd_class(logits: Tensor, face: Tensor, mask: Tensor, selected: Tensor) -> Tensor:
    """Cross-entropy (class 0 the object) of the selected, unmasked cells / number of selected."""
    each = functional.cross_entropy(logits, (~face).long(), reduction="none")
    return (each * selected * mask).sum() / selected.sum()


def lffd_boxes(prediction: Tensor, target: Tensor, mask: Tensor, divisor: float) -> Tensor:
    """Half the squared error of the masked cells / `divisor`."""
    error = functional.mse_loss(prediction, target, reduction="none") * mask[:, None]
    return 0.5 * error.sum() / divisor


def basketnet(logits: Tensor, labels: Tensor, ratio: int = 10) -> Tensor:
    """Cross-entropy of positives and, image by image, of the hardest negatives / positives."""
    total = logits.new_zeros(())
    for scores, own in zip(logits, labels, strict=True):
        each = functional.cross_entropy(scores, own.clamp_min(0), reduction="none")
        positives = int((own > 0).sum())
        negatives = each[own == 0]
        hardest = negatives.sort(descending=True).values[: ratio * positives]
        total = total + each[own > 0].sum() + hardest.sum()
    return total / (labels > 0).sum()
