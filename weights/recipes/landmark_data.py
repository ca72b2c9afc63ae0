"""Faces with 98 points to train on: where they come from, who labels them, how they are varied.

A source yields faces without points; a `Teacher`, a set of trained networks, gives them. What was
read and labelled is kept in one file, so that the next run starts at once.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset

import refnet
from refnet.faces.crops import cut, square_crop
from refnet.faces.schemes import mirrored
from refnet.media.images import read_image
from refnet.ops import Array
from weights.recipes.face_crops import damaged
from weights.recipes.splits import is_set_aside

SIDE = 112
#: Side of a training crop over the longer side of its points' box, as the PFLD repositories cut.
MARGIN = 1.2
#: A source image is cut to this many times its points' box: what rotation, shift and scale can reach.
CONTEXT = 2.2
#: ... and shrunk until the default crop of it has this many pixels.
DETAIL = 128
#: A face whose teachers are further apart, see `Teacher.label`, has no label that is worth learning.
AGREED = 0.025


@dataclass(frozen=True)
class Faces:
    """Faces of any image size.

    Attributes:
        images: uint8 (h, w, 3) BGR each.
        points: (F, 98, 2) float32, in pixels of each image.
        aside: (F,) bool, never trained on.
        sources: the name of each face's source.
    """

    images: list[Array]
    points: Array
    aside: Array
    sources: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, mask: Array) -> Faces:
        """The faces at which `mask` (F,) holds."""
        chosen = np.flatnonzero(mask)
        return Faces(
            [self.images[i] for i in chosen],
            self.points[chosen],
            self.aside[chosen],
            [self.sources[i] for i in chosen],
        )


@dataclass(frozen=True)
class Unlabelled:
    """A face to label: its image, its box (xyxy), and the identity or photo it is of."""

    image: Array
    box: Array
    key: str
    source: str


def youtube_crops(folder: Path) -> Iterator[Unlabelled]:
    """Face crops with labels.csv (crop, source frame, ...); a frame is named IDENTITY_NUMBER.jpg."""
    with open(folder / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            identity, _, number = Path(row["source"]).stem.rpartition("_")
            image = read_image(folder / "crops112" / row["crop"])
            height, width = image.shape[:2]
            key = identity if identity and number.isdigit() else row["source"]
            yield Unlabelled(image, np.array([0, 0, width, height]), key, "youtube_faces_crops")


def wider_crops(folder: Path) -> Iterator[Unlabelled]:
    """Face crops with crops.csv (crop, the photo it was cut from, its box in the crop, ...)."""
    with open(folder / "crops.csv", newline="") as file:
        for row in csv.DictReader(file):
            box = np.array([float(row[k]) for k in ("x1", "y1", "x2", "y2")])
            yield Unlabelled(
                read_image(folder / "crops" / row["crop"]), box, row["image"], folder.name
            )


def boxed_photos(folder: Path, *, smallest: float = 48) -> Iterator[Unlabelled]:
    """Faces of at least `smallest` pixels on the longer side, of photos with boxes by hand in boxes.csv."""
    with open(folder / "boxes.csv", newline="") as file:
        for row in csv.DictReader(file):
            if not row["x1"]:  # a photo without a face
                continue
            box = np.array([float(row[k]) for k in ("x1", "y1", "x2", "y2")])
            if max(box[2] - box[0], box[3] - box[1]) >= smallest:
                image = read_image(folder / "images" / row["image"])
                yield Unlabelled(image, box, row["image"], folder.name)


class Teacher:
    """Trained landmark networks whose points, averaged with those of mirrored runs, are labels.

    Args:
        files: checkpoints of 98-point networks, ONNX or any other that `refnet.load` takes.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.models = [refnet.load(file) for file in files]

    def guesses(self, crops: Array) -> Array:
        """(G, N, 98, 2) float32, fractions of each crop, for uint8 BGR crops (N, 112, 112, 3).

        One guess of every network for the crop as it is, and one for its mirror image.
        """
        found = []
        for x, flip in ((crops, False), (crops[:, :, ::-1], True)):
            for model in self.models:
                outputs = model(as_input(x))
                last = outputs if isinstance(outputs, np.ndarray) else tuple(outputs)[-1]
                y = np.asarray(last, np.float32).reshape(len(x), 98, 2)
                found.append(mirrored(y, 1.0) if flip else y)
        return np.stack(found)

    def points(self, crops: Array) -> Array:
        """(N, 98, 2) float32: the mean of the guesses."""
        return np.asarray(self.guesses(crops).mean(axis=0), np.float32)

    def label(self, faces: Sequence[Unlabelled]) -> tuple[list[Array], Array]:
        """Points (98, 2) of each face in pixels of its image, and how far the guesses are apart (N,).

        Found in the face's box, then once more in a crop by the points, as the teachers were trained. The
        distance is the mean one of a guess from the mean of all, in shares of that crop's side.
        """
        crops = [square_crop(face.box) for face in faces]
        for _ in range(2):
            pixels = [cut(face.image, crop, SIDE) for face, crop in zip(faces, crops, strict=True)]
            guesses = self.guesses(np.stack(pixels))
            fractions = guesses.mean(axis=0)
            points = [
                np.asarray(np.array(crop[:2]) + own * crop[2], np.float32)
                for crop, own in zip(crops, fractions, strict=True)
            ]
            crops = [square_crop(bounds(own), MARGIN) for own in points]
        return points, np.linalg.norm(guesses - fractions, axis=3).mean(axis=(0, 2))


