"""Make the head that poses are measured against: 98 points in space out of thousands of flat faces.

    python -m weights.recipes.head_template --data DIR --cache FACES.npz

DIR holds `train/youtube_faces_crops`, `train/wider_faces` and `pfld/onnx`. The teachers of the landmark recipe
find the 98 points of every `--every`-th crop. Then structure from motion, with a camera so far away that all
points of a head are at one distance (weak perspective): in turns, every head's rotation, size and place are
found by Gauss-Newton for the shape so far, and the shape by weighted least squares for these poses. It is
symmetric, since after each turn it is averaged with its mirror image. No head or point has a say beyond its
fit: weights fall with the square of the error (Cauchy), per head and per point, and turned heads, of which
there are few, count as much as frontal ones.

The frame: x to the image's right, y down, z away from the camera; the outer corners of the eyes at (±45, 0, 0),
which makes millimetres of an adult; the line from the bridge of the nose (51) to the chin (16) has constant
z. How far from there people hold their heads before a camera, and how much deeper heads are than they come out here,
is measured with the table in use, and stands beside it.

Faces differ, and they smile and talk, and much of that looks like a nod: a long nose or a raised lip moves points
as a nod does. So the ways in which faces differ are measured too. Of heads turned by less than 20 degrees, level
apart from their nod, what the points deviate from the head is written as a few modes: the principal axes of the
symmetric deviations over each point's error. A fit that may bend the head along them, at the price of their
variance, is generalised least squares with the covariance of real faces. The nods are left in the covariance: they
change nothing of a fit that finds the nod itself, and so need not be known.

What is printed is the table of `refnet.faces.head_shape`: a row for each point between outline and pupils, of the
middle and of the image's right half: index; x, y, z; error, the root mean square of both sides; x and y of each
mode. All in millimetres.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from refnet.faces.schemes import MIRROR_98
from refnet.media.images import read_image
from refnet.ops import Array

#: Half the distance of the outer corners of the eyes, millimetres.
HALF = 45.0
#: Heads turned further do not count: there the far side is guessed.
FURTHEST = 60.0
TURNS = 60
#: Errors below this, in distances of the outer corners of the eyes, are as good as none.
EXACT = 0.02
#: The outline of a face slides over the head as it turns; it hardly counts.
OUTLINE = 0.05
#: How many modes; heads turned further have no say in them.
MODES, FACING = 8, 20.0
#: Points between outline and pupils.
ROWS = list(range(33, 96))
_MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Poses:
    """How N heads stand: rotations (N, 3, 3), sizes (N,) in pixels a unit, places (N, 2) of the origin."""

    rotations: Array
    sizes: Array
    places: Array

    def seen(self, shape: Array) -> Array:
        """(N, K, 2): where the points (K, 3) of a head are seen."""
        turned = np.einsum("nde,ke->nkd", self.rotations[:, :2], shape)
        return np.asarray(self.sizes[:, None, None] * turned + self.places[:, None])

    @property
    def angles(self) -> Array:
        """(N, 3) degrees: pitch, yaw, roll, as `refnet.HeadPose` has them."""
        r = self.rotations
        a = np.arctan2(r[:, 2, 1], r[:, 2, 2])
        b = np.arctan2(-r[:, 2, 0], np.hypot(r[:, 2, 1], r[:, 2, 2]))
        return np.asarray(
            np.degrees(np.stack([-a, -b, np.arctan2(r[:, 1, 0], r[:, 0, 0])], axis=1))
        )


def fitted(points: Array, shape: Array, weights: Array, steps: int = 8) -> Poses:
    """The poses that bring `shape` (K, 3) nearest to `points` (N, K, 2), by `weights` (K,)."""
    share = weights / weights.sum()
    middle, centre = share @ points, share @ shape
    flat, solid = points - middle[:, None], shape - centre
    normal = np.einsum("k,kd,ke->de", share, solid, solid)
    affine = np.linalg.solve(normal, np.einsum("k,kd,nke->nde", share, solid, flat))
    u, sizes, v = np.linalg.svd(affine.transpose(0, 2, 1), full_matrices=False)
    rows = u @ v
    rotations = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    sizes, damping = sizes.mean(axis=1), np.full(len(points), 1e-4)
    turned, cost = _cost(rotations, sizes, solid, flat, share)
    for _ in range(steps):
        step = _step(turned, sizes, flat, share, damping)
        tried = _turns(step[:, :3]) @ rotations, sizes * np.exp(step[:, 3])
        new, new_cost = _cost(*tried, solid, flat, share)
        better = new_cost < cost
        rotations = np.where(better[:, None, None], tried[0], rotations)
        turned = np.where(better[:, None, None], new, turned)
        sizes, cost = np.where(better, tried[1], sizes), np.where(better, new_cost, cost)
        damping = np.where(better, damping / 5, damping * 10)
    return Poses(rotations, sizes, middle - sizes[:, None] * (rotations[:, :2] @ centre))


def _cost(
    rotations: Array, sizes: Array, solid: Array, flat: Array, share: Array
) -> tuple[Array, Array]:
    """The turned points (N, K, 3), and the weighted squared distances (N,)."""
    turned = np.einsum("nde,ke->nkd", rotations, solid)
    off = sizes[:, None, None] * turned[..., :2] - flat
    return turned, np.einsum("k,nkd->n", share, off**2)


def _step(turned: Array, sizes: Array, flat: Array, share: Array, damping: Array) -> Array:
    """(N, 4): a small turn about x, y, z, and a factor's logarithm."""
    x, y, z = sizes[:, None] * np.moveaxis(turned, -1, 0)
    zero = np.zeros_like(x)
    by = np.stack([np.stack([zero, z, -y, x], -1), np.stack([-z, zero, x, y], -1)], axis=2)
    off = np.stack([x, y], -1) - flat
    normal = np.einsum("k,nkdi,nkdj->nij", share, by, by)
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None] / 4
    normal += damping[:, None, None] * scale * np.eye(4)
    slope = np.einsum("k,nkdi,nkd->ni", share, by, off)
    return np.asarray(-np.linalg.solve(normal, slope[..., None])[..., 0])


