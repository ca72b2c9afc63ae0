"""Scenes to train a face detector on: photos with boxes, cropped at random scale, composed, distorted.

Sampling follows YonghaoHe/LFFD: of every crop one face is the target, and its size is drawn branch by
branch, so that all sizes occur. Photos here hold few small faces, so some crops are composed: several
shrunken photos side by side, or faces pasted onto photos without people.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from refnet.detection.geometry import BranchGeometry
from refnet.media.images import read_image
from refnet.ops import Array
from refnet.training.annotations import table
from weights.recipes.landmark_data import bounds, restore
from weights.recipes.splits import is_set_aside

#: Boxes with a lower score are neither faces nor background.
SURE = 0.5
#: The source of faces that the landmark recipe labelled.
CROPS = "face crops"
#: How often a photo of each source is drawn, beside the others at hand: by what a source has to teach,
#: not by how many photos it holds.
SHARES: Mapping[str, float] = {
    "web_photos/without_mask": 0.35,
    "web_photos/with_mask": 0.15,
    "coco256/train2017": 0.1,
    "coco256/val2017": 0.1,
    CROPS: 0.3,
}
#: A face that is cut to a smaller share is no face to learn, nor background.
SEEN = 2 / 3
#: A face of fewer pixels is a blob; learning it as a face makes faces of hands.
READABLE = 12
#: No face is enlarged more than this.
LARGEST_ZOOM = 3.0
#: From the box of 98 points to the box of the face, in shares of the former's sides: the points end at
#: the brows. The medians over 410 web photos with both; the boxes' median IoU is then 0.92.
FACE_OF_POINTS = np.array([0.01, -0.36, -0.01, -0.01])


@dataclass(frozen=True)
class Photo:
    """A photo in memory.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        boxes: (B, 4) float64, xyxy in pixels; none for a background.
        ignored: (B,) bool, boxes that may or may not be faces.
        aside: never trained on.
        source: where it is from, a key of `SHARES`.
    """

    image: Array
    boxes: Array
    ignored: Array
    aside: bool
    source: str = "web_photos/without_mask"

    @property
    def faces(self) -> Array:
        """The boxes that are surely faces, with an area."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return self.boxes[~self.ignored & (sides > 1).all(axis=1)]


