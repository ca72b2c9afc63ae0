"""`refnet evaluate`: how good a network is on photos with true points or boxes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refnet.cli.arguments import (
    NETWORK,
    add_backend,
    add_decoder,
    add_json,
    add_overwrite,
    add_threads,
    check_new,
    print_json,
    read_model,
    whole_number,
)
from refnet.cli.parser import add_verb
from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.errors import OptionError
from refnet.faces.landmarks import FaceLandmarker
from refnet.media.images import read_image, write_image
from refnet.networks.defaults import DETECTOR, LANDMARKER
from refnet.ops import Array
from refnet.results.sheets import boxes_tile, points_tile, sheet
from refnet.training.annotations import BoxedPhoto, boxed_photos, landmark_faces
from refnet.training.evaluation import (
    at_long_side,
    find_landmarks,
    missed_and_false,
    results_by_class,
)
from refnet.training.metrics import NORMALISATIONS, RULES, cumulative_error, nme
from refnet.waiting import progress, waiting

#: How many cases a sheet shows.
WORST = 12
#: Recall is told where so many boxes a photo are false, and for groups of boxes apart.
FALSE_BOXES = 0.5


def add_parser(subparsers: Any) -> None:
    """Add the verb with its two kinds."""
    parser = add_verb(
        subparsers,
        "evaluate",
        "landmarks|detection [NETWORK] --data DIR [...]",
        description="Measure a network on photos whose true points or boxes are known.",
    )
    kinds = parser.add_subparsers(
        title="kinds", metavar="KIND", required=True, prog="refnet evaluate"
    )
    landmarks = kinds.add_parser(
        "landmarks",
        usage="refnet evaluate landmarks [NETWORK] --data DIR [--plot FILE] [--json] [...]",
        help="NME, AUC and failure rate",
        description="Cut every face as in training, by its true points' box times 1.2, find its points, "
        "and print the normalised mean error, the area under the curve of errors up to the limit, and "
        "the share of faces beyond it. Reads WFLW lists, lists of prepared crops, and dlib's XML; 98 "
        "points are compared with 68 true ones through the standard map.",
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
        "--channel-order",
        choices=("bgr", "rgb"),
        default="bgr",
        help="the order that the network was trained on (default: %(default)s)",
    )
    landmarks.set_defaults(run=run, kind=run_landmarks)
    detection = kinds.add_parser(
        "detection",
        usage="refnet evaluate detection [NETWORK] --data DIR [--peers FILE ...] [--long-side PX] [...]",
        help="average precision and recall, of several detectors side by side",
        description="Find the objects of every photo and print the average precision of each class, and the "
        "recall by size, blur and occlusion where half a box a photo is false. Reads WIDER FACE's text, "
        "Pascal VOC's and dlib's XML, and CSV tables of boxes.",
    )
    _add_network(detection, DETECTOR)
    detection.add_argument(
        "--peers",
        default="",
        metavar="LIST",
        help="more detectors for the same photos, with commas: names or files",
    )
    detection.add_argument(
        "--long-side",
        type=whole_number("--long-side"),
        metavar="PX",
        help="resize photos to this longer side and search them once, at that size",
    )
    add_decoder(detection)
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
    detection.add_argument(
        "--min-size",
        type=whole_number("--min-size"),
        metavar="PX",
        help="find from this size on, in pixels of the photo",
    )
    detection.set_defaults(run=run, kind=run_detection)


def _add_network(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="photos and annotations"
    )
    parser.add_argument(
        "network", nargs="?", default=default, metavar="NETWORK", help=f"{NETWORK} ({default})"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curve: .png, .svg or .pdf"
    )
    parser.add_argument("--sheet", type=Path, metavar="IMAGE", help="draw the worst cases")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    add_overwrite(parser, "pictures that are there")
    add_json(parser)
    add_threads(parser)
    add_backend(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the figures, and return 0. Raises RefnetError where it cannot."""
    check_new([arguments.plot, arguments.sheet], overwrite=arguments.overwrite)
    code: int = arguments.kind(arguments)
    return code


