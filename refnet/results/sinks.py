"""Where results go: JSON lines, CSV or Parquet, resumable.

JSON lines and CSV are complete at every moment, whatever ends the run: at most their last record is cut
off, and a second run makes that again. A Parquet file appears when the run ends, Ctrl-C and SIGTERM
included; a run that is killed outright leaves the file as it was before.

JSON lines hold one record a line. The tables hold one row a face, and one row without a face for an
image that has none or could not be read; see `refnet.results.records`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from refnet.errors import OptionError
from refnet.exchange.arrow import arrow_schema
from refnet.faces.face import FACE_COLUMNS
from refnet.files import replacing, write_file, writing
from refnet.media.sources import is_path, real_path, special_kind
from refnet.optional import require
from refnet.results.companion import Companion
from refnet.results.records import RECORD_COLUMNS, Record

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROWS_AT_ONCE = 4096


class Sink(Protocol):
    """Takes records; what it has taken is in the file when `close` returns.

    `done` holds the sources asked for that an earlier run has finished, `known` those of which it
    wrote anything.
    """

    done: set[str]
    known: set[str]

    def write(self, record: Record) -> None:
        """Take one record. Raises OutputError where it cannot be written."""

    def close(self) -> None:
        """Finish the file. Raises OutputError where it cannot be written."""


def open_sink(
    path: str | None,
    *,
    asked: Collection[str] = (),
    lost: Collection[str] = (),
    landmarks: int = 0,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Sink:
    """The sink for a file, by its suffix; `-` prints JSON lines.

    A file that is there is continued. Of the sources asked for, those that it holds in full are
    `done`; what it holds of the others (an error, or a video that was cut off) is dropped, to be made
    again. All other sources in it stay. A source is known by the file that its path leads to, however
    the path is written, and relative paths of one file are relative to one folder, that of its first
    run. Until the sink is closed, no other run can open the file.

    Args:
        path: ends in .jsonl, .csv or .parquet (which needs pyarrow); "-" prints, None writes nothing.
        asked: the sources of this run.
        lost: those to be made again whatever the file holds.
        landmarks: number of points a face, which a CSV table has columns for.
        overwrite: start anew.
        settings: what the results are made with, plain values by name; a file that was made with
            others is not continued. None does not ask.

    Raises:
        OptionError: the suffix is another, the file was made with other settings, or is there and
            was not written by refnet, which `overwrite` does not change.
        OutputError: the file cannot be read or written, or another run is writing it.
        DependencyError: Parquet without pyarrow.
    """
    if path is None:
        return Nothing()
    if path == "-":
        return _JsonLines(sys.stdout, Path("standard output"))
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"results end in {', '.join(SUFFIXES)}, or are - to print; got {path!r}")
    target = Path(path)
    with writing(target):
        if not _is_device(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        resume = Resume(target, asked, lost, overwrite=overwrite, settings=settings)
        try:
            if suffix == ".parquet":
                return _Parquet(target, resume)
            if suffix == ".csv":
                return _open_csv(target, landmarks, resume)
            return _open_json_lines(target, resume)
        except BaseException:
            resume.close()
            raise


def _is_device(path: Path) -> bool:
    """Whether `path` is a device such as /dev/null, which is written in place.

    Raises:
        OptionError: it is a folder, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
        raise OptionError(
            f"{path} is {special_kind(mode)}, and results go to a file, or with - to standard output"
        )
    return stat.S_ISCHR(mode)


class Nothing:
    """A sink that writes nothing."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.known: set[str] = set()

    def write(self, record: Record) -> None:
        """Forget the record."""

    def close(self) -> None:
        """Do nothing."""


class Resume:
    """What of an earlier run's file stays; see `open_sink`.

    Attributes:
        done: the sources asked for that are finished.
        known: the sources asked for of which the earlier run wrote anything.
    """

    def __init__(
        self,
        path: Path,
        asked: Collection[str],
        lost: Collection[str],
        *,
        overwrite: bool,
        settings: Mapping[str, Any] | None,
    ) -> None:
        self.path, self.overwrite, self.settings = path, overwrite, settings
        self.companion = None if _is_device(path) else Companion(path)
        self.here = os.getcwd()
        old = self.companion is not None and path.exists() and path.stat().st_size > 0
        #: Whether there is a file, whose content has to be refnet's.
        self.old = old
        folder = self.companion.folder if self.companion is not None and old else None
        self.folder = folder if folder is not None and not overwrite else self.here
        self.asked = {self._key(label, self.here): label for label in asked}
        self.lost = {self._key(label, self.here) for label in lost}
        self.done: set[str] = set()
        self.known: set[str] = set()

    def foreign(self, why: str) -> OptionError:
        """The error for a file that refnet did not write."""
        return OptionError(
            f"{self.path} is there and is no results file of refnet: {why}; name another file"
        )

    def kept(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the earlier run that stay; afterwards `done` and `known` are right.

        Raises:
            OptionError: they were made with other settings.
        """
        if self.overwrite:
            return []
        if rows and self.settings is not None and self.companion is not None:
            self.companion.check(self.settings)
        keys = {row["source"]: self._key(row["source"], self.folder) for row in rows}
        ended = {keys[row["source"]] for row in rows if row.get("last") in (True, "true")}
        failed = {keys[row["source"]] for row in rows if row.get("error")}
        done = ended - failed - self.lost
        self.done = {label for key, label in self.asked.items() if key in done}
        self.known = {self.asked[key] for key in keys.values() if key in self.asked}
        dropped = self.asked.keys() - done
        return [row for row in rows if keys[row["source"]] not in dropped]

    def begin(self) -> None:
        """Note what the results are made with, when all is checked and before the first is written."""
        if self.companion is not None:
            self.companion.note(self.settings, self.folder)

    def named(self, label: str) -> str:
        """What the results call a source: a path relative to the folder of the first run."""
        if self.folder == self.here or not is_path(label) or os.path.isabs(label):
            return label
        try:
            return os.path.relpath(label, self.folder)
        except ValueError:  # on another drive
            return os.path.abspath(label)

    def close(self) -> None:
        """Let other runs have the file."""
        if self.companion is not None:
            self.companion.close()

    @staticmethod
    def _key(label: str, folder: str) -> str:
        """The file that a path leads to from `folder`; the label itself of a camera or an address."""
        return real_path(label, folder) if is_path(label) else label


