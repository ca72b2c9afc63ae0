"""`refnet evaluate`: figures, plots and sheets, from perfect and from real networks."""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import refnet
from refnet.checkpoints import save
from refnet.cli import evaluate
from refnet.detection.detections import Detections
from refnet.detection.detector import Detector
from refnet.errors import OptionError
from refnet.faces.landmarks import FaceLandmarker
from refnet.random_weights import random_weights
from refnet.training.annotations import BoxedPhoto, landmark_faces
from refnet.training.evaluation import results_by_class


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    return evaluate.run(parser.parse_args(["evaluate", *words]))


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Four prepared crops, whose points are known."""
    folder = tmp_path / "crops"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (112, 112, 3), np.uint8))
        points = rng.uniform(0.2, 0.8, (98, 2))
        points[60], points[72] = (0.3, 0.4), (0.7, 0.4)
        lines.append(f"{i}.png " + " ".join(f"{v:.12f}" for v in points.ravel()))
    (folder / "list.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    graph = refnet.build("pfld-ultralight-slim", width=0.125)
    save(tmp_path / "slim.safetensors", graph.name, graph.options, random_weights(graph))
    return tmp_path / "slim.safetensors"


def test_landmarks_of_a_network_that_errs_by_a_known_shift(
    crops: Path, weights: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    truth = np.stack([f.points for f in landmark_faces(crops)]) / 112
    shift = np.array([0.02, 0.04, 0.06, 0.08])[:, None, None] * [1, 0]
    monkeypatch.setattr(FaceLandmarker, "predict_crops", lambda self, pixels: truth + shift)
    files = [str(tmp_path / "curve.png"), str(tmp_path / "worst.png")]
    words = [
        "--data",
        str(crops),
        str(weights),
        "--plot",
        files[0],
        "--sheet",
        files[1],
    ]
    assert call("landmarks", *words, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    # The eyes' corners are 0.4 apart: errors 0.05, 0.1, 0.15, 0.2.
    assert figures["nme"] == pytest.approx(0.125)
    assert figures["failure_rate@0.1"] in (0.5, 0.75)  # 0.1 itself, but for rounding
    assert 0.12 < figures["auc@0.1"] < 0.13
    assert (figures["faces"], figures["points"]) == (4, 98)
    assert refnet.read_image(files[1]).shape == (248, 4 * 228, 3)
    assert refnet.read_image(files[0]).shape[0] > 300
    with pytest.raises(OptionError, match=r"curve\.png is there; --overwrite"):
        call("landmarks", *words)
    assert call("landmarks", *words, "--overwrite", "--normalisation", "box", "--limit", "0.2") == 0
    assert "auc@0.2" in capsys.readouterr().out


def test_points_that_cannot_be_compared_are_refused(crops: Path, tmp_path: Path) -> None:
    graph = refnet.build("pfld-ultralight-slim", width=0.125, landmarks=17)
    save(tmp_path / "few.safetensors", graph.name, graph.options, random_weights(graph))
    with pytest.raises(OptionError, match="finds 17 points and the data has 98"):
        call("landmarks", "--data", str(crops), str(tmp_path / "few.safetensors"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos with two faces each, in a table."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["image,x1,y1,x2,y2"]
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((160, 200, 3), 100, np.uint8))
        rows += [f"{i}.png,20,20,60,70", f"{i}.png,100,40,112,52"]
    (folder / "truth.csv").write_text("\n".join(rows))
    return folder


def test_detection_of_a_detector_with_known_boxes(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    graph = refnet.build("lffd-face-v2", width=0.125)
    save(tmp_path / "v2.safetensors", graph.name, graph.options, random_weights(graph))
    boxes = np.array([[20, 20, 60, 70], [130, 100, 160, 140]], np.float32)
    found = Detections(
        boxes, np.array([0.9, 0.7], np.float32), np.zeros(2, np.int64), ("face",), (160, 200)
    )
    monkeypatch.setattr(Detector, "__call__", lambda self, image: found)
    words = ["--data", str(photos), str(tmp_path / "v2.safetensors"), "--json"]
    files = [str(tmp_path / "curve.png"), str(tmp_path / "worst.png")]
    assert call("detection", *words, "--plot", files[0], "--sheet", files[1]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["face: AP@0.5"] == pytest.approx(0.5)  # three of six, and all before the false
    assert (figures["face: true boxes"], figures["photos"]) == (6, 3)
    assert figures["face: threshold"] == 0.6
    assert (figures["face: found at it"], figures["face: false at it"]) == (3, 3)
    assert refnet.read_image(files[1]).shape == (248, 3 * 228, 3)
    assert call("detection", *words, "--smallest", "20") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["face: AP@0.5"] == pytest.approx(1)
    assert figures["face: true boxes"] == 3


def test_detectors_are_measured_side_by_side_on_photos_of_one_size(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """The first finds all six faces; the second one of two, with a false box beside it, on every photo."""
    graph = refnet.build("lffd-face-v2", width=0.125)
    for name in ("first", "second"):
        save(tmp_path / f"{name}.safetensors", graph.name, graph.options, random_weights(graph))
    sizes: list[tuple[int, ...]] = []
    true = np.array([[10, 10, 30, 35], [50, 20, 56, 26]], np.float32)  # at half the size

    def found(detector: Detector, image: Any) -> Detections:
        assert "scales=(1.0,)" in repr(detector)
        sizes.append(image.shape)
        boxes = true.copy()
        if len(sizes) % 2 == 0:  # the detectors take turns on each photo
            boxes[1] += 20
        scores = np.array([0.9, 0.7], np.float32)
        return Detections(boxes, scores, np.zeros(2, np.int64), ("face",), image.shape[:2])

    monkeypatch.setattr(Detector, "__call__", found)
    words = ["--data", str(photos), str(tmp_path / "first.safetensors"), "--long-side", "100"]
    words += ["--peers", str(tmp_path / "second.safetensors")]
    assert call("detection", *words, "--json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert sizes == [(80, 100, 3)] * 6
    assert (first["network"], second["network"]) == ("first", "second")
    assert (first["face: AP@0.5"], second["face: AP@0.5"]) == (1, 0.5)
    # Half a false box a photo is one of three: the second has its recall before its second false box.
    at_half = "face: recall at 0.5 false boxes a photo"
    assert (first[at_half], second[at_half]) == (1, 0.5)
    assert (first["face: … below 20 px"], second["face: … below 20 px"]) == (1, 0)
    assert second["face: … 20 to 32 px"] == 1
    assert call("detection", *words, "--sheet", str(tmp_path / "worst.png")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "first", "second"]
    assert [line.split()[-2:] for line in lines if "AP@" in line] == [["1.000", "0.500"]]


def test_recall_is_grouped_by_what_the_annotation_says_of_a_face(tmp_path: Path) -> None:
    image, boxes = tmp_path / "a.png", [[0, 0, 30, 30], [50, 0, 90, 40], [0, 50, 40, 90]]
    flags = {"blur": [0.0, 2, 0], "occlusion": [0.0, 0, 2]}
    photo = BoxedPhoto.of(image, boxes, None, [False, False, True], flags)
    found = Detections(
        *(np.array(boxes[:1], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64)),
        *(("face",), (100, 100)),
    )
    (results,) = results_by_class([photo], [found])
    assert results.recall(0.5) == pytest.approx((0.5, 0.9))
    assert results.recall_by_group(0.5) == {
        "20 to 32 px": 1,
        "32 to 64 px": 0,
        "sharp": 1,
        "heavy blur": 0,
        "not occluded": 0.5,
    }


def test_detectors_of_other_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    graph = refnet.build("lffd-plate-small", width=0.25)
    save(tmp_path / "plate.safetensors", graph.name, graph.options, random_weights(graph))
    with pytest.raises(OptionError, match="finds plate and the data has face"):
        call("detection", "--data", str(photos), str(tmp_path / "plate.safetensors"))


def test_a_real_network_errs_by_its_published_figure_on_labels_by_hand(
    assets: Path, capsys: Any
) -> None:
    """GhostOne on augmented WFLW crops; on plain ones it is at 0.0353."""
    weights = assets / "pfld" / "onnx" / "PFLD_GhostOne_112_1_opt_sim.onnx"
    data = assets / "train" / "wflw30x10"
    if not data.is_dir():
        pytest.skip(f"no {data}")
    assert call("landmarks", "--data", str(data), str(weights), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["faces"] == 300
    assert 0.02 < figures["nme"] < 0.045
    rgb = ["--data", str(data), str(weights), "--json", "--channel-order", "rgb"]
    assert call("landmarks", *rgb) == 0
    assert json.loads(capsys.readouterr().out)["nme"] > figures["nme"]
