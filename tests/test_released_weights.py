"""Released weights: found by name, small, documented, and as good as their cards say."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
import refnet.weights
from refnet.cli import main
from refnet.detection.boxes import iou
from refnet.errors import WeightsError
from refnet.faces.landmarks import FaceLandmarker
from refnet.networks.defaults import DETECTOR, LANDMARKER
from refnet.training.evaluation import find_landmarks
from refnet.training.metrics import average_precision, nme

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "weights").glob("*.safetensors"))
#: A face in the sample photo, forehead to chin.
ASTRONAUT = (175, 70, 275, 205)


def figure(card: str, name: str) -> float:
    """The number in a row of a card's table."""
    (value,) = re.findall(rf"^\| {re.escape(name)} \| ([\d.]+)", card, re.MULTILINE)
    return float(value)


def test_there_are_some_and_all_together_they_are_small() -> None:
    assert FILES
    assert sum(path.stat().st_size for path in FILES) <= 4_000_000
    allowed = {".safetensors", ".md", ".py"}
    assert {p.suffix for p in (ROOT / "weights").rglob("*.*") if p.is_file()} <= allowed | {".pyc"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_loads_by_name_and_has_a_card(path: Path) -> None:
    network, options = refnet.weights.catalogue()[path]
    assert refnet.load(network, backend="numpy").graph.options == options
    card = refnet.weights.card(path)
    for part in ("Data", "Split", "Figures", "Limits", "Terms", "Not for"):
        assert f"## {part}" in card, part
    assert "train" not in options.get("form", "inference")


def test_options_choose_among_them() -> None:
    path = refnet.weights.released(LANDMARKER, {"width": 0.5})
    assert path is not None
    assert refnet.weights.released(LANDMARKER, {}) == path
    assert refnet.weights.released(LANDMARKER, {"input_size": (112, 112)}) == path
    assert refnet.weights.released(LANDMARKER, {"width": 1.0}) is None
    assert refnet.weights.released(LANDMARKER, {"colour": "blue"}) is None
    assert refnet.weights.released("tinynet", {}) is None
    with pytest.raises(WeightsError, match=r"width=1; .*Released: .*width=0\.5"):
        refnet.load(LANDMARKER, width=1)


def test_the_landmark_net_finds_a_face_as_a_face_is() -> None:
    image = refnet.read_image(ROOT / "docs" / "astronaut.jpg")
    (points,) = FaceLandmarker(backend="numpy", refine=False)(image, ASTRONAUT).points
    left, right = points[60:68].mean(axis=0), points[68:76].mean(axis=0)
    nose, mouth, chin = points[54], points[76:96].mean(axis=0), points[16]
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < mouth[1] < chin[1]
    assert points[33:42, 1].mean() < left[1]
    assert np.linalg.norm(points[96] - left) < 0.2 * np.linalg.norm(right - left)
    x1, y1, x2, y2 = ASTRONAUT
    inside = (points > [x1 - 20, y1 - 20]) & (points < [x2 + 20, y2 + 20])
    assert inside.all()


def test_the_landmark_command_needs_no_weights(tmp_path: Path, capsys: Any) -> None:
    photo = str(ROOT / "docs" / "astronaut.jpg")
    words = ["landmarks", photo, "--output", str(tmp_path / "out.png"), "--json"]
    assert main([*words, "--box", ",".join(map(str, ASTRONAUT))]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert len(face["landmarks"]) == 98
    assert (tmp_path / "out.png").exists()


def test_the_landmark_net_is_as_good_as_its_card_says(assets: Path) -> None:
    from refnet.training.annotations import landmark_faces

    folder = assets / "validation" / "dlib_faces"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    results = find_landmarks(landmark_faces(folder), FaceLandmarker())
    errors = nme(results.predicted, results.truth)
    path = refnet.weights.released(LANDMARKER, {})
    assert path is not None
    card = refnet.weights.card(path)
    assert len(errors) == 43
    assert errors.mean() == pytest.approx(
        figure(card, "NME on dlib's 43 faces, 68 points"), abs=5e-4
    )


def test_faces_are_found_with_no_option_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)  # nothing is fetched
    monkeypatch.chdir(tmp_path)
    assert main(["faces", str(ROOT / "docs" / "astronaut.jpg")]) == 0
    assert (tmp_path / "faces" / "astronaut.jpg").exists()
    (line,) = (tmp_path / "faces" / "faces.jsonl").read_text().splitlines()
    (face,) = json.loads(line)["faces"]
    assert iou(np.array([face["box"]]), np.array([ASTRONAUT])) > 0.6
    points = np.array(face["landmarks"])
    assert points.shape == (98, 2)
    eyes, mouth = points[60:76].mean(axis=0), points[76:96].mean(axis=0)
    assert np.abs(eyes - (225, 100)).max() < 8  # where one sees them in the photo
    assert np.abs(mouth - (225, 142)).max() < 8


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 6.0])
def test_a_face_is_found_at_any_size(factor: float) -> None:
    cv2 = pytest.importorskip("cv2")
    photo = refnet.read_image(ROOT / "docs" / "astronaut.jpg")
    photo = cv2.resize(photo, (0, 0), fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    (face,) = refnet.FaceAnalyzer()(photo)  # 20 to 800 pixels
    assert iou(face.box[None], np.multiply([ASTRONAUT], factor)) > 0.5


def test_the_face_detector_is_as_good_as_its_card_says(assets: Path) -> None:
    pytest.importorskip("torch")  # the figures are the recipe's
    from weights.recipes.faces import measured

    path = refnet.weights.released(DETECTOR, {})
    assert path is not None
    card, figures = refnet.weights.card(path), measured(refnet.load(path), assets)
    if not figures:
        pytest.skip("no validation photos")
    assert len(figures) > 10
    for name, value in figures.items():
        assert value == pytest.approx(figure(card, name), abs=2e-3), name
    assert figures["precision at the default threshold"] >= 0.95


def test_the_lffd_face_detector_is_as_good_as_its_card_says(assets: Path) -> None:
    pytest.importorskip("torch")  # the figures are the recipe's
    from weights.recipes.detection_figures import on_validation

    path = refnet.weights.released("lffd-face-v2", {})
    assert path is not None
    card, figures = refnet.weights.card(path), on_validation(refnet.load(path), assets)
    assert len(figures) == 3
    for name, value in figures.items():
        assert value == pytest.approx(figure(card, name), abs=2e-3), name


def test_the_ball_detector_finds_the_balls_it_has_seen(assets: Path) -> None:
    from refnet.training.annotations import boxed_photos

    photos = boxed_photos(assets / "lffd" / "images" / "basketnet")
    detector = refnet.Detector("basketnet", threshold=0.05)
    found = [detector.detect(refnet.read_image(photo.image)) for photo in photos]
    path = refnet.weights.released("basketnet", {})
    assert path is not None
    for label, name in enumerate(detector.classes):
        ranked = [(d.boxes[d.labels == label], d.scores[d.labels == label]) for d in found]
        truths = [p.boxes[np.array(p.classes) == name] for p in photos]
        assert sum(map(len, truths)) > 15
        # Unseen frames, in the card, cannot be easier than those it was trained on.
        unseen = figure(refnet.weights.card(path), f"AP@0.5, {name}")
        assert unseen >= 0.8
        assert average_precision(ranked, truths).value >= unseen - 0.01
