"""Targets: the published table of gray ranges, and every cell against a plain loop."""

import numpy as np
import pytest

import refnet
from refnet.detection.basketnet import basketnet_priors
from refnet.detection.geometry import BranchGeometry, geometry
from refnet.detection.lffd import decode_branch
from refnet.errors import ShapeError
from refnet.ops import Array
from refnet.training.matching import covered, gray_range, match_basketnet, match_lffd, state

# Gray bounds as the official iterators compute them, by network and branch.
GRAY = {
    "lffd-face-v1": [
        (9, 17),
        (13, 22),
        (18, 44),
        (36, 77),
        (63, 122),
        (99, 275),
        (225, 441),
        (360, 616),
    ],
    "lffd-face-v2": [(9, 22), (18, 44), (36, 88), (72, 176), (144, 352)],
    "lffd-pedestrian": [(27, 66), (54, 111), (90, 199), (162, 352)],
    "lffd-plate": [(57, 141), (115, 282), (230, 564)],
}
V2 = geometry(refnet.build("lffd-face-v2"))
MAPS = [(119, 159), (59, 79), (29, 39), (14, 19), (6, 9)]  # at 640 x 480


@pytest.mark.parametrize("name", GRAY)
def test_gray_ranges_are_the_published_ones(name: str) -> None:
    assert [gray_range(b) for b in geometry(refnet.build(name))] == GRAY[name]


def test_shared_bounds_are_green_on_both_sides() -> None:
    assert [state(20, b) for b in V2] == ["green", "green", "absent", "absent", "absent"]
    assert [state(22, b) for b in V2[:2]] == ["gray", "green"]
    assert [state(22.1, b) for b in V2[:2]] == ["absent", "green"]
    assert [state(s, V2[0]) for s in (8.9, 9, 9.9, 10)] == ["absent", "gray", "gray", "green"]


def test_cells_are_those_whose_centres_lie_inside_edges_included() -> None:
    assert covered(np.array([3, 7, 11, 14]), V2[0], MAPS[0]) == (slice(1, 3), slice(0, 3))
    rows, columns = covered(np.array([4, 4, 6, 6]), V2[0], MAPS[0])
    assert (rows.start, rows.stop) == (1, 1)
    assert (columns.start, columns.stop) == (1, 1)
    rows, columns = covered(np.array([-50, -50, 5, 5000]), V2[0], MAPS[0])
    assert (rows, columns) == (slice(0, 119), slice(0, 1))


def plain_loop(
    boxes: Array, branch: BranchGeometry, shape: tuple[int, int]
) -> tuple[Array, Array, Array, Array]:
    """The rule of a cell, spelled out."""
    low, high = gray_range(branch)
    face, mask, box_mask = (np.zeros(shape, bool) for _ in range(3))
    target = np.zeros((4, *shape))
    for v in range(shape[0]):
        for u in range(shape[1]):
            x, y = branch.centre + u * branch.stride, branch.centre + v * branch.stride
            green, gray = [], 0
            for left, top, right, bottom in boxes:
                side = max(right - left, bottom - top)
                if not (left <= x <= right and top <= y <= bottom):
                    continue
                if branch.lower <= side <= branch.upper:
                    green.append((left, top, right, bottom))
                elif low <= side <= high:
                    gray += 1
            mask[v, u] = not gray and len(green) <= 1
            box_mask[v, u] = len(green) == 1
            face[v, u] = len(green) == 1 and not gray
            if len(green) == 1:
                left, top, right, bottom = green[0]
                edges = (x - left, y - top, x - right, y - bottom)
                target[:, v, u] = np.array(edges) / branch.norm
    return face, target, mask, box_mask


