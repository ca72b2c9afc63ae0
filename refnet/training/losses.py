"""Losses with their gradients, in NumPy.

Every function returns a `Loss`: the value, and the gradient by the prediction, of its shape and dtype.
A trainer of any framework feeds that gradient to its own backward pass, so that the loss is written
once. Sources: wing (Feng et al. 2018, arXiv:1711.06753) with the constants of
AnthonyF333/FaceLandmark_PFLD_UltraLight; PFLD (Guo et al. 2019) as in polarisZhao/PFLD-pytorch; the
detectors' as in YonghaoHe/LFFD and aoru45/BasketNet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.ops import Array


class Loss(NamedTuple):
    """A loss's value and its gradient by the prediction."""

    value: float
    gradient: Array


class WeightedLoss(NamedTuple):
    """PFLD's loss: the value, and its gradients by the landmarks and by the angles."""

    value: float
    landmarks: Array
    angles: Array


def _difference(prediction: Array, target: Array) -> Array:
    if prediction.shape != target.shape or prediction.ndim < 2:
        raise ShapeError(
            "prediction and target are (N, coordinates) of one shape, not "
            f"{prediction.shape} and {target.shape}"
        )
    return prediction - target


def wing(prediction: Array, target: Array, *, width: float = 10.0, epsilon: float = 2.0) -> Loss:
    """Wing loss: w · ln(1 + d/ε) for d < w, else d - C, with C = w - w · ln(1 + w/ε), continuous at w.

    d is the distance of a coordinate to its target. Summed over the coordinates, averaged over the
    images. On coordinates in [0, 1] only the logarithm acts with the paper's constants, and the slope
    w/(ε + d) stays within 3.3 and 5; on pixels both branches act, as the paper means it.

    Args:
        prediction, target: (N, ...), any float dtype.
        width: w, where the logarithm ends.
        epsilon: ε, how curved the logarithm is.
    """
    difference = _difference(prediction, target)
    distance = np.abs(difference)
    constant = width - width * math.log1p(width / epsilon)
    inside = distance < width
    value = np.where(inside, width * np.log1p(distance / epsilon), distance - constant)
    slope = np.where(inside, width / (epsilon + distance), 1.0)
    count = len(prediction)
    gradient = (np.sign(difference) * slope / count).astype(prediction.dtype)
    return Loss(float(value.sum() / count), gradient)


def l1(prediction: Array, target: Array) -> Loss:
    """Σ |difference| of an image, averaged over the images."""
    difference = _difference(prediction, target)
    count = prediction.dtype.type(len(prediction))
    return Loss(float(np.abs(difference).sum() / count), np.sign(difference) / count)


def l2(prediction: Array, target: Array) -> Loss:
    """Σ difference² of an image, averaged over the images."""
    difference = _difference(prediction, target)
    count = prediction.dtype.type(len(prediction))
    return Loss(float(np.square(difference).sum() / count), 2 * difference / count)


def smooth_l1(prediction: Array, target: Array, *, beta: float = 1.0) -> Loss:
    """d - β/2 for d > β, else d²/(2β); summed over an image, averaged over the images."""
    difference = _difference(prediction, target)
    distance = np.abs(difference)
    value = np.where(distance > beta, distance - beta / 2, np.square(distance) / (2 * beta))
    slope = np.clip(difference / prediction.dtype.type(beta), -1, 1)
    count = prediction.dtype.type(len(prediction))
    return Loss(float(value.sum() / count), slope / count)


