"""How good landmarks and detections are: NME, CED, AUC, failure rate, average precision.

Sources: WFLW's protocol as the PFLD repositories compute it; PASCAL VOC's devkit; WIDER FACE's
evaluation code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refnet.detection.boxes import iou
from refnet.errors import OptionError, ShapeError
from refnet.faces.schemes import EYE_CORNERS, EYES
from refnet.ops import Array

NORMALISATIONS = ("inter-ocular", "inter-pupil", "box")


def normalisers(target: Array, normalisation: str = "inter-ocular") -> Array:
    """(N,) what each face's errors are divided by.

    Args:
        target: (N, K, 2) true points.
        normalisation: "inter-ocular", the distance of the outer eye corners (98, 68 or 29 points);
            "inter-pupil", that of the eyes' middles (98 or 68); "box", √(width · height) of the
            points' bounding box.

    Raises:
        OptionError: the normalisation is unknown, or not defined for this number of points.
        ShapeError: a face has no extent to divide by.
    """
    target = _points(target)
    count = target.shape[1]
    if normalisation == "box":
        extent = target.max(axis=1) - target.min(axis=1)
        sizes = np.sqrt(extent[:, 0] * extent[:, 1])
    elif normalisation == "inter-ocular" and count in EYE_CORNERS:
        left, right = EYE_CORNERS[count]
        sizes = np.linalg.norm(target[:, left] - target[:, right], axis=1)
    elif normalisation == "inter-pupil" and count in EYES:
        first, second = (target[:, list(eye)].mean(axis=1) for eye in EYES[count])
        sizes = np.linalg.norm(first - second, axis=1)
    elif normalisation in NORMALISATIONS:
        known = EYE_CORNERS if normalisation == "inter-ocular" else EYES
        raise OptionError(
            f"{normalisation} distance is defined for {', '.join(map(str, known))} points, not for "
            f"{count}; use normalisation='box'"
        )
    else:
        raise OptionError(
            f"normalisation is one of {', '.join(NORMALISATIONS)}, not {normalisation!r}"
        )
    if not (sizes > 0).all():
        raise ShapeError(f"face {int(np.argmin(sizes))} has points without extent to divide by")
    return np.asarray(sizes)


def nme(prediction: Array, target: Array, normalisation: str = "inter-ocular") -> Array:
    """Normalised mean error of each face, (N,) float64: mean distance of its points / normaliser.

    Args:
        prediction, target: (N, K, 2) in one unit, any.
        normalisation: see `normalisers`.
    """
    prediction, target = _points(prediction), _points(target)
    if prediction.shape != target.shape:
        raise ShapeError(
            f"prediction and target have one shape, not {prediction.shape} and {target.shape}"
        )
    distance = np.linalg.norm(prediction - target, axis=2).mean(axis=1)
    return np.asarray(distance / normalisers(target, normalisation))


def _points(points: Array) -> Array:
    points = np.asarray(points, np.float64)
    if points.ndim != 3 or points.shape[2] != 2:
        raise ShapeError(f"points are (N, K, 2), not {points.shape}")
    return points


@dataclass(frozen=True)
class ErrorDistribution:
    """The cumulative error distribution of a set of faces, up to a limit.

    Attributes:
        thresholds: (1001,) errors from 0 to `limit`.
        fractions: (1001,) share of the faces with an error of at most the threshold.
        limit: a face with a larger error is a failure.
    """

    thresholds: Array
    fractions: Array
    limit: float

    @property
    def auc(self) -> float:
        """Area under the curve over `limit`, by Simpson's rule: 1 is perfect."""
        y = self.fractions
        step = self.thresholds[-1] / (len(y) - 1)
        area = step / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum())
        return float(area / self.limit)

    @property
    def failure_rate(self) -> float:
        """Share of the faces with an error above `limit`."""
        return float(1 - self.fractions[-1])


def cumulative_error(errors: Array, limit: float = 0.1) -> ErrorDistribution:
    """The CED of per-face errors (N,) at 1001 thresholds from 0 to `limit`.

    Raises:
        ShapeError: there are no errors.
    """
    errors = np.sort(np.asarray(errors, np.float64).ravel())
    if not len(errors):
        raise ShapeError("no faces to evaluate")
    thresholds = np.linspace(0, limit, 1001)
    fractions = np.searchsorted(errors, thresholds, side="right") / len(errors)
    return ErrorDistribution(thresholds, fractions, limit)


RULES = ("area", "eleven-points", "wider")


@dataclass(frozen=True)
class AveragePrecision:
    """Precision and recall of ranked detections.

    Attributes:
        value: the average precision, 0 to 1; NaN where there are no true boxes.
        recall, precision: (D,) after each detection, by falling score ("wider": at 1,000 thresholds).
        scores: (D,) the detections' scores ("wider": the thresholds).
    """

    value: float
    recall: Array
    precision: Array
    scores: Array


