"""What was found in one image, a photo or a frame: as a line of JSON, and as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refnet.detection.detections import DETECTION_COLUMNS, KEYPOINTS, Detections, detection_rows
from refnet.exchange.arrow import Columns
from refnet.faces.face import FACE_COLUMNS, Faces, face_rows
from refnet.ops import Pair

#: Columns of a table before those that tell what was found.
IMAGE_COLUMNS: Columns = (
    *(("source", "string"), ("frame", "int64"), ("time", "float64"), ("width", "int64")),
    *(("height", "int64"), ("last", "bool"), ("error", "string")),
)


@dataclass(frozen=True)
class Table:
    """What the rows of a table are about.

    Attributes:
        what: "faces" or "objects": the column of their number in the image. `what` without its s is the
            column of a row's own number among them, from 0.
        columns: of one of them.
        points: which of these is a list x, y, x, y, ...; in CSV it is a column a number.
        count: of points, in CSV.
    """

    what: str
    columns: Columns
    points: str
    count: int = 0

    @property
    def all_columns(self) -> Columns:
        """Names and Arrow types of all columns, in order."""
        return (*IMAGE_COLUMNS, (self.what, "int64"), (self.what[:-1], "int64"), *self.columns)


def faces_table(landmarks: int = 0) -> Table:
    """The table of faces that have so many landmarks."""
    return Table("faces", FACE_COLUMNS, "landmarks", landmarks)


#: The table of what a `refnet.Detector` finds.
OBJECTS = Table("objects", DETECTION_COLUMNS, "keypoints", len(KEYPOINTS))


@dataclass(frozen=True)
class Record:
    """What was found in one image.

    Attributes:
        source: the file's path, or a camera's number.
        faces: what was found, faces or other objects; None where the image could not be read.
        size: (height, width) of the image; None where it could not be read.
        error: why it could not be read or handled; None where it could.
        frame, time: number and seconds from the start in a video; None for photos.
        last: whether the source ends here. A source is done when its last record is there, without
            an error.
    """

    source: str
    faces: Faces | Detections | None = None
    size: Pair | None = None
    error: str | None = None
    frame: int | None = None
    time: float | None = None
    last: bool = True

    @property
    def what(self) -> str:
        """What a line of JSON calls what was found: "faces" or "objects"."""
        return "objects" if isinstance(self.faces, Detections) else "faces"

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON line has it; what does not apply is left out."""
        found: dict[str, Any] = {"source": self.source}
        if self.frame is not None and self.time is not None:
            found |= {"frame": self.frame, "time": round(self.time, 4)}
        if self.size is not None:
            found |= {"width": self.size[1], "height": self.size[0]}
        if self.error is not None:
            found["error"] = self.error
        if self.faces is not None:
            found[self.what] = self.faces.to_dicts()
        return found | {"last": self.last}

    def rows(self, what: str = "faces") -> list[dict[str, Any]]:
        """The record as rows of a table, see `Table`: one a face or object, or one without.

        Every row repeats their number in the image.
        """
        height, width = self.size if self.size is not None else (None, None)
        row = {
            "source": self.source,
            "frame": self.frame,
            "time": self.time,
            "width": width,
            "height": height,
            "last": self.last,
            "error": self.error,
            what: None if self.faces is None else len(self.faces),
            what[:-1]: None,
        }
        if not self.faces:
            return [row]
        if isinstance(self.faces, Detections):
            found = detection_rows(self.faces)
        else:
            found = face_rows(self.faces)
        return [row | {what[:-1]: i} | one for i, one in enumerate(found)]
