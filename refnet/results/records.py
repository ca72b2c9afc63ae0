"""What was found in one image, a photo or a frame: as a line of JSON, and as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refnet.detection.detections import Detections
from refnet.faces.face import Faces
from refnet.ops import Pair

#: Columns of a table before those of a face.
RECORD_COLUMNS: tuple[tuple[str, str], ...] = (
    *(("source", "string"), ("frame", "int64"), ("time", "float64"), ("width", "int64")),
    *(("height", "int64"), ("last", "bool"), ("error", "string"), ("faces", "int64")),
    ("face", "int64"),
)


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

    def rows(self) -> list[dict[str, Any]]:
        """The record as rows of a table: one a face, or one without.

        `faces` is the number of faces in the image, which every row repeats, and `face` the row's
        number among them, from 0.
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
            "faces": None if self.faces is None else len(self.faces),
            "face": None,
        }
        if not self.faces:
            return [row]
        assert isinstance(self.faces, Faces), "tables are of faces"
        return [row | {"face": i} | face.to_row() for i, face in enumerate(self.faces)]
