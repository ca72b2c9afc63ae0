"""What to look at: photos, videos and cameras, from what people type, and their frames.

A word is a file (a GIF of several images is a video), a folder (searched through, hidden files left out), a pattern such as `*.jpg` or
`**/*.png`, the number of a camera, the address of a video or a network camera (rtsp://, http://, ...),
or `-` for a list of words from standard input, one a line.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from refnet.errors import FileError, ImageError
from refnet.files import reading
from refnet.media.images import IMAGE_SUFFIXES, opencv, read_image
from refnet.media.mark import marked
from refnet.ops import Array

#: Photos that OpenCV reads; those of `IMAGE_SUFFIXES` it writes as well.
PHOTO_SUFFIXES = IMAGE_SUFFIXES | {
    *(".avif", ".dib", ".gif", ".hdr", ".jfif", ".jpe", ".pbm", ".pgm", ".pnm", ".ras"),
}
VIDEO_SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
_CONVERT = "convert them to JPEG or PNG first"
#: Photos that OpenCV does not read, and how they can be read.
OTHER_SUFFIXES = {
    **dict.fromkeys(
        (".heic", ".heif"),
        "convert them to JPEG, or read them with the package pillow-heif and pass the PIL images to "
        "refnet.FaceAnalyzer",
    ),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), _CONVERT),
    **dict.fromkeys((".jxl", ".psd", ".tga", ".svg", ".pdf", ".ico", ".xcf", ".icns"), _CONVERT),
}
STREAMS = ("http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
CAMERA_RATE = 30.0
_CAMERA_LABEL = re.compile(r"camera-\d+-\d{8}-\d{6}")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
#: A video that ends before this share of the length that it states was cut off.
WHOLE = 0.9
#: How long OpenCV may try to reach an address, in milliseconds.
PATIENCE = 10_000


def is_path(label: str) -> bool:
    """Whether a source's label is a file's path, and no camera's name or address."""
    return not _ADDRESS.match(label) and not _CAMERA_LABEL.fullmatch(label)


def real_path(path: str, folder: str = "") -> str:
    """The file that `path` leads to from `folder`, links followed; `path` itself where it can be none."""
    return path if "\0" in path else os.path.realpath(os.path.join(folder, path))


def special_kind(mode: int) -> str | None:
    """What a file is by its `st_mode`, in words; None for one that can be read as a file."""
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for test, words in kinds if test(mode)), "a device")


def copy_name(kind: str, name: str) -> str:
    """What a drawn copy of a source is called: photos keep their format where it can be written."""
    path = Path(name)
    if kind != "image":
        return str(path.with_suffix(".mp4"))
    return name if path.suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"


