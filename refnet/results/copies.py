"""Copies of photos and videos with the faces drawn in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refnet.detection.detections import Detections
from refnet.errors import OptionError, OutputError
from refnet.faces.face import Faces
from refnet.files import replacing
from refnet.media.images import opencv, write_image
from refnet.media.mark import Made, cropped, hide_from_git, made, marked, note
from refnet.media.mp4_times import set_times, uneven
from refnet.media.sources import Frame, Source, copy_name, is_path, real_path
from refnet.ops import Array
from refnet.results.companion import difference
from refnet.results.drawing import draw_faces

#: Frames a second that OpenCV writes, which counts in thousandths: MPEG-4 counts no time finer than 1/65535.
FASTEST = 65.0
#: Makes a copy's image of a frame's, uint8 (H, W, 3) BGR, and what was found in it.
Render = Callable[[Array, Any], Array]


#: Codecs of an MP4 file, the first that OpenCV can write is taken: H.264, and MPEG-4 Part 2. OpenCV's wheels for
#: Linux have no encoder for the former.
CODECS = ("avc1", "mp4v")


class AnnotatedCopies:
    """Writes the drawn frames of sources into a folder: photos from any threads, videos in order.

    Photos keep their format, where OpenCV can write it. Videos and cameras become MP4 without sound, each
    frame at its time: H.264 where this OpenCV can write it, else MPEG-4 Part 2, which browsers do not show;
    `codec` says which. A file takes its place when it is complete. What is written is listed in the folder, see
    `refnet.media.mark`: an input, or a file that is not on that list, is never replaced. The list also
    says of what and with which settings each copy was made, so that a run can go on where one ended.

    Args:
        folder: where the copies go.
        render: what is drawn; by default the boxes, tracks or scores, and landmarks of the faces.
        file: the copy's own path, where there is one source only; then nothing is listed.
    """

    def __init__(
        self, folder: Path, render: Render = draw_faces, *, file: Path | None = None
    ) -> None:
        self.folder, self.render, self.file = folder, render, file
        #: What copies are made with from now on, plain values by name.
        self.settings: Mapping[str, Any] = {}
        self._video: _Video | None = None
        #: The codec of the last video: "avc1" for H.264, "mp4v" for MPEG-4 Part 2; None before there is one.
        self.codec: str | None = None
        self._marked: dict[Path, set[str]] = {}
        self._made: dict[Path, dict[str, Made]] = {}
        self._noted: set[Path] = set()  # folders whose list has the settings
        self._lock = threading.Lock()  # of what is known of the lists
        #: Whether the folder is refnet's own, and no user's with other files in it.
        self._new = file is None and not folder.exists()

    def path(self, source: Source) -> Path:
        """Where the copy of `source` goes."""
        return self.file or self.folder / copy_name(source.kind, source.name)

    def check(self, sources: Sequence[Source], *, overwrite: bool) -> None:
        """Refuse to replace one of `sources`, or a file that refnet did not draw.

        Args:
            sources: all that are read and drawn.
            overwrite: whether a `file` that is there may be replaced.

        Raises:
            OptionError: a copy would; the message names it.
        """
        read = {real_path(s.path) for s in sources if s.kind in ("image", "video")}
        for source in sources:
            path = self.path(source)
            if real_path(str(path)) in read:
                raise OptionError(
                    f"the drawing of {source.label} would replace {path}, which is one of the inputs; "
                    "name another place with -o"
                )
            if not os.path.lexists(path) or self._is_ours(path):
                continue
            if self.file is None:
                raise OptionError(
                    f"{path} is there and refnet did not draw it; name another folder with -o"
                )
            if not overwrite:
                raise OptionError(f"{path} is there; --overwrite replaces it")

    def check_made(self, sources: Iterable[Source]) -> None:
        """Refuse to replace what was drawn of another file of the same name, or with other settings.

        Raises:
            OptionError: a copy would.
        """
        for source in sources:
            path = self.path(source)
            if self.file is not None or not os.path.lexists(path):
                continue
            there = self._there(path)
            if there is None or there.of != _key(source, path.parent):
                raise OptionError(
                    f"{path} is there, of another run; --overwrite replaces it, and another -o keeps it"
                )
            if differs := difference(there.settings, self.settings):
                raise OptionError(
                    f"{path} was made with {differs}; --overwrite replaces it, and another -o keeps it"
                )

    def done(self, sources: Iterable[Source]) -> set[str]:
        """The labels of the sources whose copies are whole, and made with the same settings."""
        labels = set()
        for source in sources:
            path = self.path(source)
            there = self._there(path)
            if there is None or not there.done or not os.path.lexists(path):
                continue
            same = there.of == _key(source, path.parent)
            if same and not difference(there.settings, self.settings):
                labels.add(source.label)
        return labels

    def _there(self, path: Path) -> Made | None:
        """What the list says of a copy that an earlier run has made."""
        if self.file is not None:
            return None
        if path.parent not in self._made:
            self._made[path.parent] = made(path.parent)
        return self._made[path.parent].get(path.name)

    def _is_ours(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._marked:
            self._marked[folder] = marked(folder)
        return path.name in self._marked[folder]

    def _begin(self, path: Path, source: Source) -> None:
        """List a copy in its folder, before it is there."""
        if self.file is not None:
            return
        lines: list[Any] = [{"begun": path.name, "of": _key(source, path.parent)}]
        with self._lock:
            if path.parent not in self._noted:
                lines.insert(0, {"settings": dict(self.settings)})
            if not self._is_ours(path):
                if self._new:
                    hide_from_git(self.folder)
                    self._new = False
                lines.insert(0, path.name)
            note(path.parent, *lines)
            self._noted.add(path.parent)
            self._marked[path.parent].add(path.name)

    def _end(self, path: Path) -> None:
        """List a copy as whole, when it is there."""
        if self.file is None:
            note(path.parent, {"done": path.name})

    def write(self, frame: Frame, faces: Faces | Detections) -> None:
        """Render the frame with its `faces`, and write it.

        Raises:
            OutputError: it cannot be written.
        """
        assert frame.image is not None
        path = self.path(frame.source)
        drawn = self.render(frame.image, faces)
        if frame.source.kind == "image":
            self._begin(path, frame.source)
            write_image(path, drawn)
            self._end(path)
            return
        if self._video is None:
            self._begin(path, frame.source)
            self._video = _Video(path, drawn, frame.rate)
            self.codec = self._video.codec
        self._video.write(drawn, frame.time)
        if frame.last:
            self.close()
            self._end(path)

    def close(self) -> None:
        """Finish a video that is not at its end, such as one that was interrupted.

        Raises:
            OutputError: it cannot be written.
        """
        video, self._video = self._video, None
        if video is not None:
            video.close()


def _key(source: Source, folder: Path) -> str:
    """What the list in `folder` calls a source: the way to its file; an address or a camera's name as it is."""
    if not is_path(source.label):
        return source.label
    path, start = real_path(source.path), os.path.realpath(folder)
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # on another drive
        return path


