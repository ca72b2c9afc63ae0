"""Results as the objects of other libraries, which are imported only here and only when asked for.

supervision   Detections and KeyPoints, for its annotators and trackers
pyarrow       one row a face: a table for Parquet, DuckDB, Polars
pandas        the same as a data frame
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet.optional import require

if TYPE_CHECKING:
    from refnet.detection.detector import Detections
    from refnet.faces.analyzer import Face


def supervision_detections(detections: Detections) -> Any:
    """`supervision.Detections` with xyxy, confidence, class_id and data["class_name"]."""
    supervision = require("supervision", "to_supervision()", "supervision")
    return supervision.Detections(
        xyxy=detections.boxes.astype(np.float32).reshape(-1, 4),
        confidence=detections.scores,
        class_id=detections.labels.astype(int),
        data={"class_name": np.array([detections.classes[i] for i in detections.labels], str)},
    )


MEASURES = (
    "left_eye_aspect_ratio",
    "right_eye_aspect_ratio",
    "mouth_opening",
    "interocular_distance",
    "pitch",
    "yaw",
    "roll",
)

#: Columns of the tables, in order: name and Arrow type. Landmarks are x, y, x, y, ...
FACE_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("score", "float32"), ("x1", "float32"), ("y1", "float32"), ("x2", "float32")),
    *(("y2", "float32"), ("track", "int64"), ("landmarks", "list<float32>")),
    *((name, "float32") for name in MEASURES),
)


def face_row(face: Face) -> dict[str, Any]:
    """One face as {column of `FACE_COLUMNS`: plain value or None}."""
    measures = {} if face.measures is None else face.measures.to_dict()
    points = None if face.landmarks is None else face.landmarks.reshape(-1).tolist()
    row: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), map(float, face.box), strict=True))
    row |= {"score": face.score, "track": face.track, "landmarks": points, **measures}
    return {name: row.get(name) for name, _ in FACE_COLUMNS}


def arrow_schema(columns: Sequence[tuple[str, str]]) -> Any:
    """The `pyarrow.Schema` of columns named as in `FACE_COLUMNS`."""
    arrow = require("pyarrow", "a table", "pyarrow")
    types = {"list<float32>": arrow.list_(arrow.float32())}
    return arrow.schema(
        [(name, types.get(kind) or arrow.type_for_alias(kind)) for name, kind in columns]
    )


def arrow_table(faces: Sequence[Face]) -> Any:
    """`pyarrow.Table` of the columns `FACE_COLUMNS`, one row a face."""
    arrow = require("pyarrow", "to_arrow()", "pyarrow")
    rows = [face_row(face) for face in faces]
    return arrow.Table.from_pylist(rows, schema=arrow_schema(FACE_COLUMNS))


def data_frame(faces: Sequence[Face]) -> Any:
    """`pandas.DataFrame` of the columns `FACE_COLUMNS`, one row a face."""
    pandas = require("pandas", "to_pandas()", "pandas")
    rows = [face_row(face) for face in faces]
    return pandas.DataFrame(rows, columns=[name for name, _ in FACE_COLUMNS])


def supervision_faces(faces: Sequence[Face]) -> tuple[Any, Any]:
    """`supervision.Detections`, and `supervision.KeyPoints` or None without landmarks."""
    supervision = require("supervision", "to_supervision()", "supervision")
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    tracks = [face.track for face in faces]
    detections = supervision.Detections(
        xyxy=boxes,
        confidence=np.array([face.score for face in faces], np.float32),
        class_id=np.zeros(len(faces), int),
        tracker_id=None if None in tracks else np.array(tracks, int),
        data={"class_name": np.array(["face"] * len(faces), str)},
    )
    points = [face.landmarks for face in faces if face.landmarks is not None]
    if not points or len(points) != len(faces):
        return detections, None
    return detections, supervision.KeyPoints(xy=np.stack(points))
