"""`refnet erf`: what the units of a network look at, measured by gradients, as numbers and pictures."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from refnet.cli.arguments import (
    NETWORK,
    add_json,
    add_overwrite,
    check_new,
    numbers,
    print_json,
    read_graph,
    read_model,
)
from refnet.cli.parser import add_verb
from refnet.errors import OptionError
from refnet.fields import threshold_experiment
from refnet.fields.branches import Branch
from refnet.fields.effective_receptive_field import THRESHOLDS, EffectiveReceptiveField
from refnet.fields.experiment import Experiment
from refnet.files import write_file
from refnet.graph import Graph
from refnet.media.images import opencv, read_image
from refnet.model import Model
from refnet.networks.defaults import defaults_of
from refnet.ops import Array
from refnet.tables import align
from refnet.waiting import waiting

HEADINGS = (
    "branch",
    "sees",
    "> 0.5",
    "> 0.75",
    "> 0.85",
    "Luo",
    "2σ",
    "95.45 %",
    "σ fit",
    "objects",
)
TABLE_HEADINGS = (
    *("branch", "RF", "u8", "script RF", ".5/.75/.85 raw"),
    *("script .75", "script .85", "Luo", "2σ", "window"),
)
FIGURES = ("heat_map", "profile", "sheet", "compare", "animation", "explorer")


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "erf",
        "NETWORK [--branch N | --tensor NAME] [--trained --image FILE] [--json] [...]",
        description="Measure effective receptive fields: of the architecture alone (all weights equal), "
        "of random weights (--draws), or of trained ones on real images (--trained and --image). "
        "Without --branch or --tensor, of every branch.",
    )
    parser.add_argument("network", nargs="?", metavar="NETWORK", help=NETWORK)
    add_json(parser)
    _add_experiment(parser.add_argument_group("what is measured"))
    _add_figures(parser.add_argument_group("pictures (PNG, SVG or PDF; the extra `plot`)"))
    published = parser.add_argument_group("a well-known experiment")
    published.add_argument(
        "--experiment",
        choices=("as-published", "corrected"),
        help="with tinynet: the receptive and effective fields by the published steps, or the true ones",
    )
    published.add_argument(
        "--table",
        action="store_true",
        help="every LFFD branch: the true widths, and what the published steps would print",
    )
    parser.set_defaults(run=run)


def _add_experiment(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--branch", type=int, metavar="N", help="only this branch, counted from 1")
    group.add_argument("--tensor", metavar="NAME", help="any layer that `refnet info` lists")
    group.add_argument(
        "--unit",
        type=numbers("--unit", "ROW,COLUMN", int),
        metavar="ROW,COLUMN",
        help="default: near the centre",
    )
    group.add_argument(
        "--channel",
        action="append",
        type=_channel,
        metavar="C[=WEIGHT]",
        help="differentiate this channel; may be repeated, such as 0=1 and 1=-1 for a contrast "
        "(default: the sum of all)",
    )
    group.add_argument(
        "--trained",
        action="store_true",
        help="with --image: the weights of the file, or those that refnet comes with",
    )
    group.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help="an image to average over; may be repeated. Without --trained it is only drawn under",
    )
    group.add_argument(
        "--scaling",
        type=numbers("--scaling", "SCALE,SHIFT"),
        metavar="SCALE,SHIFT",
        help="turns a pixel's value into the network's input (default: the network's own, else 1/255)",
    )
    group.add_argument("--rgb", action="store_true", help="the network takes R, G, B, not B, G, R")
    group.add_argument(
        "--constant",
        type=float,
        default=0.05,
        metavar="W",
        help="all weights (default: %(default)s)",
    )
    group.add_argument("--draws", type=int, default=0, metavar="N", help="average random networks")
    group.add_argument("--seed", type=int, default=0, help="the first random network's seed")


def _add_figures(group: argparse._ArgumentGroup) -> None:
    texts = {
        "heat_map": "one branch on its image, with its boxes to scale",
        "profile": "one branch's marginals with Gaussian fits",
        "sheet": "all branches beside each other, with the sizes they look for",
        "compare": "one branch before and after training; with --trained and --image",
        "animation": "one branch's field growing layer by layer, a .gif",
        "explorer": "a page to point at units in, .html; needs no matplotlib",
    }
    for name in FIGURES:
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, dest=name, metavar="FILE", help=texts[name])
    group.add_argument(
        "--face",
        type=numbers("--face", "X1,Y1,X2,Y2"),
        metavar="X1,Y1,X2,Y2",
        help="a face in the image, which scales a sheet",
    )
    add_overwrite(group, "pictures that are there")
    group.add_argument("--compact", action="store_true", help="PNG of 256 colours")


def run(arguments: argparse.Namespace) -> int:
    check_new(
        [getattr(arguments, name) for name in FIGURES],
        [*(arguments.image or ()), arguments.network or ""],
        overwrite=arguments.overwrite,
    )
    if arguments.table:
        return _print_table(as_json=arguments.json)
    if arguments.network is None:
        raise OptionError("name a network, such as `refnet erf lffd-face-v2`, or pass --table")
    if arguments.experiment:
        return _print_published(arguments.network, arguments.experiment, as_json=arguments.json)
    experiment, images = _experiment(arguments)
    chosen = experiment.branches(arguments.branch, arguments.tensor)
    with waiting("measuring"):
        fields = [(branch, experiment.measure(branch.tensor)) for branch in chosen]
    _draw(arguments, experiment, images, fields)
    if arguments.json:
        for _, field in fields:
            print_json(field.as_data())
        return 0
    rows = [_row(branch, field) for branch, field in fields]
    print("\n".join([experiment.title, "", *align([HEADINGS, *rows], right=range(1, 10))]))
    return 0


def _print_published(network: str, name: str, *, as_json: bool) -> int:
    """Print the sizes that the published steps give, or the true ones, and why they differ."""
    if network != threshold_experiment.NETWORK:
        raise OptionError(
            f"this is an experiment on {threshold_experiment.NETWORK}, not on {network}"
        )
    sizes: tuple[Any, ...]
    if name == "as-published":
        sizes = threshold_experiment.as_published()
    else:
        sizes = threshold_experiment.corrected()
    if as_json:
        keys = ("receptive_field", "above_0.75", "above_0.85")
        print_json({"experiment": name, **dict(zip(keys, sizes, strict=True))})
        return 0
    print(", ".join(map(str, sizes)))
    print("\n" + textwrap.fill(threshold_experiment.EXPLANATION, 88))
    return 0


def _print_table(*, as_json: bool) -> int:
    """Print every LFFD branch: the true widths, and what the published steps would print."""
    with waiting("measuring"):
        rows = threshold_experiment.table()
    if as_json:
        for row in rows:
            print_json(row.as_data())
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
    print("\n".join(align([TABLE_HEADINGS, *lines], right=range(1, 10))))
    print(
        "\nu8: box after the cast to uint8. script: what the published steps print, (n) with the number of\n"
        "contours where there are several and the first is arbitrary. raw: true boxes above 0.5, 0.75\n"
        "and 0.85 of the peak. Luo: √(pixels above 0.0455). 2σ: four standard deviations of a marginal.\n"
        "window: smallest centred square that holds 95.45 % of the gradient."
    )
    return 0


def _printed(printed: threshold_experiment.Printed) -> str:
    several = f" ({printed.contours})" if printed.contours > 1 else ""
    return f"{printed.size[0]}{several}"


def _experiment(arguments: argparse.Namespace) -> tuple[Experiment, list[Array]]:
    """What the arguments ask to measure, and the images, at the size that the network takes."""
    images = [read_image(path) for path in arguments.image or ()]
    network: Graph | Model
    if not arguments.trained:
        network = graph = read_graph(arguments.network)
    else:
        if not images:
            raise OptionError(
                "--trained goes with --image: what trained units look at depends on it"
            )
        if arguments.draws:
            raise OptionError("--draws makes its own weights; leave out --trained")
        network = read_model(arguments.network, backend="numpy")
        graph = network.graph
    images = [_fitted(graph, image) for image in images]
    experiment = Experiment(
        network,
        [network_input(graph, image, arguments.scaling, rgb=arguments.rgb) for image in images],
        unit=arguments.unit,
        channels=dict(arguments.channel) if arguments.channel else None,
        constant=arguments.constant,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    return experiment, images


def _fitted(graph: Graph, image: Array) -> Array:
    """The image, resized where the network takes one size only."""
    if not graph.fixed_size:
        return image
    _, height, width = graph.input_shape
    resized: Array = opencv().resize(image, (width, height))
    return resized


def network_input(
    graph: Graph, image: Array, scaling: tuple[float, float] | None = None, *, rgb: bool = False
) -> Array:
    """An image as the network was trained on, float32 (C, H, W).

    Args:
        scaling: value · scale + shift of a pixel; the network's own by default, else 1 / 255 and 0.
        rgb: in the order R, G, B, as basketnet takes it anyway.
    """
    preprocessing = defaults_of(graph).preprocessing
    if scaling is not None:
        preprocessing = replace(preprocessing, divide=1.0, scale=scaling[0], shift=scaling[1])
    if rgb:
        preprocessing = replace(preprocessing, channel_order="rgb")
    x: Array = preprocessing.apply(image[None])[0]
    return x


def _draw(
    arguments: argparse.Namespace,
    experiment: Experiment,
    images: Sequence[Array],
    fields: list[tuple[Branch, EffectiveReceptiveField]],
) -> None:
    """Write the pictures that were asked for."""
    asked = {name: path for name in FIGURES if (path := getattr(arguments, name)) is not None}
    if not asked:
        return
    from refnet.fields import figures

    for name in ("heat_map", "profile", "compare", "animation"):
        if name in asked and len(fields) != 1:
            raise OptionError(
                f"--{name.replace('_', '-')} shows one branch; choose it with --branch"
            )
    branch, field = fields[0]
    image = images[-1] if images else None
    objects = branch.objects
    if image is not None and not experiment.trained:
        # The architecture's field is the same everywhere: show it at the middle of the image.
        field = _centred(experiment.graph, field, image)
    title = _title(branch, field)
    made: dict[str, Any] = {}
    if "heat_map" in asked:
        made["heat_map"] = figures.heat_map(field, image=image, objects=objects, title=title)
    if "profile" in asked:
        made["profile"] = figures.profile(field, objects=objects)
    if "sheet" in asked:
        face = arguments.face
        made["sheet"] = figures.sheet(fields, image=None if face is None else image, face=face)
    if "compare" in asked:
        if not experiment.trained:
            raise OptionError("--compare shows training: pass --trained and --image")
        pair = {
            "before training": experiment.before_training(branch.tensor),
            "after training": field,
        }
        made["compare"] = figures.comparison(pair, image=image, objects=objects)
    for name, figure in made.items():
        figures.save(figure, asked[name], compact=arguments.compact)
    if "animation" in asked:
        figures.animation(experiment.graph, branch.tensor, experiment.measure, asked["animation"])
    if "explorer" in asked:
        page = figures.explorer(experiment.graph, fields, image=image)
        write_file(asked["explorer"], [page.encode("utf-8")])


def _centred(graph: Graph, field: EffectiveReceptiveField, image: Array) -> EffectiveReceptiveField:
    """The same field at the unit nearest the image's centre."""
    shape = (graph.input_shape[0], *image.shape[:2])
    size = graph.shapes(None if graph.fixed_size else shape)[field.output]
    if len(size) != 3 or graph.fixed_size:
        return field
    rows, columns = field.field.rows, field.field.columns
    unit = (
        rows.nearest((shape[1] - 1) / 2, size[1]),
        columns.nearest((shape[2] - 1) / 2, size[2]),
    )
    return field.at(unit)


