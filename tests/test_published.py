"""Published face detectors: which one a file holds, and its boxes, scores and points as its authors compute them.

The decoders below are written from the authors' descriptions, cell by cell and in float64, and read the outputs of
onnxruntime. The files are not part of the repository; see CONTRIBUTING.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import refnet
from refnet.cli import main
from refnet.detection import published as heads
from refnet.detection.boxes import iou
from refnet.detection.detections import Candidates
from refnet.detection.detector import HEADS, FaceDetector
from refnet.detection.published import PublishedHead
from refnet.errors import ImageError, OptionError
from refnet.graph import Graph, Node
from refnet.networks.defaults import NEUTRAL, PUBLISHED, Preprocessing, defaults_of, published
from refnet.networks.published import cells, decoder_of, levels
from tests.detection_networks import f32

#: {file: decoder}.
FILES = {
    "centerface": "centerface",
    "retinaface_mobilenet025": "retinaface",
    "rfb320": "ultralight",
    "rfb640": "ultralight",
    "scrfd_2.5g_kps": "scrfd",
    "scrfd_500m_kps": "scrfd",
    "slim320": "ultralight",
    "yunet_n_640": "yunet",
    "yunet_n_dynamic": "yunet",
    "yunet_s_640": "yunet",
    "yunet_s_dynamic": "yunet",
}
PHOTOS = ("skimage_astronaut.png", "facerec_biden.jpg", "facerec_obama_partial_face.jpg")

#: One face of an oracle: score, box, ten numbers of points or none.
Found = tuple[float, list[float], list[float]]


# ------------------------------------------------------------------------------------------ oracles


def yunet(outputs: list[np.ndarray], size: tuple[int, int], least: float) -> list[Found]:
    found = []
    for level, stride in enumerate((8, 16, 32)):
        cls, obj, box, points = (outputs[level + 3 * kind][0] for kind in range(4))
        for cell in range(len(cls)):
            row, column = divmod(cell, size[1] // stride)
            score = math.sqrt(min(max(cls[cell, 0], 0), 1) * min(max(obj[cell, 0], 0), 1))
            if score <= least:
                continue
            x, y = (column + box[cell, 0]) * stride, (row + box[cell, 1]) * stride
            w, h = math.exp(box[cell, 2]) * stride, math.exp(box[cell, 3]) * stride
            ends = [x - w / 2, y - h / 2, x - w / 2 + w, y - h / 2 + h]
            own = points[cell]
            five = [(own[i] + (column if i % 2 == 0 else row)) * stride for i in range(10)]
            found.append((score, ends, five))
    return found


def scrfd(outputs: list[np.ndarray], size: tuple[int, int], least: float) -> list[Found]:
    found = []
    for level, stride in enumerate((8, 16, 32)):
        scores, box, points = (outputs[level + 3 * kind][0] for kind in range(3))
        for n, (row, column, _) in enumerate(
            itertools.product(range(size[0] // stride), range(size[1] // stride), range(2))
        ):
            if scores[n, 0] <= least:
                continue
            x, y = column * stride, row * stride
            left, top, right, bottom = box[n].astype(float) * stride
            own = points[n].astype(float) * stride
            five = [own[i] + (x if i % 2 == 0 else y) for i in range(10)]
            found.append((scores[n, 0], [x - left, y - top, x + right, y + bottom], five))
    return found


def priors(
    size: tuple[int, int], sides: Mapping[int, tuple[int, ...]], *, cut: bool
) -> list[list[float]]:
    """Relative centre x, centre y, width, height, as both training codes list them."""
    made = []
    for stride, own in sides.items():
        rows, columns = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        for row, column, side in itertools.product(range(rows), range(columns), own):
            prior = [
                (column + 0.5) * stride / size[1],
                (row + 0.5) * stride / size[0],
                side / size[1],
                side / size[0],
            ]
            made.append([min(max(p, 0.0), 1.0) for p in prior] if cut else prior)
    return made


def relative(prior: list[float], numbers: np.ndarray, size: tuple[int, int]) -> list[float]:
    x, y = (prior[i] + 0.1 * numbers[i] * prior[i + 2] for i in (0, 1))
    w, h = (prior[i] * math.exp(0.2 * numbers[i]) for i in (2, 3))
    ends = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    return [end * (size[1], size[0])[i % 2] for i, end in enumerate(ends)]


def ultralight(
    outputs: list[np.ndarray], size: tuple[int, int], least: float, *, raw: bool
) -> list[Found]:
    scores, boxes = outputs[0][0], outputs[1][0]
    sides = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}
    table = priors(size, sides, cut=True)
    assert len(table) == len(scores)
    found: list[Found] = []
    for prior, score, numbers in zip(table, scores[:, 1], boxes, strict=True):
        if score > least:
            whole = [float(v) * (size[1], size[0])[i % 2] for i, v in enumerate(numbers)]
            found.append((score, relative(prior, numbers, size) if raw else whole, []))
    return found


def centerface(outputs: list[np.ndarray], size: tuple[int, int], least: float) -> list[Found]:
    heat, scale, offset, points = (output[0] for output in outputs)
    found: list[Found] = []
    for row, column in np.argwhere(heat[0] > least):
        h, w = (4 * math.exp(scale[i, row, column]) for i in (0, 1))
        x = min(max(0, (column + offset[1, row, column] + 0.5) * 4 - w / 2), size[1])
        y = min(max(0, (row + offset[0, row, column] + 0.5) * 4 - h / 2), size[0])
        own = points[:, row, column]
        five = [v for i in range(5) for v in (own[2 * i + 1] * w + x, own[2 * i] * h + y)]
        ends = [x, y, min(x + w, size[1]), min(y + h, size[0])]
        found.append((heat[0, row, column], ends, five))
    return found


def retinaface(outputs: list[np.ndarray], size: tuple[int, int], least: float) -> list[Found]:
    boxes, scores, points = (output[0] for output in outputs)
    table = priors(size, {8: (16, 32), 16: (64, 128), 32: (256, 512)}, cut=False)
    found = []
    for n in np.flatnonzero(scores[:, 1] > least):
        x, y, w, h = table[n]
        five = [
            v
            for i in range(5)
            for v in (
                (x + 0.1 * points[n, 2 * i] * w) * size[1],
                (y + 0.1 * points[n, 2 * i + 1] * h) * size[0],
            )
        ]
        found.append((scores[n, 1], relative(table[n], boxes[n], size), five))
    return found


def blob(decoder: str, image: np.ndarray) -> np.ndarray:
    """The input that the authors' code makes of a BGR image whose sides the network takes."""
    pixels: np.ndarray = image.astype(np.float32)
    if decoder == "retinaface":
        pixels = pixels - np.array([104, 117, 123], np.float32)
    elif decoder != "yunet":
        pixels = pixels[..., ::-1]
    if decoder == "scrfd":
        pixels = (pixels - np.float32(127.5)) / 128
    elif decoder == "ultralight":
        pixels = (pixels - 127) / np.float32(128)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def oracle(name: str) -> Callable[..., list[Found]]:
    if FILES[name] != "ultralight":
        found: Callable[..., list[Found]] = globals()[FILES[name]]
        return found
    return lambda *given: ultralight(*given, raw=name != "rfb640")


