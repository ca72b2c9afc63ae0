"""What was found in an image: candidates before suppression, detections after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.detection import boxes as rectangles

#: The five points that face detectors find; left and right are the image's.
KEYPOINTS = ("left_eye", "right_eye", "nose_tip", "left_mouth_corner", "right_mouth_corner")


@dataclass(frozen=True)
class Candidates:
    """Boxes before suppression, in the order of the network's outputs: by branch, then row by row.

    Attributes:
        boxes: (N, 4) float64, xyxy.
        scores: (N,) float32.
        labels: (N,) int64, index of the class.
        keypoints: (N, 5, 2) float64, x and y, in the order of `KEYPOINTS`; None from networks that
            find none.
    """

    boxes: Array
    scores: Array
    labels: Array
    keypoints: Array | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def none(cls) -> Candidates:
        """No candidate at all."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All candidates of `parts`, in order. Key points stay where every part has them."""
        if not parts:
            return cls.none()
        points = [p.keypoints for p in parts if p.keypoints is not None]
        return cls(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate(points) if len(points) == len(parts) else None,
        )


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, by falling score.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in image pixels; may leave the image.
        scores: (N,) float32, in [0, 1].
        labels: (N,) int64, indices into `classes`.
        classes: names of what was looked for.
        keypoints: (N, 5, 2) float32, x and y in image pixels, in the order of `KEYPOINTS`; None from
            networks that find none.
    """

    boxes: Array
    scores: Array
    labels: Array
    classes: tuple[str, ...] = ("face",)
    keypoints: Array | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[tuple[Array, float, str]]:
        """(box (4,), score, class) of every detection."""
        for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True):
            yield box, float(score), self.classes[label]

    def __getitem__(self, index: Any) -> Detections:
        """The detections at `index`: a slice, a mask, indices or one index."""
        index = [index] if isinstance(index, int | np.integer) else index
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            keypoints=None if self.keypoints is None else self.keypoints[index],
        )

    def clip(self, shape: Sequence[int]) -> Detections:
        """The same with boxes cut to an image of `shape` (H, W, ...); key points stay."""
        return replace(self, boxes=rectangles.clip(self.boxes, shape))

    def to_dict(self) -> list[dict[str, Any]]:
        """One dictionary a detection, of plain numbers: class, score, box, and key points if there are."""
        found: list[dict[str, Any]] = [
            {
                "class": name,
                "score": round(score, 6),
                "box": [round(float(v), 3) for v in box],
            }
            for box, score, name in self
        ]
        if self.keypoints is not None:
            for one, points in zip(found, self.keypoints, strict=True):
                one["keypoints"] = [[round(float(x), 3), round(float(y), 3)] for x, y in points]
        return found

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`.

        Raises:
            DependencyError: supervision is not installed.
        """
        from refnet.exchange.supervision import supervision_detections

        return supervision_detections(self.boxes, self.scores, self.labels, self.classes)
