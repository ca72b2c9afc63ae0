"""`refnet bench --photos --peers`: photos from file to boxes, by several detectors in turn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.benchmark.photos import measure_photos, peer
from refnet.cli import main
from refnet.ops import Array
from tests.detection_networks import image_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "photos" / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        refnet.write_image(path, image_of(60, 80 + 20 * (i // 2)))
    (tmp_path / "photos" / "broken.png").write_text("no photo")
    return paths


def test_engines_take_turns_on_photos_of_one_size_and_the_first_photo_is_not_counted(
    photos: list[Path],
) -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    def engine(name: str, found: int) -> Any:
        def run(image: Array) -> int:
            calls.append((name, image.shape))
            return found

        return run

    engines = {"one": engine("one", 2), "other": engine("other", 3)}
    results = measure_photos([*photos, photos[0].with_name("broken.png")], engines, long_side=40)
    assert [name for name, _ in calls] == ["one", "other", "other", "one"] * 2
    assert [shape for _, shape in calls] == [(30, 40, 3)] * 4 + [(24, 40, 3)] * 4
    assert [(r.engine, r.photos, r.shapes, r.faces) for r in results] == [
        ("one", 3, 2, 6),
        ("other", 3, 2, 9),
    ]
    assert results[0].ratio == 1
    assert results[1].ratio == pytest.approx(results[1].total / results[0].total)
    with pytest.raises(refnet.ImageError, match="fewer than two photos"):
        measure_photos(photos[:1], engines)


def test_published_detectors_are_run_as_their_users_run_them(assets: Path) -> None:
    """They find what refnet finds with the same files."""
    image = refnet.read_image(ROOT / "docs" / "astronaut.jpg")
    pytest.importorskip("onnxruntime")
    for name in ("yunet_n_dynamic", "centerface", "rfb320"):
        file = assets / "detectors" / f"{name}.onnx"
        if not file.exists():
            pytest.skip(f"no {file}")
        assert peer(file, 1)(image) == len(refnet.FaceDetector(str(file))(image)) == 1, name


def test_the_command_prints_a_table_or_json_lines(photos: list[Path], capsys: Any) -> None:
    words = ["bench", "--photos", str(photos[0].parent), "--long-side", "192", "--threads", "2"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 photos of 2 shapes" in lines[0]
    assert lines[2].startswith("refnet ") and lines[3].startswith("refnet, with landmarks ")
    assert main([*words, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert results[0]["total"] == pytest.approx(results[0]["read"] + results[0]["find"])
    assert np.isfinite(results[1]["ratio"])
