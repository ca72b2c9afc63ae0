"""True boxes and points of photos, in the formats that data sets come in.

    landmarks    WFLW's list (98 points), lists of prepared crops, dlib's XML (68 points)
    detection    Pascal VOC's XML, WIDER FACE's text, dlib's XML, tables (CSV) of boxes

`landmark_faces(folder)` and `boxed_photos(folder)` look for them by themselves.
"""

from __future__ import annotations

import csv
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from refnet.errors import ImageError, RefnetError
from refnet.media.images import IMAGE_SUFFIXES
from refnet.ops import Array

#: What WIDER FACE tells of a face: 0 sharp or not occluded, 1 somewhat, 2 heavily.
ATTRIBUTES = ("blur", "occlusion")
#: What a table of boxes has at least.
BOX_COLUMNS = {"image", "x1", "y1", "x2", "y2"}


class AnnotationError(RefnetError, ValueError):
    """A file of annotations that cannot be read."""


@dataclass(frozen=True)
class LandmarkFace:
    """One face with true points.

    Attributes:
        image: the photo's path.
        points: (K, 2) float64, x and y in image pixels.
        cropped: the photo is the face's crop already.
    """

    image: Path
    points: Array
    cropped: bool = False


@dataclass(frozen=True)
class BoxedPhoto:
    """One photo with true boxes.

    Attributes:
        image: the photo's path.
        boxes: (B, 4) float64, xyxy in image pixels.
        classes: of each box, such as "face".
        ignored: (B,) bool, boxes that need not be found.
        attributes: {name: (B,) float64} of what the annotation tells of every box besides: those of
            `ATTRIBUTES` that it has.
    """

    image: Path
    boxes: Array
    classes: tuple[str, ...]
    ignored: Array
    attributes: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        image: Path,
        boxes: Sequence[Sequence[float]],
        classes: Sequence[str] | None = None,
        ignored: Sequence[bool] | None = None,
        attributes: Mapping[str, Sequence[float]] | None = None,
    ) -> BoxedPhoto:
        """The same from lists; all "face", none ignored by default."""
        return cls(
            image,
            np.array(boxes, np.float64).reshape(-1, 4),
            tuple(classes) if classes is not None else ("face",) * len(boxes),
            np.array(ignored, bool) if ignored is not None else np.zeros(len(boxes), bool),
            {name: np.array(own, np.float64) for name, own in (attributes or {}).items()},
        )


def wflw(listing: Path, images: Path) -> Iterator[LandmarkFace]:
    """WFLW's annotation list: 196 coordinates, 4 box corners, 6 flags and an image's name a line.

    Raises:
        AnnotationError: a line has other fields.
    """
    for number, fields in _lines(listing):
        if len(fields) != 207:
            raise AnnotationError(f"{listing}, line {number}: {len(fields)} fields, WFLW has 207")
        yield LandmarkFace(images / fields[206], _numbers(listing, number, fields[:196]))


def crop_list(listing: Path) -> Iterator[LandmarkFace]:
    """Lists of prepared crops: an image's path, 196 coordinates as fractions of it, and maybe more.

    As AnthonyF333's (197 fields) and polarisZhao's (207, with flags and angles) preparation writes.
    """
    from refnet.media.images import read_image

    for number, fields in _lines(listing):
        if len(fields) not in (197, 203, 206, 207):
            raise AnnotationError(
                f"{listing}, line {number}: {len(fields)} fields; a path and 196 numbers are expected"
            )
        path = listing.parent / fields[0]
        if not path.exists():
            raise ImageError(f"{listing}, line {number}: there is no {path}")
        height, width = read_image(path).shape[:2]
        points = _numbers(listing, number, fields[1:197]) * (width, height)
        yield LandmarkFace(path, points, cropped=True)


