"""Large JPEGs, of which no more is decoded than a search takes: against the same photo as an array."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import refnet
from refnet.detection.boxes import iou
from refnet.media import images
from refnet.media.images import jpeg_size, opencv, read_image, read_reduced
from refnet.ops import Array

PHOTO = Path(__file__).parents[1] / "docs" / "astronaut.jpg"
#: Sides longer than twice what is searched.
SIZE = (2608, 2904)


def large(size: tuple[int, int] = SIZE, sideways: bool = False, **options: Any) -> bytes:
    """The photo of a face enlarged to (width, height), as a JPEG; `sideways` a quarter to the left."""
    with Image.open(PHOTO) as photo:
        enlarged = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if sideways:
        enlarged = enlarged.transpose(Image.Transpose.ROTATE_90)
    file = io.BytesIO()
    enlarged.save(file, "jpeg", quality=92, **options)
    return file.getvalue()


def oriented(number: int) -> dict[str, Any]:
    """Options of a JPEG that a viewer is to turn upright; 6 is a quarter."""
    exif = Image.Exif()
    exif[0x0112] = number
    return {"exif": exif}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all that is decoded in the test."""
    shapes: list[tuple[int, ...]] = []
    decode = opencv().imdecode

    def watched(*arguments: Any) -> Array:
        image: Array = decode(*arguments)
        shapes.append(image.shape[:2])
        return image

    monkeypatch.setattr(opencv(), "imdecode", watched)
    return shapes


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, oriented(6)])
def test_the_header_states_the_size(options: dict[str, Any]) -> None:
    content = large((301, 200), **options)
    assert jpeg_size(content) == (200, 301)
    start = content.index(b"\xff\xda")
    assert all(jpeg_size(content[:n]) in (None, (200, 301)) for n in range(start))
    assert jpeg_size(content[:20]) is None and jpeg_size(b"\xff\xd8" + content[start:]) is None


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_reduced_photo_is_the_whole_one_made_smaller_and_upright(number: int) -> None:
    content = large((404, 300), **oriented(number))
    found = read_reduced(content, lambda shape: 100 / max(shape))
    assert found is not None
    reduced, by, shape = found
    with Image.open(io.BytesIO(content)) as photo:
        upright = np.asarray(ImageOps.exif_transpose(photo))[:, :, ::-1]
    assert (by, shape) == (4, upright.shape[:2])
    whole = np.asarray(Image.fromarray(upright[:, :, ::-1]).reduce(4))[:, :, ::-1]
    # An enlarged photo has no fine detail, of which the two would keep different parts.
    assert np.abs(whole.astype(int) - reduced).mean() < 2


def test_what_would_be_enlarged_again_or_is_odd_is_left_to_the_whole() -> None:
    content = large((400, 300))
    assert read_reduced(content, lambda _: 0.51) is None
    for wrong in (content[:500], b"", b"\xff\xd8\xff", "absent.jpg", np.zeros((2, 2, 3), np.uint8)):
        assert read_reduced(wrong, lambda _: 0.1) is None
    png = io.BytesIO()
    Image.new("RGB", (3000, 20)).save(png, "png")
    assert read_reduced(png.getvalue(), lambda _: 0.1) is None
    assert read_reduced(large((401, 300)), lambda _: 0.2) is None
    assert read_reduced(large((402, 300)), lambda _: 0.2) is not None
    square = read_reduced(large((400, 400), **oriented(6)), lambda _: 0.2)
    assert square is not None and square[2] == (400, 400)


@pytest.mark.parametrize("settings", [{}, {"min_size": 100}, {"min_size": 300}])
@pytest.mark.parametrize("number", [1, 6])
def test_boxes_are_those_of_the_whole_photo(
    settings: dict[str, Any], number: int, tmp_path: Path, decoded: list[tuple[int, ...]]
) -> None:
    detector = refnet.FaceDetector(**settings)
    path = tmp_path / "photo.jpg"
    path.write_bytes(large(sideways=number == 6, **oriented(number)))
    whole = read_image(path)
    expected = detector(whole)
    decoded.clear()
    for image in (path, str(path), path.read_bytes()):
        found = detector(image)
        assert found.image_size == whole.shape[:2] and len(found) == len(expected) == 1
        assert iou(found.boxes, expected.boxes).diagonal().min() > 0.95
        np.testing.assert_allclose(found.scores, expected.scores, atol=0.02)
        assert found.keypoints is not None and expected.keypoints is not None
        side = float((expected.boxes[:, 2:] - expected.boxes[:, :2]).max())
        assert np.abs(found.keypoints - expected.keypoints).max() < 0.02 * side
    by = 8 if settings == {"min_size": 300} else 4 if settings else 2
    assert decoded == [tuple(side // by for side in whole.shape[:2])] * 3


def test_scales_that_were_asked_for_and_tiles_see_every_pixel(
    decoded: list[tuple[int, ...]],
) -> None:
    content = large((2600, 600))
    refnet.FaceDetector(scales=(0.25,))(content)
    refnet.FaceDetector()(content, tile=2048)
    assert decoded == [(600, 2600)] * 2


def test_landmarks_are_those_of_the_whole_photo(decoded: list[tuple[int, ...]]) -> None:
    analyzer, content = refnet.FaceAnalyzer(), large()
    (expected,) = analyzer(images.decode_image(content))
    decoded.clear()
    (face,) = analyzer(content)
    assert len(decoded) == 2 and decoded[1] == face.image_size == SIZE[::-1]
    assert face.landmarks is not None and expected.landmarks is not None
    side = float((expected.box[2:] - expected.box[:2]).max())
    assert np.abs(face.landmarks - expected.landmarks).mean() < 0.01 * side
    assert face.crop(content).shape[0] > 0.9 * (expected.box[3] - expected.box[1])
    boxes = refnet.FaceAnalyzer(analyzer.detector, None)
    decoded.clear()
    assert len(boxes(content)) == 1 and len(decoded) == 1
    empty = io.BytesIO()
    Image.new("RGB", (2600, 2000), (90, 90, 90)).save(empty, "jpeg")
    decoded.clear()
    assert analyzer(empty.getvalue()) == [] and decoded == [(1000, 1300)]
