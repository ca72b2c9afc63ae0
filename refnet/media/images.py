"""Images in and out, and what counts as an image.

An image is a path, the bytes of a file, a PIL image or a uint8 array; see `as_image`. Arrays are in
OpenCV's BGR order: that is what cv2 frames are, and what the networks here were trained on. OpenCV is
imported when a function here first needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from refnet.arrays import Array, Pair
from refnet.errors import ImageError
from refnet.files import reading, write_file
from refnet.optional import require

#: Formats that OpenCV writes colours in.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm"}
)

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    #: What `as_image` takes: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in BGR
    #: order or gray (H, W).
    Image = str | os.PathLike[str] | bytes | PILImage | Array
else:
    Image = Any

#: What `as_image` takes, for sentences.
KINDS = "a path, the bytes of a file, a PIL image or a uint8 array (H, W, 3) or (H, W)"


def opencv() -> ModuleType:
    """The module `cv2`, which opencv-python and opencv-python-headless both provide, as do their contrib builds.

    Raises:
        DependencyError: none is installed, or the one that is lacks a library of the system.
    """
    return require(
        "cv2",
        "reading, writing, drawing or turning images",
        "opencv-python",
        ", or on a machine without a display with pip install opencv-python-headless",
    )


def read_image(path: str | os.PathLike[str]) -> Array:
    """The image in a file, uint8 (H, W, 3) BGR.

    Turned upright by its EXIF orientation; gray becomes three equal channels, 16 bits become 8, an
    alpha channel is dropped, CMYK is converted.

    Raises:
        FileError: the file is absent or cannot be read.
        ImageError: it is empty, or no image that OpenCV can decode.
    """
    with reading(path):
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on Windows
    return decode_image(data, os.fspath(path))


def decode_image(data: bytes | Array, name: str = "the image") -> Array:
    """The image in the bytes of a file, as `read_image` has it; `name` is what errors call it.

    Raises:
        ImageError: the bytes are none, or no image that OpenCV can decode.
    """
    cv2 = opencv()
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    if not len(array):
        raise ImageError(f"cannot read {name}: the file is empty")
    try:
        image = cv2.imdecode(array, cv2.IMREAD_COLOR)
    except cv2.error as error:  # such as a picture of more pixels than OpenCV's limit
        raise ImageError(f"cannot decode {name}: {error.err or error}") from error
    if image is None:
        raise ImageError(
            f"cannot decode {name}: it is damaged, or no image (JPEG, PNG, WebP, TIFF, BMP)"
        )
    return np.asarray(image)


def read_reduced(
    image: Any, largest_scale: Callable[[Pair], float]
) -> tuple[Array, int, Pair] | None:
    """A JPEG at a half, a quarter or an eighth of its size, which takes half the time and less to decode.

    Its blocks of 8×8 waves are summed up for as many pixels as are wanted (Wallace 1992; libjpeg's scale_denom), which
    differs from averages of pixels by half a level in the mean.

    Args:
        image: a path, or the bytes of a file.
        largest_scale: of (height, width), which may be swapped: the largest scale at which the photo will be looked at.

    Returns:
        The image, uint8 (h, w, 3) BGR, turned upright; what it was divided by; and the (height, width) of the whole
        photo, upright. None where this is no such file, where it would have to be enlarged again, where a side does not
        divide, and where anything is damaged: decoding all of it tells what.
    """
    try:
        content = _content_of_jpeg(image)
    except OSError:
        return None
    stated = None if content is None else jpeg_size(content)
    if content is None or stated is None:
        return None
    # Of a side that does not divide, the last pixel would be of fewer, and the first one where the photo is mirrored.
    scale = largest_scale(stated)
    by = next((n for n in (8, 4, 2) if scale * n <= 1 and not any(side % n for side in stated)), 1)
    if by == 1:
        return None
    cv2 = opencv()
    flag = getattr(cv2, f"IMREAD_REDUCED_COLOR_{by}")
    reduced = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    if reduced is None:
        return None
    # EXIF data may have turned it by a quarter.
    height, width = (side * by for side in reduced.shape[:2])
    return (np.asarray(reduced), by, (height, width)) if {height, width} == {*stated} else None


def _content_of_jpeg(image: Any) -> bytes | None:
    """The bytes of the file, where it is a JPEG."""
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            start = file.read(3)
            return start + file.read() if start == b"\xff\xd8\xff" else None
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image) if bytes(image[:3]) == b"\xff\xd8\xff" else None
    return None


def jpeg_size(content: bytes) -> Pair | None:
    """(height, width) that the frame header of a JPEG states (ITU-T T.81, B.2.2), not turned upright; None without one."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        kind = content[at + 1]
        if kind == 0xFF:  # a byte of filling
            at += 1
        elif kind == 0xDA:  # the image itself
            return None
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(content[at + n : at + n + 2], "big") for n in (5, 7))
            return (height, width) if height and width else None
        else:
            at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    return None


