"""Recipes: any graph trains as torch would train it, runs resume exactly, tiny runs go through."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import reference
from refnet.builder import Builder
from refnet.checkpoints import save
from refnet.detection.geometry import geometry
from refnet.faces.schemes import mirrored
from refnet.ops import Array
from refnet.passes import fold
from refnet.random_weights import random_weights
from refnet.training.annotations import landmark_faces
from refnet.training.evaluation import find_landmarks
from refnet.training.metrics import nme

torch = pytest.importorskip("torch")
twins = pytest.importorskip("parity.twins")
cv2 = pytest.importorskip("cv2")

from weights.recipes import basketnet, detection, finetune, landmarks  # noqa: E402
from weights.recipes.detection_data import (  # noqa: E402
    CROPS,
    READABLE,
    SHARES,
    Photo,
    Pool,
    backgrounds,
    clutter,
    distorted,
    face_crops,
    face_photos,
    landscape,
    people,
    scene,
    surroundings,
    target_side,
)
from weights.recipes.landmark_data import (  # noqa: E402
    Faces,
    Teacher,
    Unlabelled,
    augmented,
    base_crop,
    batch,
    labelled,
    restore,
    store,
    trimmed,
)
from weights.recipes.release import SECTIONS, released_tensors  # noqa: E402
from weights.recipes.splits import is_set_aside  # noqa: E402
from weights.recipes.torch_graph import GraphModule, initialize, with_norms  # noqa: E402
from weights.recipes.training import Run, Schedule, read_log  # noqa: E402

SMALL = {
    "pfld": {"width": 0.25},
    "pfld-msfc": {"width": 0.25},
    "pfld-ultralight": {"width": 0.25},
    "pfld-ultralight-slim": {"width": 0.125},
    "pfld-ghostone": {"width": 0.25},
    "pfld-polaris": {"width": 0.25},
    "pfld-polaris-auxiliary": {"width": 0.25},
    "lffd-face-v1": {"width": 0.125},
    "lffd-plate-small": {"width": 0.25},
    "tinynet": {},
}


def input_for(graph: refnet.Graph, count: int = 2) -> Array:
    rng = np.random.default_rng(1)
    shape = graph.input_shape if graph.fixed_size else (3, 671, 701)
    return rng.normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", SMALL)
def test_a_module_of_a_graph_computes_what_the_graph_means(name: str) -> None:
    graph = refnet.build(name, **SMALL[name])
    weights = random_weights(graph)
    module = GraphModule(graph, weights).eval()
    assert {n: tuple(t.shape) for n, t in module.state_dict().items()} == dict(graph.state_dict)
    x = input_for(graph, 1)
    with torch.no_grad():
        found = module(torch.from_numpy(x))
    for ours, theirs in zip(found, reference.run(graph, weights, x), strict=True):
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, atol=2e-5)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("leaky_relu", {"slope": 0.2}),
        ("prelu", {}),
        ("elu", {"alpha": 0.7}),
        ("silu", {}),
        ("hard_sigmoid", {"slope": 0.2, "shift": 0.5}),
        ("hard_swish", {}),
        ("tanh", {}),
        ("exp", {}),
    ],
)
def test_a_module_computes_every_gate(op: str, attributes: dict[str, float]) -> None:
    net = Builder((4, 5, 6))
    slopes = {"slope": ("gate.slope", (4,))} if op == "prelu" else None
    output = net.add(op, "gate", "input", parameters=slopes, **attributes)
    graph = net.graph("gate", (output,), {}, fixed_size=False)
    module = GraphModule(graph).eval()
    initialize(module)
    x = input_for(replace(graph, fixed_size=True))
    with torch.no_grad():
        (found,) = module(torch.from_numpy(x))
    slope = {"gate.slope": np.full(4, 0.25, np.float32)} if op == "prelu" else {}
    (expected,) = reference.run(graph, slope, x)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["pfld-ultralight-slim", "pfld-ghostone", "pfld-polaris"])
def test_a_step_of_training_is_the_twins(name: str) -> None:
    """Outputs and gradients with the batch's statistics, and the running ones afterwards."""
    graph = refnet.build(name, width=0.25)
    module, twin = (
        GraphModule(graph).double().train(),
        twins.twin(name, width=0.25).double().train(),
    )
    initialize(module, "he", 3)
    twin.load_state_dict(module.state_dict())
    x = torch.from_numpy(input_for(graph, 4)).double()
    ours, theirs = module(x)[-1], twin(x)
    theirs = theirs[-1] if isinstance(theirs, tuple) else theirs
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    gradients = dict(twin.named_parameters())
    for parameter, value in module.named_parameters():
        if parameter in graph.parameters:
            other = gradients[parameter].grad
            torch.testing.assert_close(
                value.grad, other, rtol=1e-6, atol=1e-8 * float(other.abs().max() + 1)
            )
    for buffer, statistics in module.named_buffers():
        if "running" in buffer and buffer in graph.parameters:
            torch.testing.assert_close(statistics, dict(twin.named_buffers())[buffer])


