"""A face of an image, the faces of an image, and their rows in tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from refnet.arguments import explicit, unknown_attribute
from refnet.arrays import Array, Pair
from refnet.errors import OptionError
from refnet.faces.alignment import FIVE_OF_98, aligned
from refnet.faces.head_pose import HeadPose
from refnet.faces.hiding import grown, hidden
from refnet.faces.measures import MEASURES, FaceMeasures, measure, measure_all
from refnet.faces.schemes import parts_of
from refnet.media.images import Image, as_image
from refnet.media.markup import overview
from refnet.media.picture import Picture

#: Columns of the tables, in order: name and Arrow type. Landmarks are x, y, x, y, ...
FACE_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("score", "float32"), ("x1", "float32"), ("y1", "float32"), ("x2", "float32")),
    *(("y2", "float32"), ("track_id", "int64"), ("landmarks", "list<float32>")),
    *((name, "float32") for name in MEASURES),
)

#: A repr lists so many faces.
SHOWN = 5
#: What other libraries call what is here.
ELSEWHERE: Mapping[str, str] = {
    "bbox": "box",
    "clipped_box": "box, which is cut to the image",
    "conf": "score",
    "confidence": "score",
    "det_score": "score",
    "embedding": "align(image), the crop that recognition networks want",
    "id": "track_id",
    "kps": "keypoints",
    "landmark": "landmarks",
    "landmark_2d_106": "landmarks",
    "track": "track_id",
    "tracker_id": "track_id",
    "xyxy": "box",
}
#: The same of a list of faces.
LIST_ELSEWHERE: Mapping[str, str] = {
    "bboxes": "boxes",
    "conf": "scores",
    "confidence": "scores",
    "draw_on": "draw(image)",
    "kps": "keypoints of each face",
    "plot": "draw(image)",
    "to_dict": "to_dicts",
    "to_df": "to_pandas",
    "xyxy": "boxes",
}


@dataclass(frozen=True, eq=False)
class Face:
    """One face of an image.

    Attributes:
        box: (4,) float32, x1, y1, x2, y2 in image pixels, inside the image.
        score: the detector's, in [0, 1].
        landmarks: (K, 2) float32, x and y in image pixels; None where no landmarker ran. Points may
            leave the image.
        image_size: (height, width) of the image.
        track_id: number of the same face through a video; None for photos.
        keypoints: (5, 2) float32, image-left eye, right eye, nose tip, image-left and right corner of
            the mouth, in image pixels: of the landmarks where there are 98, else the detector's; None
            where neither is known.
        landmark_confidence: in [0, 1], how far the landmarks are to be trusted, see `refnet.Landmarks`; None
            where that is not known.
    """

    box: Array
    score: float
    landmarks: Array | None
    image_size: Pair
    track_id: int | None = None
    keypoints: Array | None = None
    landmark_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.landmarks is not None and len(self.landmarks) == 98:
            object.__setattr__(self, "keypoints", self.landmarks[list(FIVE_OF_98)])

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
        """Openness of eyes and mouth, distance of the eyes, head pose; None without 98 landmarks.

        What the landmarks do not tell is None in them; see `refnet.faces.measures.measure`.
        """
        if self.landmarks is None or len(self.landmarks) != 98:
            return None
        return measure(self.landmarks, self.image_size, self.landmark_confidence)

    @property
    def pose(self) -> HeadPose | None:
        """Pitch, yaw and roll in degrees, as in `measures`; None without 98 landmarks that tell it."""
        return None if self.measures is None else self.measures.pose

    @explicit
    def crop(self, image: Image, *, margin: float = 0.0) -> Array:
        """The face cut out of `image`, uint8 (h, w, 3), in the order of its channels.

        Args:
            image: in which the face was found, as everywhere; of a file B, G, R.
            margin: share of the box's width and height by which it grows on each side, inside the image.

        Raises:
            OptionError: the margin is negative, or the face is not of an image of this size.
        """
        pixels = self._pixels(image)
        x1, y1, x2, y2 = grown(self.box, margin, pixels.shape)
        return pixels[y1:y2, x1:x2].copy()

    @explicit
    def align(self, image: Image, size: int = 112) -> Array:
        """The face turned upright and scaled, as recognition networks want it: ArcFace's five points.

        Args:
            image: in which the face was found, as everywhere; of a file B, G, R.
            size: side in pixels of the result.

        Returns:
            uint8 (size, size, 3), black outside of the image, in the order of its channels.

        Raises:
            OptionError: the face has no key points, or is not of an image of this size.
        """
        if self.keypoints is None:
            raise OptionError(
                "this face has no key points to align it by; find its landmarks too, with a "
                "FaceAnalyzer that has a landmarker"
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise OptionError(f"size is a side in pixels, not {size!r}")
        return aligned(self._pixels(image), self.keypoints, size)

    def _pixels(self, image: Image) -> Array:
        """`image`, which the face was found in."""
        return _of_size(as_image(image), self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: box, score, and where known track_id, landmarks and measures."""
        found: dict[str, Any] = {
            "box": _thousandths(self.box),
            "score": round(self.score, 6),
        }
        if self.track_id is not None:
            found["track_id"] = self.track_id
        if self.landmarks is not None:
            found["landmarks"] = _thousandths(self.landmarks)
        if self.measures is not None:
            found["measures"] = self.measures.to_dict()
        return found

    def to_row(self) -> dict[str, Any]:
        """{column of `FACE_COLUMNS`: plain value, None where it is not known}."""
        measures = {} if self.measures is None else self.measures.to_dict()
        points = None if self.landmarks is None else self.landmarks.reshape(-1).tolist()
        row: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), map(float, self.box), strict=True))
        row |= {"score": self.score, "track_id": self.track_id, "landmarks": points, **measures}
        return {name: row.get(name) for name, _ in FACE_COLUMNS}

    def __repr__(self) -> str:
        x1, y1, x2, y2 = (round(float(v)) for v in self.box)
        points = "" if self.landmarks is None else f", {len(self.landmarks)} landmarks"
        track = "" if self.track_id is None else f", track {self.track_id}"
        return f"<Face ({x1}, {y1}, {x2}, {y2}), score {self.score:.3f}{points}{track}>"

    def _repr_html_(self) -> str:
        """A table and a drawing, for notebooks."""
        return Faces([self])._repr_html_()

    if not TYPE_CHECKING:  # so that type checkers report names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, ELSEWHERE)


