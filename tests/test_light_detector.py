"""The light face detector: its cells mean what the formula says, on images of any size, whole or in tiles."""

import math
from typing import Any

import numpy as np

import refnet
from refnet.detection.detections import Candidates
from refnet.detection.detector import FaceDetector
from refnet.detection.geometry import geometry
from refnet.detection.light import LightHead, decode_cells
from tests.detection_networks import image_of, seeded


def light_map(count: int, cells: dict[tuple[int, int], list[float]]) -> np.ndarray:
    """A branch's map (15, count, count) with these cells; the others are surely background."""
    numbers = np.zeros((15, count, count), np.float32)
    numbers[0] = -20
    for (row, column), values in cells.items():
        numbers[:, row, column] = values
    return numbers


def test_cells_are_decoded_by_the_formula() -> None:
    """Written out: softplus(n)·1.5·8 to each side, points in strides, both about the cell's centre."""
    branch = geometry(refnet.build("lffd-light"))[0]
    numbers = [1.0, 0.5, -1.0, 2.0, 0.0, *np.linspace(-2, 2, 10).tolist()]
    found = decode_cells(branch, light_map(4, {(1, 2): numbers}), 0.0, scale=2.0, origin=(64, 128))
    x, y = 128 + 2.5 * 8, 64 + 1.5 * 8
    left, top, right, bottom = (12 * math.log(1 + math.exp(n)) for n in numbers[1:5])
    box = np.array([x - left, y - top, x + right, y + bottom]) / 2
    np.testing.assert_allclose(found.boxes, [box], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-1))], rtol=1e-6)
    points = [(x + 8 * a, y + 8 * b) for a, b in zip(numbers[5::2], numbers[6::2], strict=True)]
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0], np.array(points) / 2, rtol=1e-6)


def test_images_of_any_size_are_continued_to_multiples_of_64() -> None:
    """With zeros, to the right and below, and to at least 192; what lies beyond the edges is no box."""
    model = seeded("lffd-light", width=0.25, input_size=(64, 64))
    detector = FaceDetector(model, threshold=0.3, scales=(1.0,), nms=None)
    for height, width in ((100, 130), (64, 64), (250, 70)):
        image = image_of(height, width)
        found = detector(image)
        padded = np.zeros(
            (max(192, -(-height // 64) * 64), max(192, -(-width // 64) * 64), 3), np.uint8
        )
        padded[:height, :width] = image
        whole = detector(padded)
        assert 0 < len(found) <= len(whole)
        assert (found.boxes[:, 2] <= width).all()
        assert (found.boxes[:, 3] <= height).all()
        assert found.keypoints is not None
        assert found.keypoints.shape == (len(found), 5, 2)
        assert set(found.scores.tolist()) <= set(whole.scores.tolist())


def test_tiles_give_the_result_of_the_whole() -> None:
    model = seeded("lffd-light", width=0.25, input_size=(64, 64))
    detector = FaceDetector(model, threshold=0.45, scales=(1.0,), nms=None)
    image = image_of(150, 2400)
    whole, tiled = detector(image), detector(image, tile=1536)
    assert len(whole) > 10
    # Sums in another order change the last bit of a score, and so the order of equal ones.
    by_place = [np.lexsort(np.round(found.uncut, 2).T) for found in (whole, tiled)]
    np.testing.assert_allclose(tiled.uncut[by_place[1]], whole.uncut[by_place[0]], atol=1e-3)
    np.testing.assert_allclose(tiled.scores[by_place[1]], whole.scores[by_place[0]], atol=1e-5)


def test_of_several_scales_each_keeps_the_sizes_it_is_good_at(monkeypatch: Any) -> None:
    """Of an image of 3,000 pixels the first scale leaves what is above 320 pixels there to the second."""
    sides, seen = np.array([300.0, 330, 600]), list[float]()

    def decode(self: LightHead, outputs: Any, tile: Any, scale: float) -> Candidates:
        seen.append(scale)
        boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1) / scale
        return Candidates(boxes, np.full(3, 0.9, np.float32), np.zeros(3, np.int64))

    monkeypatch.setattr(LightHead, "decode", decode)
    image = np.zeros((3000, 3000, 3), np.uint8)
    (found,) = FaceDetector(nms=None).head.candidates([image])
    assert len(seen) == 2
    np.testing.assert_allclose(found.boxes[0, 2], 300 / seen[0])
    np.testing.assert_allclose(found.boxes[1:, 2], sides / seen[1])
    (whole,) = FaceDetector(nms=None, scales=seen).head.candidates([image])
    assert len(whole) == 6


def test_what_is_thinner_than_a_pixel_when_shrunk_is_not_looked_at() -> None:
    detector = FaceDetector()
    head: Any = detector.head
    head.model = None  # calling it would fail
    for shape in ((1, 100_000, 3), (1, 3000, 3), (3000, 2, 3)):
        assert len(detector(np.zeros(shape, np.uint8))) == 0
