"""Where results go: JSON lines, CSV or Parquet, complete at every moment and resumable.

JSON lines hold one record a line. The tables hold one row a face, and one row without a face for an
image that has none or could not be read; see `refnet.results.records`.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from refnet.errors import OptionError
from refnet.exchange.arrow import arrow_schema
from refnet.faces.face import FACE_COLUMNS
from refnet.files import replacing, write_file, writing
from refnet.optional import require
from refnet.results.records import RECORD_COLUMNS, Record

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROWS_AT_ONCE = 4096


class Sink(Protocol):
    """Takes records; what it has taken is in the file when `close` returns.

    `done` holds the sources asked for that an earlier run has finished.
    """

    done: set[str]

    def write(self, record: Record) -> None:
        """Take one record. Raises OutputError where it cannot be written."""

    def close(self) -> None:
        """Finish the file. Raises OutputError where it cannot be written."""


def open_sink(
    path: str,
    *,
    asked: Collection[str] = (),
    lost: Collection[str] = (),
    landmarks: int = 0,
    overwrite: bool = False,
) -> Sink:
    """The sink for a file, by its suffix; `-` prints JSON lines.

    A file that is there is continued. Of the sources asked for, those that it holds in full are
    `done`; what it holds of the others (an error, or a video that was cut off) is dropped, to be made
    again. All other sources in it stay.

    Args:
        path: ends in .jsonl, .csv or .parquet (which needs pyarrow).
        asked: the sources of this run.
        lost: those to be made again whatever the file holds.
        landmarks: number of points a face, which a CSV table has columns for.
        overwrite: start anew.

    Raises:
        OptionError: the suffix is another. OutputError: the file cannot be read or written.
        DependencyError: Parquet without pyarrow.
    """
    if path == "-":
        return _JsonLines(sys.stdout, Path("standard output"), set())
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"results end in {', '.join(SUFFIXES)}, or are - to print; got {path!r}")
    target, resume = Path(path), Resume(frozenset(asked), frozenset(lost), overwrite)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".parquet":
            return _Parquet(target, resume)
        if suffix == ".csv":
            return _open_csv(target, landmarks, resume)
        return _open_json_lines(target, resume)


@dataclass(frozen=True)
class Resume:
    """What of an earlier run's file stays; see `open_sink`."""

    asked: frozenset[str]
    lost: frozenset[str]
    overwrite: bool

    def of(self, path: Path) -> bool:
        """Whether there is something to continue."""
        return path.is_file() and not self.overwrite

    def done(self, rows: list[dict[str, Any]]) -> set[str]:
        """The sources asked for that are finished: their last record is there, and none is an error."""
        ended = {row["source"] for row in rows if row.get("last") in (True, "true")}
        failed = {row["source"] for row in rows if row.get("error")}
        return (ended & self.asked) - failed - self.lost

    def kept(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that stay."""
        dropped = self.asked - self.done(rows)
        return [row for row in rows if row["source"] not in dropped]


def _continued(path: Path, text: str) -> TextIO:
    """`path` with `text` in it, open for more; the text appears complete or not at all."""
    if not path.exists() or path.is_file():  # anything else, such as a pipe, is written in place
        write_file(path, [text.encode("utf-8")])
    return open(path, "a", encoding="utf-8", newline="")


class _JsonLines:
    """One JSON object a line, flushed line by line."""

    def __init__(self, file: TextIO, path: Path, done: set[str]) -> None:
        self.file, self.path, self.done = file, path, done

    def write(self, record: Record) -> None:
        self._put(json.dumps(record.to_dict()) + "\n")

    def close(self) -> None:
        if self.file is not sys.stdout:
            with writing(self.path):
                self.file.close()

    def _put(self, text: str) -> None:
        with writing(self.path):
            self.file.write(text)
            self.file.flush()


class _Csv(_JsonLines):
    """One row a face, flushed record by record."""

    def __init__(self, file: TextIO, path: Path, done: set[str], columns: list[str]) -> None:
        super().__init__(file, path, done)
        self.columns = columns

    def write(self, record: Record) -> None:
        self._put(_csv_text(self.columns, [_flat(row) for row in record.rows()]))


def _open_json_lines(path: Path, resume: Resume) -> Sink:
    rows = []
    if resume.of(path):
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) and "source" in row else []
            except json.JSONDecodeError:
                continue  # the line that a killed run left unfinished
    kept = "".join(json.dumps(row) + "\n" for row in resume.kept(rows))
    return _JsonLines(_continued(path, kept), path, resume.done(rows))


def _open_csv(path: Path, landmarks: int, resume: Resume) -> Sink:
    columns = [name for name, _ in (*RECORD_COLUMNS, *FACE_COLUMNS) if name != "landmarks"]
    columns += [f"{axis}_{i}" for i in range(landmarks) for axis in "xy"]
    rows: list[dict[str, Any]] = []
    if resume.of(path):
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is not None and list(reader.fieldnames) != columns:
                raise OptionError(
                    f"{path} is there and has other columns than this run would write; use another "
                    "file, or --overwrite"
                )
            rows = [row for row in reader if None not in row and None not in row.values()]
    text = _csv_text(columns, resume.kept(rows), header=True)
    return _Csv(_continued(path, text), path, resume.done(rows), columns)


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
    return flat | {"last": "true" if row["last"] else "false"}


class _Parquet:
    """One row a face. The file is written beside its place and takes it when it is finished."""

    def __init__(self, path: Path, resume: Resume) -> None:
        self.arrow = require("pyarrow", "Parquet", "pyarrow")
        self.parquet = require("pyarrow.parquet", "Parquet", "pyarrow")
        self.path = path
        self.schema = arrow_schema((*RECORD_COLUMNS, *FACE_COLUMNS))
        self.rows: list[dict[str, Any]] = []
        self.done: set[str] = set()
        old = self._old() if resume.of(path) else None
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(path))
            self.writer = self.parquet.ParquetWriter(temporary, self.schema)
            if old is not None:
                self._keep(old, resume)
            self.replacement = stack.pop_all()  # stays open until the last record

    def _old(self) -> Any:
        """The file of the earlier run, open."""
        try:
            old = self.parquet.ParquetFile(self.path)
        except self.arrow.ArrowInvalid as error:
            raise OptionError(
                f"{self.path} is there and is no Parquet file ({error}); use another file, or "
                "--overwrite"
            ) from error
        if not old.schema_arrow.equals(self.schema):
            raise OptionError(
                f"{self.path} is there and has other columns than this run would write; use another "
                "file, or --overwrite"
            )
        return old

    def _keep(self, old: Any, resume: Resume) -> None:
        """Copy what stays of `old`, a group of rows at a time."""
        rows = old.read(columns=["source", "last", "error"]).to_pylist()
        self.done = resume.done(rows)
        dropped = self.arrow.array(sorted(resume.asked - self.done), self.arrow.string())
        compute = require("pyarrow.compute", "Parquet", "pyarrow")
        for i in range(old.num_row_groups):
            group = old.read_row_group(i)
            kept = group.filter(compute.invert(compute.is_in(group["source"], dropped)))
            if kept.num_rows:
                self.writer.write_table(kept)
        old.close()

    def write(self, record: Record) -> None:
        self.rows += record.rows()
        if len(self.rows) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        with self.replacement:
            self._flush()
            self.writer.close()

    def _flush(self) -> None:
        with writing(self.path):
            if self.rows:
                self.writer.write_table(self.arrow.Table.from_pylist(self.rows, self.schema))
            self.rows = []