def _lines(listing: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(listing.read_text().splitlines(), 1):
        if fields := line.split():
            yield number, fields


def _numbers(listing: Path, number: int, fields: Sequence[str]) -> Array:
    try:
        return np.array([float(f) for f in fields]).reshape(-1, 2)
    except ValueError as error:
        raise AnnotationError(f"{listing}, line {number}: {error}") from None


def _tree(path: Path) -> ElementTree.Element:
    text = path.read_bytes()
    if b"<!ENTITY" in text:
        raise AnnotationError(f"{path}: it defines entities, which no annotation needs")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise AnnotationError(f"{path}: {error}") from None


def dlib(path: Path) -> Iterator[tuple[BoxedPhoto, Array]]:
    """dlib's XML: each photo with its boxes, and the points (B, K, 2) of all, K = 0 without points.

    Boxes marked "ignore" need not be found.
    """
    for image in _tree(path).iter("image"):
        boxes, points, ignored = [], [], []
        for box in image.iter("box"):
            left, top, width, height = (
                float(box.get(k, "nan")) for k in ("left", "top", "width", "height")
            )
            boxes.append([left, top, left + width, top + height])
            ignored.append(box.get("ignore") == "1")
            parts = sorted(box.iter("part"), key=lambda part: int(part.get("name", "0")))
            points.append([[float(p.get("x", "nan")), float(p.get("y", "nan"))] for p in parts])
        file = path.parent / str(image.get("file"))
        counts = {len(p) for p in points}
        own = np.array(points).reshape(len(boxes), -1, 2) if len(counts) == 1 else None
        empty = np.zeros((len(boxes), 0, 2))
        yield BoxedPhoto.of(file, boxes, None, ignored), empty if own is None else own


def voc(path: Path, images: Path) -> BoxedPhoto:
    """One photo's Pascal VOC XML. Corners count from 1 there and from 0 here; "difficult" is ignored."""
    tree = _tree(path)
    boxes, classes, ignored = [], [], []
    for thing in tree.iter("object"):
        box = thing.find("bndbox")
        if box is None:
            raise AnnotationError(f"{path}: an object has no bndbox")
        corners = [float(box.findtext(k, "nan")) - 1 for k in ("xmin", "ymin", "xmax", "ymax")]
        if not np.isfinite(corners).all():
            raise AnnotationError(f"{path}: a bndbox lacks a corner")
        boxes.append(corners)
        classes.append(thing.findtext("name", "").strip())
        ignored.append(thing.findtext("difficult", "0").strip() == "1")
    named = tree.findtext("filename", "").strip()
    return BoxedPhoto.of(_image(images, path.stem, named), boxes, classes, ignored)


def _image(images: Path, stem: str, named: str) -> Path:
    """The photo of an annotation: by the annotation's own name, else by the name inside it."""
    for suffix in sorted(IMAGE_SUFFIXES):
        if (images / f"{stem}{suffix}").exists():
            return images / f"{stem}{suffix}"
    return images / os.path.basename(named.replace("\\", "/"))


def wider(listing: Path, images: Path) -> Iterator[BoxedPhoto]:
    """WIDER FACE's text: a photo's path, the number of faces, then x y w h and six flags a face.

    Faces that are flagged invalid or have no area need not be found.
    """
    lines = listing.read_text().splitlines()
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if not name:
            at += 1
            continue
        try:
            count = int(lines[at + 1])
            rows = [_row(line) for line in lines[at + 2 : at + 2 + count]]
        except (ValueError, IndexError):
            raise AnnotationError(
                f"{listing}, line {at + 2}: after a photo's path come a number of faces and a line a face"
            ) from None
        at += 2 + count
        # A photo without faces still has one line, of zeros; some copies of the list leave it out.
        if count == 0 and at < len(lines) and not any(lines[at].replace("0", " ").split()):
            at += 1
        boxes = [[x, y, x + w, y + h] for x, y, w, h, *_ in rows]
        ignored = [r[2] <= 0 or r[3] <= 0 or (len(r) > 7 and r[7] == 1) for r in rows]
        flagged = {"blur": 4, "occlusion": 8} if all(len(r) == 10 for r in rows) else {}
        attributes = {name: [r[column] for r in rows] for name, column in flagged.items()}
        yield BoxedPhoto.of(images / name, boxes, None, ignored, attributes)


def _row(line: str) -> list[float]:
    """x y w h and maybe flags. Raises ValueError where there are fewer numbers."""
    values = [float(v) for v in line.split()]
    if len(values) < 4:
        raise ValueError(line)
    return values


def table(path: Path, images: Path, *, score: float = 0.5) -> Iterator[BoxedPhoto]:
    """A CSV file with the columns image, x1, y1, x2, y2 and maybe score, class, invalid, blur and occlusion.

    A row is a box. Boxes scored below `score` or with another number than 0 for invalid need not be found. An
    image with an empty x1 has no boxes.
    """
    photos: dict[str, list[dict[str, str]]] = {}
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if missing := BOX_COLUMNS - columns:
            raise AnnotationError(f"{path}: no column {', '.join(sorted(missing))}")
        for row in reader:
            photos.setdefault(row["image"], []).append(row)
    for name, rows in photos.items():
        rows = [r for r in rows if r["x1"]]
        yield BoxedPhoto.of(
            images / name,
            [[float(r[k]) for k in ("x1", "y1", "x2", "y2")] for r in rows],
            [r.get("class") or "face" for r in rows],
            [float(r.get("score") or 1) < score or float(r.get("invalid") or 0) > 0 for r in rows],
            {n: [float(r[n] or 0) for r in rows] for n in ATTRIBUTES if n in columns},
        )


def _has_boxes(path: Path) -> bool:
    """Whether a CSV file is a table of boxes; others, of photos say, may lie beside it."""
    with open(path, newline="") as file:
        return set(next(csv.reader(file), ())) >= BOX_COLUMNS


def landmark_faces(folder: Path) -> list[LandmarkFace]:
    """Every face with points that the annotation files in `folder` list.

    Read are list*.txt (WFLW's, or of prepared crops) and dlib's *.xml.

    Raises:
        AnnotationError: there are none, or one cannot be read.
    """
    faces: list[LandmarkFace] = []
    for path in sorted(folder.glob("*.txt")):
        fields = next((f for _, f in _lines(path)), [])
        if len(fields) == 207 and Path(fields[206]).suffix.lower() in IMAGE_SUFFIXES:
            inner = folder / "WFLW_images"
            faces += wflw(path, inner if inner.is_dir() else folder)
        elif fields and Path(fields[0]).suffix.lower() in IMAGE_SUFFIXES:
            faces += crop_list(path)
    for path in sorted(folder.glob("*.xml")):
        for photo, points in dlib(path):
            faces += [LandmarkFace(photo.image, own) for own in points if len(own)]
    if not faces:
        raise AnnotationError(
            f"{folder} holds no landmarks that can be read: expected a WFLW list or a list of crops "
            "(*.txt), or dlib's *.xml with parts"
        )
    return faces


def boxed_photos(folder: Path) -> list[BoxedPhoto]:
    """Every photo with boxes that the annotation files in `folder` list.

    Read are WIDER FACE's *.txt, dlib's *.xml, Pascal VOC's *.xml (in the folder, in Annotations/, or in
    NAME_labels/ beside NAME/), and *.csv tables; photos lie in the folder, in images/, in JPEGImages/,
    or in a folder of the table's name.

    Raises:
        AnnotationError: there are none, or one cannot be read.
    """
    photos: dict[Path, BoxedPhoto] = {}

    def add(found: Iterator[BoxedPhoto]) -> None:
        for photo in found:  # where two files list one photo, the first counts
            photos.setdefault(photo.image, photo)

    inner = next((folder / n for n in ("images", "JPEGImages") if (folder / n).is_dir()), folder)
    for path in sorted(folder.glob("*.txt")):
        first = next(iter(path.read_text(errors="replace").split("\n")), "").strip()
        if Path(first).suffix.lower() in IMAGE_SUFFIXES and " " not in first:
            add(wider(path, inner))
    for place in (folder, folder / "Annotations", folder.with_name(f"{folder.name}_labels")):
        for path in sorted(place.glob("*.xml")):
            if _tree(path).tag == "dataset":
                add(photo for photo, _ in dlib(path))
            elif _tree(path).tag == "annotation":
                add(iter([voc(path, inner)]))
    for path in sorted(folder.glob("*.csv")):
        if not _has_boxes(path):
            continue
        own = [p for p in folder.iterdir() if p.is_dir() and path.stem.startswith(p.name)]
        add(table(path, max(own, key=lambda p: len(p.name)) if own else inner))
    if not photos:
        raise AnnotationError(
            f"{folder} holds no boxes that can be read: expected WIDER FACE's *.txt, Pascal VOC's or "
            "dlib's *.xml, or a *.csv table of image, x1, y1, x2, y2"
        )
    return list(photos.values())