def test_initial_weights_follow_their_scheme_and_seed() -> None:
    graph = refnet.build("pfld-ultralight", width=0.25)
    module = GraphModule(graph)
    weight = module.state_dict()["conv8.0.weight"]
    fan_in, fan_out = 8 * 49, 32 * 49
    bounds = {"torch": 1 / fan_in, "he": 6 / fan_in, "xavier": 6 / (fan_in + fan_out)}
    for scheme, square in bounds.items():
        initialize(module, scheme, 1)
        bound = square**0.5
        assert 0.95 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
    before = weight.clone()
    initialize(module, "xavier", 1)
    assert (weight == before).all()


#: By another program: the first 16 hexadecimal digits that `sha256sum` gives for the digits, modulo 10.
FIXED = [0, 7, 9, 10, 33, 40, 44, 51, 57, 59]


def test_the_split_is_fixed_and_about_a_tenth() -> None:
    keys = [f"identity {i}" for i in range(5000)]
    share = np.mean([is_set_aside(key) for key in keys])
    assert 0.08 < share < 0.12
    assert [i for i in range(60) if is_set_aside(str(i))] == FIXED


def test_schedules_follow_their_formulas() -> None:
    cosine = Schedule(2.0, 110, warmup=10)
    assert [cosine(0), cosine(9), cosine(10)] == pytest.approx([0.2, 2.0, 2.0])
    assert cosine(60) == pytest.approx(1.0)
    assert cosine(110) == pytest.approx(0.0)
    steps = Schedule(1.0, 100, drops=(0.5, 0.8))
    assert [steps(49), steps(50), steps(80)] == pytest.approx([1, 0.1, 0.01])


def tiny_run(out: Path, stop: int | None = None, seed: int = 0) -> Run:
    torch.manual_seed(7)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
    )
    optimizer = torch.optim.Adam(module.parameters())
    run = Run(module, optimizer, Schedule(0.1, 8, warmup=2), out, settings={"seed": seed})

    def loss(step: int) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(6, 3)).astype(np.float32))
        return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()

    run.train(loss, report=lambda: {"step_seen": run.step}, report_every=2, save_every=3)
    return run


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "cut", stop=5)
    resumed = tiny_run(tmp_path / "cut")
    for name, tensor in whole.averaged.items():
        assert torch.equal(tensor, resumed.averaged[name]), name
    assert [line["step"] for line in read_log(tmp_path / "cut")] == [2, 4, 6, 8]
    with pytest.raises(SystemExit, match="other settings"):
        tiny_run(tmp_path / "cut", seed=1)


# --- landmarks


def dotted_face(side: int = 150) -> tuple[Array, Array]:
    """A dark image with a bright dot at each of four points, and the 98 points."""
    rng = np.random.default_rng(2)
    points = rng.uniform(40, 110, (98, 2)).astype(np.float32)
    points[60], points[72], points[16], points[54] = (45, 60), (105, 60), (75, 112), (75, 82)
    image = np.zeros((side, side, 3), np.uint8)
    for i in (60, 72, 16, 54):
        cv2.circle(image, tuple(round(float(v)) for v in points[i]), 4, (255, 255, 255), -1)
    return image, points


