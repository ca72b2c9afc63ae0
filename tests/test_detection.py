"""Detection: real networks against reference detections, and the properties that decoding must have."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import refnet
import refnet.media.images
from refnet.builder import Builder, Window
from refnet.detection import pyramid
from refnet.detection.basketnet import BasketNetHead, basketnet_priors
from refnet.detection.detections import Candidates, Detections
from refnet.detection.detector import HEADS, Detector, FaceDetector
from refnet.detection.geometry import BranchGeometry, geometry
from refnet.detection.head import HeadSettings
from refnet.detection.lffd import LFFDHead, decode_branch
from refnet.detection.tiling import tiles
from refnet.errors import ImageError, OptionError
from refnet.graph import Graph
from refnet.model import Model
from refnet.networks.defaults import DEFAULTS, DETECTOR, Defaults, Detection, Preprocessing
from refnet.random_weights import random_weights
from tests.detection_networks import box_weights, f32, image_of, median_threshold, seeded

FILES = {
    "head17": ("lffd-head", "head_10_160_17L_4scales_v1_iter_800000"),
    "lp16": ("lffd-plate", "lp_64_512_16L_3scales_v1_iter_1000000"),
    "lp16s": ("lffd-plate-small", "lp_64_512_16L_3scales_v1_small_iter_1000000"),
}
#: Runs of reference_detections.json: of each network, each folder and each scale. The environment
#: variable REFNET_ALL_RUNS=1 runs all 67.
SPREAD = (0, 7, 10, 23, 46, 50, 53, 54, 55, 61, 63, 64, 65, 66)
RUNS = range(67) if os.environ.get("REFNET_ALL_RUNS") else SPREAD

# 0 in the JSON file's four decimals is anything up to half of the last one.
ROUNDING = 0.5e-4


@cache
def runs(assets: Path) -> Any:
    return json.loads((assets / "lffd/reference_detections.json").read_text())["runs"]


@cache
def real(assets: Path, name: str) -> Model:
    network, file = FILES[name]
    return refnet.load(network, assets / f"lffd/weights/{file}.params", backend="numpy")


def detector(assets: Path, run: Any) -> Detector:
    return Detector(
        real(assets, run["model"]),
        threshold=run["score_threshold"],
        nms_threshold=run["nms_threshold"],
        top_k=run["top_k"],
        scales=(run["resize_scale"],),
    )


def lffd(finder: Detector) -> LFFDHead:
    assert isinstance(finder.head, LFFDHead)
    return finder.head


def units_on(shape: tuple[int, int], branches: Sequence[BranchGeometry]) -> list[tuple[int, int]]:
    """The rows and columns of LFFD's maps, whose trunk has no padding where it halves."""
    return [((shape[0] + 1) // b.stride - 1, (shape[1] + 1) // b.stride - 1) for b in branches]


def pixels(assets: Path, run: Any) -> np.ndarray:
    image = refnet.read_image(assets / "lffd" / run["image"])
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    if digest != run["decoded_sha256"]:
        pytest.skip("this OpenCV decodes the JPEG to other pixels than the reference's")
    return image


def box_error(found: Detections, run: Any) -> float:
    """Largest distance of an edge from the reference; infinite where the count differs."""
    expected = np.array(run["boxes"])
    if len(found) != len(expected):
        return float("inf")
    return float(np.abs(found.boxes - expected[:, :4]).max())


@pytest.mark.parametrize("index", RUNS)
def test_equals_the_reference_detections(assets: Path, index: int) -> None:
    run = runs(assets)[index]
    found = detector(assets, run).detect(pixels(assets, run))
    assert box_error(found, run) < 0.01
    scores = np.array(run["boxes"])[:, 4]
    assert np.abs(found.scores - scores).max() < 1e-5 + ROUNDING


@pytest.mark.parametrize(
    ("name", "image"), [("head17", "045346"), ("lp16", "manys"), ("lp16s", "manys")]
)
def test_scores_equal_the_golden_maps(assets: Path, name: str, image: str) -> None:
    """The stored maps, decoded and suppressed, against the detector on the stored pixels."""
    golden = np.load(assets / f"lffd/golden/{name}_{image}.npz")
    run = next(r for r in runs(assets) if r["model"] == name and image in r["image"])
    finder = detector(assets, run)
    maps = sorted(key for key in golden.files if "score" in key)
    boxes = sorted(key for key in golden.files if "bbox" in key)
    parts = [
        decode_branch(branch, np.squeeze(golden[s]), np.squeeze(golden[b]), finder.threshold)
        for branch, s, b in zip(lffd(finder).branches, maps, boxes, strict=True)
    ]
    assert [len(p.scores) for p in parts] == run["candidates_per_branch"]
    (image_key,) = (key for key in golden.files if golden[key].dtype == np.uint8)
    expected = finder.suppressed(Candidates.joined(parts), golden[image_key].shape)
    found = finder.detect(golden[image_key])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=0.01)
    assert box_error(expected, run) < 0.01


def test_half_the_receptive_field_is_the_wrong_norm(assets: Path) -> None:
    run = runs(assets)[10]
    finder = detector(assets, run)
    head = lffd(finder)
    head.branches = tuple(replace(b, norm=b.receptive_field / 2) for b in head.branches)
    assert box_error(finder.detect(pixels(assets, run)), run) > 1


def test_red_first_lowers_the_mean_score(assets: Path) -> None:
    """The networks are trained on B, G, R: fed R, G, B they are less sure."""
    right, wrong = [], []
    for index in (2, 7):
        run = runs(assets)[index]
        finder, image = detector(assets, run), pixels(assets, run)
        found, swapped = finder.detect(image), finder.detect(image, rgb=True)
        assert box_error(swapped, run) > 0.01
        right.append(found.scores)
        wrong.append(swapped.scores)
    assert np.concatenate(wrong).mean() < np.concatenate(right).mean() - 0.01


# name, then per branch: stride, centre, receptive field, K (spec of the official configurations)
GEOMETRY = {
    "lffd-face-v1": [
        *((4, 3, 55, 7.5), (4, 3, 71, 10), (8, 7, 111, 20), (8, 7, 143, 35)),
        *((16, 15, 223, 55), (32, 31, 383, 125), (32, 31, 511, 200), (32, 31, 639, 280)),
    ],
    "lffd-face-v2": [
        *((4, 3, 55, 10), (8, 7, 95, 20), (16, 15, 175, 40), (32, 31, 335, 80)),
        (64, 63, 655, 160),
    ],
    "lffd-head": [(4, 3, 55, 10), (8, 7, 95, 20), (16, 15, 175, 40), (32, 31, 335, 80)],
    "lffd-pedestrian": [
        *((8, 7, 143, 30), (16, 15, 223, 50), (32, 31, 383, 90), (64, 63, 703, 160)),
    ],
    "lffd-plate": [(16, 15, 223, 64), (32, 31, 383, 128), (64, 63, 703, 256)],
    "lffd-plate-small": [(16, 15, 223, 64), (32, 31, 383, 128), (64, 63, 703, 256)],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_branches_sit_where_the_official_tables_say(name: str) -> None:
    found = [(b.stride, b.centre, b.receptive_field, b.norm) for b in geometry(refnet.build(name))]
    assert found == GEOMETRY[name]


def same(found: Detections, expected: Detections, atol: float = 0.01) -> None:
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "shape", "tile"),
    [
        ("lffd-plate-small", (800, 810), 767),
        ("lffd-head", (240, 430), 400),
    ],
)
def test_tiles_give_what_the_whole_image_gives(
    name: str, shape: tuple[int, int], tile: int
) -> None:
    """Everywhere, seams included: no unit is missing, doubled or touched by a seam's padding."""
    image, model = image_of(*shape), seeded(name)
    finder = Detector(model, threshold=median_threshold(model, image), nms=None)
    branches = lffd(finder).branches
    assert len(tiles(shape, tile, branches, units_on(shape, branches))) > 1
    whole, tiled = finder.detect(image), finder.detect(image, tile=tile)
    by_place = [np.lexsort(np.round(d.boxes, 1).T) for d in (whole, tiled)]
    same(tiled[by_place[1]], whole[by_place[0]])


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((480, 640), (1, 1 / 4)),  # a face may fill 480 pixels, where the network knows 320
        ((400, 900), (1,)),
        ((960, 1280), (1, 1 / 4)),
        ((1536, 2048), (1280 / 2048, 320 / 2048)),
        ((3000, 4000), (1280 / 4000, 320 / 4000)),
        ((8000, 8000), (1280 / 8000, 320 / 8000)),
        ((10, 10), (1,)),
    ],
)
def test_automatic_scales_leave_no_object_too_large(
    shape: tuple[int, int], scales: tuple[float, ...]
) -> None:
    assert pyramid.automatic_scales(shape, (10, 320)) == pytest.approx(scales)