def matched(
    boxes: Array, truth: Array, *, overlap: float = 0.5, ignored: Array | None = None
) -> tuple[Array, Array]:
    """Which of one image's detections hit a true box: (hit (D,), dropped (D,)), bool.

    By falling order, each detection takes the true box of its best IoU; if that is at least `overlap`
    and the box is still free it is a hit, otherwise a false alarm. A detection whose best box is
    ignored, hit before or not, is dropped: neither one nor the other.

    Args:
        boxes: (D, 4) xyxy, by falling score.
        truth: (T, 4) xyxy.
        ignored: (T,) bool, true boxes that need not be found.
    """
    boxes, truth = np.reshape(boxes, (-1, 4)), np.reshape(truth, (-1, 4))
    ignored = np.zeros(len(truth), bool) if ignored is None else np.asarray(ignored, bool)
    hit, dropped = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
    if not len(truth):
        return hit, dropped
    overlaps = iou(boxes, truth)
    taken = np.zeros(len(truth), bool)
    for i, best in enumerate(overlaps.argmax(axis=1)):
        if overlaps[i, best] < overlap:
            continue
        if ignored[best]:
            dropped[i] = True
        elif not taken[best]:
            hit[i] = taken[best] = True
    return hit, dropped


def average_precision(
    detections: Sequence[tuple[Array, Array]],
    truths: Sequence[Array],
    *,
    overlap: float = 0.5,
    ignored: Sequence[Array] | None = None,
    rule: str = "area",
) -> AveragePrecision:
    """Average precision of one class over a set of images.

    Args:
        detections: for every image boxes (D, 4) xyxy and scores (D,), in any order.
        truths: for every image the true boxes (T, 4).
        overlap: smallest IoU of a hit.
        ignored: for every image (T,) bool: true boxes that need not be found (VOC's "difficult").
        rule: "area", under the interpolated curve (VOC from 2010 on, COCO's idea); "eleven-points",
            the mean at recalls 0, 0.1, ... 1 (VOC 2007); "wider", as WIDER FACE's code: 1,000
            thresholds over scores scaled to [0, 1] by the whole set's range, and an unmatched hit on
            a box found before is dropped from the proposals rather than counted as false.

    Raises:
        OptionError: the rule is unknown. ShapeError: the lists differ in length.
    """
    if rule not in RULES:
        raise OptionError(f"rule is one of {', '.join(RULES)}, not {rule!r}")
    if len(detections) != len(truths):
        raise ShapeError(f"{len(detections)} images of detections, {len(truths)} of true boxes")
    masks = [np.zeros(len(t), bool) for t in truths] if ignored is None else list(ignored)
    total = sum(int((~np.asarray(m, bool)).sum()) for m in masks)
    scores, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for (boxes, own), truth, mask in zip(detections, truths, masks, strict=True):
        order = np.argsort(-np.asarray(own, np.float64), kind="stable")
        ranked = np.reshape(boxes, (-1, 4))[order]
        hit, dropped = matched(ranked, truth, overlap=overlap, ignored=mask)
        if rule == "wider":
            dropped |= _repeated(ranked, truth, overlap, hit)
        scores.append(np.asarray(own, np.float64)[order][~dropped])
        hits.append(hit[~dropped])
    score, hit = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    recall = np.cumsum(hit) / max(1, total)
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    if rule == "wider":
        score, recall, precision = _at_thresholds(score, hit, total)
    value = _area(recall, precision) if rule != "eleven-points" else _eleven(recall, precision)
    return AveragePrecision(value if total else float("nan"), recall, precision, score)


def _repeated(boxes: Array, truth: Array, overlap: float, hit: Array) -> Array:
    """Detections of a true box that a better one has found."""
    if not len(truth) or not len(boxes):
        return np.zeros(len(boxes), bool)
    return np.asarray((iou(boxes, truth).max(axis=1) >= overlap) & ~hit)


def _at_thresholds(score: Array, hit: Array, total: int) -> tuple[Array, Array, Array]:
    """(thresholds, recall, precision) at 1 - 1/1000, 1 - 2/1000, ... 0 of the scores' range."""
    steps = 1 - np.arange(1, 1001) / 1000
    low, high = (score[-1], score[0]) if len(score) else (0.0, 1.0)
    thresholds = low + steps * (high - low)
    counts = np.searchsorted(-score, -thresholds, side="right")
    found = np.concatenate([[0], np.cumsum(hit)])[counts]
    return thresholds, found / max(1, total), found / np.maximum(counts, 1)


def _area(recall: Array, precision: Array) -> float:
    """Area under the curve whose precision is made to fall: the best at any higher recall."""
    r = np.concatenate([[0.0], recall, [1.0]])
    p = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(p[::-1])[::-1]
    return float(np.sum(np.diff(r) * envelope[1:]))


def _eleven(recall: Array, precision: Array) -> float:
    levels = np.arange(11) / 10
    best = [precision[recall >= level - 1e-12].max(initial=0.0) for level in levels]
    return float(np.mean(best))
