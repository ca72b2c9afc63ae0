"""Measures of faces against closed forms, a known pose and OpenCV's solver."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet.errors import OptionError, ShapeError
from refnet.faces import head_pose, measures
from refnet.faces.head_shape import ERRORS, HEAD, MODES, POINTS, SHARE
from refnet.faces.schemes import MIRROR_98, WFLW_98


def face(**moved: tuple[float, float]) -> np.ndarray:
    """98 points at the origin but for `moved`, such as p60=(0, 0)."""
    points = np.zeros((98, 2))
    for name, place in moved.items():
        points[int(name[1:])] = place
    return points


def turned(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rz(roll) · Ry(-yaw) · Rx(-pitch), each written out."""
    a, b, c = np.radians([-pitch, -yaw, roll])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    product: np.ndarray = np.array(about_z) @ about_y @ about_x
    return product


#: Where the head is, in millimetres: to the right, above the middle, two thirds of a metre away.
AT = (120.0, -80.0, 660.0)


def line_of_sight(at: Any) -> np.ndarray:
    """The rotation that brings the direction of `at` to straight ahead, by Rodrigues' formula, written out."""
    d = np.array(at) / np.linalg.norm(at)
    axis = np.cross(d, [0, 0, 1])
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    product: np.ndarray = np.eye(3) + k + k @ k / (1 + d[2])
    return product


def projected(
    pitch: float, yaw: float, roll: float, at: Any = AT, focal: float = 640
) -> np.ndarray:
    """Where a 480×640 camera sees the mean head at `at`, turned so against the line of sight to it."""
    places = HEAD @ (line_of_sight(at).T @ turned(pitch, yaw, roll)).T + np.array(at)
    points = np.zeros((98, 2))
    points[list(POINTS)] = places[:, :2] / places[:, 2:] * focal + [320, 240]
    return points


def off(pose: head_pose.HeadPose, angles: tuple[float, float, float]) -> float:
    """Degrees of the rotation between a pose and what it should be."""
    trace = np.trace(pose.rotation.T @ turned(*angles))
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def test_the_openness_of_eyes_is_height_over_width() -> None:
    points = face(p60=(0, 0), p64=(10, 0), p61=(3, -2), p67=(3, 1), p63=(7, -1), p65=(7, 1))
    points[[72, 68, 71, 73, 69, 75]] = [[40, 0], [30, 0], [37, 0], [37, 0], [33, 0], [33, 0]]
    assert measures.eye_aspect_ratio(points) == pytest.approx(((3 + 2) / 20, 0.0))


def test_the_mouths_opening_and_the_eyes_distance_are_those_by_hand() -> None:
    points = face(p88=(0, 0), p92=(8, 0), p90=(4, -1), p94=(4, 3), p60=(0, 0), p72=(30, 40))
    assert measures.mouth_opening(points) == pytest.approx(0.5)
    assert measures.interocular_distance(points) == pytest.approx(50)


def test_a_face_shrunk_to_a_point_divides_by_nothing() -> None:
    assert measures.eye_aspect_ratio(face()) == (0, 0)
    assert measures.mouth_opening(face()) == 0


def test_mirroring_twice_is_nothing_and_parts_trade_sides() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (5, 98, 2))
    np.testing.assert_allclose(measures.mirror(measures.mirror(points, 64), 64), points)
    order = np.array(MIRROR_98)
    assert sorted(order) == list(range(98))
    fixed = [i for i in range(98) if order[i] == i]
    assert fixed == [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]
    for part, indices in WFLW_98.items():
        other = part.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert {order[i] for i in indices} == set(WFLW_98[other])


def test_mirrored_points_stand_on_the_mirrored_pixels() -> None:
    points = face(p60=(3, 5), p72=(9, 6))
    mirrored = measures.mirror(points, 20)
    assert mirrored[72].tolist() == [16, 5] and mirrored[60].tolist() == [10, 6]