@pytest.mark.parametrize(
    ("min_size", "sizes", "scales"),
    [
        (20, (10, 320), (1, 1 / 4)),  # a network of small objects finds 20 pixels as they are
        (20, (20, 320), (1, 1 / 4)),
        (10, (10, 320), (2, 1 / 2)),
        (80, (10, 320), (1 / 4,)),
        (32, (64, 512), (2, 1 / 2)),  # one of larger objects enlarges them to its smallest
        (64, (64, 512), (1,)),
    ],
)
def test_the_smallest_object_decides_the_first_scale(
    min_size: int, sizes: tuple[int, int], scales: tuple[float, ...]
) -> None:
    assert pyramid.automatic_scales((600, 1200), sizes, min_size) == pytest.approx(scales)


def test_by_default_an_object_is_at_least_a_64th_of_the_longer_side() -> None:
    for longer in (1920, 4000):
        asked = pyramid.automatic_scales((700, longer), (10, 320), round(longer / 64))
        assert pyramid.automatic_scales((700, longer), (10, 320)) == pytest.approx(asked, rel=0.02)


def test_an_automatic_pyramid_joins_scales_and_leaves_what_is_large_to_the_second() -> None:
    cv2 = pytest.importorskip("cv2")
    image, model = image_of(360, 430), seeded("lffd-head")  # heads of up to 160 pixels
    threshold = median_threshold(model, image)
    finder = Detector(model, threshold=threshold, nms=None)
    small = cv2.resize(image, (0, 0), fx=128 / 360, fy=128 / 360, interpolation=cv2.INTER_AREA)
    at_one = Detector(model, threshold=threshold, nms=None, scales=(1,))
    first = at_one.detect(image).uncut
    first = first[(first[:, 2:] - first[:, :2]).max(axis=1) <= 80]
    want = np.concatenate([first, at_one.detect(small).uncut * 360 / 128])
    got = finder.detect(image).uncut
    assert got.shape == want.shape
    by_place = [np.lexsort(np.round(boxes, 1).T) for boxes in (got, want)]
    np.testing.assert_allclose(got[by_place[0]], want[by_place[1]], atol=0.02)
    (batched, _) = finder.batch([image, image])
    assert len(batched) == len(got)


