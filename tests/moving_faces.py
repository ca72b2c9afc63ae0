"""Clips of faces with known truth: portraits that move over backgrounds, and windows that move over photos.

Everything follows from numbers alone, so that a clip is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import refnet
from refnet.detection.boxes import iou
from refnet.faces.face import Faces
from refnet.faces.tracking import best_pairs

FRAMES = 30  # a second
#: The head of docs/astronaut.jpg: its rows and columns, and the face in it.
HEAD, FACE = (slice(0, 290), slice(90, 350)), (82.0, 62.0, 186.0, 188.0)


@dataclass(frozen=True)
class Portrait:
    """A head to be pasted: uint8 (H, W, 3) BGR, its face's box, and how much of each pixel shows, in [0, 1]."""

    image: np.ndarray
    face: tuple[float, float, float, float]
    mask: np.ndarray


@dataclass(frozen=True)
class Pose:
    """Where the middle of a face is and how: pixels, degrees; squeezed in width as a turned head is."""

    x: float
    y: float
    height: float
    roll: float = 0.0
    squeeze: float = 1.0


#: The pose at a time in seconds of the scene; None where the person is hidden or away.
Walk = Callable[[float], Pose | None]


@dataclass(frozen=True)
class Frame:
    """A frame, its time in seconds, and {person: box} of the faces whose middle is in it."""

    image: np.ndarray
    time: float
    truth: dict[int, np.ndarray]


@dataclass(frozen=True)
class Scene:
    """One shot: people before a background, for so many seconds."""

    seconds: float
    background: np.ndarray
    people: Sequence[tuple[Portrait, Walk]]


def portrait(image: np.ndarray, face: tuple[float, float, float, float]) -> Portrait:
    """The head in `image`, cut out by an ellipse with a soft edge."""
    x1, y1, x2, y2 = face
    height, width = image.shape[:2]
    v, u = np.mgrid[:height, :width]
    across = (u - (x1 + x2) / 2) / (0.95 * (x2 - x1))
    down = (v - (y1 + y2) / 2) / (0.95 * (y2 - y1))
    mask = np.clip((1 - np.hypot(across, down)) * 8, 0, 1)
    return Portrait(image, face, mask.astype(np.float32))


def astronauts() -> list[Portrait]:
    """The sample portrait as she is, mirrored, in other light and with other colours: four people."""
    photo = refnet.read_image(Path(__file__).parents[1] / "docs" / "astronaut.jpg")[HEAD]
    width = photo.shape[1]
    mirrored = (width - FACE[2], FACE[1], width - FACE[0], FACE[3])
    return [
        portrait(photo, FACE),
        portrait(np.ascontiguousarray(photo[:, ::-1]), mirrored),
        portrait(cv2.convertScaleAbs(photo, alpha=0.7, beta=10), FACE),
        portrait(np.ascontiguousarray(photo[:, ::-1, [0, 2, 1]]), mirrored),
    ]


