"""Images in other sizes without OpenCV: the same bytes as OpenCV's."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refnet.arrays import Array
from refnet.media import resize as module
from refnet.media.resize import resize

ROOT = Path(__file__).parents[1]
SIDES = st.integers(1, 150)
SCALES = st.one_of(
    st.floats(0.05, 3.0), st.sampled_from([0.5, 0.25, 0.125, 0.2, 1 / 3, 1.0, 1.5, 2.0])
)


def drawn(seed: int, height: int, width: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(0, 99), SIDES, SIDES, SCALES, st.booleans())
def test_by_a_scale(seed: int, height: int, width: int, scale: float, averaged: bool) -> None:
    if min(round(height * scale), round(width * scale)) < 1 or (averaged and scale > 1):
        return
    image = drawn(seed, height, width)
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    expected = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=method)
    np.testing.assert_array_equal(module._resize(image, None, scale, averaged), expected)


@given(st.integers(0, 99), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_to_a_size(seed: int, h: int, w: int, height: int, width: int, averaged: bool) -> None:
    if averaged and (height > h or width > w):
        return
    image = drawn(seed, h, w)
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    expected = cv2.resize(image, (width, height), interpolation=method)
    np.testing.assert_array_equal(module._resize(image, (width, height), 1.0, averaged), expected)


def test_what_a_network_sees_of_a_photo() -> None:
    image = drawn(0, 480, 640)
    for size in ((112, 112), (320, 240), (213, 160), (1280, 960), (640, 480)):
        np.testing.assert_array_equal(
            module._resize(image, size, 1.0, False), cv2.resize(image, size)
        )


@pytest.mark.parametrize("turn", [0.0, 30.0, -75.0, 180.0])
def test_through_an_affine_map(turn: float) -> None:
    """As OpenCV 5 samples; version 4 takes places at 32nds of a pixel, which shows on noise and not on what is smooth."""
    noise, angle = drawn(int(turn) % 7, 90, 120), np.deg2rad(turn)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for scale, shift in ((0.4, (-20.0, 10.5)), (1.7, (30.25, 40.0))):
        matrix = np.concatenate([rotation * scale, np.array(shift)[:, None]], axis=1)
        for image in (noise, smooth) if int(cv2.__version__[0]) >= 5 else (smooth,):
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            expected = cv2.warpAffine(image, matrix, (112, 100), flags=flags)
            found = module._warp(image, matrix, (112, 100))
            assert found.dtype == np.uint8 and found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).max() <= (1 if image is noise else 2)


@given(st.integers(0, 99), SIDES, SIDES, st.booleans())
def test_apart_by_channels(seed: int, height: int, width: int, mirrored: bool) -> None:
    """Of a view as well, whose columns may run backwards."""
    image = drawn(seed, height + 2, width)[1:-1, :: -1 if mirrored else 1]
    with pytest.MonkeyPatch.context() as patch:
        found = [module.planes(image)]
        patch.setattr(module, "_opencv", lambda: None)
        found.append(module.planes(image))
    for channels in found:
        np.testing.assert_array_equal(np.stack(channels, axis=2), image)


def test_opencv_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn(0, 20, 30)
    expected = resize(image, (11, 7))
    monkeypatch.setattr(module, "_resize", None)
    np.testing.assert_array_equal(resize(image, (11, 7)), expected)


ARRAYS = """
import json, sys
for name in {absent!r}: sys.modules[name] = None
import numpy as np, refnet
photo = np.load({path!r})
found = refnet.FaceAnalyzer(min_size=40, threads=1)(photo)
balls = refnet.Detector("basketnet", threads=1)(photo)
try:
    refnet.read_image({file!r})
    error = ""
except refnet.RefnetError as e:
    error = str(e)
print(json.dumps([found.to_dicts(), balls.boxes.tolist(), error, "cv2" in sys.modules and sys.modules["cv2"] is not None]))
"""


def test_arrays_to_faces_without_opencv(tmp_path: Path) -> None:
    """Detection, landmarks and other objects find the same; what reads a file names both builds of OpenCV."""
    path = tmp_path / "photo.npy"
    np.save(path, np.asarray(cv2.imread(str(ROOT / "docs" / "astronaut.jpg"))))
    results = [
        json.loads(
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    ARRAYS.format(
                        absent=absent, path=str(path), file=str(ROOT / "docs" / "astronaut.jpg")
                    ),
                ],
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for absent in ((), ("cv2",))
    ]
    with_opencv, without = results
    assert without[1] == with_opencv[1]
    (face,), (expected,) = without[0], with_opencv[0]
    assert (face["box"], face["score"]) == (expected["box"], expected["score"])
    # A head that leans is turned upright, for which OpenCV's arithmetic differs between its versions.
    np.testing.assert_allclose(face["landmarks"], expected["landmarks"], atol=0.1)
    assert "opencv-python" in without[2] and "opencv-python-headless" in without[2]
    assert not without[3]