def _turns(vectors: Array) -> Array:
    """(N, 3, 3) rotations about `vectors` (N, 3) by their lengths (Rodrigues' formula)."""
    lengths = np.linalg.norm(vectors, axis=1)[:, None, None]
    x, y, z = (vectors / np.maximum(lengths[:, 0], 1e-12)).T
    o = np.zeros_like(x)
    cross = np.stack([o, -z, y, z, o, -x, -y, x, o], axis=1).reshape(-1, 3, 3)
    return np.asarray(np.eye(3) + np.sin(lengths) * cross + (1 - np.cos(lengths)) * cross @ cross)


def template(points: Array) -> tuple[Array, Array, Poses]:
    """From `points` (N, 98, 2) the head (98, 3), its points' errors (98,) in its units, and the poses."""
    points = np.asarray(points, np.float64)
    shape, weights = _first(points), np.ones(98)
    weights[:33] = OUTLINE
    for _ in range(TURNS):
        poses = fitted(points, shape, weights)
        errors = np.linalg.norm(poses.seen(shape) - points, axis=2) / poses.sizes[:, None]
        counts = _counts(errors, weights, poses)
        shape = _shape(points, poses, counts)
        unit = np.linalg.norm(shape[60] - shape[72])
        shape, errors = shape / unit, errors / unit
        typical = np.maximum(np.sqrt(np.median(errors**2, axis=0)), EXACT)
        weights = np.where(np.arange(98) < 33, OUTLINE, 1) * (EXACT / typical) ** 2
    shape = _levelled((shape - (shape[60] + shape[72]) / 2) * 2 * HALF)
    poses = fitted(points, shape, weights)
    off = np.linalg.norm(poses.seen(shape) - points, axis=2) / poses.sizes[:, None]
    good = np.median(off, axis=1) < 2 * np.median(off)
    spread = np.sqrt((off[good] ** 2).mean(axis=0))
    return shape, np.sqrt((spread**2 + spread[MIRROR_98] ** 2) / 2), poses


def _first(points: Array) -> Array:
    """A start: the median face, bent backwards to the sides, its nose drawn out."""
    eyes = points[:, [60, 72]]
    unit = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)[:, None, None]
    face = np.median((points - eyes.mean(axis=1, keepdims=True)) / unit, axis=0)
    face = (face + face[MIRROR_98] * [-1, 1]) / 2
    depth = 0.6 * (face[:, 0] / face[:, 0].max()) ** 2
    depth[51:60] -= 0.25
    depth[54] -= 0.25
    return np.concatenate([face, depth[:, None]], axis=1)


def _counts(errors: Array, weights: Array, poses: Poses) -> Array:
    """(N, 98): how much each point of each head counts."""
    typical = np.maximum(np.sqrt(np.median(errors**2, axis=0)), EXACT)
    points = 1 / (1 + (errors / (3 * typical)) ** 2)
    whole = np.sqrt(errors**2 @ weights / weights.sum())
    heads = 1 / (1 + (whole / (2 * np.median(whole))) ** 2) ** 2
    yaw = poses.angles[:, 1]
    inside = np.abs(yaw) < FURTHEST
    tens = np.floor(np.clip(yaw, -FURTHEST, FURTHEST) / 10).astype(int)
    many = np.array([max(10, int((tens[inside] == ten).sum())) for ten in tens])
    return np.asarray(points * (heads * inside / np.sqrt(many))[:, None])


