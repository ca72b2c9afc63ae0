"""A clip to measure speed on: `python -m tests.one_person OUT.mp4 [--seconds 20]`, then `refnet bench --video OUT.mp4`.

One person before a room, 1920×1080 at 30 frames a second, H.264 of 5 Mbit/s. The sample portrait sways, tilts, turns
and comes nearer; the camera is held by hand, and every frame has new grain. Needs PyAV (`pip install av`), since
OpenCV from pip writes no H.264.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from tests.moving_faces import FRAMES, Pose, astronauts, drawn_background, paste

HEIGHT, WIDTH = 1080, 1920
#: The camera's reach in pixels, and the grain's standard deviation.
SHAKE, GRAIN = 12, 3.0


def frames(seconds: float, *, seed: int = 0) -> Iterator[np.ndarray]:
    """uint8 (1080, 1920, 3) BGR each."""
    generator = np.random.default_rng(seed)
    (head, *_), size = astronauts(), (HEIGHT + 2 * SHAKE, WIDTH + 2 * SHAKE)
    room = drawn_background(*size, 5)
    grains = [np.rint(generator.normal(0, GRAIN, size)).astype(np.int8) for _ in range(3)]
    for i in range(round(seconds * FRAMES)):
        time = i / FRAMES
        fast, slow = math.sin(2 * math.pi * time / 4), math.sin(2 * math.pi * time / 7)
        x, y = (round(SHAKE * (1 + math.sin(rate * time))) for rate in (2.1, 2.9))
        image = room[y : y + HEIGHT, x : x + WIDTH].copy()
        middle = WIDTH * (0.5 + 0.12 * slow), HEIGHT * (0.5 + 0.04 * fast)
        face = HEIGHT * 0.3 * (1 + 0.15 * slow)
        paste(image, head, Pose(*middle, face, 12 * fast, 1 - 0.15 * abs(fast)))
        x, y = generator.integers(0, 2 * SHAKE, 2)
        grain = grains[i % 3][y : y + HEIGHT, x : x + WIDTH]
        yield np.asarray(cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    av: Any = importlib.import_module("av")
    with av.open(options.out, "w") as file:
        stream = file.add_stream("libx264", rate=FRAMES)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate, stream.options = 5_000_000, {"preset": "veryfast"}
        for image in frames(options.seconds):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        file.mux(stream.encode())


if __name__ == "__main__":
    main()