@dataclass(frozen=True)
class Source:
    """A photo, a video or a camera.

    Attributes:
        kind: "image", "video", "stream" (a video's address) or "camera".
        path: as it was given or found; a camera's number; an address.
        name: a relative path, unique among the sources, for what is made from this one.
    """

    kind: str
    path: str
    name: str

    @property
    def label(self) -> str:
        """What results call it: the path; of a camera the name, which holds when it began.

        An address is without the name and password in it.
        """
        if self.kind == "camera":
            return self.name
        return re.sub(r"//[^/@]*@", "//", self.path) if self.kind == "stream" else self.path


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        source: where it comes from.
        image: uint8 (H, W, 3) BGR; None where it could not be read.
        error: why not, a sentence; None where it could.
        index: its number in the video, from 0; None for photos.
        time: seconds from the start; None for photos.
        rate: frames per second of its source.
        last: whether its source ends here.
    """

    source: Source
    image: Array | None
    error: str | None = None
    index: int | None = None
    time: float | None = None
    rate: float = CAMERA_RATE
    last: bool = True


class Sources(list[Source]):
    """The sources that words name, and `notes`, a sentence for all that was left out."""

    def __init__(self, sources: Iterable[Source] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(sources)
        self.notes = list(notes)


def find_sources(
    words: Iterable[str], lines: Iterable[str] = (), exclude: Path | None = None
) -> Sources:
    """The sources that `words` name, each once, folders in sorted order.

    A word that names nothing is kept as a photo, so that reading it says why it cannot be read. In
    folders, what refnet has drawn is left out (see `refnet.media.mark`), and so are files that are no
    files, such as pipes, and photos of a kind that OpenCV does not read; `notes` says so, and names
    the folders in which there is nothing else or that cannot be read.

    Args:
        words: see the module.
        lines: what `-` stands for.
        exclude: a folder that is left out when folders are searched, such as that of the results.
    """
    found: dict[str, Source] = {}
    names: set[str] = set()
    search = _Search(exclude)
    for word in words:
        for path, name in search.listed(word, lines):
            kind = _kind(path)
            key = real_path(path) if kind in ("image", "video") else path
            if key not in found:
                found[key] = Source(kind, path, _unused(kind, name, names))
    return Sources(found.values(), search.notes())


class _Search:
    """Lists the files that words stand for, and counts what is left out."""

    def __init__(self, exclude: Path | None) -> None:
        self.exclude = exclude.resolve() if exclude is not None else None
        self.unreadable: Counter[str] = Counter()
        self.special: list[str] = []
        self.bare: list[str] = []
        self.denied: list[OSError] = []

    def notes(self) -> list[str]:
        """A sentence for each kind of file that was left out."""
        kinds = [
            f"left out {count} {suffix} file{'s' * (count > 1)}, which OpenCV does not read; "
            f"{OTHER_SUFFIXES[suffix]}"
            for suffix, count in sorted(self.unreadable.items())
        ]
        denied = [f"cannot read {error.filename}: {error.strerror}" for error in self.denied]
        return [*self.bare, *denied, *self.special, *kinds]

    def listed(self, word: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
        """(path, name) of every file that a word stands for."""
        if word == "-":
            for line in lines:
                if path := line.rstrip("\r\n"):
                    yield from self.listed(path, ()) if path != "-" else ()
        elif "\0" in word:
            yield word, "unnamed"
        elif _ADDRESS.match(word):
            tail = word.partition("://")[2].rpartition("@")[2]
            yield word, re.sub(r"[^\w.-]+", "-", tail).strip("-.") or "stream"
        elif os.path.isdir(word):
            yield from self._folder(word)
        elif not os.path.exists(word) and glob.has_magic(word):
            matches = sorted(glob.glob(word, recursive=True))
            for match in matches or [word]:
                if not os.path.isdir(match):
                    yield match, Path(match).name
        else:
            started = datetime.now().strftime("%Y%m%d-%H%M%S")
            camera = _kind(word) == "camera"
            yield word, f"camera-{word}-{started}" if camera else Path(word).name

    def _folder(self, word: str) -> Iterator[tuple[str, str]]:
        root, own, listed, denied = Path(word), False, False, len(self.denied)
        for folder, folders, files in os.walk(root, onerror=self.denied.append):
            folders[:] = sorted(
                f for f in folders if f[0] != "." and Path(folder, f).resolve() != self.exclude
            )
            drawn = marked(Path(folder))
            own = own or bool(drawn)
            for file in sorted(files):
                inside, suffix = Path(folder, file), Path(file).suffix.lower()
                if file[0] == "." or file in drawn:
                    continue
                if suffix in OTHER_SUFFIXES:
                    self.unreadable[suffix] += 1
                elif suffix in PHOTO_SUFFIXES | VIDEO_SUFFIXES:
                    if what := _special(inside):
                        self.special.append(f"left out {inside}: it is {what}, no file")
                    else:
                        listed = True
                        yield str(inside), str(inside.relative_to(root))
        if not listed and len(self.denied) == denied:
            self.bare.append(
                f"no photo and no video in {word}" + (", but drawings of refnet's" if own else "")
            )


def _special(path: str | Path) -> str | None:
    """What `path` is, in words, where it is there and cannot be read as a file."""
    try:
        return special_kind(os.stat(path).st_mode)
    except OSError:
        return None


def _kind(path: str) -> str:
    if path.isdecimal() and path.isascii() and not os.path.exists(path):
        return "camera"
    if _ADDRESS.match(path):
        return "stream"
    suffix = Path(path).suffix.lower()
    moving = suffix in VIDEO_SUFFIXES or (suffix == ".gif" and _has_two_images(path))
    return "video" if moving else "image"


def _has_two_images(path: str) -> bool:
    """Whether a GIF file shows more than one image; see the GIF89a specification."""
    if _special(path):
        return False
    try:
        with open(path, "rb") as file:
            header, count = file.read(13), 0
            file.seek(_palette(header[10]), os.SEEK_CUR)
            while count < 2 and (kind := file.read(1)) in (b",", b"!"):
                if kind == b",":  # an image
                    count += 1
                    file.seek(_palette(file.read(9)[8]) + 1, os.SEEK_CUR)
                else:  # an extension
                    file.seek(1, os.SEEK_CUR)
                while length := file.read(1)[0]:  # pieces, of which the last is empty
                    file.seek(length, os.SEEK_CUR)
    except (OSError, IndexError):  # cut off, or no GIF at all
        return False
    return count > 1


def _palette(flags: int) -> int:
    """Bytes of the palette that a GIF's `flags` tell of."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _unused(kind: str, name: str, names: set[str]) -> str:
    """`name`, or the first of name-2, name-3... whose drawn copy no other source has."""
    path, unused, count = Path(name), name, 1
    # Some file systems take a.jpg and A.JPG for one name.
    while (copy := copy_name(kind, unused).casefold()) in names:
        count += 1
        unused = str(path.with_name(f"{path.stem}-{count}{path.suffix}"))
    names.add(copy)
    return unused


