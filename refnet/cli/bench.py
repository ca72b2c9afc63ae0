"""`refnet bench`: how fast networks run here, and next to other engines."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refnet.benchmark import PEERS, Result, layers, measure, peak_memory, pin, plot, startup
from refnet.cli.arguments import add_options, parse_options
from refnet.graph import Graph
from refnet.networks import build

HEADER = (
    f"{'network':30} {'batch':>5} {'engine':12} {'median ms':>10} {'p10':>9} {'p90':>9} "
    f"{'GFLOP/s':>8} {'peak':>6} {'ratio':>6} {'difference':>11}"
)


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure how fast networks run here",
        description="Time networks with seeded weights: milliseconds a run, GFLOP/s, share of the core's "
        "peak, measured in turn with other engines in one process. Ratio is an engine's median over "
        "refnet's: above 1, refnet is faster.",
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="as `refnet models` lists; options of one network follow it: "
        "pfld-ultralight:width=0.25,input_size=96",
    )
    parser.add_argument("--peers", default="", help=f"comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=1, help="1 also pins the process to one core"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each network")
    parser.add_argument("--layers", action="store_true", help="time every step of the plan instead")
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the ratios")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    chosen = {label: _chosen(label, arguments.option) for label in arguments.networks}
    graphs = {label: build(name, **options) for label, (name, options) in chosen.items()}
    if arguments.threads == 1:
        pin()
    if arguments.layers:
        _print_layers(graphs, arguments.seconds)
    elif arguments.memory:
        _print_memory(chosen, arguments)
    elif arguments.startup:
        _print_startup(chosen, arguments)
    else:
        _print_times(graphs, arguments)
    return 0


def _chosen(label: str, pairs: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The network and the options of "NETWORK:KEY=VALUE,KEY=VALUE"; its own go before --option."""
    name, _, own = label.partition(":")
    return name, parse_options([*pairs, *filter(None, own.split(","))])


def _print_layers(graphs: Mapping[str, Graph], seconds: float) -> None:
    for label, graph in graphs.items():
        rows = layers(graph, seconds=seconds)
        total = sum(row[3] for row in rows)
        print(f"{label}: {total / 1e3:.3f} ms in {len(rows)} steps")
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
        print(json.dumps(rows, indent=2))
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
        print(json.dumps([dataclasses.asdict(r) for r in rows], indent=2))
        return
    print(f"{'network':30} {'engine':12} {'median ms':>10} {'p10':>9} {'p90':>9} {'ratio':>6}")
    for r in rows:
        print(
            f"{r.network:30} {r.engine:12} {r.median:10.1f} {r.p10:9.1f} {r.p90:9.1f} {r.ratio:6.2f}"
        )


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
        for r in made if not arguments.json else ():
            print(
                f"{r.network:30} {r.batch:5} {r.engine:12} {r.median:10.3f} {r.p10:9.3f} {r.p90:9.3f} "
                f"{r.gflops:8.1f} {r.peak_share:6.1%} {r.ratio:6.2f} {r.error:11.1e}",
                flush=True,
            )
    if arguments.plot:
        plot(results, Path(arguments.plot))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(r) for r in results], indent=2))
