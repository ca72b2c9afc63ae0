"""`refnet evaluate`: how good a network is on photos with true points or boxes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet.cli.arguments import (
    add_backend,
    add_options,
    add_resize_scale,
    parse_options,
    scales_of,
)
from refnet.detection.detections import Detections
from refnet.detection.detector import FaceDetector
from refnet.errors import OptionError
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.schemes import as_68
from refnet.media.images import opencv, read_image, write_image
from refnet.networks.defaults import DETECTOR, LANDMARKER
from refnet.ops import Array
from refnet.training.annotations import BoxedPhoto, LandmarkFace, boxed_photos, landmark_faces
from refnet.training.metrics import (
    NORMALISATIONS,
    RULES,
    average_precision,
    cumulative_error,
    matched,
    nme,
)

TILE = 224
WORST = 12
TRUE, FOUND = (0, 220, 0), (0, 90, 255)  # BGR


def add_parser(subparsers: Any) -> None:
    """Add the verb with its two kinds."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="measure a network on photos with true points or boxes",
        description="Measure a network on photos whose true points or boxes are known.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    landmarks = kinds.add_parser(
        "landmarks",
        help="NME, AUC and failure rate",
        description="Cut every face as in training, by its true points' box times 1.2, find its points, "
        "and print the normalised mean error, the area under the curve of errors up to the limit, and "
        "the share of faces beyond it. Reads WFLW lists, lists of prepared crops, and dlib's XML; 98 "
        "points are compared with 68 true ones through the usual map.",
    )
    _add_network(landmarks, LANDMARKER)
    landmarks.add_argument(
        "--normalisation",
        choices=NORMALISATIONS,
        default="inter-ocular",
        help="what errors are over",
    )
    landmarks.add_argument("--limit", type=float, default=0.1, help="largest error that counts")
    landmarks.add_argument(
        "--channel-order", choices=("bgr", "rgb"), default="bgr", help="what the network was fed"
    )
    landmarks.set_defaults(run=run, kind=run_landmarks)
    detection = kinds.add_parser(
        "detection",
        help="average precision",
        description="Find the objects of every photo and print the average precision of each class. Reads "
        "WIDER FACE's text, Pascal VOC's and dlib's XML, and CSV tables of boxes.",
    )
    _add_network(detection, DETECTOR)
    detection.add_argument("--overlap", type=float, default=0.5, help="smallest IoU of a hit")
    detection.add_argument(
        "--rule", choices=RULES, default="area", help="how the curve is summed up"
    )
    detection.add_argument(
        "--smallest",
        type=float,
        default=0.0,
        help="true boxes with a shorter longer side are ignored",
    )
    detection.add_argument(
        "--lowest", type=float, default=0.05, help="score from which boxes enter the curve"
    )
    add_resize_scale(detection)
    detection.set_defaults(run=run, kind=run_detection)


def _add_network(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="photos and annotations"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint (default: the released weights)"
    )
    parser.add_argument("--network", help=f"its network (without a file: {default})")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curve: .png, .svg or .pdf"
    )
    parser.add_argument("--sheet", type=Path, metavar="IMAGE", help="draw the worst cases")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser)
    add_backend(parser)
    parser.set_defaults(default=default)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the figures, and return 0. Raises RefnetError where it cannot."""
    code: int = arguments.kind(arguments)
    return code


def _network(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords that make a detector or a landmarker of what was asked for."""
    return {
        "model": arguments.network or arguments.weights or arguments.default,
        "weights": arguments.weights if arguments.network else None,
        "backend": arguments.backend,
        **parse_options(arguments.option),
    }