# -------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(assets: Path) -> Callable[[str], Path]:
    pytest.importorskip("onnx", reason="ONNX files need the extra `onnx`")

    def find(name: str) -> Path:
        path = assets / "detectors" / f"{name}.onnx"
        if not path.exists():
            pytest.skip(f"{path} is not there")
        return path

    return find


def runtime(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    """onnxruntime on a file, whose image may have any size, whatever the file declares."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="decoders are compared on its outputs")
    proto = onnx.load(path)
    held = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in held:
            source = value.name
            for axis in (0, 2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings)
    return lambda x: [np.asarray(y) for y in session.run(None, {source: x})]


def continued(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` with black to the right and below."""
    made = np.zeros((height, width, 3), np.uint8)
    made[: image.shape[0], : image.shape[1]] = image
    return made


def photo(assets: Path, name: str, side: int = 480) -> np.ndarray:
    """A photo of which neither side is a multiple of 32, with the longer one of `side` pixels or a few less."""
    image = refnet.read_image(assets / "photos" / name)
    scale = side / max(image.shape[:2])
    image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return image[: image.shape[0] - 5, : image.shape[1] - 3].copy()


def numpy_detector(path: Path, **options: Any) -> FaceDetector:
    return FaceDetector(path, backend="numpy", **options)


def assert_same(found: Candidates, wanted: list[Found], scale: float | np.ndarray = 1.0) -> None:
    """The same candidates in any order: boxes and points to 1e-3 px, scores to 1e-4."""
    assert len(found) == len(wanted) > 0
    scores = np.array([score for score, _, _ in wanted])
    boxes = np.array([box for _, box, _ in wanted]) / np.tile(np.broadcast_to(scale, 2), 2)
    points = np.array([five for _, _, five in wanted]).reshape(len(wanted), -1, 2) / scale
    nearest = np.abs(found.boxes[:, None] - boxes).max(axis=2)
    match = (nearest + np.abs(found.scores[:, None] - scores)).argmin(axis=1)
    assert sorted(match) == list(range(len(wanted)))
    assert np.abs(found.boxes - boxes[match]).max() <= 1e-3
    assert np.abs(found.scores - scores[match]).max() <= 1e-4
    if found.keypoints is None:
        assert points.size == 0
    else:
        assert np.abs(found.keypoints - points[match]).max() <= 1e-3


# -------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", FILES)
def test_files_are_recognised(name: str, file: Any) -> None:
    graph = refnet.load(file(name), backend="numpy").graph
    assert decoder_of(graph) == FILES[name]
    assert defaults_of(graph) is PUBLISHED[FILES[name]]
    # A file's name says nothing, not even one that a network has here.
    assert defaults_of(replace(graph, name="basketnet")) is PUBLISHED[FILES[name]]


@pytest.mark.parametrize("name", FILES)
def test_candidates_are_the_authors(name: str, file: Any, assets: Path) -> None:
    path = file(name)
    run, decode, decoder = runtime(path), oracle(name), FILES[name]
    least = 0.3 if decoder != "retinaface" else 0.1
    detector = numpy_detector(path, threshold=least)
    assert isinstance(detector.head, PublishedHead)
    fixed = detector.model.graph.fixed_size
    if not fixed:
        detector = numpy_detector(path, threshold=least, scales=(1.0,))
    for picture in PHOTOS:
        image = photo(assets, picture)
        (found,) = detector.head.candidates([image])
        height, width = image.shape[:2]
        scale: float | np.ndarray = 1.0
        if fixed:
            _, rows, columns = detector.model.graph.input_shape
            factor = min(rows / height, columns / width)
            sides = round(width * factor), round(height * factor)
            scale = np.array([sides[0] / width, sides[1] / height])
            image = np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR))
            height, width = rows, columns
        elif decoder != "ultralight":
            height, width = -(-height // 32) * 32, -(-width // 32) * 32
        outputs = run(blob(decoder, continued(image, height, width)))
        assert_same(found, decode(outputs, (height, width), least), scale)


@pytest.mark.parametrize("name", ["yunet_n_640", "yunet_s_dynamic"])
def test_yunet_is_that_of_opencv(name: str, file: Any, assets: Path) -> None:
    """Both run the file with the fixed size at the photo's own."""
    path = file(name)
    for picture in PHOTOS:
        image = photo(assets, picture)
        height, width = image.shape[:2]
        theirs = cv2.FaceDetectorYN.create(str(path), "", (width, height), 0.6, 0.3, 5000)
        _, rows = theirs.detect(image)
        ours = numpy_detector(path, scales=(1.0,))(image)
        assert ours.keypoints is not None
        assert len(ours) == len(rows) > 0
        for box, row in zip(ours.uncut, rows, strict=True):
            np.testing.assert_allclose(box, [*row[:2], *(row[:2] + row[2:4])], atol=1e-3)
        np.testing.assert_allclose(ours.scores, rows[:, 14], atol=1e-4)
        np.testing.assert_allclose(ours.keypoints.reshape(-1, 10), rows[:, 4:14], atol=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_the_best_box_and_its_points_lie_on_the_face(name: str, file: Any, assets: Path) -> None:
    """In a portrait and in a landscape frame, by the settings that the networks come with."""
    detector = numpy_detector(file(name))
    face = photo(assets, "skimage_astronaut.png", 512)
    for height, width in ((640, 517), (512, 700)):
        found = detector(continued(face, height, width))
        assert len(found) > 0
        assert iou(found.boxes[:1], np.array([[178.0, 62, 272, 180]]))[0, 0] > 0.65
        if FILES[name] == "ultralight":
            assert found.keypoints is None
            continue
        assert found.keypoints is not None
        places = np.array([(204, 102), (247, 103), (223, 128), (203, 142), (244, 143)])
        assert np.abs(found.keypoints[0] - places).max() < 12


@pytest.mark.parametrize("name", ["yunet_n_640", "scrfd_500m_kps", "rfb320", "rfb640"])
def test_a_batch_is_its_images_one_by_one(name: str, file: Any, assets: Path) -> None:
    detector = numpy_detector(file(name), threshold=0.3)
    face = photo(assets, "skimage_astronaut.png", 320)
    images = [face, np.ascontiguousarray(face[:, ::-1]), continued(face, 330, 400)]
    for together, image in zip(detector.batch(images), images, strict=True):
        alone = detector(image)
        assert len(together) == len(alone) > 0
        np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_images_without_a_face_and_of_one_pixel_give_nothing(name: str, file: Any) -> None:
    detector = numpy_detector(file(name), threshold=0.99)
    for height, width in ((1, 1), (3, 90), (70, 100)):
        found = detector(np.full((height, width, 3), 90, np.uint8))
        assert len(found) == 0
        shape = None if found.keypoints is None else found.keypoints.shape
        assert shape == (None if FILES[name] == "ultralight" else (0, 5, 2))


def test_large_faces_are_found_at_a_smaller_scale(file: Any, assets: Path) -> None:
    """The largest anchors have 256 pixels, this face has 450."""
    image = refnet.read_image(assets / "photos" / PHOTOS[0])[20:240, 130:320]
    image = np.asarray(cv2.resize(image, None, fx=4, fy=4))
    face = np.array([[200.0, 200, 545, 630]])
    path = file("rfb320")
    assert iou(numpy_detector(path)(image).boxes[:1], face)[0, 0] > 0.8
    assert (iou(numpy_detector(path, scales=(1.0,))(image).boxes, face) < 0.5).all()


def test_the_command_line_finds_faces_with_a_file(file: Any, tmp_path: Path) -> None:
    photo = Path(__file__).parents[1] / "docs" / "astronaut.jpg"
    results = tmp_path / "faces.jsonl"
    call = ["faces", str(photo), "--detector", str(file("yunet_n_640")), "--landmarker", "none"]
    assert main([*call, "--no-media", "--quiet", "--results", str(results)]) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    (face,) = lines[0]["faces"]
    np.testing.assert_allclose(face["box"], [178, 66, 270, 177], atol=1)
    said = [*call, "--decoder", "yunet", "--no-media", "--quiet", "--results"]
    assert main([*said, str(tmp_path / "said.jsonl")]) == 0
    assert (tmp_path / "said.jsonl").read_text() == results.read_text()


def test_info_says_how_a_file_is_used(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(file("scrfd_500m_kps"))
    assert main(["info", path]) == 0
    text = capsys.readouterr().out
    assert "pixels       RGB, (x - 127.5) / 128, sides multiples of 32" in text
    assert "decoder      scrfd: boxes of face, threshold 0.5, nms inclusive-iou 0.4" in text
    assert main(["info", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["decoder"] == "scrfd"
    assert told["preprocessing"]["mean"] == [127.5, 127.5, 127.5]


# ----------------------------------------------------------------------------------- without a file


def listed(shapes: list[tuple[int, ...]], size: tuple[int, int], fixed: bool = True) -> Graph:
    """A graph without weights whose outputs have these shapes, (n, numbers) or (channels, h, w)."""
    nodes: list[Node] = []
    held: dict[str, tuple[int, ...]] = {}

    def add(op: str, source: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(Node(name, op, (source,), attributes))
        return name

    outputs = []
    for shape in shapes:
        count = math.prod(shape)
        flat = add("flatten", "input")
        held[f"w{len(nodes)}"] = (count, 3 * size[0] * size[1])
        held[f"b{len(nodes)}"] = (count,)
        names = {"weight": f"w{len(nodes)}", "bias": f"b{len(nodes)}"}
        nodes.append(Node(f"n{len(nodes)}", "linear", (flat,), {}, names))
        outputs.append(add("reshape", nodes[-1].name, shape=shape))
    return Graph("mine", (3, *size), fixed, tuple(nodes), tuple(outputs), held)


def yunet_shapes(size: tuple[int, int]) -> list[tuple[int, ...]]:
    counts = [math.prod(cells(size, stride)) for stride in (8, 16, 32)]
    return [(count, width) for width in (1, 1, 4, 10) for count in counts]


def scrfd_shapes(size: tuple[int, int], points: bool) -> list[tuple[int, ...]]:
    counts = [2 * math.prod(cells(size, stride)) for stride in (8, 16, 32)]
    widths = (1, 4, 10) if points else (1, 4)
    return [(count, width) for count in counts for width in widths]


@pytest.mark.parametrize(
    ("decoder", "shapes"),
    [
        ("yunet", yunet_shapes((32, 64))),
        ("yunet", yunet_shapes((32, 64))[::-1]),
        ("scrfd", scrfd_shapes((32, 64), points=True)),
        ("scrfd", scrfd_shapes((32, 64), points=False)),
        ("centerface", [(10, 8, 16), (2, 8, 16), (2, 8, 16), (1, 8, 16)]),
        ("ultralight", [(3 * 32 + 2 * 8 + 2 * 2 + 3 * 1, n) for n in (4, 2)]),
        ("retinaface", [(2 * (32 + 8 + 2), n) for n in (2, 10, 4)]),
        (None, yunet_shapes((32, 64))[:-1]),
        (None, [*yunet_shapes((32, 64)), (5, 5)]),
        (None, [*scrfd_shapes((32, 64), points=True)[:-1], (4, 11)]),
        (None, [(10, 8, 16), (2, 8, 16), (1, 8, 16)]),
        (None, [(84, 4), (84, 2)]),
    ],
)
def test_outputs_tell_the_decoder(decoder: str | None, shapes: list[tuple[int, ...]]) -> None:
    graph = listed(shapes, (32, 64))
    assert decoder_of(graph) == decoder
    assert defaults_of(graph) is (NEUTRAL if decoder is None else PUBLISHED[decoder])
    if decoder is not None:
        indices = [i for level in levels(graph, decoder) for i in level]
        assert sorted(indices) == list(range(len(shapes)))


def seeded(graph: Graph) -> refnet.Model:
    generator = np.random.default_rng(5)
    return refnet.Model(
        graph,
        {n: generator.normal(0, 1e-4, s).astype(np.float32) for n, s in graph.state_dict.items()},
        backend="numpy",
    )


def test_scrfd_without_points_gives_boxes_alone() -> None:
    detector = FaceDetector(seeded(listed(scrfd_shapes((32, 64), False), (32, 64))), threshold=0.0)
    (found,) = detector.head.candidates([np.full((30, 50, 3), 200, np.uint8)])
    assert found.keypoints is None
    assert 0 < len(found) < 84


def test_a_decoder_of_ones_choice_is_taken_where_it_fits() -> None:
    model = seeded(listed(yunet_shapes((32, 64)), (32, 64)))
    assert FaceDetector(model, decoder="yunet").detection is PUBLISHED["yunet"].detection
    with pytest.raises(
        OptionError, match="outputs of mine are not those of scrfd; for an input of 32"
    ):
        FaceDetector(model, decoder="scrfd")
    with pytest.raises(OptionError, match=r"decoder is one of yunet, scrfd, .*, not 'yolo'"):
        FaceDetector(model, decoder="yolo")
    with pytest.raises(OptionError, match="pass one of them"):
        FaceDetector(model, decoder="yunet", defaults=published("yunet"))
    odd = seeded(listed([(84, 4), (84, 2)], (32, 64)))
    with pytest.raises(OptionError, match=r"mine detects nothing.* decoder= \(yunet, scrfd"):
        FaceDetector(odd)


def test_what_these_heads_cannot_do_is_refused() -> None:
    model = seeded(listed(yunet_shapes((32, 64)), (32, 64)))
    for options in ({"scales": (1.0,)}, {"min_size": 20}, {"branches": (1,)}):
        with pytest.raises(OptionError, match=r"of mine|mine sees"):
            FaceDetector(model, **options)
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(OptionError, match="on whole images"):
        FaceDetector(model).detect(image, tile=300)


def test_large_images_are_refused(monkeypatch: pytest.MonkeyPatch, file: Any) -> None:
    monkeypatch.setattr(heads, "TILED_ABOVE", 100 * 100)
    detector = numpy_detector(file("yunet_s_640"), scales=(1.0,))
    with pytest.raises(ImageError, match="larger min_size"):
        detector(np.zeros((101, 100, 3), np.uint8))


def test_records_name_heads() -> None:
    for name, defaults in PUBLISHED.items():
        assert defaults.detection is not None and defaults.detection.head == name
        assert issubclass(HEADS[name], PublishedHead)


def test_means_are_subtracted_and_sides_continued_to_multiples() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), np.uint8)
    made = Preprocessing("rgb", divide=128.0, mean=(1.0, 2.0, 3.0), multiple=8).apply(pixels)
    assert made.shape == (1, 3, 8, 8) and made.dtype == np.float32
    whole = np.zeros((1, 8, 8, 3), np.float32)
    whole[:, :5, :7] = pixels[..., ::-1]
    wanted = ((whole - f32([1, 2, 3])) / np.float32(128)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(made, wanted)
    with pytest.raises(OptionError, match="3 channels"):
        Preprocessing(mean=(1.0,))


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        (Preprocessing(), "BGR, x"),
        (Preprocessing(scale=2 / 255, shift=-1.0), "BGR, x · 0.00784314 - 1"),
        (Preprocessing("rgb", divide=255.0), "RGB, x / 255"),
        (
            PUBLISHED["retinaface"].preprocessing,
            "BGR, (x - (104, 117, 123)), sides multiples of 32",
        ),
        (PUBLISHED["ultralight"].preprocessing, "RGB, (x - 127) / 128"),
    ],
)
def test_preprocessing_reads_as_a_formula(preprocessing: Preprocessing, text: str) -> None:
    assert str(preprocessing) == text
