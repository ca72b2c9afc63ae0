"""The photos that the face detector learns from, decoded once into one memory map.

    store(data, folder)   decode every photo under data/train, label five points, write the folder
    photos(folder)        the same, as views into the map: no copy, shared by all processes

DATA/train holds WIDER FACE photos with boxes by hand (`wider_val`, `wider_more`), photos of masks and of
other occlusion (`masks_crowd`, `occluded_faces`) and photos without any face (`negatives`, and those of
`coco256` in which no person is labelled). What is not there is left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import refnet
from refnet.detection.boxes import area, intersection, iou
from refnet.model import Model
from refnet.ops import Array

#: Longer side of a stored photo; larger ones are shrunk to it.
LONGEST = 640
#: {folder under train: what its photos teach}; a photo is drawn by its kind, see `face_crops.SHARES`.
SOURCES: Mapping[str, str] = {
    "wider_val": "faces",
    "wider_more": "faces",
    "masks_crowd": "masks",
    "occluded_faces": "occluded",
    "negatives": "empty",
    "coco256": "empty",
}
#: Of 98 WFLW points: image-left eye, image-right eye, nose tip, left and right corner of the mouth.
FIVE = (96, 97, 54, 76, 82)
#: The same points of a mirrored face, put back in that order.
MIRRORED = (1, 0, 2, 4, 3)
#: Faces with a shorter side get no points: the teachers guess below it.
LABELLED = 26
#: Crops for the teachers, by the longer side of the box; they were trained on about this much margin.
MARGIN = 1.15
#: Kinds of photos whose boxes by hand leave out faces; what a published detector finds there beside them, with at
#: least this score, is ignored: neither a face to learn nor background.
INCOMPLETE, FOUND = ("masks", "occluded"), 0.3
#: A face by hand of which that detector finds less, at the size of the photo and at twice that, is ignored: a small
#: network learns nothing from it but its place.
HIDDEN = 0.1
#: Two boxes show one face from this IoU on; faces with a longer side need not be looked for in an enlarged photo.
SAME, CLEAR = 0.4, 60
#: A face whose teachers differ by more, as a mean distance in shares of the crop, gets no points.
AGREED = 0.028


@dataclass(frozen=True)
class Photo:
    """A photo in memory.

    Attributes:
        image: uint8 (H, W, 3) BGR, a read-only view.
        boxes: (B, 4) float32, xyxy in pixels of the image; none for a photo without faces.
        ignored: (B,) bool, boxes that are neither faces to learn nor background.
        points: (B, 5, 2) float32, x and y in pixels; NaN where they are not known.
        kind: a value of `SOURCES`.
    """

    image: Array
    boxes: Array
    ignored: Array
    points: Array
    kind: str

    @property
    def sides(self) -> Array:
        """(B,) the longer side of every box."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0))


@dataclass(frozen=True)
class _Listed:
    path: Path
    boxes: Array
    ignored: Array
    clear: Array
    kind: str


def store(
    data: Path, folder: Path, teachers: Sequence[Path] = (), detector: Path | None = None
) -> int:
    """Decode all photos of `data` into `folder`, and return how many there are.

    Args:
        teachers: ONNX files of landmark networks for 98 points (BGR in -1 to 1, 112×112). Five points of
            every clear face are the mean of all of them on the face and on its mirror image.
        detector: ONNX file of a face detector, which shows the faces that nobody has labelled, and those that
            nobody can see.
    """
    models = [refnet.load(path) for path in teachers]
    finder = refnet.FaceDetector(detector, threshold=HIDDEN, scales=(1.0,)) if detector else None
    folder.mkdir(parents=True, exist_ok=True)
    sizes, kinds, counts = [], [], []
    boxes, ignored, points = [], [], []
    with open(folder / "photos.u8", "wb") as file:
        for listed in _listed(data):
            image = cv2.imread(str(listed.path))
            if image is None:
                continue
            scale = min(1.0, LONGEST / max(image.shape[:2]))
            if scale < 1:
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            own = listed.boxes * np.float32(scale)
            five = np.full((len(own), 5, 2), np.nan, np.float32)
            for i in np.flatnonzero(listed.clear):
                if (own[i, 2:] - own[i, :2]).min() >= LABELLED and models:
                    five[i] = five_points(models, image, own[i])
            more, hidden = np.zeros((0, 4), np.float32), np.zeros(len(own), bool)
            if finder is not None and len(own):
                seen = finder(image)
                hidden = scores_of(finder, image, seen, own) < HIDDEN
                if listed.kind in INCOMPLETE:
                    more = unlabelled(seen.boxes[seen.scores >= FOUND], own)
            file.write(image.tobytes())
            sizes.append(image.shape[:2])
            kinds.append(listed.kind)
            counts.append(len(own) + len(more))
            boxes += [own, more]
            ignored += [listed.ignored | hidden, np.ones(len(more), bool)]
            points += [five, np.full((len(more), 5, 2), np.nan, np.float32)]
    np.savez(
        folder / "photos.npz",
        sizes=np.array(sizes, np.int64),
        kinds=np.array(kinds),
        counts=np.array(counts, np.int64),
        boxes=np.concatenate(boxes),
        ignored=np.concatenate(ignored),
        points=np.concatenate(points),
    )
    return len(sizes)