def test_98_points_give_68_different_ones_at_the_known_places() -> None:
    points = np.stack([np.arange(98.0), np.zeros(98)], axis=1)
    indices = measures.to_68(points)[:, 0].astype(int)
    assert len(indices) == len(set(indices)) == 68
    # 300-W's chin, outer eye corners, nose tip, mouth corners and middle of the inner lip
    assert indices[[8, 36, 45, 30, 48, 54, 62]].tolist() == [16, 60, 72, 54, 76, 82, 90]
    refined = measures.to_68(points, refine_lids=True)[:, 0]
    assert refined[[37, 38, 43]].tolist() == pytest.approx([61 + 1 / 3, 63 - 1 / 3, 69 + 1 / 3])


@pytest.mark.parametrize(
    ("angles", "looks"),
    [((20, 0, 0), "up"), ((0, 30, 0), "right"), ((0, 0, 25), "clockwise"), ((0, 0, 0), "ahead")],
)
def test_the_signs_of_the_angles_follow_the_nose_and_the_crown(
    angles: tuple[float, float, float], looks: str
) -> None:
    """The nose's tip, which is nearest to the camera, moves the way the head looks."""
    nose = turned(*angles) @ [0, 0, -1]
    crown = turned(*angles) @ [0, -1, 0]
    assert {
        "up": nose[1] < -0.1 and abs(nose[0]) < 1e-12,
        "right": nose[0] > 0.1 and abs(nose[1]) < 1e-12,
        "clockwise": crown[0] > 0.1,
        "ahead": nose[2] == -1,
    }[looks]
    pose = head_pose.head_pose(projected(*angles), (480, 640), focal=640)
    assert (pose.pitch, pose.yaw, pose.roll) == pytest.approx(angles, abs=1e-3)


@given(
    pitch=st.floats(-60, 60),
    yaw=st.floats(-80, 80),
    roll=st.floats(-180, 180),
    depth=st.floats(300, 5000),
)
def test_a_known_pose_is_found(pitch: float, yaw: float, roll: float, depth: float) -> None:
    at = (depth / 5, -depth / 8, depth)
    pose = head_pose.head_pose(projected(pitch, yaw, roll, at), (480, 640), focal=640)
    assert off(pose, (pitch, yaw, roll)) < 0.01
    np.testing.assert_allclose(pose.rotation, turned(pose.pitch, pose.yaw, pose.roll), atol=1e-9)
    np.testing.assert_allclose(pose.translation, at, rtol=1e-3)  # type: ignore[arg-type]
    assert pose.error < 0.01 and pose.misfit < 0.01


@pytest.mark.parametrize("yaw", [-80, -45, 0, 30, 60])
@pytest.mark.parametrize("pitch", [-60, -20, 0, 40])
def test_the_whole_range_without_a_focal_length(pitch: float, yaw: float) -> None:
    """From a webcam to a telephoto lens: the head is taken to be a metre away, and the angles stay near."""
    for roll in range(-180, 180, 30):
        for depth, close in ((500, 4), (1000, 0.2), (100000, 4)):
            pose = head_pose.head_pose(projected(pitch, yaw, roll, (0, 0, depth), depth))
            assert off(pose, (pitch, yaw, roll)) < close
            assert pose.translation is None


def test_a_noisy_face_ends_where_opencv_ends() -> None:
    """Of a head that may not bend, all points alike: the same minimum."""
    cv2 = pytest.importorskip("cv2")
    points = projected(10, -25, 8)[list(POINTS)]
    points += np.random.default_rng(1).normal(0, 1, points.shape)
    start = head_pose._Fit(
        (line_of_sight(AT).T @ turned(10, -25, 8))[None], np.array([AT]), np.zeros((1, len(MODES)))
    )
    seen = (points - [320, 240]).T[None] / 640
    hard = np.full((1, len(POINTS)), 1e-9)  # a weight so small that any bend costs too much
    fit = head_pose._refined(seen, hard, start)
    camera = np.array([[640.0, 0, 320], [0, 640, 240], [0, 0, 1]])
    _, turn, shift = cv2.solvePnP(np.ascontiguousarray(HEAD), points, camera, None)
    np.testing.assert_allclose(cv2.Rodrigues(turn)[0], fit.rotation[0], atol=1e-3)
    np.testing.assert_allclose(shift.ravel(), fit.translation[0], rtol=2e-3, atol=0.2)