def bounds(points: Array) -> Array:
    """The box (4,) xyxy of points (K, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def as_input(crops: Array) -> Array:
    """BGR crops (N, H, W, 3) uint8 as the networks' input, float32 (N, 3, H, W) in [-1, 1]."""
    scaled = crops.transpose(0, 3, 1, 2) * np.float32(2 / 255) - np.float32(1)
    return np.ascontiguousarray(scaled, np.float32)


def labelled(faces: Iterator[Unlabelled], teacher: Teacher, size: int = 16) -> Faces:
    """The faces with the teacher's points, their images cut and shrunk to what training needs."""
    images, points, aside, sources = [], [], [], []
    while chunk := list(islice(faces, size)):
        for face, own, apart in zip(chunk, *teacher.label(chunk), strict=True):
            if apart > AGREED:
                continue
            image, moved = trimmed(face.image, own)
            images.append(image)
            points.append(moved)
            aside.append(is_set_aside(face.key))
            sources.append(face.source)
    return Faces(images, np.stack(points), np.array(aside), sources)


def trimmed(image: Array, points: Array) -> tuple[Array, Array]:
    """The part of `image` that augmented crops can reach, shrunk to `DETAIL`, with its points."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max())
    middle = (low + high) / 2
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(middle - CONTEXT * side / 2), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(middle + CONTEXT * side / 2), [x0 + 1, y0 + 1], [width, height])
    part = image[y0 : int(y1), x0 : int(x1)]
    moved = points - np.array([x0, y0], np.float32)
    scale = DETAIL / (MARGIN * side)
    if scale >= 1:
        return part.copy(), moved
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    factors = np.array([size[0] / part.shape[1], size[1] / part.shape[0]], np.float32)
    shrunk = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk), moved * factors


def store(faces: Faces, path: Path) -> None:
    """Write faces to one npz file, images as one run of bytes."""
    np.savez(
        path,
        pixels=np.concatenate([image.ravel() for image in faces.images]),
        shapes=np.array([image.shape for image in faces.images]),
        points=faces.points,
        aside=faces.aside,
        sources=np.array(faces.sources),
    )


def restore(path: Path) -> Faces:
    """What `store` wrote."""
    with np.load(path) as file:
        shapes = file["shapes"]
        ends = np.cumsum(shapes.prod(axis=1))[:-1]
        pixels = np.split(file["pixels"], ends)
        images = [p.reshape(s) for p, s in zip(pixels, shapes, strict=True)]
        return Faces(images, file["points"], file["aside"], file["sources"].tolist())


def base_crop(image: Array, points: Array) -> tuple[Array, Array]:
    """The plain crop of a face (112, 112, 3) and its points as fractions of it: what is evaluated."""
    crop = square_crop(bounds(points), MARGIN)
    return cut(image, crop, SIDE), (points - np.array(crop[:2], np.float32)) / np.float32(crop[2])


FILLS = (cv2.BORDER_CONSTANT, cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)
#: Most crops lean by some degrees, normally distributed; the share `FAR` of them is turned by up to `TURN`. Crops
#: that lean further are turned upright before they get here.
LEAN, FAR, TURN = 8, 0.12, 45
#: Share of the crops that have been smaller than they are, and of those that are damaged.
COARSE, DAMAGED = 0.2, 0.35
#: Share of the crops that are cut as the last pass cuts them, about points that were found: their side over the longer
#: extent of the points, and the spread of their middle in extents.
REFINED, REFINED_SIDES, REFINED_SHIFT = 0.6, (1.1, 1.32), 0.03
#: Side of a training crop over the longer extent of the points, and how far its middle lies from theirs, in
#: extents towards the forehead and in any direction. Boxes by hand of the same faces: 1.1 to 1.5 in four of
#: five, and 0.15 towards the forehead (0.02 to 0.25 in nine of ten); crops about points: 1.2 and 0.
SIDES, UPWARDS, SHIFT = (0.98, 1.6), (-0.08, 0.25), 0.09


def augmented(image: Array, points: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A random crop (112, 112, 3) of a face and its points as fractions of it.

    It is cut as about points that were found (`REFINED`) or by a detector's box (`SIDES`), turned by some degrees
    (`LEAN`) or within `TURN`, and mirrored every second time. Outside the image lies black, as in use, or, half of the
    time, the border's continuation, so that black cannot give the face's place away. Then something may cover a part,
    and light, sharpness and compression vary as for the face detector.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    middle = (low + high) / 2
    far = rng.random() < FAR
    angle = np.deg2rad(rng.uniform(-TURN, TURN) if far else rng.normal(0, LEAN))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = (points - middle) @ turn.T
    extent = float((turned.max(axis=0) - turned.min(axis=0)).max())
    if rng.random() < REFINED:
        side, shift = extent * rng.uniform(*REFINED_SIDES), rng.normal(0, REFINED_SHIFT, 2)
    else:
        side = extent * rng.uniform(*SIDES)
        shift = rng.uniform(*UPWARDS) * (turn @ [0, -1]) + rng.uniform(-SHIFT, SHIFT, 2)
    centre = (turned.max(axis=0) + turned.min(axis=0)) / 2 + shift * extent
    scale = SIDE / side
    matrix = np.empty((2, 3))
    matrix[:, :2] = turn * scale
    # Pixel centres: the crop's fraction 0 is its edge, half a pixel before pixel 0's centre, and in the
    # source likewise, as in cv2.resize.
    matrix[:, 2] = -(turn @ middle + centre) * scale + SIDE / 2 - 0.5 + (turn * scale) @ [0.5, 0.5]
    fill = FILLS[rng.integers(len(FILLS))]
    crop = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=fill)
    fractions = ((turned - centre) / side + 0.5).astype(np.float32)
    if rng.random() < 0.5:
        crop, fractions = crop[:, ::-1], mirrored(fractions, 1.0)
    return varied(np.ascontiguousarray(crop), rng), fractions


def varied(crop: Array, rng: np.random.Generator) -> Array:
    """The crop with something in front of a part of it, coarse, and damaged as `face_crops.damaged` does."""
    if rng.random() < 0.25:
        width, height = (int(n) for n in rng.integers(12, 48, 2))
        x, y = (int(rng.integers(0, SIDE - n)) for n in (width, height))
        if rng.random() < 0.5:
            crop[y : y + height, x : x + width] = rng.integers(0, 256, 3)
        else:  # a piece of the crop itself: another texture, and skin at times
            crop[y : y + height, x : x + width] = crop[::-1, ::-1][y : y + height, x : x + width]
    if rng.random() < COARSE:  # most faces of a photo are smaller than a crop
        small = int(rng.integers(20, 90))
        coarse = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR))
    return damaged(rng, crop) if rng.random() < DAMAGED else crop


#: How often a face of each source is drawn, where there are any; other sources share what is left.
SHARES = {
    "youtube_faces_crops": 0.3,
    "wider_faces": 0.5,
    "masks_crowd": 0.08,
    "occluded_faces": 0.12,
}


def draw_shares(faces: Faces) -> Array:
    """(F,) the chance of every face to be drawn, by its source."""
    names, counts = np.unique(faces.sources, return_counts=True)
    share = {n: SHARES.get(n, 0.1) / c for n, c in zip(names, counts, strict=True)}
    chances = np.array([share[n] for n in faces.sources])
    return np.asarray(chances / chances.sum())


def batch(
    faces: Faces, rng: np.random.Generator, size: int, shares: Array | None = None
) -> tuple[Array, Array]:
    """(crops (size, 112, 112, 3) uint8, points (size, 98, 2)) of augmented faces, drawn by `draw_shares`."""
    chances = draw_shares(faces) if shares is None else shares
    chosen = rng.choice(len(faces), size, p=chances)
    pairs = [augmented(faces.images[i], faces.points[i], rng) for i in chosen]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


class Batches(IterableDataset[tuple[torch.Tensor, Array]]):
    """Batches from step `first` on, each drawn by (seed, step): the networks' input, and points."""

    def __init__(self, faces: Faces, seed: int, first: int, size: int) -> None:
        self.faces, self.seed, self.first, self.size = faces, seed, first, size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Array]]:
        cv2.setNumThreads(1)
        shares, step = draw_shares(self.faces), self.first
        while True:
            rng = np.random.default_rng([self.seed, step])
            crops, points = batch(self.faces, rng, self.size, shares)
            yield torch.from_numpy(crops), points
            step += 1
