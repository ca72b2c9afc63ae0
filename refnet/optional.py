"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from refnet.errors import DependencyError


def require(module: str, purpose: str, install: str, otherwise: str = "") -> ModuleType:
    """The module `module` of a package that refnet does not depend on.

    Args:
        module: dotted name, such as "pyarrow.parquet".
        purpose: what needs it, the subject of the message: "figures", "to_arrow()".
        install: what pip installs: a package, or an extra such as "refnet[onnx]".
        otherwise: the end of the message, where there is more than one way.

    Raises:
        DependencyError: it cannot be imported; the message says why and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        quoted = f"'{install}'" if "[" in install else install  # a shell would expand brackets
        raise DependencyError(
            f"{purpose} needs the package {package}, which cannot be imported here ({error}); "
            f"install it with pip install {quoted}{otherwise}"
        ) from error