def _title(branch: Branch, field: EffectiveReceptiveField) -> str:
    place = f"branch {branch.number}" if branch.number else branch.tensor
    return f"{field.network}, {place}: what one unit looks at"


def _row(branch: Branch, field: EffectiveReceptiveField) -> tuple[str, ...]:
    boxes = [field.threshold_box(t) for t in THRESHOLDS]
    sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in boxes]
    fits = (field.gaussian[0].sigma, field.gaussian[1].sigma)
    return (
        f"{branch.number} {branch.tensor}" if branch.number else branch.tensor,
        _size(field.map.shape),
        *(_size(size) for size in sizes),
        f"{field.luo_width:.1f}",
        _size(field.two_sigma),
        str(field.window),
        _size(fits),
        f"{branch.objects[0]} to {branch.objects[1]} px" if branch.objects else "",
    )


def _size(size: Sequence[float]) -> str:
    """Rows × columns, as one number where they agree."""
    words = [f"{s:.1f}" if isinstance(s, float) else str(s) for s in size]
    return words[0] if words[0] == words[1] else " × ".join(words)


def _channel(text: str) -> tuple[int, float]:
    channel, _, weight = text.partition("=")
    try:
        return int(channel), float(weight or 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"--channel is C or C=WEIGHT, not {text!r}") from None