def read_frames(sources: Iterable[Source]) -> Iterator[Frame]:
    """Every frame of every source in order; one with an error for what cannot be read."""
    for source in sources:
        try:
            _check(source)
            if source.kind == "image":
                yield Frame(source, read_image(source.path))
            else:
                yield from video_frames(source)
        except (ImageError, FileError) as error:
            yield Frame(source, None, str(error))
        except (MemoryError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error) or "out of memory"
            yield Frame(source, None, f"cannot read {source.path}: {why}")


def absent(source: Source) -> str | None:
    """Why a file or a camera cannot be read that is not there, as a sentence; None of one that is there, and of an
    address, of which only reading tells."""
    path = source.path
    if source.kind == "camera":
        # Opening takes up to a second, and Linux tells without it which cameras it has.
        if os.path.exists(f"/dev/video{path}"):
            return None
        capture = _opened(source)
        there = capture.isOpened()
        capture.release()
        return None if there else _no_frame(source)
    gone = source.kind in ("image", "video") and "\0" not in path and not os.path.lexists(path)
    return f"cannot read {path}: No such file or directory" if gone else None


def _check(source: Source) -> None:
    """Refuse what would be waited for without end, or is of a kind that OpenCV does not read.

    Raises:
        ImageError: so it is; the message says what it is. OSError: it is not there.
    """
    path = source.path
    if source.kind == "stream":
        scheme = path.partition("://")[0].lower()
        if scheme not in STREAMS:
            raise ImageError(
                f"cannot read {source.label}: {scheme}:// is no address of a video; known: "
                f"{', '.join(f'{known}://' for known in STREAMS)}"
            )
    elif source.kind != "camera":
        if "\0" in path:
            raise ImageError("cannot read a path with a zero byte in it; is it a photo's content?")
        if what := special_kind(os.stat(path).st_mode):
            raise ImageError(f"cannot read {path}: it is {what}, no file")
        if advice := OTHER_SUFFIXES.get(Path(path).suffix.lower()):
            raise ImageError(f"cannot read {path}: OpenCV does not read this format; {advice}")


def frame_count(source: Source) -> int | None:
    """Number of frames by the file's own word; None where it does not tell, as a camera."""
    if source.kind == "image":
        return 1
    if source.kind != "video" or _special(source.path):
        return None
    capture = opencv().VideoCapture(source.path)
    count = int(capture.get(opencv().CAP_PROP_FRAME_COUNT))
    capture.release()
    return count if count > 0 else None


def _opened(source: Source) -> Any:
    """The source as OpenCV's `VideoCapture`, which may have failed to open."""
    cv2 = opencv()
    if source.kind == "camera":
        return cv2.VideoCapture(int(source.path) if len(source.path) < 9 else source.path)
    if source.kind == "stream":
        waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
        return cv2.VideoCapture(source.path, cv2.CAP_FFMPEG, waits)
    with reading(source.path), open(source.path, "rb"):
        pass
    return cv2.VideoCapture(source.path)


def video_frames(source: Source) -> Iterator[Frame]:
    """The frames of a video or a camera, each held back until it is known whether it is the last.

    A video that ends long before the length that it states ends with an error instead.
    """
    cv2, capture = opencv(), _opened(source)
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else CAMERA_RATE
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if source.kind == "video" else 0
        held: Frame | None = None
        index, time, start = 0, 0.0, monotonic()
        while True:
            there, image = capture.read()
            if not there:
                break
            if held is not None:
                yield held
            if source.kind == "camera":
                time = monotonic() - start
            else:
                time = _time(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, index, time, rate)
            held = Frame(source, np.asarray(image), None, index, time, rate, last=False)
            index += 1
        if held is None:
            raise ImageError(_no_frame(source))
        if index < WHOLE * count and time + 1 / rate < WHOLE * count / rate:
            yield held
            why = f"{source.label} is cut off: it ends after {index} of {count} frames"
            yield Frame(source, None, why, index, time, rate, last=True)
            return
        yield Frame(source, held.image, None, held.index, held.time, rate, last=True)
    finally:
        capture.release()


def _time(stated: float, index: int, before: float, rate: float) -> float:
    """Seconds from the start of frame `index`: by the file, or one frame after the one before it.

    Videos of phones have no constant rate, so that the index alone does not tell.
    """
    if index == 0:
        return stated if 0 < stated < 1 / rate else 0.0
    return stated if np.isfinite(stated) and stated > before else before + 1 / rate


def _no_frame(source: Source) -> str:
    """Why there is no frame."""
    if source.kind == "camera":
        return (
            f"cannot read camera {source.path}: there is no such camera here, or another program "
            "holds it"
        )
    if source.kind == "stream":
        return f"cannot read {source.label}: it cannot be reached, or sends no video"
    return f"cannot read {source.path}: it gives no frame that OpenCV can decode"