def _network(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords that make a detector or a landmarker of what was asked for."""
    model = read_model(arguments.network, backend=arguments.backend, threads=arguments.threads)
    return {"model": model}


def _print(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    if arguments.json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        shown = f"{value:.5f}" if isinstance(value, float) else str(value)
        print(f"{name:{width}}  {shown}")


# --- landmarks


def run_landmarks(arguments: argparse.Namespace) -> int:
    landmarker = FaceLandmarker(channel_order=arguments.channel_order, **_network(arguments))
    with waiting("measuring"):
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
        tiles = [
            points_tile(
                results.crops[i], results.truth[i], results.predicted[i], f"{errors[i]:.3f}"
            )
            for i in np.argsort(-errors)[:WORST]
        ]
        write_image(arguments.sheet, sheet(tiles))
    return 0


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
    networks = [arguments.network, *(name for name in arguments.peers.split(",") if name)]
    detectors = [_detector(name, arguments) for name in networks]
    photos = boxed_photos(arguments.data)
    known = {name for photo in photos for name in photo.classes}
    for detector in detectors:
        if known and not known & set(detector.classes):
            raise OptionError(
                f"{detector.model.graph.name} finds {', '.join(detector.classes)} and the data has "
                f"{', '.join(sorted(known))}"
            )
    found: list[list[Detections]] = [[] for _ in detectors]
    seen = []
    for photo in progress(photos, unit="photos"):
        if arguments.long_side:
            image, photo = at_long_side(photo, arguments.long_side)
        else:
            image = read_image(photo.image)
        seen.append(photo)
        for detector, own in zip(detectors, found, strict=True):
            own.append(detector(image))
    lines: dict[str, tuple[Array, Array]] = {}
    figures = [
        _figures(Path(name).stem, detector, seen, own, arguments, lines)
        for name, detector, own in zip(networks, detectors, found, strict=True)
    ]
    _print_all(arguments, figures)
    if arguments.plot:
        _plot(arguments.plot, lines, ("recall", "precision"))
    if arguments.sheet:
        threshold = detectors[0].detection.threshold
        kept = [detections[detections.scores > threshold] for detections in found[0]]
        write_image(arguments.sheet, _worst_photos(photos, seen, kept, arguments))
    return 0


def _detector(name: str, arguments: argparse.Namespace) -> Detector:
    model = read_model(name, backend=arguments.backend, threads=arguments.threads)
    sizes: dict[str, Any] = {"min_size": arguments.min_size}
    if arguments.long_side:
        # A network of one input size fits every photo into it, and has no scales.
        sizes = {} if model.graph.fixed_size else {"scales": (1.0,)}
    decoder = arguments.decoder if name == arguments.network else None
    return Detector(model, threshold=arguments.lowest, decoder=decoder, **sizes)


def _figures(
    name: str,
    detector: Detector,
    photos: Sequence[BoxedPhoto],
    found: Sequence[Detections],
    arguments: argparse.Namespace,
    lines: dict[str, tuple[Array, Array]],
) -> dict[str, Any]:
    """What is printed of one detector; its curves are put into `lines`."""
    figures: dict[str, Any] = {"network": name, "photos": len(photos)}
    threshold, overlap = detector.detection.threshold, arguments.overlap
    for results in results_by_class(photos, found, smallest=arguments.smallest):
        curve = results.average_precision(overlap=overlap, rule=arguments.rule)
        hits, wrong = results.above(threshold, overlap=overlap)
        recall, least = results.recall(FALSE_BOXES, overlap=overlap)
        figures |= {
            f"{results.name}: true boxes": results.true_boxes,
            f"{results.name}: AP@{overlap:g}": curve.value,
            f"{results.name}: threshold": threshold,
            f"{results.name}: found at it": hits,
            f"{results.name}: false at it": wrong,
            f"{results.name}: recall at {FALSE_BOXES:g} false boxes a photo": recall,
        }
        groups = results.recall_by_group(least, overlap=overlap)
        figures |= {f"{results.name}: … {group}": value for group, value in groups.items()}
        lines[f"{name}, {results.name}: AP {curve.value:.3f}"] = (curve.recall, curve.precision)
    return figures


def _print_all(arguments: argparse.Namespace, figures: Sequence[dict[str, Any]]) -> None:
    """One detector as `_print` does; several as a table, or a line of JSON each."""
    if arguments.json or len(figures) == 1:
        for own in figures:
            _print(arguments, own)
        return
    names = list(dict.fromkeys(name for own in figures for name in own))
    width = max(map(len, names))
    for name in names:
        cells = [own.get(name, "") for own in figures]
        shown = [f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells]
        columns = [max(8, len(own["network"])) for own in figures]
        print(f"{name:{width}}", *(f"{c:>{w}}" for c, w in zip(shown, columns, strict=True)))


def _worst_photos(
    photos: Sequence[BoxedPhoto],
    seen: Sequence[BoxedPhoto],
    found: Sequence[Detections],
    arguments: argparse.Namespace,
) -> Array:
    """A sheet of the photos with the most misses and false boxes; `seen` are they as they were searched."""
    wrong = [
        missed_and_false(p, d, overlap=arguments.overlap, smallest=arguments.smallest)
        for p, d in zip(seen, found, strict=True)
    ]
    tiles = []
    for i in sorted(range(len(photos)), key=lambda i: -sum(wrong[i]))[:WORST]:
        missed, false = wrong[i]
        if arguments.long_side:
            image, _ = at_long_side(photos[i], arguments.long_side)
        else:
            image = read_image(photos[i].image)
        tiles.append(
            boxes_tile(image, seen[i].boxes, found[i].boxes, f"{missed} missed, {false} false")
        )
    return sheet(tiles)
