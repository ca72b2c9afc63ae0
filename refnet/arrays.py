"""What arrays and their shapes are called in signatures."""

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
#: (rows, columns)
Pair: TypeAlias = tuple[int, int]