def test_large_images_are_tiled_by_themselves(monkeypatch: Any) -> None:
    image, model = image_of(240, 430), seeded("lffd-head")
    finder = Detector(model, threshold=median_threshold(model, image), scales=(1,))
    whole, shapes = finder.detect(image), []
    monkeypatch.setattr(pyramid, "TILED_ABOVE", 240 * 430 - 1)
    monkeypatch.setattr(pyramid, "TILE", 400)

    def seen(x: np.ndarray) -> Any:
        shapes.append(x.shape)
        return model(x)

    lffd(finder).model = cast(Any, seen)
    same(finder.detect(image), whole)
    assert len(shapes) == 2 and max(shape[3] for shape in shapes) == 400


def test_tiles_find_the_reference_heads(assets: Path) -> None:
    run = runs(assets)[10]
    found = detector(assets, run).detect(pixels(assets, run), tile=400)
    assert box_error(found, run) < 0.01


@pytest.mark.parametrize("name", ["lffd-face-v1", "lffd-pedestrian", "lffd-plate"])
@pytest.mark.parametrize("size", [1000, 2047, 2048, 5001])
def test_every_unit_has_one_owner(name: str, size: int) -> None:
    branches = geometry(refnet.build(name))
    units = units_on((size, 128), branches)
    owners = [np.zeros(rows, int) for rows, _ in units]
    for tile in tiles((size, 128), 900, branches, units):
        for branch, owner, (rows, _) in zip(branches, owners, tile.owned, strict=True):
            shift = tile.rows.start // branch.stride
            owner[rows.start + shift : rows.stop + shift] += 1
    assert all((owner == 1).all() for owner in owners)


