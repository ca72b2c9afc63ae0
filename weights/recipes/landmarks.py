"""Train a small landmark network on what larger ones see.

    python -m weights.recipes.landmarks --data DIR --out DIR

DIR holds `train/` with face crops and photos, and `pfld/onnx/` with three trained 98-point networks.
They, averaged with their mirrored runs, label every face; the student learns the labels from augmented
crops by the wing loss on pixels. A tenth of the identities and photos is set aside before anything
else. The run can be cut off and started again; at its end stand the weights and their figures. `--start`
goes on from a trained.safetensors, such as pfld-ultralight-slim.trained.safetensors beside this file, from which the
released weights were folded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import refnet
from refnet.checkpoints import save
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.schemes import as_68, mirrored
from refnet.model import Model
from refnet.ops import Array
from refnet.training import losses
from refnet.training.annotations import landmark_faces
from refnet.training.evaluation import find_landmarks
from refnet.training.metrics import cumulative_error, nme
from weights.recipes.landmark_data import (
    SIDE,
    Batches,
    Faces,
    Teacher,
    Unlabelled,
    as_input,
    base_crop,
    boxed_photos,
    labelled,
    restore,
    store,
    wider_crops,
    youtube_crops,
)
from weights.recipes.release import release, released_tensors, rows
from weights.recipes.torch_graph import GraphModule, initialize
from weights.recipes.training import Run, Schedule, draw_curve

#: The parts of the model card that do not depend on the run.
CARD = {
    "Data": """
