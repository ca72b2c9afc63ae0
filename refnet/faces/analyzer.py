"""From an image to faces: a detector and a landmarker as one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refnet.arrays import Array
from refnet.detection.detections import Detections
from refnet.detection.detector import FaceDetector
from refnet.faces.crops import LARGEST_CROP
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.media.images import as_image, read_image
from refnet.model import Model
from refnet.networks.defaults import DETECTOR, LANDMARKER


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