def _print(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        shown = f"{value:.5f}" if isinstance(value, float) else str(value)
        print(f"{name:{width}}  {shown}")


# --- landmarks


@dataclass(frozen=True)
class LandmarkResults:
    """Points of every face as fractions of its crop, with the crops: (F, K, 2) twice, (F, S, S, 3)."""

    crops: Array
    predicted: Array
    truth: Array


def find_landmarks(
    faces: Sequence[LandmarkFace], landmarker: FaceLandmarker, margin: float = 1.2
) -> LandmarkResults:
    """Every face cut by its true points' box times `margin`, as in training, with points found in it.

    Raises:
        OptionError: the network's points cannot be compared with the true ones.
    """
    from refnet.faces.crops import cut, square_crop

    side = landmarker.model.graph.input_shape[1]
    crops, truth = [], []
    for face in faces:
        image = read_image(face.image)
        box = np.concatenate([face.points.min(axis=0), face.points.max(axis=0)])
        height, width = image.shape[:2]
        square = face.cropped and height == width
        crop = (0, 0, width) if square else square_crop(box, margin)
        crops.append(cut(image, crop, side))
        truth.append((face.points - np.array(crop[:2])) / crop[2])
    pixels = np.stack(crops)
    step = 64
    predicted = np.concatenate(
        [landmarker.predict_crops(pixels[i : i + step]) for i in range(0, len(pixels), step)]
    )
    points = np.stack(truth)
    if predicted.shape[1] == 98 and points.shape[1] == 68:
        predicted = as_68(predicted)
    if predicted.shape != points.shape:
        raise OptionError(
            f"the network finds {predicted.shape[1]} points and the data has {points.shape[1]}; 98 can "
            "be compared with 98 or 68"
        )
    return LandmarkResults(pixels, predicted, points)


def run_landmarks(arguments: argparse.Namespace) -> int:
    landmarker = FaceLandmarker(channel_order=arguments.channel_order, **_network(arguments))
    results = find_landmarks(landmark_faces(arguments.data), landmarker)
    errors = nme(results.predicted, results.truth, arguments.normalisation)
    curve = cumulative_error(errors, arguments.limit)
    _print(
        arguments,
        {
            "network": landmarker.model.graph.name,
            "faces": len(errors),
            "points": results.truth.shape[1],
            "normalisation": arguments.normalisation,
            "nme": float(errors.mean()),
            f"auc@{arguments.limit:g}": curve.auc,
            f"failure_rate@{arguments.limit:g}": curve.failure_rate,
        },
    )
    if arguments.plot:
        label = f"NME {errors.mean():.4f}, AUC {curve.auc:.3f}, failures {curve.failure_rate:.1%}"
        axes = (f"{arguments.normalisation} error", "share of faces")
        _plot(arguments.plot, {label: (curve.thresholds, curve.fractions)}, axes)
    if arguments.sheet:
        worst = np.argsort(-errors)[:WORST]
        write_image(arguments.sheet, _grid([_face_tile(results, i, errors[i]) for i in worst]))
    return 0


def _face_tile(results: LandmarkResults, index: int, error: float) -> Array:
    cv2 = opencv()
    tile = cv2.resize(results.crops[index], (TILE, TILE))
    for points, colour in ((results.truth, TRUE), (results.predicted, FOUND)):
        for x, y in points[index] * TILE:
            cv2.circle(tile, (round(float(x)), round(float(y))), 1, colour, -1)
    return _labelled(tile, f"{error:.3f}")


def _labelled(tile: Array, text: str) -> Array:
    cv2 = opencv()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            tile, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA
        )
    return tile


def _grid(tiles: Sequence[Array], columns: int = 4) -> Array:
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * TILE, min(columns, len(tiles)) * TILE, 3), 24, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * TILE, i % columns * TILE
        sheet[y : y + TILE, x : x + TILE] = tile
    return sheet


def _plot(path: Path, lines: dict[str, tuple[Array, Array]], axes: tuple[str, str]) -> None:
    from refnet.fields.figures import style

    figure = style.new_figure(6, 4.5)
    plot = figure.subplots()
    for label, (x, y) in lines.items():
        plot.plot(x, y, label=label)
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.set_xlim(left=0)
    plot.set_ylim(0, 1.02)
    plot.grid(alpha=0.3)
    plot.legend(loc="upper left" if "error" in axes[0] else "lower left")
    style.save(figure, path)


# --- detection


