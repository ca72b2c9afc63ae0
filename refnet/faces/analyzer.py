"""From an image to faces: a detector and a landmarker as one call."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from refnet.detection.detector import USUAL_NETWORK as DETECTOR
from refnet.detection.detector import Detections, FaceDetector
from refnet.faces.landmarks import LARGEST_CROP, FaceLandmarker
from refnet.faces.landmarks import USUAL_NETWORK as LANDMARKER
from refnet.faces.measures import FaceMeasures, measure
from refnet.faces.schemes import WFLW_98
from refnet.media.images import as_image, read_image
from refnet.model import Model
from refnet.ops import Array, Pair

#: Columns of a face in a table, in order: name and Arrow type. Landmarks are x, y, x, y, ...
FACE_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("score", "float32"), ("x1", "float32"), ("y1", "float32"), ("x2", "float32")),
    *(("y2", "float32"), ("track", "int64"), ("landmarks", "list<float32>")),
    *((field.name, "float32") for field in fields(FaceMeasures) if field.name != "pose"),
    *(("pitch", "float32"), ("yaw", "float32"), ("roll", "float32")),
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
        height, width = self.image_size
        return np.clip(self.box, 0, np.array([width, height] * 2, np.float32))

    @property
    def parts(self) -> dict[str, Array]:
        """{part, such as "left_eye": its points (n, 2)}; left and right are the image's.

        Empty without landmarks, and where their number is not a scheme with named parts.
        """
        if self.landmarks is None or len(self.landmarks) != 98:
            return {}
        return {name: self.landmarks[list(indices)] for name, indices in WFLW_98.items()}

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
        """{column of `FACE_COLUMNS`: plain value, or None where it does not apply}."""
        row: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), map(float, self.box), strict=True))
        row |= {"score": self.score, "track": self.track}
        if self.landmarks is not None:
            row["landmarks"] = self.landmarks.reshape(-1).tolist()
        if self.measures is not None:
            row |= self.measures.to_dict()
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


class FaceAnalyzer:
    """Finds the faces of an image and the landmarks of each: `for face in analyzer(image)`.

    Args:
        detector: a `FaceDetector`, or what it takes as its model; the one that refnet comes with by
            default. One that you make yourself should have clip=False: a box cut at the border would
            squeeze the crop of that face.
        landmarker: a `FaceLandmarker`, or what it takes as its model, which then runs in two passes;
            the one that refnet comes with by default; None finds boxes alone.
        detector_weights, landmarker_weights: as in `refnet.load`, where the former are names.
        options: backend and threads, as in `refnet.load`, for models made here.

    Raises:
        WeightsError: a name was given without weights, and refnet has none released for it.
    """

    def __init__(
        self,
        detector: FaceDetector | Model | str | os.PathLike[str] = DETECTOR,
        landmarker: FaceLandmarker | Model | str | os.PathLike[str] | None = LANDMARKER,
        *,
        detector_weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        landmarker_weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(detector, FaceDetector):
            detector = FaceDetector(detector, detector_weights, clip=False, **options)
        if landmarker is not None and not isinstance(landmarker, FaceLandmarker):
            landmarker = FaceLandmarker(landmarker, landmarker_weights, passes=2, **options)
        self.detector, self.landmarker = detector, landmarker

    def __call__(self, image: Any, *, rgb: bool = False) -> Faces:
        """The faces of one image, by falling score.

        The crops of all faces go through the landmarker as one batch.

        Args:
            image: uint8 (H, W, 3) in BGR order, a PIL image, or the path of a file.
            rgb: the array's channels are in the order R, G, B.

        Raises:
            ImageError: it is no image, or the file cannot be read.
        """
        return self.batch([image], rgb=rgb)[0]

    def batch(self, images: Iterable[Any], *, rgb: bool = False) -> list[Faces]:
        """The faces of each image: images of one size are detected together, and all crops of all
        images go through the landmarker as one batch.

        Raises:
            As a call.
        """
        pixels = [
            read_image(image) if isinstance(image, str | os.PathLike) else as_image(image, rgb=rgb)
            for image in images
        ]
        found = [
            self._with_usable_crops(detections, image.shape)
            for detections, image in zip(self.detector.detect_batch(pixels), pixels, strict=True)
        ]
        points = self._landmarks(pixels, found)
        return [
            Faces(
                Face(
                    box=box,
                    score=float(score),
                    landmarks=None if landmarks is None else landmarks[i],
                    image_size=(image.shape[0], image.shape[1]),
                )
                for i, (box, score) in enumerate(
                    zip(detections.boxes, detections.scores, strict=True)
                )
            )
            for detections, landmarks, image in zip(found, points, pixels, strict=True)
        ]

    def _with_usable_crops(self, found: Detections, shape: Sequence[int]) -> Detections:
        """Without boxes so much larger than the image that they cannot be a face in it."""
        if self.landmarker is None:
            return found
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)
        limit = LARGEST_CROP * max(shape[:2])
        return found[sides * self.landmarker.margin + 1 <= limit]

    def _landmarks(
        self, images: Sequence[Array], found: Sequence[Detections]
    ) -> Sequence[Array | None]:
        """Per image, the landmarks of its boxes (F, K, 2)."""
        if self.landmarker is None:
            return [None] * len(images)
        boxes = [detections.boxes for detections in found]
        return [found.points for found in self.landmarker.predict_batch(images, boxes)]
