"""What was found in an image: candidates before suppression, detections after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from refnet.arguments import unknown_attribute
from refnet.arrays import Array, Pair
from refnet.media.markup import overview

#: The five points that face detectors find; left and right are the image's.
KEYPOINTS = ("left_eye", "right_eye", "nose_tip", "left_mouth_corner", "right_mouth_corner")

#: Columns of the tables, in order: name and Arrow type. Key points are x, y, x, y, ...
DETECTION_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("class", "string"), ("score", "float32"), ("x1", "float32"), ("y1", "float32")),
    *(("x2", "float32"), ("y2", "float32"), ("keypoints", "list<float32>")),
)
#: A repr lists so many detections.
SHOWN = 5
#: What other libraries call what is here.
ELSEWHERE: Mapping[str, str] = {
    "bboxes": "boxes",
    "class_id": "labels",
    "cls": "labels",
    "conf": "scores",
    "confidence": "scores",
    "kps": "keypoints",
    "landmarks": "keypoints, or the landmarks of a FaceAnalyzer",
    "names": "classes",
    "orig_shape": "image_size",
    "to_dict": "to_dicts",
    "to_df": "to_pandas",
    "xyxy": "boxes",
}


@dataclass(frozen=True, eq=False)
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

    def where(self, mask: Array) -> Candidates:
        """The candidates at which `mask` (N,) holds."""
        points = None if self.keypoints is None else self.keypoints[mask]
        return Candidates(self.boxes[mask], self.scores[mask], self.labels[mask], points)

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


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in one image, by falling score.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in image pixels, inside the image.
        scores: (N,) float32, in [0, 1].
        labels: (N,) int64, indices into `classes`.
        classes: names of what was looked for.
        image_size: (height, width) of the image.
        keypoints: (N, 5, 2) float32, x and y in image pixels, in the order of `KEYPOINTS`; None from
            networks that find none.
        uncut: (N, 4) float32, the boxes as predicted, which may leave the image: what the crop of a face
            at the border is made of, in `refnet.FaceLandmarker`.
    """

    boxes: Array
    scores: Array
    labels: Array
    classes: tuple[str, ...]
    image_size: Pair
    keypoints: Array | None = None
    uncut: Array = field(default=cast(Array, None), repr=False)  # by default `boxes`

    def __post_init__(self) -> None:
        if self.uncut is None:
            object.__setattr__(self, "uncut", self.boxes)

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
            uncut=self.uncut[index],
        )

    def to_dicts(self) -> list[dict[str, Any]]:
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

    def to_json(self) -> str:
        """The same as a JSON array."""
        return json.dumps(self.to_dicts())

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` of one row a detection. Raises DependencyError where pyarrow is absent."""
        from refnet.exchange.arrow import arrow_table

        return arrow_table(detection_rows(self), DETECTION_COLUMNS)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of one row a detection. Raises DependencyError where pandas is absent."""
        from refnet.exchange.arrow import data_frame

        return data_frame(detection_rows(self), DETECTION_COLUMNS)

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`.

        Raises:
            DependencyError: supervision is not installed.
        """
        from refnet.exchange.supervision import supervision_detections

        return supervision_detections(self.boxes, self.scores, self.labels, self.classes)

    def __repr__(self) -> str:
        height, width = self.image_size
        lines = [f"<Detections of {len(self)} in {width}×{height}>"]
        for box, score, name in self[:SHOWN]:
            lines.append(f"  {name} {score:.3f} at {', '.join(str(round(float(v))) for v in box)}")
        if len(self) > SHOWN:
            lines.append(f"  and {len(self) - SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table and a drawing, for notebooks."""
        height, width = self.image_size
        rows = [
            [name, f"{score:.3f}", " ".join(str(round(float(v))) for v in box)]
            for box, score, name in self
        ]
        return overview(
            f"{len(self)} found in {width}×{height}",
            ("class", "score", "box"),
            rows,
            size=self.image_size,
            boxes=self.boxes,
            points=[None] * len(self) if self.keypoints is None else list(self.keypoints),
        )

    if not TYPE_CHECKING:  # so that type checkers report names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, ELSEWHERE)


def detection_rows(found: Detections) -> list[dict[str, Any]]:
    """{column of `DETECTION_COLUMNS`: plain value, None where it is not known} of every detection."""
    points = [None] * len(found) if found.keypoints is None else found.keypoints
    return [
        dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
        | {"class": name, "score": score}
        | {"keypoints": None if five is None else five.reshape(-1).tolist()}
        for (box, score, name), five in zip(found, points, strict=True)
    ]