def run_detection(arguments: argparse.Namespace) -> int:
    detector = FaceDetector(
        threshold=arguments.lowest,
        resize_scale=scales_of(arguments.resize_scale),
        **_network(arguments),
    )
    photos = boxed_photos(arguments.data)
    known = {name for photo in photos for name in photo.classes}
    if not known & set(detector.classes):
        raise OptionError(
            f"the network finds {', '.join(detector.classes)} and the data has {', '.join(sorted(known))}"
        )
    found = [detector.detect(read_image(photo.image)) for photo in photos]
    figures: dict[str, Any] = {"network": detector.model.graph.name, "photos": len(photos)}
    lines: dict[str, tuple[Array, Array]] = {}
    for label, name in enumerate(detector.classes):
        truths, ignored, ranked = _of_class(photos, found, name, label, arguments.smallest)
        result = average_precision(
            ranked, truths, overlap=arguments.overlap, ignored=ignored, rule=arguments.rule
        )
        figures[f"{name}: true boxes"] = int(sum((~mask).sum() for mask in ignored))
        figures[f"{name}: AP@{arguments.overlap:g}"] = result.value
        figures |= _default_point(name, detector, ranked, truths, ignored, arguments)
        lines[f"{name}: AP {result.value:.3f}"] = (result.recall, result.precision)
    _print(arguments, figures)
    if arguments.plot:
        _plot(arguments.plot, lines, ("recall", "precision"))
    if arguments.sheet:
        write_image(arguments.sheet, _worst_photos(photos, found, detector, arguments))
    return 0


def _of_class(
    photos: Sequence[BoxedPhoto],
    found: Sequence[Detections],
    name: str,
    label: int,
    smallest: float,
) -> tuple[list[Array], list[Array], list[tuple[Array, Array]]]:
    """True boxes, their ignored marks and (boxes, scores) of one class, photo by photo."""
    truths, ignored, ranked = [], [], []
    for photo, detections in zip(photos, found, strict=True):
        own = np.array([c == name for c in photo.classes], bool)
        boxes = photo.boxes[own]
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        truths.append(boxes)
        ignored.append(photo.ignored[own] | (sides < smallest))
        chosen = detections[detections.labels == label]
        ranked.append((chosen.boxes, chosen.scores))
    return truths, ignored, ranked


def _default_point(
    name: str,
    detector: FaceDetector,
    ranked: Sequence[tuple[Array, Array]],
    truths: Sequence[Array],
    ignored: Sequence[Array],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """What the network's own threshold finds and what it finds wrongly."""
    threshold = detector.detection.threshold
    hits = wrong = 0
    for (boxes, scores), truth, mask in zip(ranked, truths, ignored, strict=True):
        hit, dropped = matched(
            boxes[scores > threshold], truth, overlap=arguments.overlap, ignored=mask
        )
        hits += int(hit.sum())
        wrong += int((~hit & ~dropped).sum())
    return {f"{name}: found at {threshold:g}": hits, f"{name}: false at {threshold:g}": wrong}


def _worst_photos(
    photos: Sequence[BoxedPhoto],
    found: Sequence[Detections],
    detector: FaceDetector,
    arguments: argparse.Namespace,
) -> Array:
    """The photos with the most misses and false boxes at the network's own threshold, drawn."""
    threshold = detector.detection.threshold
    kept = [d[d.scores > threshold] for d in found]
    wrong = []
    for photo, detections in zip(photos, kept, strict=True):
        hit, dropped = matched(
            detections.boxes, photo.boxes, overlap=arguments.overlap, ignored=photo.ignored
        )
        missed = int((~photo.ignored).sum()) - int(hit.sum())
        wrong.append((missed, int((~hit & ~dropped).sum())))
    order = sorted(range(len(photos)), key=lambda i: -sum(wrong[i]))[:WORST]
    return _grid([_photo_tile(photos[i], kept[i], wrong[i]) for i in order])


def _photo_tile(photo: BoxedPhoto, detections: Detections, wrong: tuple[int, int]) -> Array:
    cv2 = opencv()
    image = read_image(photo.image)
    scale = TILE / max(image.shape[:2])
    small = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for boxes, colour in ((photo.boxes, TRUE), (detections.boxes, FOUND)):
        for box in boxes * scale:
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, 1)
    tile = np.full((TILE, TILE, 3), 24, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small[:TILE, :TILE]
    return _labelled(tile, f"{wrong[0]} missed, {wrong[1]} false")
