"""Results as the objects of other libraries, which are imported only here and only when asked for.

supervision   Detections and KeyPoints, for its annotators and trackers
pyarrow       one row a face: a table for Parquet, DuckDB, Polars
pandas        the same as a data frame
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet.errors import DependencyError

if TYPE_CHECKING:
    from refnet.detection import Detections


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
