"""Arrays as the objects of the package supervision, for its annotators and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refnet.ops import Array
from refnet.optional import require


def supervision_detections(
    boxes: Array,
    scores: Array,
    labels: Array,
    classes: Sequence[str],
    tracks: Array | None = None,
) -> Any:
    """`supervision.Detections` with xyxy, confidence, class_id, data["class_name"] and tracker_id.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in image pixels.
        scores: (N,) in [0, 1].
        labels: (N,) indices into `classes`.
        tracks: (N,) numbers of the objects through a video; None where there are none.

    Raises:
        DependencyError: supervision is not installed.
    """
    supervision = require("supervision", "to_supervision()", "supervision")
    return supervision.Detections(
        xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        confidence=scores,
        class_id=labels.astype(int),
        tracker_id=None if tracks is None else tracks.astype(int),
        data={"class_name": np.array([classes[i] for i in labels], str)},
    )


def supervision_points(points: Array) -> Any:
    """`supervision.KeyPoints` of (N, K, 2) points, x and y in image pixels.

    Raises:
        DependencyError: supervision is not installed.
    """
    supervision = require("supervision", "to_supervision()", "supervision")
    return supervision.KeyPoints(xy=np.asarray(points))