def _shape(points: Array, poses: Poses, counts: Array) -> Array:
    """The symmetric head (98, 3) that is nearest to `points` in these poses."""
    rows = poses.rotations[:, :2]
    places = (points - poses.places[:, None]) / poses.sizes[:, None, None]
    normal = np.einsum("nk,ndi,ndj->kij", counts, rows, rows)
    shape = np.linalg.solve(normal, np.einsum("nk,ndi,nkd->ki", counts, rows, places)[..., None])
    return np.asarray((shape[..., 0] + shape[MIRROR_98, :, 0] @ _MIRROR) / 2)


def _levelled(shape: Array) -> Array:
    """The head nodded until its bridge of the nose and its chin have the same z."""
    _, y, z = shape[16] - shape[51]
    angle = -np.arctan2(z, y)
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(shape @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T)


def modes(points: Array, shape: Array, errors: Array) -> Array:
    """(MODES, K, 2): how faces differ, from the head (K, 3), in its x and y, one standard deviation each.

    Args:
        points: (N, K, 2). errors: (K,) of the points.
    """
    weights = 1 / errors**2
    poses = fitted(points, shape, weights)
    _, yaw, roll = poses.angles.T
    upright = _turns(np.radians(roll)[:, None] * [0, 0, -1])[:, :2, :2]
    places = (points - poses.places[:, None]) / poses.sizes[:, None, None]
    seen = _centred(np.einsum("nde,nke->nkd", upright, places), weights)
    level = _turns(np.radians(yaw)[:, None] * [0, -1, 0])[:, :2]
    expected = _centred(np.einsum("nde,ke->nkd", level, shape), weights)
    sizes = np.einsum("k,nkd,nkd->n", weights, seen, expected)
    sizes /= np.einsum("k,nkd,nkd->n", weights, seen, seen)
    off = sizes[:, None, None] * seen - expected
    off = (off + off[:, _mirror_of_rows()] * [-1, 1]) / 2 / errors[:, None]
    off = off[np.abs(yaw) < FACING]
    worst = np.abs(off).max(axis=(1, 2))
    flat = off[worst < np.quantile(worst, 0.95)].reshape(-1, 2 * len(shape))
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    largest = np.argsort(values)[::-1][:MODES]
    scaled = (vectors[:, largest] * np.sqrt(values[largest])).T.reshape(MODES, -1, 2)
    signs = np.sign(scaled[:, :, 1].sum(axis=1))  # down, so that the table is the same everywhere
    return np.asarray(scaled * errors[:, None] * signs[:, None, None])


def _centred(points: Array, weights: Array) -> Array:
    """`points` (N, K, 2) from their weighted middle."""
    return np.asarray(points - (weights / weights.sum() @ points)[:, None])


def _mirror_of_rows() -> list[int]:
    """Of each of `ROWS`, the place of its mirror image among them."""
    return [ROWS.index(int(MIRROR_98[i])) for i in ROWS]


def rows(shape: Array, errors: Array, bent: Array) -> Iterator[str]:
    """The table, from the head (98, 3), its errors (98,) and its modes (MODES, len(ROWS), 2)."""
    for k, i in enumerate(ROWS):
        if shape[i, 0] > 0.01 or MIRROR_98[i] == i:
            numbers = [*shape[i], errors[i], *bent[:, k].reshape(-1)]
            yield f"{i} " + " ".join(f"{number + 0.0:.1f}" for number in numbers)


def labelled_points(data: Path, every: int) -> Array:
    """(N, 98, 2): what the teachers see in every `every`-th crop, each in pixels of its own image."""
    from weights.recipes.landmark_data import Teacher, Unlabelled, youtube_crops

    def wider(folder: Path) -> Iterator[Unlabelled]:
        with open(folder / "crops.csv", newline="") as file:
            for row in csv.DictReader(file):
                if (path := folder / "crops" / row["crop"]).exists():
                    box = np.array([float(row[k]) for k in ("x1", "y1", "x2", "y2")])
                    yield Unlabelled(read_image(path), box, row["image"], folder.name)

    teacher = Teacher(sorted((data / "pfld" / "onnx").glob("*.onnx")))
    train = data / "train"
    faces = chain(youtube_crops(train / "youtube_faces_crops"), wider(train / "wider_faces"))
    chosen = islice(faces, 0, None, every)
    points: list[Array] = []
    while chunk := list(islice(chosen, 32)):
        points += teacher.label(chunk)[0]
    return np.stack(points)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m weights.recipes.head_template")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="the points found, .npy")
    parser.add_argument("--every", type=int, default=2)
    arguments = parser.parse_args()
    if not arguments.cache.exists():
        np.save(arguments.cache, labelled_points(arguments.data, arguments.every))
    points = np.asarray(np.load(arguments.cache), np.float64)
    shape, errors, poses = template(points)
    print("\n".join(rows(shape, errors, modes(points[:, ROWS], shape[ROWS], errors[ROWS]))))
    middle = np.median(poses.angles, axis=0)
    print(f"# {len(poses.sizes)} heads; median pitch, yaw, roll {np.round(middle, 1).tolist()}")


if __name__ == "__main__":
    main()
