"""Train a slim LFFD on photos and composed scenes.

    python -m weights.recipes.detection --data DIR --out DIR

The released lffd-face-v2 came from this recipe. `faces.py` is newer and cannot take its place: it trains lffd-light,
whose cells give one score and five points, by a loss for those. An LFFD gives two logits and a box in shares of its
receptive field; its targets, mining and sampling here are the paper's. Its plain SGD and its divisor of the box loss are
not: Adam and a box loss by positives learn in a thousandth of its two million steps.

DIR holds, as far as it is there:

    train/web_photos/{without_mask,with_mask}/   photos of a face or a few, and beside each folder a table of
                                                 boxes, such as web_photos/with_mask_faces_pseudo.csv
    train/coco256/{train2017,val2017}/           photos of everything, with such tables; those without a person
                                                 in train/coco256/labels_yolo/ are backgrounds
    validation/crowds, validation/dlib_faces     photos that are only measured on

A table has the columns image, x1, y1, x2, y2 and score; --crops adds the faces that the landmark recipe has labelled.
The web photos that the released weights learned from are not kept: the recipe is the record of how they were made, and
how an LFFD learns from photos and boxes of one's own.

A tenth of the photos is set aside first; it gives the average precision of the log, on whole photos and on
composed scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import refnet
from refnet.checkpoints import save
from refnet.detection.geometry import BranchGeometry, geometry
from refnet.graph import Graph
from refnet.model import Model
from refnet.networks.defaults import detection_of
from refnet.ops import Array
from refnet.training import losses
from refnet.training.matching import BranchTargets, match_lffd
from weights.recipes.detection_data import (
    CROPS,
    Photo,
    Pool,
    backgrounds,
    face_crops,
    face_photos,
    people,
    scene,
)
from weights.recipes.detection_figures import SMALLEST, on_validation, precision
from weights.recipes.landmarks import attached
from weights.recipes.release import release, released_tensors, rows
from weights.recipes.torch_graph import GraphModule, initialize
from weights.recipes.training import Run, Schedule, draw_curve

#: What the box loss, a mean over positives and edges, counts beside the class loss.
BOX_WEIGHT = 4.0

#: The parts of the model card that do not depend on the run.
CARD = {
    "Data": """
Web photos, in half of which a surgical mask is pasted over the face, and COCO photos, with boxes that a
RetinaFace found; boxes it was unsure of count neither as faces nor as background. Most of these faces
are large and alone, so training images are composed: photos shrunken side by side, faces pasted onto
COCO photos without people, crops at random scale, any part of COCO photos of people. Pasted in and set
side by side are also crops of YouTube Faces frames, their boxes made from 98 points that landmark
networks found.""",
    "Split": """
A tenth of the photos and of YouTube's people was set aside before the first run, by a hash of their
names (`weights/recipes/splits.py`), and was never trained on. Some people are on more than one web
photo. The photos of crowds and dlib's sample photos were never trained on.""",
    "Figures": f"""
Average precision is the area under the interpolated curve, at an IoU of 0.5, for faces of at least
{SMALLEST} pixels on the longer side at the network's input; smaller ones are ignored. The truth is what
the RetinaFace found, on dlib's photos boxes about its 68 points. Scenes are composed of set-aside photos
as training images are.""",
    "Limits": """
Faces below about 12 pixels, upside down or in profile are missed; hands and round patterned things are
sometimes taken for faces. Published test sets were not at hand, so no figure here compares with a
paper's.""",
    "Not for": """
Surveillance, or anything where a face that is missed, or seen where there is none, harms somebody.
Whether it works equally well for all groups of people has not been measured.""",
    "Terms": """
The weights are released under refnet's licence, Apache-2.0. The images' terms are: COCO, Flickr's terms
photo by photo; YouTube Faces, for research; web photos without a stated licence. No image is part of
the weights. Check for yourself whether your use agrees with that before you ship them.""",
}


