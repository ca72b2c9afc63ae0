"""How well tracking agrees with searching every frame: `python -m tests.tracking_figures [--detector N]`.

Clips: people drawn over drawn backgrounds; with the asset bundle also portraits over photos, windows that
move over photos of crowds, and a broadcast. The tracker and a tracker that searches every frame see the same frames.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import process_time

import cv2
import numpy as np

import refnet
from refnet.faces.tracking import SEARCH_EVERY, FaceTracker
from refnet.media.sources import Source, video_frames
from refnet.networks.defaults import DETECTOR
from tests.moving_faces import (
    Agreement,
    Frame,
    Portrait,
    clip_of,
    crossing,
    panned,
    portrait,
    wandering,
)

SIZE = 360, 640
#: Photos without a face, for backgrounds.
SCENES = ("china.jpg", "skimage_coffee.png", "skimage_motorcycle_left.png", "skimage_rocket.jpg")


class Counting(FaceTracker):
    """A tracker that counts its searches of whole images."""

    searches = 0

    def _searched_for(self, image: np.ndarray, time: float) -> refnet.Faces:
        self.searches += 1
        return super()._searched_for(image, time)


def clips(analyzer: refnet.FaceAnalyzer, assets: Path) -> Iterator[tuple[str, Iterable[Frame]]]:
    """(name, frames) of every clip."""
    yield "drawn", clip_of(crossing(*SIZE))
    if not assets.is_dir():
        return
    photos = sorted((assets / "photos").glob("facerec_*")) + sorted(
        (assets / "validation/dlib_faces").glob("*.jpg")
    )
    rooms = [cv2.resize(refnet.read_image(assets / "photos" / s), SIZE[::-1]) for s in SCENES]
    found = [cut for photo in photos for cut in portraits(analyzer, photo)]
    yield "portraits over photos", clip_of(wandering(found, rooms, 12))
    crowds = sorted((assets / "validation/wider_val/images").glob("*"))[::10]
    yield "windows over photos", windows(crowds)
    clip = assets / "video/interview_clip.mp4"
    frames = video_frames(Source("video", str(clip), clip.name))
    yield "broadcast", (Frame(f.image, f.time or 0, {}) for f in frames if f.image is not None)


def portraits(analyzer: refnet.FaceAnalyzer, photo: Path) -> Iterator[Portrait]:
    """The clear faces of a photo, of 60 pixels and more, each cut out by itself."""
    image = refnet.read_image(photo)
    for face in analyzer(image):
        x1, y1, x2, y2 = (float(v) for v in face.box)
        if face.score > 0.7 and y2 - y1 >= 60 and face.pose is not None:
            left, top = max(0, int(2 * x1 - x2)), max(0, int(2 * y1 - y2))
            head = image[top : int(2 * y2 - y1), left : int(2 * x2 - x1)]
            yield portrait(head, (x1 - left, y1 - top, x2 - left, y2 - top))


def windows(photos: Iterable[Path]) -> Iterator[Frame]:
    """Four seconds over each photo, cut one after another."""
    start = 0.0
    for photo in photos:
        for frame in panned(refnet.read_image(photo), 4, SIZE):
            yield Frame(frame.image, start + frame.time, {})
        start += 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", default=DETECTOR)
    parser.add_argument("--search-every", type=float, default=SEARCH_EVERY)
    options = parser.parse_args()
    analyzer = refnet.FaceAnalyzer(options.detector, threads=1)
    default = Path(__file__).parents[2] / "shared" / "assets"
    print(
        "clip: agreement, recall, precision; people, numbers (searching every frame: numbers); searches; "
        "ms of CPU a frame"
    )
    for name, frames in clips(analyzer, Path(os.environ.get("REFNET_ASSETS", default))):
        every = Counting(analyzer, search_every=0)
        tracker = Counting(analyzer, search_every=options.search_every)
        figures, spent, count = Agreement(), [0.0, 0.0], 0
        for frame in frames:
            start = process_time()
            expected = every(frame.image, frame.time)
            middle = process_time()
            found = tracker(frame.image, frame.time)
            spent[0] += middle - start
            spent[1] += process_time() - middle
            figures.add(expected, found, frame.truth)
            count += 1
        people = len(figures.numbers) or "-"
        print(
            f"{name}: {figures.agreement:.4f}, {figures.recall:.4f}, {figures.precision:.4f} of {figures.expected} boxes; "
            f"{people} people, {tracker.count} numbers ({every.count}); "
            f"{tracker.searches} searches of {count} frames; "
            f"{spent[1] / count * 1000:.1f} ({spent[0] / count * 1000:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
