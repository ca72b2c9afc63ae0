"""Measures of faces against closed forms, a known pose and OpenCV's solver."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet.errors import ShapeError
from refnet.faces import head_pose, measures
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


def projected(pitch: float, yaw: float, roll: float, shift: Any = (1.0, -2.0, 60.0)) -> np.ndarray:
    """Where a 480×640 camera of focal length 640 sees the mean face."""
    places = head_pose._FACE_MODEL[:, 1:] @ turned(pitch, yaw, roll).T + np.array(shift)
    points = np.zeros((98, 2))
    points[list(head_pose.POSE_POINTS)] = places[:, :2] / places[:, 2:] * 640 + [320, 240]
    return points


def test_eyes() -> None:
    points = face(p60=(0, 0), p64=(10, 0), p61=(3, -2), p67=(3, 1), p63=(7, -1), p65=(7, 1))
    points[[72, 68, 71, 73, 69, 75]] = [[40, 0], [30, 0], [37, 0], [37, 0], [33, 0], [33, 0]]
    assert measures.eye_aspect_ratio(points) == pytest.approx(((3 + 2) / 20, 0.0))


def test_mouth_and_distance_between_the_eyes() -> None:
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


def test_68_points() -> None:
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
def test_signs_of_the_angles(angles: tuple[float, float, float], looks: str) -> None:
    """The nose's tip, which is nearest to the camera, moves the way the head looks."""
    nose = turned(*angles) @ [0, 0, -1]
    crown = turned(*angles) @ [0, -1, 0]
    assert {
        "up": nose[1] < -0.1 and abs(nose[0]) < 1e-12,
        "right": nose[0] > 0.1 and abs(nose[1]) < 1e-12,
        "clockwise": crown[0] > 0.1,
        "ahead": nose[2] == -1,
    }[looks]
    pose = head_pose.head_pose(projected(*angles), (480, 640))
    assert (pose.pitch, pose.yaw, pose.roll) == pytest.approx(angles, abs=1e-5)


@given(
    pitch=st.floats(-40, 40),
    yaw=st.floats(-65, 65),
    roll=st.floats(-90, 90),
    depth=st.floats(35, 200),
)
def test_a_known_pose_is_found(pitch: float, yaw: float, roll: float, depth: float) -> None:
    pose = head_pose.head_pose(projected(pitch, yaw, roll, (4, -3, depth)), (480, 640))
    assert (pose.pitch, pose.yaw, pose.roll) == pytest.approx((pitch, yaw, roll), abs=1e-4)
    np.testing.assert_allclose(pose.rotation, turned(pitch, yaw, roll), atol=1e-6)
    np.testing.assert_allclose(pose.translation, [4, -3, depth], rtol=1e-5)
    assert pose.error < 1e-4


def test_a_noisy_face_ends_where_opencv_ends() -> None:
    cv2 = pytest.importorskip("cv2")
    points = projected(10, -25, 8)
    chosen = list(head_pose.POSE_POINTS)
    points[chosen] += np.random.default_rng(1).normal(0, 1, (14, 2))
    pose = head_pose.head_pose(points, (480, 640))
    camera = np.array([[640.0, 0, 320], [0, 640, 240], [0, 0, 1]])
    _, turn, shift = cv2.solvePnP(
        np.ascontiguousarray(head_pose._FACE_MODEL[:, 1:]),
        np.ascontiguousarray(points[chosen]),
        camera,
        None,
        cv2.Rodrigues(turned(10, -25, 8))[0],
        np.array([[1.0], [-2], [60]]),
        useExtrinsicGuess=True,
    )
    np.testing.assert_allclose(cv2.Rodrigues(turn)[0], pose.rotation, atol=1e-4)
    np.testing.assert_allclose(shift.ravel(), pose.translation, rtol=1e-3, atol=1e-2)
    assert 0.3 < pose.error < 2


def test_all_measures_are_plain_numbers() -> None:
    found = measures.measure(projected(0, 20, 0), (480, 640)).to_dict()
    assert found["yaw"] == pytest.approx(20, abs=0.01)
    assert {type(value) for value in found.values()} == {float}


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"98 points of one face, \(98, 2\); got \(68, 2\)"):
        measures.eye_aspect_ratio(np.zeros((68, 2)))
    with pytest.raises(ShapeError, match="one face"):
        head_pose.head_pose(np.zeros((2, 98, 2)), (480, 640))