def noisy_faces() -> np.ndarray:
    """Faces that look nearly ahead, with errors of a few pixels."""
    rng = np.random.default_rng(3)
    angles = rng.normal(0, 6, (64, 3))
    faces = np.stack([projected(a, b, c, (0, 0, 1000), 1000) for a, b, c in angles])
    noise: np.ndarray = faces + rng.normal(0, 4, faces.shape)
    return noise


def test_faces_together_have_the_poses_that_they_have_alone() -> None:
    faces = noisy_faces()
    for size, focal in ((None, None), ((480, 640), 700)):
        together = head_pose.head_poses(faces, size, focal=focal)
        alone = [head_pose.head_pose(face, size, focal=focal) for face in faces]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.rotation, other.rotation, atol=1e-9)
            assert (one.misfit, one.error) == pytest.approx((other.misfit, other.error), rel=1e-9)
            if focal is not None:
                np.testing.assert_allclose(one.translation, other.translation, rtol=1e-8)  # type: ignore[arg-type]
    assert head_pose.head_poses(faces[:0]) == []


def test_a_fit_ends_at_a_minimum() -> None:
    """By a gradient in torch, also of heads that look ahead, whose nods hardly show."""
    torch = pytest.importorskip("torch")
    points = noisy_faces()[:, list(POINTS)]
    seen = torch.tensor((points - [320, 240]) / 1000)
    scale = torch.tensor(ERRORS) / 1000
    weights = torch.ones_like(seen[:, :, 0]) / scale
    start = [head_pose._weak((p - [320, 240]).T[None] / 1000) for p in points]
    fit = head_pose._refined(
        seen.numpy().swapaxes(1, 2),
        weights.numpy(),
        head_pose._Fit(
            np.concatenate([rotation for rotation, _ in start]),
            np.array([[0, 0, 1 / own[0]] for _, own in start]),
            np.zeros((len(points), len(MODES))),
        ),
    )
    step = torch.zeros(len(points), 6 + len(MODES), dtype=torch.float64, requires_grad=True)
    x, y, z = step[:, :3].T
    zero = torch.zeros_like(x)
    spin = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    bent = torch.tensor(HEAD) + torch.einsum(
        "fm,mki->fki", torch.tensor(fit.bend) + step[:, 6:], torch.tensor(MODES)
    )
    rotation = torch.linalg.matrix_exp(spin) @ torch.tensor(fit.rotation)
    places = (
        bent @ rotation.swapaxes(1, 2) + (torch.tensor(fit.translation) + step[:, 3:6])[:, None]
    )
    off = (places[:, :, :2] / places[:, :, 2:] - seen) * weights[:, :, None]
    total = (off**2).sum() + ((torch.tensor(fit.bend) + step[:, 6:]) ** 2).sum()
    total.backward()
    assert step.grad is not None
    # Steps by the first derivatives alone end at 0.6 for one of these faces.
    assert float(step.grad[:, :3].abs().max()) < 1e-3


