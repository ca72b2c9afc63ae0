"""A job as a library call: what it came to, what it wrote, and that it says nothing by itself."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.faces.face import Face, Faces
from refnet.media.sources import find_sources
from refnet.ops import Array
from refnet.results.copies import AnnotatedCopies, FaceCrops
from refnet.results.job import Job
from tests.detection_networks import f32, image_of


class OneFace:
    """Finds a face in every image, and fails at images 40 pixels wide."""

    landmarker = None

    def __call__(self, image: Array) -> Faces:
        height, width = image.shape[:2]
        if width == 40:
            raise refnet.ShapeError("too narrow")
        return Faces([Face(f32([1, 2, 30, 40]), 0.5, None, (height, width))])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    refnet.write_image(folder / "a.png", image_of(60, 50))
    refnet.write_image(folder / "b.png", image_of(60, 40))
    (folder / "c.png").write_text("broken")
    return folder


def test_a_jobs_outcome_counts_what_it_did(photos: Path, tmp_path: Path, capsys: Any) -> None:
    analyzer: Any = OneFace()
    job = Job(analyzer, str(tmp_path / "faces.jsonl"))
    sources = find_sources([str(photos)])
    outcome = job.run(sources)
    assert (outcome.images, outcome.faces, outcome.skipped) == (1, 1, 0)
    assert (outcome.frames, outcome.videos, outcome.interrupted) == (0, 0, False)
    failed = {Path(label).name: why for label, why in outcome.failed.items()}
    assert set(failed) == {"b.png", "c.png"} and "too narrow" in failed["b.png"]
    records = [json.loads(line) for line in (tmp_path / "faces.jsonl").read_text().splitlines()]
    assert [Path(r["source"]).name for r in records] == ["a.png", "b.png", "c.png"]
    assert [r.get("error") for r in records[1:]] == list(outcome.failed.values())
    again = job.run(sources)
    assert (again.images, again.skipped, len(again.failed)) == (0, 1, 2)
    assert capsys.readouterr() == ("", "")


class Interrupted(OneFace):
    """Ctrl-C arrives with the second image."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image: Array) -> Faces:
        self.seen += 1
        if self.seen == 2:
            raise KeyboardInterrupt
        return super().__call__(image)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_ctrl_c_leaves_whole_files(photos: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    results, analyzer = tmp_path / "out" / f"faces{suffix}", Interrupted()
    outcome = Job(analyzer, str(results)).run(find_sources([str(photos)]))
    assert outcome.interrupted and outcome.images == 1
    there = {path.name for path in results.parent.iterdir()}
    assert there == {results.name, f".{results.name}.refnet"}
    with_copies = AnnotatedCopies(tmp_path / "copies")
    again = Job(OneFace(), str(results), copies=with_copies)
    assert again.run(find_sources([str(photos / "a.png")])).images == 1  # its copy is missing
    assert again.run(find_sources([str(photos / "a.png")])).skipped == 1


def test_copies_may_be_rendered_in_another_way(photos: Path, tmp_path: Path) -> None:
    def blank(image: Array, faces: Faces) -> Array:
        assert len(faces) == 1
        return np.full_like(image, 7)

    analyzer: Any = OneFace()
    copies = AnnotatedCopies(tmp_path / "copies", blank)
    Job(analyzer, str(tmp_path / "faces.csv"), copies=copies).run(find_sources([str(photos)]))
    (copy,) = (tmp_path / "copies").glob("[!.]*")
    assert (refnet.read_image(copy) == 7).all()


class Meeting(OneFace):
    """Three photos are only done when all three are under way; the last comes back first."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(3, timeout=20)
        self.done: dict[int, threading.Event] = {w: threading.Event() for w in (50, 51, 52)}

    def __call__(self, image: Array) -> Faces:
        width = image.shape[1]
        self.barrier.wait()
        if width < 52:
            assert self.done[width + 1].wait(20)
        self.done[width].set()
        return super().__call__(image)


def test_photos_are_analyzed_at_once_and_stand_in_the_order_of_the_sources(tmp_path: Path) -> None:
    for width in (50, 51, 52):
        refnet.write_image(tmp_path / "photos" / f"{width}.png", image_of(60, width))
    results = tmp_path / "faces.jsonl"
    outcome = Job(Meeting(), str(results), workers=3).run(find_sources([str(tmp_path / "photos")]))
    assert outcome.images == 3 and not outcome.failed
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [Path(r["source"]).stem for r in records] == ["50", "51", "52"]
    assert [r["width"] for r in records] == [50, 51, 52]


def test_copies_of_photos_are_written_at_once_and_all_listed(photos: Path, tmp_path: Path) -> None:
    """Each waits for the disk: two that wait for each other would never be done one after another."""
    refnet.write_image(photos / "b.png", image_of(60, 70))
    together, sources = threading.Barrier(2, timeout=20), find_sources([str(photos)])[:2]

    def render(image: Array, _: Any) -> Array:
        together.wait()
        return image

    copies, crops = AnnotatedCopies(tmp_path / "out", render), FaceCrops(tmp_path / "crops")
    outcome = Job(OneFace(), None, copies=copies, crops=crops).run(sources)
    assert outcome.images == 2 and not outcome.failed
    again = AnnotatedCopies(tmp_path / "out", render)
    again.settings = copies.settings
    labels = {source.label for source in sources}
    assert again.done(sources) == FaceCrops(tmp_path / "crops").done(sources) == labels


def test_a_broken_photo_among_others_is_reported_in_its_place(photos: Path, tmp_path: Path) -> None:
    refnet.write_image(photos / "d.png", image_of(60, 70))
    results = [tmp_path / f"{count}.jsonl" for count in (1, 4)]
    for path, workers in zip(results, (1, 4), strict=True):
        Job(OneFace(), str(path), workers=workers).run(find_sources([str(photos)]))
    assert results[0].read_text() == results[1].read_text()
