"""A network out of an ONNX file, whichever network it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from refnet.errors import OptionError
from refnet.exchange.onnx_import import from_onnx
from refnet.model import Model


def read_onnx(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Model:
    """The network in an ONNX file, with its weights; `options` may hold input_size.

    Raises:
        OptionError: there are other options. And as `from_onnx`.
    """
    if unknown := [key for key in options if key != "input_size"]:
        raise OptionError(
            f"of an ONNX file only input_size can be chosen, not {', '.join(unknown)}"
        )
    return from_onnx(path, **options)
