"""Files that appear complete or not at all, whatever goes wrong in between."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from refnet.errors import OutputError, RefnetError
from refnet.files import replacing, write_file, writing


def test_pieces_are_written_one_after_another(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "folder" / "a.bin", [b"one ", b"", b"two"])
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"one two"
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["a.bin"]


def test_the_old_file_is_there_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    target.write_bytes(b"old")
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".mp4"
        assert temporary.name.startswith(".") and temporary.read_bytes() == b""
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RefnetError])
def test_a_block_that_fails_leaves_the_old_file_and_its_error(tmp_path: Path, error: Any) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error, match="why"), replacing(target) as temporary:
        temporary.write_text("half")
        raise error("why")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "old"


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_failure_of_the_system_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match=r"^cannot write .*a\.txt: No space left on device$"):
        write_file(tmp_path / "a.txt", [b"content"])
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_output_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in ("file/a.txt", "folder", "folder/", "."):
        with pytest.raises(OutputError, match="cannot write"):
            write_file(tmp_path / path, [b""])
    with pytest.raises(OutputError, match="No such file"):
        write_file(tmp_path / "absent" / "a.txt", [b""], parents=False)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows wants rights for links")
def test_nothing_that_is_there_is_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the target is a link, nor where the temporary name is one already."""
    (tmp_path / "other.txt").write_text("other")
    (tmp_path / "link.txt").symlink_to(tmp_path / "other.txt")
    write_file(tmp_path / "link.txt", [b"new"])
    assert not (tmp_path / "link.txt").is_symlink()
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / f".refnet-{bytes(8).hex()}.txt").symlink_to(tmp_path / "other.txt")
    with pytest.raises(OutputError, match="File exists"):
        write_file(tmp_path / "a.txt", [b"new"])
    assert (tmp_path / "other.txt").read_text() == "other"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permissions_are_those_of_any_new_file_unless_others_are_given(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_file(tmp_path / "written", [b""])
    write_file(tmp_path / "own", [b"content"], mode=0o600)
    plain, written, own = (
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written", "own")
    )
    assert plain == written and own == 0o600


def test_a_broken_pipe_is_no_failure_to_write() -> None:
    with pytest.raises(BrokenPipeError), writing("standard output"):
        raise BrokenPipeError(32, "Broken pipe")
