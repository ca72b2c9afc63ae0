"""Where results go: JSON lines, CSV or Parquet, resumable.

JSON lines and CSV are complete at every moment, whatever ends the run: at most their last record is cut
off, and a second run makes that again. A Parquet file appears when the run ends, Ctrl-C and SIGTERM
included; what a run that is killed outright has found stays beside it until the next run, see
`refnet.results.parquet`.

JSON lines hold one record a line. The tables hold one row a face or object, and one row without one for
an image that has none or could not be read; see `refnet.results.records`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from refnet.errors import OptionError
from refnet.files import write_file, writing
from refnet.results.parquet import Parquet, parts_folder
from refnet.results.records import Record, Table, faces_table
from refnet.results.resume import Resume, is_device, named

SUFFIXES = (".jsonl", ".csv", ".parquet")


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
    table: Table | None = None,
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
        table: what CSV and Parquet have columns for; faces without landmarks by default.
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
        if not is_device(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        beside = parts_folder(target) if suffix == ".parquet" else None
        resume = Resume(target, asked, lost, beside, overwrite=overwrite, settings=settings)
        table = faces_table() if table is None else table
        try:
            if suffix == ".parquet":
                return Parquet(target, resume, table)
            if suffix == ".csv":
                return _open_csv(target, table, resume)
            return _open_json_lines(target, resume)
        except BaseException:
            resume.close()
            raise


class Nothing:
    """A sink that writes nothing."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.known: set[str] = set()

    def write(self, record: Record) -> None:
        """Forget the record."""

    def close(self) -> None:
        """Do nothing."""


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
        self._put(json.dumps(named(record, self.resume).to_dict()) + "\n")

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


class _Csv(_JsonLines):
    """One row a face or object, flushed record by record."""

    def __init__(self, file: TextIO, path: Path, resume: Resume, table: Table) -> None:
        super().__init__(file, path, resume)
        self.table, self.columns = table, _csv_columns(table)

    def write(self, record: Record) -> None:
        rows = named(record, self.resume).rows(self.table.what)
        self._put(_csv_text(self.columns, [_flat(row, self.table) for row in rows]))


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


def _csv_columns(table: Table) -> list[str]:
    columns = [name for name, _ in table.all_columns if name != table.points]
    return columns + [f"{axis}_{i}" for i in range(table.count) for axis in "xy"]


def _open_csv(path: Path, table: Table, resume: Resume) -> Sink:
    columns = _csv_columns(table)
    rows = _csv_rows(path, columns, table, resume) if resume.old else []
    kept = _csv_text(columns, [_guarded(row) for row in resume.kept(rows)], header=True)
    return _Csv(_continued(path, kept, resume), path, resume, table)


def _csv_rows(path: Path, columns: list[str], table: Table, resume: Resume) -> list[dict[str, Any]]:
    """The rows of an earlier run, of records that are whole."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows: list[dict[str, Any]] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        found = list(reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise resume.foreign(str(error)) from error
    if refused := resume.other_columns(found, columns):
        raise refused
    if not text.endswith("\n"):
        rows = rows[:-1]  # a number that is cut off is still a number
    if resume.overwrite:
        return []
    rows = [_unguarded(row) for row in rows if None not in row and None not in row.values()]
    there = Counter((row["source"], row["frame"]) for row in rows)
    # An image of N faces has N rows, and one without faces or with an error has one.
    return [r for r in rows if there[r["source"], r["frame"]] == max(1, _whole(r[table.what]))]


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


def _flat(row: dict[str, Any], table: Table) -> dict[str, Any]:
    """A row for CSV: points as columns x_0, y_0, ..., numbers rounded as in JSON."""
    points = row.get(table.points) or []
    flat = {k: v for k, v in row.items() if k != table.points and v is not None}
    flat |= {f"{'xy'[i % 2]}_{i // 2}": value for i, value in enumerate(points)}
    flat = {k: round(v, 4) if isinstance(v, float) else v for k, v in flat.items()}
    return _guarded(flat | {"last": "true" if row["last"] else "false"})


#: What a spreadsheet takes for a formula, and what stands for it with an apostrophe before it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_TEXTS = ("source", "error", "class")


def _guarded(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts a spreadsheet shows rather than computes: an apostrophe goes before them."""
    texts = {k: f"'{row[k]}" for k in _TEXTS if row.get(k) and _FORMULA.match(row[k])}
    return row | texts


def _unguarded(row: dict[str, Any]) -> dict[str, Any]:
    """The row that `_guarded` was given."""
    texts = {k: row[k][1:] for k in _TEXTS if row.get(k, "")[:1] == "'" and _FORMULA.match(row[k])}
    return row | texts
