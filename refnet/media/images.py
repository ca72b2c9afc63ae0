"""Images in and out, and what counts as an image.

An image is a uint8 array (H, W, 3) in OpenCV's BGR order: that is what cv2 frames are, and what the
networks here were trained on. OpenCV is imported when a function here first needs it.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from refnet.errors import ImageError
from refnet.files import write_file
from refnet.ops import Array
from refnet.optional import require

#: Formats that OpenCV writes colours in.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm"}
)


def opencv() -> ModuleType:
    """The module `cv2`, which opencv-python and opencv-python-headless both provide.

    Raises:
        DependencyError: neither is installed.
    """
    return require("cv2", "work on images", "opencv-python-headless")


def read_image(path: str | os.PathLike[str]) -> Array:
    """The image in a file, uint8 (H, W, 3) BGR.

    Turned upright by its EXIF orientation; gray becomes three equal channels, 16 bits become 8, an
    alpha channel is dropped, CMYK is converted.

    Raises:
        ImageError: the file is absent, unreadable, empty, or no image that OpenCV can decode.
    """
    try:
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on Windows
    except OSError as error:
        raise ImageError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error
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


def write_image(path: str | os.PathLike[str], image: Array) -> None:
    """Write an image, uint8 (H, W, 3) BGR, in the format that the suffix names.

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
    """`image` as uint8 (H, W, 3) BGR.

    Args:
        image: an array, or a PIL image, which is converted by itself.
        rgb: the array's channels are in the order R, G, B.

    Raises:
        ImageError: it is no such array; the message says what it is and what to do.
    """
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"an image is a uint8 array (H, W, 3) or a PIL image, not {type(image).__name__}; read a "
            "file with refnet.read_image(path)"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f"an image is a uint8 array (H, W, 3); got {image.dtype} {image.shape}.{_advice(image)}"
        )
    return np.ascontiguousarray(image[:, :, ::-1] if rgb else image)


def _advice(image: Array) -> str:
    """What most likely turns `image` into an image."""
    shape = image.shape
    if image.ndim == 2:
        return " For a gray image, pass np.repeat(image[:, :, None], 3, axis=2)."
    if image.ndim == 3 and shape[2] == 4:
        return " Drop the alpha channel with image[:, :, :3]."
    if image.ndim == 3 and shape[0] == 3 != shape[2]:
        return " Channels come last: pass image.transpose(1, 2, 0)."
    if image.ndim == 4:
        return " Pass one image at a time."
    if image.dtype.kind == "f":
        return " Convert values in 0 to 1 with (image * 255).astype('uint8')."
    return ""
