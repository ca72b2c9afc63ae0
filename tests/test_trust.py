"""Machine code of another user is never run: who owns a cache, and who may write to it."""

import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refnet.kernels import machine_code, trust

STRANGER = 12345
CODE = machine_code.MachineCode("entry", (), b"\x7fELF not really\n" + bytes(range(256)))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="access control lists decide on Windows")
as_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give a file to another user"
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache file with sound code in a folder of this user."""
    folder = tmp_path / "above" / "refnet"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        path.chmod(0o755)
    file = folder / "kernels.bin"
    file.write_bytes(CODE.to_bytes())
    file.chmod(0o644)
    return file


def test_what_only_this_user_can_have_written_is_read(cache: Path) -> None:
    assert trust.objection(cache.parent) == ""
    assert machine_code.read(cache) == CODE


def test_parents_may_be_sticky_and_folders_may_be_reached_by_own_links(cache: Path) -> None:
    cache.parent.parent.chmod(0o1777)
    assert machine_code.read(cache) == CODE
    for target in (cache.parent, Path("above/../above/refnet")):
        link = cache.parents[2] / f"link{len(target.parts)}"
        link.symlink_to(target)
        assert machine_code.read(link / cache.name) == CODE


def _link(cache: Path) -> None:
    elsewhere = cache.with_name("elsewhere")
    cache.rename(elsewhere)
    cache.symlink_to(elsewhere)


def _pipe(cache: Path) -> None:
    cache.unlink()
    os.mkfifo(cache)


def _folder(cache: Path) -> None:
    cache.unlink()
    cache.mkdir()


def _device(cache: Path) -> None:
    cache.unlink()
    os.mknod(cache, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


Change = Callable[[Path], object]
CASES: dict[str, tuple[Change, str]] = {
    "file writable by all": (lambda c: c.chmod(0o666), "other users may write to .*kernels.bin"),
    "file writable by a group": (lambda c: c.chmod(0o664), "other users may write to"),
    "folder writable by all": (lambda c: c.parent.chmod(0o777), "other users may write to"),
    "sticky folder": (lambda c: c.parent.chmod(0o1777), "other users may write to"),
    "folder writable by a group": (lambda c: c.parent.chmod(0o775), "other users may write to"),
    "parent writable by all": (lambda c: c.parents[1].chmod(0o777), "may write to .*above$"),
    "link": (_link, "is a link"),
    "pipe": (_pipe, "is not a regular file"),
    "folder for a file": (_folder, "is not a regular file"),
}
FOREIGN: dict[str, tuple[Change, str]] = {
    "file of another user": (lambda c: os.chown(c, STRANGER, 0), "bin belongs to another user"),
    "folder of another user": (lambda c: os.chown(c.parent, STRANGER, 0), "refnet belongs to"),
    "parent of another user": (lambda c: os.chown(c.parents[1], STRANGER, 0), "above belongs to"),
    "device": (_device, "is not a regular file"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_others_can_have_written_is_not_run(cache: Path, case: str) -> None:
    change, reason = CASES[case]
    change(cache)
    with pytest.raises(trust.UntrustedError, match=reason):
        trust.read(cache)
    with pytest.warns(RuntimeWarning, match="does not run the compiled kernels") as caught:
        assert machine_code.read(cache) is None
    assert len(caught) == 1 and str(caught[0].message).isprintable()


@as_root
@pytest.mark.parametrize("case", FOREIGN)
def test_what_another_user_owns_is_not_run(cache: Path, case: str) -> None:
    change, reason = FOREIGN[case]
    change(cache)
    with pytest.raises(trust.UntrustedError, match=reason):
        trust.read(cache)


@as_root
def test_a_link_of_another_user_is_not_followed(cache: Path) -> None:
    shared = cache.parents[2] / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link"
    link.symlink_to(cache.parent)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert trust.objection(link) == f"{link} belongs to another user"


def test_links_in_a_circle_and_files_for_folders_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "too many links" in trust.objection(tmp_path / "a")
    (tmp_path / "file").touch()
    assert "is not a folder" in trust.objection(tmp_path / "file" / "refnet")


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_written_under_an_open_umask_is_private(open_umask: None, tmp_path: Path) -> None:
    path = tmp_path / "new" / "refnet" / "kernels.bin"
    assert machine_code.write(path, CODE)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert machine_code.read(path) == CODE


def test_nothing_is_written_where_it_would_not_be_run(cache: Path) -> None:
    cache.parent.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="cannot keep its compiled kernels"):
        assert not machine_code.write(cache.with_name("new"), CODE)
    assert list(cache.parent.iterdir()) == [cache]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents that `warmup` would have run; compiling gives CODE."""
    loaded: list[bytes] = []
    monkeypatch.setattr(machine_code, "_loaded", [])
    monkeypatch.setattr(machine_code, "compile_kernels", lambda: CODE)
    monkeypatch.setattr(machine_code, "load", lambda code: loaded.append(code.content))
    return loaded


def _planted(folder: Path) -> Path:
    file = folder / f"kernels-{machine_code.cache_key()}.bin"
    file.write_bytes(machine_code.MachineCode("entry", (), b"planted").to_bytes())
    return file


def warned_once() -> str:
    """What `warmup` says, where it warns once, in one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        machine_code.warmup()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.isprintable()
    return message


def test_a_shared_folder_is_left_alone(
    starts: list[bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = _planted(cache.parent)
    before = planted.read_bytes()
    cache.parent.chmod(0o1777)
    monkeypatch.setenv("REFNET_CACHE", str(cache.parent))
    assert "other users may write to" in warned_once()
    assert starts == [CODE.content]
    assert planted.read_bytes() == before
    assert machine_code.cache_file() is None


def test_a_foreign_file_in_an_own_folder_is_replaced(
    starts: list[bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = _planted(cache.parent)
    planted.chmod(0o666)
    monkeypatch.setenv("REFNET_CACHE", str(cache.parent))
    assert "other users may write to" in warned_once()
    assert starts == [CODE.content]
    assert machine_code.read(planted) == CODE


@pytest.mark.parametrize("variable", ["REFNET_CACHE", "XDG_CACHE_HOME"])
def test_a_relative_folder_is_not_searched(
    variable: str, starts: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder may be an unpacked archive, whose files are this user's and someone else's work."""
    (tmp_path / "cache" / "refnet").mkdir(parents=True)
    _planted(tmp_path / "cache" / "refnet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REFNET_CACHE", raising=False)
    monkeypatch.setenv(variable, "cache/refnet" if variable == "REFNET_CACHE" else "cache")
    if variable == "REFNET_CACHE":
        assert "cache/refnet is relative to the current folder" in warned_once()
    else:
        machine_code.warmup()
    assert starts == [CODE.content]


def test_without_a_home_folder_the_code_stays_in_memory(
    starts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container whose user is a number without an entry anywhere."""
    for variable in ("HOME", "REFNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert machine_code.cache_folder() is None or os.uname().sysname != "Linux"
    assert machine_code.cache_file() is None
    assert "REFNET_CACHE" in warned_once()
    assert starts == [CODE.content]


@as_root
def test_a_home_that_cannot_be_searched_is_no_cache(
    starts: list[bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parents[1].chmod(0o700)
    monkeypatch.setenv("REFNET_CACHE", str(cache.parent))
    for folder in cache.parents[2:-2]:  # what pytest made is this user's alone
        folder.chmod(0o755)
    os.seteuid(STRANGER)
    try:
        assert machine_code.cache_file() is None
        assert "Permission denied" in warned_once()
    finally:
        os.seteuid(0)
    assert starts == [CODE.content]
