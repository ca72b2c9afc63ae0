"""`refnet bench`: how fast networks run here, and next to other engines."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refnet.benchmark import (
    PEERS,
    Result,
    Startup,
    layers,
    measure,
    peak_memory,
    pin,
    plot,
    quiet,
    startup,
)
from refnet.benchmark.media import TimedTracker, measure_media
from refnet.benchmark.photos import Engine, measure_photos, peer
from refnet.cli.arguments import (
    NETWORK,
    add_json,
    add_overwrite,
    check_new,
    print_json,
    read_graph,
    whole_number,
)
from refnet.cli.parser import add_verb
from refnet.cores import MOST_THREADS
from refnet.detection.detector import FaceDetector
from refnet.errors import OptionError
from refnet.faces.analyzer import FaceAnalyzer
from refnet.graph import Graph
from refnet.media.sources import find_sources
from refnet.networks import NETWORKS

HEADER = (
    f"{'network':36} {'batch':>5} {'engine':12} {'median ms':>10} {'p10':>9} {'p90':>9} "
    f"{'GFLOP/s':>8} {'peak':>6} {'ratio':>6} {'difference':>11}"
)


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "bench",
        "NETWORK... [--peers LIST] [...] | --photos DIR | --video FILE",
        description="Time networks with seeded weights: milliseconds a run, GFLOP/s, share of the core's "
        "peak, measured in turn with other engines in one process. Ratio is an engine's median over "
        "refnet's: above 1, refnet is faster.",
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help=NETWORK,
    )
    parser.add_argument("--photos", metavar="DIR", help="measure from photos to faces instead")
    parser.add_argument("--video", metavar="FILE", help="measure from a video to faces instead")
    parser.add_argument(
        "--peers",
        default="",
        metavar="LIST",
        help=f"with commas, of {', '.join(PEERS)}; with --photos, ONNX files of face detectors",
    )
    parser.add_argument(
        "--long-side",
        type=whole_number("--long-side"),
        metavar="PX",
        help="resize --photos to this longer side, and search at that size alone",
    )
    parser.add_argument(
        "--batch", type=whole_number("--batch"), default=1, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--threads",
        type=whole_number("--threads", 1, MOST_THREADS),
        default=1,
        metavar="N",
        help="1, the default, also pins the process to one core",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each network")
    parser.add_argument(
        "--layers", action="store_true", help="time every instruction of the plan instead"
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="measure refnet's peak memory instead, in a fresh process for every network",
    )
    parser.add_argument(
        "--startup",
        action="store_true",
        help="measure fresh processes instead, from their start to the first result: importing, reading "
        "weights, one image; in turn with those of --peers that read ONNX, after an uncounted round",
    )
    add_json(parser)
    parser.add_argument("--plot", metavar="OUT.png", help="draw the ratios")
    add_overwrite(parser, "OUT.png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_new([arguments.plot], overwrite=arguments.overwrite)
    if arguments.photos or arguments.video:
        _warn()
        return _print_media(arguments)
    if not arguments.networks:
        raise OptionError("name a network, such as `refnet bench lffd-face-v2`, or --photos DIR")
    graphs = {label: read_graph(label) for label in arguments.networks}
    if arguments.threads == 1:
        pin()
    if not arguments.memory:
        _warn()
    if arguments.layers:
        _print_layers(graphs, arguments.seconds)
    elif arguments.memory:
        _print_memory(_chosen(graphs), arguments)
    elif arguments.startup:
        _print_startup(_chosen(graphs), arguments)
    else:
        _print_times(graphs, arguments)
    return 0


def _warn() -> None:
    """Say, on standard error, that the machine is busy, where it is."""
    if sentence := quiet.warning(quiet.others()):
        print(f"refnet: {sentence}", file=sys.stderr, flush=True)


def _print_spread(rows: Sequence[Result] | Sequence[Startup]) -> None:
    print(f"refnet: {quiet.spread((r.p10, r.p90) for r in rows)}", file=sys.stderr)


def _chosen(graphs: Mapping[str, Graph]) -> dict[str, tuple[str, dict[str, Any]]]:
    """{label: (network, options)}, which fresh processes make again.

    Raises:
        OptionError: a network is a file's own.
    """
    for label, graph in graphs.items():
        if graph.name not in NETWORKS:
            raise OptionError(f"--memory and --startup measure networks with a name, not {label}")
    return {label: (graph.name, dict(graph.options)) for label, graph in graphs.items()}


def _print_media(arguments: argparse.Namespace) -> int:
    """Print how long photos or a video take from files to faces."""
    if arguments.threads == 1:
        pin()
    if arguments.photos and (arguments.peers or arguments.long_side):
        return _print_photos(arguments)
    analyzer = FaceAnalyzer(threads=arguments.threads)
    tracker = TimedTracker(analyzer)
    sources = find_sources([arguments.photos or arguments.video])
    result = measure_media(
        *(sources, analyzer, tracker),
        seconds=arguments.seconds,
        ahead=bool(arguments.video) and arguments.threads > 1,
    )
    if arguments.json:
        print_json(dataclasses.asdict(result))
        return 0
    print(
        f"{result.images} images, {result.faces} faces: {result.per_second:.1f} images a second; "
        f"an image takes {result.read:.1f} ms to read and {result.analyze:.1f} ms to analyze (medians)"
    )
    if result.stages:
        parts = ", ".join(f"{stage} {spent:.2f}" for stage, spent in result.stages.items())
        print(f"milliseconds of a frame (means): {parts}")
    return 0


def _print_photos(arguments: argparse.Namespace) -> int:
    """Print how long photos take from files to boxes, here and with other detectors."""
    sources = find_sources([arguments.photos])
    paths = [Path(source.path) for source in sources if source.kind == "image"]
    one_scale = (1.0,) if arguments.long_side else None
    detector = FaceDetector(threads=arguments.threads, scales=one_scale)
    analyzer = FaceAnalyzer(detector, threads=arguments.threads)
    engines: dict[str, Engine] = {
        "refnet": lambda image: len(detector(image)),
        "refnet, with landmarks": lambda image: len(analyzer(image)),
    }
    for file in _peers(arguments):
        engines[Path(file).stem] = peer(Path(file), arguments.threads)
    results = measure_photos(paths, engines, long_side=arguments.long_side)
    if arguments.json:
        for own in results:
            print_json({**dataclasses.asdict(own), "total": own.total})
        return 0
    print(f"{results[0].photos} photos of {results[0].shapes} shapes, milliseconds a photo (means)")
    print(
        f"{'engine':24} {'read':>7} {'find':>7} {'total':>7} {'p10':>5} {'p90':>5} {'ratio':>6} {'faces':>6}"
    )
    for r in results:
        print(
            f"{r.engine:24} {r.read:7.2f} {r.find:7.2f} {r.total:7.2f} {r.p10:5.2f} {r.p90:5.2f} "
            f"{r.ratio:6.2f} {r.faces:6}"
        )
    return 0


def _print_layers(graphs: Mapping[str, Graph], seconds: float) -> None:
    for label, graph in graphs.items():
        rows = layers(graph, seconds=seconds)
        total = sum(row[3] for row in rows)
        print(f"{label}: {total / 1e3:.3f} ms in {len(rows)} instructions")
        for name, kernel, note, micros in rows:
            print(f"{micros:10.1f} us {micros / total:6.1%}  {kernel:15} {name}: {note}")


def _print_memory(
    chosen: Mapping[str, tuple[str, dict[str, Any]]], arguments: argparse.Namespace
) -> None:
    rows = []
    for label, (name, options) in chosen.items():
        before, peak = peak_memory(name, options, batch=arguments.batch, threads=arguments.threads)
        rows.append({"network": label, "before": before, "peak": peak})
    if arguments.json:
        for row in rows:
            print_json(row)
        return
    print(f"{'network':30} {'peak MB':>9} {'MB of it before the network is made':>37}")
    for row in rows:
        print(f"{row['network']:30} {row['peak']:9.1f} {row['before']:37.1f}")


def _print_startup(
    chosen: Mapping[str, tuple[str, dict[str, Any]]], arguments: argparse.Namespace
) -> None:
    rows = []
    for label, (name, options) in chosen.items():
        rows += startup(
            name,
            options,
            threads=arguments.threads,
            peers=_peers(arguments),
            seconds=arguments.seconds,
            label=label,
        )
    if arguments.json:
        for r in rows:
            print_json(dataclasses.asdict(r))
        _print_spread(rows)
        return
    print(f"{'network':30} {'engine':12} {'median ms':>10} {'p10':>9} {'p90':>9} {'ratio':>6}")
    for r in rows:
        print(
            f"{r.network:30} {r.engine:12} {r.median:10.1f} {r.p10:9.1f} {r.p90:9.1f} {r.ratio:6.2f}"
        )
    _print_spread(rows)


def _peers(arguments: argparse.Namespace) -> list[str]:
    return [peer for peer in arguments.peers.split(",") if peer]


def _print_times(graphs: Mapping[str, Graph], arguments: argparse.Namespace) -> None:
    results: list[Result] = []
    if not arguments.json:
        print(HEADER)
    for label, graph in graphs.items():
        made = measure(
            graph,
            batch=arguments.batch,
            threads=arguments.threads,
            peers=_peers(arguments),
            seconds=arguments.seconds,
            label=label,
        )
        results += made
        # A file in a folder far away would push the figures off the screen.
        shown = label.rpartition("/")[2]
        for r in made if not arguments.json else ():
            print(
                f"{shown:36} {r.batch:5} {r.engine:12} {r.median:10.3f} {r.p10:9.3f} {r.p90:9.3f} "
                f"{r.gflops:8.1f} {r.peak_share:6.1%} {r.ratio:6.2f} {r.error:11.1e}",
                flush=True,
            )
        if len(made) > 2 and not arguments.json:
            best = min(made[1:], key=lambda r: r.median)
            print(f"{shown:36} best of the others: {best.engine}, {best.ratio:.2f}", flush=True)
    if arguments.plot:
        plot(results, Path(arguments.plot))
    if arguments.json:
        for r in results:
            print_json(dataclasses.asdict(r))
    _print_spread(results)