def drawn_background(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs, bars and grain: as much texture as a room has, and no face."""
    generator = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), generator.integers(60, 200, 3), np.uint8)
    for _ in range(40):
        x, y = (int(v) for v in generator.integers(0, (width, height)))
        w, h = (int(v) for v in generator.integers(20, (width // 3, height // 3)))
        colour = tuple(int(c) for c in generator.integers(0, 255, 3))
        if generator.random() < 0.5:
            cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
        else:
            cv2.line(canvas, (x, y), (x + w, y + h), colour, 3, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(canvas, (0, 0), 2)
    return np.clip(blurred + generator.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def clip_of(scenes: Sequence[Scene], *, grain: float = 3.0, seed: int = 0) -> Iterator[Frame]:
    """The frames of `scenes` one after another, with new grain in each; people are numbered throughout."""
    generator = np.random.default_rng(seed)
    number, first = 0, 0
    for scene in scenes:
        for i in range(round(scene.seconds * FRAMES)):
            canvas = scene.background.copy()
            truth: dict[int, np.ndarray] = {}
            for person, (head, path) in enumerate(scene.people, first):
                pose = path(i / FRAMES)
                if pose is not None:
                    box = paste(canvas, head, pose)
                    middle = (box[:2] + box[2:]) / 2
                    if (middle > 0).all() and (middle < canvas.shape[1::-1]).all():
                        truth[person] = box
            noise = generator.standard_normal(canvas.shape, np.float32) * grain
            grainy = np.clip(canvas + noise, 0, 255).astype(np.uint8)
            yield Frame(grainy, number / FRAMES, truth)
            number += 1
        first += len(scene.people)


def paste(canvas: np.ndarray, head: Portrait, pose: Pose) -> np.ndarray:
    """Paste `head` into `canvas`; the box of its face there, which may leave it."""
    x1, y1, x2, y2 = head.face
    scale = pose.height / (y2 - y1)
    turn = math.radians(pose.roll)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = rotation @ np.diag([scale * pose.squeeze, scale])
    shift = np.array([pose.x, pose.y]) - linear @ [(x1 + x2) / 2, (y1 + y2) / 2]
    matrix = np.column_stack([linear, shift])
    size = canvas.shape[1::-1]
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - [(x1 + x2) / 2, (y1 + y2) / 2]
    upright = corners @ np.diag([scale * pose.squeeze, scale])
    box = np.concatenate([upright.min(0), upright.max(0)]) + [pose.x, pose.y] * 2
    # All of the head is in a part of the canvas, and only that is mixed.
    reach = abs(linear) @ np.array(head.image.shape[1::-1]) + 2
    middle = np.array([pose.x, pose.y])
    x1, y1 = np.clip(np.floor(middle - reach), 0, size).astype(int)
    x2, y2 = np.clip(np.ceil(middle + reach), 0, size).astype(int)
    if x2 <= x1 or y2 <= y1:
        return box
    matrix[:, 2] -= x1, y1
    part, size = canvas[y1:y2, x1:x2], (int(x2 - x1), int(y2 - y1))
    pixels = cv2.warpAffine(head.image, matrix, size, flags=cv2.INTER_AREA)
    mask = cv2.warpAffine(head.mask, matrix, size)[:, :, None]
    part[:] = (part + mask * (pixels.astype(np.float32) - part)).astype(np.uint8)
    return box


def crossing(height: int, width: int, seed: int = 0) -> list[Scene]:
    """Three shots: two people enter and leave, one is hidden for 0.4 s and tilts; then others; then none, and one.

    Six people in 11 seconds.
    """
    a, b, c, d = astronauts()
    face = height / 3.5

    def still(t: float) -> Pose | None:
        """Stands left, tilts and turns, is hidden for 0.4 s."""
        if 2.0 <= t < 2.4:
            return None
        sway = math.sin(2 * math.pi * t / 3)
        return Pose(width * 0.25 + 10 * sway, height * 0.5, face, 18 * sway, 1 - 0.3 * abs(sway))

    def passing(t: float) -> Pose | None:
        """Enters from the right at one second, stops, leaves to the right at four."""
        away = max(0.0, 2.0 - t) + max(0.0, t - 3.5)
        return None if t < 1.04 else Pose(width * (0.65 + 0.4 * away), height * 0.45, face * 1.1)

    def approaching(t: float) -> Pose | None:
        return Pose(width * 0.5, height * 0.5, face * (0.6 + 0.25 * t))

    def jumping(t: float) -> Pose | None:
        return Pose(width * 0.78, height * (0.5 + 0.08 * math.sin(2 * math.pi * t)), face * 0.6)

    def late(t: float) -> Pose | None:
        return None if t < 0.77 else Pose(width * (0.3 + 0.1 * t), height * 0.5, face)

    def leaving(t: float) -> Pose | None:
        return Pose(width * (0.7 + 0.25 * max(0.0, t - 1)), height * 0.4, face * 0.8)

    rooms = [drawn_background(height, width, seed + i) for i in range(3)]
    return [
        Scene(5, rooms[0], [(a, still), (b, passing)]),
        Scene(3, rooms[1], [(c, approaching), (d, jumping)]),
        Scene(3, rooms[2], [(b, late), (a, leaving)]),
    ]


class Agreement:
    """How a tracker's boxes compare with those of a search of every frame, and with the truth.

    Attributes:
        expected, found, shared: boxes of the search, of the tracker, and pairs of them of an IoU of 0.5.
        true, seen: boxes of the truth, and those of them that the tracker overlaps by 0.3: a detector's boxes
            are larger or smaller than these.
        numbers: {person: track numbers}.
    """

    def __init__(self) -> None:
        self.expected = self.found = self.shared = self.true = self.seen = 0
        self.numbers: dict[int, set[int | None]] = {}

    def add(self, expected: Faces, found: Faces, truth: Mapping[int, np.ndarray]) -> None:
        """Count a frame."""
        self.expected += len(expected)
        self.found += len(found)
        self.shared += len(list(best_pairs(iou(expected.boxes, found.boxes), 0.5)))
        people = list(truth)
        boxes = np.array([truth[person] for person in people]).reshape(-1, 4)
        self.true += len(people)
        for i, j in best_pairs(iou(boxes, found.boxes), 0.3):
            self.seen += 1
            self.numbers.setdefault(people[i], set()).add(found[j].track_id)

    @property
    def recall(self) -> float:
        """Share of the boxes of the search that the tracker has."""
        return self.shared / max(self.expected, 1)

    @property
    def precision(self) -> float:
        """Share of the tracker's boxes that the search has."""
        return self.shared / max(self.found, 1)

    @property
    def agreement(self) -> float:
        """Boxes that both have, over the boxes that either has."""
        return self.shared / max(self.expected + self.found - self.shared, 1)

    @property
    def seen_of_truth(self) -> float:
        """Share of the true boxes that the tracker has."""
        return self.seen / max(self.true, 1)

    def first(self, person: int) -> int | None:
        """The smallest of the person's numbers."""
        known = [number for number in self.numbers.get(person, ()) if number is not None]
        return min(known, default=None)


def panned(photo: np.ndarray, seconds: float, size: tuple[int, int]) -> Iterator[Frame]:
    """A window of `size` (height, width) that moves to and fro over `photo`, enlarged to twice the window."""
    height, width = size
    scale = max(2 * width / photo.shape[1], 1.2 * height / photo.shape[0], 1.0)
    large = cv2.resize(photo, (0, 0), fx=scale, fy=scale)
    room = large.shape[0] - height, large.shape[1] - width
    for i in range(round(seconds * FRAMES)):
        along = (1 - math.cos(2 * math.pi * i / FRAMES / seconds)) / 2
        down = (1 + math.sin(2 * math.pi * i / FRAMES / seconds)) / 2
        y, x = round(room[0] * down), round(room[1] * along)
        yield Frame(np.ascontiguousarray(large[y : y + height, x : x + width]), i / FRAMES, {})


def wandering(
    portraits: Sequence[Portrait], backgrounds: Sequence[np.ndarray], scenes: int, seed: int = 0
) -> list[Scene]:
    """Shots of one to three people each, who enter at any time, walk, tilt, turn, are hidden briefly, and leave."""
    generator = np.random.default_rng(seed)
    made = []
    for n in range(scenes):
        background = backgrounds[n % len(backgrounds)]
        height, width = background.shape[:2]
        count, seconds = int(generator.integers(1, 4)), float(generator.uniform(3, 6))
        chosen = generator.permutation(len(portraits))[:count]
        people = []
        for place, one in enumerate(chosen):
            middle = width * (place + 0.5) / count
            face = min(height / 3.5, width / count / 2.5) * generator.uniform(0.6, 1)
            enters = generator.choice([-1.0, generator.uniform(0, seconds / 3)])
            leaves = generator.choice([9e9, generator.uniform(seconds * 0.7, seconds)])
            hidden = generator.choice([9e9, generator.uniform(seconds * 0.35, seconds * 0.6)])
            gone = float(generator.uniform(0.1, 0.45))
            sway, tempo = float(generator.uniform(0, 0.3)), float(generator.uniform(1.5, 4))
            people.append(
                (
                    portraits[one],
                    _walk((middle, height, face), (enters, leaves, hidden, gone), (sway, tempo)),
                )
            )
        made.append(Scene(seconds, background, people))
    return made


def _walk(
    place: tuple[float, float, float], times: tuple[float, ...], swing: tuple[float, float]
) -> Walk:
    middle, height, face = place
    enters, leaves, hidden, gone = times
    sway, tempo = swing

    def walk(t: float) -> Pose | None:
        if t < enters or hidden <= t < hidden + gone:
            return None
        # In from below and out again, within half a second each.
        below = max(0.0, 1 - (t - enters) / 0.5) + max(0.0, (t - leaves) / 0.5)
        turn = math.sin(2 * math.pi * t / tempo)
        y = height * (0.5 + 0.75 * below)
        return Pose(middle + sway * face * turn, y, face, 15 * turn, 1 - sway * abs(turn))

    return walk