def test_a_tile_must_hold_a_receptive_field() -> None:
    with pytest.raises(OptionError, match="use at least 366"):
        Detector(seeded("lffd-head")).detect(image_of(400, 400), tile=350)


def mirror_symmetric(name: str) -> Model:
    """Weights under which flipping the input flips the maps and swaps left and right distances."""
    graph = refnet.build(name)
    weights = box_weights(graph)
    for key, weight in weights.items():
        if weight.ndim == 4:
            weights[key] = (weight + weight[..., ::-1]) / 2
        if "_3_bbox" in key:
            weights[key][2] = -weights[key][0]
    return Model(graph, weights, backend="numpy")


def uncut(finder: Detector, image: np.ndarray) -> Detections:
    """What the finder finds, suppressed by its boxes as predicted: at the edge of the image, which is not
    symmetric about a unit, they are not cut."""
    (found,) = finder.head.candidates([image])
    boxes = found.boxes.astype(np.float32)
    kept = finder._best(boxes, found.scores, found.labels)
    size = (image.shape[0], image.shape[1])
    return Detections(boxes[kept], found.scores[kept], found.labels[kept], finder.classes, size)


@pytest.mark.parametrize("nms", ["lower-area", "iou"])
def test_a_flipped_image_has_flipped_detections(nms: str) -> None:
    """At 639 pixels the units of strides up to 64 lie symmetric about the middle."""
    image, model = image_of(319, 639), mirror_symmetric("lffd-plate-small")
    finder = Detector(model, threshold=median_threshold(model, image), nms=nms)
    found, flipped = uncut(finder, image), uncut(finder, np.ascontiguousarray(image[:, ::-1]))
    mirrored = flipped.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + f32([638, 0, 638, 0])
    same(replace(flipped, boxes=mirrored), found, atol=1)


def test_a_batch_gives_what_single_images_give() -> None:
    images = [
        image_of(130, 150, 1),
        image_of(140, 150, 2),
        *(image_of(130, 150, s) for s in (3, 4)),
    ]
    model = seeded("lffd-head")
    finder = Detector(model, threshold=median_threshold(model, images[0]))
    for found, image in zip(finder.batch(images, batch_size=2), images, strict=True):
        same(found, finder.detect(image))
    assert finder.batch([]) == []


def test_small_images_are_enlarged_to_the_minimum_side() -> None:
    model = seeded("lffd-head")
    small = image_of(64, 100)
    finder = Detector(model, threshold=0.1)
    scaled = Detector(model, threshold=0.1, scales=(2.0,))
    same(finder.detect(small), scaled.detect(small))
    tiny = finder.detect(np.full((1, 1, 3), 128, np.uint8))
    assert (tiny.boxes >= 0).all() and (tiny.boxes <= 1).all()


