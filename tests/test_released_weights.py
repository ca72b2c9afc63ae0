"""Released weights: found by name, small, documented, and as good as their cards say."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
import refnet.weights
from refnet.cli import main
from refnet.cli.evaluate import find_landmarks
from refnet.errors import WeightsError
from refnet.faces.landmarks import USUAL_NETWORK, FaceLandmarker
from refnet.training.metrics import nme

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
    path = refnet.weights.released(USUAL_NETWORK, {"width": 0.25})
    assert path is not None
    assert refnet.weights.released(USUAL_NETWORK, {}) == path
    assert refnet.weights.released(USUAL_NETWORK, {"input_size": (112, 112)}) == path
    assert refnet.weights.released(USUAL_NETWORK, {"width": 1.0}) is None
    assert refnet.weights.released(USUAL_NETWORK, {"colour": "blue"}) is None
    assert refnet.weights.released("tinynet", {}) is None
    with pytest.raises(WeightsError, match=r"width=1; .*Released: .*width=0\.25"):
        refnet.load(USUAL_NETWORK, width=1)


def test_the_landmark_net_finds_a_face_as_a_face_is() -> None:
    image = refnet.read_image(ROOT / "docs" / "astronaut.jpg")
    (points,) = FaceLandmarker(backend="numpy").predict(image, ASTRONAUT).points
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
    words = ["landmarks", photo, "--output", str(tmp_path / "out.png"), "--json", "-"]
    assert main([*words, "--backend", "numpy", "--boxes", *map(str, ASTRONAUT)]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert len(face["points"]) == 98
    assert (tmp_path / "out.png").exists()


def test_the_landmark_net_is_as_good_as_its_card_says(assets: Path) -> None:
    from refnet.training.annotations import landmark_faces

    folder = assets / "validation" / "dlib_faces"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    results = find_landmarks(landmark_faces(folder), FaceLandmarker())
    errors = nme(results.predicted, results.truth)
    path = refnet.weights.released(USUAL_NETWORK, {})
    assert path is not None
    card = refnet.weights.card(path)
    assert len(errors) == 43
    assert errors.mean() == pytest.approx(
        figure(card, "NME on dlib's 43 faces, 68 points"), abs=5e-4
    )