def pfld(
    landmarks: Array,
    target: Array,
    angles: Array,
    target_angles: Array,
    attributes: Array,
    *,
    form: str = "published",
) -> WeightedLoss:
    """PFLD's weighted loss: the mean over faces of A · B · E.

    E is Σ difference² of a face's coordinates, A = Σ_k (1 - cos Δθ_k) over its three angles, and B
    adds up, over the classes a face belongs to, one over the class's share of the batch.

    `form` "published" is what the code does: cos takes the difference of angles in degrees as if it
    were in radians, so that A is 0 for errors of 0, 6.28, 12.57... degrees; the class of profile
    faces (column 0) is left out; and a face without any flag has B = 0, so that it teaches nothing.

    "corrected" takes degrees as degrees, counts all six classes and an "ordinary" class of the faces
    without a flag, and uses 1 + A · B, as the first TensorFlow code does by adding the plain term:
    otherwise faces stop teaching as soon as their pose is known.

    Args:
        landmarks, target: (N, F) coordinates.
        angles, target_angles: (N, 3) degrees.
        attributes: (N, 6) flags, 0 or 1: pose, expression, illumination, make-up, occlusion, blur.
    """
    if form not in ("published", "corrected"):
        raise OptionError(f"form is 'published' or 'corrected', not {form!r}")
    count = len(landmarks)
    if attributes.shape != (count, 6) or angles.shape != (count, 3):
        raise ShapeError(
            f"{count} faces take attributes ({count}, 6) and angles ({count}, 3), not "
            f"{attributes.shape} and {angles.shape}"
        )
    difference = _difference(landmarks, target)
    turn = _difference(angles, target_angles)
    classes = attributes[:, 1:] if form == "published" else attributes
    unit, plain = 1.0, 0.0
    if form == "corrected":
        unit, plain = math.pi / 180, 1.0
        ordinary = (attributes.sum(axis=1, keepdims=True) == 0).astype(attributes.dtype)
        classes = np.concatenate([classes, ordinary], axis=1)
    share = classes.mean(axis=0)
    inverse = 1 / np.where(share > 0, share, 1)  # a class without a face multiplies zeros
    belongs = classes @ inverse
    pose = (1 - np.cos(unit * turn)).sum(axis=1)
    error = np.square(difference).sum(axis=1)
    weight = plain + pose * belongs
    by_angle = (belongs * error)[:, None] * np.sin(unit * turn) * unit / count
    by_landmark = weight[:, None] * 2 * difference / count
    return WeightedLoss(
        float((weight * error).mean()),
        by_landmark.astype(landmarks.dtype),
        by_angle.astype(angles.dtype),
    )


MINING_RULES = ("nominal", "coded")


def mined(background: Array, positive: Array, *, ratio: float = 5.0, rule: str = "coded") -> Array:
    """Which cells take part in the class loss: all positives and the hardest negatives, as bool.

    Cells are those of one branch over the whole batch, as LFFD mines them; every cell that is not
    positive counts as a negative, gray ones too (they are masked later).

    Args:
        background: predicted probability of the background, any shape.
        positive: bool, of the same shape.
        ratio: negatives per positive.
        rule: "nominal" takes the min(ratio · P, negatives) cells with the lowest probability, of equals
            the earlier cells. "coded" does as the official code: it sorts p_background · is_negative,
            in which the P positives stand first as zeros, and takes every negative up to the value at
            index min(ratio · P, negatives), so that about ratio - 1 negatives a positive remain.

    Without positives both take the tenth of all cells with the lowest probability.
    """
    if rule not in MINING_RULES:
        raise OptionError(f"rule is one of {', '.join(MINING_RULES)}, not {rule!r}")
    if background.shape != positive.shape:
        raise ShapeError(
            f"probabilities and positives have one shape, not {background.shape}, {positive.shape}"
        )
    negative = ~positive
    positives, negatives = int(positive.sum()), int(negative.sum())
    wanted = min(int(ratio * positives), negatives) if positives else int(0.1 * background.size)
    values = background.ravel()
    if rule == "coded":
        ascending = np.sort(values * negative.ravel())
        threshold = ascending[min(wanted, values.size - 1)] if values.size else 0
        chosen = negative.ravel() & (values <= threshold)
    else:
        order = np.argsort(np.where(negative.ravel(), values, np.inf), kind="stable")
        chosen = np.zeros(values.size, bool)
        chosen[order[:wanted]] = True
        chosen &= negative.ravel()
    return np.asarray(chosen.reshape(positive.shape) | positive)