def _continued(path: Path, text: str, resume: Resume) -> TextIO:
    """`path` with `text` in it, open for more; the text appears complete or not at all."""
    resume.begin()
    if resume.companion is not None:  # a device is written in place
        write_file(path, [text.encode("utf-8", "surrogateescape")])
    return open(path, "a", encoding="utf-8", errors="surrogateescape", newline="")


class _JsonLines:
    """One JSON object a line, flushed line by line."""

    def __init__(self, file: TextIO, path: Path, resume: Resume | None = None) -> None:
        self.file, self.path, self.resume = file, path, resume
        self.done = set() if resume is None else resume.done
        self.known = set() if resume is None else resume.known

    def write(self, record: Record) -> None:
        self._put(json.dumps(_named(record, self.resume).to_dict()) + "\n")

    def close(self) -> None:
        try:
            if self.file is not sys.stdout:
                with writing(self.path):
                    self.file.close()
        finally:
            if self.resume is not None:
                self.resume.close()

    def _put(self, text: str) -> None:
        with writing(self.path):
            self.file.write(text)
            self.file.flush()


def _named(record: Record, resume: Resume | None) -> Record:
    return record if resume is None else replace(record, source=resume.named(record.source))


class _Csv(_JsonLines):
    """One row a face, flushed record by record."""

    def __init__(self, file: TextIO, path: Path, resume: Resume, columns: list[str]) -> None:
        super().__init__(file, path, resume)
        self.columns = columns

    def write(self, record: Record) -> None:
        rows = [_flat(row) for row in _named(record, self.resume).rows()]
        self._put(_csv_text(self.columns, rows))


def _open_json_lines(path: Path, resume: Resume) -> Sink:
    rows = _json_rows(path, resume) if resume.old else []
    kept = "".join(json.dumps(row) + "\n" for row in resume.kept(rows))
    return _JsonLines(_continued(path, kept, resume), path, resume)


