"""Write a checkpoint that says what it is, so that `refnet.load(path)` needs nothing else."""

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refnet.checkpoints.elements import Array
from refnet.checkpoints.reader import Checkpoint
from refnet.checkpoints.safetensors_file import write_safetensors
from refnet.errors import CheckpointError, WeightsError
from refnet.networks import build
from refnet.values import objection, variances
from refnet.version import __version__


def save(
    path: str | os.PathLike[str],
    network: str,
    options: Mapping[str, Any],
    tensors: Mapping[str, Array],
    source: Checkpoint | None = None,
    *,
    date: datetime.date | None = None,
) -> None:
    """Write safetensors with the tensors that the network reads, and a record of what they are.

    The record (safetensors metadata, text by text) holds: refnet, the version that wrote it; network;
    options, all of them, as JSON; date; and of `source` its file's name, format and sha256. The file
    appears whole or not at all, and replaces an older one.

    Raises OptionError where the network cannot be built so, WeightsError where tensors are missing,
    misshapen or hold numbers that weights cannot be, CheckpointError where the file cannot be written.
    """
    graph = build(network, **options)
    wrong = [n for n, s in graph.parameters.items() if n not in tensors or tensors[n].shape != s]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors of {network} are missing or misshapen, such as {wrong[0]!r}; "
            f"nothing was written"
        )
    running = variances(graph)
    for name in graph.parameters:
        if reason := objection(tensors[name], variance=name in running):
            raise WeightsError(f"tensor {name!r} of {network} {reason}; nothing was written")
    if "\0" in os.fspath(path):
        raise CheckpointError(
            f"{os.fspath(path)}: cannot be written; no name of a file holds a NUL"
        )
    day = datetime.datetime.now(datetime.timezone.utc).date() if date is None else date
    metadata = {
        "refnet": __version__,
        "network": network,
        "options": json.dumps(dict(graph.options)),
        "date": day.isoformat(),
    }
    if source is not None:
        metadata |= {
            "source": source.path.name,
            "source_format": source.format,
            "source_sha256": source.sha256,
        }
    write_safetensors(Path(path), {name: tensors[name] for name in graph.parameters}, metadata)
