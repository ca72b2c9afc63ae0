"""Train BasketNet on frames with balls, after cross-validation has measured how good it will be.

    python -m weights.recipes.basketnet --data DIR --out DIR

DIR holds frames and Pascal VOC annotations. With so few frames nothing is set aside for good: `--folds`
trainings, each without one part, give the figures, and the last one trains on all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import refnet
from refnet.detection.basketnet import basketnet_priors
from refnet.detection.detector import Detector
from refnet.media.images import read_image
from refnet.model import Model
from refnet.networks.defaults import detection_of
from refnet.ops import Array
from refnet.passes import fold
from refnet.training import losses
from refnet.training.annotations import boxed_photos
from refnet.training.matching import match_basketnet
from refnet.training.metrics import average_precision
from weights.recipes.detection import numbers
from weights.recipes.detection_data import distorted
from weights.recipes.landmarks import attached
from weights.recipes.release import release, rows
from weights.recipes.torch_graph import GraphModule, initialize, with_norms
from weights.recipes.training import Run, Schedule, draw_curve

CLASSES = detection_of("basketnet").classes
#: The side that users' images are stretched to.
INPUT = 640

Frame = tuple[Array, Array, Array]  # image, boxes (B, 4), labels (B,) from 1


#: The parts of the model card that do not depend on the run.
CARD = {
    "Data": """
Frames of 512×512 pixels with basketballs and volleyballs and Pascal VOC annotations, from
aoru45/BasketNet. Crops of them at 0.7 to 1.6 times the size in use, mirrored, in varied light.""",
    "Split": """
None for good: there are too few frames. The figures are from cross-validation, in which every frame is
judged by a network that has not seen it; the released weights have seen all.""",
    "Figures": """
Average precision is the area under the interpolated curve, at an IoU of 0.5, as the mean over the parts
of the cross-validation.""",
    "Limits": """
It knows these courts and these cameras. Frames of one scene may lie in different parts, so the figures
are likely to flatter it. Scores are cautious: of the 73 balls it was trained on, 69 score above the usual
threshold of 0.8, and nothing else does.""",
    "Not for": "Refereeing, or anything else where an error costs somebody something.",
    "Terms": """
The weights are released under refnet's licence, Apache-2.0. The frames come from a public repository
and are not part of the weights.""",
}


def frames(data: Path) -> list[Frame]:
    """Every annotated frame of `data`, by its file's name."""
    found = []
    for photo in sorted(boxed_photos(data), key=lambda p: p.image.name):
        labels = np.array([1 + CLASSES.index(name) for name in photo.classes], np.int64)
        found.append((read_image(photo.image), photo.boxes, labels))
    return found


def varied(frame: Frame, size: int, rng: np.random.Generator) -> Frame:
    """A crop (size, size, 3) of the frame at 0.7 to 1.6 times its size in use, about a ball mostly."""
    image, boxes, labels = frame
    zoom = INPUT / np.array(image.shape[1::-1]) * np.exp(rng.uniform(np.log(0.7), np.log(1.6)))
    extent = np.array(image.shape[1::-1]) * zoom
    if len(boxes) and rng.random() < 0.85:
        box = boxes[rng.integers(len(boxes))]
        middle = (box[:2] + box[2:]) / 2 * zoom + rng.uniform(-0.4, 0.4, 2) * size
        corner = middle - size / 2
    else:
        corner = rng.uniform(0, 1, 2) * np.maximum(extent - size, 0)
    matrix = np.array(
        [
            [zoom[0], 0, 0.5 * zoom[0] - 0.5 - corner[0]],
            [0, zoom[1], 0.5 * zoom[1] - 0.5 - corner[1]],
        ]
    )
    crop = np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR))
    moved = boxes * np.tile(zoom, 2) - np.tile(corner, 2)
    middles = (moved[:, :2] + moved[:, 2:]) / 2
    inside = ((middles > 0) & (middles < size)).all(axis=1)
    moved = moved[inside]
    if rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
        moved = np.stack([size - moved[:, 2], moved[:, 1], size - moved[:, 0], moved[:, 3]], axis=1)
    return distorted(crop, rng)[0], moved, labels[inside]


