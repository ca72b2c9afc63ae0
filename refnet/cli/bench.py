"""`refnet bench`: how fast networks run here, and next to other engines."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from refnet.benchmark import PEERS, Result, layers, measure, pin, plot
from refnet.cli.arguments import add_options, parse_options
from refnet.networks import build

HEADER = (
    f"{'network':22} {'batch':>5} {'engine':12} {'median ms':>10} {'p10':>9} {'p90':>9} "
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
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="as `refnet models` lists")
    parser.add_argument("--peers", default="", help=f"comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=1, help="1 also pins the process to one core"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each network")
    parser.add_argument("--layers", action="store_true", help="time every step of the plan instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the ratios")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    options = parse_options(arguments.option)
    graphs = [build(name, **options) for name in arguments.networks]
    if arguments.threads == 1:
        pin()
    if arguments.layers:
        for graph in graphs:
            rows = layers(graph, seconds=arguments.seconds)
            total = sum(row[3] for row in rows)
            print(f"{graph.name}: {total / 1e3:.3f} ms in {len(rows)} steps")
            for name, kernel, note, micros in rows:
                print(f"{micros:10.1f} us {micros / total:6.1%}  {kernel:15} {name}: {note}")
        return 0
    peers = [peer for peer in arguments.peers.split(",") if peer]
    results: list[Result] = []
    if not arguments.json:
        print(HEADER)
    for graph in graphs:
        made = measure(
            graph,
            batch=arguments.batch,
            threads=arguments.threads,
            peers=peers,
            seconds=arguments.seconds,
        )
        results += made
        for r in made if not arguments.json else ():
            print(
                f"{r.network:22} {r.batch:5} {r.engine:12} {r.median:10.3f} {r.p10:9.3f} {r.p90:9.3f} "
                f"{r.gflops:8.1f} {r.peak_share:6.1%} {r.ratio:6.2f} {r.error:11.1e}"
            )
    if arguments.plot:
        plot(results, Path(arguments.plot))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(r) for r in results], indent=2))
    return 0
