"""What the builders share: checks of options, and what a checkpoint's tensors say about them.

Each check turns an impossible option into an error that names the possible ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from refnet.arrays import Array
from refnet.errors import OptionError

#: No side of a network's input is longer; no JPEG file has a longer one.
LONGEST_SIDE = 65_535
#: Of networks whose last layers grow with the input; at this side they hold 0.5 GB.
LONGEST_FIXED_SIDE = 4096
#: Of points or classes.
LARGEST_COUNT = 10_000
WIDEST = 4


def check_choice(network: str, option: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`."""
    if value not in choices:
        raise OptionError(f"{network}: {option} is one of {', '.join(choices)}, not {value!r}")
    return str(value)


def check_count(network: str, option: str, value: Any) -> int:
    """`value` as an int, if it is a whole number from 1 to `LARGEST_COUNT`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_COUNT:
        raise OptionError(
            f"{network}: {option} is a whole number from 1 to {LARGEST_COUNT:,}, not {value!r}"
        )
    return value


def check_size(network: str, value: Any, most: int = LONGEST_SIDE) -> tuple[int, int]:
    """`value` as (height, width): an int means a square, a pair of ints is taken as it is."""
    pair = (value, value) if isinstance(value, int) else value
    whole = isinstance(pair, Sequence) and all(
        isinstance(side, int) and not isinstance(side, bool) and 0 < side <= most for side in pair
    )
    if not whole or len(pair) != 2:
        raise OptionError(
            f"{network}: input_size is a side in pixels or a pair (height, width), from 1 to {most:,}, "
            f"not {value!r}"
        )
    return int(pair[0]), int(pair[1])


def check_multiple(network: str, value: Any, step: int) -> tuple[int, int]:
    """`value` as (height, width), both multiples of `step`."""
    size = check_size(network, value)
    if any(side % step for side in size):
        near = tuple(max(step, round(side / step) * step) for side in size)
        raise OptionError(
            f"{network}: height and width of input_size are multiples of {step} (coarse maps are "
            f"enlarged and added to finer ones), such as {near}; not {value!r}"
        )
    return size


def check_square(network: str, value: Any, step: int) -> int:
    """`value` as the side of a square input, a multiple of `step`."""
    height, width = check_size(network, value, LONGEST_FIXED_SIDE)
    if height != width or height % step:
        near = max(step, round(height / step) * step)
        raise OptionError(
            f"{network}: input_size is a square whose side is a multiple of {step} (its last pooling "
            f"windows are fixed fractions of it), such as {near}; not {value!r}"
        )
    return height


def check_width(network: str, value: Any, fits: Callable[[float], bool]) -> float:
    """`value` as a width factor, if the scaled channel counts are not 0 and still fit together."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= WIDEST:
        raise OptionError(
            f"{network}: width is a number above 0 and of at most {WIDEST}, not {value!r}"
        )
    width = float(value)
    if not fits(width):
        possible = [f"{n / 8:g}" for n in range(1, 17) if fits(n / 8)]
        raise OptionError(
            f"{network} cannot be built at width {value!r}: its scaled channel counts, rounded down, "
            f"are 0 or do not add up; widths that do include {', '.join(possible)}"
        )
    return width


def size_of(array: Array, axis: int) -> int:
    """The size along `axis`, 1 where there is no such axis: a misfit that comparing shapes reports."""
    return int(array.shape[axis]) if axis < array.ndim else 1
