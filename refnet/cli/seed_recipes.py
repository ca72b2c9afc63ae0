"""What `refnet erf --recipe` and `refnet erf --table` print."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from refnet.errors import OptionError
from refnet.fields import seed_experiment
from refnet.summary import align

HEADINGS = (
    *("branch", "RF", "u8", "script RF", ".5/.75/.85 raw"),
    *("script .75", "script .85", "Luo", "2σ", "window"),
)


def recipe(network: str, name: str, *, as_json: bool) -> int:
    """Print the sizes that the seed's steps give, or the true ones, and why they differ."""
    if network != seed_experiment.NETWORK:
        raise OptionError(
            f"the recipe is an experiment on {seed_experiment.NETWORK}, not on {network}"
        )
    seed = name == "seed"
    sizes: tuple[Any, ...]
    sizes = seed_experiment.seed_recipe() if seed else seed_experiment.exact_recipe()
    if as_json:
        keys = ("receptive_field", "above_0.75", "above_0.85")
        print(json.dumps({"recipe": name, **dict(zip(keys, sizes, strict=True))}, indent=2))
        return 0
    print(", ".join(map(str, sizes)))
    print("\n" + textwrap.fill(seed_experiment.EXPLANATION, 88))
    return 0


def table(*, as_json: bool) -> int:
    """Print every LFFD branch: the true measures, and what the seed's steps would print."""
    rows = seed_experiment.table()
    if as_json:
        print(json.dumps([row.as_data() for row in rows], indent=2))
        return 0
    lines = [
        (
            row.label,
            str(row.receptive_field),
            str(row.script[0].before[0]),
            _printed(row.script[0]),
            "/".join(map(str, row.raw)),
            _printed(row.script[1]),
            _printed(row.script[2]),
            f"{row.luo:.1f}",
            f"{row.two_sigma:.1f}",
            str(row.window),
        )
        for row in rows
    ]
    print("\n".join(align([HEADINGS, *lines], right=range(1, 10))))
    print(
        "\nu8: box after the cast to uint8. script: what the seed's steps print, (n) with the number of\n"
        "contours where there are several and the first is arbitrary. raw: true boxes above 0.5, 0.75\n"
        "and 0.85 of the peak. Luo: √(pixels above 0.0455). 2σ: four standard deviations of a marginal.\n"
        "window: smallest centred square that holds 95.45 % of the gradient."
    )
    return 0


def _printed(printed: seed_experiment.Printed) -> str:
    several = f" ({printed.contours})" if printed.contours > 1 else ""
    return f"{printed.size[0]}{several}"