def photos(folder: Path) -> list[Photo]:
    """The photos that `store` has written into `folder`."""
    pixels = np.memmap(folder / "photos.u8", np.uint8, "r")
    with np.load(folder / "photos.npz") as stored:
        tables = dict(stored)
    found, at, first = [], 0, 0
    for (height, width), kind, count in zip(
        tables["sizes"], tables["kinds"], tables["counts"], strict=True
    ):
        size, last = height * width * 3, first + count
        found.append(
            Photo(
                pixels[at : at + size].reshape(height, width, 3),
                tables["boxes"][first:last],
                tables["ignored"][first:last],
                tables["points"][first:last],
                str(kind),
            )
        )
        at, first = at + size, last
    return found


def five_points(teachers: Sequence[Model], image: Array, box: Array) -> Array:
    """Eyes, nose tip and mouth corners (5, 2) of the face in `box`; NaN where the teachers disagree."""
    side = float((box[2:] - box[:2]).max()) * MARGIN
    scale, centre = 112 / side, (box[:2] + box[2:]) / 2
    shift = 56 - centre * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    crop = cv2.warpAffine(image, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE)
    x = np.stack([crop, crop[:, ::-1]]).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    guesses = []
    for teacher in teachers:
        found = teacher(x)
        assert isinstance(found, np.ndarray)
        upright, mirrored = found.reshape(2, -1, 2)[:, list(FIVE)]
        mirrored = (mirrored * (-1, 1) + (1, 0))[list(MIRRORED)]
        guesses += [upright, mirrored]
    mean = np.mean(guesses, axis=0)
    if np.linalg.norm(np.array(guesses) - mean, axis=2).mean() > AGREED:
        return np.full((5, 2), np.nan, np.float32)
    return np.asarray((mean - 0.5) * side + centre, np.float32)


def scores_of(
    finder: refnet.FaceDetector, image: Array, seen: refnet.Detections, boxes: Array
) -> Array:
    """(B,) the best score of what shows the face of each box (B, 4), among `seen` and in the image at twice its size."""
    found = [(seen.boxes, seen.scores)]
    if len(boxes) and (boxes[:, 2:] - boxes[:, :2]).max(axis=1).min() < CLEAR:
        larger = finder(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR))
        found.append((larger.boxes / 2, larger.scores))
    scores = np.zeros(len(boxes), np.float32)
    for others, own in found:
        same = iou(boxes, others) >= SAME
        scores = np.maximum(scores, np.where(same, own, 0).max(axis=1, initial=0))
    return scores


def unlabelled(found: Array, boxes: Array) -> Array:
    """Those of the boxes `found` (N, 4) that touch none of `boxes` (B, 4) by more than a quarter of the smaller one."""
    smaller = np.minimum(area(found)[:, None], area(boxes))
    return np.asarray(found[(intersection(found, boxes) <= 0.25 * smaller).all(axis=1)], np.float32)


def _listed(data: Path) -> Iterator[_Listed]:
    """Every photo of every source that is there, with its boxes."""
    for name, kind in SOURCES.items():
        folder = data / "train" / name
        if (folder / "boxes.csv").exists():
            yield from _boxed(folder, kind)
        elif (folder / "list.csv").exists():
            for row in _rows(folder / "list.csv"):
                yield _without_faces(folder / "images" / row["image"])
        elif (folder / "labels_yolo").is_dir():
            for path in sorted(folder.glob("*2017/*.*")):
                labels = folder / "labels_yolo" / f"{path.stem}.txt"
                text = labels.read_text() if labels.exists() else ""
                if not any(line.startswith("0 ") for line in text.splitlines()):
                    yield _without_faces(path)


def _boxed(folder: Path, kind: str) -> Iterator[_Listed]:
    """Photos of a folder with images/, boxes.csv and, for photos without a box, images.csv."""
    rows: dict[str, list[dict[str, str]]] = {}
    if (folder / "images.csv").exists():
        rows = {row["image"]: [] for row in _rows(folder / "images.csv")}
    for row in _rows(folder / "boxes.csv"):
        rows.setdefault(row["image"], []).append(row)
    for name, own in rows.items():
        boxes = [[_number(row, key) for key in ("x1", "y1", "x2", "y2")] for row in own]
        table = np.array(boxes, np.float32).reshape(-1, 4)
        solid = np.isfinite(table).all(axis=1) & ((table[:, 2:] - table[:, :2]) > 1).all(axis=1)
        invalid = np.array([_number(row, "invalid") > 0 for row in own], bool)
        damaged = np.array(
            [max(_number(row, "blur"), _number(row, "occlusion")) >= 2 for row in own], bool
        )
        # Masks and hands hide the mouth, so points of such faces would be guesses.
        clear = solid & ~invalid & ~damaged & (kind == "faces")
        path = folder / "images" / name
        yield _Listed(path, table[solid], invalid[solid], clear[solid], kind)


def _without_faces(path: Path) -> _Listed:
    nothing = np.zeros(0, bool)
    return _Listed(path, np.zeros((0, 4), np.float32), nothing, nothing, "empty")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="") as file:
        yield from csv.DictReader(file)


def _number(row: Mapping[str, str], key: str) -> float:
    """A cell as a number; 0 for a column that is not there, NaN for a cell that is empty."""
    if key not in row:
        return 0.0
    return float(row[key]) if row[key].strip() else math.nan
