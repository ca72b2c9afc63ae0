"""How long photos and videos take from their files to faces: reading and analyzing, each by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.errors import ImageError
from refnet.media.sources import Source, read_frames


@dataclass(frozen=True)
class MediaResult:
    """What was measured.

    Attributes:
        images: photos or frames that were read and analyzed.
        faces: faces found in all of them.
        read, analyze: median milliseconds of an image: decoding its file; finding its faces.
        per_second: images in a second, one after another.
    """

    images: int
    faces: int
    read: float
    analyze: float
    per_second: float


def measure_media(
    sources: Iterable[Source], analyze: Callable[[Any, float | None], Any], *, seconds: float
) -> MediaResult:
    """Read and analyze sources, once through or until the time is over; the first image is not counted.

    Args:
        analyze: called with an image, uint8 (H, W, 3) BGR, and its time in a video, None for photos.
        seconds: when to stop.

    Raises:
        ImageError: fewer than two images can be read.
    """
    reading, analyzing, faces = [], [], 0
    end, start = None, time.perf_counter()
    for frame in read_frames(sources):
        if frame.image is None:
            start = time.perf_counter()
            continue
        read = time.perf_counter()
        found = len(analyze(frame.image, frame.time))
        done = time.perf_counter()
        if end is None:
            end = done + seconds
        else:
            reading.append(read - start)
            analyzing.append(done - read)
            faces += found
            if done > end:
                break
        start = time.perf_counter()
    if not reading:
        raise ImageError("there are fewer than two images to measure with")
    return MediaResult(
        images=len(reading),
        faces=faces,
        read=float(np.median(reading)) * 1e3,
        analyze=float(np.median(analyzing)) * 1e3,
        per_second=len(reading) / (sum(reading) + sum(analyzing)),
    )