def _json_rows(path: Path, resume: Resume) -> list[dict[str, Any]]:
    """The records of an earlier run, without a last line that was left unfinished."""
    rows = []
    whole, _, rest = path.read_text("utf-8", "surrogateescape").rpartition("\n")
    for number, line in enumerate(filter(str.strip, [*whole.split("\n"), rest]), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if row is not None and _is_record(row):
            rows.append(row)
        elif line is not rest or not line.startswith(_RECORD_START[: len(line)]):
            raise resume.foreign(f"line {number} is no record")
    return rows


_RECORD_START = '{"source": "'


def _is_record(row: Any) -> bool:
    """Whether a line of JSON is a record; see `Record.to_dict`."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("source"), str)
        and isinstance(row.get("last"), bool)
        and (
            isinstance(row.get("faces", row.get("objects")), list)
            or isinstance(row.get("error"), str)
        )
    )


def _open_csv(path: Path, landmarks: int, resume: Resume) -> Sink:
    columns = [name for name, _ in (*RECORD_COLUMNS, *FACE_COLUMNS) if name != "landmarks"]
    columns += [f"{axis}_{i}" for i in range(landmarks) for axis in "xy"]
    rows = _csv_rows(path, columns, resume) if resume.old else []
    kept = _csv_text(columns, [_guarded(row) for row in resume.kept(rows)], header=True)
    return _Csv(_continued(path, kept, resume), path, resume, columns)


def _csv_rows(path: Path, columns: list[str], resume: Resume) -> list[dict[str, Any]]:
    """The rows of an earlier run, of records that are whole."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows: list[dict[str, Any]] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        found = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise resume.foreign(str(error)) from error
    ours = [name for name, _ in RECORD_COLUMNS]
    if found[: len(ours)] != ours:
        raise resume.foreign("it has other columns")
    if found != columns and not resume.overwrite:
        raise OptionError(
            f"{path} is there and has other columns than this run would write; --overwrite makes it "
            "anew, and another -o or --results keeps both"
        )
    if not text.endswith("\n"):
        rows = rows[:-1]  # a number that is cut off is still a number
    rows = [_unguarded(row) for row in rows if None not in row and None not in row.values()]
    there = Counter((row["source"], row["frame"]) for row in rows)
    # An image of N faces has N rows, and one without faces or with an error has one.
    return [r for r in rows if there[r["source"], r["frame"]] == max(1, _whole(r["faces"]))]


def _whole(text: str) -> int:
    """A cell's whole number; 0 where it is empty or something else."""
    return int(text) if text.isdecimal() else 0


def _csv_text(columns: list[str], rows: list[dict[str, Any]], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row for CSV: landmarks as columns x_0, y_0, ..., numbers rounded as in JSON."""
    points = row.get("landmarks") or []
    flat = {k: v for k, v in row.items() if k != "landmarks" and v is not None}
    flat |= {f"{'xy'[i % 2]}_{i // 2}": value for i, value in enumerate(points)}
    flat = {k: round(v, 4) if isinstance(v, float) else v for k, v in flat.items()}
    return _guarded(flat | {"last": "true" if row["last"] else "false"})


#: What a spreadsheet takes for a formula, and what stands for it with an apostrophe before it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_TEXTS = ("source", "error")


def _guarded(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts a spreadsheet shows rather than computes: an apostrophe goes before them."""
    texts = {k: f"'{row[k]}" for k in _TEXTS if row.get(k) and _FORMULA.match(row[k])}
    return row | texts


def _unguarded(row: dict[str, Any]) -> dict[str, Any]:
    """The row that `_guarded` was given."""
    texts = {k: row[k][1:] for k in _TEXTS if row[k][:1] == "'" and _FORMULA.match(row[k])}
    return row | texts


def _unicode(text: str | None) -> str | None:
    """`text` as Arrow takes it: bytes of a file name that are no UTF-8 become escapes."""
    return text and text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Parquet:
    """One row a face. The file is written beside its place and takes it when it is finished."""

    def __init__(self, path: Path, resume: Resume) -> None:
        self.arrow = require("pyarrow", "Parquet", "pyarrow")
        self.parquet = require("pyarrow.parquet", "Parquet", "pyarrow")
        self.path, self.resume = path, resume
        self.schema = arrow_schema((*RECORD_COLUMNS, *FACE_COLUMNS))
        self.rows: list[dict[str, Any]] = []
        old = self._old() if resume.old else None
        rows = [] if old is None else old.read(columns=["source", "last", "error"]).to_pylist()
        kept = {row["source"] for row in resume.kept(rows)}
        self.done, self.known = resume.done, resume.known
        resume.begin()
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(path))
            self.writer = self.parquet.ParquetWriter(temporary, self.schema)
            if old is not None:
                self._copy(old, kept)
            self.replacement = stack.pop_all()  # stays open until the last record

    def _old(self) -> Any:
        """The file of the earlier run, open; None where it is to be made anew."""
        try:
            old = self.parquet.ParquetFile(self.path)
        except self.arrow.ArrowInvalid as error:
            raise self.resume.foreign(f"it is no Parquet file ({error})") from error
        ours = [name for name, _ in RECORD_COLUMNS]
        if old.schema_arrow.names[: len(ours)] != ours:
            raise self.resume.foreign("it has other columns")
        if self.resume.overwrite:
            old.close()
            return None
        if not old.schema_arrow.equals(self.schema):
            raise OptionError(
                f"{self.path} is there and has other columns than this run would write; --overwrite "
                "makes it anew, and another -o or --results keeps both"
            )
        return old

    def _copy(self, old: Any, kept: Collection[str]) -> None:
        """Copy what stays of `old`, the rows of the sources `kept`, a group of rows at a time."""
        compute = require("pyarrow.compute", "Parquet", "pyarrow")
        names = self.arrow.array(sorted(kept), self.arrow.string())
        for i in range(old.num_row_groups):
            group = old.read_row_group(i)
            group = group.filter(compute.is_in(group["source"], names))
            if group.num_rows:
                self.writer.write_table(group)
        old.close()

    def write(self, record: Record) -> None:
        rows = _named(record, self.resume).rows()
        self.rows += [row | {key: _unicode(row[key]) for key in _TEXTS} for row in rows]
        if len(self.rows) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        try:
            with self.replacement:
                self._flush()
                self.writer.close()
        finally:
            self.resume.close()

    def _flush(self) -> None:
        with writing(self.path):
            if self.rows:
                self.writer.write_table(self.arrow.Table.from_pylist(self.rows, self.schema))
            self.rows = []
