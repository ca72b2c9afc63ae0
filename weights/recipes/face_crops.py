"""What one training step sees: crops of photos at random scale, damaged as photos in the wild are.

Of most crops the size of a face is drawn first, evenly by its logarithm, then a photo in which some face
needs little enlargement to have it; so every branch of the detector meets its sizes. A third of the crops
are four smaller ones side by side, which shows more faces a pixel. Faces are covered by patches of other
photos, or the whole crop is seen through a reflection; pixels are blurred, shrunken, recoloured, made noisy and compressed.

Towards the end of a run crops are calm: without mosaics and with a third of the damage, more like the photos that a
user has (Ge et al. 2021, "YOLOX", section 2.1, end training so).

What is drawn follows from the step alone, so a run that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset

from refnet.ops import Array
from weights.recipes.face_hints import Teacher
from weights.recipes.face_photos import MIRRORED, Photo, photos

#: How often a photo of each kind is drawn, where there are any.
SHARES: Mapping[str, float] = {"faces": 0.66, "masks": 0.08, "occluded": 0.09, "empty": 0.17}
#: (side, crops) of a batch and how often it is drawn; each has about two million pixels.
BATCHES = (((256, 32), 0.5), ((384, 14), 0.25), ((512, 8), 0.25))
#: Share of the crops without faces that are drawn textures, such as a microscope or a wall shows.
TEXTURES = 0.25
#: Share of the crops that are four smaller ones.
MOSAICS = 0.35
#: Share of the crops whose face keeps about the size it has in the photo; of the others the size is drawn first.
OWN_SIZE = 0.45
#: How much of the damage, turning and covering is left in calm crops.
CALM = 0.35
#: Share of the crops that are seen through a reflection.
VEILED = 0.3
#: Faces with a smaller longer side are ignored: at the sizes at which photos are searched, those that are looked for have
#: 20 pixels and more, and smaller ones are hard to learn.
SMALLEST = 16
#: A face of which the crop shows a smaller share is ignored; points need more of it.
SEEN, SEEN_FOR_POINTS = 0.4, 0.7
#: No photo is enlarged more, and a face is preferred that need not be enlarged more than the second.
LARGEST_ZOOM, COMMON_ZOOM = 3.0, 2.2


@dataclass(frozen=True)
class Crop:
    """A training image.

    Attributes:
        image: uint8 (S, S, 3) BGR.
        boxes: (B, 4) float32, xyxy in pixels, inside the image.
        ignored: (B,) bool, boxes whose cells count neither as face nor as background.
        points: (B, 5, 2) float32, NaN where they are not known.
    """

    image: Array
    boxes: Array
    ignored: Array
    points: Array


class Crops:
    """Draws crops from `photos` with the generator `rng`."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.calm = False
        self.empty = [photo for photo in photos if photo.kind == "empty"]
        #: {kind: photos with a face to learn, by rising side of their largest one}
        self.faces: dict[str, list[Photo]] = {}
        self.largest: dict[str, Array] = {}
        for kind in SHARES:
            largest = [
                (float(photo.sides[~photo.ignored].max(initial=0)), i)
                for i, photo in enumerate(photos)
                if photo.kind == kind and kind != "empty"
            ]
            known = sorted(entry for entry in largest if entry[0] >= SMALLEST)
            if known:
                self.faces[kind] = [photos[i] for _, i in known]
                self.largest[kind] = np.array([side for side, _ in known])
        drawn = {
            k: s for k, s in SHARES.items() if k in self.faces or (k == "empty" and self.empty)
        }
        self.kinds = list(drawn)
        self.shares = np.array(list(drawn.values())) / sum(drawn.values())

    def batch(self, rng: np.random.Generator, *, calm: bool = False) -> list[Crop]:
        """The crops of one step, all of one size."""
        self.calm = calm
        shares = [share for _, share in BATCHES]
        side, count = BATCHES[int(rng.choice(len(BATCHES), p=shares))][0]
        return [self.crop(rng, side) for _ in range(count)]

    def crop(self, rng: np.random.Generator, side: int) -> Crop:
        """One crop: a mosaic or a single one."""
        mosaic = rng.random() < MOSAICS and not self.calm
        return self._mosaic(rng, side) if mosaic else self._single(rng, side)

    def _mosaic(self, rng: np.random.Generator, side: int) -> Crop:
        half = side // 2
        image = np.empty((side, side, 3), np.uint8)
        parts = []
        for row, column in ((0, 0), (0, half), (half, 0), (half, half)):
            part = self._single(rng, half)
            image[row : row + half, column : column + half] = part.image
            shift = np.array([column, row], np.float32)
            parts.append((part.boxes + np.tile(shift, 2), part.ignored, part.points + shift))
        boxes, ignored, points = (np.concatenate(own) for own in zip(*parts, strict=True))
        return Crop(image, boxes, ignored, points)

    def _single(self, rng: np.random.Generator, side: int) -> Crop:
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]
        if kind == "empty" and rng.random() < TEXTURES:
            none = np.zeros((0, 4), np.float32)
            points = np.zeros((0, 5, 2), np.float32)
            return Crop(texture(rng, side), none, np.zeros(0, bool), points)
        if kind == "empty":
            photo = self.empty[int(rng.integers(len(self.empty)))]
            scale = side / max(photo.image.shape[:2]) * math.exp(rng.uniform(-0.4, 1.2))
            room = np.array(photo.image.shape[1::-1])
            inner = np.minimum(0.4 * side / scale, room / 2)
            centre = rng.uniform(inner, room - inner)
            return self._cut(rng, photo, scale, centre, side)
        photo, face, size = self._target(rng, kind, side)
        own = float(photo.sides[face])
        scale = min(max(size / own, 0.06), LARGEST_ZOOM)
        middle = (photo.boxes[face, :2] + photo.boxes[face, 2:]) / 2
        # The face may lie anywhere in the crop, partly outside of it at times.
        reach = max(side - 0.8 * scale * own, 8) / scale
        return self._cut(rng, photo, scale, middle + rng.uniform(-0.5, 0.5, 2) * reach, side)

    def _target(self, rng: np.random.Generator, kind: str, side: int) -> tuple[Photo, int, float]:
        """A photo, one of its faces, and the longer side that the face is to have in the crop."""
        known, largest = self.faces[kind], self.largest[kind]
        if rng.random() < OWN_SIZE:  # any face, at about its own size
            photo = known[int(rng.integers(len(known)))]
            face = int(rng.choice(np.flatnonzero(~photo.ignored & (photo.sides >= SMALLEST))))
            return photo, face, min(photo.sides[face] * rng.uniform(0.5, 1.5), 1.1 * side)
        size = math.exp(rng.uniform(math.log(SMALLEST), math.log(1.05 * side)))
        least = size / COMMON_ZOOM
        first = max(0, min(int(np.searchsorted(largest, least)), len(known) - 40))
        for _ in range(8):  # a photo that fills most of the crop as well
            photo = known[int(rng.integers(first, len(known)))]
            most = size * max(photo.image.shape[:2]) / (0.7 * side)
            sides = np.where(photo.ignored, 0, photo.sides)
            fitting = np.flatnonzero((sides >= least) & (sides <= most))
            if len(fitting):
                return photo, int(rng.choice(fitting)), size
        large = np.flatnonzero(sides >= least)
        return photo, int(rng.choice(large)) if len(large) else int(sides.argmax()), size

    def _cut(
        self, rng: np.random.Generator, photo: Photo, scale: float, centre: Array, side: int
    ) -> Crop:
        """The crop of `side` pixels about `centre` of the photo at `scale`: turned, mirrored, damaged."""
        ratio = rng.uniform(0.9, 1.1)
        strength = CALM if self.calm else 1.0
        angle = math.radians(rng.normal(0, 9)) if rng.random() < 0.35 * strength else 0.0
        if rng.random() < 0.02 * strength:
            angle = rng.uniform(-1.2, 1.2)
        cos, sin = math.cos(angle), math.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([scale * ratio, scale])
        shift = side / 2 - linear @ centre
        mirror = rng.random() < 0.5
        if mirror:
            linear[0], shift[0] = -linear[0], side - shift[0]
        image = self._sampled(rng, photo.image, linear, shift, side)
        boxes, seen = _moved(photo.boxes, linear, shift, scale, ratio, angle, side)
        points = photo.points @ linear.T.astype(np.float32) + shift.astype(np.float32)
        if mirror:
            points = points[:, list(MIRRORED)]
        points = np.where(seen[:, None, None] < SEEN_FOR_POINTS, np.nan, points)
        small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) < SMALLEST
        ignored = photo.ignored | (seen < SEEN) | small
        here = seen > 0.02
        boxes, ignored = boxes[here].astype(np.float32), ignored[here]
        image = self._covered(rng, image, boxes[~ignored])
        if self.empty and rng.random() < VEILED * strength:
            image = self._veiled(rng, image)
        if rng.random() < strength:
            image = damaged(rng, image)
        return Crop(image, boxes, ignored, points[here].astype(np.float32))

    def _sampled(
        self, rng: np.random.Generator, image: Array, linear: Array, shift: Array, side: int
    ) -> Array:
        """The pixels: halved by means while the crop is far smaller, then sampled linearly."""
        shrunk, scale = image, float(np.linalg.norm(linear[:, 1]))
        while scale < 0.5 and min(shrunk.shape[:2]) > 16:
            shrunk = cv2.resize(shrunk, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            scale *= 2
        factors = np.array([image.shape[i] / shrunk.shape[i] for i in (1, 0)])
        matrix = np.column_stack([linear * factors, shift])
        mean = shrunk[::8, ::8].reshape(-1, 3).mean(axis=0)
        fill = [np.zeros(3), np.zeros(3), np.full(3, 114.0), mean][int(rng.integers(4))]
        return np.asarray(cv2.warpAffine(shrunk, matrix, (side, side), borderValue=fill.tolist()))

    def _covered(self, rng: np.random.Generator, image: Array, faces: Array) -> Array:
        """Some faces partly hidden behind a plain colour or a piece of a photo without faces."""
        if rng.random() > 0.35:
            return image
        limit = np.array(image.shape[1::-1])
        for box in faces:
            sides = box[2:] - box[:2]
            if sides.max() < 20 or rng.random() > 0.4:
                continue
            size = sides * rng.uniform((0.25, 0.2), (0.8, 0.55))
            corner = rng.uniform(box[:2] - 0.3 * size, box[2:] - 0.7 * size)
            if rng.random() < 0.6:  # most often what hides a face hides its mouth
                corner[1] = box[3] - size[1] * rng.uniform(0.3, 1.05)
            x1, y1 = np.maximum(corner, 0).astype(int)
            x2, y2 = np.minimum(corner + size, limit).astype(int)
            if min(x2 - x1, y2 - y1) < 3:
                continue
            patch = self._patch(rng, x2 - x1, y2 - y1)
            shape = np.zeros(patch.shape[:2], np.uint8)
            if rng.random() < 0.6:
                half = (int(x2 - x1) // 2, int(y2 - y1) // 2)
                cv2.ellipse(shape, half, half, rng.uniform(-30, 30), 0, 360, 1, -1)
            else:
                shape[:] = 1
            target = image[y1:y2, x1:x2]
            target[shape > 0] = patch[shape > 0]
        return image

    def _veiled(self, rng: np.random.Generator, image: Array) -> Array:
        """As through a pane of glass, in which a photo without faces is mirrored."""
        side, share = image.shape[0], rng.uniform(0.05, 0.35)
        source = self.empty[int(rng.integers(len(self.empty)))].image
        size = int(rng.integers(60, max(61, min(source.shape[:2]))))
        y, x = (int(rng.integers(max(1, length - size))) for length in source.shape[:2])
        pane = cv2.resize(source[y : y + size, x : x + size], (side, side))
        return np.asarray(cv2.addWeighted(image, 1 - share, pane, share, 0))

    def _patch(self, rng: np.random.Generator, width: int, height: int) -> Array:
        if rng.random() < 0.35 or not self.empty:
            return np.full((height, width, 3), rng.integers(256, size=3), np.uint8)
        source = self.empty[int(rng.integers(len(self.empty)))].image
        size = int(rng.integers(22, 122))
        y, x = (int(rng.integers(max(1, length - size // 2))) for length in source.shape[:2])
        return np.asarray(cv2.resize(source[y : y + size, x : x + size], (width, height)))


def _moved(
    boxes: Array, linear: Array, shift: Array, scale: float, ratio: float, angle: float, side: int
) -> tuple[Array, Array]:
    """(boxes in the crop, cut to it; the share of each that the crop shows).

    The upright box about a turned box is larger than the turned face: for small angles the mean of both
    sizes is taken, as a head is about an ellipse.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + shift
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 * (scale * ratio, scale)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    about = np.stack(
        [cos * halves[:, 0] + sin * halves[:, 1], sin * halves[:, 0] + cos * halves[:, 1]], 1
    )
    halves = (halves + about) / 2 if abs(angle) < 0.6 else 0.9 * about
    whole = np.concatenate([centres - halves, centres + halves], axis=1)
    cut = np.clip(whole, 0, side)
    area = np.maximum((whole[:, 2:] - whole[:, :2]).prod(axis=1), 1e-6)
    return cut, (cut[:, 2:] - cut[:, :2]).prod(axis=1) / area


def texture(rng: np.random.Generator, side: int) -> Array:
    """An image (side, side, 3) without a face: noise of many sizes, and at times round and square spots on it.

    Photos of things seldom show cells, gravel, fabric or dials; a detector takes their spots for small faces.
    """
    noise = np.zeros((side, side, 3), np.float32)
    fall = rng.uniform(0.3, 1.3)
    for octave in range(2, 8):
        cells = 2**octave
        drawn = rng.normal(0, cells**-fall, (cells, cells, 3 if rng.random() < 0.3 else 1))
        enlarged = cv2.resize(drawn.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        noise += enlarged.reshape(side, side, -1)
    contrast = rng.uniform(5, 60) / max(float(noise.std()), 1e-6)
    image = np.clip(noise * contrast + rng.uniform(30, 225, 3), 0, 255).astype(np.uint8)
    if rng.random() < 0.75:
        _spots(rng, image)
    if rng.random() < 0.6:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 3.5)), np.uint8)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    colourful = rng.choice([0.0, 0.25, 0.5, 1.0])
    return np.asarray(cv2.addWeighted(image, colourful, gray, 1 - colourful, 0))


def _spots(rng: np.random.Generator, image: Array) -> None:
    """Draw spots of about one size and colour into the image, filled or as rings, some with a core."""
    size, colour = math.exp(rng.uniform(math.log(3), math.log(45))), rng.uniform(0, 255, 3)
    spread, cored = rng.uniform(2, 40), rng.random() < 0.5
    ring, square = rng.random() < 0.25, rng.random() < 0.2
    for _ in range(int(rng.integers(3, 60))):
        centre = rng.uniform(0, image.shape[0], 2).astype(int).tolist()
        axes = np.maximum(size * rng.uniform(0.6, 1.4, 2), 1).astype(int).tolist()
        shade = np.clip(colour + rng.normal(0, spread, 3), 0, 255).tolist()
        width = max(1, int(0.2 * size)) if ring else -1
        if square:
            corner = [centre[0] + axes[0], centre[1] + axes[1]]
            cv2.rectangle(image, centre, corner, shade, width)
            continue
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, shade, width, cv2.LINE_AA)
        if cored:
            core = [max(1, axis // 3) for axis in axes]
            dark = np.clip(np.array(shade) - rng.uniform(20, 90), 0, 255).tolist()
            cv2.ellipse(image, centre, core, 0, 0, 360, dark, -1, cv2.LINE_AA)


def damaged(rng: np.random.Generator, image: Array) -> Array:
    """The image as a worse camera, a screen or a web site would have given it; nothing moves."""
    side = image.shape[0]
    kind = rng.random()
    if kind < 0.08:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.2))
    elif kind < 0.16:  # shrunken and enlarged again
        factor = 1 / rng.uniform(1.5, 3.5)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (side, side), interpolation=int(rng.choice([1, 2])))
    elif kind < 0.2:
        image = cv2.filter2D(image, -1, _motion(rng))
    if rng.random() < 0.8:
        image = cv2.LUT(image, _tones(rng))
    kind = rng.random()
    if kind < 0.3:  # gray, or more or less colourful
        gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        share = 0.0 if kind < 0.12 else rng.uniform(0.3, 1.7)
        image = cv2.addWeighted(image, share, gray, 1 - share, 0)
    if rng.random() < 0.12:
        noise = rng.normal(0, rng.uniform(2, 14), image.shape).astype(np.int16)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))]
        decoded = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        image = np.asarray(decoded)
    return np.asarray(image)


def _motion(rng: np.random.Generator) -> Array:
    """The kernel of a straight motion in any direction."""
    size, angle = int(rng.choice([3, 5, 7, 9])), rng.uniform(0, math.pi)
    kernel = np.zeros((size, size), np.float32)
    along = np.linspace(-1, 1, 2 * size) * (size - 1) / 2
    rows = np.rint((size - 1) / 2 + along * math.sin(angle)).astype(int)
    columns = np.rint((size - 1) / 2 + along * math.cos(angle)).astype(int)
    kernel[rows, columns] = 1
    return np.asarray(kernel / kernel.sum())


def _tones(rng: np.random.Generator) -> Array:
    """A table (1, 256, 3) of gamma, contrast, brightness and the light's colour."""
    curve = 255 * (np.arange(256) / 255) ** math.exp(rng.uniform(-0.35, 0.35))
    tones = (curve - 128) * rng.uniform(0.55, 1.5) + 128 + rng.uniform(-35, 35)
    colour = rng.uniform(0.75, 1.25, 3) if rng.random() < 0.5 else np.ones(3)
    return np.clip(tones[:, None] * colour, 0, 255).astype(np.uint8)[None]


#: Pixels; of each crop, its faces; and what a teacher sees in them.
Batch = tuple[torch.Tensor, list[tuple[torch.Tensor, ...]], list[torch.Tensor]]


class Batches(IterableDataset[Batch]):
    """Batches from step `first` on, each drawn by (seed, step).

    From step `calm_from` on the crops are calm. `teacher` is a file that gives hints, see `face_hints`.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        first: int,
        calm_from: float = math.inf,
        teacher: Path | None = None,
    ) -> None:
        self.folder, self.seed, self.first, self.calm_from = folder, seed, first, calm_from
        self.teacher = teacher
        # Here rather than in the forked process that draws, where OpenCV would wait for threads that it has not.
        cv2.setNumThreads(1)

    def __iter__(self) -> Iterator[Batch]:
        teacher = None if self.teacher is None else Teacher(self.teacher)
        crops, step = Crops(photos(self.folder)), self.first
        while True:
            rng = np.random.default_rng([self.seed, step])
            drawn = crops.batch(rng, calm=step >= self.calm_from)
            pixels = np.stack([crop.image for crop in drawn])
            faces = [
                tuple(torch.from_numpy(own) for own in (crop.boxes, crop.ignored, crop.points))
                for crop in drawn
            ]
            hints = [] if teacher is None else teacher(pixels)
            yield torch.from_numpy(pixels), faces, hints
            step += 1
