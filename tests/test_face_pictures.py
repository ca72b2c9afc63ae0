"""Key points, crops, alignment, pictures and notebook views of faces."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.errors import OptionError
from refnet.faces.alignment import TEMPLATE_112, similarity
from refnet.faces.face import Face, Faces
from refnet.media.images import decode_image
from refnet.media.picture import Picture
from tests.detection_networks import f32, image_of
from tests.test_face_measures import projected

IMAGE = image_of(120, 160)


def face(x: float = 40, y: float = 30, **changes: Any) -> Face:
    points = np.random.default_rng(0).uniform(0, 40, (98, 2)).astype(np.float32) + f32([x, y])
    given: dict[str, Any] = {"landmarks": points, "image_size": (120, 160), **changes}
    return Face(f32([x, y, x + 40, y + 50]), 0.9, **given)


def test_key_points_are_five_of_98_or_the_detectors() -> None:
    """Image-left eye, right eye, nose tip, image-left and right corner of the mouth."""
    whole = face()
    assert whole.landmarks is not None and whole.keypoints is not None
    np.testing.assert_array_equal(whole.keypoints, whole.landmarks[[96, 97, 54, 76, 82]])
    five = f32(np.arange(10).reshape(5, 2))
    assert face(landmarks=None, keypoints=five).keypoints is five
    assert face(landmarks=None).keypoints is None


def test_alignment_recovers_a_known_turn() -> None:
    """Points that are the template turned, scaled and shifted come back to it, and so do pixels."""
    turn, scale, shift = np.radians(25), 0.4, np.array([30.0, 20.0])
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = TEMPLATE_112 @ matrix.T + shift
    found = similarity(points, TEMPLATE_112)
    np.testing.assert_allclose(found[:, :2] @ matrix, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(points @ found[:, :2].T + found[:, 2], TEMPLATE_112, atol=1e-9)
    upright = face(landmarks=None, keypoints=f32(points)).align(IMAGE, 56)
    assert upright.shape == (56, 56, 3) and upright.dtype == np.uint8
    # The middle of the result is the middle of the template, seen in the image.
    x, y = np.round(matrix @ [56, 56] + shift).astype(int)
    near = IMAGE[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
    assert (upright[28, 28] >= near.min(axis=0)).all() and (
        upright[28, 28] <= near.max(axis=0)
    ).all()


def test_alignment_is_the_nearest_similarity() -> None:
    """By least squares over a general solver, for points that no similarity fits exactly."""
    rng = np.random.default_rng(1)
    points = TEMPLATE_112 + rng.normal(0, 5, (5, 2))
    x, y = points.T
    zero, one = np.zeros(5), np.ones(5)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(system, TEMPLATE_112.T.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(similarity(points, TEMPLATE_112), [[a, -b, tx], [b, a, ty]])


def test_crops_are_the_box_and_its_margin_inside_the_image() -> None:
    np.testing.assert_array_equal(face().crop(IMAGE), IMAGE[30:80, 40:80])
    np.testing.assert_array_equal(face().crop(IMAGE, margin=0.5), IMAGE[5:105, 20:100])
    np.testing.assert_array_equal(face(0, 0).crop(IMAGE, margin=1), IMAGE[:100, :80])
    assert not np.shares_memory(face().crop(IMAGE), IMAGE)
    with pytest.raises(OptionError, match="margin"):
        face().crop(IMAGE, margin=-1)
    with pytest.raises(OptionError, match="160×120 pixels, and this one has 160×50"):
        face().crop(IMAGE[:50])
    with pytest.raises(OptionError, match="no key points"):
        face(landmarks=None).align(IMAGE)


def test_pictures_keep_the_order_that_they_are_given(tmp_path: Path) -> None:
    faces, path = Faces([face()]), tmp_path / "x.png"
    refnet.write_image(path, IMAGE)
    drawn = faces.draw(IMAGE)
    assert isinstance(drawn, Picture) and (drawn != IMAGE).any()
    np.testing.assert_array_equal(faces.draw(path), drawn)
    red_first = faces.draw(np.ascontiguousarray(IMAGE[:, :, ::-1]), rgb=True)
    np.testing.assert_array_equal(red_first[:, :, ::-1], drawn)
    for picture in (drawn, red_first):
        png = picture._repr_png_()
        assert png is not None
        np.testing.assert_array_equal(decode_image(png), drawn)
    assert drawn[0]._repr_png_() is None  # a row of it is no picture


@pytest.mark.parametrize("method", ["blur", "pixelate", "solid"])
@pytest.mark.parametrize("shape", ["ellipse", "box"])
def test_blurring_hides_faces_and_nothing_else(method: str, shape: str) -> None:
    faces = Faces([face()])
    hidden = np.asarray(faces.blur(IMAGE, method=method, shape=shape, margin=0.1))
    changed = (hidden != IMAGE).any(axis=2)
    grown = np.zeros((120, 160), bool)
    grown[25:85, 36:84] = True
    assert not changed[~grown].any() and changed[30:80, 50:70].mean() > 0.9
    assert changed[26, 37] == (shape == "box")  # a corner
    if method == "solid":
        assert not hidden[55, 60].any()
    if method == "pixelate" and shape == "box":
        assert len(np.unique(hidden[25:85, 36:84].reshape(-1, 3), axis=0)) <= 64
    np.testing.assert_array_equal(Faces().blur(IMAGE, method=method), IMAGE)


def test_wrong_blurs_are_named() -> None:
    faces = Faces([face()])
    for words in ({"method": "smear"}, {"shape": "star"}, {"margin": -1}):
        with pytest.raises(OptionError, match=next(iter(words))):
            faces.blur(IMAGE, **words)


def test_slices_and_masks_of_faces_are_faces() -> None:
    faces = Faces([face(x) for x in (10, 20, 30)])
    assert isinstance(faces[:2], Faces) and len(faces[:2]) == 2
    assert list(faces[faces.boxes[:, 0] > 15]) == [faces[1], faces[2]]
    assert isinstance(faces[[2, 0]], Faces) and faces[[2, 0]][0] is faces[2]
    assert faces[-1] is list(faces)[2]
    assert Faces().boxes.shape == (0, 4) and Faces().scores.shape == (0,)


def test_representations_are_short() -> None:
    faces = Faces([face(x) for x in range(8)])
    assert repr(faces).count("<Face (") == 5 and "3 more" in repr(faces)
    assert repr(face(landmarks=f32(projected(0, 0, 0))).pose).startswith("<HeadPose pitch")
    assert faces[0].pose is None  # points that are no face's
    shown = repr(refnet.FaceDetector(threshold=0.3, min_size=40))
    assert shown == "FaceDetector('lffd-light', threshold=0.3, min_size=40)"


@pytest.mark.parametrize("count", [0, 1, 12])
def test_notebook_views_are_well_formed(count: int) -> None:
    faces = Faces([face(x, 20 + x) for x in range(count)])
    tree = ElementTree.fromstring(faces._repr_html_())
    svg = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f".//{svg}rect")) == (count + 1 if count else 0)
    assert len(tree.findall(".//tr")) == (min(count, 10) + 1 if count else 0)
    boxes = faces.boxes
    labels, size = np.zeros(count, int), (120, 160)
    found = refnet.Detections(boxes, f32(np.ones(count)), labels, ("<plate>",), size)
    ElementTree.fromstring(found._repr_html_())


def test_tables_of_detections_hold_classes_and_key_points() -> None:
    pytest.importorskip("pyarrow")
    points = f32(np.arange(10).reshape(1, 5, 2))
    found = refnet.Detections(
        f32([[1, 2, 3, 4]]), f32([0.5]), np.array([0]), ("face",), (9, 9), points
    )
    (row,) = found.to_arrow().to_pylist()
    assert row["class"] == "face" and row["keypoints"] == list(range(10)) and row["y2"] == 4
    assert found.to_pandas()["x1"].tolist() == [1]
    assert '"class": "face"' in found.to_json()
