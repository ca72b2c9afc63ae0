"""Ctrl-C where two things have to be done together."""

import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from refnet.interrupts import undivided
from refnet.media.background import Background
from refnet.media.sources import find_sources
from refnet.results.copies import AnnotatedCopies
from refnet.results.job import Job
from tests.test_faces_cli import video
from tests.test_job import OneFace

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_undivided_is_done_before_a_signal_takes_effect(number: int) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    done, before = [], signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            with undivided():
                done.append(1)
                signal.raise_signal(number)
                signal.raise_signal(number)
                done.append(2)
            done.append(3)
        assert done == [1, 2] and signal.getsignal(number) is end
    finally:
        signal.signal(number, before)


def test_nothing_changes_without_a_signal_after_an_error_and_in_other_threads() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError), undivided():
        raise ValueError
    seen: list[Any] = []

    def inside() -> None:
        with undivided():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before] and signal.getsignal(signal.SIGINT) is before


def test_a_videos_copy_has_as_many_frames_as_it_has_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes right after the third frame has been handed to its copy."""
    cv2 = pytest.importorskip("cv2")
    calls, call = [], Background.call

    def interrupted(self: Background, function: Any) -> None:
        call(self, function)
        calls.append(function)
        if isinstance(function, partial) and len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Background, "call", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        clip, out = video(tmp_path / "clip.mp4", frames=9), tmp_path / "out"
        job = Job(OneFace(), str(out / "faces.jsonl"), copies=AnnotatedCopies(out))
        outcome = job.run(find_sources([str(clip)]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    records = [json.loads(line) for line in (out / "faces.jsonl").read_text().splitlines()]
    copy = cv2.VideoCapture(str(out / "clip.mp4"))
    assert len(records) == copy.get(cv2.CAP_PROP_FRAME_COUNT) == 3