Face crops of YouTube Faces frames (the release of Udacity's first computer-vision project), of WIDER FACE, and of
photos of people with masks and of faces behind hands, masks and veils (MAFA's photos with the AIZOO boxes). No point
was set by hand: each face's 98 points, in WFLW's order, are the mean of three networks, PFLD_GhostNet,
PFLD_GhostNet_Slim and PFLD_GhostOne (AnthonyF333/PFLD_GhostOne), each run on the face and on its mirror image, in a
crop about the points of a first pass. Faces that these disagree about were left out.""",
    "Split": """
A tenth of the people (YouTube Faces) and of the photos (the rest) was set aside before the first run, by
a hash of their names (`weights/recipes/splits.py`), and was never trained on.""",
    "Figures": """
NME is the mean distance of the points over the distance of the outer eye corners. Crops are cut by the
true points' box times 1.2, as the teachers' makers do. On set-aside faces the truth is what the
teachers say, so these figures say how well they are followed, not how right they are. The 68 points of
dlib's sample photos are compared through the standard map of 98 to 68 points; their authors made them with
dlib's own predictor. `FaceLandmarker` takes the mean of the points in a crop and in its mirror image.""",
    "Limits": """
It can be no better than its teachers, and its error is largest on faces turned to the side. Children, very dark
photos, profiles beyond about 60 degrees and closed eyes are rare among the training faces. Points behind
a mask, a hand or hair are guesses. Blinks and small movements of the lips are smoothed away. There is
no score: it answers with a face on anything. It was trained on squares 1.0 to 1.6 times the points'
box, most of them about 1.2; other crops are worse.""",
    "Not for": """
Identification, surveillance, inference of emotion, health, age or character, or anything where a wrong
point harms somebody. Whether it works equally well for all groups of people has not been measured.""",
    "Terms": """
The weights are released under refnet's licence, Apache-2.0. They were distilled from weights published
under Apache-2.0 that were trained on WFLW, and from images for research: YouTube Faces, WIDER FACE, MAFA. WFLW is
for research, too. No image is part of the weights. Check for yourself whether your use agrees with that before you
ship them.""",
}


def sources(data: Path) -> Iterator[Unlabelled]:
    """Every face of the training folders under `data` that are there."""
    readers = {
        "youtube_faces_crops": youtube_crops,
        "wider_faces": wider_crops,
        "masks_crowd": boxed_photos,
        "occluded_faces": boxed_photos,
    }
    folders = {data / "train" / name: reader for name, reader in readers.items()}
    return chain.from_iterable(read(folder) for folder, read in folders.items() if folder.is_dir())


def prepare(data: Path, cache: Path, teachers: Sequence[Path] = ()) -> Faces:
    """The labelled faces of `data`, from `cache` where an earlier run left them there."""
    if not cache.exists():
        files = list(teachers) or sorted((data / "pfld" / "onnx").glob("*.onnx"))
        if not files:
            raise SystemExit(f"no teachers: {data / 'pfld' / 'onnx'} holds no ONNX file")
        cache.parent.mkdir(parents=True, exist_ok=True)
        store(labelled(sources(data), Teacher(files)), cache)
    return restore(cache)


def predictions(network: GraphModule, crops: Array, size: int = 128) -> Array:
    """(N, 98, 2) fractions of uint8 BGR crops, by the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(as_input(crops[i : i + size])))[-1].float().cpu().numpy()
            for i in range(0, len(crops), size)
        ]
    return np.concatenate(parts).reshape(len(crops), -1, 2)


def figures(predicted: Array, truth: Array) -> dict[str, float]:
    """Mean NME (inter-ocular), AUC and failure rate at 0.1."""
    errors = nme(predicted, truth)
    distribution = cumulative_error(errors)
    return {
        "nme": float(errors.mean()),
        "auc": distribution.auc,
        "failure_rate": distribution.failure_rate,
    }


def train(
    faces: Faces, out: Path, settings: Mapping[str, Any], schedule: Schedule, *, report: int
) -> tuple[GraphModule, dict[str, float]]:
    """Train by `settings` (see the command's arguments); the averaged network and its figures.

    Args:
        report: steps between two measurements.
    """
    begun = refnet.load(settings["start"]) if settings["start"] else None
    graph = begun.graph if begun else refnet.build(settings["network"], width=settings["width"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings["seed"])
    module, student = GraphModule(graph), GraphModule(graph)
    learned, aside = faces.where(~faces.aside), faces.where(faces.aside)
    if begun:
        module.load_state_dict(GraphModule(graph, begun.weights).state_dict())
    else:
        initialize(module, "he", settings["seed"])
        begin_at_mean_shape(module, learned)
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = [base_crop(i, p) for i, p in zip(aside.images, aside.points, strict=True)]
    crops, truth = np.stack([p[0] for p in plain]), np.stack([p[1] for p in plain])
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=settings["decay"])
    run = Run(module, optimizer, schedule, out, settings=settings)

    drawn = Batches(learned, settings["seed"], run.step, settings["batch"])
    batches: Iterator[Any] = iter(DataLoader(drawn, batch_size=None, num_workers=1))

    def loss(step: int) -> torch.Tensor:
        pixels, points = next(batches)
        # The bytes of the crops lie as torch's channels-last format wants them.
        x = pixels.to(device).permute(0, 3, 1, 2).float() * (2 / 255) - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["mixed"]):
            y = module(x)[-1]
        predicted = y.detach().float().cpu().numpy()
        wanted = np.asarray(points).reshape(len(points), -1)  # the loader makes tensors of arrays
        value, gradient = losses.wing(predicted * SIDE, wanted * SIDE)
        return attached(y, value, gradient * SIDE)

    def measured() -> dict[str, float]:
        student.load_state_dict(run.averaged)
        return figures(predictions(student, crops), truth)

    run.train(loss, report=measured, report_every=report, save_every=report)
    return student, measured()


def begin_at_mean_shape(module: GraphModule, faces: Faces) -> None:
    """Set the last layer's bias to the mean face, and its weights small, so that training starts there."""
    plain = [base_crop(i, p)[1] for i, p in zip(faces.images, faces.points, strict=True)]
    state = module.state_dict()
    last = module.graph.node["landmarks"].parameters
    with torch.no_grad():
        state[last["bias"]].copy_(torch.from_numpy(np.mean(plain, axis=0).ravel()))
        state[last["weight"]].mul_(0.1)


def attached(y: torch.Tensor, value: float, gradient: Array) -> torch.Tensor:
    """A scalar of this value whose backward pass hands `gradient` to `y`."""
    by_y = torch.from_numpy(np.asarray(gradient, np.float32)).to(y.device)
    linear = (y.float() * by_y).sum()
    return linear - linear.detach() + value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="weights.recipes.landmarks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of train/ and pfld/onnx/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, help="labelled faces (default: OUT/faces.npz)")
    parser.add_argument("--teacher", type=Path, action="append", default=[], help="a checkpoint")
    parser.add_argument("--network", default="pfld-ultralight-slim")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--start", help="trained.safetensors of another run")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak of the learning rate")
    parser.add_argument("--flat", type=float, default=0.3, help="share of the steps at the peak")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=250, help="steps between two reports")
    parser.add_argument("--mixed", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    faces = prepare(given.data, given.cache or given.out / "faces.npz", given.teacher)
    names = ("network", "width", "start", "batch", "decay", "seed", "mixed")
    settings = {name: getattr(given, name) for name in names}
    schedule = Schedule(given.rate, given.steps, warmup=given.steps // 50, flat=given.flat)
    student, final = train(faces, given.out, settings, schedule, report=given.report)
    draw_curve(given.out, {"nme": "NME on set-aside faces"})
    weights = given.out / f"{given.network}.safetensors"
    graph, tensors = student.graph, student.arrays()
    save(given.out / "trained.safetensors", graph.name, graph.options, tensors)  # for --start
    options, stored = released_tensors(graph, tensors)
    landmarker = FaceLandmarker(Model(refnet.build(graph.name, **options), stored))
    measured = {
        **by_source(landmarker, faces),
        **beside_teachers(landmarker, given.data, given.teacher),
    }
    made = {
        **settings,
        "steps": given.steps,
        "rate": given.rate,
        "start": given.start and Path(given.start).name,
        "trained_on": int((~faces.aside).sum()),
        "set_aside": int(faces.aside.sum()),
    }
    title = f"{given.network}, width {given.width:g}: 98 facial landmarks"
    sections = {**CARD, "Figures": f"{CARD['Figures']}\n\n{rows(measured)}"}
    release(weights, graph, tensors, title, sections, made)
    record = {**made, **final, **measured}
    (given.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
    return 0


def seen_mirrored(landmarker: FaceLandmarker, crops: Array) -> Array:
    """(N, 98, 2) fractions of crops (N, 112, 112, 3), found in their mirror images."""
    starts = range(0, len(crops), 64)
    parts = [landmarker.predict_crops(crops[i : i + 64, :, ::-1]) for i in starts]
    return mirrored(np.concatenate(parts), 1.0)


def by_source(landmarker: FaceLandmarker, faces: Faces) -> dict[str, float]:
    """NME of the released weights against the labels on set-aside faces, of all and of each source."""
    aside = faces.where(faces.aside)
    plain = [base_crop(i, p) for i, p in zip(aside.images, aside.points, strict=True)]
    crops, truth = np.stack([p[0] for p in plain]), np.stack([p[1] for p in plain])
    parts = [landmarker.predict_crops(crops[i : i + 64]) for i in range(0, len(crops), 64)]
    predicted = np.concatenate(parts)
    found = {
        f"{name} of set-aside faces": value for name, value in figures(predicted, truth).items()
    }
    twice = (predicted + seen_mirrored(landmarker, crops)) / 2
    found["nme of them, each with its mirror image"] = float(nme(twice, truth).mean())
    names = np.array(aside.sources)
    for name in sorted(set(aside.sources)):
        own = names == name
        count = int(own.sum())
        found[f"nme of {count} set-aside faces of {name}"] = float(
            nme(predicted[own], truth[own]).mean()
        )
    return found


def beside_teachers(
    landmarker: FaceLandmarker, data: Path, teachers: Sequence[Path]
) -> dict[str, float]:
    """NME on the 68-point faces of `data`/validation/dlib_faces, the student's and the teachers'."""
    folder = data / "validation" / "dlib_faces"
    files = list(teachers) or sorted((data / "pfld" / "onnx").glob("*.onnx"))
    if not folder.is_dir() or not files:
        return {}
    results = find_landmarks(landmark_faces(folder), landmarker)
    mean = as_68(Teacher(files).points(results.crops))
    count = len(mean)
    twice = (results.predicted + as_68(seen_mirrored(landmarker, results.crops))) / 2
    return {
        f"NME on dlib's {count} faces, 68 points": float(
            nme(results.predicted, results.truth).mean()
        ),
        "NME on them, each with its mirror image": float(nme(twice, results.truth).mean()),
        "the teachers' mean there": float(nme(mean, results.truth).mean()),
        "NME against the teachers' mean there": float(nme(results.predicted, mean).mean()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
