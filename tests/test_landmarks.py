"""From boxes to crops to points, and back to image pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refnet
from refnet.errors import ImageError, OptionError, ShapeError
from refnet.faces.crops import cut, square_crop
from refnet.faces.landmarks import FaceLandmarker
from refnet.faces.schemes import CLOSED, WFLW_98, mirrored
from refnet.networks.defaults import Preprocessing, defaults_of
from refnet.random_weights import random_weights
from refnet.results.drawing import draw_boxes, draw_landmarks

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def landmarker() -> FaceLandmarker:
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    return FaceLandmarker(refnet.Model(graph, random_weights(graph)), refine=False)


def test_parts_cover_the_98_points_once() -> None:
    assert sorted(i for part in WFLW_98.values() for i in part) == list(range(98))
    assert set(WFLW_98) >= CLOSED


def test_crops_are_those_of_the_original_demo(assets: Path) -> None:
    """The recorded geometry of ten faces at two margins, and the pixels inside."""
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    compared = 0
    for key in recorded:
        if key.startswith("cropgeom/"):
            margin = 1.0 if key.endswith("m100") else 1.2
            got = square_crop(recorded[key.replace("cropgeom", "box")], margin)
            assert got == tuple(recorded[key]), key
            compared += 1
    assert compared == 20


def test_real_faces_have_the_recorded_points(assets: Path) -> None:
    """Own crops, resized bilinearly, give the recorded points (of bicubic crops) within 2 % of a side."""
    pytest.importorskip("onnx")
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    file = assets / "pfld/onnx/PFLD_GhostOne_112_1_opt_sim.onnx"
    landmarker = FaceLandmarker(file, refine=False)
    for photo, faces in (("duo", 2), ("duo2", 2), ("persons", 6)):
        image = refnet.read_image(assets / f"pfld/test_imgs/{photo}.jpg")
        boxes = [recorded[f"box/{photo}/{i}/m100"] for i in range(faces)]
        landmarks = landmarker(image, boxes)
        assert landmarks.points.shape == (faces, 98, 2)
        for i in range(faces):
            want = recorded[f"out/{photo}/{i}/m100/bgr/GhostOne"].reshape(98, 2)
            fractions = (landmarks.points[i] - landmarks.crops[i, :2]) / landmarks.crops[i, 2]
            assert np.abs(fractions - want).mean() < 0.01
            assert np.abs(fractions - want).max() < 0.04


@given(
    x=st.integers(-60, 130),
    y=st.integers(-60, 100),
    width=st.integers(1, 80),
    height=st.integers(1, 80),
)
def test_cut_is_the_image_inside_and_black_outside(x: int, y: int, width: int, height: int) -> None:
    x0, y0, side = square_crop(np.array([x, y, x + width, y + height], np.float32))
    assert side == max(width, height)
    region = cut(IMAGE, (x0, y0, side), side)
    padded = np.pad(IMAGE, ((200, 200), (200, 200), (0, 0)))
    np.testing.assert_array_equal(
        region, padded[200 + y0 : 200 + y0 + side, 200 + x0 : 200 + x0 + side]
    )


def test_points_map_back_by_origin_and_side(landmarker: FaceLandmarker) -> None:
    """A picture shifted by whole pixels moves its points by as many, border or not."""
    wide = np.pad(IMAGE, ((40, 0), (25, 0), (0, 0)))
    boxes = np.array([[-10, 5, 60, 95], [70, 30, 119, 70]], np.float32)
    here, there = (
        landmarker(IMAGE, boxes),
        landmarker(wide, boxes + np.array([25, 40, 25, 40])),
    )
    np.testing.assert_allclose(
        there.points - here.points, np.broadcast_to([25, 40], (2, 98, 2)), atol=1e-4
    )
    crop = here.crops[0]
    fractions = landmarker.predict_crops(cut(IMAGE, crop, 112)[None])[0]
    np.testing.assert_allclose(here.points[0], crop[:2] + fractions * crop[2], atol=1e-4)


def test_faces_in_one_call_are_faces_one_by_one(landmarker: FaceLandmarker) -> None:
    boxes = np.array([[0, 0, 50, 50], [30, 20, 100, 80], [-5, -5, 20, 40]], np.float32)
    together = landmarker(IMAGE, boxes)
    for i, box in enumerate(boxes):
        np.testing.assert_allclose(landmarker(IMAGE, box).points[0], together.points[i], atol=1e-4)


def test_without_boxes_the_image_is_the_face(landmarker: FaceLandmarker) -> None:
    landmarks = landmarker(IMAGE)
    assert landmarks.crops.tolist() == [[0, -15, 120]]
    assert len(landmarks) == 1


def seen_mirrored(landmarker: FaceLandmarker, crops: np.ndarray) -> np.ndarray:
    """The points (F, 98, 2) of upright crops of IMAGE, found in their mirror images."""
    pixels = np.stack([cut(IMAGE, crop, 112)[:, ::-1] for crop in crops])
    return np.asarray(
        crops[:, None, :2] + mirrored(landmarker.predict_crops(pixels), 1.0) * crops[:, None, 2:]
    )


def test_a_second_pass_looks_about_the_points_of_the_first(landmarker: FaceLandmarker) -> None:
    """It is the first pass on the box of its own points, with the margin of training crops, and on its mirror image."""
    boxes = np.array([[10, 5, 80, 85], [50, 30, 100, 60]], np.float32)
    first = landmarker(IMAGE, boxes)
    again = FaceLandmarker(landmarker.model, margin=1.2, refine=False)(
        IMAGE, np.concatenate([first.points.min(1), first.points.max(1)], axis=1)
    )
    twice = FaceLandmarker(landmarker.model, refine=True)(IMAGE, boxes)
    both = (again.points + seen_mirrored(landmarker, again.crops)) / 2
    np.testing.assert_allclose(twice.points, both, atol=1e-4)
    np.testing.assert_array_equal(twice.crops, again.crops)
    np.testing.assert_array_equal(twice.boxes, boxes)
    with pytest.raises(OptionError, match="refine is True or False"):
        FaceLandmarker(landmarker.model, refine=cast(Any, 2))


def test_a_followed_face_is_seen_mirrored_too(landmarker: FaceLandmarker) -> None:
    boxes = np.array([[10, 5, 80, 85], [50, 30, 100, 60]], np.float32)
    plain = landmarker.refined(IMAGE, boxes)
    crops = np.array([square_crop(box, 1.2) for box in boxes])
    points, off = landmarker.followed(IMAGE, boxes)
    both = (plain + seen_mirrored(landmarker, crops)) / 2
    np.testing.assert_allclose(points, both, atol=1e-4)
    assert off.shape == (2,)


def test_a_second_pass_is_closer_where_boxes_are_rough(assets: Path) -> None:
    """Ten real faces: boxes from a detector, and the points that their own best crops give."""
    pytest.importorskip("onnx")
    recorded = np.load(assets / "pfld/ref/pfld_reference_outputs.npz")
    model = refnet.load(assets / "pfld/onnx/PFLD_GhostOne_112_1_opt_sim.onnx")
    errors = []
    for photo, faces in (("duo", 2), ("duo2", 2), ("persons", 6)):
        image = refnet.read_image(assets / f"pfld/test_imgs/{photo}.jpg")
        boxes = np.stack([recorded[f"box/{photo}/{i}/m100"] for i in range(faces)])
        settled = FaceLandmarker(model, refine=True)(image, boxes).points
        rough = boxes + np.array([-12, -12, 12, 12]) * (boxes[:, 3:] - boxes[:, 1:2]) / 100
        for passes in (1, 2):
            points = FaceLandmarker(model, refine=passes == 2)(image, rough).points
            errors.append((passes, np.abs(points - settled).mean()))
    once, twice = (np.mean([e for p, e in errors if p == passes]) for passes in (1, 2))
    assert twice < 0.5 * once


def test_no_faces_give_no_points_and_draw_nothing(landmarker: FaceLandmarker) -> None:
    landmarks = landmarker(IMAGE, [])
    assert landmarks.points.shape == (0, 98, 2)
    assert landmarks.to_dicts() == []
    np.testing.assert_array_equal(draw_landmarks(IMAGE, landmarks), IMAGE)


def test_channel_orders_of_image_and_network_are_told_apart(landmarker: FaceLandmarker) -> None:
    """rgb= says what the image is; channel_order says what the network wants."""
    rgb = np.ascontiguousarray(IMAGE[:, :, ::-1])
    want = landmarker(IMAGE).points
    np.testing.assert_array_equal(landmarker(rgb, rgb=True).points, want)
    other = FaceLandmarker(landmarker.model, channel_order="rgb", refine=False)
    np.testing.assert_array_equal(other(rgb).points, want)
    assert np.abs(other(IMAGE).points - want).max() > 0.01


def test_a_network_of_ones_own_brings_its_defaults(landmarker: FaceLandmarker) -> None:
    graph = landmarker.model.graph
    model = refnet.Model(replace(graph, name="mine"), landmarker.model.weights)
    points = FaceLandmarker(model, defaults=defaults_of(graph), refine=False)(IMAGE).points
    np.testing.assert_array_equal(points, landmarker(IMAGE).points)
    assert FaceLandmarker(model).preprocessing == Preprocessing(scale=1 / 255)


def test_scaling_is_the_networks() -> None:
    crops = np.array([0, 128, 255], np.uint8).repeat(3).reshape(3, 1, 1, 3)
    for name, expected in (("pfld", [-1, 0.00392157, 1]), ("pfld-polaris", [0, 0.50196078, 1])):
        landmarker = FaceLandmarker(
            f"{name}:width=0.25", random_weights(refnet.build(name, width=0.25))
        )
        np.testing.assert_allclose(
            landmarker.preprocessing.apply(crops)[:, 0, 0, 0], expected, atol=1e-6
        )


def test_dictionaries_hold_box_crop_and_points(landmarker: FaceLandmarker) -> None:
    landmarks = landmarker(IMAGE, [10, 20, 60, 90])
    (face,) = landmarks.to_dicts()
    assert face["box"] == [10, 20, 60, 90]
    assert face["crop"] == {"x": 0, "y": 20, "side": 70}
    np.testing.assert_allclose(face["points"], landmarks.points[0], atol=6e-4)


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([1, 2, 3], r"\(F, 4\)"),
        ([[1, 2, 3, 4, 5]], r"\(F, 4\)"),
        ([10, 10, 10, 20], "x2 > x1"),
        ([20, 20, 10, 30], r"\[20.0, 20.0, 10.0, 30.0\]"),
        ([0, 0, float("nan"), 5], "NaN"),
        ("all", "numbers"),
        ([0, 0, 1e6, 1e6], "pixels of this image"),
        (
            [0.3, 0.1, 0.5, 0.4],
            r"\[0.3, 0.1, 0.5, 0.4\] lies in 0 to 1; multiply x by 120 and y by 90",
        ),
        ([[10, 10, 50, 50], [0, 0, 1, 1]], r"\[0.0, 0.0, 1.0, 1.0\] lies in 0 to 1"),
        ([0, 0, 1e30, 1e30], r"beyond 1e\+09 pixels"),
        ([-1e300, 0, 5, 5], r"beyond 1e\+09 pixels"),
        ([0, 0, 10**400, 5], "numbers .* got list of int"),
        (["10", "10", "20", "20"], "numbers .* got list of str"),
        ([None] * 4, "numbers .* got list of NoneType"),
        ([True, False, True, True], "numbers"),
        ([[1, 2, 3, 4], [5, 6]], "numbers .* got list: "),
    ],
)
def test_wrong_boxes_are_named(landmarker: FaceLandmarker, boxes: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        landmarker(IMAGE, boxes)


@pytest.mark.parametrize("refine", [False, True])
def test_boxes_outside_of_the_image_get_no_points(landmarker: FaceLandmarker, refine: bool) -> None:
    outside = [[-30, 10, 0, 40], [120, 10, 150, 40], [10, -50, 40, -10], [5000, 5000, 5100, 5100]]
    half = [-20, 20, 40, 80]
    found = FaceLandmarker(landmarker.model, refine=refine)(IMAGE, [*outside, half])
    assert np.isnan(found.points[:4]).all() and np.isfinite(found.points[4]).all()
    assert [one["points"] is None for one in found.to_dicts()] == [True] * 4 + [False]
    assert (found.confidence is not None) == refine
    if found.confidence is not None:
        assert (found.confidence[:4] == 0).all()
    of_outside = replace(found, points=found.points[:4], crops=found.crops[:4])
    drawn = draw_landmarks(IMAGE, of_outside)
    np.testing.assert_array_equal(drawn, IMAGE)


def test_boxes_of_another_library(landmarker: FaceLandmarker) -> None:
    torch = pytest.importorskip("torch")
    boxes = torch.tensor([[10.0, 5, 80, 85]])
    expected = landmarker(IMAGE, boxes.numpy()).points
    np.testing.assert_array_equal(landmarker(IMAGE, boxes).points, expected)
    with pytest.raises(ShapeError, match=r"got Tensor: .*requires grad"):
        landmarker(IMAGE, boxes.requires_grad_())


def test_wrong_arguments_are_named(landmarker: FaceLandmarker) -> None:
    with pytest.raises(ImageError):
        landmarker(IMAGE[:, :, :2])
    with pytest.raises(ShapeError, match="1 images and 2 times boxes"):
        landmarker.batch([IMAGE], [[0, 0, 5, 5], [0, 0, 5, 5]])
    with pytest.raises(OptionError, match="margin"):
        FaceLandmarker(landmarker.model, margin=0)
    with pytest.raises(OptionError, match="channel_order"):
        FaceLandmarker(landmarker.model, channel_order="gbr")
    with pytest.raises(
        OptionError, match="FaceLandmarker has no argument margn; did you mean margin"
    ):
        cast(Any, FaceLandmarker)(landmarker.model, margn=1.2)
    tinynet = refnet.load("tinynet", random_weights(refnet.build("tinynet")))
    with pytest.raises(OptionError, match="tinynet finds no landmarks"):
        FaceLandmarker(tinynet)


def test_an_export_with_branches_is_said_to_need_them_merged(tmp_path: Path) -> None:
    """As `torch.onnx.export` leaves a GhostOne: convolutions and their norms are one, under numbers for names."""
    onnx = pytest.importorskip("onnx")
    from refnet.exchange.onnx_export import to_onnx

    graph = refnet.build("pfld-ghostone", form="training", width=0.25)
    model = onnx.load_from_string(to_onnx(graph, random_weights(graph), fold_first=False))
    names = {
        tensor.name: f"onnx::Conv_{i}"
        for i, tensor in enumerate(model.graph.initializer)
        if ".rbr_skip." not in tensor.name
    }
    names |= {"landmarks": "output"}
    for named in (*model.graph.initializer, *model.graph.output):
        named.name = names.get(named.name, named.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    path = tmp_path / "unmerged.onnx"
    onnx.save(model, str(path))
    with pytest.raises(
        OptionError, match=r"finds no landmarks; it has .*: merge them before the ex"
    ):
        FaceLandmarker(path)


def test_drawing_leaves_the_image_and_marks_the_points(landmarker: FaceLandmarker) -> None:
    before = IMAGE.copy()
    big = np.zeros((900, 1200, 3), np.uint8)
    points = np.random.default_rng(1).uniform(50, 850, (1, 98, 2)).astype(np.float32)
    landmarks = refnet.Landmarks(points, np.array([[0, 0, 900, 900.0]]), np.array([[0, 0, 900]]))
    drawn = draw_landmarks(big, landmarks)
    assert not big.any()
    for x, y in points[0]:
        assert drawn[round(float(y)), round(float(x))].min() > 200  # a white dot on every point
    boxed = draw_boxes(IMAGE, np.array([[10, 10, 60, 60.0], [-50, -50, 400, 400]]), ["face 0.99"])
    assert (boxed != IMAGE).any()
    np.testing.assert_array_equal(IMAGE, before)


def test_points_far_outside_draw_nothing(landmarker: FaceLandmarker) -> None:
    """Points that left the image by far draw nothing and overflow nothing."""
    points = np.full((1, 98, 2), 1e12, np.float32)
    landmarks = refnet.Landmarks(points, np.zeros((1, 4)), np.array([[0, 0, 50]]))
    np.testing.assert_array_equal(draw_landmarks(IMAGE, landmarks), IMAGE)
