"""Go on training released landmarks on photos of one's own.

    python -m weights.recipes.finetune --data DIR --out DIR

DIR holds photos and their points, in any form that `refnet evaluate landmarks` reads: dlib's XML, a WFLW
list, a list of crops. A fifth of the photos is set aside before anything else; the figures, before and
after, are of those. The batch norms of released weights are folded into the convolutions already, so that
a few faces cannot spoil their statistics. The run can be cut off and started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import refnet
from refnet.checkpoints import save
from refnet.media.images import read_image
from refnet.networks.defaults import LANDMARKER
from refnet.training.annotations import LandmarkFace, landmark_faces
from weights.recipes.landmark_data import Faces, base_crop, trimmed
from weights.recipes.landmarks import figures, predictions, train
from weights.recipes.release import released_tensors
from weights.recipes.splits import is_set_aside
from weights.recipes.torch_graph import GraphModule
from weights.recipes.training import Schedule, draw_curve

#: One photo of so many is set aside.
PARTS = 5


def own_faces(found: Sequence[LandmarkFace], points: int, by_folder: bool = False) -> Faces:
    """The faces with `points` points each, cut to what training needs, a fifth of the photos set aside.

    Args:
        by_folder: all photos of a folder, such as those of one person, are on the same side.

    Raises:
        SystemExit: a face has another number of points, or all photos are on one side.
    """
    images, moved, aside = [], [], []
    for face in found:
        if len(face.points) != points:
            raise SystemExit(f"{face.image}: {len(face.points)} points, the network has {points}")
        image, own = trimmed(read_image(face.image), np.asarray(face.points, np.float32))
        images.append(image)
        moved.append(own)
        key = face.image.parent.name if by_folder else face.image.stem
        aside.append(is_set_aside(key, PARTS))
    if all(aside) or not any(aside):
        side = "all are set aside" if all(aside) else "none is set aside"
        what = "folders" if by_folder else "photos"
        raise SystemExit(f"of these {what} {side} by the hash of their names; add more of them")
    return Faces(images, np.stack(moved), np.array(aside), ["own"] * len(images))


def measured(network: GraphModule, faces: Faces) -> dict[str, float]:
    """NME, AUC and failure rate on the faces that are set aside."""
    own = faces.where(faces.aside)
    plain = [base_crop(i, p) for i, p in zip(own.images, own.points, strict=True)]
    return figures(
        predictions(network, np.stack([c for c, _ in plain])), np.stack([p for _, p in plain])
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="weights.recipes.finetune", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="photos and their points")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--start", default=LANDMARKER, help="a name with released weights, or a file"
    )
    parser.add_argument("--by-folder", action="store_true", help="a folder is one person")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-4, help="peak of the learning rate")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    begun = refnet.load(given.start)
    count = int(np.prod(begun.graph.shapes()[begun.graph.outputs[-1]])) // 2
    faces = own_faces(landmark_faces(given.data), count, given.by_folder)
    settings = {name: getattr(given, name) for name in ("start", "batch", "decay", "seed")}
    settings |= {"network": begun.graph.name, "mixed": False}
    schedule = Schedule(given.rate, given.steps, warmup=given.steps // 50)
    before = measured(GraphModule(begun.graph, begun.weights), faces)
    student, after = train(faces, given.out, settings, schedule, report=max(1, given.steps // 6))
    draw_curve(given.out, {"nme": "NME on set-aside faces"})
    weights = given.out / f"{begun.graph.name}.safetensors"
    options, tensors = released_tensors(student.graph, student.arrays())
    save(weights, begun.graph.name, options, tensors)
    learned, aside = int((~faces.aside).sum()), int(faces.aside.sum())
    made = {**settings, "steps": given.steps, "rate": given.rate}
    record = {**made, "learned": learned, "set_aside": aside, "before": before, "after": after}
    (given.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"learned {learned} faces; NME of the {aside} set aside:", end=" ")
    print(f"{before['nme']:.4f} before, {after['nme']:.4f} after; {weights}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
