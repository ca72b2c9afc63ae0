"""The face detector's recipe: crops keep boxes on their faces, cells learn what they should, runs resume."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.passes import fold
from refnet.training.evaluation import ClassResults

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from weights.recipes import faces  # noqa: E402
from weights.recipes.face_crops import (  # noqa: E402
    BATCHES,
    SMALLEST,
    Batches,
    Crops,
    damaged,
    texture,
)
from weights.recipes.face_figures import figures, score_of  # noqa: E402
from weights.recipes.face_hints import OWN, TEACHERS, Hints, Teacher  # noqa: E402
from weights.recipes.face_loss import (  # noqa: E402
    EDGE,
    Cells,
    assigned,
    decoded,
    detection_loss,
    diou,
    iou,
    worth,
)
from weights.recipes.face_photos import Photo, photos, scores_of, store, unlabelled  # noqa: E402
from weights.recipes.release import SECTIONS  # noqa: E402
from weights.recipes.training import read_log  # noqa: E402

STRIDES, RANGES = (8, 16), ((6.0, 44.0), (26.0, 112.0))


def square(side: int, x: int, y: int, kind: str = "faces") -> Photo:
    """A dark photo with one bright square for a face, its corners for four of the five points."""
    image = np.full((200, 240, 3), 40, np.uint8)
    image[y : y + side, x : x + side] = 250
    box = np.array([[x, y, x + side, y + side]], np.float32)
    corners = np.array([[0, 0], [1, 0], [0.5, 0.5], [0, 1], [1, 1]], np.float32)
    points = (corners * side + (x, y)).astype(np.float32)[None]
    return Photo(image, box, np.zeros(1, bool), points, kind)


def empty() -> Photo:
    nothing = np.zeros((0, 4), np.float32)
    image = np.full((160, 200, 3), 90, np.uint8)
    return Photo(image, nothing, np.zeros(0, bool), np.zeros((0, 5, 2), np.float32), "empty")


def known_photos() -> list[Photo]:
    kinds = ("faces", "masks", "occluded")
    some = [square(20 + 7 * i, 20 + 2 * i, 30, kinds[i % 3]) for i in range(15)]
    return [*some, empty()]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_of_crops_lie_on_the_faces(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights.recipes.face_crops.damaged", lambda rng, image: image)
    monkeypatch.setattr(Crops, "_covered", lambda self, rng, image, faces: image)
    monkeypatch.setattr(Crops, "_veiled", lambda self, rng, image: image)
    crop = Crops(known_photos()).crop(np.random.default_rng(seed), 256)
    assert crop.image.shape == (256, 256, 3)
    assert crop.boxes.shape == (len(crop.ignored), 4)
    assert crop.points.shape == (len(crop.ignored), 5, 2)
    assert ((crop.boxes >= 0) & (crop.boxes <= 256)).all()
    for box, ignored in zip(crop.boxes, crop.ignored, strict=True):
        side = float((box[2:] - box[:2]).max())
        assert ignored or side >= SMALLEST
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        if not ignored and side > 12:
            assert crop.image[y - 1 : y + 2, x - 1 : x + 2].min() > 200


@pytest.mark.parametrize("seed", range(20))
def test_points_move_with_their_face_and_keep_their_sides(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weights.recipes.face_crops.damaged", lambda rng, image: image)
    rng = np.random.default_rng(seed)
    crop = Crops([square(60, 80, 70)])._single(rng, 256)
    for box, points in zip(crop.boxes, crop.points, strict=True):
        if not np.isfinite(points).all():
            continue
        assert (points[2] > box[:2] - 1).all()
        assert (points[2] < box[2:] + 1).all()
        # Mirroring exchanges left and right: the first eye stays left of the second.
        assert (points[1, 0] > points[0, 0]) or abs(points[1, 1] - points[0, 1]) > 5


def test_the_same_step_draws_the_same_batch(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    assert store(data, tmp_path / "photos") == 7
    both = [next(iter(Batches(tmp_path / "photos", 3, first))) for first in (4, 4, 5)]
    torch.testing.assert_close(both[0][0], both[1][0])
    assert both[0][0].shape != both[2][0].shape or not torch.equal(both[0][0], both[2][0])
    assert tuple(both[0][0].shape[:3:2]) in {(count, side) for (side, count), _ in BATCHES}


def write_data(data: Path) -> Path:
    """Photos in the layouts that the recipe reads."""
    folder = data / "train" / "wider_val"
    (folder / "images").mkdir(parents=True)
    with open(folder / "boxes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            [
                "image",
                "width",
                "height",
                "x1",
                "y1",
                "x2",
                "y2",
                "blur",
                "occlusion",
                "pose",
                "invalid",
            ]
        )
        for i in range(4):
            photo = square(40 + 10 * i, 30, 20)
            cv2.imwrite(str(folder / "images" / f"{i}.png"), photo.image)
            table.writerow([f"{i}.png", 240, 200, *photo.boxes[0], 0, 0, 0, int(i == 3)])
    folder = data / "train" / "negatives"
    (folder / "images").mkdir(parents=True)
    (folder / "list.csv").write_text("image,kind\na.png,hand\nb.png,coin\n")
    for name in "ab":
        cv2.imwrite(str(folder / "images" / f"{name}.png"), empty().image)
    folder = data / "train" / "coco256"
    (folder / "labels_yolo").mkdir(parents=True)
    (folder / "train2017").mkdir()
    for name, label in (("bench", "13 .5 .5 .1 .1"), ("person", "0 .5 .5 .1 .1")):
        (folder / "labels_yolo" / f"{name}.txt").write_text(label + "\n")
        cv2.imwrite(str(folder / "train2017" / f"{name}.png"), empty().image)
    return data


def test_photos_are_stored_with_their_boxes_and_what_to_ignore(tmp_path: Path) -> None:
    assert store(write_data(tmp_path / "data"), tmp_path / "photos") == 7
    stored = photos(tmp_path / "photos")
    assert [photo.kind for photo in stored] == ["faces"] * 4 + ["empty"] * 3
    np.testing.assert_array_equal(stored[1].boxes, [[30, 20, 80, 70]])
    np.testing.assert_array_equal(stored[1].image, square(50, 30, 20).image)
    assert [bool(photo.ignored.any()) for photo in stored] == [False] * 3 + [True] + [False] * 3
    assert all(np.isnan(photo.points).all() for photo in stored)


@pytest.mark.parametrize("seed", range(20))
def test_damage_moves_nothing(seed: int) -> None:
    image = np.full((96, 96, 3), 20, np.uint8)
    image[30:60, 40:80] = 220
    seen = damaged(np.random.default_rng(seed), image)
    assert seen.shape == image.shape
    assert seen.dtype == np.uint8
    assert seen[36:54, 46:74].mean() > seen[72:, :30].mean() + 20


def test_the_threshold_is_where_the_asked_share_of_boxes_is_right() -> None:
    """Of the boxes by falling score right, right, wrong, right, wrong: three of four are right at the fourth."""
    right, wrong = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    boxes = np.array([right, right, wrong, right, wrong])
    found = [(boxes[i : i + 1], np.array([0.9 - 0.1 * i])) for i in range(5)]
    truths = [np.array([right])] * 5
    own = ClassResults("face", found, truths, [np.zeros(1, bool)] * 5)
    assert score_of(own, 0.75) == pytest.approx(0.6)
    assert score_of(own, 0.8) == pytest.approx(0.8)
    assert figures(own, 0.65)["precision at the default threshold"] == pytest.approx(2 / 3)


def cells() -> Cells:
    return Cells.of([torch.zeros(1, 15, 16, 16), torch.zeros(1, 15, 8, 8)], STRIDES, RANGES)


def test_cells_learn_faces_of_their_branch_near_the_centre() -> None:
    grid = cells()
    faces = torch.tensor([[20.0, 20, 40, 40], [30, 50, 110, 125]])
    boxes = torch.cat([grid.centres - 12, grid.centres + 12], 1)
    nothing = torch.zeros(2, dtype=torch.bool)
    cell, face, weight = assigned(torch.zeros(len(boxes)), boxes, grid, faces, nothing)
    assert set(face.tolist()) == {0, 1}
    assert (grid.strides[cell[face == 0]] == 8).all()
    assert (grid.strides[cell[face == 1]] == 16).all()
    middle = (faces[face, :2] + faces[face, 2:]) / 2
    reach = torch.maximum(1.5 * grid.strides[cell], 0.25 * torch.tensor([20.0, 80.0])[face])
    assert ((grid.centres[cell] - middle).abs().amax(1) < reach).all()
    assert len(set(cell.tolist())) == len(cell)
    assert (weight == 1).all()


def test_ignored_faces_are_neither_learned_nor_background() -> None:
    grid = cells()
    faces = torch.tensor([[20.0, 20, 60, 60]])
    boxes = torch.cat([grid.centres - 9, grid.centres + 9], 1)
    ignored = torch.ones(1, dtype=torch.bool)
    cell, _, weight = assigned(torch.zeros(len(boxes)), boxes, grid, faces, ignored)
    assert not len(cell)
    inside = ((grid.centres > 20) & (grid.centres < 60)).all(1)
    torch.testing.assert_close(weight, 1 - inside.float())


def test_a_face_smaller_than_a_cell_is_learned_by_the_nearest_cell() -> None:
    grid = cells()
    faces = torch.tensor([[32.5, 32.5, 39.0, 39.0]])  # between the centres at 28, 36 and 44
    boxes = torch.cat([grid.centres - 4, grid.centres + 4], 1)
    cell, _, _ = assigned(torch.zeros(len(boxes)), boxes, grid, faces, torch.zeros(1).bool())
    assert grid.centres[cell].tolist() == [[36.0, 36.0]]


def perfect(faces: Any, points: Any) -> list[Any]:
    """Maps whose every cell predicts the first face exactly and says so."""
    maps = []
    for stride, count in zip(STRIDES, (16, 8), strict=True):
        centres = (torch.arange(count) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        edges = torch.stack([x - faces[0, 0], y - faces[0, 1], faces[0, 2] - x, faces[0, 3] - y])
        numbers = torch.log(torch.expm1((edges / (EDGE * stride)).clamp(1e-3)))
        steps = [((p - c) / stride) for own in points for p, c in zip(own, (x, y), strict=True)]
        maps.append(
            torch.cat([torch.full((1, count, count), 8.0), numbers, torch.stack(steps)])[None]
        )
    return maps


def test_decoding_inverts_the_encoding_and_a_perfect_box_costs_nothing() -> None:
    faces = torch.tensor([[18.0, 22.0, 48.0, 51.0]])
    points = torch.rand(5, 2) * 30 + 20
    maps, grid = perfect(faces, points), cells()
    _, boxes, found = decoded(maps, grid)
    inside = ((grid.centres > faces[0, :2] + 1) & (grid.centres < faces[0, 2:] - 1)).all(1)
    torch.testing.assert_close(
        boxes[0, inside], faces.expand(int(inside.sum()), 4), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        found[0, inside], points.expand(int(inside.sum()), 5, 2), atol=1e-3, rtol=0
    )
    image = (faces, torch.zeros(1, dtype=torch.bool), points[None])
    score, box, point = detection_loss(maps, grid, [image])
    assert float(box) < 1e-3
    assert float(point) < 1e-4
    assert float(score) > 1  # every other cell claims a face as well


def test_losses_without_any_face_push_all_scores_down() -> None:
    maps = [torch.zeros(1, 15, 16, 16, requires_grad=True), torch.zeros(1, 15, 8, 8)]
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 5, 2))
    score, box, point = detection_loss(maps, cells(), [nothing])
    total: Any = score + box + point
    total.backward()
    gradient = maps[0].grad
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1:] == 0).all()
    assert float(box.detach()) == float(point.detach()) == 0


def test_overlaps_and_distance_are_the_papers() -> None:
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10]])
    assert float(iou(a, b)) == pytest.approx(50 / 150, abs=1e-6)
    hull = 15**2 + 10**2
    assert float(diou(a, b)) == pytest.approx(1 - 50 / 150 + 25 / hull, abs=1e-6)


def test_a_tiny_run_is_cut_off_goes_on_and_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weights.recipes.face_crops.BATCHES", (((128, 2), 1.0),))
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    shutil.copytree(data / "train" / "wider_val", data / "validation" / "wider_val")
    call = [
        "--data",
        str(data),
        "--out",
        str(out),
        "--width",
        "0.25",
        "--steps",
        "3",
        "--seed",
        "3",
    ]
    assert faces.main([*call, "--minutes", "0"]) == 0
    assert not (out / "result.json").exists()
    monkeypatch.setattr("weights.recipes.faces.score_of", lambda own, precision: 0.4)
    assert faces.main([*call, "--report", "2"]) == 0
    assert [line["step"] for line in read_log(out)] == [2, 3]
    model = refnet.load(out / "lffd-light.safetensors")
    assert model.graph.options["form"] == "inference"
    card = (out / "lffd-light.md").read_text()
    assert "| recall at the default threshold |" in card
    assert all(f"## {name}" in card for name in SECTIONS)
    trained = refnet.load(out / "trained.safetensors", backend="numpy")
    _, folded = fold(trained.graph, dict(trained.weights))
    for name in model.graph.outputs:  # every score lower, so that 0.5 means what 0.4 did
        bias = model.graph.node[name].parameters["bias"]
        folded[bias] = folded[bias] - np.log(0.4 / 0.6) * (np.arange(15) == 0)
    half = 2.0**-11  # of a float16's last place; biases stay float32
    for name, tensor in model.weights.items():
        exact = 1e-6 if tensor.ndim == 1 else half
        np.testing.assert_allclose(tensor, folded[name], rtol=exact, atol=2.0**-25)


@pytest.mark.parametrize("seed", range(10))
def test_a_reflection_shows_a_photo_without_faces_and_leaves_the_crop_to_be_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = Crops([square(60, 60, 60), empty()])._veiled(rng, image)
    share = (seen.astype(float) - image) / np.where(image == 90, np.nan, 90.0 - image)
    middle = np.nanmedian(share)  # of a photo of one gray, 90
    assert 0.04 < middle < 0.36
    np.testing.assert_allclose(seen, image * (1 - middle) + 90 * middle, atol=4)


def test_calm_crops_are_single_and_seldom_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a mosaic")

    seen = []

    def damage(rng: np.random.Generator, image: Any) -> Any:
        seen.append(1)
        return image

    monkeypatch.setattr(Crops, "_mosaic", never)
    monkeypatch.setattr("weights.recipes.face_crops.damaged", damage)
    monkeypatch.setattr("weights.recipes.face_crops.BATCHES", (((128, 40), 1.0),))
    crops = Crops([square(60, 60, 60), empty()])
    assert len(crops.batch(np.random.default_rng(0), calm=True)) == 40
    assert 4 <= len(seen) <= 26  # 14 are expected
    with pytest.raises(AssertionError, match="mosaic"):
        crops.batch(np.random.default_rng(0))


def test_faces_that_nobody_labelled_are_those_that_touch_no_box() -> None:
    boxes = np.array([[10, 10, 50, 50]], np.float32)
    found = np.array(
        [[12, 12, 48, 52], [60, 10, 90, 40], [20, 20, 30, 30], [45, 45, 85, 85]], float
    )
    np.testing.assert_array_equal(unlabelled(found, boxes), found[[1, 3]])
    np.testing.assert_array_equal(unlabelled(found, boxes[:0]), found)
    assert unlabelled(found[:0], boxes).shape == (0, 4)


@pytest.mark.parametrize("seed", range(30))
def test_textures_are_images_of_any_look(seed: int) -> None:
    image = texture(np.random.default_rng(seed), 96)
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    assert image.std() > 1


def test_some_crops_without_faces_are_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.full((64, 64, 3), 7, np.uint8)
    monkeypatch.setattr("weights.recipes.face_crops.texture", lambda rng, side: drawn)
    crops, rng = Crops([empty()]), np.random.default_rng(0)
    crops.calm = True
    own = [crops._single(rng, 64) for _ in range(200)]
    assert 20 < sum(bool((crop.image == 7).all()) for crop in own) < 90
    assert all(len(crop.boxes) == len(crop.ignored) == len(crop.points) == 0 for crop in own)


def test_what_a_box_is_worth_rises_with_its_overlap_and_is_whole_well_before_1() -> None:
    overlap = torch.tensor([0.0, 0.2, 0.425, 0.65, 0.9])
    torch.testing.assert_close(worth(overlap), torch.tensor([0.1, 0.1, 0.5, 1.0, 1.0]))


def test_hints_are_maps_of_any_scale_that_a_student_can_learn_by_any_linear_way() -> None:
    """A student whose maps are a mixture of the teacher's, of other size, soon has nothing left to learn."""
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(8, 4, generator=generator)
    hints, errors = Hints(8, [4], torch.device("cpu")), []
    for group in hints.optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(300):
        seen = torch.randn(2, 4, 5, 6, generator=generator)
        taught = seen * torch.tensor([0.01, 1, 10, 100])[:, None, None] + 3
        own = torch.einsum("oc,nchw->nohw", mixture, seen).requires_grad_()
        error = hints.error([own], [taught])
        error.backward()  # type: ignore[no-untyped-call]
        errors.append(float(error.detach()))
    assert errors[0] > 0.5 and np.mean(errors[-20:]) < 0.05
    assert own.grad is not None and float(own.grad.abs().max()) > 0


