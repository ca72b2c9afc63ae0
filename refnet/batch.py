"""The analyzer over a table of images: on this machine, or with Ray Data on many.

    import refnet

    def make_analyzer():                        # runs once in every worker
        return refnet.FaceAnalyzer()

    refnet.analyze_table(paths, make_analyzer, "faces.parquet")

Object storage: a bucket of photos, their keys in a Parquet file with a column `source`, results beside
them. Each worker reads its own images, so that none of them passes through the driver:

    ray.init("auto")                                       # a cluster that is there
    refnet.analyze_table(
        "s3://bucket/keys.parquet",                        # source: s3://bucket/photos/0001.jpg, ...
        make_analyzer,                                     # runs once in every worker
        "s3://bucket/faces",
        on="ray",
        workers=64,
    )
    pyarrow.dataset.dataset("s3://bucket/faces").to_table(filter=pc.field("error").is_valid())

The result is a folder of Parquet files with the columns of `refnet faces`: one row a face, one row
for an image without faces, and one with `error` for an image that could not be handled. Every row of
the input is there; pyarrow reads and writes, and names paths such as s3:// and gs://.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from refnet.arguments import explicit
from refnet.cores import sharing
from refnet.errors import ImageError, OptionError, RefnetError
from refnet.exchange.arrow import arrow_schema
from refnet.faces.face import Faces
from refnet.media.images import decode_image, read_image
from refnet.ops import Array
from refnet.optional import require
from refnet.results.records import Record, faces_table

PLACES = ("threads", "ray")
#: What Ray sets aside for an actor. Reading and writing are tasks of one processor each: were all
#: set aside for actors, as on a machine with as many processors as workers, they would wait for ever.
PROCESSORS_OF_AN_ACTOR = 0.5
Analyzer = Callable[[Array], Faces]
Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class BatchSummary:
    """The outcome of a batch.

    Attributes:
        images: number of images, those that failed included.
        faces: number of faces found.
        failed: number of images with an error.
    """

    images: int
    faces: int
    failed: int


@explicit
def analyze_table(
    inputs: Any,
    make_analyzer: Callable[[], Analyzer],
    output: str | os.PathLike[str],
    *,
    on: str = "threads",
    workers: int = 1,
    batch_size: int = 32,
) -> BatchSummary:
    """Find the faces of every image of a table, and write them as Parquet.

    An image that cannot be read, or that fails, is a row with its error, and the rest goes on. With
    Ray, a worker that dies is started again, and what it had not delivered is done again, without
    end: an image that ends the process of every worker has to be taken out by hand.

    Args:
        inputs: paths of images; or rows {"source": path or name, "bytes": the file's content or None};
            or a `pyarrow.Table` or the path of a Parquet file with these columns. A path may be
            anything that pyarrow knows, such as s3://bucket/key.
        make_analyzer: makes the analyzer, such as a `FaceAnalyzer`; called once in each worker, whose
            networks take one thread by default. With Ray it travels to the workers, so name files that
            they can read.
        output: the folder for the results, new or empty.
        on: "threads" of this process; or "ray", actors of one model each, by Ray Data,
            on the cluster that `ray.init` has connected to, or on this machine.
        workers: number of threads or actors.
        batch_size: images that a worker takes at a time.

    Raises:
        OptionError: an argument is out of range, or the output folder holds something.
        RefnetError: the input or the output cannot be reached.
        DependencyError: pyarrow is not installed, or Ray where it is asked for.
    """
    if on not in PLACES:
        raise OptionError(f"on is one of {', '.join(PLACES)}, not {on!r}")
    if workers < 1 or batch_size < 1:
        raise OptionError(
            f"workers and batch_size are at least 1, not {workers!r} and {batch_size!r}"
        )
    require("pyarrow", "analyze_table", "pyarrow")
    folder = os.fspath(output)
    try:
        filesystem, place = _new_folder(folder)
        run = _run_on_ray if on == "ray" else _run_embedded
        run(inputs, make_analyzer, filesystem, place, workers, batch_size)
        return _summary(filesystem, place)
    except OSError as error:
        raise RefnetError(f"cannot run from {_called(inputs)} to {folder}: {error}") from error


def analyze_rows(analyzer: Analyzer, rows: Rows) -> list[dict[str, Any]]:
    """The rows of the result for rows {"source", "bytes"} of the input; errors become rows too."""
    found: list[dict[str, Any]] = []
    for row in rows:
        source = str(row["source"])
        try:
            image = _image(source, row.get("bytes"))
            record = Record(source, analyzer(image), (image.shape[0], image.shape[1]))
        except RefnetError as error:
            record = Record(source, error=str(error))
        except Exception as error:  # whatever failed, failed for this image; the others go on
            record = Record(source, error=f"{source}: {type(error).__name__}: {error}")
        found += record.rows()
    return found


def _image(source: str, content: bytes | None) -> Array:
    if content is not None:
        return decode_image(content, source)
    if "://" not in source:
        return read_image(source)
    try:
        filesystem, path = _located(source)
        with filesystem.open_input_stream(path) as stream:
            return decode_image(stream.read(), source)
    except OSError as error:
        raise ImageError(f"cannot read {source}: {error}") from error


def _located(path: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it) of a path or URI."""
    files = require("pyarrow.fs", "analyze_table", "pyarrow")
    if "://" not in path:
        path = os.path.abspath(path)
    filesystem, inside = files.FileSystem.from_uri(path)
    return filesystem, inside


def _new_folder(folder: str) -> tuple[Any, str]:
    """The file system and path of a folder, made where it is not there."""
    files = require("pyarrow.fs", "analyze_table", "pyarrow")
    filesystem, place = _located(folder)
    there = filesystem.get_file_info(place)
    if there.type == files.FileType.File or (
        there.type == files.FileType.Directory
        and filesystem.get_file_info(files.FileSelector(place))
    ):
        raise OptionError(f"{folder} holds something; name a new or empty folder")
    filesystem.create_dir(place, recursive=True)
    return filesystem, place


def _schema() -> Any:
    return arrow_schema(faces_table().all_columns)


def _called(inputs: Any) -> str:
    return inputs if isinstance(inputs, str) else f"the given {type(inputs).__name__}"


def _rows(inputs: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of any kind of input, a group at a time where it is a file."""
    if isinstance(inputs, str | os.PathLike):
        parquet = require("pyarrow.parquet", "analyze_table", "pyarrow")
        filesystem, path = _located(os.fspath(inputs))
        with parquet.ParquetFile(filesystem.open_input_file(path)) as file:
            columns = _columns(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    elif hasattr(inputs, "to_batches"):
        for batch in inputs.select(_columns(inputs.column_names)).to_batches(256):
            yield from batch.to_pylist()
    else:
        for row in inputs:
            if isinstance(row, Mapping):
                _columns(list(row))
                yield row
            else:
                yield {"source": os.fspath(row), "bytes": None}


def _columns(names: Sequence[str]) -> list[str]:
    if "source" not in names:
        raise OptionError(
            "the table of images has a column source, and one of bytes where it holds the files "
            f"themselves; got {', '.join(names)}"
        )
    return [name for name in ("source", "bytes") if name in names]


def _run_embedded(
    inputs: Any,
    make_analyzer: Callable[[], Analyzer],
    filesystem: Any,
    place: str,
    workers: int,
    batch_size: int,
) -> None:
    """Threads of one analyzer each; the compiled kernels and OpenCV run beside each other."""
    arrow = require("pyarrow", "analyze_table", "pyarrow")
    parquet = require("pyarrow.parquet", "analyze_table", "pyarrow")
    own = threading.local()

    def work(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if not hasattr(own, "analyzer"):
            with sharing() if workers > 1 else nullcontext():
                own.analyzer = make_analyzer()
        return analyze_rows(own.analyzer, rows)

    schema, rows = _schema(), _rows(inputs)
    file = f"{place}/part-00000.parquet"
    with (
        ThreadPoolExecutor(workers) as pool,
        parquet.ParquetWriter(file, schema, filesystem=filesystem) as writer,
    ):
        while batch := list(itertools.islice(rows, batch_size * workers)):
            parts = [batch[at : at + batch_size] for at in range(0, len(batch), batch_size)]
            found = list(itertools.chain.from_iterable(pool.map(work, parts)))
            writer.write_table(arrow.Table.from_pylist(found, schema))


class _Actor:
    """One analyzer in a process of Ray's; takes and gives tables."""

    def __init__(self, make_analyzer: Callable[[], Analyzer]) -> None:
        with sharing():
            self.analyzer = make_analyzer()

    def __call__(self, table: Any) -> Any:
        arrow = require("pyarrow", "analyze_table", "pyarrow")
        return arrow.Table.from_pylist(analyze_rows(self.analyzer, table.to_pylist()), _schema())


def _run_on_ray(
    inputs: Any,
    make_analyzer: Callable[[], Analyzer],
    filesystem: Any,
    place: str,
    workers: int,
    batch_size: int,
) -> None:
    """Actors of one analyzer each, by Ray Data, which restarts those that die."""
    data = require("ray.data", 'on="ray"', "ray[data]")
    arrow = require("pyarrow", "analyze_table", "pyarrow")
    if isinstance(inputs, str | os.PathLike):
        source_filesystem, path = _located(os.fspath(inputs))
        dataset = data.read_parquet(path, filesystem=source_filesystem)
        dataset = dataset.select_columns(_columns(dataset.columns()))
    else:
        schema = arrow.schema([("source", arrow.string()), ("bytes", arrow.binary())])
        table = arrow.Table.from_pylist([dict(row) for row in _rows(inputs)], schema)
        starts = range(0, max(table.num_rows, 1), batch_size)
        dataset = data.from_arrow([table.slice(start, batch_size) for start in starts])
        workers = min(workers, len(starts))  # an actor without a block would wait for nothing
    found = dataset.map_batches(
        _Actor,
        fn_constructor_args=(make_analyzer,),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=data.ActorPoolStrategy(size=workers),
        num_cpus=PROCESSORS_OF_AN_ACTOR,
    )
    found.write_parquet(place, filesystem=filesystem)


def _summary(filesystem: Any, place: str) -> BatchSummary:
    """The counts of what lies in the folder."""
    datasets = require("pyarrow.dataset", "analyze_table", "pyarrow")
    images = faces = failed = 0
    found = datasets.dataset(place, filesystem=filesystem, format="parquet")
    for batch in found.to_batches(columns=["face", "error"]):
        for face, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            images += face in (None, 0)
            faces += face is not None
            failed += error is not None
    return BatchSummary(images, faces, failed)
