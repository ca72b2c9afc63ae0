"""Train the light face detector on photos with boxes by hand.

    python -m weights.recipes.faces --data DIR --out DIR

The first run decodes DATA/train into OUT/photos and labels five points with the landmark networks under
DATA/pfld/onnx, if they are there. `--minutes` ends a run early; the next one with the same OUT goes on from
its state, which is all that has to be kept: OUT/checkpoint.safetensors. The learning rate is constant and falls
over the last part of the steps; `--steps`, `--flat` and `--rate` may change from run to run, so that the fall
can begin when the time is up. The last run writes OUT/lffd-light.safetensors and its card. The state of the run that
made the released weights is beside this file, as lffd-light.checkpoint.safetensors: copied to OUT, with more steps, it
goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import refnet
from refnet.checkpoints import save
from refnet.detection.detector import FaceDetector
from refnet.graph import Graph
from refnet.model import Model
from refnet.networks import lffd_light
from refnet.networks.defaults import detection_of
from refnet.ops import Array
from refnet.training.evaluation import ClassResults
from weights.recipes.face_crops import Batches
from weights.recipes.face_figures import figures, on_validation, score_of
from weights.recipes.face_hints import HINT_WEIGHT, OWN, Hints, Teacher
from weights.recipes.face_loss import BOX_WEIGHT, POINT_WEIGHT, Cells, detection_loss
from weights.recipes.face_photos import store
from weights.recipes.release import release, released_tensors, rows
from weights.recipes.torch_graph import GraphModule, initialize
from weights.recipes.training import Run, Schedule, draw_curve

#: The share of a run, at its end, with calm crops.
CALM_SHARE = 0.3
#: The parts of the model card that do not depend on the run.
CARD = {
    "Data": """
