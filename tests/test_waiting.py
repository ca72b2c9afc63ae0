"""What a person sees who waits: a line that moves on a terminal, two lines in a log."""

import io
import re
import sys
from time import monotonic, sleep
from typing import Any

import pytest

from refnet import waiting as module
from refnet.waiting import Count, long_wait, progress, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def seen(self) -> str:
        """What is on the line now."""
        return re.split(r"[\r\n]|\x1b\[K", self.getvalue())[-1]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put standard error on a terminal; called by a test, since pytest sets the stream anew when that begins."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_PERIOD", 0.01)
    return stream


def until(condition: Any) -> None:
    end = monotonic() + 30
    while not condition():
        assert monotonic() < end
        sleep(0.005)


def test_a_wait_shows_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with waiting("measuring"):
        assert terminal.getvalue() == ""
        until(lambda: len(set(re.findall(r"measuring, \d+ s", terminal.getvalue()))) > 1)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_innermost_wait_is_shown_and_then_the_outer_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_a_terminal(monkeypatch)
    with waiting("preparing"):
        with long_wait("compiling", "once"):
            until(lambda: terminal.seen().startswith("refnet: compiling (once), "))
        assert not re.search(r"preparing, \d+ srefnet", terminal.getvalue())
        assert re.search(r"\r\x1b\[Krefnet: compiling took \d+ s\n", terminal.getvalue())
        until(lambda: terminal.seen().startswith("preparing, "))
    assert terminal.seen() == ""
    with pytest.raises(ZeroDivisionError), long_wait("compiling", "once"):
        raise ZeroDivisionError
    assert terminal.seen() == ""
    assert terminal.getvalue().count("took") == 1


def test_a_log_has_a_line_at_the_start_and_one_at_the_end(capsys: Any) -> None:
    with waiting("measuring"):
        sleep(0.01)
    assert capsys.readouterr().err == ""
    with long_wait("compiling", "once, about 20 s"):
        assert capsys.readouterr().err == "refnet: compiling (once, about 20 s) ...\n"
    assert re.fullmatch(r"refnet: compiling took \d+ s\n", capsys.readouterr().err)


def test_without_standard_error_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with waiting("a"), long_wait("b", "c"):
        pass


def test_without_tqdm_a_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    shown = []
    bar = progress(range(3), unit="photos")
    assert isinstance(bar, Count)
    for i in bar:
        sleep(0.06)
        shown.append((i, terminal.seen()))
    assert shown[0] == (0, "")
    assert re.fullmatch(r"1 of 3 photos, [\d.]+ a second, \d+ s left", shown[1][1])
    assert re.fullmatch(r"2 of 3 photos, [\d.]+ a second, \d+ s left", shown[2][1])
    assert terminal.seen() == ""
    endless = progress(unit="images")
    sleep(0.06)
    endless.update()
    assert re.fullmatch(r"1 images, [\d.]+ a second", terminal.seen())
    endless.write("a.jpg failed", file=sys.stderr)
    assert terminal.getvalue().endswith("\r\x1b[Ka.jpg failed\n")
    endless.close()


def test_without_tqdm_a_log_stays_empty(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    assert list(progress([1, 2], unit="photos")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_tqdm_is_used_where_it_is() -> None:
    tqdm = pytest.importorskip("tqdm")
    bar = progress(total=3, unit="images")
    assert isinstance(bar, tqdm.tqdm)
    bar.close()
