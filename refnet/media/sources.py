"""What to look at: photos, videos and cameras, from what people type, and their frames.

A word is a file, a folder (searched through, hidden files left out), a pattern such as `*.jpg` or
`**/*.png`, the number of a camera, or `-` for a list of words from standard input, one a line.
"""

from __future__ import annotations

import glob
import os
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
from refnet.ops import Array

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)
CAMERA_RATE = 30.0


@dataclass(frozen=True)
class Source:
    """A photo, a video or a camera.

    Attributes:
        kind: "image", "video" or "camera".
        path: as it was given or found; a camera's number.
        name: a relative path, unique among the sources, for what is made from this one.
    """

    kind: str
    path: str
    name: str

    @property
    def label(self) -> str:
        """What results call it: the path; of a camera the name, which holds when it began."""
        return self.name if self.kind == "camera" else self.path


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


def find_sources(
    words: Iterable[str], lines: Iterable[str] = (), exclude: Path | None = None
) -> list[Source]:
    """The sources that `words` name, each once, folders in sorted order.

    A word that names nothing is kept as a photo, so that reading it says why it cannot be read.

    Args:
        words: see the module.
        lines: what `-` stands for.
        exclude: a folder that is left out when folders are searched, such as that of the results.
    """
    found: dict[str, Source] = {}
    names: set[str] = set()
    for word in words:
        for path, name in _listed(word, lines, exclude):
            key = path if path.isdigit() else os.path.realpath(path)
            if key not in found:
                found[key] = Source(_kind(path), path, _unused(name, names))
    return list(found.values())


def _listed(word: str, lines: Iterable[str], exclude: Path | None) -> Iterator[tuple[str, str]]:
    """(path, name) of every file that a word stands for."""
    if word == "-":
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield from _listed(path, (), exclude) if path != "-" else ()
    elif os.path.isdir(word):
        root = Path(word)
        skipped = exclude.resolve() if exclude is not None else None
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(
                f for f in folders if f[0] != "." and Path(folder, f).resolve() != skipped
            )
            for file in sorted(files):
                inside = Path(folder, file)
                if file[0] != "." and inside.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                    yield str(inside), str(inside.relative_to(root))
    elif not os.path.exists(word) and glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        for match in matches or [word]:
            if not os.path.isdir(match):
                yield match, Path(match).name
    else:
        started = datetime.now().strftime("%Y%m%d-%H%M%S")
        camera = _kind(word) == "camera"
        yield word, f"camera-{word}-{started}" if camera else Path(word).name


def _kind(path: str) -> str:
    if path.isdigit() and not os.path.exists(path):
        return "camera"
    return "video" if Path(path).suffix.lower() in VIDEO_SUFFIXES else "image"


def _unused(name: str, names: set[str]) -> str:
    """`name`, or the first of name-2, name-3... that no other source has."""
    path, unused, count = Path(name), name, 1
    while unused in names:
        count += 1
        unused = str(path.with_name(f"{path.stem}-{count}{path.suffix}"))
    names.add(unused)
    return unused


def read_frames(sources: Iterable[Source]) -> Iterator[Frame]:
    """Every frame of every source in order; one with an error for what cannot be read."""
    for source in sources:
        try:
            if source.kind == "image":
                yield Frame(source, read_image(source.path))
            else:
                yield from video_frames(source)
        except (ImageError, FileError) as error:
            yield Frame(source, None, str(error))
        except (MemoryError, OSError) as error:
            yield Frame(source, None, f"cannot read {source.path}: {error or 'out of memory'}")


def frame_count(source: Source) -> int | None:
    """Number of frames by the file's own word; None where it does not tell, as a camera."""
    if source.kind == "image":
        return 1
    if source.kind == "camera":
        return None
    capture = opencv().VideoCapture(source.path)
    count = int(capture.get(opencv().CAP_PROP_FRAME_COUNT))
    capture.release()
    return count if count > 0 else None


def video_frames(source: Source) -> Iterator[Frame]:
    """The frames of a video or a camera, each held back until it is known whether it is the last."""
    cv2 = opencv()
    if source.kind == "video":
        with reading(source.path), open(source.path, "rb"):
            pass
    camera = source.kind == "camera"
    capture: Any = cv2.VideoCapture(int(source.path) if camera else source.path)
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else CAMERA_RATE
        held: Frame | None = None
        index, start = 0, monotonic()
        while True:
            there, image = capture.read()
            if not there:
                break
            if held is not None:
                yield held
            time = monotonic() - start if camera else index / rate
            held = Frame(source, np.asarray(image), None, index, time, rate, last=False)
            index += 1
        if held is None:
            raise ImageError(
                f"there is no camera {source.path} here, or another program holds it"
                if camera
                else f"cannot read {source.path}: it gives no frame that OpenCV can decode"
            )
        yield Frame(source, held.image, None, held.index, held.time, rate, last=True)
    finally:
        capture.release()
