"""Parquet files that a killed run does not lose.

A Parquet file cannot be read before its last byte is written, so that a run cannot add to it image by
image. What it finds goes into a folder beside the file, `.faces.parquet.parts` for `faces.parquet`:

    000000.parquet  the first rows, written at once and whole
    000001.jsonl    the rows since then, a line of JSON a record; 000001.parquet takes its place
    merged.parquet  the finished file, which is there for a moment

When the run ends, or the next one begins, all of it goes into the file. At every moment one of these
holds, whatever ends the run: there is no merged.parquet, and the file and the parts together are what
was found; or there is one, and it alone is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from refnet.errors import OutputError
from refnet.exchange.arrow import arrow_schema
from refnet.files import NEW, move, replacing, writing
from refnet.optional import require
from refnet.results.records import Record, Table
from refnet.results.resume import Resume, named

ROWS_AT_ONCE = 4096
_MERGED = "merged.parquet"
_OURS = re.compile(r"\d{6}\.(parquet|jsonl)|merged\.parquet|\.refnet-[0-9a-f]{16}\.parquet")


def parts_folder(path: Path) -> Path:
    """Where the parts of a Parquet file are until it is finished."""
    return path.with_name(f".{path.name}.parts")


class Parquet:
    """A `refnet.results.sinks.Sink` of one row a face or object."""

    def __init__(self, path: Path, resume: Resume, table: Table) -> None:
        self.arrow = require("pyarrow", "Parquet", "pyarrow")
        self.parquet = require("pyarrow.parquet", "Parquet", "pyarrow")
        self.path, self.resume, self.what = path, resume, table.what
        self.schema = arrow_schema(table.all_columns)
        self.parts = parts_folder(path)
        if self.parts.is_symlink():
            raise OutputError(f"cannot write {path}: {self.parts} is a link")
        self._settle()
        self.rows: list[dict[str, Any]] = []
        self.journal: TextIO | None = None
        self.number = 0
        rows = [*self._earlier()] if resume.old else []
        kept = {row["source"] for row in resume.kept(rows)}
        self.done, self.known = resume.done, resume.known
        resume.begin()
        if self.parts.exists() or len(kept) < len({row["source"] for row in rows}):
            self._merge(kept)
        elif resume.overwrite and path.exists():
            self._merge(())

    def write(self, record: Record) -> None:
        rows = named(record, self.resume).rows(self.what)
        rows = [row | {k: _unicode(row[k]) for k in ("source", "error")} for row in rows]
        with writing(self.path):
            if self.journal is None:
                self.parts.mkdir(exist_ok=True)
                handle = os.open(self.parts / f"{self.number:06}.jsonl", NEW, 0o666)
                self.journal = open(handle, "w", encoding="utf-8")  # noqa: SIM115
            self.journal.write(json.dumps(rows) + "\n")
            self.journal.flush()
        self.rows += rows
        if len(self.rows) >= ROWS_AT_ONCE:
            self._end_part()

    def close(self) -> None:
        try:
            with writing(self.path):
                if self.journal is not None:
                    self.journal.close()
            if self.parts.exists() or not _holds_something(self.path):
                self._merge(None)
        finally:
            self.resume.close()

    def _end_part(self) -> None:
        """Put the rows of the journal into a part of their own, which makes the journal void."""
        part = self.parts / f"{self.number:06}.parquet"
        with replacing(part) as temporary:
            self.parquet.write_table(self._table(self.rows), temporary)
        assert self.journal is not None
        with writing(self.path):
            self.journal.close()
            part.with_suffix(".jsonl").unlink()
        self.journal, self.rows, self.number = None, [], self.number + 1

    def _merge(self, kept: Collection[str] | None) -> None:
        """Put everything into the file, of an earlier run the rows of the sources `kept`; None for all."""
        with (
            replacing(self.parts / _MERGED) as temporary,
            self.parquet.ParquetWriter(temporary, self.schema) as writer,
        ):
            for table in self._tables():
                some = table if kept is None else self._of(table, kept)
                if some.num_rows:
                    writer.write_table(some)
        self._settle()

    def _settle(self) -> None:
        """Have a merged file, which holds all, take the place of the file."""
        merged = self.parts / _MERGED
        if not merged.exists():
            return
        with writing(self.path):
            for part in self.parts.iterdir():
                if part != merged and _OURS.fullmatch(part.name):
                    part.unlink()
            move(merged, self.path)
            with suppress(OSError):  # something that is not ours is in it
                self.parts.rmdir()

    def _earlier(self) -> Iterator[dict[str, Any]]:
        """Of every row of an earlier run what a resumption asks for."""
        try:
            for table in self._tables(["source", "last", "error"]):
                if table["source"].null_count:
                    raise self.resume.foreign("a row has no source")
                yield from table.to_pylist()
        except self.arrow.ArrowException as error:
            raise self.resume.foreign(f"it is no Parquet file ({error})") from error

    def _tables(self, columns: list[str] | None = None) -> Iterator[Any]:
        """All rows of the file, the parts and the journal, a few thousand at a time."""
        if _holds_something(self.path):
            yield from self._groups(self.path, columns)
        for part in sorted(self.parts.glob("[0-9]*.parquet")):
            yield from self._groups(part, columns)
        for journal in sorted(self.parts.glob("[0-9]*.jsonl")):
            if not journal.with_suffix(".parquet").exists():
                table = self._table(_journal_rows(journal))
                yield table if columns is None else table.select(columns)

    def _groups(self, path: Path, columns: list[str] | None) -> Iterator[Any]:
        with self.parquet.ParquetFile(path) as file:
            if refused := self.resume.other_columns(file.schema_arrow.names, self.schema.names):
                raise refused
            if file.schema_arrow.names == self.schema.names:
                for i in range(file.num_row_groups):
                    yield file.read_row_group(i, columns)

    def _table(self, rows: list[dict[str, Any]]) -> Any:
        return self.arrow.Table.from_pylist(rows, self.schema)

    def _of(self, table: Any, sources: Collection[str]) -> Any:
        """The rows of `table` that are of one of `sources`."""
        compute = require("pyarrow.compute", "Parquet", "pyarrow")
        names = self.arrow.array(sorted(sources), self.arrow.string())
        return table.filter(compute.is_in(table["source"], names))


def _journal_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the whole lines of a journal; a last line that was cut off is none."""
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, list) or not all(isinstance(row, dict) for row in record):
            break
        rows += record
    return rows


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _unicode(text: str | None) -> str | None:
    """`text` as Arrow takes it: bytes of a file name that are no UTF-8 become escapes."""
    return text and text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
