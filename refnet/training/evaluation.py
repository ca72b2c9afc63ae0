"""Networks on photos whose true points or boxes are known: what they find, set beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refnet.detection.boxes import iou
from refnet.detection.detections import Detections
from refnet.errors import OptionError
from refnet.faces.crops import cut, square_crop
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.schemes import as_68
from refnet.media.images import read_image
from refnet.media.resize import resize
from refnet.ops import Array
from refnet.training.annotations import BoxedPhoto, LandmarkFace
from refnet.training.metrics import AveragePrecision, average_precision, matched

#: Side of an evaluated crop over the longer side of the true points' box: that of training crops.
MARGIN = 1.2
#: More crops than this go through the network in several calls, which bounds memory.
CROPS_AT_ONCE = 64
#: {group: (attribute of a box, lower, upper)} of the boxes whose recall is told apart; "side" is the longer one.
GROUPS: Mapping[str, tuple[str, float, float]] = {
    "below 20 px": ("side", 0, 20),
    "20 to 32 px": ("side", 20, 32),
    "32 to 64 px": ("side", 32, 64),
    "64 to 128 px": ("side", 64, 128),
    "128 px and more": ("side", 128, np.inf),
    "sharp": ("blur", 0, 1),
    "some blur": ("blur", 1, 2),
    "heavy blur": ("blur", 2, 3),
    "not occluded": ("occlusion", 0, 1),
    "partly occluded": ("occlusion", 1, 2),
    "heavily occluded": ("occlusion", 2, 3),
}


@dataclass(frozen=True)
class LandmarkResults:
    """Points of every face as fractions of its crop, and the crops.

    Attributes:
        crops: (F, S, S, 3) uint8 BGR.
        predicted, truth: (F, K, 2).
    """

    crops: Array
    predicted: Array
    truth: Array


def find_landmarks(
    faces: Sequence[LandmarkFace], landmarker: FaceLandmarker, margin: float = MARGIN
) -> LandmarkResults:
    """Every face cut by its true points' box times `margin`, as in training, with points found in it.

    98 points that were found are compared with 68 true ones as the 68 of 300-W.

    Raises:
        OptionError: the network's points cannot be compared with the true ones.
    """
    side = landmarker.model.graph.input_shape[1]
    crops, truth = [], []
    for face in faces:
        image = read_image(face.image)
        box = np.concatenate([face.points.min(axis=0), face.points.max(axis=0)])
        height, width = image.shape[:2]
        square = face.cropped and height == width
        crop = (0, 0, width) if square else square_crop(box, margin)
        crops.append(cut(image, crop, side))
        truth.append((face.points - np.array(crop[:2])) / crop[2])
    pixels = np.stack(crops)
    predicted = np.concatenate(
        [
            landmarker.predict_crops(pixels[i : i + CROPS_AT_ONCE])
            for i in range(0, len(pixels), CROPS_AT_ONCE)
        ]
    )
    points = np.stack(truth)
    if predicted.shape[1] == 98 and points.shape[1] == 68:
        predicted = as_68(predicted)
    if predicted.shape != points.shape:
        raise OptionError(
            f"the network finds {predicted.shape[1]} points and the data has {points.shape[1]}; 98 can "
            "be compared with 98 or 68"
        )
    return LandmarkResults(pixels, predicted, points)


def at_long_side(photo: BoxedPhoto, long_side: int) -> tuple[Array, BoxedPhoto]:
    """The image resized to this longer side, uint8 (H, W, 3) BGR, and the photo with its boxes on it.

    Raises:
        ImageError: the photo cannot be read.
    """
    image = read_image(photo.image)
    scale = long_side / max(image.shape[:2])
    resized = resize(image, scale=scale, averaged=scale < 1)
    return resized, replace(photo, boxes=photo.boxes * scale)


@dataclass(frozen=True)
class ClassResults:
    """What was found of one class, photo by photo, and the truth.

    Attributes:
        name: the class.
        found: for every photo boxes (D, 4) xyxy and scores (D,), by falling score.
        truths: for every photo the true boxes (T, 4) xyxy.
        ignored: for every photo (T,) bool, true boxes that need not be found.
        attributes: for every photo {name: (T,)} of the true boxes, "side" among them; empty where none is
            known.
    """

    name: str
    found: Sequence[tuple[Array, Array]]
    truths: Sequence[Array]
    ignored: Sequence[Array]
    attributes: Sequence[Mapping[str, Array]] = ()

    @property
    def true_boxes(self) -> int:
        """The number of true boxes that should be found."""
        return int(sum((~mask).sum() for mask in self.ignored))

    def average_precision(self, *, overlap: float = 0.5, rule: str = "area") -> AveragePrecision:
        """As `refnet.training.metrics.average_precision`."""
        return average_precision(
            self.found, self.truths, overlap=overlap, ignored=self.ignored, rule=rule
        )

    def above(self, threshold: float, *, overlap: float = 0.5) -> tuple[int, int]:
        """(true boxes found, false boxes) of scores strictly above `threshold`."""
        hits = wrong = 0
        for (boxes, scores), truth, mask in zip(self.found, self.truths, self.ignored, strict=True):
            hit, dropped = matched(boxes[scores > threshold], truth, overlap=overlap, ignored=mask)
            hits += int(hit.sum())
            wrong += int((~hit & ~dropped).sum())
        return hits, wrong

    def recall(self, false_boxes: float, *, overlap: float = 0.5) -> tuple[float, float]:
        """(recall, lowest score) where at most `false_boxes` a photo are false: detectors compared at one cost."""
        curve = self.average_precision(overlap=overlap)
        false = np.arange(1, len(curve.recall) + 1) * (1 - curve.precision)
        allowed = np.flatnonzero(false <= false_boxes * len(self.found))
        if not len(allowed):
            return 0.0, np.inf
        return float(curve.recall[allowed[-1]]), float(curve.scores[allowed[-1]])

    def recall_by_group(self, least: float, *, overlap: float = 0.5) -> dict[str, float]:
        """{group of `GROUPS`: share of its true boxes that a score of at least `least` finds}.

        Groups of which there is no box are left out.
        """
        seen = [
            _seen(boxes[scores >= least], truth, mask, overlap)
            for (boxes, scores), truth, mask in zip(
                self.found, self.truths, self.ignored, strict=True
            )
        ]
        recalls = {}
        for group, (name, lower, upper) in GROUPS.items():
            members = [
                (own[name] >= lower) & (own[name] < upper) & ~mask
                for own, mask in zip(self.attributes, self.ignored, strict=bool(self.attributes))
                if name in own
            ]
            total = sum(int(mask.sum()) for mask in members)
            if total and len(members) == len(seen):
                hits = sum(int((s & m).sum()) for s, m in zip(seen, members, strict=True))
                recalls[group] = hits / total
        return recalls


def _seen(boxes: Array, truth: Array, ignored: Array, overlap: float) -> Array:
    """(T,) bool: the true boxes that one of the boxes (D, 4), by falling score, hits."""
    hit, _ = matched(boxes, truth, overlap=overlap, ignored=ignored)
    seen = np.zeros(len(truth), bool)
    if hit.any():  # a hit takes the true box of its best IoU
        seen[iou(boxes[hit], truth).argmax(axis=1)] = True
    return seen


def results_by_class(
    photos: Sequence[BoxedPhoto], found: Sequence[Detections], *, smallest: float = 0.0
) -> list[ClassResults]:
    """The results of every class that the detector knows, in its order.

    Args:
        photos: with their true boxes.
        found: what was found in each of them.
        smallest: true boxes whose longer side is shorter, in pixels, need not be found.
    """
    classes = found[0].classes if found else ()
    return [_of_class(photos, found, i, name, smallest) for i, name in enumerate(classes)]


def _of_class(
    photos: Sequence[BoxedPhoto],
    found: Sequence[Detections],
    label: int,
    name: str,
    smallest: float,
) -> ClassResults:
    truths, ignored, ranked, attributes = [], [], [], []
    for photo, detections in zip(photos, found, strict=True):
        own = np.array([c == name for c in photo.classes], bool)
        boxes = photo.boxes[own]
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        truths.append(boxes)
        ignored.append(photo.ignored[own] | (sides < smallest))
        attributes.append({"side": sides} | {n: a[own] for n, a in photo.attributes.items()})
        chosen = detections[detections.labels == label]
        ranked.append((chosen.boxes, chosen.scores))
    return ClassResults(name, ranked, truths, ignored, attributes)


def missed_and_false(
    photo: BoxedPhoto, detections: Detections, *, overlap: float = 0.5, smallest: float = 0.0
) -> tuple[int, int]:
    """(true boxes that were missed, false boxes) in one photo, whatever their class.

    True boxes whose longer side is shorter than `smallest` need not be found.
    """
    sides = (photo.boxes[:, 2:] - photo.boxes[:, :2]).max(axis=1, initial=0)
    ignored = photo.ignored | (sides < smallest)
    hit, dropped = matched(detections.boxes, photo.boxes, overlap=overlap, ignored=ignored)
    missed = int((~ignored).sum()) - int(hit.sum())
    return missed, int((~hit & ~dropped).sum())