def lffd_class(
    logits: Array, face: Array, mask: Array, *, ratio: float = 5.0, rule: str = "coded"
) -> Loss:
    """Softmax cross-entropy of one branch over the mined cells, divided by their number.

    Only the gradient is the official code's: (softmax - label) · selected · mask / Σ selected. Masked
    (gray) cells can be selected; they then count in the divisor and give nothing.

    Args:
        logits: (N, 2, h, w), channel 0 the object.
        face: (N, h, w) bool, cells of exactly one object.
        mask: (N, h, w) bool, false for gray cells and cells of several objects.
        ratio, rule: see `mined`.
    """
    if logits.ndim != 4 or logits.shape[1] != 2:
        raise ShapeError(f"logits are (N, 2, h, w), not {logits.shape}")
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    selected = mined(probabilities[:, 1], face, ratio=ratio, rule=rule)
    label = np.stack([face, ~face], axis=1)
    weight = (selected & mask) / logits.dtype.type(max(1, selected.sum()))
    value = -np.where(label, logs, 0).sum(axis=1) * weight
    gradient = (probabilities - label) * weight[:, None]
    return Loss(float(value.sum()), gradient.astype(logits.dtype))


def lffd_boxes(prediction: Array, target: Array, mask: Array, *, divisor: str = "cells") -> Loss:
    """Half the squared error of the masked cells' four distances, in one branch.

    Args:
        prediction, target: (N, 4, h, w) in units of the branch's K.
        mask: (N, h, w) bool.
        divisor: "cells", 4·h·w·N, as MXNet's regression output and optimiser divide together;
            "positives", 4·Σ mask, so that a branch with few objects counts as much as one with many.
    """
    if divisor not in ("cells", "positives"):
        raise OptionError(f"divisor is 'cells' or 'positives', not {divisor!r}")
    if prediction.shape != target.shape or prediction.ndim != 4:
        raise ShapeError(
            f"prediction and target are (N, 4, h, w), not {prediction.shape} and {target.shape}"
        )
    difference = (prediction - target) * mask[:, None]
    count = prediction.size if divisor == "cells" else 4 * max(1, int(mask.sum()))
    scale = prediction.dtype.type(1 / count)
    value = float(0.5 * np.square(difference).sum() * scale)
    return Loss(value, (difference * scale).astype(prediction.dtype))


def basketnet_class(logits: Array, labels: Array, *, ratio: float = 10.0) -> Loss:
    """BasketNet's class loss: summed cross-entropy of positives and mined negatives / positives.

    Args:
        logits: (N, cells, classes), class 0 the background.
        labels: (N, cells) int; -1 for cells that do not count.
        ratio: negatives per positive of an image, hardest (highest background loss) first.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ShapeError(
            f"logits are (N, cells, classes) and labels (N, cells), not {logits.shape}, {labels.shape}"
        )
    shifted = logits - logits.max(axis=2, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    positive = labels > 0
    difficulty = np.where(labels == 0, -logs[:, :, 0], -np.inf)
    rank = np.argsort(np.argsort(-difficulty, axis=1, kind="stable"), axis=1, kind="stable")
    wanted = np.minimum(ratio * positive.sum(axis=1), (labels == 0).sum(axis=1))
    selected = positive | (rank < wanted[:, None])
    scale = logits.dtype.type(1 / max(1, int(positive.sum())))
    label = np.eye(logits.shape[2], dtype=logits.dtype)[np.maximum(labels, 0)]
    value = -(logs * label).sum(axis=2)[selected].sum() * scale
    gradient = (np.exp(logs) - label) * selected[:, :, None] * scale
    return Loss(float(value), gradient.astype(logits.dtype))


def basketnet_boxes(prediction: Array, target: Array, labels: Array) -> Loss:
    """BasketNet's box loss: summed squared error of the positive cells / their number.

    Args:
        prediction, target: (N, cells, 4). labels: (N, cells) int, positive where above 0.
    """
    positive = labels > 0
    difference = np.where(positive[:, :, None], prediction - target, 0)
    scale = prediction.dtype.type(1 / max(1, int(positive.sum())))
    value = float(np.square(difference).sum() * scale)
    return Loss(value, (2 * difference * scale).astype(prediction.dtype))