class FaceCrops:
    """Writes every face, cut out, as a PNG file into a folder, from any threads.

    The folder's list, see `refnet.media.mark`, says of which sources all faces are there.

    Args:
        folder: where they go: photo-1.png, photo-2.png; of a video clip-000012-1.png, by frame.
        aligned: side in pixels of crops that are turned upright; None for the box as it is.
    """

    def __init__(self, folder: Path, aligned: int | None = None) -> None:
        self.folder, self.aligned = folder, aligned
        self._marked: dict[Path, set[str]] = {}
        self._lock = threading.Lock()  # of what is known of the lists

    def done(self, sources: Iterable[Source]) -> set[str]:
        """The labels of the sources whose faces are all there, cut out in the same way."""
        there = cropped(self.folder)
        return {
            source.label
            for source in sources
            if there.get(_key(source, self.folder), 0) == self.aligned
        }

    def write(self, frame: Frame, faces: Faces) -> None:
        """Write the faces of a frame.

        Raises:
            OutputError: a file cannot be written, or is there and is not refnet's.
            OptionError: faces are to be turned upright, and their key points are not known.
        """
        assert frame.image is not None
        name = Path(frame.source.name)
        number = "" if frame.index is None else f"-{frame.index:06d}"
        for i, face in enumerate(faces, 1):
            path = self.folder / name.with_name(f"{name.stem}{number}-{i}.png")
            self._claim(path)
            cut = (
                face.crop(frame.image)
                if self.aligned is None
                else face.align(frame.image, self.aligned)
            )
            write_image(path, cut)
        if frame.last:
            with self._lock:
                self._ours(self.folder)
            note(self.folder, {"cropped": _key(frame.source, self.folder), "aligned": self.aligned})

    def _claim(self, path: Path) -> None:
        """List a file in its folder, before it is there. Raises OutputError where there is one of another maker."""
        with self._lock:
            ours = self._ours(path.parent)
            if path.name in ours:
                return
            if os.path.lexists(path):
                raise OutputError(f"cannot write {path}: it is there and refnet did not make it")
            note(path.parent, path.name)
            ours.add(path.name)

    def _ours(self, folder: Path) -> set[str]:
        """The names in a folder that refnet has made; the folder is made where it is missing."""
        if folder not in self._marked:
            if not folder.exists():
                hide_from_git(folder)
            self._marked[folder] = marked(folder)
        return self._marked[folder]


class _Video:
    """An MP4 file in the making."""

    def __init__(self, path: Path, first: Array, rate: float) -> None:
        cv2 = opencv()
        self.path, self.size = path, (first.shape[1], first.shape[0])
        self.rate, self.times = rate if rate <= FASTEST else 60.0, list[float]()
        with ExitStack() as stack:
            self.temporary = stack.enter_context(replacing(path))
            for self.codec in CODECS:
                code = cv2.VideoWriter_fourcc(*self.codec)
                self.writer: Any = cv2.VideoWriter(str(self.temporary), code, self.rate, self.size)
                if self.writer.isOpened():
                    break
            else:
                raise OutputError(f"cannot write {path}: OpenCV cannot make an MP4 file there")
            self.replacement = stack.pop_all()  # stays open until the last frame

    def write(self, image: Array, time: float | None) -> None:
        if (image.shape[1], image.shape[0]) != self.size:  # a stream that changes its size
            image = opencv().resize(image, self.size)
        self.writer.write(image)
        self.times.append(len(self.times) / self.rate if time is None else time)

    def close(self) -> None:
        with self.replacement:
            self.writer.release()
            if uneven(self.times, self.rate):
                set_times(self.temporary, self.times)
            # OpenCV reports no error of writing, such as a full disk; but then the file is unreadable.
            check = opencv().VideoCapture(str(self.temporary))
            readable = check.isOpened() and check.read()[0]
            check.release()
            if not readable:
                raise OutputError(
                    f"cannot write {self.path}: the file is incomplete; is the disk full?"
                )