@pytest.mark.parametrize(("shape", "fed"), [((3, 3000), (128, 1280)), ((40, 900), (128, 1280))])
def test_slivers_are_padded_where_enlarging_them_would_fill_memory(
    shape: tuple[int, int], fed: tuple[int, int]
) -> None:
    """Their longer side grows to 1280 pixels at most; black fills the rest."""
    for image in (image_of(*shape), np.ascontiguousarray(image_of(*shape).swapaxes(0, 1))):
        model = seeded("lffd-head")
        seen: list[Any] = []
        finder = Detector(model, threshold=0.1)

        def record(x: np.ndarray, model: Model = model, seen: list[Any] = seen) -> Any:
            seen.append(x.shape[2:])
            return model(x)

        lffd(finder).model = cast(Any, record)
        found = finder.detect(image)
        assert seen == [fed if image.shape[1] > image.shape[0] else fed[::-1]]
        height, width = image.shape[:2]
        assert len(found) and (found.boxes <= [width, height, width, height]).all()


def test_an_image_that_would_fill_memory_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(pyramid, "LARGEST_INPUT", 200 * 400)
    finder = Detector(seeded("lffd-head"), min_size=10)
    with pytest.raises(ImageError, match="use a larger min_size"):
        finder.detect(image_of(150, 300))


def test_a_pyramid_joins_its_scales() -> None:
    image, model = image_of(200, 260), seeded("lffd-head")
    threshold = median_threshold(model, image)
    counts = [
        len(Detector(model, threshold=threshold, nms=None, scales=s).detect(image))
        for s in ((1.0,), (2.0,), (1.0, 2.0))
    ]
    assert counts[2] == counts[0] + counts[1] > counts[0] > 0


def test_boxes_are_cut_to_the_image_as_the_official_code_does() -> None:
    image, model = image_of(200, 260), seeded("lffd-plate-small")
    options: dict[str, Any] = {"threshold": median_threshold(model, image), "nms": None}
    found = Detector(model, **options).detect(image)
    assert (found.uncut[:, :2] < 0).any() and (found.uncut[:, 2] > 260).any()
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2] <= 260).all() and (found.boxes[:, 3] <= 200).all()
    np.testing.assert_array_equal(found.boxes, np.clip(found.uncut, 0, [260, 200, 260, 200]))
    assert found.image_size == (200, 260)
    part = found[found.scores > np.median(found.scores)]
    assert 0 < len(part) < len(found) and len(part.uncut) == len(part)


def test_branches_can_be_left_out() -> None:
    image, model = image_of(200, 260), seeded("lffd-head")
    options: dict[str, Any] = {"threshold": median_threshold(model, image), "nms": None}
    everything = Detector(model, **options).detect(image)
    some = Detector(model, branches=(2, 3, 4), **options).detect(image)
    only = Detector(model, branches=[1], **options).detect(image)
    assert len(some) + len(only) == len(everything) and len(only) > 0


def test_nothing_found_is_an_empty_result() -> None:
    found = Detector(seeded("lffd-head"), threshold=0.999).detect(image_of(130, 130))
    assert (len(found), found.boxes.shape, found.to_dicts()) == (0, (0, 4), [])
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_pil_images_and_red_first_arrays_are_the_same_image() -> None:
    pil = pytest.importorskip("PIL.Image")
    image, model = image_of(130, 150), seeded("lffd-head")
    finder = Detector(model, threshold=median_threshold(model, image))
    red_first = np.ascontiguousarray(image[:, :, ::-1])
    same(finder.detect(red_first, rgb=True), finder.detect(image), atol=0)
    same(finder.detect(pil.fromarray(red_first)), finder.detect(image), atol=0)


