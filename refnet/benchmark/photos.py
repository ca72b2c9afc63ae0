"""From a photo's file to boxes: refnet beside other detectors, which take turns photo by photo.

`peer(file, threads)` runs a published detector as its users do: YuNet by OpenCV's FaceDetectorYN, the others by ONNX
Runtime, with refnet's decoding of their outputs. Every engine reads the file by itself and sees the same pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.detection.detector import FaceDetector
from refnet.errors import ImageError, RefnetError
from refnet.media.images import opencv, read_image
from refnet.media.resize import resize
from refnet.optional import require

#: The number of faces that an engine finds in an image, uint8 (H, W, 3) BGR.
Engine = Callable[[Array], int]


@dataclass(frozen=True)
class PhotoResult:
    """What an engine took for all photos.

    Attributes:
        engine: its name.
        photos, shapes: photos that were counted, and how many shapes they have.
        faces: found in all of them.
        read, find: mean milliseconds of a photo: decoding and resizing its file; finding its faces.
        p10, p90: quantiles of their sum over its mean.
        ratio: the mean of the sum over that of the first engine.
    """

    engine: str
    photos: int
    shapes: int
    faces: int
    read: float
    find: float
    p10: float
    p90: float
    ratio: float

    @property
    def total(self) -> float:
        """Mean milliseconds of a photo, from its file to its faces."""
        return self.read + self.find


def measure_photos(
    paths: Sequence[Path], engines: Mapping[str, Engine], *, long_side: int | None = None
) -> list[PhotoResult]:
    """All photos once, by each engine in turn. The first photo is not counted, all that new shapes cost is.

    Args:
        engines: by name; the first is what the others are compared with.
        long_side: photos are resized to this longer side; None leaves them as they are.

    Raises:
        ImageError: fewer than two photos can be read.
    """
    names = list(engines)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    faces, shapes = dict.fromkeys(names, 0), set()
    for number, path in enumerate(paths):
        try:
            shape = _resized(read_image(path), long_side).shape
        except RefnetError:
            continue
        # The file has just been read for its shape, so the first engine finds it in the system's cache too.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            image = _resized(read_image(path), long_side)
            read = time.perf_counter()
            found = engines[name](image)
            times[name].append((read - start, time.perf_counter() - read))
            faces[name] += found if len(times[name]) > 1 else 0
        shapes.add(shape)
    counted = {name: np.array(own[1:]) * 1e3 for name, own in times.items()}
    if any(len(own) == 0 for own in counted.values()):
        raise ImageError("there are fewer than two photos to measure with")
    first = counted[names[0]].sum(axis=1).mean()
    results = []
    for name, own in counted.items():
        totals = own.sum(axis=1)
        read, find = own.mean(axis=0)
        p10, p90 = np.quantile(totals, [0.1, 0.9]) / totals.mean()
        results.append(
            PhotoResult(
                *(name, len(own), len(shapes), faces[name], float(read), float(find)),
                *(float(p10), float(p90), float(totals.mean() / first)),
            )
        )
    return results


def peer(file: Path, threads: int) -> Engine:
    """A published face detector, by the engine that its users run it with, at one scale.

    Raises:
        FileError, OptionError: see `refnet.FaceDetector`. DependencyError: there is no ONNX Runtime.
    """
    detector = FaceDetector(str(file), backend="numpy")
    if detector.detection.head == "yunet":
        return _yunet(file, detector, threads)
    network: str | bytes = str(file)
    if not detector.model.graph.fixed_size:
        detector, network = FaceDetector(detector.model, scales=(1.0,)), _of_any_size(file)
    onnxruntime: Any = require("onnxruntime", f"running {file.name}", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [one.name for one in session.get_outputs()]
    head: Any = detector.head
    # The outputs from the other engine, decoded as refnet's own are.
    head.model = lambda x: tuple(session.run(outputs, {name: x}))
    return lambda image: len(detector(image))


def _of_any_size(file: Path) -> bytes:
    """The file with free sizes: some name the size that they were exported at, and run at any."""
    model = require("onnx", f"running {file.name}", "onnx").load(str(file))
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in weights:
            for axis, size in enumerate(value.type.tensor_type.shape.dim):
                if axis != 1 or value in model.graph.output:
                    size.dim_param = f"{value.name}_{axis}"
    del model.graph.value_info[:]
    content: bytes = model.SerializeToString()
    return content


def _yunet(file: Path, detector: FaceDetector, threads: int) -> Engine:
    cv2 = opencv()
    cv2.setNumThreads(threads)
    net = cv2.FaceDetectorYN.create(
        *(str(file), "", (320, 320), detector.threshold, detector.nms_threshold, 5000)
    )

    def run(image: Array) -> int:
        net.setInputSize((image.shape[1], image.shape[0]))
        _, found = net.detect(image)
        return 0 if found is None else len(found)

    return run


def _resized(image: Array, long_side: int | None) -> Array:
    if long_side is None or max(image.shape[:2]) == long_side:
        return image
    scale = long_side / max(image.shape[:2])
    return resize(image, scale=scale, averaged=scale < 1)
