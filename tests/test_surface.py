"""The public names and their signatures, and what a newcomer's guesses meet.

After a change that is meant:  python -m tests.test_surface > tests/public_surface.txt
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.errors import RefnetError
from refnet.faces.face import Face, Faces

RECORDED = Path(__file__).with_name("public_surface.txt")
#: Names that read the same on every class and in every release of Python.
PLAIN = frozenset({"__call__", "__getitem__", "__iter__", "__len__"})


def surface() -> Iterator[str]:
    """A line for each public name, and for each public member of the classes among them."""
    for name in refnet.__all__:
        value = getattr(refnet, name)
        if not inspect.isclass(value):
            yield f"{name}{signature(value)}"
            continue
        if issubclass(value, Exception):
            yield f"{name}({', '.join(base.__name__ for base in value.__bases__)})"
            continue
        yield f"{name}{signature(value)}"
        members = {n: m for kind in value.__mro__[::-1] for n, m in own_members(kind).items()}
        for member, found in sorted(members.items()):
            if callable(found):
                yield f"    {member}{signature(found)}"
            else:
                yield f"    {member}"


def own_members(kind: type) -> dict[str, Any]:
    """{name: member} that `kind` itself brings to the surface."""
    if not kind.__module__.startswith("refnet"):
        return {}
    return {n: m for n, m in vars(kind).items() if n[0] != "_" or n in PLAIN}


def signature(function: Callable[..., Any]) -> str:
    """Names, kinds and defaults; annotations are left to the type checker."""
    plain = inspect.Parameter.empty
    try:
        given = inspect.signature(function)
    except ValueError:
        return "(...)"
    parameters = [
        p.replace(annotation=plain) for p in given.parameters.values() if p.name != "self"
    ]
    return str(given.replace(parameters=parameters, return_annotation=plain))


def test_the_public_surface_is_the_recorded_one() -> None:
    """Who changes it does so knowingly, and writes it down in CHANGELOG.md."""
    assert list(surface()) == RECORDED.read_text(encoding="utf-8").splitlines()


IMAGE = np.full((80, 100, 3), 90, np.uint8)


@cache
def analyzer() -> refnet.FaceAnalyzer:
    return refnet.FaceAnalyzer()


def faces() -> Faces:
    points = np.random.default_rng(0).uniform(20, 60, (98, 2)).astype(np.float32)
    box = np.array([10, 20, 50, 70], np.float32)
    return Faces([Face(box, 0.9, points, (80, 100), track_id=3)])


def found() -> refnet.Detections:
    box = np.array([[10, 20, 50, 70]], np.float32)
    return refnet.Detections(box, np.ones(1, np.float32), np.zeros(1, int), ("face",), (80, 100))


R: Any = refnet  # guesses are no names that a type checker knows
PHOTO = Path(__file__).parents[1] / "docs" / "astronaut.jpg"


#: What was guessed, the guess, and what the one line names that it ends in; empty where it works.
GUESSES: list[tuple[str, Callable[[], Any], str]] = [
    # insightface
    ("refnet.FaceAnalysis", lambda: R.FaceAnalysis, "did you mean FaceAnalyzer"),
    ("app.get(image)", lambda: any_analyzer().get, r"did you mean a call, as in analyzer\(image"),
    ("app.prepare(...)", lambda: any_analyzer().prepare, "arguments of the class"),
    ("providers=", lambda: R.FaceAnalyzer(providers=["CPU"]), "did you mean backend"),
    ("det_size=", lambda: R.FaceDetector(det_size=(640, 640)), "did you mean min_size"),
    ("face.bbox", lambda: any_face().bbox, "did you mean box"),
    ("face.kps", lambda: any_face().kps, "did you mean keypoints"),
    ("face.det_score", lambda: any_face().det_score, "did you mean score"),
    ("face.pose", lambda: any_face().pose, ""),
    ("app.draw_on", lambda: any_faces().draw_on, r"did you mean draw\(image\)"),
    # uniface
    ("refnet.RetinaFace", lambda: R.RetinaFace, "did you mean FaceDetector"),
    ("detector.detect(image)", lambda: any_analyzer().detector.detect(IMAGE), ""),
    ("analyzer.analyze(image)", lambda: any_analyzer().analyze, "did you mean a call"),
    ("confidence_threshold=", lambda: R.Detector("x", confidence_threshold=1), "mean threshold"),
    ("face.confidence", lambda: any_face().confidence, "did you mean score"),
    ("landmarker.get_landmarks", lambda: any_landmarker().get_landmarks, "landmarker.image, boxes"),
    # ultralytics
    ("refnet.YOLO", lambda: R.YOLO, "did you mean Detector"),
    ("model('photo.jpg')", lambda: any_analyzer()(str(PHOTO)), ""),
    ("model.predict", lambda: any_analyzer().detector.predict, "did you mean a call"),
    ("conf=", lambda: R.FaceAnalyzer(conf=0.5), "did you mean threshold"),
    ("imgsz=", lambda: R.FaceDetector(imgsz=640), "did you mean min_size"),
    ("iou=", lambda: R.FaceDetector(iou=0.5), "did you mean nms_threshold"),
    ("boxes.xyxy", lambda: any_found().xyxy, "did you mean boxes"),
    ("boxes.conf", lambda: any_found().conf, "did you mean scores"),
    ("result.plot()", lambda: any_faces().plot, r"did you mean draw\(image\)"),
    ("model.track", lambda: any_analyzer().track, "FaceTracker"),
    ("box.id", lambda: any_face().id, "did you mean track_id"),
    ("model(image, conf=)", lambda: any_analyzer()(IMAGE, conf=1), "set threshold when it is made"),
    (
        "detector(image, iou=)",
        lambda: any_analyzer().detector(IMAGE, iou=1),
        "set nms_threshold when",
    ),
    ("model=a picture", lambda: R.FaceAnalyzer(str(PHOTO)), "is a picture, no network"),
    # mediapipe
    ("refnet.FaceMesh", lambda: R.FaceMesh, "did you mean FaceLandmarker"),
    ("min_detection_confidence=", lambda: R.FaceDetector(min_detection_confidence=1), "threshold"),
    ("detect_for_video", lambda: R.FaceTracker().detect_for_video, "a call with the image"),
    # OpenCV
    ("refnet.imread", lambda: R.imread, "did you mean read_image"),
    ("refnet.FaceDetectorYN", lambda: R.FaceDetectorYN, "did you mean FaceDetector"),
    ("score_threshold=", lambda: R.FaceDetector(score_threshold=0.5), "did you mean threshold"),
    ("nms_threshold=", lambda: R.FaceDetector(nms_threshold=0.3, top_k=50), ""),
    ("detector.setInputSize", lambda: any_analyzer().detector.setInputSize, "of any size"),
    ("an absent image", lambda: any_analyzer()(None), "cv2.imread returns None"),
    ("a gray image", lambda: any_analyzer()(IMAGE[:, :, 0]), ""),
    ("a file's bytes", lambda: any_analyzer()(PHOTO.read_bytes()), ""),
    ("a list of images", lambda: any_analyzer()([IMAGE, IMAGE]), r"use .batch\(\[...\]\)"),
    ("detector.batch(image)", lambda: any_analyzer().detector.batch(IMAGE), "takes a list"),
    # what refnet 0.1.0 had
    ("skip_branches=", lambda: R.FaceDetector(skip_branches=[0]), "did you mean branches"),
    ("resize_scale=", lambda: R.FaceDetector(resize_scale=2), "did you mean scales"),
    ("passes=", lambda: R.FaceLandmarker(passes=2), "did you mean refine"),
    ("found.to_dict()", lambda: any_found().to_dict, "did you mean to_dicts"),
    ("face.track", lambda: any_face().track, "did you mean track_id"),
    ("tracker.update(found)", lambda: R.FaceTracker().update(found(), 0), "Faces of a FaceAnal"),
    ("load(widht=)", lambda: R.load("lffd-face-v2", widht=0.5), "did you mean width"),
    ("load('lfd-face-v2')", lambda: R.load("lfd-face-v2"), "did you mean 'lffd-face-v2'"),
    ("FaceDetector('x.onnx')", lambda: R.FaceDetector("x.onnx"), "there is no file x.onnx"),
    ("FaceDetector('basketnet')", lambda: R.FaceDetector("basketnet"), "refnet.Detector gives"),
    ("model(image)", lambda: any_analyzer().detector.model(IMAGE), "looks like an image"),
]


def any_analyzer() -> Any:
    return analyzer()


def any_landmarker() -> Any:
    return analyzer().landmarker


def any_faces() -> Any:
    return faces()


def any_face() -> Any:
    return faces()[0]


def any_found() -> Any:
    return found()


@pytest.mark.parametrize(("guess", "names"), [g[1:] for g in GUESSES], ids=[g[0] for g in GUESSES])
def test_a_guess_works_or_ends_in_the_right_spelling(guess: Callable[[], Any], names: str) -> None:
    if not names:
        guess()
        return
    with pytest.raises((RefnetError, AttributeError), match=names) as caught:
        guess()
    assert "\n" not in str(caught.value)


def test_unknown_keywords_are_type_errors() -> None:
    with pytest.raises(TypeError):
        R.FaceDetector(conf=0.5)


if __name__ == "__main__":
    print("\n".join(surface()))
