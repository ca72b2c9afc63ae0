"""One round of `python -m tests.kill`, and what it checks."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

import refnet
from refnet.checkpoints import save
from refnet.media.images import opencv
from refnet.random_weights import random_weights
from tests.detection_networks import image_of, median_threshold, seeded
from tests.kill.server import HANGS

FRAMES = 10
SUFFIXES = (".jsonl", ".csv", ".parquet")
#: No file may be longer; and a file system that holds no more.
LIMIT, FULL = "a limit of files", "a full disk"
#: What ends a run: the codes that it may end with. 1 is that of the photo that cannot be read.
CODES = {
    "SIGKILL": {-9, 1},
    "SIGTERM": {-15, 143, 1},
    "SIGINT": {130, 1},
    LIMIT: {1},
    FULL: {1},
}
KILLS = tuple(CODES)


cv2 = opencv()


class Broken(AssertionError):
    """What a kill broke."""


@dataclass(frozen=True)
class Job:
    """A call of the command line.

    Attributes:
        verb: "faces", "detect" or "blur".
        suffix: of its results; None for none.
        copies: whether it draws, and with "faces" cuts faces out.
        threads: of photos without a video, so many are analyzed at once.
    """

    verb: str
    suffix: str | None
    copies: bool
    threads: int

    def words(self, world: World, folder: Path) -> list[str]:
        """What is typed, to write into `folder`."""
        paths = [str(world.photos if self.threads == 1 else world.photos / "*.[jp]*g")]
        words = [self.verb, *paths, *world.networks[self.verb], "--threads", str(self.threads)]
        if self.suffix is not None:
            words += ["--results", str(folder / f"results{self.suffix}")]
        if self.copies:
            words += ["-o", str(folder / "copies")]
        if self.copies and self.verb == "faces":
            words += ["--crops", str(folder / "crops")]
        return words if self.copies else [*words, "--no-media"]


JOBS = tuple(
    Job(verb, suffix, copies, threads)
    for verb in ("faces", "detect", "blur")
    for suffix in (*SUFFIXES, None)
    for copies in (True, False)
    for threads in (1, 2)
    if (copies or verb != "blur") and (suffix is not None or verb == "blur")
)


@dataclass
class World:
    """A folder with inputs, and what undisturbed runs make of them."""

    folder: Path
    count: int
    networks: Mapping[str, list[str]] = field(default_factory=dict)
    whole: dict[Job, Any] = field(default_factory=dict)
    server: Server = field(default_factory=lambda: Server())

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @classmethod
    def made(cls, folder: Path, count: int = 24) -> World:
        """A folder of `count` photos and a video, and networks of seeded weights that find something in them."""
        world = cls(folder, count)
        world.photos.mkdir(parents=True)
        for i in range(count):
            suffix = ("jpg", "png")[i % 2]
            image = np.roll(image_of(140, 150), 5 * i, axis=1)
            refnet.write_image(world.photos / f"{i:02}.{suffix}", image)
        (world.photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
        writer = cv2.VideoWriter(
            str(world.photos / "11.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (150, 140)
        )
        for i in range(FRAMES):
            writer.write(np.roll(image_of(140, 150), 3 * i, axis=1))
        writer.release()
        detector = seeded("lffd-face-v2", width=0.25)
        graph = refnet.build("pfld-ultralight-slim", width=0.25)
        for name, made, weights in (
            ("detector", detector.graph, dict(detector.weights)),
            ("landmarker", graph, random_weights(graph)),
        ):
            save(folder / f"{name}.safetensors", made.name, made.options, weights)
        threshold = median_threshold(detector, image_of(140, 150), units=40)
        words = ["--detector", str(folder / "detector.safetensors"), "--threshold", str(threshold)]
        points = ["--landmarker", str(folder / "landmarker.safetensors")]
        world.networks = {"faces": words + points, "detect": words, "blur": words}
        return world

    def undisturbed(self, job: Job) -> Any:
        """What a run of `job` that nobody ends leaves."""
        if job not in self.whole:
            out = self.folder / f"whole-{len(self.whole)}"
            out.mkdir()
            code, said, _ = ended(self, job, out, None, 0)
            if code != 1 or said.count("refnet:") < 1:  # broken.jpg
                raise Broken(f"{job} ended with {code}: {said}")
            self.whole[job] = state(job, out)
        return self.whole[job]


def state(job: Job, out: Path) -> Any:
    """What a run has left: records in the order of sources, and the copies by name."""
    records: list[Any] = []
    path = out / f"results{job.suffix}"
    if job.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
    elif job.suffix == ".csv":
        with open(path, newline="") as file:
            records = [*csv.DictReader(file)]
    elif job.suffix == ".parquet":
        import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

        records = pyarrow.parquet.read_table(path).to_pylist()
    records.sort(
        key=lambda row: (row["source"], int(row.get("frame") or 0))
    )  # stable within an image
    drawn = [p for name in ("copies", "crops") for p in sorted((out / name).glob("[!.]*"))]
    return records, {f"{path.parent.name}/{path.name}": _content(path) for path in drawn}


def _content(path: Path) -> str:
    """A digest of a copy; of a video of its frames, because containers hold the time of writing."""
    digest = hashlib.sha256()
    if path.suffix != ".mp4":
        digest.update(path.read_bytes())
        return digest.hexdigest()
    capture = cv2.VideoCapture(str(path))
    while True:
        there, image = capture.read()
        if not there:
            return digest.hexdigest()
        digest.update(image.tobytes())


class Server:
    """Starts runs quickly; see `tests.kill.server`."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill.server"], stdin=theirs.fileno()
        )
        theirs.close()
        self.answers = self.line.makefile("r")

    def close(self) -> None:
        """End it."""
        self.answers.close()
        self.line.close()
        self.process.wait()

    def run(self, words: list[str], **ending: Any) -> tuple[int, str, str]:
        """(code, standard output, standard error) of a run; `ending` as `tests.kill.server` takes it."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            pipes = [os.pipe(), os.pipe()]
            asked = json.dumps({"words": words, **ending}).encode()
            socket.send_fds(self.line, [asked], [write for _, write in pipes])
            for _, write in pipes:
                os.close(write)
            readers = [
                threading.Thread(target=_copy, args=(read, file))
                for (read, _), file in zip(pipes, (out, said), strict=True)
            ]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            code = int(self.answers.readline())
            out.seek(0)
            said.seek(0)
            return code, out.read().decode(), said.read().decode()


def _copy(read: int, file: IO[bytes]) -> None:
    with open(read, "rb") as pipe:
        shutil.copyfileobj(pipe, file)


def ended(
    world: World,
    job: Job,
    out: Path,
    kill: str | None,
    lines: int,
    delay: float = 0.0,
    size: int = 0,
) -> tuple[int, str, list[str]]:
    """(code, standard error, photos and videos that were said to be done) of a run.

    Args:
        kill: what ends it; None for nothing.
        lines: after how many photos and videos, or 0 for while it starts.
        delay: seconds after that.
        size: of the largest file that can be written, in bytes, for `LIMIT`.
    """
    by_signal = kill is not None and kill.startswith("SIG")
    code, output, said = world.server.run(
        job.words(world, out),
        largest=size if kill == LIMIT else None,
        kill=getattr(signal, str(kill)) if by_signal else None,
        lines=lines,
        delay=delay,
    )
    if code == HANGS:
        raise Broken(f"{job} hangs after {kill}")
    return code, said, [line.partition(":")[0] for line in output.splitlines()]


@contextlib.contextmanager
def disk(folder: Path, wanted: bool) -> Iterator[bool]:
    """Let `folder` be a file system of its own, if that is `wanted`; False where it is none.

    Only root may mount, and not everywhere.
    """
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = False
    if wanted and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, left: int | None) -> None:
    """Let a file system of `disk` have so many bytes left; None for plenty."""
    had = os.statvfs(folder)
    used = (had.f_blocks - had.f_bfree) * had.f_frsize
    size = 64 << 20 if left is None else max(4096, used + left)  # 0 is no limit
    options = f"remount,size={-(-size // 4096) * 4}k"
    subprocess.run(["mount", "-o", options, str(folder)], check=True, capture_output=True)


def one_round(world: World, seed: str) -> str:
    """Kill a drawn job at drawn moments, let it finish, and compare; returns what was done in words.

    Raises:
        Broken: something was lost, doubled, replaced or said as a traceback.
    """
    draw = random.Random(seed)
    job = draw.choice(JOBS)
    kills = [draw.choice(KILLS) for _ in range(draw.randint(1, 4))]
    out = world.folder / f"round-{seed}"
    out.mkdir()
    with disk(out, FULL in kills) as mounted:
        story = _killed(world, job, out, draw, kills, mounted=mounted)
        code, said, done = ended(world, job, out, None, 0)
        if code != 1 or "Traceback" in said:
            raise Broken(f"{job}, {story}: the last run ended with {code}, {said!r}")
        _check_once(job, story, done)
        whole, found = world.undisturbed(job), state(job, out)
        if found != whole:
            raise Broken(f"{job}, {story.told}: {difference(found, whole)}")
        if left := [p.name for p in out.iterdir() if p.name.endswith(".parts")]:
            raise Broken(f"{job}, {story.told}: {left} is left")
    return (
        f"{job.verb} {job.suffix or ''}{' copies' if job.copies else ''}: {'; '.join(story.told)}"
    )


@dataclass
class Story:
    """What happened to a job so far, and the photos and videos that it said were done."""

    told: list[str] = field(default_factory=list)
    said: set[str] = field(default_factory=set)


def _killed(
    world: World, job: Job, out: Path, draw: random.Random, kills: list[str], *, mounted: bool
) -> Story:
    """Start the job and end it, once for each of `kills`."""
    story = Story()
    before = {p.name: p.read_bytes() for p in world.photos.iterdir()}
    for kill in kills:
        lines = draw.choice((0, draw.randint(1, world.count + 1)))
        if kill == "SIGINT":  # before that, Python itself starts
            lines = max(1, lines)
        delay = draw.uniform(0, 0.3) if lines == 0 else draw.uniform(0, 0.02)
        size = draw.choice((0, draw.randint(1, 200_000), draw.randint(1, 10_000)))
        if kill == FULL and not mounted:
            kill = LIMIT
        if kill == FULL:
            resize(out, size)
        code, said, done = ended(world, job, out, kill, lines, delay, size)
        if kill == FULL:
            resize(out, None)
        story.told.append(
            f"{kill} at {lines if kill.startswith('SIG') else size}: {code}, {len(done)} said"
        )
        if code not in CODES[kill] or "Traceback" in said:
            raise Broken(f"{job}, {story.told}: said {said!r}")
        _check_once(job, story, done)
        if {p.name: p.read_bytes() for p in world.photos.iterdir()} != before:
            raise Broken(f"{job}, {story.told}: the inputs have changed")
    return story


def _check_once(job: Job, story: Story, done: list[str]) -> None:
    """What a run said was done is done, and not done again; but for a copy that was not whole."""
    if not job.copies and story.said & {*done}:
        raise Broken(f"{job}, {story.told}: {story.said & {*done}} were done twice")
    story.said |= {*done}


def difference(found: Any, whole: Any) -> str:
    """Where two states differ."""
    (records, copies), (all_records, all_copies) = found, whole
    if copies != all_copies:
        names = {n for n in {**copies, **all_copies} if copies.get(n) != all_copies.get(n)}
        return f"the copies {sorted(names)} differ"
    pairs = zip(records, all_records, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    return f"{len(records)} records, not {len(all_records)}; the first that differs: {at}"