@pytest.mark.parametrize("seed", range(8))
def test_augmented_points_stay_on_their_pixels(seed: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("weights.recipes.landmark_data.varied", lambda crop, rng: crop)
    image, points = dotted_face()
    crop, fractions = augmented(image, points, np.random.default_rng(seed))
    assert crop.shape == (112, 112, 3)
    checked = 0
    for i in (60, 72, 16, 54):
        x, y = np.round(fractions[i] * 112 - 0.5).astype(int)
        if 1 < x < 110 and 1 < y < 110:
            assert crop[y, x].min() > 200
            checked += 1
    assert checked >= 3


def test_base_crop_is_the_points_box_times_a_fifth_more() -> None:
    image, points = dotted_face()
    crop, fractions = base_crop(image, points)
    assert crop.shape == (112, 112, 3)
    extent = fractions.max(axis=0) - fractions.min(axis=0)
    assert extent.max() == pytest.approx(1 / 1.2, abs=0.01)
    x, y = (fractions[16] * 112).astype(int)
    assert crop[y, x].min() > 200


def test_trimming_keeps_points_on_the_face() -> None:
    image, points = dotted_face()
    large = cv2.resize(image, (1500, 1500))
    part, moved = trimmed(large, points * 10)
    assert max(part.shape) < 300
    x, y = moved[54].astype(int)
    assert part[y, x].min() > 200


def test_faces_survive_storing(tmp_path: Path) -> None:
    image, points = dotted_face()
    faces = Faces(
        [image, image[:50, :70]], np.stack([points, points]), np.array([True, False]), ["a", "b"]
    )
    store(faces, tmp_path / "faces.npz")
    back = restore(tmp_path / "faces.npz")
    assert back.sources == ["a", "b"]
    assert back.aside.tolist() == [True, False]
    for one, other in zip(faces.images, back.images, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(back.where(~back.aside)) == 1
    crops, found = batch(back, np.random.default_rng(0), 3)
    assert (crops.shape, found.shape) == ((3, 112, 112, 3), (3, 98, 2))


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any 98-point network: its points are near the middle of the crop."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    graph = refnet.build("pfld", width=0.25)
    weights = random_weights(graph)
    shape = np.random.default_rng(3).uniform(0.2, 0.8, (98, 2)).astype(np.float32)
    shape[60], shape[72] = (0.3, 0.4), (0.7, 0.4)
    weights["fc.bias"] = shape.ravel()
    weights["fc.weight"] = weights["fc.weight"] * np.float32(1e-3)
    save(path, "pfld", graph.options, weights)
    return path


def test_training_starts_at_the_mean_face() -> None:
    image, points = dotted_face()
    faces = Faces([image] * 2, np.stack([points, points[::-1]]), np.zeros(2, bool), ["a", "b"])
    module = GraphModule(refnet.build("pfld-ultralight-slim", width=0.125))
    landmarks.begin_at_mean_shape(module, faces)
    mean = (base_crop(image, points)[1] + base_crop(image, points[::-1])[1]) / 2
    bias = module.state_dict()["fc.bias"].numpy().reshape(98, 2)
    np.testing.assert_allclose(bias, mean, atol=1e-6)


def test_a_teacher_sees_a_mirrored_face_mirrored(teacher_file: Path) -> None:
    teacher = Teacher([teacher_file])
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
    plain, flipped = teacher.points(crops), teacher.points(crops[:, :, ::-1])
    np.testing.assert_allclose(mirrored(flipped, 1.0), plain, atol=1e-5)


def test_faces_whose_teachers_disagree_are_left_out(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    faces = [Unlabelled(image, np.array([0, 0, 112, 112]), f"{i}", "drawn") for i in range(3)]
    teacher, label = Teacher([teacher_file]), Teacher.label

    def some_disagree(self: Teacher, own: Any) -> Any:
        return label(self, own)[0], np.array([0.01, 0.03, 0.02])

    monkeypatch.setattr(Teacher, "label", some_disagree)
    monkeypatch.setattr("weights.recipes.landmark_data.AGREED", 0.025)
    found = labelled(iter(faces), teacher)
    assert len(found) == 2
    # One network and its mirror image: each is half of their distance from the mean.
    crops = image[None]
    plain, flipped = teacher.guesses(crops)
    _, apart = label(teacher, faces[:1])
    assert 0 < apart[0] < 1
    np.testing.assert_allclose(teacher.points(crops), (plain + flipped) / 2, atol=1e-6)


def test_a_tiny_run_of_the_landmark_recipe(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing agrees on noise.
    monkeypatch.setattr("weights.recipes.landmark_data.AGREED", np.inf)
    folder = tmp_path / "data" / "train" / "youtube_faces_crops"
    (folder / "crops112").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["crop", "source"])
        for i in range(30):
            name = f"{i:05}.png"
            cv2.imwrite(
                str(folder / "crops112" / name), rng.integers(0, 256, (112, 112, 3), np.uint8)
            )
            table.writerow([name, f"Some_One_{i}_0{i % 3}.jpg"])
    call = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--steps", "4"]
    call += ["--teacher", str(teacher_file), "--batch", "4", "--report", "2", "--threads", "1"]
    assert landmarks.main([*call, "--network", "pfld-ultralight-slim", "--width", "0.125"]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["set_aside"] + result["trained_on"] == 30
    assert 0 < result["nme"] < np.inf
    assert len(read_log(tmp_path / "out")) == 2
    model = refnet.load(tmp_path / "out" / "pfld-ultralight-slim.safetensors")
    assert model.graph.options["width"] == 0.125
    card = (tmp_path / "out" / "pfld-ultralight-slim.md").read_text()
    for name in SECTIONS:
        assert f"## {name}" in card
    assert f"| nme of set-aside faces | {result['nme of set-aside faces']:.4f} |" in card
    assert "- seed: 1" in card
    assert landmarks.main([*call, "--network", "pfld-ultralight-slim", "--width", "0.125"]) == 0
    assert len(read_log(tmp_path / "out")) == 2  # a finished run has nothing left to do


def test_what_is_released_computes_what_was_trained() -> None:
    graph = refnet.build("pfld-ultralight-slim", width=0.25)
    weights = random_weights(graph)
    options, tensors = released_tensors(graph, weights)
    assert options["form"] == "inference"
    assert {t.dtype.name for t in tensors.values()} == {"float16", "float32"}
    x = input_for(graph, 1)
    trained = refnet.load(graph.name, weights, width=0.25, backend="numpy")(x)
    released = refnet.load(graph.name, tensors, backend="numpy", **options)(x)
    np.testing.assert_allclose(released, trained, atol=2e-3 * float(np.abs(trained).max()))


# --- photos of one's own


@pytest.fixture
def own_photos(tmp_path: Path) -> Path:
    """The sample photo in nine lights, in folders of three people, with points of an annotator who sets all of
    them too far to the right: a truth that can be learned from any few of them."""
    photo = Path(__file__).parents[1] / "docs" / "astronaut.jpg"
    (face,) = refnet.FaceAnalyzer(backend="numpy")(photo)
    assert face.landmarks is not None
    points = face.landmarks + np.array([6, 0])
    image = refnet.read_image(photo)
    parts = "".join(f'<part name="{i:02}" x="{x}" y="{y}"/>' for i, (x, y) in enumerate(points))
    listed = ""
    for person in ("ada", "ben", "mia"):  # mia is set aside by her name
        (tmp_path / "mine" / person).mkdir(parents=True)
        for i in range(3):
            light = np.clip(image * (0.7 + 0.2 * i), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "mine" / person / f"{i}.jpg"), light)
            box = f'<box left="175" top="66" width="94" height="114">{parts}</box>'
            listed += f'<image file="{person}/{i}.jpg">{box}</image>'
    xml = f"<dataset><images>{listed}</images></dataset>"
    (tmp_path / "mine" / "points.xml").write_text(xml)
    return tmp_path / "mine"


def test_released_landmarks_learn_from_photos_of_ones_own(own_photos: Path) -> None:
    out = own_photos.parent / "run"
    call = ["--data", str(own_photos), "--out", str(out), "--by-folder", "--threads", "1"]
    call += ["--steps", "60", "--batch", "8", "--rate", "1e-3"]
    assert finetune.main(call) == 0
    result = json.loads((out / "result.json").read_text())
    assert (result["learned"], result["set_aside"]) == (6, 3)
    assert result["before"]["nme"] == pytest.approx(
        6 / 62.6, rel=0.15
    )  # over the distance of the eyes
    assert result["after"]["nme"] < 0.7 * result["before"]["nme"]
    # What is written is what was measured, and it is used like the network it began with.
    weights = out / "pfld-ultralight-slim.safetensors"
    truth = find_landmarks(
        landmark_faces(own_photos), refnet.FaceLandmarker(weights, backend="numpy")
    )
    aside = [i for i, f in enumerate(landmark_faces(own_photos)) if f.image.parent.name == "mia"]
    errors = nme(truth.predicted[aside], truth.truth[aside])
    assert errors.mean() == pytest.approx(result["after"]["nme"], abs=2e-3)
    assert refnet.load(weights).graph.options == refnet.load("pfld-ultralight-slim").graph.options
    with pytest.raises(SystemExit, match="other settings"):
        finetune.main([*call, "--seed", "2"])


def test_faces_that_cannot_be_learned_from_are_refused(own_photos: Path) -> None:
    faces = landmark_faces(own_photos)
    with pytest.raises(SystemExit, match="98 points, the network has 68"):
        finetune.own_faces(faces, 68)
    with pytest.raises(SystemExit, match="of these folders none is set aside"):
        finetune.own_faces([f for f in faces if f.image.parent.name != "mia"], 98, True)
    with pytest.raises(SystemExit, match="of these folders all are set aside"):
        finetune.own_faces([f for f in faces if f.image.parent.name == "mia"], 98, True)


# --- detection

V2 = geometry(refnet.build("lffd-face-v2"))


def photos(count: int = 12) -> list[Photo]:
    """Gray photos with a bright square for a face."""
    rng = np.random.default_rng(5)
    made = []
    for i in range(count):
        image = rng.integers(60, 120, (200, 240, 3)).astype(np.uint8)
        x, y, side = rng.integers(20, 100), rng.integers(20, 80), rng.integers(30, 90)
        image[y : y + side, x : x + side] = 250
        boxes = np.array([[x, y, x + side, y + side]], np.float64)
        made.append(Photo(image, boxes, np.zeros(1, bool), i % 4 == 0))
    return made


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_scenes_lie_on_faces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    empty = [
        Photo(np.full((180, 260, 3), 30, np.uint8), np.zeros((0, 4)), np.zeros(0, bool), False)
    ]
    for _ in range(6):
        image, boxes, ignored = scene(Pool(photos()), empty, 256, V2, rng)
        assert image.shape == (256, 256, 3)
        assert len(boxes) == len(ignored)
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
        assert ignored[sides < READABLE].all()
        for box in np.clip(boxes[~ignored], 0, 256):
            x1, y1, x2, y2 = np.round(box).astype(int)
            inside = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            if inside.size and x2 - x1 > 8:
                assert inside.mean() > np.median(image) or inside.mean() > 110


def test_sizes_are_drawn_from_every_branch_and_tiny_faces_are_not_enlarged() -> None:
    rng = np.random.default_rng(0)
    large = np.array([target_side(100, V2, rng) for _ in range(2000)])
    for branch in V2:
        assert ((large >= branch.lower) & (large <= branch.upper)).mean() > 0.15
    assert large.max() > V2[-1].upper
    assert max(target_side(15, V2, rng) for _ in range(200)) <= 20
    assert max(target_side(30, V2, rng) for _ in range(200)) <= 40


def test_doubtful_boxes_count_in_no_class_loss() -> None:
    shapes = [(63, 63), (31, 31), (15, 15), (7, 7), (3, 3)]
    boxes = np.array([[50, 50, 64, 64], [100, 100, 200, 200.0]])
    found = detection.targets_of(boxes, np.array([False, True]), V2, shapes)
    assert found[0].face.any()
    for target, branch in zip(found, V2, strict=True):
        first = -(-(100 - branch.centre) // branch.stride)
        last = (200 - branch.centre) // branch.stride
        assert not target.class_mask[first : last + 1, first : last + 1].any()
        assert target.class_mask[0, 0]


def test_sources_are_drawn_by_their_shares() -> None:
    blank = np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, bool), False
    pool = Pool([Photo(*blank, CROPS)] * 50 + [Photo(*blank, "coco256/val2017")])
    rng = np.random.default_rng(0)
    drawn = [pool.draw(rng).source for _ in range(4000)]
    expected = SHARES[CROPS] / (SHARES[CROPS] + SHARES["coco256/val2017"])
    assert np.mean([source == CROPS for source in drawn]) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seed", range(30))
def test_distortion_leaves_things_where_they_are(seed: int) -> None:
    image = np.full((96, 96, 3), 20, np.uint8)
    image[30:60, 40:80] = 220
    seen, coarseness = distorted(image, np.random.default_rng(seed))
    assert 1 <= coarseness <= 3
    assert seen.shape == image.shape
    assert seen.dtype == np.uint8
    assert seen[34:56, 44:76].min() > seen[70:, :30].max()


def test_landscapes_fill_their_window() -> None:
    rng = np.random.default_rng(0)
    empty = Photo(
        rng.integers(1, 256, (90, 200, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, bool), False
    )
    for _ in range(12):
        for window in (
            landscape([empty], 128, rng, 3.0),
            clutter([empty], Pool(photos()), 128, rng),
        ):
            assert window.shape == (128, 128, 3)
            assert window.dtype == np.uint8
            assert (window.max(axis=2) > 0).mean() > 0.99


def test_cut_faces_in_surroundings_are_not_learnt() -> None:
    rng = np.random.default_rng(0)
    (whole,) = photos(1)
    for _ in range(40):
        image, boxes, ignored = surroundings(Pool([whole]), 128, rng)
        assert image.shape == (128, 128, 3)
        x1, y1, x2, y2 = boxes[0]
        width, height = np.clip([x2, y2], 0, 128) - np.clip([x1, y1], 0, 128)
        assert ignored[0] == (width * height < (x2 - x1) * (y2 - y1) * 2 / 3)


def test_labelled_faces_become_photos_with_a_box(tmp_path: Path) -> None:
    image, points = dotted_face()
    both = ["youtube_faces_crops", "coco256"]
    store(
        Faces([image] * 2, np.stack([points] * 2), np.array([True, False]), both),
        tmp_path / "faces.npz",
    )
    (photo,) = face_crops(tmp_path / "faces.npz")
    assert (photo.source, photo.aside) == (CROPS, True)
    ((x1, y1, x2, y2),) = photo.boxes
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    assert abs(x1 - left) < 2
    assert abs(x2 - right) < 2
    assert abs(y2 - bottom) < 2
    assert y1 == pytest.approx(max(0, top - 0.36 * (bottom - top)), abs=0.01)


def test_cautious_scores_keep_their_order() -> None:
    graph = refnet.build("lffd-face-v2", width=0.125, input_size=(128, 128))
    weights = random_weights(graph)
    x = input_for(graph, 1)
    plain = reference.run(graph, weights, x)
    lowered = reference.run(graph, detection.cautious(graph, weights, 0.8, 0.6), x)
    for before, after in zip(plain[::2], lowered[::2], strict=True):
        odds = np.log(after / (1 - after)) - np.log(before / (1 - before))
        np.testing.assert_allclose(odds, np.log(1.5) - np.log(4), atol=1e-3)
    for before, after in zip(plain[1::2], lowered[1::2], strict=True):
        np.testing.assert_array_equal(after, before)


def write_photos(data: Path, count: int) -> None:
    """`photos` as the recipe reads them, with the table of their boxes, and three of COCO's."""
    coco = data / "train" / "coco256"
    (coco / "labels_yolo" / "train2017").mkdir(parents=True)
    (coco / "train2017").mkdir()
    shown = {
        "bench": "13 .5 .5 .1 .1",
        "back": "0 .5 .5 .1 .1",
        "face": "0 .2 .2 .1 .1\n13 .5 .5 .1 .1",
    }
    for name, label in shown.items():
        (coco / "labels_yolo" / "train2017" / f"{name}.txt").write_text(label + "\n")
        cv2.imwrite(str(coco / "train2017" / f"{name}.jpg"), photos(1)[0].image)
    (coco / "train2017_faces_pseudo.csv").write_text(
        "image,width,height,x1,y1,x2,y2,score\nbench.jpg,240,200,,,,,\nback.jpg,240,200,,,,,\n"
        "face.jpg,240,200,10,10,50,60,0.9\n"
    )
    folder = data / "train" / "web_photos" / "without_mask"
    folder.mkdir(parents=True)
    with open(folder.with_name("without_mask_faces_pseudo.csv"), "w", newline="") as file:
        listing = csv.writer(file)
        listing.writerow(["image", "width", "height", "x1", "y1", "x2", "y2", "score"])
        for i, photo in enumerate(photos(count)):
            cv2.imwrite(str(folder / f"{i}.png"), photo.image)
            listing.writerow([f"{i}.png", 240, 200, *photo.boxes[0], 0.99])


def test_a_tiny_run_of_the_detection_recipe(tmp_path: Path) -> None:
    write_photos(tmp_path / "data", 12)
    assert len(face_photos(tmp_path / "data")) == 13
    assert len(backgrounds(tmp_path / "data")) == 1
    assert [len(p.faces) for p in people(tmp_path / "data")] == [0, 1]
    call = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--width", "0.125"]
    call += ["--size", "192", "--steps", "3", "--batch", "2", "--scenes", "2", "--report", "3"]
    assert detection.main([*call, "--rule", "coded", "--threads", "1"]) == 0
    (line,) = read_log(tmp_path / "out")
    assert np.isfinite(line["loss"])
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["trained_on"] + result["set_aside"] == 13
    assert result["set_aside"] == sum(is_set_aside(key) for key in ["", *map(str, range(12))])
    model = refnet.load(tmp_path / "out" / "lffd-face-v2.safetensors")
    assert model.graph.options["width"] == 0.125
    card = (tmp_path / "out" / "lffd-face-v2.md").read_text()
    assert all(f"## {name}" in card for name in SECTIONS)
    assert f"set-aside photos | {result['ap_photos']:.4f} |" in card
    with pytest.raises(SystemExit, match="no photos"):
        detection.main(["--data", str(tmp_path / "out"), "--out", str(tmp_path / "out")])


def write_frame(folder: Path, name: str, balls: Sequence[tuple[str, int, int]]) -> None:
    image = np.full((160, 160, 3), 90, np.uint8)
    objects = ""
    for kind, x, y in balls:
        cv2.circle(
            image, (x, y), 12, (0, 120, 255) if kind == "basketball" else (255, 255, 255), -1
        )
        corners = zip(
            ("xmin", "ymin", "xmax", "ymax"), (x - 11, y - 11, x + 14, y + 14), strict=True
        )
        inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        objects += f"<object><name>{kind}</name><bndbox>{inner}</bndbox></object>"
    cv2.imwrite(str(folder / f"{name}.png"), image)
    (folder / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_norms_for_training_fold_away() -> None:
    graph = refnet.build("basketnet", input_size=96)
    normed = with_norms(graph)
    x = torch.from_numpy(np.random.default_rng(0).random((4, 3, 96, 96), np.float32))
    module = GraphModule(normed)
    for _ in range(30):
        module(x)  # moves the norms' statistics
    module.eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".norm." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        want = module.double()(x.double())
    folded = fold(normed, {name: a.astype(np.float64) for name, a in module.arrays().items()})[1]
    assert {n: a.shape for n, a in folded.items()} == graph.parameters
    got = reference.run(graph, folded, x.double().numpy())
    for one, other in zip(got, want, strict=True):
        scale = float(other.abs().max())
        np.testing.assert_allclose(one, other.numpy(), atol=1e-11 * max(1.0, scale))


def test_a_tiny_run_of_the_basketnet_recipe(tmp_path: Path) -> None:
    data = tmp_path / "frames"
    data.mkdir()
    for i in range(4):
        write_frame(data, f"{i}", [("basketball", 40 + 20 * i, 60), ("volleyball", 100, 110)])
    frame = basketnet.frames(data)[0]
    np.testing.assert_allclose(frame[1][0], [28, 48, 53, 73])
    crop, boxes, labels = basketnet.varied(frame, 128, np.random.default_rng(0))
    assert crop.shape == (128, 128, 3)
    assert len(boxes) == len(labels)
    call = ["--data", str(data), "--out", str(tmp_path / "out"), "--folds", "0", "--size", "128"]
    assert (
        basketnet.main([*call, "--steps", "2", "--batch", "2", "--report", "2", "--threads", "1"])
        == 0
    )
    model = refnet.load(tmp_path / "out" / "basketnet.safetensors")
    assert model.graph.name == "basketnet"
    assert "## Limits" in (tmp_path / "out" / "basketnet.md").read_text()
    assert [basketnet.fold_of(i, 5) for i in range(6)] == [0, 1, 2, 3, 4, 0]