def test_the_head_is_symmetric_and_of_a_size_that_heads_have() -> None:
    """Against Farkas 1994, means of adults in millimetres, scaled to outer eye corners 90 apart."""
    at = {i: HEAD[k] for k, i in enumerate(POINTS)}
    for i, place in at.items():
        np.testing.assert_allclose(at[int(MIRROR_98[i])], place * [-1, 1, 1], atol=1e-9)

    def apart(i: int, j: int) -> float:
        return float(np.linalg.norm(at[i] - at[j]))

    assert apart(60, 72) == pytest.approx(90, abs=0.2)
    assert apart(64, 68) == pytest.approx(32.5, rel=0.15)  # inner corners of the eyes
    assert apart(55, 59) == pytest.approx(33, rel=0.15)  # width of the nose
    assert apart(76, 82) == pytest.approx(52, rel=0.15)  # width of the mouth
    assert apart(51, 57) == pytest.approx(52, rel=0.15)  # height of the nose
    assert at[54][2] == min(p[2] for p in at.values())  # its tip is nearest to the camera
    assert SHARE.sum() == pytest.approx(1) and (ERRORS > 0).all()


@given(
    angles=st.tuples(st.floats(-40, 40), st.floats(-70, 70), st.floats(-150, 150)),
    focal=st.sampled_from([None, 700.0]),
    seed=st.integers(0, 1000),
)
def test_a_mirrored_face_turns_and_leans_the_other_way(
    angles: tuple[float, float, float], focal: float | None, seed: int
) -> None:
    """As far, and nods the same: also of a head that fits badly."""
    points = projected(*angles) + np.random.default_rng(seed).normal(0, 3, (98, 2))
    shape = None if focal is None else (480, 640)
    one = head_pose.head_pose(points, shape, focal=focal)
    # From x to 640 - x: about the optical axis, where there is one.
    other = head_pose.head_pose(measures.mirror(points, 641), shape, focal=focal)
    assert (other.pitch, -other.yaw, -other.roll) == pytest.approx(
        (one.pitch, one.yaw, one.roll), abs=1e-4
    )
    assert (other.misfit, other.error) == pytest.approx((one.misfit, one.error), rel=1e-6)


@pytest.mark.parametrize("axis", ["pitch", "yaw"])
def test_poses_of_a_moving_head_are_smooth(axis: str) -> None:
    """Heads that differ from the mean one as faces do move by tenths of a degree; no pose jumps."""
    moved = np.linspace(-45, 45, 901) if axis == "pitch" else np.linspace(-70, 70, 1401)
    rng = np.random.default_rng(8)
    for _ in range(6):
        shape = HEAD + np.tensordot(rng.normal(0, 1, len(MODES)), MODES, 1)
        shape = shape + rng.normal(0, 0.4, shape.shape) * ERRORS[:, None]
        faces = np.zeros((len(moved), 98, 2))
        for face, angle in zip(faces, moved, strict=True):
            places = shape @ turned(*((angle, 5, 10) if axis == "pitch" else (5, angle, 10))).T
            face[list(POINTS)] = places[:, :2]
        rotations = np.stack([pose.rotation for pose in head_pose.head_poses(faces)])
        steps = np.linalg.norm(np.diff(rotations, axis=0), axis=(1, 2)) / np.sqrt(2)
        assert np.degrees(steps).max() < 3 * 0.1


def test_a_smile_is_no_nod() -> None:
    """A head bent along a way in which faces differ keeps its pose, which a rigid head would not."""
    nods, rigid = [], []
    for mode in MODES:
        places = HEAD + 1.5 * mode + [0, 0, 1000]
        points = np.zeros((98, 2))
        points[list(POINTS)] = places[:, :2] / places[:, 2:] * 1000
        pose = head_pose.head_pose(points)
        assert abs(pose.yaw) < 1 and abs(pose.roll) < 0.1 and pose.misfit < 1.5
        nods.append(pose.pitch)
        turn, _ = head_pose._weak(points[list(POINTS)].T[None])
        rigid.append(np.degrees(np.arctan2(turn[0, 2, 1], turn[0, 2, 2])))
    assert np.sqrt(np.mean(np.square(nods))) < 0.6 * np.sqrt(np.mean(np.square(rigid)))
    assert np.abs(nods).max() < 6