def test_the_teachers_maps_are_those_at_the_students_strides(assets: Path) -> None:
    shapes = refnet.build("lffd-light", input_size=(256, 256)).shapes()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    for name in TEACHERS:
        teacher = Teacher(assets / "detectors" / name)
        found = teacher(pixels)
        assert [m.shape[1] for m in found] == teacher.channels
        assert [tuple(m.shape[2:]) for m in found] == [shapes[own][1:] for own in OWN]


def test_a_face_is_scored_by_what_shows_it_at_either_size() -> None:
    """The second only in the enlarged photo, where everything has twice the size; the third nowhere."""
    boxes = np.array([[10, 10, 40, 40], [50, 10, 70, 30], [80, 80, 99, 99]], np.float32)
    seen: Any = SimpleNamespace(boxes=boxes[:1] + 2, scores=np.array([0.4], np.float32))
    asked: list[tuple[int, ...]] = []

    def finder(image: Any) -> Any:
        asked.append(image.shape)
        larger = np.concatenate([2 * boxes[:2], 2 * boxes[:1]])
        return SimpleNamespace(boxes=larger, scores=np.array([0.3, 0.6, 0.2], np.float32))

    found: Any = finder
    image = np.zeros((100, 120, 3), np.uint8)
    np.testing.assert_allclose(scores_of(found, image, seen, boxes), [0.4, 0.6, 0])
    assert asked == [(200, 240, 3)]
    large = np.array([[0, 0, 90, 90]], np.float32)  # is clear enough as it is
    assert scores_of(found, image, seen, large).tolist() == [0] and len(asked) == 1
