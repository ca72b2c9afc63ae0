"""Copies of photos and videos with the faces drawn in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet.errors import OutputError
from refnet.faces.face import Faces
from refnet.files import replacing
from refnet.media.images import IMAGE_SUFFIXES, opencv, write_image
from refnet.media.sources import Frame, Source
from refnet.ops import Array
from refnet.results.drawing import draw_faces

#: Makes a copy's image of a frame's, uint8 (H, W, 3) BGR, and the faces in it.
Render = Callable[[Array, Faces], Array]


class AnnotatedCopies:
    """Writes the drawn frames of sources, in order, into a folder; used from one thread.

    Photos keep their format, where OpenCV can write it. Videos and cameras become MP4 (MPEG-4, without
    sound). A file takes its place when it is complete.

    Args:
        folder: where the copies go.
        render: what is drawn; by default the boxes, tracks or scores, and landmarks of the faces.
    """

    def __init__(self, folder: Path, render: Render = draw_faces) -> None:
        self.folder, self.render = folder, render
        self._video: _Video | None = None

    def path(self, source: Source) -> Path:
        """Where the copy of `source` goes."""
        path = self.folder / source.name
        if source.kind != "image":
            return path.with_suffix(".mp4")
        return path if path.suffix.lower() in IMAGE_SUFFIXES else path.with_name(f"{path.name}.png")

    def write(self, frame: Frame, faces: Faces) -> None:
        """Render the frame with its `faces`, and write it.

        Raises:
            OutputError: it cannot be written.
        """
        assert frame.image is not None
        drawn = self.render(frame.image, faces)
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
            OutputError: it cannot be written.
        """
        video, self._video = self._video, None
        if video is not None:
            video.close()


class _Video:
    """An MP4 file in the making."""

    def __init__(self, path: Path, first: Array, rate: float) -> None:
        cv2 = opencv()
        self.path, self.size = path, (first.shape[1], first.shape[0])
        with ExitStack() as stack:
            self.temporary = stack.enter_context(replacing(path))
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self.writer: Any = cv2.VideoWriter(str(self.temporary), code, rate, self.size)
            if not self.writer.isOpened():
                raise OutputError(f"cannot write {path}: OpenCV cannot make an MP4 file there")
            self.replacement = stack.pop_all()  # stays open until the last frame

    def write(self, image: Array) -> None:
        if (image.shape[1], image.shape[0]) != self.size:  # a stream that changes its size
            image = opencv().resize(image, self.size)
        self.writer.write(image)

    def close(self) -> None:
        with self.replacement:
            self.writer.release()
            # OpenCV reports no error of writing, such as a full disk; but then the file is unreadable.
            check = opencv().VideoCapture(str(self.temporary))
            readable = check.isOpened() and check.read()[0]
            check.release()
            if not readable:
                raise OutputError(
                    f"cannot write {self.path}: the file is incomplete; is the disk full?"
                )
