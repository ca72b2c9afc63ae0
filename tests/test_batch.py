"""Tables of images: every row comes back once, whatever happens to it or to its worker."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.batch import BatchSummary, analyze_rows, analyze_table
from refnet.errors import OptionError, RefnetError
from refnet.faces.face import Face, Faces
from tests.detection_networks import f32

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("cv2")


def faces_by_colour(image: np.ndarray) -> Faces:
    """As many faces as the first pixel's blue says, and a failure where its green is set."""
    if image[0, 0, 1]:
        raise ValueError("green")
    height, width = image.shape[:2]
    return Faces(
        Face(f32([i, 0, width, height]), 0.5, None, (height, width)) for i in range(image[0, 0, 0])
    )


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Photos of 0, 1, 2, 3 faces, one that fails, one that is broken, and one that is missing."""
    paths = []
    for name, colour in {"0": 0, "1": 1, "2": 2, "3": 3}.items():
        image = np.zeros((20, 30, 3), np.uint8)
        image[0, 0, 0] = colour
        refnet.write_image(tmp_path / f"{name}.png", image)
        paths.append(str(tmp_path / f"{name}.png"))
    refnet.write_image(tmp_path / "green.png", np.full((9, 9, 3), 255, np.uint8))
    (tmp_path / "broken.png").write_text("broken")
    return [*paths, *(str(tmp_path / f"{n}.png") for n in ("green", "broken", "missing"))]


def table_in(folder: Path) -> list[dict[str, Any]]:
    dataset = pytest.importorskip("pyarrow.dataset").dataset(folder, format="parquet")
    rows: list[dict[str, Any]] = dataset.to_table().to_pylist()
    return rows


def check(folder: Path, photos: list[str]) -> None:
    rows = table_in(folder)
    count = Counter(Path(row["source"]).stem for row in rows)
    assert count == {"0": 1, "1": 1, "2": 2, "3": 3, "green": 1, "broken": 1, "missing": 1}
    errors = {Path(r["source"]).stem: r["error"] for r in rows if r["error"] is not None}
    assert set(errors) == {"green", "broken", "missing"}
    assert "ValueError: green" in errors["green"] and "cannot decode" in errors["broken"]
    three = [row for row in rows if row["source"] == photos[3]]
    assert sorted((r["face"], r["x1"], r["width"]) for r in three) == [(i, i, 30) for i in range(3)]


def make() -> Any:
    return faces_by_colour


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 32), (2, 1), (3, 2)])
def test_threads_give_every_row_once_for_any_number_and_batch_size(
    tmp_path: Path, photos: list[str], workers: int, batch_size: int
) -> None:
    out = tmp_path / "out"
    summary = analyze_table(photos, make, out, workers=workers, batch_size=batch_size)
    assert summary == BatchSummary(images=7, faces=6, failed=3)
    check(out, photos)


def test_each_worker_makes_one_analyzer(tmp_path: Path, photos: list[str]) -> None:
    made = []

    def count() -> Any:
        made.append(1)
        return faces_by_colour

    analyze_table(photos * 3, count, tmp_path / "out", workers=2, batch_size=2)
    assert 1 <= len(made) <= 2


def test_every_form_of_input_gives_the_same_rows(tmp_path: Path, photos: list[str]) -> None:
    content = [{"source": f"no-file-{i}", "bytes": Path(photos[i]).read_bytes()} for i in (1, 3)]
    table = pyarrow.Table.from_pylist([{"source": path, "bytes": None} for path in photos])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "in.parquet")
    for name, inputs, images, faces in (
        ("rows", content, 2, 4),
        ("paths", [Path(path) for path in photos[:4]], 4, 6),
        ("table", table.slice(0, 3), 3, 3),
        ("file", tmp_path / "in.parquet", 7, 6),
        ("uri", [f"file://{photos[1]}", f"file://{photos[1]}x"], 2, 1),
        ("nothing", [], 0, 0),
    ):
        summary = analyze_table(inputs, make, tmp_path / name)
        assert (summary.images, summary.faces) == (images, faces), name


def test_an_analyzer_of_real_networks_fills_the_columns(tmp_path: Path, photos: list[str]) -> None:
    from tests.detection_networks import HEADS_AS_FACES, seeded

    analyzer = refnet.FaceAnalyzer(
        refnet.FaceDetector(seeded("lffd-head"), threshold=0.4, defaults=HEADS_AS_FACES), None
    )
    (row, *_) = analyze_rows(analyzer, [{"source": photos[0], "bytes": None}])
    assert row["error"] is None and row["width"] == 30


def test_wrong_calls_are_refused_by_name(tmp_path: Path, photos: list[str]) -> None:
    with pytest.raises(OptionError, match="threads, ray"):
        analyze_table(photos, make, tmp_path / "out", on="spark")
    with pytest.raises(OptionError, match="at least 1"):
        analyze_table(photos, make, tmp_path / "out", workers=0)
    with pytest.raises(OptionError, match="new or empty folder"):
        analyze_table(photos, make, tmp_path)
    with pytest.raises(OptionError, match="column source"):
        analyze_table(pyarrow.table({"path": photos}), make, tmp_path / "out2")
    with pytest.raises(RefnetError, match=r"nowhere\.parquet"):
        analyze_table(str(tmp_path / "nowhere.parquet"), make, tmp_path / "out3")


class DiesOnce:
    """An analyzer whose process ends, as if killed, at the first image of three faces it sees."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, image: np.ndarray) -> Faces:
        if image[0, 0, 0] == 3 and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os._exit(1)
        return faces_by_colour(image)


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A local Ray of two processors."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("default")  # of Ray's own code
def test_ray_with_a_killed_worker_loses_and_doubles_nothing(
    tmp_path: Path, photos: list[str], cluster: Any
) -> None:
    mark = tmp_path / "died"
    many = [{"source": f"{i}", "bytes": Path(photos[i % 4]).read_bytes()} for i in range(60)]

    def make_dying() -> Any:
        return DiesOnce(str(mark))

    out = tmp_path / "out"
    summary = analyze_table(many, make_dying, out, on="ray", workers=2, batch_size=4)
    assert mark.exists()
    assert summary == BatchSummary(images=60, faces=90, failed=0)
    count = Counter(row["source"] for row in table_in(out))
    assert count == {str(i): max(i % 4, 1) for i in range(60)}


@pytest.mark.filterwarnings("default")
def test_ray_gives_what_embedded_gives(tmp_path: Path, photos: list[str], cluster: Any) -> None:
    out = tmp_path / "out"
    summary = analyze_table(photos, lambda: faces_by_colour, out, on="ray", workers=1)
    assert summary == BatchSummary(images=7, faces=6, failed=3)
    check(out, photos)