class Faces(list[Face]):
    """The faces of one image, by falling score: a list, with conversions and pictures.

    Slices, masks and lists of indices give `Faces` too: `faces[faces.scores > 0.8]`.
    """

    @overload  # type: ignore[override]  # an array has __index__ and gives several here
    def __getitem__(self, index: int) -> Face: ...

    @overload
    def __getitem__(self, index: slice | Array | Sequence[int]) -> Faces: ...

    def __getitem__(self, index: Any) -> Face | Faces:
        """A face at a number; the faces of a slice, a mask or several indices."""
        if isinstance(index, slice):
            return Faces(super().__getitem__(index))
        if isinstance(index, np.ndarray | list):
            return Faces(list.__getitem__(self, i) for i in np.arange(len(self))[index])
        face: Face = super().__getitem__(index)
        return face

    @property
    def boxes(self) -> Array:
        """(N, 4) float32, the boxes of all faces."""
        return np.array([face.box for face in self], np.float32).reshape(-1, 4)

    @property
    def scores(self) -> Array:
        """(N,) float32, the scores of all faces."""
        return np.array([face.score for face in self], np.float32)

    @explicit
    def draw(self, image: Image, *, rgb: bool = False) -> Picture:
        """A copy of `image` with boxes, scores or tracks, and landmarks; a notebook shows it.

        Args:
            image: in which the faces were found, as everywhere.
            rgb: the array's channels are in the order R, G, B, and so are the picture's.

        Raises:
            OptionError: the faces are not of an image of this size.
        """
        from refnet.results.drawing import draw_faces

        drawn = draw_faces(self._pixels(image, rgb), self)
        return _picture(drawn, rgb and isinstance(image, np.ndarray))

    @explicit
    def blur(
        self,
        image: Image,
        *,
        method: str = "blur",
        shape: str = "ellipse",
        margin: float = 0.3,
        rgb: bool = False,
    ) -> Picture:
        """A copy of `image` in which these faces cannot be recognised; a notebook shows it.

        Args:
            image: in which the faces were found, as everywhere.
            method: "blur", "pixelate" or "solid" (black). Of each of the first two no more is left than
                eight squares along the longer side.
            shape: "ellipse" or "box".
            margin: share of a box's width and height by which it grows on each side.
            rgb: the array's channels are in the order R, G, B, and so are the picture's.

        Raises:
            OptionError: an argument is out of range, or the faces are not of an image of this size.
        """
        pixels = self._pixels(image, rgb)
        covered = hidden(pixels, self.boxes, method=method, shape=shape, margin=margin)
        return _picture(covered, rgb and isinstance(image, np.ndarray))

    def _pixels(self, image: Image, rgb: bool) -> Array:
        """`image`, which the faces were found in, in B, G, R."""
        pixels = as_image(image, rgb=rgb)
        return _of_size(pixels, self[0].image_size) if self else pixels

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers a face; see `Face.to_dict`."""
        measure_together(self)
        return [face.to_dict() for face in self]

    def to_json(self) -> str:
        """The same as a JSON array."""
        return json.dumps(self.to_dicts())

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` of one row a face. Raises DependencyError where pyarrow is absent."""
        from refnet.exchange.arrow import arrow_table

        return arrow_table(face_rows(self), FACE_COLUMNS)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of one row a face. Raises DependencyError where pandas is absent."""
        from refnet.exchange.arrow import data_frame

        return data_frame(face_rows(self), FACE_COLUMNS)

    def to_supervision(self) -> tuple[Any, Any]:
        """(`supervision.Detections`, `supervision.KeyPoints` or None without landmarks).

        Raises DependencyError where supervision is absent.
        """
        from refnet.exchange.supervision import supervision_detections, supervision_points

        tracks = [face.track_id for face in self]
        detections = supervision_detections(
            self.boxes,
            self.scores,
            np.zeros(len(self), np.int64),
            ("face",),
            None if None in tracks else np.array(tracks, np.int64),
        )
        points = [face.landmarks for face in self if face.landmarks is not None]
        if not points or len(points) != len(self):
            return detections, None
        return detections, supervision_points(np.stack(points))

    def __repr__(self) -> str:
        lines = [f"<Faces: {len(self)}>", *(f"  {face!r}" for face in list(self)[:SHOWN])]
        if len(self) > SHOWN:
            lines.append(f"  and {len(self) - SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table and a drawing, for notebooks."""
        height, width = self[0].image_size if self else (1, 1)
        return overview(
            f"{len(self)} face{'' if len(self) == 1 else 's'} in {width}×{height}"
            if self
            else "no faces",
            ("track", "score", "box", "yaw", "pitch", "roll"),
            [_cells(face) for face in self],
            size=(height, width),
            boxes=self.boxes,
            points=[f.keypoints if f.landmarks is None else f.landmarks for f in self],
        )

    if not TYPE_CHECKING:  # so that type checkers report names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, LIST_ELSEWHERE)