def write_image(path: str | os.PathLike[str], image: Any) -> None:
    """Write an image, as `as_image` takes it, in the format that the suffix names.

    The file appears complete or not at all.

    Raises:
        ImageError: the suffix names no format. OutputError: the file cannot be written.
    """
    cv2 = opencv()
    target = Path(path)
    if target.suffix.lower() not in IMAGE_SUFFIXES:
        raise ImageError(
            f"cannot write {target}: its suffix names no image format; use one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    done, encoded = cv2.imencode(target.suffix, as_image(image))
    if not done:
        raise ImageError(f"cannot write {target}: OpenCV could not encode this image")
    write_file(target, [encoded.tobytes()])


def as_image(image: Any, *, rgb: bool = False) -> Array:
    """`image` as uint8 (H, W, 3) BGR: the one place that decides what an image is.

    Args:
        image: the path of a file; the bytes of a file; a PIL image, turned upright as files are; or a
            uint8 array, (H, W, 3) or gray (H, W).
        rgb: the channels of an array are in the order R, G, B. Of the others the order is known.

    Raises:
        FileError: the file is absent or cannot be read.
        ImageError: it is no such image; the message says what it is and what to do.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, rgb)
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        return _from_pil(image)
    if image is None:
        raise ImageError(
            "got None for an image: cv2.imread returns None for a file that it cannot read; pass the "
            "path itself"
        )
    if isinstance(image, Sequence):
        raise ImageError(f"an image is {KINDS}, not {_named(image)}; for several use .batch([...])")
    raise ImageError(f"an image is {KINDS}, not {_named(image)}")


def as_images(images: Iterable[Any], *, rgb: bool = False) -> list[Array]:
    """Each of `images` as `as_image` has it.

    Raises:
        ImageError: `images` is one image, not several. And as `as_image`.
    """
    single = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview)
    single |= isinstance(images, np.ndarray) and images.ndim < 4
    if single or not isinstance(images, Iterable):
        raise ImageError(
            f"batch takes a list of images and got one {_named(images)}; for one image call the object "
            "itself, or use .batch([image])"
        )
    return [as_image(image, rgb=rgb) for image in images]


def _checked(image: Array, rgb: bool) -> Array:
    """A uint8 array (H, W, 3) or (H, W) as BGR."""
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2) or 0 in image.shape:
        raise ImageError(
            f"an image array is uint8, (H, W, 3) or gray (H, W); got {image.dtype} {image.shape}."
            f"{_advice(image)}"
        )
    if not colour:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, ::-1] if rgb else image)


def _from_pil(image: Any) -> Array:
    """A PIL image as uint8 (H, W, 3) BGR, as `read_image` would read its file."""
    upright = require("PIL.ImageOps", "PIL images", "pillow").exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits, which PIL would cut at 255
        return _checked((np.clip(np.asarray(upright), 0, 65535) >> 8).astype(np.uint8), False)
    return _checked(np.asarray(upright.convert("RGB")), True)


def _named(image: Any) -> str:
    """What `image` is, for a sentence."""
    if isinstance(image, np.ndarray):
        return f"array {image.shape}"
    return type(image).__name__


def _advice(image: Array) -> str:
    """What most likely turns `image` into an image."""
    shape = image.shape
    if image.ndim == 3 and shape[2] == 4:
        return " Drop the alpha channel with image[:, :, :3]."
    if image.ndim == 3 and shape[2] == 1:
        return " For a gray image, pass image[:, :, 0]."
    if image.ndim == 3 and shape[0] == 3 != shape[2]:
        return " Channels come last: pass image.transpose(1, 2, 0)."
    if image.ndim == 4:
        return " Pass one image at a time, or several to .batch([...])."
    if image.dtype.kind == "f" and image.size and image.max() > 1:
        return " Convert values in 0 to 255 with image.clip(0, 255).astype('uint8')."
    if image.dtype.kind == "f":
        return " Convert values in 0 to 1 with (image * 255).astype('uint8')."
    if image.dtype == np.uint16:
        return " Convert 16 bits with (image >> 8).astype('uint8')."
    return ""
