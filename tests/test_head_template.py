"""The recipe of the head: a known head comes back out of its own projections."""

import numpy as np

from refnet.faces.head_shape import HEAD, MODES, POINTS
from refnet.faces.schemes import MIRROR_98
from tests.test_face_measures import turned
from weights.recipes.head_template import MODES as COUNT
from weights.recipes.head_template import ROWS, fitted, modes, rows, template


def known_head() -> np.ndarray:
    """The head with an outline and pupils of some kind, symmetric."""
    head = np.zeros((98, 3))
    head[list(POINTS)] = HEAD
    angles = np.linspace(-np.pi / 2, np.pi / 2, 33)
    head[:33] = np.stack(
        [70 * np.sin(angles), 90 * np.cos(angles), 40 - 60 * np.cos(angles)], axis=1
    )
    head[[96, 97]] = head[[62, 70]]
    np.testing.assert_allclose(head[MIRROR_98] * [-1, 1, 1], head, atol=1e-9)
    return head


def heads(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections (N, 98, 2) of heads that differ from each other, their angles, and the head."""
    rng = np.random.default_rng(seed)
    head = known_head()
    angles = np.stack([rng.normal(0, s, count) for s in (10, 25, 8)], axis=1)
    points = []
    for pitch, yaw, roll in angles:
        own = head.copy()
        own[list(POINTS)] += np.tensordot(rng.normal(0, 0.5, len(MODES)), MODES, 1)
        seen = own @ turned(pitch, yaw, roll)[:2].T * rng.uniform(0.3, 2) + rng.uniform(0, 100, 2)
        points.append(seen + rng.normal(0, 0.3, seen.shape))
    return np.stack(points), angles, head


def test_a_known_head_is_found() -> None:
    points, angles, head = heads(400)
    shape, errors, poses = template(points)
    np.testing.assert_allclose(shape[60], [-45, 0, 0], atol=0.5)
    np.testing.assert_allclose(shape[MIRROR_98] * [-1, 1, 1], shape, atol=1e-9)
    assert abs(shape[16, 2] - shape[51, 2]) < 1e-9  # level
    # Nodded until it is level, and moved to the middle between the eyes, the known head is the same.
    known = head - (head[60] + head[72]) / 2
    _, down, back = known[16] - known[51]
    c, s = np.array([down, back]) / np.hypot(down, back)
    known = known @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    assert abs(known[16, 2] - known[51, 2]) < 1e-9
    inner = list(POINTS)
    assert np.sqrt(((shape - known)[inner] ** 2).sum(1).mean()) < 3
    assert np.abs(poses.angles[:, 1] - angles[:, 1]).mean() < 3
    assert 0.5 < np.median(errors[inner]) < 5


def test_modes_are_alike_on_both_sides() -> None:
    points, _, head = heads(300, 1)
    found = modes(points[:, ROWS], head[ROWS], np.full(len(ROWS), 2.0))
    assert found.shape == (COUNT, len(ROWS), 2)
    other = [ROWS.index(int(MIRROR_98[i])) for i in ROWS]
    np.testing.assert_allclose(found[:, other] * [-1, 1], found, atol=1e-9)
    table = list(rows(head, np.ones(98), found))
    assert len(table) == 36 and all(len(row.split()) == 5 + 2 * COUNT for row in table)


def test_poses_of_a_rigid_head_are_exact() -> None:
    head = known_head()
    angles = [(20.0, -40.0, 130.0), (0.0, 0.0, 0.0), (-30.0, 60.0, -80.0)]
    points = np.stack([3 * head @ turned(*own)[:2].T + [5, 7] for own in angles])
    poses = fitted(points, head, np.ones(98), steps=30)
    np.testing.assert_allclose(poses.angles, angles, atol=1e-4)
    np.testing.assert_allclose(poses.seen(head), points, atol=1e-3)