def face_rows(faces: Sequence[Face]) -> list[dict[str, Any]]:
    """The rows of faces of one image; see `Face.to_row`."""
    measure_together(faces)
    return [face.to_row() for face in faces]


def measure_together(faces: Sequence[Face]) -> None:
    """Work out the `measures` of faces of one image, which together takes little longer than of one face."""
    unknown = {
        i: face.landmarks
        for i, face in enumerate(faces)
        if face.landmarks is not None and len(face.landmarks) == 98 and "measures" not in vars(face)
    }
    if unknown:
        sure = [faces[i].landmark_confidence for i in unknown]
        found = measure_all(np.stack(list(unknown.values())), faces[0].image_size, sure)
        for i, own in zip(unknown, found, strict=True):
            vars(faces[i])["measures"] = own  # where `cached_property` keeps it


def _thousandths(numbers: Array) -> list[Any]:
    """`numbers` as Python's, rounded to three digits."""
    if numbers.dtype != np.float32:
        return [_thousandths(n) if n.ndim else round(float(n), 3) for n in np.asarray(numbers)]
    # A thousand times a number of 24 bits is exact in float64, so that this is what `round` makes of each.
    exact = np.rint(numbers.astype(np.float64) * 1000) / 1000
    rounded: list[Any] = exact.tolist()
    return rounded


def _cells(face: Face) -> list[str]:
    """A row of the table that notebooks show."""
    pose = face.pose
    angles = ("", "", "") if pose is None else (pose.yaw, pose.pitch, pose.roll)
    return [
        "" if face.track_id is None else str(face.track_id),
        f"{face.score:.3f}",
        " ".join(str(round(float(v))) for v in face.box),
        *(angle if isinstance(angle, str) else f"{angle:.0f}°" for angle in angles),
    ]


def _of_size(pixels: Array, size: Pair) -> Array:
    """`pixels`, whose height and width are `size`.

    Raises:
        OptionError: they are another's.
    """
    height, width = pixels.shape[:2]
    if (height, width) != tuple(size):
        raise OptionError(
            f"these faces were found in an image of {size[1]}×{size[0]} pixels, and this one has "
            f"{width}×{height}"
        )
    return pixels


def _picture(pixels: Array, rgb: bool) -> Picture:
    """`pixels`, B, G, R, as a picture in the order that is wanted."""
    return Picture.of(np.ascontiguousarray(pixels[:, :, ::-1]) if rgb else pixels, rgb=rgb)
