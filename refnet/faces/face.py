"""A face of an image, the faces of an image, and their rows in tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.boxes import clip
from refnet.faces.measures import MEASURES, FaceMeasures, measure
from refnet.faces.schemes import parts_of

#: Columns of the tables, in order: name and Arrow type. Landmarks are x, y, x, y, ...
FACE_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("score", "float32"), ("x1", "float32"), ("y1", "float32"), ("x2", "float32")),
    *(("y2", "float32"), ("track", "int64"), ("landmarks", "list<float32>")),
    *((name, "float32") for name in MEASURES),
)


@dataclass(frozen=True, eq=False)
class Face:
    """One face of an image.

    Attributes:
        box: (4,) float32, x1, y1, x2, y2 in image pixels; may leave the image, see `clipped_box`.
        score: the detector's, in [0, 1].
        landmarks: (K, 2) float32, x and y in image pixels; None where no landmarker ran.
        image_size: (height, width) of the image.
        track: number of the same face through a video; None for photos.
    """

    box: Array
    score: float
    landmarks: Array | None
    image_size: Pair
    track: int | None = None

    @property
    def clipped_box(self) -> Array:
        """The box cut to the image, (4,) float32."""
        return clip(self.box, self.image_size)

    @property
    def parts(self) -> dict[str, Array]:
        """{part, such as "left_eye": its points (n, 2)}; left and right are the image's.

        Empty without landmarks, and where their number is not a scheme with named parts.
        """
        if self.landmarks is None:
            return {}
        parts = parts_of(len(self.landmarks))
        return {name: self.landmarks[list(indices)] for name, indices in parts.items()}

    @cached_property
    def measures(self) -> FaceMeasures | None:
        """Openness of eyes and mouth, distance of the eyes, head pose; None without 98 landmarks."""
        if self.landmarks is None or len(self.landmarks) != 98:
            return None
        return measure(self.landmarks, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: box, score, and where known track, landmarks and measures."""
        found: dict[str, Any] = {
            "box": [round(float(v), 3) for v in self.box],
            "score": round(self.score, 6),
        }
        if self.track is not None:
            found["track"] = self.track
        if self.landmarks is not None:
            found["landmarks"] = [
                [round(float(x), 3), round(float(y), 3)] for x, y in self.landmarks
            ]
        if self.measures is not None:
            found["measures"] = self.measures.to_dict()
        return found

    def to_row(self) -> dict[str, Any]:
        """{column of `FACE_COLUMNS`: plain value, None where it is not known}."""
        measures = {} if self.measures is None else self.measures.to_dict()
        points = None if self.landmarks is None else self.landmarks.reshape(-1).tolist()
        row: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), map(float, self.box), strict=True))
        row |= {"score": self.score, "track": self.track, "landmarks": points, **measures}
        return {name: row.get(name) for name, _ in FACE_COLUMNS}

    def __repr__(self) -> str:
        x1, y1, x2, y2 = (round(float(v)) for v in self.box)
        points = "" if self.landmarks is None else f", {len(self.landmarks)} landmarks"
        track = "" if self.track is None else f", track {self.track}"
        return f"<Face ({x1}, {y1}, {x2}, {y2}), score {self.score:.3f}{points}{track}>"


class Faces(list[Face]):
    """The faces of one image, by falling score: a list, with conversions."""

    def to_dict(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers a face; see `Face.to_dict`."""
        return [face.to_dict() for face in self]

    def to_json(self) -> str:
        """The same as a JSON array."""
        return json.dumps(self.to_dict())

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` of one row a face. Raises DependencyError where pyarrow is absent."""
        from refnet.exchange.arrow import arrow_table

        return arrow_table([face.to_row() for face in self], FACE_COLUMNS)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of one row a face. Raises DependencyError where pandas is absent."""
        from refnet.exchange.arrow import data_frame

        return data_frame([face.to_row() for face in self], FACE_COLUMNS)

    def to_supervision(self) -> tuple[Any, Any]:
        """(`supervision.Detections`, `supervision.KeyPoints` or None without landmarks).

        Raises DependencyError where supervision is absent.
        """
        from refnet.exchange.supervision import supervision_detections, supervision_points

        tracks = [face.track for face in self]
        detections = supervision_detections(
            np.array([face.box for face in self], np.float32),
            np.array([face.score for face in self], np.float32),
            np.zeros(len(self), np.int64),
            ("face",),
            None if None in tracks else np.array(tracks, np.int64),
        )
        points = [face.landmarks for face in self if face.landmarks is not None]
        if not points or len(points) != len(self):
            return detections, None
        return detections, supervision_points(np.stack(points))