def precisions(model: Model, held: Sequence[Frame]) -> dict[str, float]:
    """AP@0.5 of each class on frames."""
    detector = Detector(model, threshold=0.05)
    found = [detector.detect(image) for image, _, _ in held]
    result = {}
    for i, name in enumerate(CLASSES):
        ranked = [(d.boxes[d.labels == i], d.scores[d.labels == i]) for d in found]
        truths = [boxes[labels == i + 1] for _, boxes, labels in held]
        result[f"ap_{name}"] = average_precision(ranked, truths).value
    return result


def train(
    learned: Sequence[Frame], held: Sequence[Frame], out: Path, settings: dict[str, Any]
) -> dict[str, Array]:
    """Train on crops of `learned`; the log tells the precision on `held`, if there are any.

    Returns:
        The weights of the network, the norms that it was trained with folded away.
    """
    size = settings["size"]
    graph = refnet.build("basketnet", input_size=size)
    priors = basketnet_priors(graph)
    torch.manual_seed(settings["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    normed = with_norms(graph)
    module = GraphModule(normed)
    initialize(module, "he", settings["seed"])
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(module.parameters())
    schedule = Schedule(settings["rate"], settings["steps"], warmup=settings["steps"] // 20)
    run = Run(module, optimizer, schedule, out, average=0.99, settings=settings)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings["seed"], step])
        chosen = rng.integers(0, len(learned), settings["batch"])
        drawn = [varied(learned[i], size, rng) for i in chosen]
        rgb = np.stack([image[:, :, ::-1] for image, _, _ in drawn]).transpose(0, 3, 1, 2)
        x = torch.from_numpy(np.ascontiguousarray(rgb, np.float32) / np.float32(255))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["mixed"]):
            logits, locations = module(x.to(device, memory_format=torch.channels_last))
        aims = [match_basketnet(boxes / size, own, priors) for _, boxes, own in drawn]
        labels, targets = np.stack([a[0] for a in aims]), np.stack([a[1] for a in aims])
        scores = losses.basketnet_class(numbers(logits), labels)
        shifts = losses.basketnet_boxes(numbers(locations), targets, labels)
        return attached(logits, *scores) + attached(locations, *shifts)

    def report() -> dict[str, float]:
        return precisions(released_model(trained()), held) if held else {}

    def trained() -> dict[str, Array]:
        student = GraphModule(normed)
        student.load_state_dict(run.averaged)
        return fold(normed, student.arrays())[1]

    run.train(
        loss,
        report=report,
        report_every=settings["report"],
        save_every=settings["report"],
        clip=10.0,
    )
    return trained()


def released_model(weights: Mapping[str, Array]) -> Model:
    """The network as users run it."""
    return Model(refnet.build("basketnet", input_size=INPUT), weights)


def fold_of(index: int, folds: int) -> int:
    """The part that frame number `index`, by name, belongs to."""
    return index % folds


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="weights.recipes.basketnet", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of frames and annotations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--folds", type=int, default=5, help="parts of the cross-validation; 0 for none"
    )
    parser.add_argument("--size", type=int, default=320, help="side of a training crop")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak of the learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=200, help="steps between two reports")
    parser.add_argument("--mixed", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    every = frames(given.data)
    names = ("size", "steps", "batch", "rate", "seed", "report", "mixed")
    settings = {name: getattr(given, name) for name in names}
    results = []
    for part in range(given.folds):
        held = [f for i, f in enumerate(every) if fold_of(i, given.folds) == part]
        learned = [f for i, f in enumerate(every) if fold_of(i, given.folds) != part]
        out = given.out / f"fold{part}"
        results.append(precisions(released_model(train(learned, held, out, settings)), held))
        draw_curve(out, {f"ap_{name}": f"AP, {name}" for name in CLASSES})
    weights = train(every, [], given.out / "all", settings)
    measured: dict[str, float] = {}
    for name in CLASSES if results else ():
        values = [r[f"ap_{name}"] for r in results]
        measured[f"AP@0.5, {name}"] = float(np.nanmean(values))
        measured[f"AP@0.5, {name}, worst part"] = float(np.nanmin(values))
    record = {**settings, "folds": given.folds, "frames": len(every)}
    sections = {**CARD, "Figures": f"{CARD['Figures']}\n\n{rows(measured)}"}
    graph = refnet.build("basketnet", input_size=INPUT)
    title = "basketnet: basketballs and volleyballs"
    release(given.out / "basketnet.safetensors", graph, weights, title, sections, record)
    text = json.dumps({**record, **measured, "parts": results}, indent=2)
    (given.out / "result.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