WIDER FACE photos with boxes by hand (2,801 of both parts), 853 photos of people with masks, 800 of faces
behind hands, masks and veils (MAFA's photos with the AIZOO boxes) and 772 photos without a face. Faces in
the photos of masks and hands that have no box were found by a published detector (SCRFD-2.5G) and count
neither as face nor as background, and so do faces with a box that it does not find at the photo's size or at twice
that. A quarter of the crops without a face are drawn textures. Five
points of clear faces are the mean of three published landmark networks (PFLD_GhostOne's, Apache-2.0) on the
face and its mirror image. With `--hints` the maps inside a published detector (SCRFD-2.5G) are learned as well.""",
    "Split": """
The figures are on 185 photos of WIDER FACE's validation part, which no run has seen. Other photos of that
part are among the training photos, so no figure here is an official one of WIDER FACE.""",
    "Figures": """
Photos with a longer side of 640 pixels, one scale; faces of at least 20 pixels on the longer side; a box is
right at an IoU of 0.5, and a second box on one face is wrong. Recall is at half a false box a photo.""",
    "Limits": """
Of the faces that are heavily blurred a third is missed, of those mostly hidden two thirds; small ones are
placed less well than large ones. Faces below 16 pixels were not learned: a photo is searched at sizes at which those
that are looked for have 20. Heads that lean by more than about 60 degrees are seldom found. On 33 photos and pictures
without a face (of scikit-image 0.26, and of cars) there is no box at the default threshold of 0.5; the highest scores,
0.48 to 0.40, have a cat, a galaxy, a colour wheel and a number plate. On photos that were trained on the AP is
higher (0.916 when it was 0.892 here): more photos would help more than more steps.""",
    "Not for": """
Surveillance, or anything where a face that is missed, or seen where there is none, harms somebody.
Whether it works equally well for all groups of people has not been measured.""",
    "Terms": """
The weights are released under refnet's licence, Apache-2.0. WIDER FACE, MAFA and ImageNet are for
non-commercial research, and their photos belong to their owners. No image is part of the weights. Check for
yourself whether your use agrees with that before you ship them.""",
}


def cautious(graph: Graph, weights: Mapping[str, Array], raw: float) -> dict[str, Array]:
    """The same network with every logit lowered, so that a score of `raw` becomes the default threshold.

    The ranking and so the average precision stay; the default threshold then means what the card says.
    """
    default = detection_of(graph).threshold
    odds = np.log(raw / (1 - raw)) - np.log(default / (1 - default))
    shifted = dict(weights)
    for name in graph.outputs:
        bias = graph.node[name].parameters["bias"]
        shifted[bias] = weights[bias].copy()
        shifted[bias][0] -= np.float32(odds)
    return shifted


def prepared(module: GraphModule) -> None:
    """First biases of the branches: few cells hold a face, and an edge is about a stride and a half away."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name in module.graph.outputs:
            node = module.graph.node[name].parameters
            parameters[node["weight"]].mul_(0.1)
            bias = parameters[node["bias"]]
            bias.zero_()
            bias[0], bias[1:5] = -4.6, 1.0


def train(
    photos: Path,
    out: Path,
    data: Path,
    settings: Mapping[str, Any],
    schedule: Schedule,
    *,
    report: int,
    minutes: float | None,
    teacher: Path | None = None,
) -> tuple[Run, GraphModule]:
    """Go on with the run in `out`, for `minutes` or to its end; the run and its averaged network.

    Args:
        photos: folder of `face_photos.store`.
        data: where the validation photos are.
        settings: width, seed, mixed; see the command's arguments.
        report: steps between two measurements.
        teacher: a detector that gives hints, see `face_hints`.
    """
    graph = refnet.build("lffd-light", width=settings["width"])
    torch.manual_seed(settings["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels = graph.shapes()[OWN[0]][0]
    hints = None if teacher is None else Hints(channels, Teacher(teacher).channels, device)
    module = GraphModule(graph, outputs=(*OWN, *graph.outputs))
    initialize(module, "he", settings["seed"])
    prepared(module)
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=5e-4)
    run = Run(module, optimizer, schedule, out, settings=settings)
    drawn = Batches(
        photos,
        settings["seed"],
        run.step,
        calm_from=(1 - CALM_SHARE) * schedule.steps,
        teacher=teacher,
    )
    loader = DataLoader(drawn, batch_size=None, num_workers=1)
    batches: Iterator[Any] = iter(loader)
    ranges = detection_of(graph).object_ranges

    def loss(step: int) -> torch.Tensor:
        pixels, faces, taught = next(batches)
        x = pixels.to(device).permute(0, 3, 1, 2).float()
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["mixed"]):
            found = module(x)
        merged, maps = found[: len(OWN)], found[len(OWN) :]
        cells = Cells.of(maps, lffd_light.STRIDES, ranges)
        own = [tuple(tensor.to(device) for tensor in image) for image in faces]
        score, box, point = detection_loss(maps, cells, own)
        taught = [hint.to(device) for hint in taught]
        hinted = 0 if hints is None else HINT_WEIGHT * hints.error(merged, taught)
        return score + BOX_WEIGHT * box + POINT_WEIGHT * point + hinted

    student = GraphModule(graph)

    def report_figures() -> dict[str, float]:
        student.load_state_dict(run.averaged)
        return measured(Model(graph, student.arrays()), data)

    run.train(
        loss,
        report=report_figures,
        report_every=report,
        save_every=min(200, report),
        clip=5.0,
        minutes=minutes,
    )
    student.load_state_dict(run.averaged)
    return run, student


def found(model: Model, data: Path) -> ClassResults | None:
    """What a detector finds on the validation photos, beside the truth; None where they are not there."""
    detector = FaceDetector(model, threshold=0.02, scales=(1.0,))

    def detect(image: Array) -> tuple[Array, Array]:
        boxes = detector(image)
        return boxes.boxes, boxes.scores

    return on_validation(detect, data)


def measured(model: Model, data: Path) -> dict[str, float]:
    """Figures of a detector on the validation photos."""
    own = found(model, data)
    return figures(own, detection_of(model.graph).threshold) if own else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="weights.recipes.faces", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of train/ and validation/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--photos", type=Path, help="folder of decoded photos (OUT/photos)")
    parser.add_argument("--hints", type=Path, help="a larger detector whose maps are learned, too")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=36000, help="of the whole schedule")
    parser.add_argument("--minutes", type=float, help="end this run after so long")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak of the learning rate")
    parser.add_argument("--flat", type=float, default=0.5, help="share of the steps at the peak")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.963,
        help="share of right boxes on the validation photos above the default threshold",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=1000, help="steps between two reports")
    parser.add_argument("--mixed", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    photos = given.photos or given.out / "photos"
    if not (photos / "photos.npz").exists():
        teachers = sorted(given.data.glob("pfld/onnx/*.onnx"))
        detector = given.data / "detectors" / "scrfd_2.5g_kps.onnx"
        known = detector if detector.exists() else None
        print(f"{store(given.data, photos, teachers, known)} photos")
    settings = {n: getattr(given, n) for n in ("width", "seed", "mixed")}
    schedule = Schedule(given.rate, given.steps, warmup=300, flat=given.flat)
    started = time.monotonic()
    run, student = train(
        *(photos, given.out, given.data, settings, schedule),
        report=given.report,
        minutes=given.minutes,
        teacher=given.hints,
    )
    print(f"{run.step} steps, {(time.monotonic() - started) / 60:.0f} minutes in this run")
    if run.step < given.steps:
        return 0
    draw_curve(given.out, {"AP@0.5": "AP, validation"})
    graph = student.graph
    own = found(Model(graph, student.arrays()), given.data)
    raw = score_of(own, given.precision) if own else 0.5
    arrays = cautious(graph, student.arrays(), raw)
    options, stored = released_tensors(graph, arrays)
    final = measured(Model(refnet.build(graph.name, **options), stored), given.data)
    sections = {**CARD, "Figures": f"{CARD['Figures']}\n\n{rows(final)}"}
    save(given.out / "trained.safetensors", graph.name, graph.options, student.arrays())
    weights = given.out / "lffd-light.safetensors"
    record = {**settings, "steps": given.steps, "rate": given.rate, "raw": raw}
    release(weights, graph, arrays, "lffd-light: faces", sections, record)
    (given.out / "result.json").write_text(json.dumps({**record, **final}, indent=2) + "\n")
    print(json.dumps(final, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
