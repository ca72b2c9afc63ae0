"""Facial landmarks: from an image and boxes of faces to points.

A face's crop (`refnet.faces.crops`) is resized to the network's input. Points come back as fractions of
the crop's side from its top left corner, and are mapped to image pixels by X = x0 + x · side.

The networks know heads that stand upright. So the crop of a head that leans is turned with it: by the line of
the eyes where the detector found them, else by the points of the pass before. Where two passes disagree and no
detector has found the eyes, the face is looked at turned by eighths all around too. How far they agree is the confidence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from refnet.arguments import CalledWithImages, explicit, shown, unknown_attribute
from refnet.arrays import Array
from refnet.detection.boxes import area, clip
from refnet.detection.detections import Detections
from refnet.errors import OptionError, ShapeError
from refnet.faces.crops import LARGEST_CROP, crops_about, cut, in_image, square_crop
from refnet.faces.schemes import mirrored, parts_of
from refnet.media.images import Image, as_image, as_images
from refnet.model import Net, model_for, name_of
from refnet.networks.defaults import LANDMARKER, LANDMARKERS, Defaults, check_landmarks, defaults_of

#: Side of a refined crop over the longer side of the points that were found first: that of training crops.
REFINED_MARGIN = 1.2

#: A second crop of a face, against the first: its middle further right and down, and larger, in sides of it.
SECOND_CROP = np.array([0.06, 0.04, 0.1])
#: Crops of heads that lean by more degrees are turned; the networks' training crops lean by up to 30.
LEANING = 20.0
#: Disagreement of passes is the mean distance of their points, as a share of the face. Two passes that disagree by
#: less than `SURE` agree; else another looks at the face turned by `NUDGE` degrees, and the mean of both counts.
#: A face of more than `LOST` is looked at turned by eighths, and one of those is taken that has less than
#: `LESS` times as much. On 416 right faces the mean was 0.013 (median) and at most 0.027 (97 %); of 170 pieces of
#: photos without a face none had less, and of 420 faces turned by 75 degrees or more 3 % had.
SURE, LOST, NUDGE, LESS = 0.015, 0.027, 8.0, 0.7
#: Where right and wrong points are equally likely, of equally many right and wrong ones.
EVEN = 0.03
#: Faces whose crop has fewer pixels are not looked at turned: they do not tell.
FEW_PIXELS = 40

#: No box of an image reaches farther, in pixels; whole numbers below it are safe in int32.
FARTHEST = 1e9

#: More crops than this go through the network in several calls, which bounds memory.
CROPS_AT_ONCE = 64


#: What other libraries call what is here.
ELSEWHERE: Mapping[str, str] = {
    "groups": "parts(i)",
    "keypoints": "points",
    "kps": "points",
    "landmarks": "points",
    "to_dict": "to_dicts",
}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of the faces of one image: a sequence of (K, 2), one a face.

    Attributes:
        points: (F, K, 2) float32, x and y in image pixels; points may leave the image. NaN for a box that
            lies outside of the image.
        boxes: (F, 4) float32, the xyxy boxes that were asked for.
        crops: (F, 3) int, x0, y0 and side of each face's square crop in image pixels.
        turns: (F,) float64, degrees clockwise, as seen, by which each crop is turned about its middle.
        confidence: (F,) float32 in [0, 1], how far the points are to be trusted, see `confidence_of`; None
            where it was not found out: without `refine`, and for other schemes than WFLW's 98 points.
    """

    points: Array
    boxes: Array
    crops: Array
    turns: Array = field(default=cast(Array, None), repr=False)  # by default zeros
    confidence: Array | None = None

    def __post_init__(self) -> None:
        if self.turns is None:
            object.__setattr__(self, "turns", np.zeros(len(self.points)))

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.points)

    def __getitem__(self, index: Any) -> Array:
        """The points of face `index`, (K, 2); of several for a slice or a mask."""
        found: Array = self.points[index]
        return found

    def parts(self, index: int) -> dict[str, Array]:
        """{part, such as "left_eye": its points (n, 2)} of face `index`; left and right are the image's.

        Empty where the number of points is not a scheme with named parts.
        """
        return {name: self.points[index][list(own)] for name, own in self.scheme.items()}

    def confidence_at(self, index: int) -> float | None:
        """The confidence of face `index`; None where it was not found out."""
        return None if self.confidence is None else float(self.confidence[index])

    @property
    def scheme(self) -> Mapping[str, range]:
        """{part: indices into the points}, where the number of points tells the scheme; else empty."""
        return parts_of(self.points.shape[1])

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a face, of plain numbers: box, crop with its turn, points, and their confidence.

        The points are None of a box outside of the image.
        """
        found: list[dict[str, Any]] = [
            {
                "box": [round(float(v), 3) for v in box],
                "crop": dict(zip(("x", "y", "side"), map(int, crop), strict=True))
                | ({"turn": round(float(turn), 2)} if turn else {}),
                "points": [[round(float(x), 3), round(float(y), 3)] for x, y in points]
                if np.isfinite(points).all()
                else None,
            }
            for points, box, crop, turn in zip(
                self.points, self.boxes, self.crops, self.turns, strict=True
            )
        ]
        if self.confidence is not None:
            for one, confidence in zip(found, self.confidence, strict=True):
                one["confidence"] = round(float(confidence), 3)
        return found

    def __repr__(self) -> str:
        return f"<Landmarks of {len(self)}, {self.points.shape[1]} points each>"

    if not TYPE_CHECKING:  # so that type checkers report names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, ELSEWHERE)


class FaceLandmarker(CalledWithImages):
    """Finds the landmarks of faces whose boxes are known.

    Args:
        model: a network of the PFLD family: a `Model`, a name from `refnet.networks()` or a
            checkpoint's path; the one that refnet comes with by default.
        weights: as in `refnet.load`, where `model` is a name or a path.
        refine: cut every face again about the points that were found in it first, as the training
            crops were cut, and take the mean of the points there and in its mirror image (of 98 points); closer
            where boxes come from a detector, at three times the time. Heads that lean by more than 20 degrees, and
            those that two passes disagree about, are looked at turned too.
        margin: side of the first crop over the longer side of the box. 1.0 suits a detector's box from
            forehead to chin; a box that hugs the landmarks wants 1.2, as in training.
        channel_order: "bgr" or "rgb", the order that the network was trained on; by default what
            `defaults` says, which is BGR for all published training code.
        defaults: what the network expects, for one that `refnet.networks.defaults` does not list.
        threads, backend: as in `refnet.load`.

    Attributes:
        model: the network with its weights.
        preprocessing: from a crop's pixels to the network's input.

    Raises:
        OptionError: the network is not one that finds landmarks, or an argument is unknown or out of
            range.
    """

    @explicit
    def __init__(
        self,
        model: Net = LANDMARKER,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        refine: bool = True,
        margin: float = 1.0,
        channel_order: str | None = None,
        defaults: Defaults | None = None,
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if not isinstance(margin, int | float) or not 0 < margin <= 4:
            raise OptionError(f"margin is a factor above 0 and at most 4, not {margin!r}")
        if not isinstance(refine, bool):
            raise OptionError(f"refine is True or False, not {refine!r}")
        if (named := name_of(model)) is not None:  # before weights are looked for
            check_landmarks(named, named in LANDMARKERS)
        self.model = model_for(model, weights, threads=threads, backend=backend)
        graph = self.model.graph
        if "landmarks" not in graph.outputs:
            from refnet.checkpoints.identify import unmerged

            check_landmarks(graph.name, False, unmerged(self.model.weights))
        self._count = graph.shapes()[graph.outputs[-1]][-1] // 2
        self.refine, self.margin = refine, float(margin)
        self.preprocessing = (defaults or defaults_of(graph)).preprocessing
        self._usual_order = self.preprocessing.channel_order
        if channel_order is not None:
            self.preprocessing = replace(self.preprocessing, channel_order=channel_order)

    def __repr__(self) -> str:
        own = {
            "refine": (self.refine, True),
            "margin": (self.margin, 1.0),
            "channel_order": (self.preprocessing.channel_order, self._usual_order),
        }
        return shown(type(self), self.model.graph.name, own)

    @explicit
    def __call__(
        self, image: Image, boxes: Detections | Any = None, *, rgb: bool = False
    ) -> Landmarks:
        """The landmarks of every face.

        Args:
            image: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in BGR order or
                (H, W).
            boxes: what a detector found; or (F, 4) or (4,), xyxy in image pixels, which may leave the
                image. None takes the whole image as one face.
            rgb: the array's channels are in the order R, G, B.

        Raises:
            FileError: there is no such file. ImageError: it is no image.
            ShapeError: `boxes` are no boxes.
        """
        pixels = as_image(image, rgb=rgb)
        if boxes is None:
            boxes = [0, 0, pixels.shape[1], pixels.shape[0]]
        return self.batch([pixels], [boxes])[0]

    @explicit
    def batch(
        self,
        images: Iterable[Image],
        boxes: Iterable[Detections | Any],
        *,
        rgb: bool = False,
    ) -> list[Landmarks]:
        """The landmarks of every face of several images, all crops as one batch.

        Args:
            images, rgb: as in a call.
            boxes: per image, as in a call.

        Raises:
            As a call. ShapeError: there are more images than boxes, or fewer.
        """
        pixels = as_images(images, rgb=rgb)
        boxes = list(boxes)
        checked = [
            checked_boxes(of_one.uncut if isinstance(of_one, Detections) else of_one)
            for of_one in boxes
        ]
        if len(checked) != len(pixels):
            raise ShapeError(
                f"boxes are given for each image; there are {len(pixels)} images and {len(checked)} "
                "times boxes"
            )
        if not pixels:
            return []
        for own, image in zip(checked, pixels, strict=True):
            _check_pixels(own, image)
        counts = [len(own) for own in checked]
        owners = np.repeat(np.arange(len(pixels)), counts)
        turns = np.concatenate(
            [np.zeros(0), *(_turns(*pair) for pair in zip(boxes, checked, strict=True))]
        )
        crops = np.concatenate([_crops(own, self.margin) for own in checked])
        found = _Views(pixels, owners, crops, turns)
        points, confidence = self._located(found), None
        if self.refine:
            told = np.repeat([_tells_eyes(own) for own in boxes], counts)
            found, points, confidence = self._settled(found, points, told)
        outside = np.concatenate(
            [area(clip(own, image.shape)) == 0 for own, image in zip(checked, pixels, strict=True)]
        )
        points[outside] = np.nan
        if confidence is not None:
            confidence[outside] = 0
        ends = np.cumsum(counts)[:-1]
        parts = [np.split(part, ends) for part in (points, found.crops, found.turns)]
        sure = [None] * len(pixels) if confidence is None else np.split(confidence, ends)
        return [
            Landmarks(own, box, crop, turn, certain)
            for own, box, crop, turn, certain in zip(
                parts[0], checked, *parts[1:], sure, strict=True
            )
        ]

    def refined(self, image: Array, boxes: Array, turns: Array | None = None) -> Array:
        """The points (F, K, 2) of faces whose points in the frame before fill `boxes` (F, 4).

        Args:
            image: uint8 (H, W, 3) BGR.
            turns: (F,) degrees by which the heads lean, see `lean`; upright by default.
        """
        return self._located(_about(image, boxes, turns))

    def followed(
        self, image: Array, boxes: Array, turns: Array | None = None
    ) -> tuple[Array, Array]:
        """The points (F, K, 2) as of `refined`, and how far (F,) those of another crop are apart, see `apart`."""
        leaning = np.zeros(len(boxes)) if turns is None else np.asarray(turns, np.float64)
        crops = _crops(boxes, REFINED_MARGIN)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2 + crops[:, 2:] * SECOND_CROP[:2]
        sides = (boxes[:, 2:] - boxes[:, :2]) * (1 + SECOND_CROP[2])
        aside = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
        both = self.refined(
            image, np.concatenate([boxes, aside]), np.concatenate([leaning, leaning])
        )
        points, again = both[: len(boxes)], both[len(boxes) :]
        off = apart(again, points)
        if self._count == 98:
            points = (points + self._located(_about(image, boxes, turns), mirror=True)) / 2
        return points, off

    def _settled(
        self, views: _Views, points: Array, told: Array
    ) -> tuple[_Views, Array, Array | None]:
        """What further passes make of the `points` of the first: views, points and confidence.

        Faces of which the detector has `told` (F,) how they lean are not looked at turned all around: it costs as
        much as twenty faces, and what is lost of them is most often lost to blur.
        """
        start = views
        first, views = points, views.about(points)
        points = self._located(views)
        if points.shape[1] != 98:
            return views, points, None
        off = apart(first, points)
        leans = lean(points)
        leaning = np.abs(_half_turn(leans - views.turns)) > LEANING
        unsure = np.flatnonzero((off > SURE) | leaning)
        if len(unsure):
            turns = np.where(leaning, leans, views.turns + NUDGE)
            other = views.of(unsure).about(points[unsure], turns[unsure])
            third = self._located(other)
            # A crop of a head that leans was no good to begin with: what counts is what it is like turned.
            now = apart(points[unsure], third)
            off[unsure] = np.where(leaning[unsure], now, (off[unsure] + now) / 2)
            better = leaning[unsure] & (now <= LOST)
            views.put(unsure[better], other.of(np.flatnonzero(better)))
            points[unsure[better]] = third[better]
        lost = np.flatnonzero((off > LOST) & (views.crops[:, 2] >= FEW_PIXELS) & ~told)
        if len(lost):
            self._search(start, views, points, off, lost)
        # Mirrored, a network errs the other way: the mean of both is 7 % closer, and frontal faces read straighter.
        points = (points + self._located(views, mirror=True)) / 2
        return views, points, confidence_of(off)

    def _search(self, start: _Views, views: _Views, points: Array, off: Array, lost: Array) -> None:
        """Look at the faces `lost` turned by eighths, and put what agrees much better in its place."""
        for turn in (45.0, -45.0, 90.0, -90.0, 135.0, -135.0, 180.0):
            tried = start.of(lost)
            tried.turns = _half_turn(tried.turns + turn)
            first = self._located(tried)
            tried = tried.about(first, lean(first) + NUDGE)
            second = self._located(tried)
            tried = tried.about(second, lean(second))
            third = self._located(tried)
            agreed = (apart(first, second) + apart(second, third)) / 2
            # Heads stand upright more often than not, and so the first view has the benefit of the doubt.
            better = agreed < off[lost] * LESS
            points[lost[better]], off[lost[better]] = third[better], agreed[better]
            views.put(lost[better], tried.of(np.flatnonzero(better)))

    def _located(self, views: _Views, *, mirror: bool = False) -> Array:
        """The points (F, K, 2), in pixels of their images, of the faces in the views, or in their mirror images."""
        side = self.model.graph.input_shape[1]
        cuts = [
            cut(views.images[owner], crop, side, turn)
            for owner, crop, turn in zip(views.owners, views.crops, views.turns, strict=True)
        ]
        batches = [
            self.predict_crops(
                np.stack(cuts[at : at + CROPS_AT_ONCE])[:, :, :: -1 if mirror else 1]
            )
            for at in range(0, len(cuts), CROPS_AT_ONCE)
        ]
        fractions = np.concatenate([np.zeros((0, self._count, 2), np.float32), *batches])
        if mirror:
            fractions = mirrored(fractions, 1.0)
        return in_image(fractions, views.crops, views.turns)

    def predict_crops(self, crops: Array) -> Array:
        """The landmarks of crops that are already cut: (F, K, 2) float32, fractions of the crop.

        Args:
            crops: uint8 (F, side, side, 3) in BGR order, of the network's input size.
        """
        outputs = self.model(self.preprocessing.apply(crops))
        landmarks = outputs[-1] if isinstance(outputs, tuple) else outputs
        return landmarks.reshape(len(crops), landmarks.shape[1] // 2, 2)


def checked_boxes(boxes: Any) -> Array:
    """`boxes` as float32 (F, 4) xyxy.

    Raises:
        ShapeError: they are no numbers, have another shape, values beyond `FARTHEST`, or no area.
    """
    try:
        array = np.asarray(boxes)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of a tensor with gradients
        why = str(error).partition("\n")[0]
        raise ShapeError(
            f"boxes are numbers (F, 4), x1, y1, x2, y2 in pixels; got {type(boxes).__name__}: {why}"
        ) from None
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    if array.dtype.kind not in "fiu":
        raise ShapeError(
            f"boxes are numbers (F, 4), x1, y1, x2, y2 in pixels; got {type(boxes).__name__} of "
            f"{type(array.flat[0]).__name__}"
        )
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(f"boxes have shape (F, 4), x1, y1, x2, y2 in pixels; got {array.shape}")
    if not np.isfinite(array).all():
        raise ShapeError("a box holds NaN or infinite values")
    if np.abs(array).max() > FARTHEST:
        raise ShapeError(f"a box reaches beyond {FARTHEST:g} pixels")
    array = array.astype(np.float32, copy=False)
    if len(empty := array[(array[:, 2:] <= array[:, :2]).any(axis=1)]):
        raise ShapeError(
            f"a box is x1, y1, x2, y2 with x2 > x1 and y2 > y1; got {empty[0].tolist()}"
        )
    return array


def _tells_eyes(boxes: Any) -> bool:
    """Whether `boxes` are of a detector that finds eyes."""
    return isinstance(boxes, Detections) and boxes.keypoints is not None


def _check_pixels(boxes: Array, image: Array) -> None:
    """Refuse `boxes` of `image` that are shares of its width and height.

    Raises:
        ShapeError: so they are.
    """
    height, width = image.shape[:2]
    shares = ((boxes >= 0) & (boxes <= 1)).all(axis=1)
    if shares.any() and max(height, width) > 1:
        shown = [round(float(v), 3) for v in boxes[shares][0]]
        raise ShapeError(
            f"a box is in pixels of the image, and {shown} lies in 0 to 1; multiply x by {width} and y by "
            f"{height}"
        )


@dataclass
class _Views:
    """Faces of several images, each in a square crop.

    Attributes:
        images: uint8 (H, W, 3) BGR each.
        owners: (F,) which image each face is of.
        crops: (F, 3). turns: (F,) degrees by which the crops are turned.
    """

    images: Sequence[Array]
    owners: Array
    crops: Array
    turns: Array

    def of(self, chosen: Array) -> _Views:
        """The views at these indices."""
        return _Views(self.images, self.owners[chosen], self.crops[chosen], self.turns[chosen])

    def put(self, chosen: Array, others: _Views) -> None:
        """Have the views at these indices be others."""
        self.crops[chosen], self.turns[chosen] = others.crops, others.turns

    def about(self, points: Array, turns: Array | None = None) -> _Views:
        """Views about `points` (F, K, 2), turned by `turns` or as before; the old ones where these are far off."""
        turns = self.turns if turns is None else _half_turn(turns)
        found = crops_about(points, turns, REFINED_MARGIN)
        largest = [LARGEST_CROP * max(self.images[owner].shape[:2]) for owner in self.owners]
        usable = (found[:, 2] <= np.array(largest).reshape(-1))[:, None]
        crops = np.where(usable, found, self.crops)
        return _Views(self.images, self.owners, crops, np.where(usable[:, 0], turns, self.turns))


def _about(image: Array, boxes: Array, turns: Array | None) -> _Views:
    """Views of faces whose points fill `boxes` (F, 4), turned with the heads that lean."""
    leaning = np.zeros(len(boxes)) if turns is None else np.asarray(turns, np.float64)
    leaning = np.where(np.abs(leaning) > LEANING, leaning, 0)
    owners = np.zeros(len(boxes), np.int64)
    return _Views([image], owners, _crops(boxes, REFINED_MARGIN), leaning)


def confidence_of(off: Array) -> Array:
    """(F,) float32 in [0, 1]: how far points are to be trusted that two passes put `off` (F,) apart.

    The share of right ones among real crops with as much disagreement, as a logistic curve of its logarithm.
    """
    return np.asarray(1 / (1 + (np.asarray(off, np.float64) / EVEN) ** 7), np.float32)


def apart(points: Array, others: Array) -> Array:
    """(F,) mean distance of the points of two passes (F, K, 2), over the longer side of the box about the second."""
    size = (others.max(axis=1) - others.min(axis=1)).max(axis=1)
    distance = np.linalg.norm(points - others, axis=2).mean(axis=1)
    return np.asarray(distance / np.maximum(size, 1e-6), np.float64)


def lean(points: Array) -> Array:
    """(F,) degrees, clockwise as seen, by which faces of 98 points (F, 98, 2) lean: from the mouth to the eyes."""
    up = points[:, 60:76].mean(axis=1, dtype=np.float64) - points[:, 76:88].mean(
        axis=1, dtype=np.float64
    )
    return np.asarray(np.degrees(np.arctan2(up[:, 0], -up[:, 1])))


def _half_turn(turns: Array) -> Array:
    """The same turns from -180 to 180 degrees."""
    return np.asarray((turns + 180) % 360 - 180)


def _turns(found: Detections | Any, boxes: Array) -> Array:
    """(F,) by how many degrees the crops of a detector's faces are turned at first: by the line of the eyes."""
    if not isinstance(found, Detections) or found.keypoints is None:
        return np.zeros(len(boxes))
    x, y = (found.keypoints[:, 1] - found.keypoints[:, 0]).astype(np.float64).T
    turns = np.degrees(np.arctan2(y, x))
    return np.where(np.abs(turns) > LEANING, turns, 0)


def _crops(boxes: Any, margin: float) -> Array:
    """The square crops (F, 3) of boxes (F, 4)."""
    return np.array([square_crop(box, margin) for box in boxes], np.int64).reshape(-1, 3)
