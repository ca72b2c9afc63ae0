"""Train a small landmark network on what larger ones see.

    python -m weights.recipes.landmarks --data DIR --out DIR

DIR holds `train/` with face crops and photos, and `pfld/onnx/` with three trained 98-point networks.
They, averaged with their mirrored runs, label every face; the student learns the labels from augmented
crops by the wing loss on pixels. A tenth of the identities and photos is set aside before anything
else. The run can be cut off and started again; at its end stand the weights and their figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

import refnet
from refnet import losses
from refnet.checkpoints import save
from refnet.metrics import cumulative_error, nme
from refnet.ops import Array
from weights.recipes.landmark_data import (
    SIDE,
    Faces,
    Teacher,
    Unlabelled,
    as_input,
    base_crop,
    batch,
    boxed_photos,
    labelled,
    restore,
    store,
    youtube_crops,
)
from weights.recipes.torch_graph import GraphModule, initialize
from weights.recipes.training import Run, Schedule, draw_curve


def sources(data: Path) -> Iterator[Unlabelled]:
    """Every face of the training folders under `data` that are there."""
    train = data / "train"
    found: list[Iterator[Unlabelled]] = []
    if (train / "youtube_faces_crops").is_dir():
        found.append(youtube_crops(train / "youtube_faces_crops"))
    for name in (
        "web_photos/without_mask",
        "web_photos/with_mask",
        "coco256/train2017",
        "coco256/val2017",
    ):
        folder = train / name
        table = folder.with_name(f"{folder.name}_faces_pseudo.csv")
        if folder.is_dir() and table.exists():
            found.append(boxed_photos(folder, table, name.partition("/")[0]))
    return chain.from_iterable(found)


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
    faces: Faces, out: Path, settings: dict[str, Any]
) -> tuple[GraphModule, dict[str, float]]:
    """Train by `settings` (see the command's arguments); the averaged network and its figures."""
    graph = refnet.build(settings["network"], width=settings["width"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings["seed"])
    module, student = GraphModule(graph), GraphModule(graph)
    learned, aside = faces.where(~faces.aside), faces.where(faces.aside)
    if settings["start"]:
        module.load_state_dict(
            GraphModule(graph, refnet.load(settings["start"]).weights).state_dict()
        )
    else:
        initialize(module, "he", settings["seed"])
        begin_at_mean_shape(module, learned)
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = [base_crop(i, p) for i, p in zip(aside.images, aside.points, strict=True)]
    crops, truth = np.stack([p[0] for p in plain]), np.stack([p[1] for p in plain])
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=settings["decay"])
    schedule = Schedule(settings["rate"], settings["steps"], warmup=settings["steps"] // 50)
    run = Run(module, optimizer, schedule, out, settings=settings)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings["seed"], step])
        pixels, points = batch(learned, rng, settings["batch"])
        x = torch.from_numpy(as_input(pixels)).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            y = module(x)[-1]
        predicted = y.detach().float().cpu().numpy()
        value, gradient = losses.wing(predicted * SIDE, points.reshape(len(points), -1) * SIDE)
        return attached(y, value, gradient * SIDE)

    def report() -> dict[str, float]:
        student.load_state_dict(run.averaged)
        return figures(predictions(student, crops), truth)

    run.train(loss, report=report, report_every=settings["report"], save_every=settings["report"])
    return student, report()


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
    parser.add_argument("--start", help="weights to start from")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak of the learning rate")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=250, help="steps between two reports")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    faces = prepare(given.data, given.cache or given.out / "faces.npz", given.teacher)
    names = ("network", "width", "start", "steps", "batch", "rate", "decay", "seed", "report")
    settings = {name: getattr(given, name) for name in names}
    student, final = train(faces, given.out, settings)
    draw_curve(given.out, {"nme": "NME on set-aside faces"})
    weights = given.out / f"{given.network}.safetensors"
    save(weights, given.network, student.graph.options, student.arrays())
    record = {
        **settings,
        **final,
        "trained_on": int((~faces.aside).sum()),
        "set_aside": int(faces.aside.sum()),
        "torch": torch.__version__,
        "refnet": refnet.__version__,
    }
    (given.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