def test_detections_are_indexed_and_iterated() -> None:
    boxes = f32([[0, 0, 4, 4], [1, 1, 9, 9], [2, 2, 5, 6]])
    found = Detections(boxes, f32([0.9, 0.8, 0.7]), np.array([0, 0, 0]), ("head",), (10, 10))
    assert found[1].to_dicts() == [{"class": "head", "score": 0.8, "box": [1.0, 1.0, 9.0, 9.0]}]
    assert len(found[found.scores > 0.75]) == 2 and len(found[:1]) == 1
    assert [(round(score, 1), name) for _, score, name in found] == [
        *((0.9, "head"), (0.8, "head"), (0.7, "head")),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Detector(seeded("tinynet")), "detects nothing"),
        (lambda: Detector(seeded("lffd-head"), threshold=1.5), "threshold lies in"),
        (lambda: Detector(seeded("lffd-head"), nms="soft"), "lower-area"),
        (lambda: cast(Any, Detector)(seeded("lffd-head"), scales=0), "positive factor"),
        (lambda: Detector(seeded("lffd-head"), scales=[]), "positive factor"),
        (lambda: cast(Any, Detector)(seeded("lffd-head"), scales="all"), "positive factor"),
        (lambda: Detector(seeded("lffd-head"), branches=[0]), "branches 1 to 4"),
        (lambda: Detector(seeded("lffd-head"), top_k=0), "top_k"),
        (lambda: Detector(seeded("basketnet"), scales=[2]), "stretches"),
        (lambda: Detector(seeded("basketnet"), min_size=20), "stretches"),
        (lambda: Detector(seeded("lffd-head"), branches=(1, 5)), "branches 1 to 4"),
        (lambda: Detector(seeded("lffd-head"), branches=()), "branches 1 to 4"),
        (lambda: Detector(seeded("lffd-head"), scales=(1.0,), min_size=20), "pass one of them"),
        (lambda: Detector(seeded("lffd-head"), min_size=0), "min_size is at least 1"),
        (lambda: cast(Any, Detector)(seeded("lffd-head"), threshold="0.5"), "not '0.5'"),
        (lambda: Detector(seeded("lffd-head"), threshold=50), "for 50 % pass 0.5"),
        (lambda: FaceDetector(seeded("basketnet")), "no faces; refnet.Detector gives its boxes"),
        (lambda: Detector(seeded("lffd-head"), threads=2), "give them to refnet.load"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_detectors_know_the_sizes_that_they_find() -> None:
    for name, sizes in {
        "lffd-face-v1": (10, 560),
        "lffd-plate": (64, 512),
        "basketnet": (10, 560),
    }.items():
        assert Detector(seeded(name)).object_range == sizes


def test_every_detector_has_default_settings() -> None:
    detectors = {n for n in refnet.networks() if n.startswith("lffd") or n == "basketnet"}
    assert {name for name, defaults in DEFAULTS.items() if defaults.detection} == detectors


def test_basketnet_priors_are_those_worked_out_by_hand() -> None:
    """The first unit of each branch, by hand, and the number of units at 640."""
    priors = basketnet_priors(refnet.build("basketnet"))
    assert priors.shape == (65648, 3) and priors.dtype == np.float32
    at = 0
    for stride, units, upper in [
        *((4, 159, 15), (4, 159, 20), (8, 79, 40), (8, 79, 70)),
        *((16, 39, 110), (32, 19, 250), (32, 19, 400), (32, 19, 560)),
    ]:
        np.testing.assert_allclose(priors[at] * 640, [stride / 2, stride / 2, upper / 2], 1e-6)
        below = priors[at + units] * 640
        np.testing.assert_allclose(below, [stride / 2, stride * 1.5, upper / 2], 1e-6)
        at += units * units
    assert at == len(priors)
    with pytest.raises(OptionError, match="square"):
        basketnet_priors(refnet.build("basketnet", input_size=(480, 640)))


def test_basketnet_equals_its_steps_written_out() -> None:
    """Input, softmax, decoding and the per-class loop, written out, for outputs of both classes."""
    cv2 = pytest.importorskip("cv2")
    image, generator = image_of(200, 300), np.random.default_rng(0)
    finder = Detector(seeded("basketnet", input_size=320))
    head = finder.head
    assert isinstance(head, BasketNetHead)
    priors, graph, fed = head.priors, finder.model.graph, []
    logits = generator.normal(0, 2, (1, len(priors), 3)).astype(np.float32)
    logits[..., 0] += 7.5  # most cells are background
    locations = generator.uniform(0.3, 1, (1, len(priors), 4)).astype(np.float32)
    locations *= f32([1, 1, -1, -1])

    class Network:
        def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            fed.append(x)
            return logits, locations

    network: Any = Network()
    network.graph = graph
    head.model = network
    found = finder.detect(image)

    x = cv2.resize(image, (320, 320))[:, :, ::-1].transpose(2, 0, 1)[None]
    np.testing.assert_allclose(fed[0], x / 255.0, rtol=1e-6)
    p = np.exp(logits[0].astype(float))
    p /= p.sum(axis=1, keepdims=True)
    expected = []
    for label in (0, 1):
        cells = [i for i in range(len(p)) if p[i, label + 1] > 0.8]
        kept: list[np.ndarray] = []
        for i in sorted(cells, key=lambda i: -p[i, label + 1]):
            (cx, cy, k), d = priors[i], locations[0, i]
            box = np.array([cx - d[0] * k, cy - d[1] * k, cx - d[2] * k, cy - d[3] * k])
            box = np.clip(box * [300, 200, 300, 200], 0, [300, 200, 300, 200])
            if all(inclusive_iou(box, other) < 0.1 for other in kept):
                kept.append(box)
                expected.append((p[i, label + 1], label, box))
    expected.sort(key=lambda row: -row[0])
    assert found.classes == ("basketball", "volleyball")
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert set(found.labels.tolist()) == {0, 1}
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], atol=0.01)


