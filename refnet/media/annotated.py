"""Copies of photos and videos with the faces drawn in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from refnet.errors import ImageError
from refnet.faces.face import Faces
from refnet.media.drawing import draw_faces
from refnet.media.images import IMAGE_SUFFIXES, opencv, write_image
from refnet.media.sources import Frame, Source
from refnet.ops import Array


class AnnotatedCopies:
    """Writes the drawn frames of sources, in order, into a folder; used from one thread.

    Photos keep their format, where OpenCV can write it. Videos and cameras become MP4 (MPEG-4, without
    sound). A file takes its place when it is complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._video: _Video | None = None

    def path(self, source: Source) -> Path:
        """Where the copy of `source` goes."""
        path = self.folder / source.name
        if source.kind != "image":
            return path.with_suffix(".mp4")
        return path if path.suffix.lower() in IMAGE_SUFFIXES else path.with_name(f"{path.name}.png")

    def write(self, frame: Frame, faces: Faces) -> None:
        """Draw `faces` over the frame, and write it.

        Raises:
            ImageError: it cannot be written.
        """
        assert frame.image is not None
        drawn = draw_faces(frame.image, faces)
        if frame.source.kind == "image":
            write_image(self.path(frame.source), drawn)
            return
        if self._video is None:
            self._video = _Video(self.path(frame.source), drawn, frame.rate)
        self._video.write(drawn)
        if frame.last:
            self.close()

    def close(self) -> None:
        """Finish a video that is not at its end, such as one that was interrupted.

        Raises:
            ImageError: it cannot be written.
        """
        video, self._video = self._video, None
        if video is not None:
            video.close()


class _Video:
    """An MP4 file in the making."""

    def __init__(self, path: Path, first: Array, rate: float) -> None:
        cv2 = opencv()
        self.path, self.part = path, path.with_name(f".{path.stem}.part{path.suffix}")
        self.size = first.shape[1], first.shape[0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"cannot write {path}: {error.strerror or error}") from error
        code = cv2.VideoWriter_fourcc(*"mp4v")
        self.writer: Any = cv2.VideoWriter(str(self.part), code, rate, self.size)
        if not self.writer.isOpened():
            raise ImageError(f"cannot write {path}: OpenCV cannot make an MP4 file there")

    def write(self, image: Array) -> None:
        if (image.shape[1], image.shape[0]) != self.size:  # a stream that changes its size
            image = opencv().resize(image, self.size)
        self.writer.write(image)

    def close(self) -> None:
        self.writer.release()
        # OpenCV tells no error of writing, such as a full disk; but then the file cannot be read.
        check = opencv().VideoCapture(str(self.part))
        readable = check.isOpened() and check.read()[0]
        check.release()
        if not readable:
            self.part.unlink(missing_ok=True)
            raise ImageError(f"cannot write {self.path}: the file is incomplete; is the disk full?")
        os.replace(self.part, self.path)