def trainable_outputs(graph: Graph) -> tuple[str, ...]:
    """The nodes that losses look at: each branch's logits and boxes."""
    names: list[str] = []
    for i in range(1, len(graph.outputs) // 2 + 1):
        names += [graph.node[f"softmax_{i}"].inputs[0], f"bbox_{i}"]
    return tuple(names)


def targets_of(
    boxes: Array,
    ignored: Array,
    branches: Sequence[BranchGeometry],
    shapes: Sequence[tuple[int, int]],
) -> tuple[BranchTargets, ...]:
    """LFFD's targets of one image; cells inside ignored boxes count in no class loss."""
    found = match_lffd(boxes[~ignored], branches, shapes)
    for target, branch, (height, width) in zip(found, branches, shapes, strict=True):
        x = np.arange(width) * branch.stride + branch.centre
        y = np.arange(height) * branch.stride + branch.centre
        for x1, y1, x2, y2 in boxes[ignored]:
            inside = ((y >= y1) & (y <= y2))[:, None] & ((x >= x1) & (x <= x2))
            target.class_mask[inside & ~target.face] = False
    return found


def cautious(
    graph: Graph, weights: Mapping[str, Array], raw: float, default: float
) -> dict[str, Array]:
    """The same network with every score's log-odds lowered, so that a score of `raw` becomes `default`.

    The ranking and so the average precision stay; what changes is what users get who never touch the
    threshold: training images are half faces, photos are not.
    """
    odds = np.log(raw / (1 - raw)) - np.log(default / (1 - default))
    shifted = dict(weights)
    for name in trainable_outputs(graph)[::2]:
        bias = graph.node[name].parameters["bias"]
        shifted[bias] = weights[bias] - np.array([odds, 0], np.float32)  # channel 0 is the object
    return shifted


def detection_loss(
    outputs: Sequence[torch.Tensor], targets: Sequence[Sequence[BranchTargets]], rule: str
) -> torch.Tensor:
    """The sum over branches of class and box losses, ready for a backward pass.

    Args:
        outputs: logits (N, 2, h, w) and boxes (N, 4, h, w) of each branch.
        targets: of each image, of each branch.
        rule: of mining, see `refnet.training.losses.mined`.
    """
    total = torch.zeros(())
    for i in range(len(outputs) // 2):
        own = [image[i] for image in targets]
        face, mask = np.stack([t.face for t in own]), np.stack([t.class_mask for t in own])
        logits, boxes = outputs[2 * i], outputs[2 * i + 1]
        scores = losses.lffd_class(numbers(logits), face, mask, rule=rule)
        box_mask = np.stack([t.box_mask for t in own])
        distances = np.stack([t.distances for t in own])
        shifts = losses.lffd_boxes(numbers(boxes), distances, box_mask, divisor="positives")
        total = total + attached(logits, scores.value, scores.gradient).cpu()
        value, gradient = BOX_WEIGHT * shifts.value, BOX_WEIGHT * shifts.gradient
        total = total + attached(boxes, value, gradient).cpu()
    return total


def numbers(tensor: torch.Tensor) -> Array:
    """A tensor's values as float32."""
    return np.asarray(tensor.detach().float().cpu().numpy())


def train(
    photos: Sequence[Photo],
    empty: Sequence[Photo],
    crowd: Sequence[Photo],
    out: Path,
    settings: dict[str, Any],
) -> tuple[GraphModule, dict[str, float]]:
    """Train by `settings` (see the command's arguments); the averaged network and its figures.

    Args:
        photos, empty, crowd: with faces, without people, with people but perhaps without faces;
            those set aside among them.
    """
    size = settings["size"]
    graph = refnet.build(settings["network"], width=settings["width"], input_size=(size, size))
    branches, outputs = geometry(graph), trainable_outputs(graph)
    maps = graph.shapes()
    shapes = [(maps[name][1], maps[name][2]) for name in outputs[::2]]
    torch.manual_seed(settings["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = GraphModule(graph, outputs=outputs)
    if settings["start"]:
        module = GraphModule(graph, refnet.load(settings["start"]).weights, outputs=outputs)
    else:
        initialize(module, "he", settings["seed"])
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learned = Pool([p for p in photos if not p.aside])
    without = [p for p in empty if not p.aside]
    portraits = [p for p in photos if p.source.startswith("web_photos")]
    anywhere = Pool([p for p in [*crowd, *portraits] if not p.aside])
    aside = [p for p in photos if p.aside]
    unseen = Pool(aside)
    rng = np.random.default_rng(settings["seed"] + 1)
    spare = [p for p in empty if p.aside] or list(empty)
    scenes = [scene(unseen, spare, size, branches, rng) for _ in range(settings["scenes"])]
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=1e-4)
    schedule = Schedule(settings["rate"], settings["steps"], warmup=settings["steps"] // 20)
    run = Run(module, optimizer, schedule, out, settings=settings)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings["seed"], step])
        drawn = [
            scene(learned, without, size, branches, rng, anywhere) for _ in range(settings["batch"])
        ]
        pixels = np.stack([d[0] for d in drawn]).transpose(0, 3, 1, 2).astype(np.float32)
        x = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["mixed"]):
            y = module(x)
        aims = [targets_of(boxes, ignored, branches, shapes) for _, boxes, ignored in drawn]
        return detection_loss(y, aims, settings["rule"])

    student = GraphModule(graph, outputs=outputs)

    def report() -> dict[str, float]:
        student.load_state_dict(run.averaged)
        model = Model(graph, student.arrays())
        whole = [(p.image, p.boxes, p.ignored) for p in aside if p.source != CROPS]
        return {"ap_photos": precision(model, whole), "ap_scenes": precision(model, scenes)}

    run.train(
        loss,
        report=report,
        report_every=settings["report"],
        save_every=settings["report"],
        clip=10.0,
    )
    return student, report()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="weights.recipes.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of train/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--crops", type=Path, help="faces.npz of the landmark recipe")
    parser.add_argument("--network", default="lffd-face-v2")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--start", help="trained.safetensors of another run")
    parser.add_argument("--size", type=int, default=320, help="side of a training crop")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak of the learning rate")
    parser.add_argument("--rule", choices=losses.MINING_RULES, default="nominal")
    parser.add_argument(
        "--caution",
        type=float,
        default=0.8,
        help="the network's score that the released one has as its default threshold",
    )
    parser.add_argument("--scenes", type=int, default=60, help="composed scenes to evaluate on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=500, help="steps between two reports")
    parser.add_argument("--mixed", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    photos, empty, crowd = face_photos(given.data), backgrounds(given.data), people(given.data)
    if given.crops:
        photos += face_crops(given.crops)
    if not photos:
        raise SystemExit(f"{given.data} holds no photos with faces under train/")
    names = (
        "network",
        "width",
        "start",
        "size",
        "steps",
        "batch",
        "rate",
        "rule",
        "scenes",
        "seed",
        "report",
        "mixed",
    )
    settings = {name: getattr(given, name) for name in names}
    student, final = train(photos, empty, crowd, given.out, settings)
    draw_curve(given.out, {"ap_photos": "AP, photos", "ap_scenes": "AP, scenes"})
    graph = refnet.build(given.network, width=given.width)
    arrays = cautious(graph, student.arrays(), given.caution, detection_of(graph).threshold)
    options, stored = released_tensors(graph, arrays)
    validation = on_validation(Model(refnet.build(graph.name, **options), stored), given.data)
    record = {
        **settings,
        "start": given.start and Path(given.start).name,
        "caution": given.caution,
        "trained_on": sum(not p.aside for p in photos),
        "set_aside": sum(p.aside for p in photos),
    }
    whole = sum(p.aside and p.source != CROPS for p in photos)
    measured: dict[str, float] = {
        f"AP@0.5 on {whole} set-aside photos": final["ap_photos"],
        f"AP@0.5 on {given.scenes} composed scenes": final["ap_scenes"],
        **validation,
    }
    sections = {**CARD, "Figures": f"{CARD['Figures']}\n\n{rows(measured)}"}
    title = f"{given.network}, width {given.width:g}: faces"
    save(given.out / "trained.safetensors", graph.name, graph.options, student.arrays())
    weights = given.out / f"{given.network}.safetensors"
    release(weights, graph, arrays, title, sections, record)
    text = json.dumps({**record, **final, **validation}, indent=2)
    (given.out / "result.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
