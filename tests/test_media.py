"""Images in and out: every kind that a folder of photos holds, and every kind of bad file."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from refnet.errors import FileError, ImageError, OutputError
from refnet.media.images import as_image, as_images, read_image, write_image
from refnet.ops import Array

RNG = np.random.default_rng(0)
#: Smooth, so that JPEG keeps it within a few levels; blue, green and red differ.
PICTURE = np.stack(np.meshgrid(np.arange(64) * 3, np.arange(48) * 4, indexing="xy"), 2)
PICTURE = np.dstack([PICTURE, np.full((48, 64), 30)]).astype(np.uint8)


def test_images_come_back_as_they_were_written(tmp_path: Path) -> None:
    for suffix in (".png", ".bmp", ".tiff"):
        write_image(tmp_path / f"x{suffix}", PICTURE)
        np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), PICTURE)
    write_image(tmp_path / "new/folder/x.jpg", PICTURE)
    difference = read_image(tmp_path / "new/folder/x.jpg").astype(int) - PICTURE
    assert np.abs(difference).max() < 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "x.bmp", "x.png", "x.tiff"]


def test_gray_alpha_and_16_bits_become_bgr(tmp_path: Path) -> None:
    gray, alpha = PICTURE[:, :, 0], np.dstack([PICTURE, PICTURE[:, :, :1]])
    deep = PICTURE.astype(np.uint16) * 257
    images: dict[str, Array] = {"gray": gray, "alpha": alpha, "deep": deep}
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.dstack([gray] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), PICTURE)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), PICTURE)


def test_photos_are_turned_upright_by_exif(tmp_path: Path) -> None:
    """Orientation 6: the camera was held upright, and the sensor's top is the picture's right."""
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6
    sensor = image.fromarray(PICTURE[:, :, ::-1])
    sensor.save(tmp_path / "turned.jpg", exif=exif.tobytes(), quality=95)
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.shape == (64, 48, 3)
    assert np.abs(upright.astype(int) - np.rot90(PICTURE, -1)).max() < 12


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(PICTURE[:, :, ::-1]).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - PICTURE).mean() < 4


def test_unusual_names_are_read_and_written(tmp_path: Path) -> None:
    for name in ("größe 顔.png", "a b#c.png", "-x.png"):
        write_image(tmp_path / name, PICTURE)
        np.testing.assert_array_equal(read_image(tmp_path / name), PICTURE)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"not an image at all", "damaged, or no image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "damaged, or no image"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=says) as caught:
        read_image(path)
    assert "bad.png" in str(caught.value)


def test_absent_and_unreadable_files_are_file_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file") as caught:
        read_image(tmp_path / "none.jpg")
    assert caught.value.filename == str(tmp_path / "none.jpg")
    assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOENT
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.filename) == (str(caught.value), caught.value.filename)
    with pytest.raises(FileError, match="directory"):
        read_image(tmp_path)


def test_a_bomb_of_pixels_is_refused(tmp_path: Path) -> None:
    """A PNG header that claims 100,000 × 100,000 pixels is an error, not 30 GB of memory."""
    write_image(tmp_path / "x.png", PICTURE)
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ImageError, match="cannot decode"):
        read_image(tmp_path / "x.png")


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="names no image format"):
        write_image(tmp_path / "x.txt", PICTURE)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_image(tmp_path / "file/x.png", PICTURE)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "x.png"
    write_image(target, PICTURE)
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_image(target, PICTURE[::-1])
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_pil_images_and_rgb_arrays_become_bgr() -> None:
    image = pytest.importorskip("PIL.Image")
    rgb = np.ascontiguousarray(PICTURE[:, :, ::-1])
    np.testing.assert_array_equal(as_image(image.fromarray(rgb)), PICTURE)
    np.testing.assert_array_equal(as_image(rgb, rgb=True), PICTURE)
    np.testing.assert_array_equal(
        as_image(image.fromarray(PICTURE[:, :, 0])), np.dstack([PICTURE[:, :, 0]] * 3)
    )


def test_every_kind_of_image_gives_the_same_pixels(tmp_path: Path) -> None:
    """Paths as text and as Path, the bytes of a file, gray arrays."""
    path = tmp_path / "x.png"
    write_image(path, PICTURE)
    for image in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        np.testing.assert_array_equal(as_image(image), PICTURE)
        np.testing.assert_array_equal(as_image(image, rgb=True), PICTURE)  # its order is known
    gray = PICTURE[:, :, 0]
    np.testing.assert_array_equal(as_image(gray), np.dstack([gray] * 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_images_are_turned_upright_as_files_are(tmp_path: Path, orientation: int) -> None:
    pil = pytest.importorskip("PIL.Image")
    image = pil.fromarray(np.ascontiguousarray(PICTURE[:, :, ::-1]))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    with pil.open(tmp_path / "x.png") as opened:
        np.testing.assert_array_equal(as_image(opened), read_image(tmp_path / "x.png"))


def test_pil_images_of_16_bits_become_8_as_files_do(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    deep = np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000
    pil.fromarray(deep).save(tmp_path / "deep.png")
    with pil.open(tmp_path / "deep.png") as opened:
        np.testing.assert_array_equal(as_image(opened), read_image(tmp_path / "deep.png"))


def test_several_images_are_a_list_and_one_is_refused() -> None:
    assert [image.shape for image in as_images([PICTURE, PICTURE[:4]])] == [
        PICTURE.shape,
        (4, *PICTURE.shape[1:]),
    ]
    assert len(as_images(np.stack([PICTURE] * 3))) == 3
    for one in (PICTURE, "photo.jpg", b"..."):
        with pytest.raises(ImageError, match=r"batch takes a list of images and got one"):
            as_images(one)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "cv2.imread returns None"),
        ([PICTURE, PICTURE], r"not list; for several use \.batch"),
        (7, "not int"),
        (np.zeros((4, 5, 1), np.uint8), "gray"),
        (np.full((4, 5, 3), 200.0), "0 to 255 with image.clip"),
        (np.zeros((4, 5, 3), np.uint16), ">> 8"),
        (np.zeros((4, 5, 4), np.uint8), "alpha"),
        (np.zeros((3, 4, 5), np.uint8), "Channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), "one image at a time"),
        (np.zeros((4, 5, 3), np.float32), "255"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
    ],
)
def test_what_is_no_image_says_what_to_do(image: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        as_image(image)