@pytest.mark.parametrize("seed", range(4))
def test_every_cell_follows_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = np.concatenate([rng.uniform(8, 100, 25), [9, 10, 20, 21, 21, 22, 40, 80]])
    corners = rng.uniform(0, 180, (len(sides), 2))
    boxes = np.concatenate(
        [corners, corners + sides[:, None] * rng.uniform(0.6, 1, (len(sides), 2))], 1
    )
    shapes = [(50, 50), (24, 24), (12, 12), (5, 5), (2, 2)]
    found = match_lffd(boxes, V2, shapes)
    for targets, branch, shape in zip(found, V2, shapes, strict=True):
        face, distances, mask, box_mask = plain_loop(boxes, branch, shape)
        np.testing.assert_array_equal(targets.face, face)
        np.testing.assert_array_equal(targets.class_mask, mask)
        np.testing.assert_array_equal(targets.box_mask, box_mask)
        np.testing.assert_allclose(targets.distances, distances, atol=1e-6)
    assert found[0].face.any()
    assert not found[0].class_mask.all()


def test_a_green_and_a_gray_box_leave_the_box_loss_but_not_the_class_loss() -> None:
    boxes = np.array([[100, 100, 118, 118], [95, 95, 116.5, 116.5]])  # 18: green, 21.5: gray
    first = match_lffd(boxes, V2, MAPS)[0]
    both = covered(boxes[1], V2[0], MAPS[0])
    inner = covered(boxes[0], V2[0], MAPS[0])
    v = slice(max(both[0].start, inner[0].start), min(both[0].stop, inner[0].stop))
    assert first.box_mask[v, v].all()
    assert not first.class_mask[v, v].any()
    assert not first.face[v, v].any()


def test_targets_decode_to_the_boxes_they_came_from() -> None:
    boxes = np.array(
        [[40, 50, 52, 65], [100, 60, 130, 97], [200, 100, 260, 170], [10, 10, 210, 260]]
    )
    for branch, targets in zip(V2, match_lffd(boxes, V2, MAPS), strict=True):
        found = decode_branch(branch, targets.face.astype(np.float32), targets.distances, 0.5).boxes
        own = [b for b in boxes if state(max(b[2] - b[0], b[3] - b[1]), branch) == "green"]
        assert len(found) >= len(own)
        for box in found:
            assert min(np.abs(box - o).max() for o in own) < 1e-3


def test_no_boxes_mean_background_everywhere() -> None:
    for targets in match_lffd(np.zeros((0, 4)), V2, MAPS):
        assert targets.class_mask.all()
        assert not targets.face.any()
        assert not targets.box_mask.any()
    with pytest.raises(ShapeError, match="5 branches"):
        match_lffd(np.zeros((0, 4)), V2, MAPS[:3])


def test_basketnet_matches_by_centre_and_overlap() -> None:
    priors = basketnet_priors(refnet.build("basketnet", input_size=256))
    boxes = np.array([[60, 60, 100, 95], [150, 150, 190, 190.0]]) / 256
    labels, locations = match_basketnet(boxes, np.array([1, 2]), priors)
    assert set(labels.tolist()) == {0, 1, 2}
    for i in np.flatnonzero(labels > 0):
        x, y, norm = priors[i].astype(np.float64)
        box = boxes[labels[i] - 1]
        edges = np.array([x, y, x, y]) - norm * locations[i]
        np.testing.assert_allclose(edges, box, atol=1e-6)
        sides = np.minimum([x, y] + norm / 2, box[2:]) - np.maximum([x, y] - norm / 2, box[:2])
        shared = sides.prod()
        overlap = shared / (norm**2 + (box[2:] - box[:2]).prod() - shared)
        assert overlap >= 0.5 - 1e-6
        assert box[0] < x < box[2]


def test_basketnet_gives_every_box_its_best_cell_and_ignores_shared_ones() -> None:
    priors = basketnet_priors(refnet.build("basketnet", input_size=256))
    tiny = np.array([[100.2, 100.2, 101, 101]]) / 256  # no prior overlaps it by half
    labels, _ = match_basketnet(tiny, np.array([2]), priors)
    assert sorted(labels[labels != 0].tolist()) == [2]
    near = np.array([[60, 60, 100, 100], [64, 60, 104, 100.0]]) / 256
    labels, _ = match_basketnet(near, np.array([1, 2]), priors)
    assert (labels == -1).any()
    assert {1, 2} <= set(labels.tolist())
    labels, locations = match_basketnet(np.zeros((0, 4)), np.zeros(0), priors)
    assert not labels.any()
    assert not locations.any()
