"""Results as the objects of other libraries, which are imported only here and only when asked for.

supervision   Detections and KeyPoints, for its annotators and trackers
pyarrow       one row a face: a table for Parquet, DuckDB, Polars
pandas        the same as a data frame
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet.errors import DependencyError
from refnet.faces.face import FACE_COLUMNS

if TYPE_CHECKING:
    from refnet.detection.detections import Detections
    from refnet.faces.face import Face


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """An optional package's module.

    Raises:
        DependencyError: it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{purpose} needs {package}, which cannot be imported here ({error}); install it with "
            f"pip install {package}"
        ) from error


def supervision_detections(detections: Detections) -> Any:
    """`supervision.Detections` with xyxy, confidence, class_id and data["class_name"]."""
    supervision = optional("supervision", "supervision", "to_supervision()")
    return supervision.Detections(
        xyxy=detections.boxes.astype(np.float32).reshape(-1, 4),
        confidence=detections.scores,
        class_id=detections.labels.astype(int),
        data={"class_name": np.array([detections.classes[i] for i in detections.labels], str)},
    )


def arrow_schema(columns: Sequence[tuple[str, str]]) -> Any:
    """The `pyarrow.Schema` of columns named as in `FACE_COLUMNS`."""
    arrow = optional("pyarrow", "pyarrow", "a table")
    types = {"list<float32>": arrow.list_(arrow.float32())}
    return arrow.schema(
        [(name, types.get(kind) or arrow.type_for_alias(kind)) for name, kind in columns]
    )


def arrow_table(faces: Sequence[Face]) -> Any:
    """`pyarrow.Table` of the columns `FACE_COLUMNS`, one row a face."""
    arrow = optional("pyarrow", "pyarrow", "to_arrow()")
    rows = [face.to_row() for face in faces]
    return arrow.Table.from_pylist(rows, schema=arrow_schema(FACE_COLUMNS))


def data_frame(faces: Sequence[Face]) -> Any:
    """`pandas.DataFrame` of the columns `FACE_COLUMNS`, one row a face."""
    pandas = optional("pandas", "pandas", "to_pandas()")
    rows = [face.to_row() for face in faces]
    return pandas.DataFrame(rows, columns=[name for name, _ in FACE_COLUMNS])


def supervision_faces(faces: Sequence[Face]) -> tuple[Any, Any]:
    """`supervision.Detections`, and `supervision.KeyPoints` or None without landmarks."""
    supervision = optional("supervision", "supervision", "to_supervision()")
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