def test_a_batch_of_balls_is_its_images_one_by_one() -> None:
    images = [image_of(200, 300, seed) for seed in (1, 2)]
    finder = Detector(seeded("basketnet", input_size=160), threshold=0.3)
    for found, image in zip(finder.batch(images), images, strict=True):
        same(found, finder.detect(image))


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(w, 0) * max(h, 0)
    areas = sum((x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b))
    return float(shared / (areas - shared))


# --- networks and heads of one's own


def padded() -> Graph:
    """One branch on two padded convolutions of stride 2, whose maps have ⌈side / 4⌉ units."""
    net = Builder((3, 64, 64))
    x = net.add("relu", "a1", net.conv("input", "c1", 8, Window(3, 2, 1)))
    x = net.add("relu", "a2", net.conv(x, "c2", 8, Window(3, 2, 1)))
    score = net.add("sigmoid", "score", net.conv(x, "logit", 1, Window(1)))
    return net.graph("padded", (score, net.conv(x, "box", 4, Window(1))), {}, fixed_size=False)


OWN = Defaults(
    Preprocessing(scale=1 / 255), Detection(("thing",), 0.5, 0.4, ((4, 16),), minimum_side=1)
)


@pytest.mark.parametrize("shape", [(75, 90), (64, 97), (33, 128)])
def test_tiles_of_a_padded_network_give_what_the_whole_image_gives(shape: tuple[int, int]) -> None:
    """Its units lie elsewhere than those of LFFD's trunk, and there are more of them."""
    graph, image = padded(), image_of(*shape)
    weights = random_weights(graph, seed=1)
    weights["box.bias"] = f32([0.8, 0.8, -0.8, -0.8])
    model = Model(graph, weights, backend="numpy")
    options: dict[str, Any] = {"nms": None, "scales": (1,)}
    finder = Detector(model, threshold=0, defaults=OWN, **options)
    whole, tiled = finder.detect(image), finder.detect(image, tile=24)
    assert len(whole) > 0.9 * -(-shape[0] // 4) * -(-shape[1] // 4)
    by_place = [np.lexsort(np.round(d.uncut, 1).T) for d in (whole, tiled)]
    same(tiled[by_place[1]], whole[by_place[0]])


def test_a_network_of_ones_own_brings_its_defaults() -> None:
    image, head = image_of(200, 260), seeded("lffd-head")
    mine = Model(replace(head.graph, name="mine"), head.weights, backend="numpy")
    with pytest.raises(OptionError, match="mine detects nothing"):
        Detector(mine)
    threshold = median_threshold(head, image)
    found = Detector(mine, threshold=threshold, defaults=DEFAULTS["lffd-head"]).detect(image)
    same(found, Detector(head, threshold=threshold).detect(image), atol=0)
    with pytest.raises(OptionError, match="one range of sizes for each"):
        Detector(mine, defaults=OWN)
    detection = replace(OWN.detection or Detection((), 0, 0), head="none")
    heads = "lffd, light, basketnet, yunet, scrfd, ultralight, centerface, retinaface"
    with pytest.raises(OptionError, match=f"head is one of {heads}, not 'none'"):
        Detector(mine, defaults=replace(OWN, detection=detection))


class Corners:
    """A head that finds the same three objects with key points in every image."""

    object_range = 1, 100

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        self.threshold = settings.threshold

    def candidates(
        self, images: Sequence[np.ndarray], *, batch_size: int = 1, tile: int | None = None
    ) -> list[Candidates]:
        boxes = np.array([[0, 0, 20, 20], [40, 40, 60, 60.0], [1, 1, 21, 21]])
        points = np.arange(30.0).reshape(3, 5, 2)
        found = Candidates(boxes, f32([0.7, 0.8, 0.9]), np.zeros(3, np.int64), points)
        return [found for _ in images]


def test_a_new_head_is_a_class_and_a_line(monkeypatch: Any) -> None:
    """Key points go the way of their boxes: through suppression, by falling score."""
    monkeypatch.setitem(cast(Any, HEADS), "corners", Corners)
    detection = Detection(("face",), 0.5, 0.4, head="corners")
    finder = Detector(seeded("tinynet"), defaults=Defaults(detection=detection))
    found = finder.detect(image_of(80, 80))
    assert finder.object_range == (1, 100)
    np.testing.assert_array_equal(found.scores, f32([0.9, 0.8]))
    assert found.keypoints is not None and found.keypoints.dtype == np.float32
    np.testing.assert_array_equal(found.keypoints, np.arange(30).reshape(3, 5, 2)[[2, 1]])
    one = found[1]
    assert one.to_dicts()[0]["keypoints"] == [[10, 11], [12, 13], [14, 15], [16, 17], [18, 19]]
    (batched, _) = finder.batch([image_of(80, 80)] * 2)
    same(batched, found, atol=0)


def test_candidates_are_joined_with_their_key_points() -> None:
    with_points = Candidates(np.zeros((2, 4)), f32([1, 2]), np.zeros(2, int), np.zeros((2, 5, 2)))
    joined = Candidates.joined([with_points, with_points])
    assert joined.keypoints is not None and joined.keypoints.shape == (4, 5, 2)
    assert Candidates.joined([with_points, replace(with_points, keypoints=None)]).keypoints is None
    assert len(Candidates.joined([])) == len(Candidates.none()) == 0


def test_misspelt_arguments_are_named(tmp_path: Path) -> None:
    says = "Detector has no argument score_threshold; did you mean threshold"
    path = tmp_path / "head.npz"
    np.savez(path, **seeded("lffd-head").weights)  # type: ignore[arg-type]  # no name is a keyword
    for model in (DETECTOR, path, seeded("lffd-head")):
        with pytest.raises(OptionError, match=says):
            cast(Any, Detector)(model, score_threshold=0.5)
    with pytest.raises(OptionError, match="no argument nms_treshold; did you mean nms_threshold"):
        cast(Any, Detector)(path, nms_treshold=0.5)
    assert Detector(path, backend="numpy").classes == ("head",)
