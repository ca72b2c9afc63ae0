"""From an image to faces: real networks end to end, and every form that results take."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
import refnet.media.images
from refnet.detection.detector import FaceDetector
from refnet.errors import DependencyError, OptionError, WeightsError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.faces.face import FACE_COLUMNS, Face, Faces
from refnet.faces.landmarks import FaceLandmarker
from refnet.random_weights import random_weights
from refnet.results.drawing import draw_faces
from tests.detection_networks import HEADS_AS_FACES, f32, image_of, median_threshold, seeded
from tests.test_face_measures import projected

ONNX = {
    "GhostNet": "PFLD_GhostNet_112_1_opt_sim",
    "GhostNet_Slim": "PFLD_GhostNet_Slim_112_1_opt_sim",
    "GhostOne": "PFLD_GhostOne_112_1_opt_sim",
}
FACES = [("duo", 0), ("duo", 1), ("duo2", 0), ("duo2", 1), *(("persons", i) for i in range(6))]


@cache
def landmarker() -> FaceLandmarker:
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    return FaceLandmarker(refnet.Model(graph, random_weights(graph)), refine=False)


@cache
def analyzer() -> FaceAnalyzer:
    model = seeded("lffd-head")
    threshold = median_threshold(model, image_of(150, 200))
    return FaceAnalyzer(
        FaceDetector(model, threshold=threshold, defaults=HEADS_AS_FACES), landmarker()
    )


def real_analyzer(assets: Path) -> FaceAnalyzer:
    """Heads by the real detector, landmarks by the real network: the whole way on a real photo."""
    weights = assets / "lffd/weights/head_10_160_17L_4scales_v1_iter_800000.params"
    file = assets / f"pfld/onnx/{ONNX['GhostOne']}.onnx"
    detector = FaceDetector(
        "lffd-head", weights, scales=(0.4,), threshold=0.95, defaults=HEADS_AS_FACES
    )
    return FaceAnalyzer(detector, FaceLandmarker(file, margin=1.2, refine=False))


def points_of(face: Face) -> np.ndarray:
    assert face.landmarks is not None
    return face.landmarks


@pytest.mark.parametrize("net", ONNX)
@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("margin", ["m100", "m120"])
@pytest.mark.parametrize(("backend", "tolerance"), [("numpy", 2e-6), ("auto", 2e-5)])
def test_real_landmarks_equal_the_recorded_ones(
    assets: Path, net: str, order: str, margin: str, backend: str, tolerance: float
) -> None:
    """Ten faces, from the recorded crops, whose order is R, G, B; by the definition, and as usual."""
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    file = assets / f"pfld/onnx/{ONNX[net]}.onnx"
    finder = FaceLandmarker(file, channel_order=order, backend=backend)
    crops = np.stack([recorded[f"crop_rgb/{photo}/{i}/{margin}"] for photo, i in FACES])
    want = [recorded[f"out/{photo}/{i}/{margin}/{order}/{net}"] for photo, i in FACES]
    got = finder.predict_crops(np.ascontiguousarray(crops[..., ::-1]))
    np.testing.assert_allclose(got, np.reshape(want, (10, 98, 2)), rtol=0, atol=tolerance)


def test_the_points_of_an_astronaut_stand_on_her_eyes_nose_and_mouth(assets: Path) -> None:
    """Her eyes, nose and mouth stand where one sees them in the photo."""
    image = refnet.read_image(assets / "photos/skimage_astronaut.png")
    (face,) = real_analyzer(assets)(image)
    assert face.score > 0.5 and face.box.shape == (4,)
    for part, place in {
        "left_eye": (204, 100),
        "right_eye": (247, 101),
        "nostrils": (225, 125),
        "inner_lip": (225, 142),
    }.items():
        assert np.abs(face.parts[part].mean(axis=0) - place).max() < 8, part
    measures = face.measures
    assert measures is not None and measures.pose is not None
    assert measures.interocular_distance is not None and measures.mouth_opening is not None
    assert 30 < measures.interocular_distance < 80
    assert measures.mouth_opening > 0.02  # she smiles with teeth
    assert abs(measures.pose.roll) < 20 and abs(measures.pose.yaw) < 40


def test_crops_of_a_batch_are_those_of_single_images() -> None:
    images = [image_of(150, 200, seed) for seed in (0, 1)] + [image_of(140, 200, 2)]
    together = analyzer().batch(images)
    assert [len(faces) for faces in together] == [len(analyzer()(image)) for image in images]
    assert sum(len(faces) for faces in together) > 3
    for faces, image in zip(together, images, strict=True):
        for one, other in zip(faces, analyzer()(image), strict=True):
            np.testing.assert_allclose(one.box, other.box, atol=1e-2)
            np.testing.assert_allclose(points_of(one), points_of(other), atol=1e-2)


def test_landmarks_are_those_of_the_boxes() -> None:
    image = image_of(150, 200)
    points = [points_of(face) for face in analyzer()(image)]
    found = analyzer().detector(image)
    alone = landmarker()(image, found)
    np.testing.assert_allclose(points, alone.points, atol=1e-3)
    # Faces at the border are cropped by their boxes as predicted, which leave the image.
    uncut = landmarker()(image, found.uncut)
    np.testing.assert_array_equal(alone.points, uncut.points)
    assert (found.uncut != found.boxes).any()


def test_files_and_red_first_arrays_are_images_too(tmp_path: Path) -> None:
    image = image_of(150, 200)
    refnet.write_image(tmp_path / "photo.png", image)
    boxes = [face.box for face in analyzer()(image)]
    np.testing.assert_array_equal([f.box for f in analyzer()(tmp_path / "photo.png")], boxes)
    red_first = image[:, :, ::-1]
    np.testing.assert_array_equal([f.box for f in analyzer()(red_first, rgb=True)], boxes)


def test_no_face_and_images_of_a_pixel_give_empty_results() -> None:
    quiet = FaceAnalyzer(
        FaceDetector(seeded("lffd-head"), threshold=0.9999, defaults=HEADS_AS_FACES), landmarker()
    )
    assert quiet(image_of(130, 130)) == [] and quiet.batch([]) == []
    for shape in ((1, 1), (1, 20), (40, 3)):
        for face in analyzer()(np.full((*shape, 3), 90, np.uint8)):
            assert np.isfinite(face.box).all() and face.image_size == shape


def test_without_a_landmarker_faces_are_boxes_alone() -> None:
    found = FaceAnalyzer(analyzer().detector, None)(image_of(150, 200))
    assert len(found) > 0
    assert all(f.landmarks is None and f.parts == {} and f.measures is None for f in found)
    assert set(found.to_dicts()[0]) == {"box", "score"}
    assert set(found.to_json()) >= set('[{"')


def test_names_without_weights_say_what_is_missing() -> None:
    with pytest.raises(WeightsError, match="lffd-face-v1"):
        FaceAnalyzer("lffd-face-v1")


def test_networks_for_something_else_are_refused_before_weights_are_sought() -> None:
    for detector, landmarker, says in (
        ("lffd-pedestrian", None, "lffd-pedestrian finds boxes of pedestrian, no faces"),
        ("pfld", None, "pfld detects nothing"),
        (
            "lffd-face-v2",
            "lffd-head",
            "lffd-head finds boxes of head, no landmarks; landmark networks",
        ),
        ("lffd-face-v2", "tinynet", "tinynet finds no landmarks"),
    ):
        with pytest.raises(OptionError, match=says):
            FaceAnalyzer(detector, landmarker)


def two_faces() -> Faces:
    points = np.random.default_rng(0).uniform(0, 50, (2, 98, 2)).astype(np.float32)
    return Faces(
        Face(f32([i, 2, 30 + i, 44]), 0.9 - i / 10, points[i], (60, 80), track_id=i) for i in (0, 1)
    )


def test_dictionaries_and_json_hold_the_same_plain_numbers() -> None:
    faces = two_faces()
    plain = json.loads(faces.to_json())
    assert plain == faces.to_dicts()
    assert set(plain[0]) == {"box", "score", "track_id", "landmarks", "measures"}
    np.testing.assert_allclose(plain[1]["landmarks"], points_of(faces[1]), atol=1e-3)
    assert "track 1" in repr(faces[1]) and "98 landmarks" in repr(faces[1])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_dictionaries_round_as_python_does(kind: Any) -> None:
    rng = np.random.default_rng(5)
    drawn = [rng.uniform(-5000, 5000, 20000), rng.integers(-4000, 4000, 20000) / 16]
    halves = rng.integers(-(2**20), 2**20, 20000) / 2000
    points = np.concatenate([*drawn, halves, [-0.0, 1e-9, -0.0004, 1e9]]).astype(kind)
    face = Face(f32([0, 1 / 3, 9, 9]), 0.5, points.reshape(-1, 2), (9, 9))
    found = face.to_dict()
    assert repr(found["landmarks"]) == repr(
        [[round(float(x), 3), round(float(y), 3)] for x, y in points.reshape(-1, 2)]
    )
    assert found["box"] == [0, 0.333, 9, 9]


def test_rows_hold_every_column() -> None:
    points = f32(projected(0, 10, 0))
    face = Face(two_faces()[0].box, 0.9, points, (480, 640), 1, landmark_confidence=0.75)
    row = face.to_row()
    assert list(row) == [name for name, _ in FACE_COLUMNS]
    assert len(row["landmarks"]) == 196 and None not in row.values()
    assert face.measures is not None and set(face.measures.to_dict()) < set(row)
    assert row["landmark_confidence"] == 0.75
    doubtful = replace(face, landmark_confidence=0.1).to_row()
    assert doubtful["yaw"] is None and doubtful["landmark_confidence"] == 0.1
    bare = Face(f32([0, 0, 1, 1]), 0.5, None, (60, 80)).to_row()
    assert bare["landmarks"] is None and bare["track_id"] is None


def test_arrow_tables_have_a_row_for_every_face() -> None:
    pytest.importorskip("pyarrow")
    table = two_faces().to_arrow()
    assert table.column_names == [name for name, _ in FACE_COLUMNS] and table.num_rows == 2
    points = table["landmarks"][1].as_py()
    np.testing.assert_allclose(points, points_of(two_faces()[1]).reshape(-1))
    assert Faces().to_arrow().num_rows == 0


def test_data_frames_have_a_row_for_every_face() -> None:
    pytest.importorskip("pandas")
    frame = two_faces().to_pandas()
    assert list(frame["x1"]) == [0, 1] and list(frame.columns) == [n for n, _ in FACE_COLUMNS]
    assert len(Faces().to_pandas()) == 0


def test_supervision_gets_boxes_points_and_tracks() -> None:
    pytest.importorskip("supervision")
    detections, points = two_faces().to_supervision()
    assert detections.xyxy.shape == (2, 4) and points.xy.shape == (2, 98, 2)
    assert detections.tracker_id.tolist() == [0, 1]
    assert len(Faces().to_supervision()[0]) == 0
    heads = analyzer().detector.detect(image_of(150, 200)).to_supervision()
    assert set(heads.data["class_name"]) == {"face"}


def test_an_absent_package_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DependencyError, match="pip install pyarrow"):
        two_faces().to_arrow()


@pytest.mark.parametrize("scale", [1, 12])
def test_drawing_marks_boxes_points_and_tracks_at_any_size(scale: int) -> None:
    faces = Faces(
        Face(f.box * scale, f.score, points_of(f) * scale, (60 * scale, 80 * scale), f.track_id)
        for f in two_faces()
    )
    image = np.zeros((60 * scale, 80 * scale, 3), np.uint8)
    drawn = draw_faces(image, faces)
    assert drawn.shape == image.shape and not image.any()
    x, y = np.round(points_of(faces[0])[54]).astype(int)
    assert drawn[y, x].any()
    assert (drawn[:, 0] if scale == 1 else drawn[2 * scale]).any()
    assert draw_faces(image, Faces()).sum() == 0