class Pool:
    """Photos to draw from, each source as often as `SHARES` says."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.groups = [[p for p in photos if p.source == source] for source in SHARES]
        shares = np.array([s * bool(g) for s, g in zip(SHARES.values(), self.groups, strict=True)])
        self.until = np.cumsum(shares / shares.sum())

    def draw(self, rng: np.random.Generator) -> Photo:
        """One photo."""
        group = self.groups[int(np.searchsorted(self.until, rng.random(), side="right"))]
        return group[int(rng.integers(len(group)))]


def face_photos(data: Path) -> list[Photo]:
    """The photos with at least one face under `data`/train, but augmented copies."""
    return [photo for photo in _labelled(data, SHARES) if len(photo.faces)]


def people(data: Path) -> list[Photo]:
    """The COCO photos under `data`/train with a person, whether or not one sees a face."""
    empty = {path.stem for path in _without_people(data)}
    sources = [name for name in SHARES if name.startswith("coco256")]
    return list(_labelled(data, sources, empty))


def _labelled(data: Path, sources: Iterable[str], but: Container[str] = ()) -> Iterator[Photo]:
    for name in sources:
        folder = data / "train" / name
        listing = folder.with_name(f"{folder.name}_faces_pseudo.csv")
        if not listing.exists():
            continue
        for entry in table(listing, folder, score=SURE):
            if entry.image.name.startswith("augmented") or entry.image.stem in but:
                continue
            key = "".join(c for c in entry.image.name if c.isdigit())
            image, aside = read_image(entry.image), is_set_aside(key)
            yield Photo(image, entry.boxes, entry.ignored, aside, name)


def face_box(points: Array) -> Array:
    """The box (4,) that a detector draws about a face with these points (98 or 68, 2)."""
    box = bounds(points.astype(np.float64))
    return np.asarray(box + FACE_OF_POINTS * np.tile(box[2:] - box[:2], 2))


def face_crops(file: Path) -> list[Photo]:
    """Faces of many people, cut out of video frames: those that the landmark recipe labelled."""
    faces = restore(file)
    photos = []
    for image, points, aside, source in zip(
        faces.images, faces.points, faces.aside, faces.sources, strict=True
    ):
        if source == "youtube_faces_crops":
            # Many are cut at the forehead.
            box = np.clip(face_box(points), 0, np.tile(image.shape[1::-1], 2))
            photos.append(Photo(image, box[None], np.zeros(1, bool), bool(aside), CROPS))
    return photos


def backgrounds(data: Path) -> list[Photo]:
    """The COCO photos under `data`/train without a person."""
    nothing = np.zeros((0, 4)), np.zeros(0, bool)
    found = []
    for path in _without_people(data):
        key = "".join(c for c in path.name if c.isdigit())
        found.append(Photo(read_image(path), *nothing, is_set_aside(key)))
    return found


def _without_people(data: Path) -> Iterator[Path]:
    """The photos whose YOLO labels name no person, class 0."""
    folder = data / "train" / "coco256"
    for labels in sorted((folder / "labels_yolo").rglob("*.txt")):
        if any(line.split()[0] == "0" for line in labels.read_text().splitlines() if line):
            continue
        for part in ("train2017", "val2017"):
            path = folder / part / f"{labels.stem}.jpg"
            if path.exists():
                yield path


def target_side(side: float, branches: Sequence[BranchGeometry], rng: np.random.Generator) -> int:
    """The longer side to which a face of `side` pixels is resized: LFFD's draw, branch by branch.

    Faces of at most the first (second) branch's upper bound go to the first (either of the first two)
    branches, so that tiny ones are hardly enlarged; others to any branch, or now and then beyond the
    last.
    """
    count = len(branches)
    if side <= branches[0].upper:
        index = 0
    elif side <= branches[1].upper:
        index = int(rng.integers(0, 2))
    else:
        index = int(rng.integers(0, count + (rng.random() < 0.1)))
    if index == count:
        upper = branches[-1].upper
        return upper + int(rng.integers(0, upper // 2 + 1))
    branch = branches[index]
    return int(rng.integers(branch.lower, branch.upper + 1))


Scene = tuple[Array, Array, Array]  # image (S, S, 3) uint8, boxes (B, 4) xyxy, ignored (B,) bool


def cropped(
    photo: Photo,
    size: int,
    branches: Sequence[BranchGeometry],
    rng: np.random.Generator,
    onto: Array | None = None,
) -> Scene:
    """A crop about one of a photo's faces at a drawn scale; beyond the photo lies `onto`, or black."""
    faces = photo.faces
    box = faces[rng.integers(len(faces))]
    side = float((box[2:] - box[:2]).max())
    wanted = min(target_side(side, branches, rng), round(size * 0.9), round(side * LARGEST_ZOOM))
    scale = wanted / side
    jitter = max(4, size // 8)
    corner = (box[:2] + box[2:]) / 2 * scale - size / 2 + rng.integers(-jitter, jitter + 1, 2)
    # The crop's corner is a whole pixel of the resized photo, so that labels carry no rounding.
    return _window(photo, scale, np.floor(corner), size, onto)


def _window(
    photo: Photo, scale: float, corner: Array, size: int, onto: Array | None = None
) -> Scene:
    """The window at `corner` of the photo resized by `scale`, drawn over `onto`, or over black."""
    matrix = np.array([[scale, 0, -corner[0]], [0, scale, -corner[1]]])
    matrix[:, 2] += 0.5 * scale - 0.5  # pixel centres, as cv2.resize has them
    source = photo.image
    if scale < 0.5:  # average before sampling, or small faces become noise
        zoom = 2 * scale
        source = cv2.resize(source, (0, 0), fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        factor = np.array(source.shape[1::-1]) / np.array(photo.image.shape[1::-1])
        matrix[:, :2] = np.diag(scale / factor)
        matrix[:, 2] = -corner + 0.5 * scale / factor - 0.5
    image = np.zeros((size, size, 3), np.uint8) if onto is None else onto.copy()
    cv2.warpAffine(
        source,
        matrix,
        (size, size),
        dst=image,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return image, photo.boxes * scale - np.tile(corner, 2), photo.ignored.copy()


def surroundings(crowd: Pool, size: int, rng: np.random.Generator) -> Scene:
    """A window (size, size, 3) anywhere in a photo of people: mostly hands, clothes, backs and things."""
    photo = crowd.draw(rng)
    scale = size / min(photo.image.shape[:2]) * np.exp(rng.uniform(0, np.log(4)))
    room = np.array(photo.image.shape[1::-1]) * scale - size
    corner = np.floor(rng.uniform(0, 1, 2) * np.maximum(room, 0))
    image, boxes, ignored = _window(photo, scale, corner, size)
    return image, boxes, ignored | (_seen(boxes, size) < SEEN)


def _seen(boxes: Array, size: int) -> Array:
    """The share of each box's area that lies in a window of this side, (B,)."""
    inside = np.clip(boxes, 0, size)
    sides = inside[:, 2:] - inside[:, :2]
    return np.asarray(
        sides.prod(axis=1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
    )


def landscape(
    empty: Sequence[Photo], size: int, rng: np.random.Generator, zoom: float = 1.6
) -> Array:
    """A window (size, size, 3) into a photo without people, enlarged by up to `zoom` beyond need.

    Any quarter turn of it, at times with its colours exchanged: there are few such photos, and no
    face in them to be spoilt.
    """
    background = empty[int(rng.integers(len(empty)))]
    scale = size / min(background.image.shape[:2]) * rng.uniform(1, zoom)
    room = np.array(background.image.shape[1::-1]) * scale - size
    corner = np.floor(rng.uniform(0, 1, 2) * np.maximum(room, 0))
    window = np.rot90(_window(background, scale, corner, size)[0], int(rng.integers(4)))
    return window[..., rng.permutation(3)] if rng.random() < 0.3 else window


def clutter(empty: Sequence[Photo], photos: Pool, size: int, rng: np.random.Generator) -> Array:
    """What might be taken for faces, (size, size, 3): small things, and things of a face's colours.

    Often four landscapes side by side, sometimes two over each other; half of the time with the
    brightness and colours of a face, since what a detector learns first is that faces have skin.
    """
    kind = rng.random()
    if kind < 0.4:
        half = size // 2
        four = [landscape(empty, half, rng) for _ in range(4)]
        image = np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
        image = cv2.resize(image, (size, size))
    else:
        image = landscape(empty, size, rng, 3.0)
    if kind > 0.8:
        share = rng.uniform(0.3, 0.7)
        image = image * share + landscape(empty, size, rng, 3.0) * (1 - share)
    if rng.random() < 0.5:
        photo = photos.draw(rng)
        x1, y1, x2, y2 = photo.faces[0].clip(0).astype(int)
        face = photo.image[y1:y2, x1:x2].reshape(-1, 3)
        if len(face):
            spread = (face.std(axis=0) + 1) / (image.std(axis=(0, 1)) + 1)
            image = (image - image.mean(axis=(0, 1))) * spread + face.mean(axis=0)
    return np.clip(image, 0, 255).astype(np.uint8)


def mosaic(
    photos: Pool,
    onto: Array,
    branches: Sequence[BranchGeometry],
    rng: np.random.Generator,
) -> Scene:
    """Two by two to four by four crops side by side over `onto`."""
    count = int(rng.integers(2, 5))
    side = len(onto) // count
    image = onto.copy()
    boxes, ignored = [], []
    for row, column in np.ndindex(count, count):
        y, x = row * side, column * side
        under = onto[y : y + side, x : x + side]
        part, own, unsure = cropped(photos.draw(rng), side, branches[:-1], rng, under)
        image[y : y + side, x : x + side] = part
        seen = _seen(own, side)
        keep = seen > 0
        boxes.append(np.clip(own, 0, side)[keep] + np.array([x, y, x, y]))
        ignored.append((unsure | (seen < SEEN))[keep])
    return image, np.concatenate(boxes), np.concatenate(ignored)


def pasted(
    photos: Pool,
    onto: Array,
    branches: Sequence[BranchGeometry],
    rng: np.random.Generator,
) -> Scene:
    """Up to eight faces with their surroundings, softly pasted over `onto`."""
    image, size = onto.copy(), len(onto)
    boxes: list[Array] = []
    ignored: list[bool] = []
    for _ in range(rng.integers(1, 9)):
        photo = photos.draw(rng)
        own = photo.faces[rng.integers(len(photo.faces))]
        longer = float((own[2:] - own[:2]).max())
        wanted = min(target_side(longer, branches[:-1], rng), longer * LARGEST_ZOOM)
        zoom = min(wanted, size * 0.4) / longer
        patch = int(min(size, max(8, rng.uniform(1.5, 2.4) * longer * zoom)))
        place = rng.integers(0, size - patch + 1, 2)
        frame = np.array([*place, *(place + patch)])
        if any((np.minimum(b[2:], frame[2:]) > np.maximum(b[:2], frame[:2])).all() for b in boxes):
            continue
        corner = np.floor((own[:2] + own[2:]) / 2 * zoom - patch / 2)
        rows, columns = slice(place[1], place[1] + patch), slice(place[0], place[0] + patch)
        under = image[rows, columns]
        part, found, _ = _window(photo, zoom, corner, patch, under)
        # A soft oval about the face, so that no straight seam gives it away.
        y, x = np.mgrid[0:patch, 0:patch] / patch * 2 - 1
        alpha = np.clip((1.0 - np.hypot(x, y)) / 0.25, 0, 1)[..., None]
        image[rows, columns] = (part * alpha + under * (1 - alpha)).astype(np.uint8)
        for box in found[(found[:, :2] < patch).all(axis=1) & (found[:, 2:] > 0).all(axis=1)]:
            boxes.append(np.clip(box, 0, patch) + np.tile(place, 2))
            centred = np.abs(box - (own * zoom - np.tile(corner, 2))).max() < 1e-6
            ignored.append(not centred)  # a neighbour is half hidden by the oval
    return image, np.array(boxes).reshape(-1, 4), np.array(ignored, bool)


def distorted(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """LFFD's light, or what cameras and files do: tint, gray, blur, noise, coarse JPEG blocks.

    LFFD's is brightness, saturation and contrast, each half of the time, in any order. A quarter of
    the images stays as it is.

    Returns:
        The image, and how many of its pixels, along a side, tell as much as one did before.
    """
    kind, coarseness = rng.random(), 1.0
    if kind < 0.25:
        return image, coarseness
    if kind < 0.6:
        return _lit(image, rng), coarseness
    if rng.random() < 0.5:
        gain = rng.uniform(0.8, 1.2, 3) * rng.uniform(0.6, 1.3)
        image = np.clip(image * gain, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None], 3, axis=2)
    if rng.random() < 0.4:
        coarseness = float(rng.uniform(1, 3))
        side = round(len(image) / coarseness)
        coarse = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(25, 90))
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return image, coarseness


def _lit(image: Array, rng: np.random.Generator) -> Array:
    x: Array = image.astype(np.float32)
    for kind in rng.permutation(3):
        if rng.random() < 0.5:
            continue
        factor = float(rng.uniform(0.5, 1.5))
        if kind == 0:
            x = x * factor
        else:
            gray = x @ np.array([0.114, 0.587, 0.299], np.float32)
            level = gray[..., None] if kind == 1 else gray.mean()
            x = level + (x - level) * factor
        x = np.clip(x, 0, 255)
    return x.astype(np.uint8)


def scene(
    photos: Pool,
    empty: Sequence[Photo],
    size: int,
    branches: Sequence[BranchGeometry],
    rng: np.random.Generator,
    crowd: Pool | None = None,
) -> Scene:
    """One training image, mirrored half of the time.

    A sixth each shows no person and any part of a photo of people, a fifth each are mosaics and have
    faces pasted in, the rest are crops about a face. Where a photo ends, mostly a landscape goes on,
    or clutter, else black.
    """
    black = np.zeros((size, size, 3), np.uint8)
    onto, draw = black, rng.random()
    if empty and draw < 0.85:
        onto = landscape(empty, size, rng) if draw < 0.65 else clutter(empty, photos, size, rng)
    kind = rng.random()
    if kind < 0.16 and empty:
        image = clutter(empty, photos, size, rng)
        boxes, ignored = np.zeros((0, 4)), np.zeros(0, bool)
    elif kind < 0.33 and crowd:
        image, boxes, ignored = surroundings(crowd, size, rng)
    elif kind < 0.53:
        image, boxes, ignored = mosaic(photos, onto, branches, rng)
    elif kind < 0.74:
        image, boxes, ignored = pasted(photos, onto, branches, rng)
    else:
        image, boxes, ignored = cropped(photos.draw(rng), size, branches, rng, onto)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)
    image, coarseness = distorted(np.ascontiguousarray(image), rng)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    return image, boxes, ignored | (sides < READABLE * coarseness)
