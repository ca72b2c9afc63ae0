"""Processes beside this one give what a call here gives, and none outlives it or holds it up."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet.errors import RefnetError
from refnet.media import forks
from refnet.media.sources import find_sources
from refnet.ops import Array
from refnet.results import job
from tests.detection_networks import image_of

pytestmark = pytest.mark.skipif(not forks.AVAILABLE, reason="this system has no forks")


def described(image: Array) -> tuple[int, tuple[int, ...], int]:
    return os.getpid(), image.shape, int(image.sum())


def drawn(count: int) -> list[Array]:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 90, (count, 2))
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]


@pytest.fixture
def made() -> Any:
    opened: list[forks.Forks[Any]] = []

    def make(function: Any, count: int = 2) -> forks.Forks[Any]:
        opened.append(forks.Forks(function, count))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_images_are_searched_elsewhere_with_the_answers_in_their_places(made: Any) -> None:
    images = drawn(40)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(made(described), images))
    assert [answer[1:] for answer in answers] == [described(image)[1:] for image in images]
    assert os.getpid() not in {answer[0] for answer in answers}


def test_an_image_larger_than_the_room_is_sent(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "ROOM", 4096)
    search = made(described, 1)
    for image in (image_of(20, 30), image_of(60, 90), image_of(20, 30)):
        assert search(image)[1:] == described(image)[1:]


def test_an_image_in_any_order_of_memory_arrives_as_it_is(made: Any) -> None:
    turned = np.rot90(image_of(20, 30))[:, ::2]
    assert made(lambda image: image.copy(), 1)(turned).tolist() == turned.tolist()


class Odd(Exception):
    """Cannot be made from its message alone, as unpickling does."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (refnet.ShapeError("too narrow"), refnet.ShapeError),
        (MemoryError("of 1 GB"), MemoryError),
        (Odd(1, 2), RuntimeError),
    ],
)
def test_what_the_function_raises_is_raised_here(made: Any, error: Any, raised: Any) -> None:
    def fail(image: Array) -> None:
        raise error

    search = made(fail, 1)
    for _ in range(2):
        with pytest.raises(raised, match=str(error)):
            search(image_of(5, 5))


def test_an_image_that_ends_its_process_fails_alone(made: Any) -> None:
    def search(image: Array) -> int:
        if image.shape[0] == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    apart = made(search, 1)
    there = apart(image_of(5, 5))
    with pytest.raises(RefnetError, match="was ended"):
        apart(image_of(13, 5))
    assert there != os.getpid() == apart(image_of(5, 5))


def test_closing_ends_every_process(made: Any) -> None:
    apart = made(described, 3)
    with ThreadPoolExecutor(3) as pool:
        pids = {answer[0] for answer in pool.map(apart, drawn(20))}
    apart.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


PARENT = """
import os, sys, time, numpy as np
from refnet.media.forks import Forks
apart = Forks(lambda image: os.getpid(), 3)
print(*(fork._process for fork in apart._forks), flush=True)
time.sleep(60)
"""


def test_no_process_outlives_one_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < end, "they wait for ever"
        time.sleep(0.05)
    assert len(children) == 3


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_writes_the_same_records_from_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(function: Any, count: int) -> forks.Forks[Any]:
        counts.append(count)
        return forks.Forks(function, count)

    monkeypatch.setattr(job, "MANY", 2)
    monkeypatch.setattr(job, "Forks", counted)
    photos = tmp_path / "photos"
    image = refnet.read_image(Path(__file__).parents[1] / "docs" / "astronaut.jpg")
    for i, side in enumerate((300, 340, 380, 420)):
        refnet.write_image(photos / f"{i}.png", image[:side, 60 : 60 + side])
    (photos / "broken.png").write_text("no image")
    written = []
    for workers in (1, 2):
        path, sources = tmp_path / f"{workers}.jsonl", find_sources([str(photos)])
        outcome = job.Job(refnet.FaceAnalyzer(), str(path), workers=workers, apart=True).run(
            sources
        )
        assert outcome.images == 4 and len(outcome.failed) == 1
        written.append(path.read_text())
    assert written[0] == written[1] and written[0].count("landmarks") >= 3
    assert counts == [2]  # one worker has no use for any