def faces_that_differ(pitch: float, count: int = 40) -> list[np.ndarray]:
    """Points of heads with shapes and errors of their own, drawn as they are spread over faces."""
    rng, found = np.random.default_rng(3), []
    for _ in range(count):
        shape = HEAD + np.tensordot(rng.normal(0, 1, len(MODES)), MODES, 1)
        shape = shape + rng.normal(0, 0.4, shape.shape) * ERRORS[:, None]
        points = np.zeros((98, 2))
        points[list(POINTS)] = (shape @ turned(pitch, 0, 0).T)[:, :2]
        found.append(points)
    return found


def test_that_faces_differ_is_hardly_taken_for_a_nod(monkeypatch: pytest.MonkeyPatch) -> None:
    level, nodding = faces_that_differ(0), faces_that_differ(30)
    read = [head_pose.head_pose(points).pitch for points in level]
    far = [head_pose.head_pose(points).pitch for points in nodding]
    monkeypatch.setattr(head_pose, "NODS", np.inf)  # as if any nod were as likely
    flat = [head_pose.head_pose(points).pitch for points in level]
    assert np.sqrt(np.mean(np.square(read))) < 0.75 * np.sqrt(np.mean(np.square(flat)))
    assert np.mean(far) == pytest.approx(30, abs=3)


def test_a_focal_length_needs_an_image() -> None:
    for shape, focal in ((None, 640), ((480, 640), 0), ((480, 640), float("nan"))):
        with pytest.raises(OptionError, match="focal is a length"):
            head_pose.head_pose(projected(0, 0, 0), shape, focal=focal)


def test_what_points_do_not_tell_is_left_empty() -> None:
    points = projected(0, 0, 0)
    points[[88, 92, 90, 94]] = [[0, 0], [8, 0], [4, -1], [4, 1]]
    whole = measures.measure(projected(5, 10, 0), (480, 640)).to_dict()
    assert whole.pop("landmark_confidence") is None and None not in whole.values()
    sure = measures.measure(projected(5, 10, 0), (480, 640), 0.93)
    assert sure.landmark_confidence == 0.93 and sure.pose is not None
    doubtful = measures.measure(projected(5, 10, 0), (480, 640), 0.3).to_dict()
    assert doubtful.pop("landmark_confidence") == 0.3 and set(doubtful.values()) == {None}
    scattered = np.random.default_rng(0).uniform(0, 400, (98, 2))
    assert set(measures.measure(scattered, (480, 640)).to_dict().values()) == {None}
    assert set(measures.measure(np.zeros((98, 2)), (480, 640)).to_dict().values()) == {None}


@pytest.mark.parametrize("side", [-1, 1])
def test_a_face_that_turns_away_loses_what_is_hidden(side: int) -> None:
    """Looking to the image's right hides the right eye."""
    far, near = "right_eye_aspect_ratio", "left_eye_aspect_ratio"
    if side < 0:
        far, near = near, far
    found = {
        yaw: measures.measure(projected(0, side * yaw, 0, (0, 0, 1000), 1000), (480, 640)).to_dict()
        for yaw in (20, 38, 48, 52, 70)
    }
    lost = {
        yaw: {name for name, value in own.items() if value is None} for yaw, own in found.items()
    }
    always = {"landmark_confidence"}
    assert lost[20] == always
    assert lost[38] == always | {far}
    assert lost[48] == always | {far, near, "mouth_opening", "interocular_distance"}
    assert lost[52] == set(found[52]) == lost[70]


def test_all_measures_are_plain_numbers() -> None:
    found = measures.measure(projected(0, 20, 0, (0, 0, 1000), 1000), (480, 640), 1.0).to_dict()
    assert found["yaw"] == pytest.approx(20, abs=0.2)
    assert {type(value) for value in found.values()} == {float}


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"98 points of one face, \(98, 2\); got \(68, 2\)"):
        measures.eye_aspect_ratio(np.zeros((68, 2)))
    with pytest.raises(ShapeError, match="one face"):
        head_pose.head_pose(np.zeros((2, 98, 2)), (480, 640))
