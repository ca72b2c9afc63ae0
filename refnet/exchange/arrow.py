"""Rows of plain values as tables of pyarrow and pandas, which are imported only here and when asked for.

Columns are (name, type) pairs, in order; types are Arrow's names, such as "float32", or "list<float32>".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refnet.optional import require

Columns = Sequence[tuple[str, str]]
Rows = Sequence[Mapping[str, Any]]


def arrow_schema(columns: Columns) -> Any:
    """The `pyarrow.Schema` of the columns. Raises DependencyError where pyarrow is absent."""
    arrow = require("pyarrow", "a table", "pyarrow")
    types = {"list<float32>": arrow.list_(arrow.float32())}
    return arrow.schema(
        [(name, types.get(kind) or arrow.type_for_alias(kind)) for name, kind in columns]
    )


def arrow_table(rows: Rows, columns: Columns) -> Any:
    """`pyarrow.Table` of the rows. Raises DependencyError where pyarrow is absent."""
    arrow = require("pyarrow", "to_arrow()", "pyarrow")
    return arrow.Table.from_pylist(list(rows), schema=arrow_schema(columns))


def data_frame(rows: Rows, columns: Columns) -> Any:
    """`pandas.DataFrame` of the rows. Raises DependencyError where pandas is absent."""
    pandas = require("pandas", "to_pandas()", "pandas")
    return pandas.DataFrame(list(rows), columns=[name for name, _ in columns])
