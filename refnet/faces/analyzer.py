"""From an image to faces: a detector and a landmarker as one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from refnet.arguments import CalledWithImages, explicit
from refnet.arrays import Array
from refnet.detection.detections import Detections
from refnet.detection.detector import FACE, Detector, FaceDetector, search_reduced
from refnet.errors import OptionError
from refnet.faces.crops import LARGEST_CROP
from refnet.faces.face import Face, Faces
from refnet.faces.landmarks import FaceLandmarker, Landmarks
from refnet.media.images import Image, as_image, as_images
from refnet.model import Model, Net
from refnet.networks.defaults import DETECTOR, LANDMARKER


class FaceAnalyzer(CalledWithImages):
    """Finds the faces of an image and the landmarks of each: `for face in analyzer(image)`.

    Args:
        detector: a `FaceDetector`, or what it takes as its model; the one that refnet comes with by
            default.
        landmarker: a `FaceLandmarker`, or what it takes as its model; the one that refnet comes with by
            default; None finds boxes alone.
        threshold, min_size: of the detector that is made here, see `Detector`.
        threads, backend: as in `refnet.load`, of the models that are made here.

    Raises:
        OptionError: the detector finds no faces or the landmarker no landmarks, or an argument is out of
            range or is given besides the object that it would be of.
        WeightsError: a name was given, and refnet has no weights released for it.
    """

    @explicit
    def __init__(
        self,
        detector: FaceDetector | Net = DETECTOR,
        landmarker: FaceLandmarker | Net | None = LANDMARKER,
        *,
        threshold: float | None = None,
        min_size: int | None = None,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        made: dict[str, Any] = {"threads": threads, "backend": backend}
        if isinstance(detector, FaceDetector):
            if threshold is not None or min_size is not None:
                raise OptionError(
                    "a FaceDetector has its own threshold and min_size; set them there"
                )
        elif isinstance(detector, Detector):
            raise OptionError(
                f"this Detector finds {', '.join(detector.classes)}; faces are found by a FaceDetector"
            )
        else:
            own = {} if isinstance(detector, Model) else made
            detector = FaceDetector(detector, threshold=threshold, min_size=min_size, **own)
        if landmarker is not None and not isinstance(landmarker, FaceLandmarker):
            own = {} if isinstance(landmarker, Model) else made
            landmarker = FaceLandmarker(landmarker, **own)
        self.detector, self.landmarker = detector, landmarker

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detector!r}, {self.landmarker!r})"

    @explicit
    def __call__(self, image: Image, *, rgb: bool = False) -> Faces:
        """The faces of one image, by falling score.

        The crops of all faces go through the landmarker as one batch.

        Args:
            image: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in BGR order or
                (H, W).
            rgb: the array's channels are in the order R, G, B.

        Raises:
            FileError: there is no such file. ImageError: it is no image.
        """
        found = search_reduced(self.detector, image)
        if found is not None and self.landmarker is None:
            return self.described([], [found])[0]
        if found is not None and not len(self.usable(found)):
            return Faces()
        pixels = as_image(image, rgb=rgb)  # all of a photo with faces, for their crops
        return self.batch([pixels])[0] if found is None else self.described([pixels], [found])[0]

    @explicit
    def batch(self, images: Iterable[Image], *, rgb: bool = False) -> list[Faces]:
        """The faces of each image: images of one size are detected together, and all crops of all
        images go through the landmarker as one batch.

        Raises:
            RefnetError: as a call.
        """
        pixels = as_images(images, rgb=rgb)
        return self.described(pixels, self.detector.batch(pixels))

    def described(self, images: Sequence[Array], found: Sequence[Detections]) -> list[Faces]:
        """The faces of each of `images`, uint8 (H, W, 3) BGR, that were `found` in it, with landmarks."""
        found = [self.usable(one) for one in found]
        points = self._landmarks(images, found)
        return [
            Faces(
                Face(
                    box=box,
                    score=float(score),
                    landmarks=None if landmarks is None else landmarks[i],
                    landmark_confidence=None if landmarks is None else landmarks.confidence_at(i),
                    image_size=detections.image_size,
                    keypoints=None if detections.keypoints is None else detections.keypoints[i],
                )
                for i, (box, score) in enumerate(
                    zip(detections.boxes, detections.scores, strict=True)
                )
            )
            for detections, landmarks in zip(found, points, strict=True)
        ]

    def usable(self, found: Detections) -> Detections:
        """The faces alone, without boxes so much larger than the image that they cannot be one in it."""
        found = found[found.labels == found.classes.index(FACE)]
        if self.landmarker is None:
            return found
        sides = (found.uncut[:, 2:] - found.uncut[:, :2]).max(axis=1, initial=0)
        limit = LARGEST_CROP * max(found.image_size)
        return found[sides * self.landmarker.margin + 1 <= limit]

    def _landmarks(
        self, images: Sequence[Array], found: Sequence[Detections]
    ) -> Sequence[Landmarks | None]:
        """Per image, the landmarks of its boxes."""
        if self.landmarker is None:
            return [None] * len(found)
        return self.landmarker.batch(images, found)
